"""
Claiming. A worker asks often and finds nothing mostly, so we look first, without a lock, and begin a transaction only if there
is something to take.

What is due is locked as it is found, and what another claimer has locked is passed over: claimers neither wait for one another
nor get the same run. The index that finds it ends at the first run that is not due, so a queue of a million costs no more than
one of ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from everstep.events import Event, encode_events
from everstep.records import Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import Claimed, ClaimRequest, Claims, death_of, judge_recovery
from everstep.stores.postgres import read, workers
from everstep.stores.postgres.book import Book, Page, Wanted, lock
from everstep.stores.postgres.careful import close_family, tell_parent
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.pool import Tx
from everstep.stores.postgres.settle import append_unasked, told_by

# Three ranges of the index leave out, without reading them, all runs that exactly this code has refused.
EARLIEST: Final = f"""
SELECT {NOW}, (
    SELECT min(due.wake_at) FROM unnest($2::text[], $3::text[], $6::text[]) AS asked(workflow, code, version)
    CROSS JOIN LATERAL (
        (SELECT wake_at FROM everstep.runs
         WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by = '' AND worker_key IS NULL
         AND wake_at IS NOT NULL AND run_key <> ALL($4::int8[])
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5) ORDER BY wake_at LIMIT 1)
        UNION ALL
        (SELECT wake_at FROM everstep.runs
         WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by > '' AND refused_by < asked.code
         AND worker_key IS NULL AND wake_at IS NOT NULL AND run_key <> ALL($4::int8[])
         AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ')
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5))
        UNION ALL
        (SELECT wake_at FROM everstep.runs
         WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by > asked.code
         AND worker_key IS NULL AND wake_at IS NOT NULL AND run_key <> ALL($4::int8[])
         AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ')
         AND ($5 = '' OR run_id = $5 OR starts_with(run_id, $5 || '/') OR family = $5))
    ) AS due
)
"""  # noqa: S608
DUE: Final = """
SELECT due.wake_at, due.run_key, due.deaths, due.max_recoveries
FROM unnest($1::text[], $2::text[], $6::text[]) AS asked(workflow, code, version) CROSS JOIN LATERAL (
    SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
    WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by = '' AND worker_key IS NULL
      AND wake_at IS NOT NULL AND wake_at <= $3
      AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
    ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
) AS due
"""
DUE_BUT_REFUSED: Final = """
SELECT due.wake_at, due.run_key, due.deaths, due.max_recoveries
FROM unnest($1::text[], $2::text[], $6::text[]) AS asked(workflow, code, version) CROSS JOIN LATERAL (
    SELECT * FROM (SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
     WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by > '' AND refused_by < asked.code
       AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ') AND worker_key IS NULL
       AND wake_at IS NOT NULL AND wake_at <= $3
       AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
     ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED) AS before
    UNION ALL
    SELECT * FROM (SELECT wake_at, run_key, deaths, max_recoveries FROM everstep.runs
     WHERE workflow = asked.workflow AND pinned = asked.version AND refused_by > asked.code
       AND NOT string_to_array(asked.code, ' ') <@ string_to_array(refused_by, ' ') AND worker_key IS NULL
       AND wake_at IS NOT NULL AND wake_at <= $3
       AND ($4 = '' OR run_id = $4 OR starts_with(run_id, $4 || '/') OR family = $4)
     ORDER BY wake_at, run_key LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED) AS after
) AS due
"""
ORPHANS: Final = """
SELECT runs.run_key, CASE WHEN head.version > runs.claimed_version THEN 0 ELSE runs.deaths END, runs.max_recoveries,
       workers.gone, workers.was_alone
FROM everstep.workers JOIN everstep.runs ON runs.worker_key = workers.worker_key AND runs.worker_key IS NOT NULL
JOIN unnest($1::text[], $2::text[], $5::text[]) AS asked(workflow, code, version)
     ON asked.workflow = runs.workflow AND asked.version = runs.pinned
CROSS JOIN LATERAL (SELECT version FROM everstep.journal WHERE journal.run_key = runs.run_key
                    ORDER BY version DESC LIMIT 1) AS head
WHERE workers.gone <> '' AND NOT string_to_array(asked.code, ' ') <@ string_to_array(runs.refused_by, ' ')
  AND ($3 = '' OR runs.run_id = $3 OR starts_with(runs.run_id, $3 || '/') OR runs.family = $3)
ORDER BY workers.worker_key, runs.run_key LIMIT $4 FOR NO KEY UPDATE OF runs SKIP LOCKED
"""
_ANOTHER_ORPHAN: Final = """
SELECT 1
FROM everstep.workers JOIN everstep.runs ON runs.worker_key = workers.worker_key AND runs.worker_key IS NOT NULL
JOIN unnest($1::text[], $2::text[], $5::text[]) AS asked(workflow, code, version)
     ON asked.workflow = runs.workflow AND asked.version = runs.pinned
WHERE workers.gone <> '' AND NOT string_to_array(asked.code, ' ') <@ string_to_array(runs.refused_by, ' ')
  AND runs.run_key <> ALL($4::int8[])
  AND ($3 = '' OR runs.run_id = $3 OR starts_with(runs.run_id, $3 || '/') OR runs.family = $3) LIMIT 1
