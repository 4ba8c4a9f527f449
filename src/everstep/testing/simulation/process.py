"""
A simulated process: an event loop of its own, that runs only when the simulation lets it.

All processes share one thread, and none of them can tell. A *frozen* one is not stepped while the others are (as after
SIGSTOP, or under a hypervisor that is busy elsewhere); a *suspended* one does not even see that time has passed. A *crashed*
one is never stepped again: nothing of it is cancelled, awaited or unwound, no ``finally`` runs, as with SIGKILL. (Its objects
are kept until the simulation is over, or Python would unwind them when it frees them.)

Its clock counts from when it was booted, at a rate of its own. What it thinks of the store's clock is its link's affair.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

from everstep.records import Micros

if TYPE_CHECKING:
    from everstep.testing.simulation.kernel import Kernel

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK_SECONDS = 1.5e-6
"""A float of seconds may be a little off the microsecond that it stands for."""
NEVER: Micros = 1 << 62
UNWINDINGS_MAX = 20


class Host(Protocol):
    """Whoever lends the loop its time."""

    def seconds(self) -> float: ...
    def complain(self, context: dict[str, Any]) -> None: ...
    def spend(self, seconds: float) -> None: ...


class ProcessLoop(asyncio.AbstractEventLoop):
    """An event loop without selector and threads; see the module.

    Attributes:
        ready: What can run now.
    """

    def __init__(self, host: Host) -> None:
        self.ready: deque[asyncio.Handle] = deque()
        self._host = host
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_count = 0
        self._executor_delay: Callable[[], float] = lambda: 0.0

    # --- what asyncio asks for --------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._host.seconds()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._host.complain(context)

    default_exception_handler = call_exception_handler

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # It is dropped when its time comes.

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """The "thread" does its work all at once, some time later, and reports some time after that."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if not future.done():
                answer = func(*args)
                self._host.spend(0.0005)
                self.call_soon(_tell, future, answer)

        self.call_later(self._executor_delay(), work)
        return future

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do."""

    # --- what the simulation asks for -------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When something is next to be done, by this loop's clock; None if nothing ever is."""
        if self.ready:
            return self.time()
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def turn(self, go_on: Callable[[], bool]) -> None:
        """One turn: timers that are due ring, then what is ready now runs, as long as ``go_on`` says so."""
        limit = self.time() + TICK_SECONDS
        ready = self.ready
        while self._timers and self._timers[0][0] <= limit:
            ready.append(heapq.heappop(self._timers)[2])
        events._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
                    if not go_on():
                        return
        finally:
            events._set_running_loop(None)


def _tell(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


class Process:
    """See the module.

    Attributes:
        name: Of its role and incarnation: ``worker 1.2``.
        pid: Its number.
        loop: Its event loop.
        is_dead: It crashed, or came to its end.
        busy_until: It does something that holds up its loop, or is frozen.
        frozen_until: It is frozen.
        error: What its main function raised.
    """

    def __init__(self, simulation: Kernel, name: str, pid: int, rate: float = 1.0) -> None:
        self.name = name
        self.pid = pid
        self.loop = ProcessLoop(self)  # type: ignore[abstract]  # what it does not have raises NotImplementedError
        self.is_dead = False
        self.busy_until: Micros = 0
        self.frozen_until: Micros = 0
        self.error: BaseException | None = None
        self._simulation = simulation
        self._booted_at = simulation.now
        self._rate = rate
        self._missed: Micros = 0
        self._floor = 0.0
        self._main: asyncio.Task[Any] | None = None
        self.ended: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return self.name

    def boot(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin."""
        self._main = self.loop.create_task(main(), name=self.name)
        self._main.add_done_callback(self._end)

    def _end(self, main: asyncio.Task[Any]) -> None:
        self.is_dead = True
        if not main.cancelled() and main.exception() is not None:
            self.error = main.exception()
            self._simulation.blame(f"{self.name} ended with {type(self.error).__name__}: {self.error}", self.error)
        for tell in self.ended:
            tell()

    # --- its clock (Host) ---------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """What its monotonic clock says."""
        return max(self._floor, (self._simulation.now - self._booted_at - self._missed) * self._rate / 1e6)

    def complain(self, context: dict[str, Any]) -> None:
        """Something raised where nobody could hear it."""
        error = context.get("exception")
        self._simulation.blame(f"{self.name}: {context.get('message')}: {error!r}", error)

    def due_at(self) -> Micros:
        """When it has something to do, by the simulation's clock."""
        if self.is_dead:
            return NEVER
        due = self.loop.due()
        if due is None:
            return NEVER
        wait = max(0.0, due - self.seconds()) * 1e6 / self._rate
        return max(self._simulation.now + int(wait + 0.999_999), self.busy_until)

    def turn(self) -> None:
        """Let it run for one turn of its loop. That takes a tick: who waits for less than that would wait for ever."""
        self.loop.turn(self._goes_on)
        self.busy_until = max(self.busy_until, self._simulation.now + 1)

    def _goes_on(self) -> bool:
        return not self.is_dead and self.busy_until <= self._simulation.now

    # --- what befalls it --------------------------------------------------------------------------------------------------

    def spend(self, seconds: float) -> None:
        """It is busy for so long: nothing else of it runs."""
        self.busy_until = max(self.busy_until, self._simulation.now + round(seconds * 1e6))

    def freeze(self, seconds: float, *, suspended: bool = False) -> None:
        """Stop it for so long. ``suspended``: its clock stops too."""
        self.spend(seconds)
        self.frozen_until = self.busy_until
        if suspended:
            self._floor = self.seconds()
            self._missed += round(seconds * 1e6)

    @property
    def is_frozen(self) -> bool:
        """It is not stepped now, and does not know."""
        return self.frozen_until > self._simulation.now

    async def frozen_here(self, seconds: float) -> None:
        """Freeze in the middle of what is being done, and go on with it afterwards."""
        self.freeze(seconds)
        await asyncio.sleep(0)

    def crash(self) -> None:
        """Stop it for good."""
        if not self.is_dead:
            self.is_dead = True
            for tell in self.ended:
                tell()

    async def never(self) -> Any:
        """Wait for what does not come: this process has crashed."""
        await self.loop.create_future()

    # --- when all is over -------------------------------------------------------------------------------------------------

    def unwind(self) -> None:
        """Close what is left of its coroutines, so that nobody is told that they were forgotten."""
        for _ in range(UNWINDINGS_MAX):
            left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            for _ in range(UNWINDINGS_MAX):
                if self.loop.ready:
                    self.loop.turn(lambda: True)
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio's gather does


def run_now(awaitable: Awaitable[T]) -> T:
    """Run a coroutine that does not suspend: the verbs of a store in memory."""
    coro: Any = awaitable
    try:
        coro.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coro.close()
    raise AssertionError("a verb of the store in memory suspended, and so was no transaction")
