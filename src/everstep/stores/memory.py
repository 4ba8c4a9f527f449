"""
The reference store: everything in dictionaries, nothing survives the process. For tests, and to say plainly what a store does.

Where this file and another store disagree, one of them is wrong; ``tests/stores/test_differential.py`` finds out. Time comes in
as two functions, so that a test decides what it is. Several engines of one process may share one object; a worker is declared
dead when its lease runs out, or when a test calls ``kill``.

No verb suspends (but ``wait_for_work`` and ``transact``), so each is a transaction by itself: it decides first and then changes
everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from everstep.errors import StoreUnavailable
from everstep.events import Event, RunDied, encode_events
from everstep.journal import GENESIS, Entry, entry_hash, seal_bytes
from everstep.limits import QueueChange, QueueRecord, changed
from everstep.records import (
    NO_PROFILE,
    AttemptRecord,
    BodyKind,
    Message,
    Micros,
    Pulse,
    RunKey,
    RunRecord,
    Status,
    WorkerKey,
    WorkerProfile,
    WorkerRecord,
)
from everstep.stores import queueing, rules
from everstep.stores.base import (
    ANY_BODY,
    Append,
    Claimed,
    ClaimRequest,
    Claims,
    Created,
    Exists,
    Fenced,
    Keep,
    Landed,
    NewRun,
    Outcome,
    Reply,
    RolledBack,
    RunFilter,
    Settlement,
    Slot,
    TransactionBody,
    Woken,
    Write,
    death_of,
)
from everstep.stores.changes import Changes
from everstep.stores.pruning import Candidate, Kept, Pruned, PruneRequest, TrimRequest, Verdict, judge, tally


class _Run(Struct):
    record: RunRecord
    entries: list[Entry] = []
    inbox: list[Message] = []
    attempts: dict[str, AttemptRecord] = {}
    forked_from: RunKey | None = None
    dedupes: bool = False

    @property
    def trimmed(self) -> int:
        """Version of the last entry that was trimmed; 0 for none."""
        return self.entries[1].version - 1 if len(self.entries) > 1 and self.entries[1].version > 2 else 0

    def place(self, version: int) -> int:
        """Where the entry of this version stands, or would."""
        return version - max(self.trimmed, 1) if version > 1 else 0

    def entry(self, version: int) -> Entry | None:
        """The entry of this version, if it is there."""
        place = self.place(version)
        found = self.entries[place] if 0 <= place < len(self.entries) else None
        return found if found is not None and found.version == version else None

    def waiting(self) -> list[Message]:
        return self.inbox[self.record.inbox_done :]

    def answer(self, reply: Reply) -> None:
        for place, message in enumerate(self.inbox):
            if reply.dedupe and message.dedupe == reply.dedupe and message.reply is None:
                self.inbox[place] = replace(message, reply=reply.event)


class _Worker(Struct):
    key: WorkerKey
    name: str
    lease_seconds: float
    heartbeat: float
    enlisted_at: Micros
    profile: WorkerProfile
    locked: bool = True
    draining: bool = False
    gone: str = ""  # why it is not alive; empty while it is
    was_alone: bool = False


class Tables(Protocol):
    """The tables of users."""

    async def transact(
        self,
        body: TransactionBody,
        look: Callable[[], Outcome | None],
        answer: Callable[[Append], Outcome | None],
        land: Callable[[Append], None],
    ) -> Outcome | RolledBack: ...


def _now() -> Micros:
    return time.time_ns() // 1000


class MemoryStore:
    """A store that lives as long as this object.

    Args:
        now: The store's clock: microseconds since the Unix epoch, never going back.
        monotonic: The clock that leases count on: seconds.
    """

    def __init__(self, now: Callable[[], Micros] = _now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.url = "memory://"
        self.commits_inline = True
        self._clock = now
        self._latest = 0
        self._monotonic = monotonic
        self._is_open = False
        self._runs: dict[RunKey, _Run] = {}
        self._keys: dict[str, RunKey] = {}
        self._created_count = 0
        self._workers: dict[WorkerKey, _Worker] = {}
        self._queues: dict[str, QueueRecord] = {}
        self._admissions: dict[str, list[Micros]] = {}
        self._enlisted_count = 0
        self._changes = Changes()
        self._tables: Tables | None = None

    def now(self) -> Micros:
        """See Store."""
        self._latest = max(self._latest, self._clock())
        return self._latest

    async def open(self) -> None:
        """See Store. What was stored before a ``close`` is still there."""
        self._is_open = True

    async def close(self) -> None:
        """See Store."""
        if not self._is_open:
            return
        for worker_key in list(self._workers):
            await self.retire(worker_key)
        self._is_open = False

    def kill(self, worker_key: WorkerKey) -> None:
        """For tests: the worker's process dies now. The next claim of another worker finds out."""
        self._workers[worker_key].locked = False
        self._changes.mark()

    # --- workers ------------------------------------------------------------------------------------------------------------

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        """See Store."""
        self._check_open()
        self._enlisted_count += 1
        key = self._enlisted_count
        self._workers[key] = _Worker(key, name, lease_seconds, self._monotonic(), self.now(), profile)
        self._changes.join(key)
        return key

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        """See Store."""
        self._check_open()
        if not self._is_alive(worker_key):
            return Pulse.GONE
        worker = self._workers[worker_key]
        worker.heartbeat = self._monotonic()
        return Pulse.DRAINING if worker.draining else Pulse.ALIVE

    async def drain(self, worker_key: WorkerKey) -> bool:
        """See Store."""
        self._check_open()
        if not self._is_alive(worker_key):
            return False
        self._workers[worker_key].draining = True
        return True

    async def retire(self, worker_key: WorkerKey) -> None:
        """See Store."""
        self._check_open()
        worker = self._workers.get(worker_key)
        if worker is not None:
            worker.locked = False
            if not worker.gone:
                worker.gone = rules.RETIRED
                self._forget_idle_dead()
        self._changes.leave(worker_key)

    async def workers(self) -> list[WorkerRecord]:
        """See Store."""
        self._check_open()
        return [
            WorkerRecord(
                worker_key=each.key,
                name=each.name,
                alive=not each.gone,
                lease_seconds=each.lease_seconds,
                run_count=len(self._owned_by(each.key)),
                enlisted_at=each.enlisted_at,
                silent_seconds=self._monotonic() - each.heartbeat,
                draining=each.draining,
                lock="held" if each.locked else "free",
                profile=each.profile,
            )
            for each in self._workers.values()
            if not each.gone or self._owned_by(each.key)
        ]

    # --- queues -------------------------------------------------------------------------------------------------------------

    async def configure(self, change: QueueChange) -> QueueRecord:
        """See Store."""
        self._check_open()
        queue = self._queues[change.name] = changed(self._queues.get(change.name, QueueRecord(name=change.name)), change)
        self._changes.mark()
        return queue

    async def queues(self) -> list[QueueRecord]:
        """See Store."""
        self._check_open()
        return [self._counted(self._queues[name]) for name in sorted(self._queues)]

    def _counted(self, queue: QueueRecord) -> QueueRecord:
        waiting = sum(run.record.queue == queue.name and run.record.is_in_line for run in self._runs.values())
        admitted = self._held(queue.name)
        return queueing.counted(queue, waiting, admitted, self._recent(queue))

    # --- runs begin -----------------------------------------------------------------------------------------------------------

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See Store."""
        self._check_open()
        for new in runs:
            rules.check_new(new)
            self._check_fork(new)
        answers = [self._create_queued(new) for new in runs]
        self._changes.mark()
        return answers

    def _check_fork(self, new: NewRun) -> None:
        if new.forked_from is not None and new.run_id not in self._keys:
            original = self._runs.get(new.forked_from)
            rules.check_fork(new, None if original is None else original.trimmed)

    def _create_queued(self, new: NewRun) -> Created | Exists:
        existing = self._find(new.run_id) or self._twin(new)
        if existing is not None:
            return Exists(_full(existing))
        if new.queue:
            self._queues.setdefault(new.queue, QueueRecord(name=new.queue))
        self._created_count += 1
        now, key = self.now(), self._created_count
        first = Entry(key, 1, 0, now, False, new.created, entry_hash(GENESIS, key, 1, 0, now, False, new.created))
        wake_at = now if new.wake_at is None else new.wake_at
        return Created(_full(self._add(new, first, Status.QUEUED, worker_key=None, wake_at=wake_at)))

    def _add(self, new: NewRun, first: Entry, status: Status, *, worker_key: WorkerKey | None, wake_at: Micros | None) -> _Run:
        inbox = rules.first_messages(new, self.now())
        record = RunRecord(
            run_key=first.run_key,
            run_id=new.run_id,
            workflow=new.workflow,
            code_version=new.code_version,
            status=status,
            version=1,
            hash=first.hash,
            epoch=first.epoch,
            worker_key=worker_key,
            wake_at=wake_at,
            created_at=first.at,
            updated_at=first.at,
            step="",
            cursor=0,
            deaths=0,
            max_recoveries=new.max_recoveries,
            inbox_seq=len(inbox),
            inbox_done=0,
            parent_key=new.parent_key,
            parent_command=new.parent_command,
            refused_by="",
            on_parent_close=new.on_parent_close,
            family=new.family,
            pinned=new.pinned,
            queue=new.queue,
            queue_key=new.queue_key,
            priority=new.priority,
        )
        run = _Run(record, [first], inbox, forked_from=new.forked_from, dedupes=new.dedupes)
        self._runs[first.run_key] = run
        self._keys[new.run_id] = first.run_key
        return run

    def _twin(self, new: NewRun) -> _Run | None:
        """The run that is already there for a dedupe key."""
        if not (new.queue and new.queue_key and new.dedupes):
            return None
        place = (new.queue, new.queue_key)
        twins = (run for run in self._runs.values() if run.dedupes and (run.record.queue, run.record.queue_key) == place)
        return next((run for run in twins if not run.record.status.is_at_rest), None)

    # --- progress -------------------------------------------------------------------------------------------------------------

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """See Store."""
        self._check_open()
        outcomes: list[Outcome] = []
        for write in batch:
            outcome = self._answer(write)
            if outcome is None:
                self._land(write)
                outcome = Landed()
                if rules.is_news(write):
                    self._changes.mark(write.worker_key)
            outcomes.append(outcome)
        return outcomes

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        """See TransactingStore. The body gets an ``everstep.SQLiteTx``, on tables that live as long as this object.

        The one verb that lets others in while it is under way: a slot may be lost to another worker meanwhile.
        """
        self._check_open()
        from everstep.stores.sqlite import tables, user_tx  # SQLite only for those who use it

        user_tx.refuse_others(kind, self.url)
        if self._tables is None:
            self._tables = tables.UserTables()
        return await self._tables.transact(body, lambda: self._look(slot), self._answer, self._land)

    def gave_way(self, error: BaseException) -> bool:
        """See TransactingStore. Bodies run one after the other, so none is in another's way."""
        return False

    def _look(self, slot: Slot) -> Outcome | None:
        run = self._runs.get(slot.run_key)
        entry = None if run is None else run.entry(slot.version)
        stored = b"" if entry is None else entry.hash
        return rules.before_transaction(slot, None if run is None else _standing(run), stored)

    def _answer(self, write: Write) -> Outcome | None:
        """What becomes of the write, decided before anything changes. None: it lands now."""
        if isinstance(write, Keep):
            run = self._runs.get(write.run_key)
        elif write.create is None:
            run = self._runs.get(write.entry.run_key)
            if run is not None and _has(run, write.entry):
                return Landed()
        else:
            return self._answer_first(write, write.create)
        return rules.why_not(write, None if run is None else _standing(run), self.now())

    def _answer_first(self, write: Append, new: NewRun) -> Outcome | None:
        existing = self._find(new.run_id)
        if existing is not None:
            return Landed() if _has(existing, write.entry) else Exists(_full(existing))
        if write.entry.run_key in self._runs or not self._is_alive(write.worker_key):
            return Fenced()
        return rules.why_not(write, rules.unborn(write), self.now())

    def _land(self, write: Write) -> None:
        run = self._runs[write.run_key] if isinstance(write, Keep) else self._land_entry(write)
        run.record = replace(run.record, inbox_done=max(run.record.inbox_done, write.consumed))
        for attempt in write.attempts:
            run.attempts[attempt.key] = attempt
        for reply in write.replies:
            run.answer(reply)
        if rules.frees(write):
            run.record = replace(
                run.record,
                status=write.status,
                worker_key=None,
                wake_at=rules.wake_after(write, self.now()),
                refused_by=rules.refused_after(run.record.refused_by, write),
                is_admitted=run.record.is_admitted and not write.status.is_at_rest,
            )
        if isinstance(write, Append):
            self._have_effects(run, write)

    def _land_entry(self, write: Append) -> _Run:
        entry = write.entry
        if write.create is not None:
            run = self._add(write.create, entry, write.status, worker_key=write.worker_key, wake_at=None)
        else:
            run = self._runs[entry.run_key]
            run.entries.append(entry)
        run.record = replace(
            run.record,
            status=write.status,
            version=entry.version,
            hash=entry.hash,
            updated_at=entry.at,
            step=write.step,
            cursor=write.cursor,
            deaths=0,
        )
        if write.begins_segment:
            run.record = replace(run.record, base=entry.version)
        for key in write.settled:
            run.attempts.pop(key, None)
        return run

    def _have_effects(self, run: _Run, write: Append) -> None:
        answers = [self._start_child(child, write.entry) for child in write.children]
        for post in write.posts:
            addressee = self._find(post.run_id)
            if addressee is not None and rules.is_for(post, addressee.record.parent_key, addressee.record.parent_command):
                self._deliver(addressee, post.message)
        for message in (message for each in answers for message in each):
            self._deliver(run, message)
        if write.status.is_at_rest:
            run.attempts.clear()
            self._tell_parent(run, write.entry)

    def _start_child(self, child: NewRun, entry: Entry) -> Sequence[Message]:
        child = rules.as_child(child, entry.run_key)
        return rules.answers(child, self._create_queued(child), entry.version)

    def _tell_parent(self, run: _Run, entry: Entry) -> None:
        parent = None if run.record.parent_key is None else self._runs.get(run.record.parent_key)
        ending = rules.ending_of(entry.events)
        told = (run.record.parent_command, run.record.run_id, entry.version)
        message = None if ending is None else rules.outcome_message(ending, *told)
        if parent is not None and message is not None:
            self._deliver(parent, message)

    def _close_family(self, run: _Run) -> None:
        reason = f"its parent {run.record.run_id} was given up"
        for child in self._runs.values():
            if child.record.parent_key == run.record.run_key and rules.is_closed_with_parent(child.record):
                self._deliver(child, rules.cancel_message(run.record.run_key, reason))

    # --- messages -------------------------------------------------------------------------------------------------------------

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """See Store."""
        posted = self._post(run_id, message)
        self._changes.mark()
        return posted

    def _post(self, run_id: str, message: Message) -> RunRecord | None:
        self._check_open()
        rules.check_text(message.event, f"the message to run {run_id}")
        run = self._find(run_id)
        if run is None:
            return None
        self._deliver(run, message)
        return _full(run)

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        """See Store."""
        run = self._find(run_id)
        due_at = None if run is None else run.record.wake_at
        posted = self._post(run_id, message)
        is_due = posted is not None and posted.wake_at != due_at
        if posted is None or not is_due or not rules.may_wake(request, posted) or not self._is_willing(request.worker_key):
            self._changes.mark()
            return Woken(posted)
        claimed = self._take(rules.woken(posted), request.worker_key, alone=False)
        self._changes.mark(request.worker_key)
        return Woken(claimed.run, claimed)

    def _deliver(self, run: _Run, message: Message) -> None:
        record = run.record
        if record.status.is_at_rest or (message.dedupe and any(each.dedupe == message.dedupe for each in run.inbox)):
            return
        now, seq = self.now(), record.inbox_seq + 1
        run.inbox.append(replace(message, seq=seq, at=now))
        wake_at = rules.wake_by_message(record.status, record.worker_key, record.wake_at, now)
        run.record = replace(record, inbox_seq=seq, wake_at=wake_at)

    async def pull(self, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
        """See Store."""
        self._check_open()
        owned = sorted(self._owned_by(worker_key), key=lambda run: run.record.run_key)
        return [(run.record.run_key, run.waiting()) for run in owned if run.waiting()]

    # --- claiming -------------------------------------------------------------------------------------------------------------

    async def claim(self, request: ClaimRequest) -> Claims:
        """See Store."""
        self._check_open()
        if not self._is_willing(request.worker_key):
            return Claims([])
        self._bury(request.worker_key)
        orphans, sources, now = self._orphans(request), self._sources(request), self.now()
        choice = rules.choose(queueing.candidates(orphans, sources, request.turn, now), request, now)
        died = [self._give_up(each) for each in choice.dead]
        claimed = [self._take(each, request.worker_key, alone=choice.alone) for each in choice.taken]
        self._forget_idle_dead()
        if died or claimed:
            self._changes.mark(request.worker_key)
        others = [each for each in self._workers.values() if not each.gone and each.key != request.worker_key]
        leases = [(each.heartbeat, each.lease_seconds) for each in others]
        next_expiry_at = rules.expiry_at(leases, self._monotonic(), self.now())
        return Claims(claimed, choice.next_due_at, choice.suspects_wait, died, next_expiry_at)

    def _is_willing(self, worker_key: WorkerKey) -> bool:
        return self._is_alive(worker_key) and not self._workers[worker_key].draining

    def _bury(self, claimer_key: WorkerKey) -> None:
        """Mark every worker dead whose death can be proved now."""
        for worker in self._workers.values():
            if worker.gone or worker.key == claimer_key:
                continue
            if not worker.locked:
                worker.gone = rules.KILLED
            elif rules.is_expired(worker.heartbeat, worker.lease_seconds, self._monotonic()):
                worker.gone = rules.LEASE_EXPIRED
            worker.was_alone = bool(worker.gone) and len(self._owned_by(worker.key)) == 1

    def _orphans(self, request: ClaimRequest) -> Iterator[rules.Candidate]:
        lost = [run.record for run in self._runs.values() if _may_drive(request, run.record) and self._is_orphan(run.record)]
        for each in sorted(lost, key=lambda record: (record.worker_key, record.run_key)):
            worker = self._workers[each.worker_key or 0]
            limits = (each.deaths, each.max_recoveries)
            yield rules.orphan(each.run_key, *limits, worker.gone, was_alone=worker.was_alone, queue=each.queue)

    def _is_orphan(self, run: RunRecord) -> bool:
        return run.worker_key is not None and not self._is_alive(run.worker_key)

    def _sources(self, request: ClaimRequest) -> list[queueing.Source]:
        unowned = [
            run.record for run in self._runs.values() if _may_drive(request, run.record) and run.record.worker_key is None
        ]
        names = sorted(self._queues) if request.queues is None else sorted({*request.queues} & self._queues.keys())
        rooms = [self._room(self._queues[name], request.worker_key) for name in names]
        if request.queues is None:
            rooms.insert(0, queueing.Room())
        return [self._source(room, [run for run in unowned if run.queue == room.queue]) for room in rooms]

    def _source(self, room: queueing.Room, unowned: Sequence[RunRecord]) -> queueing.Source:
        now = self.now()
        waiting = [(each.wake_at, each) for each in unowned if each.wake_at is not None]
        awake = [(at, each) for at, each in waiting if not each.is_in_line]
        line = [(at, each) for at, each in waiting if each.is_in_line]
        due = [(at, each) for at, each in line if at <= now]
        # Nobody need be told of a run whose key has no room: whatever makes room is news.
        open_at = [at for at, each in line if at > now or not self._is_full(room, each.queue_key)]
        return queueing.Source(
            room,
            [_candidate(each) for at, each in sorted(awake, key=lambda it: (it[0], it[1].run_key)) if at <= now],
            [_candidate(each) for _, each in sorted(due, key=lambda it: (it[1].priority, it[0], it[1].run_key))],
            lambda key: self._held(room.queue, key),
            lambda after: min((at for at, _ in awake if at > after), default=None),
            lambda after: min((at for at in open_at if at > after), default=None),
        )

    def _is_full(self, room: queueing.Room, key: str) -> bool:
        per_key = room.limits.per_key
        return bool(key) and per_key is not None and self._held(room.queue, key) >= per_key

    def _held(self, queue: str, key: str = "") -> int:
        """Runs in progress, of all keys or of one."""
        records = (run.record for run in self._runs.values() if run.record.queue == queue and run.record.is_admitted)
        return sum(not key or record.queue_key == key for record in records)

    def _room(self, queue: QueueRecord, worker_key: WorkerKey) -> queueing.Room:
        driven = sum(run.record.queue == queue.name for run in self._owned_by(worker_key))
        return queueing.room_of(queue, self._held(queue.name), driven, self._recent(queue))

    def _recent(self, queue: QueueRecord) -> list[Micros]:
        since = self.now() - queue.limits.window
        return [at for at in self._admissions.get(queue.name, ()) if at > since]

    def _admit(self, run: _Run) -> None:
        run.record = replace(run.record, is_admitted=True)
        queue = self._queues[run.record.queue]
        if queue.limits.rate is not None:
            self._admissions[queue.name] = [*self._recent(queue), self.now()]

    def _take(self, candidate: rules.Candidate, worker_key: WorkerKey, *, alone: bool) -> Claimed:
        run = self._runs[candidate.run_key]
        name, previous = self._workers[worker_key].name, self._workers.get(run.record.worker_key or 0)
        event = rules.claim_event(name, previous.name, previous.gone) if previous else rules.claim_event(name)
        self._append_by_store(run, event, rules.status_after_claim(run.record.status), candidate.deaths, worker_key)
        if candidate.is_in_line:
            self._admit(run)
        place = run.place(run.record.base)
        before = GENESIS if not place else run.entries[place].anchor or run.entries[place - 1].hash
        return Claimed(_full(run), run.entries[place:], _sorted_attempts(run), run.waiting(), alone, before)

    def _give_up(self, candidate: rules.Candidate) -> str:
        run = self._runs[candidate.run_key]
        self._append_by_store(run, death_of(candidate.deaths), Status.DEAD, candidate.deaths, None)
        run.attempts.clear()
        self._tell_parent(run, run.entries[-1])
        self._close_family(run)
        return run.record.run_id

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        """See Store."""
        self._check_open()
        rules.check_text(settlement.events, f"the entry for run {settlement.run_key}")
        run = self._runs.get(settlement.run_key)
        if run is None or run.record.worker_key is not None or run.record.version != settlement.version:
            return None
        self._append_events(run, settlement.events, settlement.status, 0, None)
        run.record = replace(run.record, wake_at=settlement.wake_at, refused_by="")
        run.record = replace(run.record, is_admitted=run.record.is_admitted and not settlement.status.is_at_rest)
        if settlement.status.is_at_rest:
            run.attempts.clear()
            self._tell_parent(run, run.entries[-1])
            self._close_family(run)
        self._changes.mark()
        return _full(run)

    def _append_by_store(self, run: _Run, event: Event, status: Status, deaths: int, worker_key: WorkerKey | None) -> None:
        self._append_events(run, encode_events([event]), status, deaths, worker_key)
        if isinstance(event, RunDied):
            run.record = replace(run.record, refused_by="", is_admitted=False)

    def _append_events(self, run: _Run, events: bytes, status: Status, deaths: int, worker_key: WorkerKey | None) -> None:
        record = run.record
        at = max(record.updated_at, self.now())
        entry = seal_bytes(
            record.hash, record.run_key, record.version + 1, record.epoch + 1, at, False, events, keep_whole=True
        )
        run.entries.append(entry)
        run.record = replace(
            record,
            status=status,
            version=entry.version,
            hash=entry.hash,
            epoch=entry.epoch,
            worker_key=worker_key,
            wake_at=None,
            updated_at=at,
            deaths=deaths,
        )

    # --- reading --------------------------------------------------------------------------------------------------------------

    async def get(self, run_id: str) -> RunRecord | None:
        """See Store."""
        self._check_open()
        run = self._find(run_id)
        return None if run is None else _full(run)

    async def mail(self, run_key: RunKey, after: int = 0, dedupe: str = "") -> list[Message]:
        """See Store."""
        self._check_open()
        run = self._runs.get(run_key)
        inbox = [] if run is None else run.inbox[after:]
        return [message for message in inbox if not dedupe or message.dedupe == dedupe]

    async def load(self, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
        """See Store."""
        self._check_open()
        run = self._runs.get(run_key)
        return [] if run is None else [each for each in run.entries if up_to is None or each.version <= up_to]

    async def attempts(self, run_key: RunKey) -> list[AttemptRecord]:
        """See Store."""
        self._check_open()
        run = self._runs.get(run_key)
        return [] if run is None else _sorted_attempts(run)

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """See Store."""
        self._check_open()
        return await self._changes.wait(worker_key, self._changes.count, timeout)

    async def list(self, query: RunFilter) -> list[RunRecord]:
        """See Store."""
        self._check_open()
        rules.check_filter(query)
        newest_first = sorted((run.record for run in self._runs.values()), key=_age, reverse=True)
        if query.before is not None:
            limit = self._runs.get(query.before)
            newest_first = [] if limit is None else [each for each in newest_first if _age(each) < _age(limit.record)]
        return [each for each in newest_first if _matches(each, query)][: query.limit]

    # --- forgetting -----------------------------------------------------------------------------------------------------------

    async def prune(self, request: PruneRequest) -> Pruned:
        """See Store."""
        self._check_open()
        newest_first = sorted((run.record for run in self._runs.values()), key=_age, reverse=True)
        wanted = [
            each
            for each in newest_first
            if each.status in request.statuses
            and each.updated_at < request.ended_before
            and (request.after is None or _age(each) < request.after)
        ][: request.limit]
        children: dict[RunKey, list[RunKey]] = {}
        for record in newest_first:
            if record.parent_key is not None:
                children.setdefault(record.parent_key, []).append(record.run_key)

        def look(run_key: RunKey) -> Candidate | None:
            run = self._runs.get(run_key)
            return None if run is None else self._candidate(run.record, children.get(run_key, ()))

        verdicts = [self._forget(judge(each.run_key, request, look), request) for each in wanted]
        return tally(verdicts, request, _age(wanted[-1]) if len(wanted) == request.limit else None)

    def _candidate(self, record: RunRecord, children: Sequence[RunKey]) -> Candidate:
        parent = None if record.parent_key is None else self._runs.get(record.parent_key)
        return Candidate(
            run_key=record.run_key,
            status=record.status,
            ended_at=record.updated_at,
            entry_count=record.version,
            parent_status=None if parent is None else parent.record.status,
            children=children,
            forks=[key for key, run in self._runs.items() if run.forked_from == record.run_key],
        )

    def _forget(self, verdict: Verdict, request: PruneRequest) -> Verdict:
        if isinstance(verdict, list) and not request.dry_run:
            for each in verdict:
                del self._keys[self._runs.pop(each.run_key).record.run_id]
        return verdict

    async def trim(self, request: TrimRequest) -> int | Kept:
        """See Store."""
        self._check_open()
        run = self._runs.get(request.run_key)
        if run is None or request.before > run.record.base or request.before <= max(run.trimmed + 1, 2):
            return 0
        if any(each.forked_from == request.run_key for each in self._runs.values()):
            return Kept.FORK
        place = run.place(request.before)
        if not request.dry_run:
            kept = replace(run.entries[place], anchor=run.entries[place - 1].hash)
            run.entries = [run.entries[0], kept, *run.entries[place + 1 :]]
        return place - 1

    # --- small questions ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store memory:// is not open. Nothing was read or written. Call open() first.")

    def _find(self, run_id: str) -> _Run | None:
        run_key = self._keys.get(run_id)
        return None if run_key is None else self._runs[run_key]

    def _is_alive(self, worker_key: WorkerKey) -> bool:
        worker = self._workers.get(worker_key)
        return worker is not None and not worker.gone

    def _owned_by(self, worker_key: WorkerKey) -> Sequence[_Run]:
        return [run for run in self._runs.values() if run.record.worker_key == worker_key]

    def _forget_idle_dead(self) -> None:
        for worker in list(self._workers.values()):
            if worker.gone and not self._owned_by(worker.key):
                del self._workers[worker.key]


def _full(run: _Run) -> RunRecord:
    outcome = run.entries[-1].events if run.record.status.is_at_rest else None
    return replace(run.record, created=run.entries[0].events, outcome=outcome)


def _may_drive(request: ClaimRequest, run: RunRecord) -> bool:
    return rules.may_drive(request, run.run_id, run.workflow, run.refused_by, run.pinned, run.family, run.queue)


def _has(run: _Run, entry: Entry) -> bool:
    stored = run.entry(entry.version)
    return stored is not None and stored.hash == entry.hash


def _standing(run: _Run) -> rules.Standing:
    record = run.record
    return rules.Standing(record.version, record.epoch, record.worker_key, record.inbox_seq, record.inbox_done)


def _sorted_attempts(run: _Run) -> list[AttemptRecord]:
    return [run.attempts[key] for key in sorted(run.attempts)]


def _candidate(run: RunRecord) -> rules.Candidate:
    return rules.Candidate(
        run_key=run.run_key,
        wake_at=run.wake_at,
        deaths=run.deaths,
        max_recoveries=run.max_recoveries,
        queue=run.queue,
        queue_key=run.queue_key,
        is_in_line=run.is_in_line,
    )


def _age(record: RunRecord) -> tuple[Micros, RunKey]:
    return record.created_at, record.run_key


def _matches(record: RunRecord, query: RunFilter) -> bool:
    return (
        (not query.statuses or record.status in query.statuses)
        and (not query.workflow or record.workflow == query.workflow)
        and record.run_id.startswith(query.id_prefix)
        and (query.created_from is None or record.created_at >= query.created_from)
        and (not query.queue or record.queue == query.queue)
        and (not query.queue_key or record.queue_key == query.queue_key)
        and (not query.is_admitted or record.is_admitted)
    )
