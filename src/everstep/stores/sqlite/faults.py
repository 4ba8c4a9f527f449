"""
What SQLite's errors mean to an operator. No exception of apsw leaves the store: each becomes one of ours, in three parts.

``is_transient`` and ``concerns_whole_store`` tell apart who is to blame: another process that holds the lock; the disk; or one
write that SQLite refuses, which must not take the others of its batch with it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import apsw

from everstep.errors import SchemaMismatch, StoreError, StoreFull, StoreUnavailable

_LOCKED = (apsw.BusyError, apsw.LockedError)
_STORE = (
    *_LOCKED,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.AuthError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.InterruptError,
    apsw.ProtocolError,
    apsw.ConnectionClosedError,
    apsw.AbortError,
)
MOVED = "everstep: the runs of this store were moved; its meta table says where to"
"""What the triggers of a store say that is the source of a copy. Not in the words of a user's trigger."""
_OF_A_STATEMENT = (*_LOCKED, apsw.AuthError, apsw.InterruptError, apsw.AbortError)
"""Of those above, what a statement of a user's may bring about by itself."""

OF_ONE_WRITE = (apsw.Error, OverflowError, TypeError, ValueError)
"""What binding and running the statements of one write may raise, if the value is one that SQLite cannot hold."""


def is_locked(error: BaseException) -> bool:
    """Another connection holds the lock; nothing has happened and trying again is right."""
    return isinstance(error, _LOCKED)


def concerns_whole_store(error: Exception) -> bool:
    """Every write would fail now. Otherwise the error is about one write only."""
    return isinstance(error, _STORE) or MOVED in str(error)


def is_of_the_disk(error: apsw.Error) -> bool:
    """Met by a statement of a user's, this is no fault of the statement: the whole store is in trouble."""
    return isinstance(error, _STORE) and not isinstance(error, _OF_A_STATEMENT)


def blames_one_write(error: Exception) -> bool:
    """The error that ``Writer`` raised came from a single statement, not from the disk or a lock."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    return isinstance(cause, OF_ONE_WRITE) and not concerns_whole_store(cause)


@contextmanager
def translating(path: os.PathLike[str]) -> Generator[None, None, None]:
    """Errors of apsw leave this block as errors of ours."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error, path) from error


def translated(error: apsw.Error, path: os.PathLike[str]) -> StoreError:
    """The error of ours that tells the same."""
    where = f"the store {os.fspath(path)}"
    known = "Acknowledged work is safe; whether the last write has happened, repeating it tells."
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreUnavailable(
                f"{where} is locked by another process for too long. Nothing was written. "
                "Look for a program that holds a transaction open on this file (a shell, a backup, a debugger)."
            )
        case apsw.FullError():
            return StoreFull(f"{where} has no space left ({error}). {known} Free some space on its disk; runs then go on.")
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return StoreUnavailable(
                f"{where} cannot be written: {error}. Nothing was written. "
                "Let this user write the file, the files beside it (-wal, -shm) and their directory."
            )
        case apsw.CantOpenError():
            return StoreUnavailable(
                f"{where} cannot be opened: {error}. Nothing was read or written. "
                "Check that the path is a file in a directory that this user may read and write."
            )
        case apsw.ConstraintError() if MOVED in str(error):
            return StoreUnavailable(
                f"the runs of {where} have been moved to another store. Nothing was written. Find out where to with everstep "
                "db status, and restart this program with the URL of that store."
            )
        case apsw.NotADBError():
            return SchemaMismatch(
                f"{where} is no SQLite database. It was not touched. Give the store a path of its own, or restore a backup."
            )
        case apsw.CorruptError():
            return StoreUnavailable(
                f"{where} is damaged: {error}. Nothing was written. Stop all workers, keep a copy of the file with its -wal, "
                "and restore a backup (or try the sqlite3 shell's .recover)."
            )
        case apsw.IOError():
            return StoreUnavailable(f"{where} cannot be read or written: {error}. {known} Check the disk and the system's log.")
        case _:
            return StoreUnavailable(f"{where} failed: {type(error).__name__}: {error}. {known}")
