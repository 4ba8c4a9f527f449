"""
Give the host's loop its turn: what is ready all at once need not be done all at once.

A thousand starts gathered by a program, or a hundred runs claimed together, would each do their work in one turn of the loop
and hold up everything else in the process for tenths of a second. Whoever begins a run asks here first; those who have to
wait are let in first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque

BEGUN_PER_TURN = 32
"""Beginning a run takes some 0.1 ms, so these are a few milliseconds: a host may be held up for 20, and other work of the
engine falls into the same turn."""


class Turn:
    """How much of this turn of the loop is left."""

    def __init__(self) -> None:
        self._left = BEGUN_PER_TURN
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_counting = False

    async def wait(self) -> None:
        """Return at once if there is room left in this turn, else in a later one."""
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left and not self._waiting:
            self._left -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        await place

    def _next(self) -> None:
        was_used = self._left < BEGUN_PER_TURN
        self._left = BEGUN_PER_TURN
        while self._waiting and self._left:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                self._left -= 1
        self._is_counting = was_used or bool(self._waiting) or self._left < BEGUN_PER_TURN
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next)
