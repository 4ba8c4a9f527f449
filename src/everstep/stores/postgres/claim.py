"""
Claiming. A worker asks often and finds nothing mostly, so we look first, without a lock, and begin a transaction only if there
is something to take.

What is due is locked as it is found, and what another claimer has locked is passed over: claimers neither wait for one another
nor get the same run. The index that finds it ends at the first run that is not due, so a queue of a million costs no more than
one of ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

from msgspec import Struct, structs

from everstep.events import Event, encode_events
from everstep.limits import QueueRecord
from everstep.records import Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import queueing, rules
from everstep.stores.base import Claimed, ClaimRequest, Claims, death_of, judge_recovery
from everstep.stores.postgres import queues, read, workers
from everstep.stores.postgres.book import Book, Page, Wanted, lock
from everstep.stores.postgres.careful import close_family, tell_parent
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.pool import Tx
from everstep.stores.postgres.settle import append_unasked, told_by

# Three ranges of the index leave out, without reading them, all runs that exactly this code has refused.
EARLIEST: Final = f"""
SELECT {NOW}, EXISTS (SELECT FROM everstep.queues), (
    SELECT min(due.wake_at)
    FROM unnest($2::text[], $3::text[], $6::text[], $7::text[]) AS asked(workflow, code, version, queue)
    CROSS JOIN LATERAL (
        (SELECT wake_at FROM everstep.runs
         WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by = ''
         AND worker_key IS NULL
         AND wake_at IS NOT NULL AND line = 0 AND run_key <> ALL($4::int8[])
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5) ORDER BY wake_at LIMIT 1)
        UNION ALL
        (SELECT wake_at FROM everstep.runs
         WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by > ''
         AND refused_by < asked.code
         AND worker_key IS NULL AND wake_at IS NOT NULL AND line = 0 AND run_key <> ALL($4::int8[])
         AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ')
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5))
        UNION ALL
        (SELECT wake_at FROM everstep.runs
         WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by > asked.code
         AND worker_key IS NULL AND wake_at IS NOT NULL AND line = 0 AND run_key <> ALL($4::int8[])
         AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ')
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5))
    ) AS due
)
"""  # noqa: S608
DUE: Final = """
SELECT asked.queue, due.wake_at, due.run_key, due.deaths, due.max_recoveries
FROM unnest($1::text[], $2::text[], $6::text[], $7::text[]) AS asked(workflow, code, version, queue) CROSS JOIN LATERAL (
    SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
    WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by = ''
         AND worker_key IS NULL
      AND wake_at IS NOT NULL AND line = 0 AND wake_at <= $3
      AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
    ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
) AS due
"""
DUE_BUT_REFUSED: Final = """
SELECT asked.queue, due.wake_at, due.run_key, due.deaths, due.max_recoveries
FROM unnest($1::text[], $2::text[], $6::text[], $7::text[]) AS asked(workflow, code, version, queue) CROSS JOIN LATERAL (
    SELECT * FROM (SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
     WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by > ''
         AND refused_by < asked.code
       AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ') AND worker_key IS NULL
       AND wake_at IS NOT NULL AND line = 0 AND wake_at <= $3
       AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
     ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED) AS before
    UNION ALL
    SELECT * FROM (SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
     WHERE queue = asked.queue AND workflow = asked.workflow AND pinned = asked.version AND refused_by > asked.code
       AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ') AND worker_key IS NULL
       AND wake_at IS NOT NULL AND line = 0 AND wake_at <= $3
       AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
     ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED) AS after
) AS due
"""
ORPHANS: Final = """
SELECT runs.run_key, CASE WHEN head.version > runs.claimed_version THEN 0 ELSE runs.deaths END, runs.max_recoveries,
       workers.gone, workers.was_alone, runs.queue
FROM everstep.workers JOIN everstep.runs ON runs.worker_key = workers.worker_key AND runs.worker_key IS NOT NULL
JOIN unnest($1::text[], $2::text[], $5::text[]) AS asked(workflow, code, version)
     ON asked.workflow = runs.workflow AND asked.version = runs.pinned
CROSS JOIN LATERAL (SELECT version FROM everstep.journal WHERE journal.run_key = runs.run_key
                    ORDER BY version DESC LIMIT 1) AS head
