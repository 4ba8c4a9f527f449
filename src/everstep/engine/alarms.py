"""
Wake somebody when an instant of the store's clock has come, never before.

The host loop's clock decides when to look, the store's clock decides whether it is time. If the store's clock is behind (it was
set back, or runs slower), the alarm looks again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from everstep.records import Micros

SLEEP_SECONDS_MAX = 3600.0
"""Look again at least once an hour: a clock that was set forward is then noticed."""


class Alarm:
    """One instant to wait for. ``cancel`` it if it is no longer wanted."""

    __slots__ = ("_callback", "_due_at", "_handle", "_loop", "_now")

    def __init__(self, now: Callable[[], Micros], due_at: Micros, callback: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = now
        self._due_at = due_at
        self._callback = callback
        self._handle: asyncio.Handle = self._loop.call_soon(self._look)

    def cancel(self) -> None:
        """Forget it. Safe to repeat, also after it rang."""
        self._handle.cancel()

    def _look(self) -> None:
        left = (self._due_at - self._now()) / 1e6
        if left <= 0:
            self._handle.cancel()  # It has been called, and refers to this object.
            self._callback()
        else:
            self._handle = self._loop.call_later(min(left, SLEEP_SECONDS_MAX), self._look)
