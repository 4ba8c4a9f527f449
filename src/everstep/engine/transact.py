"""
Execute one transactional step: its body and the entry that records its result are one commit.

    wait for a thread ─▶ take the run's append slot ─▶ store: BEGIN, body, entry, COMMIT ─▶ the code goes on in the next entry

While the slot is taken the run makes no other entry, so its code does not run either: nothing can cancel the step from inside.
What arrives from outside waits for the body, which is why that gets a third of the lease at most.

Only a result is recorded here. A body that raises leaves nothing behind, and its failure is an outcome like any other step's;
unless the database ended the transaction for the sake of another one, for then the body is run again, some times at most.
When the store fails so that nobody knows whether the commit happened, the next try first looks whether the entry is there.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, Protocol, cast

from msgspec import Raw
from msgspec.structs import replace

from everstep.ambient import transaction_scope
from everstep.engine.committer import BACKOFF_SECONDS, BACKOFF_SECONDS_MAX, Committer
from everstep.engine.steps import StepHost, StepRun, Tools
from everstep.errors import PayloadTooLarge, StoreUnavailable, Unencodable, UsageError
from everstep.events import StepCompleted
from everstep.records import BodyKind
from everstep.stores.base import (
    Append,
    Landed,
    Outcome,
    Refused,
    RolledBack,
    Slot,
    Store,
    TransactionBody,
    transacting,
)
from everstep.transactions import Transaction

LEASE_FRACTION = 1 / 3
"""Of the lease that a body may take. Renewals are sent every third, and wait for it: two thirds after the last one, the next is
through, and trust ends at 0.8."""

TICKS = 5
"""The limit is counted in so many parts. A process that is stopped and goes on (a laptop that slept) then loses one of them,
and not the body's whole time: a single timer would find that passed, and fail a step that did nothing wrong."""

TRIES_MAX = 20
"""How often a body is run whose transaction has to give way to others, before that counts as its failure."""
_GAVE_WAY_SECONDS = 0.01


class Recorder(Protocol):
    """Writes the entries of a run's transactional steps; each is made inside the step's transaction, in the append slot."""

    async def take_slot(self) -> Slot:
        """Wait until no entry is in flight; from then on none is made but that of the caller."""
        ...

    def free_slot(self) -> None:
        """No entry was made. Followed by ``go_on`` once the step has said what became of it."""
        ...

    def go_on(self) -> None:
        """See to what arrived meanwhile."""
        ...

    def alone(self, event: StepCompleted) -> Append:
        """The entry that holds this result and nothing else, for the slot that is taken."""
        ...

    def recorded(self, append: Append, event: StepCompleted) -> None:
        """That entry has landed."""
        ...

    def abandon(self) -> None:
        """Somebody else owns the run."""
        ...


class TransactionHost(StepHost, Protocol):
    """Whom a transactional step reports to."""

    @property
    def recorder(self) -> Recorder: ...