WHERE workers.gone <> '' AND NOT string_to_array(asked.code, ' ') <@ string_to_array(runs.refused_by, ' ')
  AND ($3 = '' OR runs.run_id = $3 OR starts_with(runs.run_id, $3 || '/') OR runs.family = $3)
  AND ($6::text[] IS NULL OR runs.queue = ANY($6))
ORDER BY workers.worker_key, runs.run_key LIMIT $4 FOR NO KEY UPDATE OF runs SKIP LOCKED
"""
_ANOTHER_ORPHAN: Final = """
SELECT 1
FROM everstep.workers JOIN everstep.runs ON runs.worker_key = workers.worker_key AND runs.worker_key IS NOT NULL
JOIN unnest($1::text[], $2::text[], $5::text[]) AS asked(workflow, code, version)
     ON asked.workflow = runs.workflow AND asked.version = runs.pinned
WHERE workers.gone <> '' AND NOT string_to_array(asked.code, ' ') <@ string_to_array(runs.refused_by, ' ')
  AND runs.run_key <> ALL($4::int8[])
  AND ($3 = '' OR runs.run_id = $3 OR starts_with(runs.run_id, $3 || '/') OR runs.family = $3)
  AND ($6::text[] IS NULL OR runs.queue = ANY($6)) LIMIT 1
