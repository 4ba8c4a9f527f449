"""
How long a run may hold back what it does before it writes it: so many seconds, so many steps.

What may be held at all is decided in ``everstep.core.holding``. What is held is lost as a whole if the process dies, and done
again; the limit says how much that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from everstep.core.execution import Execution
from everstep.records import Relaxed

MILESTONE_BOUND = Relaxed(seconds=5.0, steps=1_000)
"""Of a milestone in a durable run: an entry must not grow for ever, nor must what is done again after a crash."""


class Holding:
    """The limit of what one run holds, and the timer that keeps to it."""

    __slots__ = ("_execution", "_timer")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """So many steps are held that they have to be written now."""
        return self._execution.held_count >= self._bound.steps

    def watch(self, flush: Callable[[], None]) -> None:
        """See to it that what is held is written in time, by ``flush``. Safe to repeat."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._bound.seconds, flush)

    def rest(self) -> None:
        """Nothing is held any more. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _bound(self) -> Relaxed:
        start = self._execution.program.start
        return (start.relaxed if start else None) or MILESTONE_BOUND
