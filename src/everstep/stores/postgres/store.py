"""
The store: each verb of the contract, as one statement or one transaction.

Nothing is decided here. ``Pool`` lends a connection for the time of a verb, ``Watch`` hears what others did, ``Changes`` tells
those who wait.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from everstep.errors import StoreError, StoreUnavailable
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
    LEASE_SECONDS_DEFAULT,
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
from everstep.stores.migrations import Migration, refuse_behind, refuse_unusable, refuse_worker
from everstep.stores.postgres import begin, claim, faults, prune, queues, read, schema, settle, trim, workers
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.callers import Callers, Place, place_of
from everstep.stores.postgres.clock import ServerClock
from everstep.stores.postgres.lent import Lender
from everstep.stores.postgres.migrate import Request, migrate
from everstep.stores.postgres.pool import Again, Pool, Tx
from everstep.stores.postgres.reach import reach
from everstep.stores.postgres.upkeep import PostgresUpkeep
from everstep.stores.postgres.user_tx import UserTransactions
from everstep.stores.postgres.watch import EMPTY_SECONDS, POLL_SECONDS, PROBE_SECONDS, Seats, Watch, is_direct
from everstep.stores.postgres.workers import Seen
from everstep.stores.postgres.write import Writer
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest

_TELL: Final = "SELECT pg_notify($1, $2)"
_SOMEBODY: Final = ""
"""Who tells the news of a caller's transaction: it is committed later, so this store object has to hear of it, too."""

T = TypeVar("T")


class _Open:
    """What exists only while the store is open."""

    def __init__(
        self, address: Address, pool: Pool, writer: Writer, watch: Watch | None, seats: Seats, channel: str, place: Place
    ) -> None:
        self.pool = pool
        self.writer = writer
        self.watch = watch
        self.channel = channel
        self.seats = seats
        self.timelines: dict[WorkerKey, str] = {}
        self.lender = Lender(address, is_pooled=pool.is_pooled)
        self.callers = Callers(pool, address, place)
        self.leases: dict[WorkerKey, float] = {}
        self.polled_at = time.monotonic()

    def lease_of(self, worker_key: WorkerKey) -> float:
        """The lease of a worker of ours, in seconds."""
        return self.leases.get(worker_key, LEASE_SECONDS_DEFAULT)