class Transactor:
    """What the transactional steps of one worker share.

    Attributes:
        seconds_max: How long a body may take.
    """

    def __init__(self, store: Store, committer: Committer, lease_seconds: float, random: Random) -> None:
        self.seconds_max = lease_seconds * LEASE_FRACTION
        self._store = store
        self._committer = committer
        self._random = random
        self._strays: set[asyncio.Task[Any]] = set()

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind) -> Outcome | RolledBack | None:
        """One try. None: the store is away, and it is unknown whether an entry that the body returned has landed.

        Raises:
            UsageError: The store has no transactions for users, or not for such a body.
            Exception: What the database says of the body's SQL only at its commit.
        """
        store = transacting(self._store)
        if store is None:
            raise UsageError(
                f"the store {self._store.url} cannot run the SQL of transactions. The body was not run. Use sqlite:// or "
                "postgresql://, or a transaction of another database."
            )
        # A row that says how far the attempts are may still be on its way. Behind the result it would stay for good.
        await self._committer.passed(slot.run_key)
        try:
            outcome = await store.transact(slot, body, kind)
        except StoreUnavailable as error:
            self._committer.note_away("transact", error)
            return None
        self._committer.note_back("transact")
        return outcome

    def gave_way(self, error: BaseException | None) -> bool:
        """The body left nothing behind, and was not to blame: it may be run again."""
        store = transacting(self._store)
        return error is not None and store is not None and store.gave_way(error)

    async def back_off(self, delay: float) -> float:
        """Wait before the next try; how long to wait the next time."""
        await asyncio.sleep(delay * (0.5 + self._random.random()))
        return min(delay * 2, BACKOFF_SECONDS_MAX)

    async def run_async(self, function: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
        """Run an async body. Only its task calls it: one that is cancelled before it begins leaves no coroutine behind.

        If the caller is cancelled he does not wait for its end: it has lost its connection by then.
        """
        task = asyncio.get_running_loop().create_task(_outcome_of(function))
        try:
            await asyncio.wait([task])
        except CancelledError:
            self._strays.add(task)
            task.add_done_callback(self._strays.discard)
            task.cancel()
            raise
        return task.result()


async def _outcome_of(function: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    try:
        return await function(), None
    except (KeyboardInterrupt, GeneratorExit, CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001  # whatever a body raises is its outcome
        return None, error


class TransactionRun(StepRun):
    """One transactional step of one run. See the module."""

    __slots__ = ("_error", "_has_thread", "_made", "_recorder")
    _is_all_or_nothing = True

    def __init__(self, host: TransactionHost, tools: Tools, *step: Any) -> None:
        super().__init__(host, tools, *step)
        self._recorder = host.recorder
        self._has_thread = False
        self._made: tuple[Append, StepCompleted] | None = None
        self._error: BaseException | None = None

    @property
    def _timeout(self) -> float:
        limit = self._tools.transactor.seconds_max
        return limit if self._definition.timeout is None else min(limit, self._definition.timeout)

    def _arm(self) -> None:
        self._began_at = datetime.now(UTC)
        self._tick(TICKS)

    def _tick(self, left: int) -> None:
        timeout = self._timeout
        if left == 0:
            self._expire(f"step {self._definition.name} took longer than {timeout:g} s")
        else:
            self._expiry = self._tools.loop.call_later(timeout / TICKS, self._tick, left - 1)

    async def _execute(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, BaseException | None]:
        # First the thread: who has the slot must not wait for a body of another run to end.
        await self._reserve_thread()
        try:
            slot = await self._recorder.take_slot()
            try:
                outcome = await self._until_known(slot, partial(self._body, args, kwargs))
            except BaseException:
                self._recorder.free_slot()
                raise
        finally:
            self._release_thread()
        return self._conclude(outcome)

    def _conclude(self, outcome: Outcome | RolledBack) -> tuple[Any, BaseException | None]:
        match outcome:
            case Landed():
                return self._made, None
            case RolledBack():
                self._recorder.free_slot()
                return None, self._error
            case Refused(reason=reason):
                self._recorder.free_slot()
                return None, PayloadTooLarge(reason, size=0, limit=0)
            case _:
                self._recorder.abandon()
                return None, None

    async def _until_known(self, slot: Slot, body: TransactionBody) -> Outcome | RolledBack:
        delay = BACKOFF_SECONDS
        while (outcome := await self._until_it_has_its_way(slot, body)) is None:
            if self._made is not None:
                slot = replace(slot, doubtful=self._made[0].entry.hash)
            delay = await self._tools.transactor.back_off(delay)
            await self._reserve_thread()
        return outcome

    async def _until_it_has_its_way(self, slot: Slot, body: TransactionBody) -> Outcome | RolledBack | None:
        transactor, kind = self._tools.transactor, cast(Transaction[..., Any], self._definition).kind
        delay = _GAVE_WAY_SECONDS
        for is_last in [False] * (TRIES_MAX - 1) + [True]:
            try:
                outcome = await transactor.transact(slot, body, kind)
            except Exception as error:
                if is_last or not transactor.gave_way(error):
                    raise
            else:
                if is_last or not (isinstance(outcome, RolledBack) and transactor.gave_way(self._error)):
                    return outcome
            self._made = None  # Nothing of it is there.
            delay = await transactor.back_off(delay)
            await self._reserve_thread()
        raise AssertionError("the last try returns or raises")

    async def _body(self, args: list[Any], kwargs: dict[str, Any], tx: Any) -> Append | None:
        """Called by the store, inside its transaction."""
        self._made = self._error = None
        inside = transaction_scope.set(self._definition.name)
        try:
            value, self._error = await self._call(partial(self._definition.function, tx, *args, **kwargs))
        finally:
            transaction_scope.reset(inside)
            self._disarm()
        if self._error is None:
            self._made = self._entry_of(value)
        return None if self._made is None else self._made[0]

    def _entry_of(self, value: Any) -> tuple[Append, StepCompleted] | None:
        try:
            result = self._host.storable(self._definition.result.encode(value))
        except (Unencodable, PayloadTooLarge) as error:
            self._error = error
            return None
        event = StepCompleted(self.key, Raw(result), self._plan.attempt)
        return self._recorder.alone(event), event

    async def _call(self, function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        if self._definition.is_async:
            self._arm()
            return await self._tools.transactor.run_async(function)
        self._has_thread = False  # Whatever becomes of it, the pool gets it back by itself.
        return await self._tools.threads.run_reserved(function, self._definition.name, self._arm)

    def _returned(self, value: tuple[Append, StepCompleted] | None) -> None:
        if value is not None:
            self._recorder.recorded(*value)

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        self._recorder.go_on()

    async def _reserve_thread(self) -> None:
        if not (self._definition.is_async or self._has_thread):
            await self._tools.threads.reserve()
            self._has_thread = True

    def _release_thread(self) -> None:
        if self._has_thread:
            self._tools.threads.release()
            self._has_thread = False