"""
_LEFT: Final = -1
"""Stands for what is due first of all that was not locked."""
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


def asked(request: ClaimRequest, given: Micros | None, lease_now: float | None) -> Asked:
    """Prepare a request."""
    known = [each for each in rules.drivable(request) if rules.is_text(*each)]
    names, versions, codes = ([each[n] for each in known] for n in range(3))
    return Asked(request, names, codes, versions, given, lease_now)


async def look(tx: Tx, ask: Asked, seen: Sequence[workers.Seen], empty: Mapping[WorkerKey, bool]) -> Look:
    """See whether a claim would find something. One statement, no lock."""
    now, next_due_at = await tx.one(EARLIEST, ask.given, ask.workflows, ask.codes, [], ask.request.family, ask.versions)
    me = ask.request.worker_key
    living = [each for each in seen if not each.gone]
    died = [(each, why) for each in living if each.worker_key != me and (why := _why_dead(each, empty))]
    dead = {each.worker_key for each, _ in died}
    leases = [(each.heartbeat, each.lease_seconds) for each in living if each.worker_key not in dead | {me}]
    next_expiry_at = rules.expiry_at(leases, seen[0].lease_now, now) if seen else None
    is_due = next_due_at is not None and next_due_at <= now
    is_worth_it = bool(died) or is_due or len(living) < len(seen)
    is_willing = any(each.worker_key == me and not each.is_draining for each in living)
    return Look(is_willing, died, is_worth_it, next_due_at, next_expiry_at)


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


async def _choose(tx: Tx, ask: Asked) -> rules.Choice:
    """Choose among what could be locked. No more is locked than is asked for, so that other claimers find the rest."""
    request, now = ask.request, await workers.time_of(tx, ask.given)
    page = max(request.run_max, 1)
    while True:
        candidates, is_all = await _candidates(tx, ask, now, page)
        if is_all or _is_filled(candidates, request.run_max):
            break
        page *= 4
    left_at = await _left_at(tx, ask, candidates, now)
    if left_at is None:
        return rules.choose(candidates, request, now)
    if left_at > now or _is_filled(candidates, request.run_max):
        left = rules.Candidate(run_key=_LEFT, wake_at=left_at, deaths=0, max_recoveries=0)
        return rules.choose([*candidates, left], request, now)
    choice = rules.choose(candidates, request, now)  # What is left is due, and another claimer is just taking it.
    return rules.Choice(choice.taken, choice.dead, choice.alone, choice.suspects_wait, left_at)


async def _left_at(tx: Tx, ask: Asked, candidates: Sequence[rules.Candidate], now: Micros) -> Micros | None:
    """When the first of all others is due."""
    keys, family = [each.run_key for each in candidates], ask.request.family
    is_orphan = bool(candidates) and candidates[-1].wake_at is None
    if is_orphan and await tx.fetch(_ANOTHER_ORPHAN, ask.workflows, ask.codes, family, keys, ask.versions):
        return now
    _, left_at = await tx.one(EARLIEST, ask.given, ask.workflows, ask.codes, keys, family, ask.versions)
    return None if left_at is None else int(left_at)


def _is_filled(candidates: Sequence[rules.Candidate], run_max: int) -> bool:
    """Nothing beyond these can be taken now."""
    judged = [judge_recovery(each.deaths, each.max_recoveries, was_alone=each.was_alone) for each in candidates]
    return judged.count("claim") >= run_max


async def _candidates(tx: Tx, ask: Asked, now: Micros, page: int) -> tuple[list[rules.Candidate], bool]:
    """Orphans, then what is due, a page of both together; and whether that is all."""
    orphans = await tx.fetch(ORPHANS, ask.workflows, ask.codes, ask.request.family, page, ask.versions)
    candidates = [
        rules.orphan(key, deaths, recoveries, gone, was_alone=was_alone) for key, deaths, recoveries, gone, was_alone in orphans
    ]
    if len(orphans) >= page:
        return candidates, False
    due = await tx.fetch(DUE, ask.workflows, ask.codes, now, ask.request.family, page, ask.versions)
    due += await tx.fetch(DUE_BUT_REFUSED, ask.workflows, ask.codes, now, ask.request.family, page, ask.versions)
    due.sort(key=lambda row: (row[0], row[1]))
    candidates += [
        rules.Candidate(run_key=key, wake_at=wake_at, deaths=deaths, max_recoveries=recoveries)
        for wake_at, key, deaths, recoveries in due[:page]
    ]
    return candidates, len(due) < page


def _take(
    book: Book, candidate: rules.Candidate, worker_key: WorkerKey, name: str, owners: Mapping[WorkerKey, tuple[str, str]]
) -> None:
    page = _page(book, candidate.run_key)
    owner = owners.get(page.record.worker_key or 0)
    event = rules.claim_event(name, *owner) if owner else rules.claim_event(name)
    _append(book, page, event, rules.status_after_claim(page.record.status), candidate.deaths, worker_key)


def _give_up(book: Book, candidate: rules.Candidate) -> str:
    page = _page(book, candidate.run_key)
    _append(book, page, death_of(candidate.deaths), Status.DEAD, candidate.deaths, None)
    page.forget_attempts()
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
