"""
What workflow code waits for, as the futures and handles that it awaits: steps, children, signals, timers.

Cancelling one records the intent: the program is told, and journals that the code no longer waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from everstep.core.loop import ReplayFuture
from everstep.definitions import Call
from everstep.events import ChildStarted, SignalAwaited, StepScheduled, StopRequested, TimerStarted

if TYPE_CHECKING:
    from everstep.core.program import Program


class Operation(ReplayFuture[Any]):
    """A step or child run that the code asked for, as the future that it awaits."""

    __slots__ = ("_program", "args", "definition", "event", "recoveries", "stopping")

    carries_result = True

    def __init__(self, program: Program, event: StepScheduled | ChildStarted, call: Call[Any], args: bytes = b"") -> None:
        super().__init__(loop=program.loop)
        self._program = program
        self.event = event
        self.args = args
        self.definition = call.definition
        self.recoveries = program.recoveries
        self.stopping: StopRequested | None = None

    @property
    def key(self) -> str:
        """Its command."""
        return self.event.key

    def stop(self, *, cut_off: bool) -> None:
        """Ask that it come to an end, and go on waiting for its outcome. See ``StopRequested``. Safe to repeat."""
        if not (self.done() or self.stopping):
            self.stopping = StopRequested(self.key, cut_off)
            self._program.request_stop(self.stopping)

    def cancel(self, msg: Any = None) -> bool:
        """Cancel and record the intent. What the body still does is no longer waited for."""
        if self.done():
            return False
        self._program.withdraw(self.event)
        return super().cancel(msg)


class SignalWait(ReplayFuture[bytes]):
    """The code waits for the next signal of a name."""

    carries_result = True

    def __init__(self, program: Program, event: SignalAwaited) -> None:
        super().__init__(loop=program.loop)
        self._program = program
        self.event = event

    def cancel(self, msg: Any = None) -> bool:
        """Wait no longer: what arrives goes to the next wait."""
        if self.done():
            return False
        self._program.stop_waiting(self)
        return super().cancel(msg)


class Timer:
    """A handle of the loop that somebody has to fire."""

    __slots__ = ("event", "handle")

    def __init__(self, event: TimerStarted, handle: asyncio.TimerHandle) -> None:
        self.event = event
        self.handle = handle
