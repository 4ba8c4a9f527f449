"""
Claiming. A worker asks often and finds nothing mostly, so we look first, without a lock, and begin to write only if there is
something to take.

``Look`` is what was seen without a lock; ``claim`` sees everything again inside its transaction, but for the proofs of death,
which stay true: a dead process stays dead, and a lease that was renewed meanwhile is noticed by its heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import takewhile
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from everstep.events import Event
from everstep.journal import seal
from everstep.limits import PRIORITY_MAX
from everstep.records import Message, Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import queueing, rules
from everstep.stores.base import Claimed, ClaimRequest, Claims, Woken, death_of
from everstep.stores.sqlite import queues, read, workers, write
from everstep.stores.sqlite.ask import Ask, Rows, only
from everstep.stores.sqlite.oslock import WorkerLocks
from everstep.stores.sqlite.transaction import Tx

# ?1 lists what the worker has: name, version, fingerprints (rules.drivable). The two ranges leave out, without reading them,
# all runs that exactly this code has refused.
EARLIEST: Final = """
WITH asked(name, version, codes) AS (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1))
SELECT min(wake_at) FROM (
    SELECT (SELECT wake_at FROM runs WHERE queue = ?2 AND workflow = name AND pinned = asked.version AND refused_by = ''
            AND worker_key IS NULL AND wake_at IS NOT NULL AND line = 0 ORDER BY wake_at LIMIT 1) AS wake_at FROM asked
    UNION ALL
    SELECT (SELECT min(wake_at) FROM runs WHERE queue = ?2 AND workflow = name AND pinned = asked.version AND refused_by > ''
            AND refused_by < codes AND worker_key IS NULL AND wake_at IS NOT NULL AND line = 0) FROM asked
    UNION ALL
    SELECT (SELECT min(wake_at) FROM runs WHERE queue = ?2 AND workflow = name AND pinned = asked.version AND refused_by > codes
            AND worker_key IS NULL AND wake_at IS NOT NULL AND line = 0) FROM asked
)
"""
DUE: Final = """
SELECT wake_at, run_key, deaths, max_recoveries, run_id, workflow, refused_by, pinned, family, queue FROM runs
WHERE queue = ?1 AND workflow = ?2 AND pinned = ?3 AND refused_by = '' AND worker_key IS NULL
  AND wake_at IS NOT NULL AND line = 0 AND wake_at > ?4 ORDER BY wake_at, run_key
"""
REFUSED_BY_OTHERS: Final = """
SELECT wake_at, run_key, deaths, max_recoveries, run_id, workflow, refused_by, pinned, family, queue FROM runs
WHERE queue = ?1 AND workflow = ?2 AND pinned = ?3 AND refused_by > '' AND refused_by < ?5 AND worker_key IS NULL
  AND wake_at IS NOT NULL AND line = 0 AND wake_at > ?4
UNION ALL
SELECT wake_at, run_key, deaths, max_recoveries, run_id, workflow, refused_by, pinned, family, queue FROM runs
WHERE queue = ?1 AND workflow = ?2 AND pinned = ?3 AND refused_by > ?5 AND worker_key IS NULL
  AND wake_at IS NOT NULL AND line = 0 AND wake_at > ?4
ORDER BY wake_at, run_key
"""
# The lines of a queue, one for each priority that somebody in it has: a few looks into the index, however long the lines are.
NEXT_PRIORITY: Final = """
WITH asked(name, version) AS (SELECT value ->> 0, value ->> 1 FROM json_each(?1))
SELECT min(priority) FROM (
    SELECT (SELECT priority FROM runs WHERE queue = ?2 AND workflow = name AND pinned = asked.version AND line = 1
            AND priority > ?3 ORDER BY priority LIMIT 1) AS priority FROM asked)
"""
LINE: Final = """
SELECT wake_at, run_key, deaths, max_recoveries, run_id, workflow, refused_by, pinned, family, queue, queue_key FROM runs
WHERE queue = ?1 AND workflow = ?2 AND pinned = ?3 AND line = 1 AND priority = ?4 AND wake_at > ?5 ORDER BY wake_at, run_key
"""
ORPHANS: Final = """
SELECT run_key, deaths, max_recoveries, gone, was_alone, run_id, workflow, refused_by, pinned, family, queue
FROM workers CROSS JOIN runs ON runs.worker_key = workers.worker_key AND runs.worker_key IS NOT NULL
WHERE gone <> '' ORDER BY workers.worker_key, run_key
"""
_OWNER: Final = "SELECT name, gone FROM workers WHERE worker_key = ?"

_TAKE: Final = """
UPDATE runs SET head = last_insert_rowid(), version = ?2, hash = ?3, epoch = ?4, updated_at = ?5, status = ?6,
                worker_key = ?7, wake_at = NULL, deaths = ?8, refused_by = ?9,
                outcome_entry = CASE WHEN ?10 THEN last_insert_rowid() ELSE outcome_entry END
