"""
Forgetting runs. What might go is found without a lock. Then it is locked with its descendants and forks, in run order, and
judged anew: it goes or stays whole. Inbox, attempts and blobs go with their run by themselves (``ON DELETE CASCADE``).

Nothing new can begin to count on a run that is locked so: a child needs a parent at work, and a fork has to lock what it forks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everstep.records import RunKey, Status
from everstep.stores.postgres import rows
from everstep.stores.postgres.pool import Tx
from everstep.stores.pruning import Candidate, Look, Place, Pruned, PruneRequest, Verdict, judge, tally

_ENDED: Final = f"""
SELECT runs.created_at, runs.run_key FROM everstep.runs {rows.HEAD}
WHERE runs.worker_key IS NULL AND runs.status = ANY($1::text[]) AND head.at < $2
  AND (runs.created_at, runs.run_key) < ($3::int8, $4::int8)
ORDER BY runs.created_at DESC, runs.run_key DESC LIMIT $5
"""  # noqa: S608  # names of columns
_NEWEST: Final[Place] = (2**63 - 1, 2**63 - 1)
_FAMILY: Final = """
WITH RECURSIVE family(run_key) AS (
    SELECT unnest($1::int8[])
    UNION SELECT younger.run_key FROM family CROSS JOIN LATERAL (
        SELECT runs.run_key FROM everstep.runs WHERE runs.parent_key = family.run_key
        UNION ALL SELECT runs.run_key FROM everstep.runs WHERE runs.forked_from = family.run_key) AS younger
)
SELECT run_key FROM family
"""
_LOCK: Final = "SELECT run_key FROM everstep.runs WHERE run_key = ANY($1::int8[]) ORDER BY run_key FOR UPDATE"
_LOOK: Final = f"""
SELECT runs.run_key, CASE WHEN runs.worker_key IS NULL THEN runs.status ELSE 'running' END, head.at, head.version,
       CASE WHEN parents.worker_key IS NULL THEN parents.status ELSE 'running' END,
       ARRAY(SELECT children.run_key FROM everstep.runs AS children WHERE children.parent_key = runs.run_key),
       ARRAY(SELECT forks.run_key FROM everstep.runs AS forks WHERE forks.forked_from = runs.run_key)
FROM everstep.runs {rows.HEAD} LEFT JOIN everstep.runs AS parents ON parents.run_key = runs.parent_key
WHERE runs.run_key = ANY($1::int8[])
"""  # noqa: S608
_DROP_JOURNAL: Final = "DELETE FROM everstep.journal WHERE run_key = ANY($1::int8[])"
_DROP_RUNS: Final = "DELETE FROM everstep.runs WHERE run_key = ANY($1::int8[])"


async def places(tx: Tx, request: PruneRequest) -> list[Place]:
    """Runs that may be meant, newest first."""
    statuses = [status.value for status in request.statuses]
    found = await tx.fetch(_ENDED, statuses, request.ended_before, *(request.after or _NEWEST), request.limit)
    return [(created_at, run_key) for created_at, run_key in found]


async def foresee(tx: Tx, request: PruneRequest, found: Sequence[Place]) -> Pruned:
    """What would become of them."""
    verdicts, _ = await _judge(tx, request, found, await _family(tx, found))
    return tally(verdicts, request, _following(request, found))


async def prune(tx: Tx, request: PruneRequest, found: Sequence[Place]) -> Pruned:
    """Forget those among them that may go."""
    locked = [run_key for (run_key,) in await tx.fetch(_LOCK, await _family(tx, found))]
    verdicts, gone = await _judge(tx, request, found, locked)
    await tx.fetch(_DROP_JOURNAL, gone)
    await tx.fetch(_DROP_RUNS, gone)
    return tally(verdicts, request, _following(request, found))


async def _judge(
    tx: Tx, request: PruneRequest, found: Sequence[Place], family: Sequence[RunKey]
) -> tuple[list[Verdict], list[RunKey]]:
    """What becomes of each, in order, and all that goes. What went with one of them is not there for the next."""
    seen = {each[0]: _candidate(*each) for each in await tx.fetch(_LOOK, family)}
    look: Look = seen.get
    verdicts: list[Verdict] = []
    gone: list[RunKey] = []
    for _, run_key in found:
        verdicts.append(judge(run_key, request, look))
        if isinstance(verdicts[-1], list) and not request.dry_run:
            gone += [run.run_key for run in verdicts[-1] if seen.pop(run.run_key, None)]
    return verdicts, gone


async def _family(tx: Tx, found: Sequence[Place]) -> list[RunKey]:
    return [run_key for (run_key,) in await tx.fetch(_FAMILY, [run_key for _, run_key in found])]


def _following(request: PruneRequest, found: Sequence[Place]) -> Place | None:
    return found[-1] if len(found) == request.limit else None


def _candidate(
    run_key: RunKey,
    status: str,
    ended_at: int,
    version: int,
    parent_status: str | None,
    children: Sequence[RunKey],
    forks: Sequence[RunKey],
) -> Candidate:
    return Candidate(
        run_key=run_key,
        status=Status(status),
        ended_at=ended_at,
        entry_count=version,
        parent_status=None if parent_status is None else Status(parent_status),
        children=children,
        forks=forks,
    )
