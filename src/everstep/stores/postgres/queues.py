"""
Queues: their settings, what they have left for a worker, and who passes a place on.

As in SQLite (``everstep.stores.sqlite.queues``), ``runs.line`` says where a run stands: 1 in line, 2 put aside because a claim
had no room for its key, 0 otherwise; ``runs.admitted`` whether it is in progress. What is decided about a queue that workers
share is decided under the lock of its row, which is not waited for: another claimer is at it.

Whoever leaves the place of a key does not look for the next: a claim that is just putting that one aside could not be seen. He
leaves a note in ``passed``, and the next claim of that queue, under its lock, lets the next one of the key back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from everstep.limits import Limits, QueueChange, QueueRecord, changed
from everstep.records import Micros, RunKey, WorkerKey
from everstep.stores import queueing
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.link import Row
from everstep.stores.postgres.pool import Tx
from everstep.stores.rules import Candidate

_QUEUE: Final = "name, declared, changed, changed_by, changed_why, is_paused, paused_by, paused_why"
_QUEUES: Final = f"SELECT {_QUEUE} FROM everstep.queues ORDER BY name"  # noqa: S608  # names of columns
_KNOW: Final = """
INSERT INTO everstep.queues(name) SELECT name FROM unnest($1::text[]) AS it(name)
WHERE NOT EXISTS (SELECT FROM everstep.queues WHERE queues.name = it.name) ORDER BY name ON CONFLICT DO NOTHING
"""
_ONE_QUEUE: Final = f"SELECT {_QUEUE} FROM everstep.queues WHERE name = $1 FOR NO KEY UPDATE"  # noqa: S608
_PUT_QUEUE: Final = """
UPDATE everstep.queues SET declared = $2, changed = $3, changed_by = $4, changed_why = $5, is_paused = $6, paused_by = $7,
                           paused_why = $8
WHERE name = $1
"""
_LET_ALL_BACK: Final = "UPDATE everstep.runs SET line = 1 WHERE queue = $1 AND line = 2"

COUNTS: Final = f"""
SELECT it.name,
       CASE WHEN concurrency IS NULL THEN 0 ELSE (SELECT count(*) FROM (
           SELECT FROM everstep.runs WHERE queue = it.name AND admitted LIMIT it.concurrency) AS held) END,
       CASE WHEN per_worker THEN (SELECT count(*) FROM everstep.runs
           WHERE worker_key = $2 AND worker_key IS NOT NULL AND queue = it.name) ELSE 0 END,
       CASE WHEN past IS NULL THEN '{{}}' ELSE ARRAY(
           SELECT at FROM everstep.admissions WHERE queue = it.name AND at > {NOW} - past ORDER BY at) END,
       EXISTS (SELECT FROM everstep.passed WHERE queue = it.name),
       EXISTS (SELECT FROM everstep.runs WHERE queue = it.name AND line = 1)
FROM unnest($3::text[], $4::int8[], $5::bool[], $6::int8[]) AS it(name, concurrency, per_worker, past)
"""  # noqa: S608
_LENGTHS: Final = f"""
SELECT name,
       (SELECT count(*) FROM (SELECT FROM everstep.runs WHERE queue = name AND line = 1 LIMIT $2) AS line)
       + (SELECT count(*) FROM (SELECT FROM everstep.runs WHERE queue = name AND line = 2 LIMIT $2) AS line),
       (SELECT count(*) FROM (SELECT FROM everstep.runs WHERE queue = name AND admitted LIMIT $2) AS held),
       CASE WHEN past IS NULL THEN '{{}}' ELSE ARRAY(
           SELECT at FROM everstep.admissions WHERE queue = name AND at > {NOW} - past ORDER BY at) END