"""
_OWNERS: Final = "SELECT worker_key, name, gone FROM everstep.workers WHERE worker_key = ANY($1::int8[])"


class Look(Struct, frozen=True):
    """What a claim would find.

    Attributes:
        is_willing: Whether the worker that asks may claim at all.
        died: Workers proved dead just now, and why.
        is_worth_it: There is something to write.
        next_due_at: As in Claims, if there is nothing to write.
        next_expiry_at: As in Claims.
    """

    is_willing: bool
    died: Sequence[tuple[workers.Seen, rules.Why]]
    is_worth_it: bool
    next_due_at: Micros | None
    next_expiry_at: Micros | None


class Asked(Struct, frozen=True):
    """A request as the statements take it."""

    request: ClaimRequest
    workflows: list[str]
    codes: list[str]
    versions: list[str]
    given: Micros | None
    lease_now: float | None

    def over(self, names: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
        """Workflows, codes, versions and queues: each of what the worker has, in each of these queues."""
        places = [name for name in names for _ in self.workflows]
        return self.workflows * len(names), self.codes * len(names), self.versions * len(names), places


def asked(request: ClaimRequest, given: Micros | None, lease_now: float | None) -> Asked:
    """Prepare a request."""
    known = [each for each in rules.drivable(request) if rules.is_text(*each)]
    names, versions, codes = ([each[n] for each in known] for n in range(3))
    return Asked(request, names, codes, versions, given, lease_now)


async def look(tx: Tx, ask: Asked, seen: Sequence[workers.Seen], empty: Mapping[WorkerKey, bool]) -> Look:
    """See whether a claim would find something. One statement, three more if there are queues, no lock."""
    now, has_queues, next_due_at = await tx.one(
        EARLIEST, ask.given, *_earliest(ask, [""] if ask.request.queues is None else [])
    )
    me = ask.request.worker_key
    living = [each for each in seen if not each.gone]
    died = [(each, why) for each in living if each.worker_key != me and (why := _why_dead(each, empty))]
    dead = {each.worker_key for each, _ in died}
    leases = [(each.heartbeat, each.lease_seconds) for each in living if each.worker_key not in dead | {me}]
    next_expiry_at = rules.expiry_at(leases, seen[0].lease_now, now) if seen else None
    is_worth_it = bool(died) or _is_due(next_due_at, now) or len(living) < len(seen)
    if has_queues and not is_worth_it:
        views = await queues.views(tx, _served(ask, await queues.settings(tx)), me, ask.given)
        next_due_at = earliest(next_due_at, await _left_at(tx, ask, [view.room() for view in views], []))
        is_worth_it = _is_due(next_due_at, now) or any(view.wants_claim for view in views)
    is_willing = any(each.worker_key == me and not each.is_draining for each in living)
    return Look(is_willing, died, is_worth_it, next_due_at, next_expiry_at)


def _is_due(at: Micros | None, now: Micros) -> bool:
    return at is not None and at <= now


def _served(ask: Asked, known: Sequence[QueueRecord]) -> list[QueueRecord]:
    served = ask.request.queues
    return [queue for queue in known if served is None or queue.name in served]


def _why_dead(worker: workers.Seen, empty: Mapping[WorkerKey, bool]) -> rules.Why:
    if empty.get(worker.worker_key):
        return rules.KILLED
    return rules.LEASE_EXPIRED if worker.is_expired else ""


async def claim(tx: Tx, ask: Asked, died: Sequence[tuple[workers.Seen, rules.Why]]) -> Claims:
    """Take what there is, in this transaction."""
    request = ask.request
    if died:
        await workers.bury(tx, died, ask.lease_now)
    name = await workers.name_if_willing(tx, request.worker_key)
    if name is None:
        return Claims([])
    choice = await _choose(tx, ask)
    if not choice.taken and not choice.dead:
        return Claims([], choice.next_due_at, choice.suspects_wait, [])
    keys = [each.run_key for each in (*choice.taken, *choice.dead)]
    # Only the parents are not locked yet. The other rows are, in the order of their due times, which may cross with somebody's
    # run order: then the server ends one of the two, which begins anew.
    dead = [each.run_key for each in choice.dead]
    locked = await lock(tx, Wanted(keys, children=dead, parents=dead))
    book = Book(tx, await workers.time_of(tx, ask.given))
    await book.read(locked)
    owners = await _owners(tx, [page.record for key in keys if (page := book.by_key(key))])
    await book.read_dedupes([told for key in dead for told in told_by(book, key)])
    died_ids = [_give_up(book, each) for each in choice.dead]
    for each in choice.taken:
        _take(book, each, request.worker_key, name, owners)
    await book.write()
    claimed = await _loaded(tx, book, choice)
    return Claims(claimed, choice.next_due_at, choice.suspects_wait, died_ids)


async def wake(tx: Tx, ask: Asked, run: RunRecord) -> Claimed | None:
    """Take a run that is locked and has just been made due by a message, if the worker may drive it (P39)."""
    name = await workers.name_if_willing(tx, ask.request.worker_key)
    if name is None or not rules.may_wake(ask.request, run):
        return None
    book = Book(tx, await workers.time_of(tx, ask.given))
    await book.read([run.run_key])
    choice = rules.Choice([rules.woken(run)], [])
    _take(book, choice.taken[0], ask.request.worker_key, name, {})
    await book.write()
    (claimed,) = await _loaded(tx, book, choice)
    return claimed


async def _choose(tx: Tx, ask: Asked) -> rules.Choice:
    """Choose among what could be locked. No more is locked than is asked for, so that other claimers find the rest."""
    request = ask.request
    served = _served(ask, await queues.settings(tx))
    views, are_others_at_it = await _alone_with(tx, ask, served)
    now, page = await workers.time_of(tx, ask.given), max(request.run_max, 1)
    while True:
        rooms = [view.room() for view in views]
        if request.queues is None:
            rooms.insert(0, queueing.Room())
        found = await _find(tx, ask, rooms, now, page)
        sources = _sources(rooms, found)
        candidates = list(queueing.candidates(found.orphans, sources, request.turn, now))
        if found.is_all or _is_filled(candidates, request.run_max):
            break
        page *= 4
    choice = rules.choose(candidates, request, now)
    await _settle_lines(tx, sources, choice, now)
    if choice.next_due_at is None:
        orphans = bool(found.orphans) and await _another_orphan(tx, ask, found.orphans)
        known = [*found.orphans, *chain(*found.awake.values()), *choice.taken, *chain(*(each.blocked for each in sources))]
        left_at = now if orphans else await _left_at(tx, ask, rooms, [each.run_key for each in known])
        choice = structs.replace(choice, next_due_at=now if are_others_at_it else left_at)
    return choice


async def _alone_with(tx: Tx, ask: Asked, served: Sequence[QueueRecord]) -> tuple[list[queues.View], bool]:
    """Lock the queues in which somebody may be admitted; and whether others are just deciding about some of them.

    Those admit nobody here, as if they were full.
    """
    me = ask.request.worker_key
    seen = await queues.views(tx, served, me, ask.given)
    wanted = [view.record for view in seen if (view.has_line or view.has_passed) and not view.record.is_paused]
    if not wanted:
        return seen, False
    locked = await queues.lock(tx, wanted)
    await queues.let_back(tx, sorted(locked))
    known = [queue for queue in await queues.settings(tx) if queue.name in {view.record.name for view in seen}]
    # One that was nobody's to share when it was locked may be now: then it is not locked well enough.
    unshared = {queue.name for queue in wanted if not queue.limits.is_shared}
    ours = {queue.name for queue in known if queue.name in locked and not (queue.name in unshared and queue.limits.is_shared)}
    closed = [queue if queue.name in ours else structs.replace(queue, is_paused=True) for queue in known]
    return await queues.views(tx, closed, me, ask.given), not {queue.name for queue in wanted} <= ours


def _is_filled(candidates: Sequence[rules.Candidate], run_max: int) -> bool:
    """Nothing beyond these can be taken now."""
    judged = [
        judge_recovery(each.deaths, each.max_recoveries, was_alone=each.was_alone) for each in candidates if not each.is_later
    ]
    return judged.count("claim") >= run_max


class _Found(Struct):
    """Runs that are locked now: orphans, and by queue what needs no admission, and what is in line."""

    orphans: list[rules.Candidate]
    awake: dict[str, list[rules.Candidate]]
    line: dict[str, list[rules.Candidate]]
    held: Mapping[tuple[str, str], int]
    is_all: bool


async def _find(tx: Tx, ask: Asked, rooms: Sequence[queueing.Room], now: Micros, page: int) -> _Found:
    orphans = await _orphans(tx, ask, page)
    if len(orphans) >= page:
        return _Found(orphans, {}, {}, {}, is_all=False)
    open_rooms = {room.queue: room for room in rooms if room.drives > 0}
    awake: dict[str, list[rules.Candidate]] = {}
    values = ask.over(list(open_rooms))
    due = await tx.fetch(DUE, *values[:2], now, ask.request.family, page, *values[2:])
    due += await tx.fetch(DUE_BUT_REFUSED, *values[:2], now, ask.request.family, page, *values[2:])
    for queue, wake_at, key, deaths, recoveries in sorted(due, key=lambda row: (row[1], row[2])):
        run = rules.Candidate(run_key=key, wake_at=wake_at, deaths=deaths, max_recoveries=recoveries, queue=queue)
        awake.setdefault(queue, []).append(run)
    line = await _line(tx, ask, rooms, now, page)
    held = await queues.held(tx, {(each.queue, each.queue_key) for one in line.values() for each in one if each.queue_key})
    is_all = all(len(found) < page or len(found) >= open_rooms[queue].drives for queue, found in awake.items())
    return _Found(orphans, awake, line, held, is_all)


async def _orphans(tx: Tx, ask: Asked, page: int) -> list[rules.Candidate]:
    request = ask.request
    rows = await tx.fetch(ORPHANS, ask.workflows, ask.codes, request.family, page, ask.versions, request.queues)
    return [
        rules.orphan(key, deaths, recoveries, gone, was_alone=was_alone, queue=queue)
        for key, deaths, recoveries, gone, was_alone, queue in rows
    ]


async def _line(tx: Tx, ask: Asked, rooms: Sequence[queueing.Room], now: Micros, page: int) -> dict[str, list[rules.Candidate]]:
    admitting = [room for room in rooms if room.queue and room.admits]
    if not admitting:
        return {}
    # Of runs whose keys have no room a claim looks at no more than so many; all others it may take.
    most = page + queueing.PASSED_OVER_MAX if any(room.limits.per_key for room in admitting) else page
    names, _, versions, places = ask.over([room.queue for room in admitting])
    rows = await queues.due_in_line(tx, (places, names, versions), now, ask.request.family, most)
    lines: dict[str, list[rules.Candidate]] = {}
    for queue, _, wake_at, key, queue_key, deaths, recoveries in sorted(rows, key=lambda row: (row[1], row[2], row[3])):
        run = rules.Candidate(
            run_key=key,
            wake_at=wake_at,
            deaths=deaths,
            max_recoveries=recoveries,
            queue=queue,
            queue_key=queue_key,
            is_in_line=True,
        )
        lines.setdefault(queue, []).append(run)
    return lines


def _sources(rooms: Sequence[queueing.Room], found: _Found) -> list[queueing.Source]:
    def source(room: queueing.Room) -> queueing.Source:
        awake, line = found.awake.get(room.queue, []), found.line.get(room.queue, [])
        # What is due later is asked for once it is known what is taken.
        return queueing.Source(
            room, awake, line, lambda key: found.held.get((room.queue, key), 0), lambda _: None, lambda _: None
        )

    return [source(room) for room in rooms]


async def _settle_lines(tx: Tx, sources: Sequence[queueing.Source], choice: rules.Choice, now: Micros) -> None:
    await queues.put_aside(tx, [each for source in sources for each in source.still_blocked(choice.taken)])
    limits = {source.room.queue: source.room.limits for source in sources}
    await queues.admit(tx, [each for each in choice.taken if each.is_in_line], limits, now)


async def _another_orphan(tx: Tx, ask: Asked, found: Sequence[rules.Candidate]) -> bool:
    keys, request = [each.run_key for each in found], ask.request
    values = (ask.workflows, ask.codes, request.family, keys, ask.versions, request.queues)
    return bool(await tx.fetch(_ANOTHER_ORPHAN, *values))


async def _left_at(tx: Tx, ask: Asked, rooms: Sequence[queueing.Room], keys: Sequence[RunKey]) -> Micros | None:
    """When the first of all others is due, or its queue lets it in."""
    awake = [room.queue for room in rooms if room.drives > 0]
    _, _, at = await tx.one(EARLIEST, ask.given, *_earliest(ask, awake, keys))
    opening = {room.queue: room.opens_at for room in rooms if room.queue and (room.admits or room.opens_at is not None)}
    if not opening:
        return None if at is None else int(at)
    names, _, versions, places = ask.over(list(opening))
    for queue, first in await queues.first_in_line(tx, (places, names, versions), keys, ask.request.family):
        at = earliest(at, max(first, opening[queue] or 0))
    return None if at is None else int(at)


def _earliest(ask: Asked, names: Sequence[str], keys: Sequence[RunKey] = ()) -> tuple[object, ...]:
    workflows, codes, versions, places = ask.over(names)
    return workflows, codes, list(keys), ask.request.family, versions, places


def earliest(one: Micros | None, other: Micros | None) -> Micros | None:
    """The first of two instants that may be none."""
    return min((at for at in (one, other) if at is not None), default=None)


def _take(
    book: Book, candidate: rules.Candidate, worker_key: WorkerKey, name: str, owners: Mapping[WorkerKey, tuple[str, str]]
) -> None:
    page = _page(book, candidate.run_key)
    owner = owners.get(page.record.worker_key or 0)
    event = rules.claim_event(name, *owner) if owner else rules.claim_event(name)
    _append(book, page, event, rules.status_after_claim(page.record.status), candidate.deaths, worker_key)
    if candidate.is_in_line:
        page.change(structs.replace(page.record, is_admitted=True))


def _give_up(book: Book, candidate: rules.Candidate) -> str:
    page = _page(book, candidate.run_key)
    _append(book, page, death_of(candidate.deaths), Status.DEAD, candidate.deaths, None)
    page.rest()
    entry, *_ = page.entries[-1]
    tell_parent(book, page, entry)
    close_family(book, page)
    return page.record.run_id


def _append(book: Book, page: Page, event: Event, status: Status, deaths: int, worker_key: WorkerKey | None) -> None:
    refused_by = "" if status.is_at_rest else page.record.refused_by
    append_unasked(book, page, encode_events([event]), status, deaths=deaths, worker_key=worker_key, refused_by=refused_by)


async def _loaded(tx: Tx, book: Book, choice: rules.Choice) -> list[Claimed]:
    keys = [each.run_key for each in choice.taken]
    if not keys:
        return []
    segments = await read.segments(tx, {key: _page(book, key).record.base for key in keys})
    attempts, inbox = await read.attempts(tx, keys), await read.unread(tx, keys)
    claimed: list[Claimed] = []
    for key in keys:
        entries, previous = segments[key]
        claimed.append(Claimed(_page(book, key).record, entries, attempts[key], inbox.get(key, []), choice.alone, previous))
    return claimed


async def _owners(tx: Tx, runs: Sequence[RunRecord]) -> dict[WorkerKey, tuple[str, str]]:
    keys = sorted({run.worker_key for run in runs if run.worker_key is not None})
    found = await tx.fetch(_OWNERS, keys) if keys else []
    return {worker_key: (name, gone) for worker_key, name, gone in found}


def _page(book: Book, run_key: RunKey) -> Page:
    page = book.by_key(run_key)
    assert page is not None, "chosen and locked in this transaction"
    return page
