"""
The store's clock is the server's. Statements read it themselves, after they have their locks. Between statements
``ServerClock`` knows it well enough: it remembers how far the server's clock was from this process's monotonic one when it
last heard of it.

It never promises more time than has passed: an answer is taken to have been given when it arrives, so the delay of the network
makes this clock late and not early. A timer that asks too early is refused by the store anyway (P12).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from everstep.records import Micros

NOW: Final = "coalesce($1::int8, (extract(epoch FROM clock_timestamp()) * 1000000)::int8)"
"""The first value of every statement that needs the time is the test's idea of it, or NULL."""
LEASE_NOW: Final = "coalesce($1::float8, extract(epoch FROM clock_timestamp())::float8)"
"""Seconds, for leases."""


class ServerClock:
    """Microseconds since the Unix epoch by the server's clock, never going back within this object.

    Args:
        source: Instead of the server's clock, in tests.
    """

    def __init__(self, source: Callable[[], Micros] | None) -> None:
        self._source = source
        self._offset: int | None = None
        self._latest = 0

    def __call__(self) -> Micros:
        """The time."""
        if self._source is not None:
            now = self._source()
        elif self._offset is None:
            now = time.time_ns() // 1000
        else:
            now = time.monotonic_ns() // 1000 + self._offset
        self._latest = max(self._latest, now)
        return self._latest

    @property
    def given(self) -> Micros | None:
        """What a statement is told the time is; None to let it read the server's."""
        return None if self._source is None else self()

    def heard(self, server_now: Micros) -> None:
        """The server has just said what time it is."""
        self._offset = server_now - time.monotonic_ns() // 1000