FROM unnest($3::text[], $4::int8[]) AS it(name, past)
"""  # noqa: S608

# Only who decides about a shared queue need be alone with it; a change waits for all.
_LOCK_SHARED: Final = (
    "SELECT name FROM everstep.queues WHERE name = ANY($1::text[]) ORDER BY name FOR NO KEY UPDATE SKIP LOCKED"
)
_LOCK_OTHERS: Final = "SELECT name FROM everstep.queues WHERE name = ANY($1::text[]) ORDER BY name FOR SHARE SKIP LOCKED"

# One line for each priority that somebody in it has: a few looks into the index, however long the lines are.
_LINES: Final = """
FROM unnest($1::text[], $2::text[], $3::text[]) AS asked(queue, workflow, version)
CROSS JOIN LATERAL (
    WITH RECURSIVE levels(priority) AS (
        (SELECT priority FROM everstep.runs
         WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND line = 1
         ORDER BY priority LIMIT 1)
        UNION ALL
        SELECT (SELECT runs.priority FROM everstep.runs
                WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND line = 1
                AND runs.priority > levels.priority ORDER BY runs.priority LIMIT 1)
        FROM levels WHERE levels.priority IS NOT NULL)
    SELECT priority FROM levels WHERE priority IS NOT NULL) AS level
"""
DUE_IN_LINE: Final = f"""
SELECT asked.queue, level.priority, it.* {_LINES} CROSS JOIN LATERAL (
    SELECT wake_at, run_key, queue_key, deaths, max_recoveries FROM everstep.runs
    WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND line = 1
      AND priority = level.priority AND wake_at <= $4
      AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5)
    ORDER BY wake_at, run_key LIMIT $6 FOR NO KEY UPDATE SKIP LOCKED) AS it
"""  # noqa: S608
FIRST_IN_LINE: Final = f"""
SELECT asked.queue, min(it.wake_at) {_LINES} CROSS JOIN LATERAL (
    SELECT wake_at FROM everstep.runs
    WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND line = 1
      AND priority = level.priority AND wake_at IS NOT NULL AND run_key <> ALL($4::int8[])
      AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5)
    ORDER BY wake_at LIMIT 1) AS it
GROUP BY asked.queue
"""  # noqa: S608
# A place of which the note has not been picked up counts as held: who was put aside for it comes before whoever is in line.
_HELD: Final = """
SELECT it.queue, it.queue_key,
       (SELECT count(*) FROM everstep.runs WHERE runs.queue = it.queue AND runs.queue_key = it.queue_key AND admitted)
       + (SELECT count(*) FROM everstep.passed WHERE passed.queue = it.queue AND passed.queue_key = it.queue_key)
FROM unnest($1::text[], $2::text[]) AS it(queue, queue_key)
"""

_ADMIT: Final = "UPDATE everstep.runs SET line = 0, admitted = true WHERE run_key = ANY($1::int8[])"
_NOTE: Final = """
WITH old AS (DELETE FROM everstep.admissions USING unnest($4::text[], $5::int8[]) AS it(queue, until)
             WHERE admissions.queue = it.queue AND admissions.at <= it.until)
INSERT INTO everstep.admissions(queue, at, run_key) SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[])
"""
_PUT_ASIDE: Final = "UPDATE everstep.runs SET line = 2 WHERE run_key = ANY($1::int8[])"
_LEAVE: Final = """
WITH gone AS (UPDATE everstep.runs SET line = 0, admitted = false, dedupe = NULL WHERE run_key = ANY($1::int8[])
              RETURNING queue, queue_key)
INSERT INTO everstep.passed(queue, queue_key) SELECT queue, queue_key FROM gone WHERE queue_key <> ''
"""
_STAND_ASIDE: Final = """
WITH moved AS (UPDATE everstep.runs SET line = 1 WHERE run_key = ANY($1::int8[]) AND NOT admitted
               RETURNING queue, queue_key, wake_at)
INSERT INTO everstep.passed(queue, queue_key) SELECT queue, queue_key FROM moved WHERE queue_key <> '' AND wake_at IS NULL
"""
_PICK_UP: Final = """
WITH gone AS (
    DELETE FROM everstep.passed WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM everstep.passed WHERE queue = ANY($1::text[]) LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING queue, queue_key)