WHERE run_key = ?1
"""
_DROP_ATTEMPTS: Final = "DELETE FROM attempts WHERE run_key = ?"


class Look(Struct, frozen=True):
    """What a claim would find.

    Attributes:
        name: Of the worker that asks; None if it is dead or unknown.
        died: Workers proved dead just now, and why.
        is_worth_it: There is something to write.
        next_due_at: As in Claims, if there is nothing to write.
        living: All other workers that are alive.
        next_expiry_at: As in Claims.
    """

    name: str | None
    died: Sequence[tuple[workers.Worker, rules.Why]]
    is_worth_it: bool
    next_due_at: Micros | None
    living: Sequence[WorkerKey]
    next_expiry_at: Micros | None


def look(ask: Ask, request: ClaimRequest, locks: WorkerLocks, now: Micros, monotonic: float) -> Look:
    """See whether a claim would find something. A few statements for each queue, no lock."""
    name = workers.name_if_willing(ask, request.worker_key)
    others = workers.others(ask, request.worker_key)
    proofs = [(each, workers.proof_of_death(each, locks, monotonic)) for each in others if not each.gone]
    died = [(each, why) for each, why in proofs if why]
    living = [each for each, why in proofs if not why]
    next_expiry_at = rules.expiry_at([(each.heartbeat, each.lease_seconds) for each in living], monotonic, now)
    firsts = [source.first_at() for source in _sources(ask, request, now)]
    next_due_at = min((at for at in firsts if at is not None), default=None)
    is_due = next_due_at is not None and next_due_at <= now
    is_worth_it = bool(died) or is_due or any(each.gone for each in others)
    return Look(name, died, is_worth_it, next_due_at, [each.worker_key for each in living], next_expiry_at)


def claim(tx: Tx, request: ClaimRequest, died: Iterable[tuple[workers.Worker, rules.Why]]) -> tuple[Claims, list[WorkerKey]]:
    """Take what there is. Also returns whose worker rows were removed: the caller removes their lock files after the commit."""
    name = workers.name_if_willing(tx.ask, request.worker_key)
    if name is None:
        return Claims([]), []
    for worker, why in died:
        workers.bury(tx, worker, why)
    now = tx.now()
    sources = _sources(tx.ask, request, now)
    candidates = queueing.candidates(_orphans(tx.ask, request), sources, request.turn, now)
    choice = rules.choose(candidates, request, now)
    for source in sources:
        queues.put_aside(tx, source.still_blocked(choice.taken))
    limits = {source.room.queue: source.room.limits for source in sources}
    for each in choice.taken:
        if each.is_in_line:
            queues.admit(tx, each, limits[each.queue], now)
    given_up = [_give_up(tx, each, now) for each in choice.dead]
    taken = [_take(tx, each, request.worker_key, name, now, alone=choice.alone) for each in choice.taken]
    return Claims(taken, choice.next_due_at, choice.suspects_wait, given_up), workers.forget(tx)


def wake(tx: Tx, run_id: str, message: Message, request: ClaimRequest) -> Woken:
    """Put a message into a run's inbox, and take the run if that made it due (P39)."""
    before = read.run(tx.ask, run_id)
    run = write.post(tx, run_id, message)
    if before is None or run is None or run.wake_at == before.wake_at or not rules.may_wake(request, run):
        return Woken(run)
    name = workers.name_if_willing(tx.ask, request.worker_key)
    if name is None:
        return Woken(run)
    claimed = _take(tx, rules.woken(run), request.worker_key, name, tx.now(), alone=False)
    return Woken(claimed.run, claimed)


def _orphans(ask: Ask, request: ClaimRequest) -> Iterator[rules.Candidate]:
    for key, deaths, recoveries, gone, was_alone, *about in ask(ORPHANS):
        if rules.may_drive(request, *about):
            yield rules.orphan(key, deaths, recoveries, gone, was_alone=bool(was_alone), queue=about[-1])


def _sources(ask: Ask, request: ClaimRequest, now: Micros) -> list[queueing.Source]:
    known = queues.settings(ask)
    served = known if request.queues is None else [queue for queue in known if queue.name in request.queues]
    rooms = [queues.room(ask, queue, request.worker_key, now) for queue in served]
    if request.queues is None:
        rooms.insert(0, queueing.Room())
    return [_source(ask, request, room, now) for room in rooms]


def _source(ask: Ask, request: ClaimRequest, room: queueing.Room, now: Micros) -> queueing.Source:
    """Everything is read lazily: a queue of a million runs costs no more than one of ten."""
    queue = room.queue

    def awake_at(after: Micros) -> Micros | None:
        if after < 0 and not request.family:
            (first,) = only(ask(EARLIEST, (_json(rules.drivable(request)), queue)))
            return None if first is None else int(first)
        return next((each.wake_at for each in _awake(ask, request, queue, after)), None)

    def line_at(after: Micros) -> Micros | None:
        firsts = [next((each.wake_at for each in line), None) for line in _lines(ask, request, queue, after)] if queue else []
        return min((at for at in firsts if at is not None), default=None)

    return queueing.Source(
        room,
        takewhile(lambda each: _is_due(each, now), _awake(ask, request, queue, -1)),
        _due_in_line(ask, request, queue, now) if queue else (),
        lambda key: queues.held(ask, queue, key),
        awake_at,
        line_at,
    )


