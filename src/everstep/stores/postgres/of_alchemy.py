"""
Connections and sessions of SQLAlchemy 2 that block, on psycopg: as bodies get them, and what is underneath those of callers.
Imported only when one is used: SQLAlchemy is an extra.

What we write goes to the driver's own connection below it, in the transaction that SQLAlchemy has begun there. A body's session
is joined to that by a savepoint: its ``commit()`` writes down what it holds, and commits nothing.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# Not installed everywhere.

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from everstep.records import Isolation
from everstep.stores.postgres.of_psycopg import ERRORS, PsycopgLink, hang_up
from everstep.stores.postgres.threads import in_thread

_BEGIN: Final = "SELECT 1"
"""SQLAlchemy tells a driver to begin only with the first statement; what we write does not count as one."""
_SAVEPOINT: Final = "create_savepoint"


def make_engine(creator: Callable[[], Any]) -> sqlalchemy.Engine:
    """An engine over psycopg, without a pool."""
    return sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, poolclass=sqlalchemy.NullPool)


class LentAlchemy:
    """See ``Lent``: a ``Connection`` or a ``Session``."""

    errors: tuple[type[Exception], ...] = (SQLAlchemyError, *ERRORS)

    def __init__(self, connection: sqlalchemy.Connection, executor: Executor, underneath: Any, *, as_session: bool) -> None:
        self.link = PsycopgLink(underneath, executor)
        self._connection = connection
        self._executor = executor
        self._underneath = underneath
        self._session = Session(connection, join_transaction_mode=_SAVEPOINT) if as_session else None
        self._transaction: Any = None
        self.tx: Any = self._session or connection

    @classmethod
    async def open(cls, engine: sqlalchemy.Engine, executor: Executor, *, as_session: bool) -> LentAlchemy:
        """Connect."""
        connection = await in_thread(executor, engine.connect)
        return cls(connection, executor, connection.connection.driver_connection, as_session=as_session)

    @property
    def is_closed(self) -> bool:
        """See Lent."""
        return bool(self._underneath.closed)

    async def begin(self, isolation: Isolation) -> None:
        """See Lent."""

        def work() -> None:
            self._connection.execution_options(isolation_level=isolation.upper())
            self._transaction = self._connection.begin()
            self._connection.exec_driver_sql(_BEGIN)

        await in_thread(self._executor, work)

    async def settle(self) -> None:
        """See Lent."""
        if self._session is not None:
            await in_thread(self._executor, self._session.commit)

    async def commit(self) -> None:
        """See Lent."""
        await in_thread(self._executor, self._transaction.commit)

    async def roll_back(self) -> None:
        """See Lent."""

        def work() -> None:
            if self._session is not None:
                self._session.close()
            self._connection.rollback()

        await in_thread(self._executor, work)

    async def give_back(self) -> None:
        """See Lent."""

        def work() -> None:
            if self._session is not None:
                self._session.close()
            self._connection.close()

        await in_thread(self._executor, work)

    async def hang_up(self) -> None:
        """See Lent."""

        def work() -> None:
            hang_up(self._underneath)
            self._connection.invalidate()
            self._connection.close()

        await in_thread(self._executor, work)


async def underneath(connection: Any) -> Any:
    """The driver's own connection of a caller's connection or session, its transaction begun."""

    def work() -> Any:
        mine = connection if isinstance(connection, sqlalchemy.Connection) else connection.connection()
        mine.exec_driver_sql(_BEGIN)
        return mine.connection.driver_connection

    return await in_thread(None, work)
