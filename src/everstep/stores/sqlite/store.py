"""
The store: each verb of the contract, as one transaction or one look.

Nothing is decided here. Reading goes to a connection of its own, so it works while anybody writes; writing goes through
``Writer``, one transaction at a time; ``Watch`` and ``Changes`` tell those who wait.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
from msgspec.structs import replace

from everstep.errors import StoreUnavailable
from everstep.journal import Entry
from everstep.limits import QueueChange, QueueRecord
from everstep.records import (
    NO_PROFILE,
    AttemptRecord,
    BodyKind,
    Message,
    Micros,
    Pulse,
    RunKey,
    RunRecord,
    WorkerKey,
    WorkerProfile,
    WorkerRecord,
)
from everstep.stores import rules
from everstep.stores.base import (
    ANY_BODY,
    ClaimRequest,
    Claims,
    Created,
    Exists,
    Landed,
    NewRun,
    Outcome,
    RolledBack,
    RunFilter,
    Settlement,
    Slot,
    TransactionBody,
    Woken,
    Write,
)
from everstep.stores.changes import Changes
from everstep.stores.migrations import Migration, refuse_worker
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest
from everstep.stores.sqlite import (
    callers,
    claim,
    connection,
    faults,
    prune,
    queues,
    read,
    schema,
    trim,
    user_tx,
    workers,
    write,
)
from everstep.stores.sqlite.ask import Ask, asking
from everstep.stores.sqlite.clock import StoreClock, wall_clock
from everstep.stores.sqlite.oslock import WorkerLocks
from everstep.stores.sqlite.transaction import Tx, Writer
from everstep.stores.sqlite.upkeep import SQLiteUpkeep
from everstep.stores.sqlite.user_tx import UserTransactions
from everstep.stores.sqlite.watch import LOOK_SECONDS, Watch

PATIENCE_SECONDS = 10.0
"""How long another process may hold the lock before a verb gives up."""
_BACKOFF_SECONDS = 0.005

T = TypeVar("T")


class _Open:
    """What exists only while the store is open."""

    def __init__(self, path: Path, now: StoreClock, patience_seconds: float, connect: Callable[[], apsw.Connection]) -> None:
        writing = connect()
        try:
            self.reading = connection.open_for_reading(path)
            self.locks = WorkerLocks(path)
            self.watch = Watch(path, writing, self.locks)
        except BaseException:
            writing.close()
            raise
        self.ask = asking(self.reading)
        self.writer = Writer(writing, path, now, patience_seconds)
        self.users = UserTransactions(self.writer, path, now, connect)
        self.workers: set[WorkerKey] = set()


class SQLiteStore:
    """A store in one file. Belongs to the event loop that opened it; any number of processes may open the same file.

    Args:
        path: The file; created if missing, in a directory that exists.
        now: The clock of this machine: microseconds since the Unix epoch.
        monotonic: The clock that leases count on, the same in all processes: seconds.
        patience_seconds: How long another process may hold the lock before a verb raises StoreUnavailable.
        migrations: The versions of the schema that are known, in order. For tests.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        now: Callable[[], Micros] = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
        migrations: Sequence[Migration] = schema.MIGRATIONS,
    ) -> None:
        self.path = Path(path).absolute()
        self.url = f"sqlite:///{self.path}"
        self.commits_inline = True
        self.joins_unopened = True  # ``callers`` says why.
        self.now = StoreClock(now)
        self._monotonic = monotonic
        self._patience_seconds = patience_seconds
        self._migrations = migrations
        self._changes = Changes()
        self._open: _Open | None = None

    async def open(self) -> None:
        """See Store."""
        if self._open is None:
            callers.refuse_beside_sqlite3(self.path)
            self._open = await self._patiently(lambda: _Open(self.path, self.now, self._patience_seconds, self._connect))
            callers.note_open(self.path)

    async def close(self) -> None:
        """See Store."""
        if self._open is None:
            return
        state = self._open
        try:
            for worker_key in list(state.workers):
                await self.retire(worker_key)
        finally:
            self._open = None
            callers.note_closed(self.path)
            with faults.translating(self.path):
                async with AsyncExitStack() as left:  # in reverse, and each of them even if another one fails
                    left.push_async_callback(state.writer.close)
                    left.push_async_callback(state.users.close)
                    left.callback(state.reading.close)
                    left.callback(state.locks.close)

    def upkeep(self) -> SQLiteUpkeep:
        """What operators do with the store as a whole. It is a connection of its own, not yet opened."""
        return SQLiteUpkeep(self.path, known=self._migrations, monotonic=self._monotonic)

    def kill(self, worker_key: WorkerKey) -> None:
        """For tests: release the worker's lock, as the death of its process would."""
        self._state().locks.let_go(worker_key)

    # --- workers ------------------------------------------------------------------------------------------------------------

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        """See Store."""
        state = self._state()
        locked: list[WorkerKey] = []

        def work(tx: Tx) -> WorkerKey:
            min_version, known = workers.min_version(tx), len(self._migrations)
            if min_version > known:
                raise refuse_worker(str(self.path), known, min_version)
            now = (self._monotonic(), self.now())
            worker_key = workers.enlist(tx, name, lease_seconds, profile, now=now, schema_version=known)
            state.locks.hold(worker_key)
            locked.append(worker_key)
            return worker_key

        try:
            worker_key = await state.writer.run(work)
        except StoreUnavailable:
            # The key was not given out for good: whoever gets it must find its lock free.
            for each in locked:
                state.locks.let_go(each)
            raise
        state.workers.add(worker_key)
        self._changes.join(worker_key)
        return worker_key

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        """See Store."""
        return await self._state().writer.run(lambda tx: workers.heartbeat(tx, worker_key, self._monotonic()))

    async def drain(self, worker_key: WorkerKey) -> bool:
        """See Store."""
        return await self._state().writer.run(lambda tx: workers.drain(tx, worker_key))

    async def retire(self, worker_key: WorkerKey) -> None:
        """See Store."""
        state = self._state()
        forgotten = await state.writer.run(lambda tx: workers.retire(tx, worker_key))
        state.locks.let_go(worker_key)
        state.workers.discard(worker_key)
        self._forget(forgotten)
        self._changes.leave(worker_key)

    async def workers(self) -> list[WorkerRecord]:
        """See Store."""
        locks = self._state().locks
        return await self._read(lambda ask: read.workers(ask, locks, self._monotonic()))

    # --- writing ------------------------------------------------------------------------------------------------------------

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See Store."""
        for new in runs:
            rules.check_new(new)
        answers = await self._state().writer.run(lambda tx: write.create(tx, runs))
        self._changes.mark()
        return answers

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """See Store."""
        writer = self._state().writer
        try:
            outcomes = await writer.run(partial(write.land_all, batch=batch))
        except (StoreUnavailable, *faults.OF_ONE_WRITE) as error:
            if not faults.blames_one_write(error):
                raise
            outcomes = await writer.run(partial(write.land_each, batch=batch))
        for each, outcome in zip(batch, outcomes, strict=True):
            if rules.is_news(each) and isinstance(outcome, Landed):
                self._changes.mark(each.worker_key)
        return outcomes

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        """See TransactingStore. The body gets an ``everstep.SQLiteTx``; its tables stand in the same file."""
        user_tx.refuse_others(kind, self.url)
        return await self._state().users.run(slot, body)

    def gave_way(self, error: BaseException) -> bool:
        """See TransactingStore. Transactions come one after the other here, so none is in another's way."""
        return False

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See JoiningStore. Takes connections of apsw, sqlite3 and SQLAlchemy; needs not be open."""
        for new in runs:
            rules.check_text(new.created, f"run {new.run_id}")
        with callers.joined(connection, self.path, self.now, len(self._migrations)) as tx:
            return write.create(tx, runs)

    async def post_in(self, connection: Any, run_id: str, message: Message) -> RunRecord | None:
        """See JoiningStore."""
        rules.check_text(message.event, f"the message to run {run_id}")
        with callers.joined(connection, self.path, self.now, len(self._migrations)) as tx:
            return write.post(tx, run_id, message) if rules.is_text(run_id) else None

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """See Store."""
        rules.check_text(message.event, f"the message to run {run_id}")
        if not rules.is_text(run_id):
            return None
        run = await self._state().writer.run(lambda tx: write.post(tx, run_id, message))
        self._changes.mark()
        return run

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        """See Store."""
        rules.check_text(message.event, f"the message to run {run_id}")
        if not rules.is_text(run_id):
            return Woken(None)
        woken = await self._state().writer.run(lambda tx: claim.wake(tx, run_id, message, request))
        self._changes.mark(request.worker_key if woken.claimed is not None else None)
        return woken

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        """See Store."""
        rules.check_text(settlement.events, f"the entry for run {settlement.run_key}")
        run = await self._state().writer.run(lambda tx: write.settle(tx, settlement))
        self._changes.mark()
        return run

    async def prune(self, request: PruneRequest) -> Pruned:
        """See Store."""
        found = await self._read(lambda ask: prune.places(ask, request))
        if request.dry_run or not found:
            return await self._read(lambda ask: prune.foresee(ask, request, found))
        return await self._state().writer.run(lambda tx: prune.prune(tx, request, found))

    async def trim(self, request: TrimRequest) -> int | Kept:
        """See Store."""
        old = await self._read(lambda ask: trim.look(ask, request))
        if old is None:
            return 0
        if request.dry_run:
            return await self._read(lambda ask: trim.foresee(ask, request, old))
        return await self._state().writer.run(lambda tx: trim.trim(tx, request, old))

    async def configure(self, change: QueueChange) -> QueueRecord:
        """See Store."""
        queue = await self._state().writer.run(lambda tx: queues.configure(tx, change))
        self._changes.mark()
        return queue

    async def queues(self) -> list[QueueRecord]:
        """See Store."""
        return await self._read(lambda ask: queues.standings(ask, self.now()))

    # --- claiming -----------------------------------------------------------------------------------------------------------

    async def claim(self, request: ClaimRequest) -> Claims:
        """See Store."""
        state = self._state()
        seen = await self._read(lambda ask: claim.look(ask, request, state.locks, self.now(), self._monotonic()))
        state.watch.others = seen.living
        if seen.name is None:
            return Claims([])
        if not seen.is_worth_it:
            return Claims([], seen.next_due_at, died=[], next_expiry_at=seen.next_expiry_at)
        claims, forgotten = await state.writer.run(lambda tx: claim.claim(tx, request, seen.died))
        self._forget(forgotten)
        if claims.runs or claims.died:
            self._changes.mark(request.worker_key)
        return replace(claims, next_expiry_at=seen.next_expiry_at)

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """See Store."""
        deadline, since = time.monotonic() + timeout, self._changes.count
        while True:
            state = self._state()
            if state.watch.look(may_ask=state.writer.is_idle):
                self._changes.mark()
            left = deadline - time.monotonic()
            if await self._changes.wait(worker_key, since, min(left, LOOK_SECONDS)):
                return True
            if left <= 0:
                return False

    # --- reading ------------------------------------------------------------------------------------------------------------

    async def pull(self, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
        """See Store."""
        return await self._read(lambda ask: read.unread_by_owner(ask, worker_key))

    async def mail(self, run_key: RunKey, after: int = 0, dedupe: str = "") -> list[Message]:
        """See Store."""
        return await self._read(lambda ask: read.mail(ask, run_key, after, dedupe)) if rules.is_text(dedupe) else []

    async def get(self, run_id: str) -> RunRecord | None:
        """See Store."""
        return await self._read(lambda ask: read.run(ask, run_id)) if rules.is_text(run_id) else None

    async def load(self, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
        """See Store."""
        return await self._read(lambda ask: read.load(ask, run_key, up_to))

    async def attempts(self, run_key: RunKey) -> list[AttemptRecord]:
        """See Store."""
        return await self._read(lambda ask: read.attempts(ask, run_key))

    async def list(self, query: RunFilter) -> list[RunRecord]:
        """See Store."""
        if not rules.is_text(query.workflow, query.id_prefix, query.queue, query.queue_key):
            return []
        return await self._read(lambda ask: read.runs(ask, query))

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _connect(self) -> apsw.Connection:
        return connection.open_for_writing(self.path, self._migrations, self._monotonic)

    def _state(self) -> _Open:
        if self._open is None:
            raise StoreUnavailable(f"the store {self.path} is not open. Nothing was read or written. Call open() first.")
        return self._open

    async def _read(self, question: Callable[[Ask], T]) -> T:
        ask = self._state().ask
        return await self._patiently(lambda: question(ask))

    async def _patiently(self, attempt: Callable[[], T]) -> T:
        """Readers wait for nobody, except while a log is being recovered or a file created."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                return attempt()
            except apsw.Error as error:
                if not faults.is_locked(error) or time.monotonic() > deadline:
                    raise faults.translated(error, self.path) from error
            await asyncio.sleep(_BACKOFF_SECONDS * random.uniform(0.5, 1.5))

    def _forget(self, worker_keys: Sequence[WorkerKey]) -> None:
        for worker_key in worker_keys:
            self._state().locks.forget(worker_key)
