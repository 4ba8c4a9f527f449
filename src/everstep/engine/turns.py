"""
Give the host's loop its turn: what is ready all at once need not be done all at once.

A thousand starts gathered by a program, or a hundred runs claimed together, would each do their work in one turn of the loop
and hold up everything else in the process for tenths of a second. Whoever begins a run asks here first.
"""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.005
"""A quarter of what a host may be held up at most (20 ms): other work of the engine falls into the same turn."""


class Turn:
    """How much of this turn of the loop has been spent."""

    def __init__(self) -> None:
        self._spent_at: float | None = None

    async def wait(self) -> None:
        """Return at once if there is time left in this turn, else in a later one."""
        while not self._has_time():  # noqa: ASYNC110  # a turn of the loop is what is waited for
            await asyncio.sleep(0)

    def _has_time(self) -> bool:
        now = time.monotonic()
        if self._spent_at is None:
            self._spent_at = now + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._end)
        return now < self._spent_at

    def _end(self) -> None:
        self._spent_at = None