SELECT queue, queue_key, count(*) FROM gone GROUP BY queue, queue_key
"""
_LET_BACK: Final = """
UPDATE everstep.runs SET line = 1 WHERE run_key IN (
    SELECT next.run_key FROM unnest($1::text[], $2::text[], $3::int8[]) AS it(queue, queue_key, count)
    CROSS JOIN LATERAL (
        SELECT run_key FROM everstep.runs WHERE queue = it.queue AND queue_key = it.queue_key AND line = 2
        ORDER BY priority, wake_at, run_key LIMIT it.count FOR NO KEY UPDATE SKIP LOCKED) AS next)
RETURNING queue, queue_key
"""
# Those that a user's transaction holds just now.
_STILL_ASIDE: Final = """
INSERT INTO everstep.passed(queue, queue_key)
SELECT it.queue, it.queue_key FROM unnest($1::text[], $2::text[], $3::int8[]) AS it(queue, queue_key, count)
CROSS JOIN LATERAL (SELECT FROM everstep.runs WHERE runs.queue = it.queue AND runs.queue_key = it.queue_key AND line = 2
                    LIMIT it.count) AS left_over
"""
PICKED_UP_MAX: Final = 1000


# --- settings ---------------------------------------------------------------------------------------------------------------


async def know(tx: Tx, names: Iterable[str]) -> None:
    """There are queues of these names."""
    await tx.fetch(_KNOW, sorted({*names}))


async def configure(tx: Tx, change: QueueChange) -> QueueRecord:
    """Change a queue, in this transaction, and return it as it then is."""
    await know(tx, [change.name])
    before = _queue_of(await tx.one(_ONE_QUEUE, change.name))
    after = changed(before, change)
    limits = (_text(after.declared), _text(after.changed))
    why = (after.changed_by, after.changed_why, after.is_paused, after.paused_by, after.paused_why)
    await tx.fetch(_PUT_QUEUE, after.name, *limits, *why)
    if after.limits.per_key != before.limits.per_key:
        await tx.fetch(_LET_ALL_BACK, after.name)
    return after


async def settings(tx: Tx) -> list[QueueRecord]:
    """All queues, uncounted."""
    return list(map(_queue_of, await tx.fetch(_QUEUES)))


async def standings(tx: Tx, given: Micros | None) -> list[QueueRecord]:
    """All queues, and how they stand."""
    known = {queue.name: queue for queue in await settings(tx)}
    pasts = [_past(queue.limits) for queue in known.values()]
    found = await tx.fetch(_LENGTHS, given, queueing.COUNT_MAX, list(known), pasts) if known else []
    return [queueing.counted(known[name], waiting, admitted, recent) for name, waiting, admitted, recent in found]


def _queue_of(row: Row) -> QueueRecord:
    name, declared, changed_to, changed_by, changed_why, is_paused, paused_by, paused_why = row
    return QueueRecord(
        name=name,
        declared=_limits(declared),
        changed=_limits(changed_to),
        changed_by=changed_by,
        changed_why=changed_why,
        is_paused=is_paused,
        paused_by=paused_by,
        paused_why=paused_why,
    )


def _limits(text: str | None) -> Limits | None:
    return None if text is None else msgspec.json.decode(text, type=Limits)


def _text(limits: Limits | None) -> str | None:
    return None if limits is None else msgspec.json.encode(limits).decode()


def _past(limits: Limits) -> Micros | None:
    return None if limits.rate is None else limits.window


# --- claiming ---------------------------------------------------------------------------------------------------------------


class View(Struct, frozen=True):
    """A queue, counted for one worker.

    Attributes:
        record: Its settings.
        admitted: Its runs in progress, if it limits them.
        driven: Those of the worker, if it limits them.
        recent: When runs were admitted within the window of its rate.
        has_passed: Somebody left a place of a key.
        has_line: Somebody is in line.
    """

    record: QueueRecord
    admitted: int
    driven: int
    recent: Sequence[Micros]
    has_passed: bool
    has_line: bool

    def room(self) -> queueing.Room:
        """What it has left."""
        return queueing.room_of(self.record, self.admitted, self.driven, self.recent)

    @property
    def wants_claim(self) -> bool:
        """Somebody who waits for his key may be let back."""
        return self.has_passed and self.record.limits.per_key is not None


async def views(tx: Tx, known: Sequence[QueueRecord], worker_key: WorkerKey, given: Micros | None) -> list[View]:
    """Count what these queues limit."""
    if not known:
        return []
    limits = [queue.limits for queue in known]
    counted = await tx.fetch(
        COUNTS,
        given,
        worker_key,
        [queue.name for queue in known],
        [each.concurrency for each in limits],
        [each.per_worker is not None for each in limits],
        [_past(each) for each in limits],
    )
    by_name = {name: rest for name, *rest in counted}
    return [View(queue, *by_name[queue.name]) for queue in known]


async def lock(tx: Tx, known: Sequence[QueueRecord]) -> set[str]:
    """Lock those that nobody else decides about just now. Returns their names."""
    shared = [queue.name for queue in known if queue.limits.is_shared]
    others = [queue.name for queue in known if not queue.limits.is_shared]
    locked = await tx.fetch(_LOCK_SHARED, shared) if shared else []
    locked += await tx.fetch(_LOCK_OTHERS, others) if others else []
    return {name for (name,) in locked}


async def due_in_line(
    tx: Tx, asked: tuple[Sequence[str], Sequence[str], Sequence[str]], now: Micros, family: str, most: int
) -> list[Row]:
    """Lock runs in line that are due, for each queue, workflow and version that is asked for; of each priority so many."""
    return await tx.fetch(DUE_IN_LINE, *asked, now, family, most)


async def first_in_line(
    tx: Tx, asked: tuple[Sequence[str], Sequence[str], Sequence[str]], but: Sequence[RunKey], family: str
) -> list[Row]:
    """For each of these queues when the first run in line is due, apart from some."""
    return await tx.fetch(FIRST_IN_LINE, *asked, but, family)


async def held(tx: Tx, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """How many runs of these queues and keys are in progress."""
    asked = sorted({*places})
    found = await tx.fetch(_HELD, [queue for queue, _ in asked], [key for _, key in asked]) if asked else []
    return {(queue, key): count for queue, key, count in found}


async def admit(tx: Tx, runs: Sequence[Candidate], limits: Mapping[str, Limits], now: Micros) -> None:
    """Runs in line are in progress from now on."""
    if not runs:
        return
    await tx.fetch(_ADMIT, [each.run_key for each in runs])
    rated = [each for each in runs if limits[each.queue].rate is not None]
    if rated:
        names = sorted({each.queue for each in rated})
        entered = ([each.queue for each in rated], [now] * len(rated), [each.run_key for each in rated])
        await tx.fetch(_NOTE, *entered, names, [now - limits[name].window for name in names])


async def put_aside(tx: Tx, blocked: Sequence[Candidate]) -> None:
    """Nobody comes across these until one of their key leaves his place."""
    if blocked:
        await tx.fetch(_PUT_ASIDE, [each.run_key for each in blocked])


async def let_back(tx: Tx, names: Sequence[str]) -> None:
    """For every place of a key that was left: let the next one of that key back. Under the lock of these queues."""
    found = await tx.fetch(_PICK_UP, names, PICKED_UP_MAX)
    if not found:
        return
    wanted = Counter({(queue, key): count for queue, key, count in found})
    wanted.subtract((queue, key) for queue, key in await tx.fetch(_LET_BACK, *_columns(wanted)))
    missing = +wanted
    if missing:
        await tx.fetch(_STILL_ASIDE, *_columns(missing))


def _columns(places: Counter[tuple[str, str]]) -> tuple[list[str], list[str], list[int]]:
    return [queue for queue, _ in places], [key for _, key in places], list(places.values())


# --- leaving ----------------------------------------------------------------------------------------------------------------


async def leave(tx: Tx, run_keys: Sequence[RunKey]) -> None:
    """Runs of queues are at rest."""
    await tx.fetch(_LEAVE, run_keys)


async def stand_aside(tx: Tx, run_keys: Sequence[RunKey]) -> None:
    """Somebody decided about runs of queues that nobody owns: paused, let go on, reopened. Their rows are written already."""
    await tx.fetch(_STAND_ASIDE, run_keys)
