"""
Opening the file: what is refused before SQLite sees it, and the settings that the promises rest on.

``synchronous=FULL`` in WAL mode syncs the log at each commit: that is P1. The page size and the inline checkpoint every 1,000
pages are measured (a checkpointer in the background let the log grow to 322 MB).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import apsw

from everstep.errors import StoreUnavailable
from everstep.stores.migrations import Migration, refuse_unusable
from everstep.stores.sqlite import schema
from everstep.stores.sqlite.ask import asking, only
from everstep.stores.sqlite.clock import check_sqlite_clock
from everstep.stores.sqlite.migrate import migrate

LOCK_TRIES: Final = 10
LOCK_PAUSE_SECONDS: Final = 0.0004
"""We try for the lock for 4 ms before the event loop goes on and ``Writer`` tries again later. SQLite's own waits (1 ms, 2 ms
and so on) would mostly look while another process that commits without a pause is at it again. Measured with two such
processes, in commits of both per commits of one alone, and the longest wait of either: every 1 ms 1.0 and up to 1.2 s, every
0.4 ms 0.9 to 1.0 and 0.1 to 0.4 s, every 0.1 ms 0.6 and 0.05 s (a change of hands costs the other a look at the log)."""
OWN_DIRECTORY: Final = ".everstep"
_NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse.sshfs",
        "fuse.s3fs",
    }
    | {"fuse.glusterfs", "fuse.rclone", "fuse.gcsfuse", "ncpfs", "beegfs", "gpfs"}
)


def open_for_writing(
    path: Path, known: Sequence[Migration] = schema.MIGRATIONS, monotonic: Callable[[], float] = time.monotonic
) -> apsw.Connection:
    """Connect, and create the store or bring it up to date.

    Args:
        path: The file.
        known: All migrations, in order.
        monotonic: The clock of leases.

    Raises:
        SchemaMismatch: The file is not ours, or newer, or its runs were moved: it is untouched. Or it would have to skip a
            version for which older workers must be gone first.
        StoreUnavailable: The place is not fit for a store.
        apsw.Error: SQLite failed: the caller translates.
    """
    check_place(path)
    connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    try:
        connection.set_busy_handler(_wait_for_lock)
        ask = asking(connection)
        check_sqlite_clock(ask)
        state = schema.look(ask, path)
        refuse_unusable(state, len(known), str(path))
        if connection.readonly("main"):
            raise apsw.ReadOnlyError("the file or its directory may only be read")
        if not state.version:
            ask("PRAGMA page_size = 4096")
        if only(ask("PRAGMA journal_mode = wal")) != ("wal",):
            raise StoreUnavailable(
                f"the store {path} cannot use a write-ahead log here. Nothing was stored. Put it on a local disk."
            )
        ask("PRAGMA synchronous = full")
        ask("PRAGMA foreign_keys = on")
        ask("PRAGMA wal_autocheckpoint = 1000")
        if state.version < len(known):
            migrate(connection, path, known, monotonic=monotonic)
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> apsw.Connection:
    """A second connection, which can see every commit and hold up none."""
    connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_handler(_wait_for_lock)
    return connection


def _wait_for_lock(tries: int) -> bool:
    if tries >= LOCK_TRIES:
        return False
    time.sleep(LOCK_PAUSE_SECONDS)
    return True


def check_place(path: Path) -> None:
    """Return if a store may be there.

    Raises:
        StoreUnavailable: Its directory is missing, or on a network.
    """
    directory = path.parent
    if directory.name == OWN_DIRECTORY and directory.parent.is_dir():
        directory.mkdir(exist_ok=True)
    if not directory.is_dir():
        raise StoreUnavailable(f"the store {path} has no directory. Nothing was created. Create it first: mkdir -p {directory}")
    file_system = network_file_system(directory)
    if file_system:
        raise StoreUnavailable(
            f"the store {path} is on a network file system ({file_system}), where locks and shared memory cannot be relied on. "
            "Nothing was created. Use a local disk, or postgresql:// for several machines."
        )


def network_file_system(directory: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the network file system that holds this directory; empty if it is local or cannot be told."""
    if sys.platform != "linux":
        return ""
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    target = directory.resolve()
    kind, depth = "", -1
    for line in lines:
        # "36 35 98:0 /root /mount/point options … - type source …"; blanks in paths are written \040
        left, _, right = line.partition(" - ")
        mount_point = Path(left.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape"))
        if target.is_relative_to(mount_point) and len(mount_point.parts) >= depth:
            kind, depth = right.split()[0], len(mount_point.parts)
    return kind if kind in _NETWORK else ""
