"""
Noticing what other processes do to the file, without asking the database.

Each commit of anybody writes to the WAL, so its size or time changes: one ``stat``, no statement. When it has changed, ``PRAGMA
data_version`` on the connection that writes tells whether anybody *else* committed. A file's time moves in ticks of a few
milliseconds, and two commits within one tick look alike, so what we saw counts as seen only once its tick is over.

The death of a process changes no file. Its lock tells: the locks of all others are tried from time to time, three system calls
each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

from everstep.records import WorkerKey
from everstep.stores.sqlite.ask import asking, only
from everstep.stores.sqlite.oslock import WorkerLocks

LOOK_SECONDS: Final = 0.02
LOCKS_SECONDS: Final = 0.25
_TICK_NANOSECONDS: Final = 50_000_000
"""Several times the coarsest tick of a kernel's clock (10 ms)."""


class Watch:
    """Looks at the WAL and at the locks of other workers.

    Args:
        path: The store.
        connection: The one that writes; only touched when told that it is idle.
        locks: To look at the locks of others.
    """

    def __init__(self, path: Path, connection: apsw.Connection, locks: WorkerLocks) -> None:
        self._wal = path.with_name(path.name + "-wal")
        self._ask = asking(connection)
        self._locks = locks
        self._seen: tuple[int, int] | None = None
        self._data_version = self._read_data_version()
        self._locks_at = 0.0
        self.others: Sequence[WorkerKey] = ()

    def look(self, *, may_ask: bool) -> bool:
        """Tell whether others committed, or one of them died, since the last look."""
        return self._others_committed(may_ask=may_ask) or self._somebody_died()

    def _others_committed(self, *, may_ask: bool) -> bool:
        try:
            wal = self._wal.stat()
        except FileNotFoundError:
            return False
        now = wal.st_size, wal.st_mtime_ns
        if now == self._seen or not may_ask:
            return False
        self._seen = now if time.time_ns() - wal.st_mtime_ns > _TICK_NANOSECONDS else None
        before, self._data_version = self._data_version, self._read_data_version()
        return self._data_version != before

    def _somebody_died(self) -> bool:
        now = time.monotonic()
        if not self.others or now - self._locks_at < LOCKS_SECONDS:
            return False
        self._locks_at = now
        died = [worker_key for worker_key in self.others if self._locks.is_free(worker_key)]
        self.others = [worker_key for worker_key in self.others if worker_key not in died]
        return bool(died)

    def _read_data_version(self) -> int:
        (version,) = only(self._ask("PRAGMA data_version"))
        return int(version)
