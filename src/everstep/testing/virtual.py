"""
Time that jumps: an event loop whose clock moves only when nothing is left to do, and then straight to the next timer.

    loop ── idle ──▶ clock jumps ──▶ timers ring

It is put on a running loop and taken off again, so it works with whatever made that loop: ``asyncio.run``, pytest-asyncio, a
test case of unittest. It never waits for the clock of the machine; it does wait for threads that are at work, and gives
sockets and pipes a moment. Time that can jump no further, because nothing is scheduled or nothing comes of it, is ``Stuck``:
a test that waits for what can never happen is told so, instead of hanging.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from everstep.errors import UsageError
from everstep.records import Micros

T = TypeVar("T")

STARTED_AT: Micros = 1_800_000_000_000_000
"""What a store's clock says at first: some day in 2027. Nothing may depend on what the clock of the machine says."""
JUMPS_MAX = 100_000
"""Jumps of which nothing came. An idle engine needs one for a day, so this is two centuries; it takes a few seconds."""
THREAD_SECONDS = 10.0
"""Real seconds that threads get before a test that waits for them is taken to be stuck."""
TICK_SECONDS = 1e-6
"""The resolution of the clock, and so of the loop's timers: a float of seconds is a little off the tick it stands for."""
IO_SECONDS = 0.02
"""Real seconds that sockets and pipes get before time jumps over them."""


class Stuck(AssertionError):
    """Nothing is left that could ever happen, and the test still waits."""


class Clock:
    """Virtual time, in whole microseconds: what falls due at the end of a month does so on the same tick as the month ends.

    Attributes:
        passed: How much time has passed, microseconds.
        shift: How far the store's clock was set, microseconds.
    """

    def __init__(self) -> None:
        self.passed: Micros = 0
        self.shift: Micros = 0

    @property
    def seconds(self) -> float:
        """How much time has passed: what the loop and leases see."""
        return self.passed / 1e6

    def now(self) -> Micros:
        """What the store's clock says."""
        return STARTED_AT + self.passed + self.shift

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds


