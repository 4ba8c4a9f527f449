"""
Locks that tell at once whether a worker's process is dead: the system releases them when it dies, however it dies.

Each worker holds an exclusive lock on a file of its own, ``<store>.workers/<worker_key>.lock``, from before its row can be seen
until after its row says that it has left. So to obtain somebody's lock proves that the process is gone. *Not* to obtain it
proves nothing (the process may be frozen), nor does a file that is missing: then only the lease decides.

A lock belongs to the open file and not to the process, so a forked child would keep its parent's lock alive. Each fork closes
them in the child (closing there releases nothing in the parent). Children started by ``exec`` never see the files.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

from everstep.errors import StoreUnavailable
from everstep.records import WorkerKey, WorkerLock

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class WorkerLocks:
    """The locks of the workers of one store: those held by this object, and a look at those of others."""

    def __init__(self, store_path: Path) -> None:
        self._directory = store_path.with_name(store_path.name + ".workers")
        self._held: dict[WorkerKey, int] = {}
        _all.add(self)

    def hold(self, worker_key: WorkerKey) -> None:
        """Take the lock of a new worker. Where the file system has no such locks, only its lease will tell of its death.

        Raises:
            StoreUnavailable: Its file cannot be created.
        """
        try:
            self._directory.mkdir(exist_ok=True)
            fd = os.open(self._path(worker_key), _FLAGS | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreUnavailable(
                f"worker {worker_key} cannot create its lock file: {error}. It was not enlisted. "
                f"Let this user write {self._directory}."
            ) from error
        if _lock(fd):
            self._held[worker_key] = fd
        else:
            os.close(fd)
            self.forget(worker_key)

    def let_go(self, worker_key: WorkerKey) -> None:
        """Release the lock, as the death of the process would."""
        fd = self._held.pop(worker_key, None)
        if fd is not None:
            os.close(fd)

    def is_free(self, worker_key: WorkerKey) -> bool:
        """Tell whether the process of this worker is proved dead. Three system calls."""
        try:
            fd = os.open(self._path(worker_key), _FLAGS)
        except OSError:
            return False
        try:
            return _lock(fd)
        finally:
            os.close(fd)

    def state_of(self, worker_key: WorkerKey) -> WorkerLock:
        """What people are told of the lock of a worker, of ours too."""
        if worker_key in self._held:
            return "held"
        return "unknown" if not self._path(worker_key).exists() else "free" if self.is_free(worker_key) else "held"

    def forget(self, worker_key: WorkerKey) -> None:
        """Remove the file of a worker whose row is gone."""
        self.let_go(worker_key)
        self._path(worker_key).unlink(missing_ok=True)

    def close(self) -> None:
        """Release all that this object holds."""
        for worker_key in list(self._held):
            self.let_go(worker_key)

    def _path(self, worker_key: WorkerKey) -> Path:
        return self._directory / f"{worker_key}.lock"


# The only global of the stores: a fork happens to a process, not to an object.
_all: weakref.WeakSet[WorkerLocks] = weakref.WeakSet()


def _close_in_forked_child() -> None:
    for locks in list(_all):
        locks.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_forked_child)
