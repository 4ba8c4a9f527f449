"""
Runs that are created queued, and messages from outside: what clients write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everstep.records import Message, Micros, RunKey, RunRecord
from everstep.stores import rules
from everstep.stores.base import Created, Exists, NewRun
from everstep.stores.postgres import read, workers
from everstep.stores.postgres.book import Book, Page
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.pool import Tx

# The lock comes first: what is then read of the row is its newest version, and so is the number of the message.
_POST: Final = f"""
WITH run AS MATERIALIZED (
    SELECT run_key, status, worker_key, wake_at, inbox_seq FROM everstep.runs WHERE run_id = $2 FOR NO KEY UPDATE
),
accepted AS (
    INSERT INTO everstep.inbox(run_key, seq, at, dedupe, event)
    SELECT run_key, inbox_seq + 1, {NOW}, $3, $4 FROM run WHERE status NOT IN ('succeeded', 'cancelled', 'failed', 'dead')
    ON CONFLICT (run_key, dedupe) WHERE dedupe <> '' DO NOTHING RETURNING run_key, seq, at
),
woken AS (
    UPDATE everstep.runs SET inbox_seq = accepted.seq,
        wake_at = CASE WHEN run.worker_key IS NOT NULL OR run.status = 'paused' THEN run.wake_at
                  ELSE least(run.wake_at, accepted.at) END
    FROM run, accepted WHERE runs.run_key = run.run_key RETURNING runs.wake_at IS DISTINCT FROM run.wake_at AS is_due
)
SELECT pg_notify($5::text, $6::text), is_due FROM woken
"""  # noqa: S608


# Two statements: what the second one sees is what was committed when the lock was ours.
_LOCK_FORKED: Final = "SELECT run_key FROM everstep.runs WHERE run_key = $1 FOR KEY SHARE"
_ANCHOR: Final = "SELECT version FROM everstep.anchors WHERE run_key = $1"
_TWINS: Final = """
SELECT run_key, queue, dedupe FROM everstep.runs
WHERE (queue, dedupe) IN (SELECT * FROM unnest($1::text[], $2::text[])) AND dedupe IS NOT NULL
"""


async def create(tx: Tx, runs: Sequence[NewRun], given: Micros | None) -> list[Created | Exists]:
    """Create queued runs, in one transaction."""
    existing = await read.runs_by_id(tx, [new.run_id for new in runs])
    twins = await _twins(tx, runs)
    book = Book(tx, await workers.time_of(tx, given))
    born: dict[str, Page] = {}
    heirs: dict[tuple[str, str], Page] = {}
    answers: list[Page | RunRecord] = []
    is_first: list[bool] = []
    for new in runs:
        place = (new.queue, new.queue_key) if _dedupes(new) else None
        found = existing.get(new.run_id) or born.get(new.run_id) or (place and (twins.get(place) or heirs.get(place)))
        is_first.append(not found)
        if not found and new.forked_from is not None:
            rules.check_fork(new, await _trimmed(tx, new.forked_from))
        page = found or book.queue(new)
        answers.append(page)
        if isinstance(page, Page) and not found:
            born[new.run_id] = page
            if place is not None:
                heirs[place] = page
    await book.write()
    records = [answer.record if isinstance(answer, Page) else answer for answer in answers]
    return [Created(run) if first else Exists(run) for run, first in zip(records, is_first, strict=True)]


async def _twins(tx: Tx, runs: Sequence[NewRun]) -> dict[tuple[str, str], RunRecord]:
    """The runs that are already there for dedupe keys, by queue and key."""
    asked = [new for new in runs if _dedupes(new)]
    if not asked:
        return {}
    found = await tx.fetch(_TWINS, [new.queue for new in asked], [new.queue_key for new in asked])
    records = await read.runs_by_key(tx, [run_key for run_key, _, _ in found])
    return {(queue, key): records[run_key] for run_key, queue, key in found if run_key in records}


def _dedupes(new: NewRun) -> bool:
    return bool(new.dedupes and new.queue and new.queue_key)


async def _trimmed(tx: Tx, run_key: RunKey) -> int | None:
    """How far a run was trimmed; None if it is not there. From here on it stays as it is."""
    if not await tx.fetch(_LOCK_FORKED, run_key):
        return None
    found = await tx.fetch(_ANCHOR, run_key)
    return found[0][0] if found else 0


async def post(tx: Tx, run_id: str, message: Message, given: Micros | None, channel: str, sender: str) -> bool:
    """Put a message into a run's inbox, if there is such a run and it takes one; whether that made it due.

    The run's row is locked from here on.
    """
    accepted = await tx.fetch(_POST, given, run_id, message.dedupe, message.event.decode(), channel, sender)
    return any(is_due for _, is_due in accepted)