class PostgresStore:
    """A store in a schema of a PostgreSQL database. Belongs to the event loop that opened it.

    Args:
        url: ``postgresql://user:password@host/database``; see ``everstep.stores.postgres.address`` for its parameters.
        now: Instead of the server's clock: microseconds since the Unix epoch. For tests.
        monotonic: Instead of the server's clock, for leases: seconds. For tests.
        empty_seconds: How long the seat of a worker must be empty until that proves its death.
        migrations: The versions of the schema that are known, in order. For tests.

    Raises:
        InvalidStoreURL: The URL cannot be read, or asyncpg is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        now: Callable[[], Micros] | None = None,
        monotonic: Callable[[], float] | None = None,
        empty_seconds: float = EMPTY_SECONDS,
        migrations: Sequence[Migration] = schema.MIGRATIONS,
    ) -> None:
        self._address = Address(url)
        self.url = self._address.shown
        self.joins_unopened = False
        self.now = ServerClock(now)
        self._monotonic = monotonic
        self._empty_seconds = empty_seconds
        self._migrations = migrations
        self._sender = secrets.token_hex(8)
        self._changes = Changes()
        self._open: _Open | None = None

    @property
    def commits_inline(self) -> bool:
        """See Store. Only connecting needs a task, because it has a time limit."""
        return self._open is not None and self._open.pool.has_idle

    def __repr__(self) -> str:
        return f"PostgresStore({self.url!r})"

    async def open(self) -> None:
        """See Store."""
        if self._open is not None:
            return
        address = self._address
        first = await reach(address)
        try:
            is_pooled = address.pooler == "yes" or (address.pooler == "auto" and not await is_direct(first, address))
        except BaseException:
            first.terminate()
            raise
        pool = Pool(address, is_pooled=is_pooled)
        try:
            await pool.ask(lambda tx: schema.check_server(tx, address))
            await self._check_schema(pool)
            place = await pool.ask(place_of)
            channel = f"everstep_{place[0]}"
            self.now.heard(await pool.ask(lambda tx: workers.time_of(tx, None)))
            watch = None
            if not is_pooled:
                watch = Watch(address, pool.names, channel, self._sender, self._changes.mark)
                await watch.begin(first)
        except faults.OF_DRIVER as error:
            first.terminate()
            await pool.close()
            raise faults.translated(error, address) from error
        except BaseException:
            first.terminate()
            await pool.close()
            raise
        if is_pooled:
            first.terminate()
        writer, seats = Writer(pool, self.now, channel, self._sender), Seats(self._empty_seconds)
        self._open = _Open(address, pool, writer, watch, seats, channel, place)

    async def close(self) -> None:
        """See Store."""
        if self._open is None:
            return
        state = self._open
        try:
            for worker_key in list(state.leases):
                with suppress(StoreUnavailable):  # Its lease will tell.
                    await self.retire(worker_key)
        finally:
            self._open = None
            await state.lender.close()
            if state.watch is not None:
                await state.watch.close()
            await state.pool.close()

    def upkeep(self) -> PostgresUpkeep:
        """What operators do with the store as a whole. It is a connection of its own, not yet opened."""
        return PostgresUpkeep(self._address, known=self._migrations, lease_now=self._lease_now)

    async def kill(self, worker_key: WorkerKey) -> None:
        """For tests: leave the worker's seat, as the death of its process would."""
        watch = self._state().watch
        if watch is not None:
            await watch.stand_up(worker_key)

    # --- workers ------------------------------------------------------------------------------------------------------------

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        """See Store."""
        state, known = self._state(), len(self._migrations)
        lease_now, enlisted_at = self._lease_now(), self.now()
        worker_key = await state.pool.ask(
            lambda tx: workers.enlist(
                tx, name, lease_seconds, profile, lease_now=lease_now, enlisted_at=enlisted_at, schema_version=known
            )
        )
        # Afterwards: a migrator that goes on to a version which is too new for us waits for workers that it can see.
        min_version = await state.pool.ask(workers.min_version)
        if min_version > known:
            await state.pool.transact(lambda tx: workers.retire(tx, worker_key, self._lease_now()))
            raise refuse_worker(self.url, known, min_version)
        if state.watch is not None:
            await state.watch.sit(worker_key)
        state.leases[worker_key] = lease_seconds
        state.timelines[worker_key] = await state.pool.ask(workers.timeline)
        self._changes.join(worker_key)
        await self._tell()  # From now on the others have somebody's seat to look at.
        return worker_key

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        """See Store."""
        pool = self._state().pool
        pulse = await pool.ask(lambda tx: workers.heartbeat(tx, worker_key, self._lease_now()))
        self.now.heard(await pool.ask(lambda tx: workers.time_of(tx, None)))
        known = self._state().timelines.get(worker_key)
        timeline = self._state().timelines[worker_key] = await pool.ask(workers.timeline)
        return Pulse.MOVED if pulse is Pulse.ALIVE and known not in (None, timeline) else pulse

    async def drain(self, worker_key: WorkerKey) -> bool:
        """See Store."""
        return await self._state().pool.ask(lambda tx: workers.drain(tx, worker_key))

    async def retire(self, worker_key: WorkerKey) -> None:
        """See Store."""
        state = self._state()
        await state.pool.transact(lambda tx: workers.retire(tx, worker_key, self._lease_now()))
        if state.watch is not None:
            await state.watch.stand_up(worker_key)
        state.leases.pop(worker_key, None)
        state.timelines.pop(worker_key, None)
        self._changes.leave(worker_key)
        await self._tell()

    async def workers(self) -> list[WorkerRecord]:
        """See Store."""
        return await self._state().pool.ask(lambda tx: read.workers(tx, self._lease_now()))

    # --- writing ------------------------------------------------------------------------------------------------------------

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See Store."""
        for new in runs:
            rules.check_new(new)
        answers = await self._state().pool.transact(lambda tx: begin.create(tx, runs, self.now.given))
        self._changes.mark()
        await self._tell()
        return answers

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """See Store."""
        state = self._state()
        outcomes = await state.writer.commit(batch)
        for each, outcome in zip(batch, outcomes, strict=True):
            if rules.is_news(each) and isinstance(outcome, Landed):
                self._changes.mark(each.worker_key)
        return outcomes

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """See Store."""
        rules.check_text(message.event, f"the message to run {run_id}")
        if not rules.is_text(run_id):
            return None
        state = self._state()

        async def work(tx: Tx) -> RunRecord | None:
            await begin.post(tx, run_id, message, self.now.given, state.channel, self._sender)
            return await read.run(tx, run_id)

        run = await state.pool.transact(work)
        self._changes.mark()
        return run

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        """See Store."""
        rules.check_text(message.event, f"the message to run {run_id}")
        if not rules.is_text(run_id):
            return Woken(None)
        state = self._state()
        ask = claim.asked(request, self.now.given, self._lease_now())

        async def work(tx: Tx) -> Woken:
            is_due = await begin.post(tx, run_id, message, self.now.given, state.channel, self._sender)
            run = await read.run(tx, run_id)
            claimed = await claim.wake(tx, ask, run) if run is not None and is_due else None
            return Woken(run) if claimed is None else Woken(claimed.run, claimed)

        woken = await state.pool.transact(work)
        self._changes.mark(request.worker_key if woken.claimed is not None else None)
        return woken

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        """See TransactingStore. The body gets a connection of asyncpg, psycopg or SQLAlchemy, whichever it asks for."""
        state = self._state()
        news = (state.channel, self._sender)
        users = UserTransactions(state.pool, state.lender, self._address, self.now, state.lease_of, news)
        outcome = await users.run(slot, body, kind)
        if isinstance(outcome, Landed):
            self._changes.mark(slot.worker_key)
        return outcome

    def gave_way(self, error: BaseException) -> bool:
        """See TransactingStore."""
        return isinstance(error, Again) or faults.gave_way(error)

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See JoiningStore. Takes connections of asyncpg, psycopg and SQLAlchemy."""
        for new in runs:
            rules.check_new(new)
        state = self._state()

        async def work(tx: Tx) -> list[Created | Exists]:
            answers = await begin.create(tx, runs, self.now.given)
            await tx.fetch(_TELL, state.channel, _SOMEBODY)
            return answers

        return await state.callers.write(connection, work)

    async def post_in(self, connection: Any, run_id: str, message: Message) -> RunRecord | None:
        """See JoiningStore."""
        rules.check_text(message.event, f"the message to run {run_id}")
        state = self._state()

        async def work(tx: Tx) -> RunRecord | None:
            if not rules.is_text(run_id):
                return None
            await begin.post(tx, run_id, message, self.now.given, state.channel, _SOMEBODY)
            return await read.run(tx, run_id)

        return await state.callers.write(connection, work)

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        """See Store."""
        rules.check_text(settlement.events, f"the entry for run {settlement.run_key}")
        run = await self._state().pool.transact(lambda tx: settle.settle(tx, settlement, self.now.given))
        self._changes.mark()
        await self._tell()
        return run

    async def prune(self, request: PruneRequest) -> Pruned:
        """See Store."""
        pool = self._state().pool
        found = await pool.ask(lambda tx: prune.places(tx, request))
        if request.dry_run or not found:
            return await pool.ask(lambda tx: prune.foresee(tx, request, found))
        return await pool.transact(lambda tx: prune.prune(tx, request, found))

    async def trim(self, request: TrimRequest) -> int | Kept:
        """See Store."""
        pool = self._state().pool
        if request.dry_run:
            return await pool.ask(lambda tx: trim.foresee(tx, request))
        return await pool.transact(lambda tx: trim.trim(tx, request))

    async def configure(self, change: QueueChange) -> QueueRecord:
        """See Store."""
        queue = await self._state().pool.transact(lambda tx: queues.configure(tx, change))
        self._changes.mark()
        await self._tell()
        return queue

    async def queues(self) -> list[QueueRecord]:
        """See Store."""
        return await self._state().pool.ask(lambda tx: queues.standings(tx, self.now.given))

    # --- claiming -----------------------------------------------------------------------------------------------------------

    async def claim(self, request: ClaimRequest) -> Claims:
        """See Store."""
        state = self._state()
        ask = claim.asked(request, self.now.given, self._lease_now())
        seen, empty = await self._see()
        found = await state.pool.ask(lambda tx: claim.look(tx, ask, seen, empty))
        if not found.is_willing:
            return Claims([])
        next_expiry_at = found.next_expiry_at
        if not all(empty.values()):
            soon = self.now() + round(self._empty_seconds * 1e6)
            next_expiry_at = soon if next_expiry_at is None else min(soon, next_expiry_at)
        if not found.is_worth_it:
            return Claims([], found.next_due_at, died=[], next_expiry_at=next_expiry_at)
        claims = await state.pool.transact(lambda tx: claim.claim(tx, ask, found.died))
        if claims.runs or claims.died:
            self._changes.mark(request.worker_key)
            await self._tell()
        return replace(claims, next_expiry_at=next_expiry_at)

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """See Store."""
        deadline, since = time.monotonic() + timeout, self._changes.count
        while True:
            left = deadline - time.monotonic()
            if await self._changes.wait(worker_key, since, min(left, POLL_SECONDS, PROBE_SECONDS)):
                return True
            if left <= 0:
                return False
            await self._look_around(worker_key)

    async def _look_around(self, worker_key: WorkerKey | None) -> None:
        """Find out what nobody tells."""
        state = self._state()
        now = time.monotonic()
        is_listening = state.watch is not None and state.watch.is_listening
        if not is_listening and now - state.polled_at >= POLL_SECONDS:
            state.polled_at = now
            self._changes.mark()
        elif is_listening and worker_key is not None and state.seats.is_due:
            _, empty = await self._see()
            if any(empty.values()):
                self._changes.mark()

    async def _see(self) -> tuple[Sequence[Seen], Mapping[WorkerKey, bool]]:
        state = self._state()
        seen = await state.pool.ask(lambda tx: workers.see(tx, self._lease_now()))
        return seen, state.seats.note(seen, state.leases)

    # --- reading ------------------------------------------------------------------------------------------------------------

    async def pull(self, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
        """See Store."""
        return await self._state().pool.ask(lambda tx: read.unread_by_owner(tx, worker_key))

    async def mail(self, run_key: RunKey, after: int = 0, dedupe: str = "") -> list[Message]:
        """See Store."""
        if not rules.is_text(dedupe):
            return []
        return await self._state().pool.ask(lambda tx: read.mail(tx, run_key, after, dedupe))

    async def get(self, run_id: str) -> RunRecord | None:
        """See Store."""
        return await self._state().pool.ask(lambda tx: read.run(tx, run_id)) if rules.is_text(run_id) else None

    async def load(self, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
        """See Store."""
        return await self._state().pool.ask(lambda tx: read.journal(tx, run_key, up_to))

    async def attempts(self, run_key: RunKey) -> list[AttemptRecord]:
        """See Store."""
        found = await self._state().pool.ask(lambda tx: read.attempts(tx, [run_key]))
        return found[run_key]

    async def list(self, query: RunFilter) -> list[RunRecord]:
        """See Store."""
        rules.check_filter(query)
        if not rules.is_text(query.workflow, query.id_prefix, query.queue, query.queue_key):
            return []
        return await self._state().pool.ask(lambda tx: read.runs(tx, query))

    # --- inside -------------------------------------------------------------------------------------------------------------

    async def _check_schema(self, pool: Pool) -> None:
        """Make the tables, if there are none. Tables that are there are changed by whoever is asked to (``db migrate``)."""
        state = await pool.ask(lambda tx: schema.look(tx, self._address))
        if not state.version:
            await migrate(self._address, Request(self._migrations, is_pooled=pool.is_pooled, lease_now=self._lease_now()))
            state = await pool.ask(lambda tx: schema.look(tx, self._address))
        refuse_unusable(state, len(self._migrations), self.url)
        refuse_behind(state, len(self._migrations), self.url)

    def _state(self) -> _Open:
        if self._open is None:
            raise StoreUnavailable(f"the store {self.url} is not open. Nothing was read or written. Call open() first.")
        return self._open

    def _lease_now(self) -> float | None:
        return None if self._monotonic is None else self._monotonic()

    async def _tell(self) -> None:
        """Others may have something to do. Not heard if the connection breaks just now: they look from time to time."""
        state = self._state()
        with suppress(StoreError):
            await state.pool.ask(lambda tx: tx.fetch(_TELL, state.channel, self._sender))
