"""The session of ``sqlite3``, the module of the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from everstep.databases.sessions import is_insert
from everstep.databases.witness import Duplicate
from everstep.errors import UsageError

APPLICATION_ID: Final = 0x45565354
"""Of a store of everstep. Written here again, because a store is not to be known on this floor; a test compares them."""
LOCK_SECONDS: Final = 10.0
_TRANSACTION: Final = sqlite3.SQLITE_TRANSACTION


class Sqlite3Session:
    """See ``Session``. Belongs to the thread that made it.

    Raises:
        UsageError: The file is a store of everstep.
    """

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        try:
            self._refuse_stores(path)
        except BaseException:
            self.connection.close()
            raise

    @property
    def is_open(self) -> bool:
        """See Session."""
        return self.connection.in_transaction

    def begin(self) -> None:
        """See Session. Takes the lock at once: to read first and write then would fail if another wrote in between."""
        self.connection.execute("BEGIN IMMEDIATE")

    def ask(self, statement: str, bindings: dict[str, str]) -> Any:
        """See Session."""
        try:
            return self.connection.execute(statement, bindings).fetchone()
        except sqlite3.IntegrityError as error:
            if is_insert(statement):
                raise Duplicate(str(error)) from error
            raise

    def run(self, body: Callable[[Any], str]) -> str:
        """See Session. SQLite refuses to end the transaction while the body has it."""
        self.connection.set_authorizer(_authorize)
        try:
            return body(self.connection)
        finally:
            self.connection.set_authorizer(None)

    def commit(self) -> None:
        """See Session."""
        self.connection.execute("COMMIT")

    def roll_back(self) -> None:
        """See Session."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """See Session."""
        self.connection.close()

    def _refuse_stores(self, path: str) -> None:
        (application_id,) = self.connection.execute("PRAGMA application_id").fetchone()
        if application_id == APPLICATION_ID:
            raise UsageError(
                f"{path} is a store of everstep, and another database was asked for. The body was not run. Use "
                "@es.transaction: its SQL commits together with the journal. (Two copies of SQLite in one process on one file "
                "would damage it.)"
            )


def _authorize(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == _TRANSACTION else sqlite3.SQLITE_OK
