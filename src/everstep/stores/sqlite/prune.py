"""
Forgetting runs. What might go is found on the reader's connection; each is judged again under the write lock, and goes or stays
whole. The inbox and the rows of attempts go with their run by themselves (``ON DELETE CASCADE``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from everstep.records import RunKey, Status
from everstep.stores.pruning import Candidate, Place, Pruned, PruneRequest, Verdict, judge, tally
from everstep.stores.sqlite.ask import Ask
from everstep.stores.sqlite.transaction import Tx

_ENDED: Final = """
SELECT created_at, run_key FROM runs
WHERE status IN (SELECT value FROM json_each(?1)) AND updated_at < ?2 AND (created_at, run_key) < (?3, ?4)
ORDER BY created_at DESC, run_key DESC LIMIT ?5
"""
_NEWEST: Final[Place] = (2**63 - 1, 2**63 - 1)
_LOOK: Final = """
SELECT status, updated_at, version, (SELECT status FROM runs AS parents WHERE parents.run_key = runs.parent_key)
FROM runs WHERE run_key = ?
"""
_CHILDREN: Final = "SELECT run_key FROM runs WHERE parent_key = ?"
_FORKS: Final = "SELECT run_key FROM runs WHERE forked_from = ?"
_DROP_JOURNAL: Final = """
WITH RECURSIVE chain(id, prev) AS (
    SELECT journal.id, journal.prev FROM runs JOIN journal ON journal.id = runs.head WHERE runs.run_key = ?1
    UNION ALL
    SELECT journal.id, journal.prev FROM chain JOIN journal ON journal.id = chain.prev AND journal.id < chain.id
)
DELETE FROM journal WHERE id IN (SELECT id FROM chain) AND run_key = ?1
"""
_DROP_RUN: Final = "DELETE FROM runs WHERE run_key = ?"


def places(ask: Ask, request: PruneRequest) -> list[Place]:
    """Runs that may be meant, newest first."""
    statuses = msgspec.json.encode(request.statuses).decode()
    created_at, run_key = _NEWEST if request.after is None else request.after
    rows = ask(_ENDED, (statuses, request.ended_before, created_at, run_key, request.limit))
    return [(created_at, run_key) for created_at, run_key in rows]


def foresee(ask: Ask, request: PruneRequest, found: list[Place]) -> Pruned:
    """What would become of them."""
    verdicts = [judge(run_key, request, lambda key: _look(ask, key)) for _, run_key in found]
    return tally(verdicts, request, _following(request, found))


def prune(tx: Tx, request: PruneRequest, found: list[Place]) -> Pruned:
    """Forget those among them that may go."""
    return tally([_prune(tx, request, run_key) for _, run_key in found], request, _following(request, found))


def _prune(tx: Tx, request: PruneRequest, run_key: RunKey) -> Verdict:
    verdict = judge(run_key, request, lambda key: _look(tx.ask, key))
    if isinstance(verdict, list):
        for run in verdict:
            tx.execute(_DROP_JOURNAL, (run.run_key,))
            tx.execute(_DROP_RUN, (run.run_key,))
    return verdict


def _following(request: PruneRequest, found: list[Place]) -> Place | None:
    return found[-1] if len(found) == request.limit else None


def _look(ask: Ask, run_key: RunKey) -> Candidate | None:
    row = ask(_LOOK, (run_key,)).fetchone()
    if row is None:
        return None
    status, ended_at, version, parent_status = row
    return Candidate(
        run_key=run_key,
        status=Status(status),
        ended_at=ended_at,
        entry_count=version,
        parent_status=None if parent_status is None else Status(parent_status),
        children=[key for (key,) in ask(_CHILDREN, (run_key,))],
        forks=[key for (key,) in ask(_FORKS, (run_key,))],
    )
