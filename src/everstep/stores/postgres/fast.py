"""
Landing in one statement, which is a transaction by itself: one message there, one back, one sync of the log for all.

``lean`` is for entries in the middle of their runs, and only inserts. The fence is made of two looks and an index: the run's
row must name this owner and epoch, the entry before must be there, and (run_key, version) is unique. A statement sees the
database as it was when it began; whoever claims the run in between has put an entry of its own at exactly this version, so ours
collides with it, and what a zombie writes after that has no place either: the entry before it is not of its epoch.

``full`` also takes what begins and ends runs, gives them back, consumes messages and keeps attempts. Every row beside the
journal is made from what the insert returned. Rows of ``runs`` that change are locked first, in run order, before the insert;
one that somebody else holds is skipped. A child that ends is not for here, since its parent has to be told: it, and everything
after it that might depend on the telling, is left over. An entry with blobs is not for here either.

Neither says why an entry did not land. ``careful`` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, TypeGuard

from everstep.records import AttemptRecord, Micros, RunKey, Status
from everstep.stores import rules
from everstep.stores.base import Append, Write
from everstep.stores.postgres import rows
from everstep.stores.postgres.book import columns
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.pool import Tx

_LEAN: Final = f"""
INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
SELECT it.run_key, version, epoch, at, cursor, drained, status, step, hash, events
FROM unnest($2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::bool[], $8::text[], $9::text[], $10::bytea[],
            $11::text[], $12::int8[], $13::int8[])
     AS it(run_key, version, epoch, at, cursor, drained, status, step, hash, events, worker_key, not_before)
WHERE (SELECT runs.epoch = it.epoch AND runs.worker_key = it.worker_key FROM everstep.runs WHERE runs.run_key = it.run_key)
  AND (SELECT true FROM everstep.journal WHERE journal.run_key = it.run_key AND journal.version = it.version - 1
       AND journal.epoch = it.epoch)
  AND (not_before IS NULL OR not_before <= {NOW})
ON CONFLICT DO NOTHING RETURNING run_key
"""  # noqa: S608

# The same for one entry: a lone run's every step, so without the arrays.
_ONE: Final = f"""
INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
SELECT $2::int8, $3::int8, $4::int8, $5::int8, $6::int8, $7::bool, $8::text, $9::text, $10::bytea, $11::text
WHERE (SELECT epoch = $4::int8 AND worker_key = $12::int8 FROM everstep.runs WHERE run_key = $2::int8)
  AND (SELECT true FROM everstep.journal WHERE run_key = $2::int8 AND version = $3::int8 - 1 AND epoch = $4::int8)
  AND ($13::int8 IS NULL OR $13::int8 <= {NOW})