def _is_due(candidate: rules.Candidate, now: Micros) -> bool:
    return candidate.wake_at is not None and candidate.wake_at <= now


def _awake(ask: Ask, request: ClaimRequest, queue: str, after: Micros) -> Iterator[rules.Candidate]:
    """Runs that need no admission, by due time and age."""
    due = [ask(DUE, (queue, name, version, after)) for name, version, _ in rules.drivable(request)]
    refused = [ask(REFUSED_BY_OTHERS, (queue, name, version, after, codes)) for name, version, codes in rules.drivable(request)]
    for wake_at, key, deaths, recoveries, *about in merge(*due, *refused):
        if rules.may_drive(request, *about):
            yield rules.Candidate(run_key=key, wake_at=wake_at, deaths=deaths, max_recoveries=recoveries, queue=queue)


def _due_in_line(ask: Ask, request: ClaimRequest, queue: str, now: Micros) -> Iterator[rules.Candidate]:
    """Runs in line that are due, by priority, due time and age."""
    for line in _lines(ask, request, queue, -1):
        yield from takewhile(lambda each: _is_due(each, now), line)


def _lines(ask: Ask, request: ClaimRequest, queue: str, after: Micros) -> Iterator[Iterator[rules.Candidate]]:
    """For each priority the runs in line, by due time and age."""
    asked = [(name, version) for name, version, _ in rules.drivable(request)]
    priority = -PRIORITY_MAX - 1
    while (found := only(ask(NEXT_PRIORITY, (_json(asked), queue, priority)))[0]) is not None:
        priority = int(found)
        yield _line(request, [ask(LINE, (queue, *each, priority, after)) for each in asked], queue)


def _line(request: ClaimRequest, answers: Sequence[Rows], queue: str) -> Iterator[rules.Candidate]:
    for wake_at, key, deaths, recoveries, *about, queue_key in merge(*answers):
        if rules.may_drive(request, *about):
            yield rules.Candidate(
                run_key=key,
                wake_at=wake_at,
                deaths=deaths,
                max_recoveries=recoveries,
                queue=queue,
                queue_key=queue_key,
                is_in_line=True,
            )


def _take(tx: Tx, candidate: rules.Candidate, worker_key: WorkerKey, name: str, now: Micros, *, alone: bool) -> Claimed:
    run = _run(tx, candidate.run_key)
    owner = tx.execute(_OWNER, (run.worker_key,)).fetchone() if run.worker_key is not None else None
    event = rules.claim_event(name, *owner) if owner else rules.claim_event(name)
    run = _append(tx, run, event, rules.status_after_claim(run.status), candidate.deaths, worker_key, now)
    entries, previous = read.journal_from(tx.ask, run.run_key, run.base)
    inbox = read.mail(tx.ask, run.run_key, run.inbox_done) if run.inbox_seq > run.inbox_done else []
    attempts = read.attempts(tx.ask, run.run_key)
    created = entries[0].events if entries and run.base == 1 else read.created(tx.ask, run.run_key)
    return Claimed(replace(run, created=created), entries, attempts, inbox, alone, previous)


def _give_up(tx: Tx, candidate: rules.Candidate, now: Micros) -> str:
    run = _run(tx, candidate.run_key)
    verdict = death_of(candidate.deaths)
    run = _append(tx, run, verdict, Status.DEAD, candidate.deaths, None, now)
    tx.execute(_DROP_ATTEMPTS, (run.run_key,))
    if run.queue:
        queues.leave(tx, run.run_key)
    write.tell_parent(tx, run.run_key, verdict)
    write.close_family(tx, run)
    return run.run_id


def _append(
    tx: Tx, run: RunRecord, event: Event, status: Status, deaths: int, worker_key: WorkerKey | None, now: Micros
) -> RunRecord:
    """The entry of somebody who is not the owner: it raises the epoch, so whoever was the owner is fenced (P7)."""
    at = max(run.updated_at, now)
    entry = seal(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, [event])
    write.insert_unasked(tx, entry)
    refused_by = "" if status.is_at_rest else run.refused_by
    numbers = (entry.run_key, entry.version, entry.hash, entry.epoch, at)
    tx.execute(_TAKE, (*numbers, status, worker_key, deaths, refused_by, status.is_at_rest))
    return replace(
        run,
        status=status,
        version=entry.version,
        hash=entry.hash,
        epoch=entry.epoch,
        worker_key=worker_key,
        wake_at=None,
        updated_at=at,
        deaths=deaths,
        refused_by=refused_by,
    )


def _run(tx: Tx, run_key: RunKey) -> RunRecord:
    run = read.run_by_key(tx.ask, run_key)
    assert run is not None, "chosen in this transaction"
    return run


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
