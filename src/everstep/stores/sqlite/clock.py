"""
The two clocks of a store in a file: one that people read, one that leases count on.

``StoreClock`` is this machine's time, held back rather than let go backwards. Leases never look at it: they use the monotonic
clock, which all processes share from one boot to the next, and ``boot_id`` says which boot. A worker of another boot is dead.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from everstep.errors import StoreUnavailable
from everstep.records import Micros
from everstep.stores.sqlite.ask import Ask, only

_CLOCKS_APART_MAX = 2.0
"""Seconds. Both read the same clock of the same machine, so any more means that one of them reads something else."""


class StoreClock:
    """Microseconds since the Unix epoch, never going back within this object."""

    def __init__(self, source: Callable[[], Micros]) -> None:
        self._source = source
        self._latest = 0

    def __call__(self) -> Micros:
        """The time."""
        now = self._source()
        self._latest = max(self._latest, now)
        return self._latest


def wall_clock() -> Micros:
    """This machine's time."""
    return time.time_ns() // 1000


def check_sqlite_clock(ask: Ask) -> None:
    """Make sure that SQLite tells the time that Python tells: before 3.42 ``subsec`` is silently NULL.

    Raises:
        StoreUnavailable: It does not.
    """
    (told,) = only(ask("SELECT unixepoch('subsec')"))
    if not isinstance(told, (int, float)) or abs(told - time.time()) > _CLOCKS_APART_MAX:
        raise StoreUnavailable(
            f"SQLite {apsw.sqlite_lib_version()} tells the time as {told!r}, Python as {time.time():.3f}. Nothing was stored. "
            "Install a current apsw from PyPI, and do not run under a tool that fakes the clock for one of them only."
        )


@functools.cache
def boot_id() -> str:
    """What names this boot of the machine.

    Linux gives each boot a random id. Elsewhere it is the instant of the boot to ten seconds, because the two clocks it is
    computed from are not read at once; a clock that is set meanwhile then looks like a reboot, which costs a takeover and loses
    nothing: the old worker's next write is fenced.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"booted-{round(time.time() - time.monotonic(), -1):.0f}"