ON CONFLICT DO NOTHING RETURNING run_key
"""  # noqa: S608

# The rows at hand are many, and a join of two such lists would be a loop in a loop. So what is known of an entry is carried
# along, and ``(… IN (SELECT …)) IS TRUE`` is asked of a hash table, which ``IN`` alone would not be.
_FULL: Final = f"""
WITH clock AS MATERIALIZED (SELECT {NOW} AS now),
it AS MATERIALIZED (
    SELECT * FROM unnest($2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::bool[], $8::text[], $9::text[],
                         $10::bytea[], $11::text[], $12::int8[], $13::int8[], $14::int4[], $15::int8[], $16::bool[],
                         $17::bool[], $18::text[], $19::int8[], $20::bool[], $21::text[], $22::text[], $23::text[],
                         $24::int8[], $25::int8[], $26::text[], $27::int8[], $28::text[])
    AS it(run_key, version, epoch, at, cursor, drained, status, step, hash, events, worker_key, not_before,
          place, consumed, frees, rests, must, wake_at, begins, run_id, workflow, code_version, max_recoveries, parent_key,
          parent_command, forked_from, pinned)
    WHERE not_before IS NULL OR not_before <= (SELECT now FROM clock)
),
held AS MATERIALIZED (
    SELECT it.*, runs.parent_key AS parent, runs.queue, runs.queue_key,
           it.must = 'never' OR runs.inbox_seq <= greatest(runs.inbox_done, it.consumed)
           OR (it.must = 'later' AND it.wake_at <= (SELECT now FROM clock)) AS may
    FROM it JOIN everstep.runs ON runs.run_key = it.run_key
    WHERE it.run_id IS NULL AND runs.worker_key = it.worker_key AND runs.epoch = it.epoch
      AND (it.frees OR it.begins OR it.consumed > runs.inbox_done)
    ORDER BY runs.run_key FOR NO KEY UPDATE OF runs SKIP LOCKED
),
alive AS MATERIALIZED (
    SELECT worker_key FROM everstep.workers
    WHERE worker_key IN (SELECT worker_key FROM it WHERE run_id IS NOT NULL) AND gone = '' FOR SHARE
),
born AS (
    INSERT INTO everstep.runs(run_key, run_id, workflow, code_version, status, epoch, worker_key, wake_at, claimed_version,
                              created_at, max_recoveries, inbox_done, parent_key, parent_command, forked_from, pinned)
    SELECT run_key, run_id, workflow, code_version, status, epoch, CASE WHEN frees THEN NULL ELSE worker_key END,
           CASE WHEN frees THEN wake_at END, 1, at, max_recoveries, consumed, parent_key, parent_command, forked_from, pinned
    FROM it WHERE run_id IS NOT NULL AND version = 1 AND (worker_key IN (SELECT worker_key FROM alive)) IS TRUE
    ORDER BY run_id ON CONFLICT DO NOTHING RETURNING run_key
),
landed AS (
    INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
    SELECT run_key, version, epoch, at, cursor, drained, status, step, hash, events FROM it
    WHERE run_id IS NOT NULL AND (run_key IN (SELECT run_key FROM born)) IS TRUE
    UNION ALL
    SELECT run_key, version, epoch, at, cursor, drained, status, step, hash, events FROM held
    WHERE may AND place < coalesce((SELECT min(place) FROM held AS child WHERE rests AND parent IS NOT NULL), 2147483647)
      AND (SELECT true FROM everstep.journal WHERE journal.run_key = held.run_key AND journal.version = held.version - 1
           AND journal.epoch = held.epoch)
    UNION ALL
    SELECT run_key, version, epoch, at, cursor, drained, status, step, hash, events FROM it
    WHERE run_id IS NULL AND NOT (frees OR begins)
      AND (SELECT runs.epoch = it.epoch AND runs.worker_key = it.worker_key AND it.consumed <= runs.inbox_done
           FROM everstep.runs WHERE runs.run_key = it.run_key)
      AND (SELECT true FROM everstep.journal WHERE journal.run_key = it.run_key AND journal.version = it.version - 1
           AND journal.epoch = it.epoch)
    ORDER BY run_key
    ON CONFLICT DO NOTHING RETURNING run_key
),
changed AS (
    UPDATE everstep.runs
    SET inbox_done = greatest(runs.inbox_done, held.consumed),
        deaths = 0,
        base = CASE WHEN held.begins THEN held.version ELSE runs.base END,
        status = CASE WHEN held.frees THEN held.status ELSE runs.status END,
        worker_key = CASE WHEN held.frees THEN NULL ELSE runs.worker_key END,
        wake_at = CASE WHEN held.frees THEN held.wake_at ELSE runs.wake_at END,
        refused_by = CASE WHEN held.rests OR held.status = 'paused' THEN '' ELSE runs.refused_by END,
        line = CASE WHEN held.rests THEN 0 ELSE runs.line END,
        admitted = runs.admitted AND NOT held.rests,
        dedupe = CASE WHEN held.rests THEN NULL ELSE runs.dedupe END
    FROM held WHERE runs.run_key = held.run_key AND (held.run_key IN (SELECT run_key FROM landed)) IS TRUE
),
passed AS (
    INSERT INTO everstep.passed(queue, queue_key) SELECT queue, queue_key FROM held
    WHERE rests AND queue_key <> '' AND (held.run_key IN (SELECT run_key FROM landed)) IS TRUE
),
settled AS (
    DELETE FROM everstep.attempts USING unnest($29::int8[], $30::text[]) AS old(run_key, key)
    WHERE attempts.run_key = old.run_key AND attempts.key = old.key AND (old.run_key IN (SELECT run_key FROM landed)) IS TRUE
),
dropped AS (
    DELETE FROM everstep.attempts USING held
    WHERE attempts.run_key = held.run_key AND held.rests AND (held.run_key IN (SELECT run_key FROM landed)) IS TRUE
),
kept AS (
    INSERT INTO everstep.attempts({rows.ATTEMPT})
    SELECT row.* FROM unnest($34::int8[], $35::text[], $36::int8[], $37::int8[], $38::int8[], $39::int8[], $40::bytea[],
                             $41::bytea[], $42::int8[]) AS row({rows.ATTEMPT})
    WHERE (row.run_key IN (SELECT run_key FROM landed)) IS TRUE
    {rows.PUT_ATTEMPT}
),
told AS MATERIALIZED (SELECT pg_notify($31::text, $32::text) WHERE $33::bool AND EXISTS (SELECT FROM landed))
SELECT landed.run_key FROM landed LEFT JOIN told ON true
"""  # noqa: S608

Effect: TypeAlias = tuple[object, ...]
_SHORT: Final = 1 << 20
"""Entries below this size, in ASCII, need no second look."""
_SOON: Final = -(1 << 62)
_LATE: Final = 1 << 62


def is_for_all(batch: Sequence[Write]) -> TypeGuard[Sequence[Append]]:
    """Whether all of these can go together in one statement: no two for one run, and nothing that tells other runs."""
    if not all(isinstance(write, Append) and _is_simple(write) for write in batch):
        return False
    appends = [write for write in batch if isinstance(write, Append)]
    ids = [write.create.run_id for write in appends if write.create is not None]
    return len({write.entry.run_key for write in appends}) == len(batch) and len(set(ids)) == len(ids)


def _is_simple(write: Append) -> bool:
    if write.children or write.posts or write.replies or write.entry.blobs or rules.known(write) > write.consumed:
        return False
    new, events = write.create, write.entry.events
    is_plain = new is None and len(events) < _SHORT and events.isascii() and b"\0" not in events
    if not is_plain and rules.objection(write):
        return False
    if new is not None and new.messages:
        return False
    if new is not None and (
        new.parent_key is not None
        or new.on_parent_close
        or new.family
        or new.queue
        or not rules.is_text(new.run_id, new.pinned)
    ):
        return False
    return not (write.status is Status.PAUSED and write.refused_by)


def is_lean(write: Append) -> bool:
    """Only its entry is to be inserted."""
    return write.create is None and not (
        rules.frees(write) or write.consumed or write.attempts or write.settled or write.begins_segment
    )


async def lean(tx: Tx, batch: Sequence[Append], given: Micros | None) -> set[RunKey]:
    """Insert entries. Returns the runs whose entries landed."""
    if len(batch) == 1:
        return {run_key for (run_key,) in await tx.fetch(_ONE, given, *_entry_values(batch[0]))}
    values = columns([_entry_values(write) for write in batch])
    return {run_key for (run_key,) in await tx.fetch(_LEAN, given, *values)}


async def full(tx: Tx, batch: Sequence[Append], given: Micros | None, channel: str, sender: str) -> set[RunKey]:
    """Insert entries, with everything that hangs on them. Returns the runs whose entries landed."""
    lines = [(*_entry_values(write), *_full_values(place, write)) for place, write in enumerate(batch)]
    values = columns(sorted(lines, key=lambda line: line[0]))  # type: ignore[arg-type,return-value]
    settled = [(write.entry.run_key, key) for write in batch for key in _settled(write)]
    kept = [rows.attempt_values(write.entry.run_key, row) for write in batch for row in _kept(write)]
    told = (channel, sender, any(map(rules.is_news, batch)))
    effects = (*_columns(settled, 2), *told, *_columns(kept, rows.ATTEMPT_COUNT))
    return {run_key for (run_key,) in await tx.fetch(_FULL, given, *values, *effects)}


def _entry_values(write: Append) -> Effect:
    entry = write.entry
    return (
        *(entry.run_key, entry.version, entry.epoch, entry.at, write.cursor, entry.drained, write.status, write.step),
        *(entry.hash, entry.events.decode(), write.worker_key, write.not_before),
    )


def _full_values(place: int, write: Append) -> Effect:
    new = write.create
    what = (
        place,
        write.consumed,
        rules.frees(write),
        write.status.is_at_rest,
        _must(write),
        rules.wake_after(write, 0),
        write.begins_segment,
    )
    if new is None:
        return (*what, None, None, None, None, None, None, None, None)
    names = (new.run_id, new.workflow, new.code_version, new.max_recoveries)
    return (*what, *names, new.parent_key, new.parent_command, new.forked_from, new.pinned)


def _must(write: Append) -> str:
    """When the inbox must be consumed to its end: never, always, or only if the run is due later than now."""
    if not rules.must_be_consumed(write, _SOON):
        return "never"
    return "always" if rules.must_be_consumed(write, _LATE) else "later"


def _settled(write: Append) -> list[str]:
    return [] if write.status.is_at_rest else sorted({*write.settled} - {each.key for each in write.attempts})


def _kept(write: Append) -> list[AttemptRecord]:
    return [] if write.status.is_at_rest else list({each.key: each for each in write.attempts}.values())


def _columns(lines: Sequence[Effect], count: int) -> list[list[object]]:
    return columns(lines) if lines else [[] for _ in range(count)]