class VirtualTime:
    """Virtual time for one event loop.

    Attributes:
        clock: What time it is.
        threads_at_work: What runs in threads; time stands still for it.
        jumps_over_threads: Do not wait for threads any more: they are stuck on purpose.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = Clock()
        self.threads_at_work: set[Future[Any]] = set()
        self.jumps_over_threads = False
        self._loop = loop
        self._selector: Any = getattr(loop, "_selector", None)
        self._really_select: Callable[[float | None], list[Any]]
        self._resolution = 0.0
        self._stood_at: Micros | None = None
        self._origin = 0.0
        self._jump_count = 0
        self._waited_since: float | None = None
        self._idle: list[asyncio.Future[None]] = []

    # --- on and off -------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take the loop off the machine's clock.

        Raises:
            UsageError: The loop is not asyncio's own.
        """
        if self._selector is None or not hasattr(self._loop, "__dict__"):
            raise UsageError(
                f"{type(self._loop).__name__} is no event loop of asyncio, so its clock cannot be made virtual. Nothing was "
                "run. Run the test on asyncio's own loop."
            )
        if of(self._loop) is not None:
            raise UsageError(
                "this event loop is on virtual time already. Nothing was changed. Use one Env at a time in a loop."
            )
        self._origin = self._loop.time() if self._loop.is_running() else 0.0
        self._really_select = self._selector.select
        # Attributes of the objects, not of their classes: no other loop notices, and they are taken off without a trace.
        vars(self._selector)["select"] = self._select
        vars(self._loop).update(time=self._time, run_in_executor=self._run_in_executor, _everstep_time=self)
        self._resolution = getattr(self._loop, "_clock_resolution", 0.0)
        vars(self._loop).update(_clock_resolution=TICK_SECONDS)

    def remove(self) -> None:
        """Put the loop back on the machine's clock. Safe to repeat."""
        if of(self._loop) is self:
            del vars(self._selector)["select"]
            for name in ("time", "run_in_executor", "_everstep_time"):
                del vars(self._loop)[name]
            vars(self._loop).update(_clock_resolution=self._resolution)

    # --- for whoever tests ------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Something came of it: the test is not stuck."""
        self._jump_count = 0

    async def settle(self) -> None:
        """Wait until nothing is left to do at this instant: everything would have to wait for time to pass."""
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle

    # --- what the loop is given -------------------------------------------------------------------------------------------

    def _time(self) -> float:
        return self._origin + self.clock.seconds

    def _select(self, timeout: float | None = None) -> list[Any]:
        ready = self._really_select(0)
        if ready or getattr(self._loop, "_ready", None) or getattr(self._loop, "_stopping", False):
            return ready
        if self._must_wait_for_threads():
            return self._really_select(0.05)
        if self._has_io() and (ready := self._really_select(IO_SECONDS)):
            return ready
        if self._idle:
            self._tell_idle()
        else:
            self._jump(timeout)
        return []

    def _must_wait_for_threads(self) -> bool:
        if not self.threads_at_work or self.jumps_over_threads:
            self._waited_since = None
            return False
        self._waited_since = self._waited_since or time.perf_counter()
        if time.perf_counter() - self._waited_since > THREAD_SECONDS:
            raise Stuck(f"a thread has been at work for {THREAD_SECONDS:g} real seconds, and time stands still for threads")
        return True

    def _has_io(self) -> bool:
        # One is the loop's own pipe, through which threads wake it. (The proactor of Windows has no such list.)
        return hasattr(self._selector, "get_map") and len(self._selector.get_map()) > 1

    def _tell_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _jump(self, timeout: float | None) -> None:
        self._jump_count += 1
        if timeout is None or self._jump_count > JUMPS_MAX:
            raise Stuck(
                f"nothing happens any more, and somebody still waits; {self.clock.seconds:.3f} virtual seconds have passed"
            )
        before = self._time()
        self.clock.passed += round(timeout * 1e6)
        if self._time() <= before and not self._rings_now(timeout):
            # After some decades a float is coarser than a tick, and the timer that the loop waits for would not ring.
            self.clock.passed += 1 + math.ceil(2e6 * math.ulp(before))

    def _rings_now(self, timeout: float) -> bool:
        """Whether it helps the loop to look again at the same tick: once, for a timer that is due but for a fraction of it."""
        has_stood, self._stood_at = self._stood_at == self.clock.passed, self.clock.passed
        return self._has_due_timer() and not (has_stood and timeout > 0)

    def _has_due_timer(self) -> bool:
        scheduled: list[asyncio.TimerHandle] = getattr(self._loop, "_scheduled", [])
        return bool(scheduled) and scheduled[0].when() < self._time() + TICK_SECONDS

    def _run_in_executor(self, executor: Executor | None, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        future = (executor or self._default_executor()).submit(function, *args)
        outcome = asyncio.wrap_future(future, loop=self._loop)
        self.threads_at_work.add(future)
        future.add_done_callback(self._rest)
        return outcome

    def _default_executor(self) -> Executor:
        executor: Executor | None = getattr(self._loop, "_default_executor", None)
        if executor is None:
            executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
            self._loop.set_default_executor(executor)
        return executor

    def _rest(self, future: Future[Any]) -> None:
        # Later, so that whoever waits for the future has been called before time may move.
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._loop.call_soon, self.threads_at_work.discard, future)


def of(loop: asyncio.AbstractEventLoop) -> VirtualTime | None:
    """The virtual time that a loop is on, or None."""
    virtual: VirtualTime | None = vars(loop).get("_everstep_time")
    return virtual


@contextmanager
def virtual_time() -> Generator[VirtualTime, None, None]:
    """Put the running loop on virtual time, unless it is on it already."""
    loop = asyncio.get_running_loop()
    present = of(loop)
    virtual = present or VirtualTime(loop)
    if present is None:
        virtual.install()
    try:
        yield virtual
    finally:
        if present is None:
            virtual.remove()
