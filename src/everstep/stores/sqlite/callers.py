"""
Writing in a transaction of a caller's, on a connection of his: what is written is there iff he commits.

Connections of apsw are taken anywhere. Those of ``sqlite3`` (and of SQLAlchemy, which uses it) only where the store is not open
otherwise: the module carries another copy of SQLite, and two copies in one process do not see each other's locks, because the
kernel keeps them by process. Measured: both begin to write at once, and of two commits that were acknowledged one is gone. So
we remember which files are open here, and which connections of that kind we have seen, and refuse the one beside the other.
What a program does with ``sqlite3`` on the file without telling us, we cannot see.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import apsw

from everstep.errors import StoreUnavailable, UsageError
from everstep.stores.migrations import refuse_unusable
from everstep.stores.sqlite import faults, schema
from everstep.stores.sqlite.ask import Ask, Row, Rows, Value, only
from everstep.stores.sqlite.transaction import Tx

_open_here: Counter[str] = Counter()
_sqlite3_here: dict[str, list[sqlite3.Connection]] = {}
_FULL: Final = 2


@contextmanager
def joined(connection: Any, path: Path, now: Callable[[], int], known: int) -> Generator[Tx, None, None]:
    """The caller's transaction as one of ours. ``known`` is the version of the schema that this everstep writes.

    Raises:
        UsageError: It is no such connection, or not to this store, or has no transaction, or does not sync its commits.
        StoreUnavailable: SQLite refused. Nothing was written, and the caller should roll back.
    """
    driver = _driver_connection(connection)
    tx = _tx(driver, path, now)
    try:
        _check(tx.ask, path, known)
        tx.execute("SAVEPOINT everstep")
        try:
            yield tx
        except BaseException:
            tx.execute("ROLLBACK TO everstep")
            tx.execute("RELEASE everstep")
            raise
        tx.execute("RELEASE everstep")
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"the store {path} refused to write in the transaction that was passed as tx: {error}. Nothing was written. Roll "
            "it back and repeat it."
        ) from error
    except apsw.Error as error:
        raise faults.translated(error, path) from error


def note_open(path: Path) -> None:
    """The store was opened in this process, with our copy of SQLite."""
    _open_here[os.path.realpath(path)] += 1


def note_closed(path: Path) -> None:
    """It was closed again."""
    _open_here[os.path.realpath(path)] -= 1


def refuse_beside_sqlite3(path: Path) -> None:
    """Return unless a connection of sqlite3 to the store, which we were given before, is still open here.

    Raises:
        UsageError: One is.
    """
    if _still_open(path):
        raise _two_copies(path)


def _driver_connection(connection: Any) -> apsw.Connection | sqlite3.Connection:
    """The connection itself, out of SQLAlchemy's if it is one of those."""
    pooled = getattr(connection, "connection", None)
    driver = getattr(pooled, "driver_connection", connection)
    if isinstance(driver, apsw.Connection | sqlite3.Connection):
        return driver
    raise UsageError(
        f"tx={type(connection).__name__} is no connection that a store in SQLite can write on. Nothing was written. Pass one "
        "of apsw, sqlite3 or SQLAlchemy to the store's own file."
    )


def _tx(driver: apsw.Connection | sqlite3.Connection, path: Path, now: Callable[[], int]) -> Tx:
    if isinstance(driver, apsw.Connection):
        _require_transaction(driver.in_transaction)
        return Tx(driver, now)
    if _open_here[os.path.realpath(path)]:
        raise _two_copies(path)
    # Unless told otherwise, the module begins a transaction by itself before it changes anything: not before a savepoint.
    if not driver.in_transaction and driver.isolation_level is not None and getattr(driver, "autocommit", -1) is not True:
        driver.execute("BEGIN IMMEDIATE")
    _require_transaction(driver.in_transaction)
    _sqlite3_here[os.path.realpath(path)] = [*(each for each in _still_open(path) if each is not driver), driver]
    return cast(Tx, _ForeignTx(driver, now))


def _require_transaction(there_is_one: bool) -> None:
    if not there_is_one:
        raise UsageError(
            "no transaction is open on the connection that was passed as tx, so what is written would be committed by itself. "
            "Nothing was written. BEGIN one first (BEGIN IMMEDIATE, so that it cannot fail later for want of the lock)."
        )


def _check(ask: Ask, path: Path, known: int) -> None:
    [file] = [file for _, name, file in ask("PRAGMA database_list").fetchall() if name == "main"]
    if not (file and path.exists() and path.samefile(file)):
        raise UsageError(
            f"the connection that was passed as tx is open on {file or 'no file'}, and the store is {path}. Nothing was "
            "written. Pass a connection to the store's own file."
        )
    state = schema.look(ask, path)
    refuse_unusable(state, known, str(path))
    if state.version < known:
        raise UsageError(
            f"the store {path} has schema version {state.version}, and this everstep writes version {known}. "
            "Nothing was written. Open it once with this everstep (everstep runs will do), then repeat."
        )
    if only(ask("PRAGMA synchronous"))[0] < _FULL:
        raise UsageError(
            "the connection that was passed as tx does not sync its commits, so an acknowledged start could be lost with the "
            "power. Nothing was written. Set PRAGMA synchronous = full on it, outside the transaction."
        )


def _two_copies(path: Path) -> UsageError:
    return UsageError(
        f"the store {path} would be open twice in this process: by everstep, and by the module sqlite3 with its own copy of "
        "SQLite. Those do not see each other's locks and destroy the file. Nothing was written. Pass a connection of apsw "
        "(apsw.Connection(path)), or use tx= in a program that has not opened the store, and close the connection before that."
    )


def _still_open(path: Path) -> list[sqlite3.Connection]:
    return [each for each in _sqlite3_here.get(os.path.realpath(path), ()) if _is_open(each)]


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018  # looking is how one finds out
    except sqlite3.ProgrammingError:
        return False
    return True


class _ForeignTx:
    """A connection of sqlite3 in the place of a ``Tx``."""

    def __init__(self, connection: sqlite3.Connection, now: Callable[[], int]) -> None:
        self._connection = connection
        self.now = now

    def ask(self, statement: str, bindings: Sequence[Value] = ()) -> Rows:
        """See Tx."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        return cast(Rows, cursor.execute(statement, bindings))

    execute = ask

    def changes(self) -> int:
        """See Tx."""
        row: Row = only(self.ask("SELECT changes()"))
        return int(row[0])
