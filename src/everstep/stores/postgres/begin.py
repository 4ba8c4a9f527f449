"""
Runs that are created queued, and messages from outside: what clients write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everstep.records import Message, Micros, RunKey
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
    FROM run, accepted WHERE runs.run_key = run.run_key RETURNING runs.run_key
)
SELECT pg_notify($5::text, $6::text) FROM woken
"""  # noqa: S608


# Two statements: what the second one sees is what was committed when the lock was ours.
_LOCK_FORKED: Final = "SELECT run_key FROM everstep.runs WHERE run_key = $1 FOR KEY SHARE"
_ANCHOR: Final = "SELECT version FROM everstep.anchors WHERE run_key = $1"


async def create(tx: Tx, runs: Sequence[NewRun], given: Micros | None) -> list[Created | Exists]:
    """Create queued runs, in one transaction."""
    existing = await read.runs_by_id(tx, [new.run_id for new in runs])
    book = Book(tx, await workers.time_of(tx, given))
    born: dict[str, Page] = {}
    is_first: list[bool] = []
    for new in runs:
        is_first.append(new.run_id not in existing and new.run_id not in born)
        if is_first[-1]:
            if new.forked_from is not None:
                rules.check_fork(new, await _trimmed(tx, new.forked_from))
            born[new.run_id] = book.queue(new)
    await book.write()
    return [
        Created(born[new.run_id].record) if first else Exists(existing.get(new.run_id) or born[new.run_id].record)
        for new, first in zip(runs, is_first, strict=True)
    ]


async def _trimmed(tx: Tx, run_key: RunKey) -> int | None:
    """How far a run was trimmed; None if it is not there. From here on it stays as it is."""
    if not await tx.fetch(_LOCK_FORKED, run_key):
        return None
    found = await tx.fetch(_ANCHOR, run_key)
    return found[0][0] if found else 0


async def post(tx: Tx, run_id: str, message: Message, given: Micros | None, channel: str, sender: str) -> None:
    """Put a message into a run's inbox, if there is such a run and it takes one."""
    await tx.fetch(_POST, given, run_id, message.dedupe, message.event.decode(), channel, sender)
