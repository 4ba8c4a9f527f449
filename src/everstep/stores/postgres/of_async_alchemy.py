"""
Connections and sessions of SQLAlchemy 2 that do not block, on asyncpg: see ``of_alchemy``. Imported only when one is used:
SQLAlchemy and greenlet are extras.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# Not installed everywhere.

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from everstep.records import Isolation
from everstep.stores.postgres import faults
from everstep.stores.postgres.link import Statements

_BEGIN: Final = "SELECT 1"
_SAVEPOINT: Final = "create_savepoint"


def make_engine(creator: Callable[[], Awaitable[Any]], *, is_pooled: bool) -> AsyncEngine:
    """An engine over asyncpg, without a pool."""
    # Behind a pooler a statement that has a name may meet one of the same name.
    nameless = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str} if is_pooled else {}
    options: dict[str, Any] = {"async_creator": creator, "poolclass": sqlalchemy.NullPool, "connect_args": nameless}
    return create_async_engine("postgresql+asyncpg://", **options)


class LentAsyncAlchemy:
    """See ``Lent``: an ``AsyncConnection`` or an ``AsyncSession``."""

    errors: tuple[type[Exception], ...] = (SQLAlchemyError, *faults.OF_DRIVER)

    def __init__(self, connection: AsyncConnection, underneath: Any, *, as_session: bool) -> None:
        self.link: Statements = underneath
        self._connection = connection
        self._underneath = underneath
        self._session = AsyncSession(connection, join_transaction_mode=_SAVEPOINT) if as_session else None
        self._transaction: Any = None
        self.tx: Any = self._session or connection

    @classmethod
    async def open(cls, engine: AsyncEngine, *, as_session: bool) -> LentAsyncAlchemy:
        """Connect."""
        connection = await engine.connect()
        raw = await connection.get_raw_connection()
        return cls(connection, raw.driver_connection, as_session=as_session)

    @property
    def is_closed(self) -> bool:
        """See Lent."""
        return bool(self._underneath.is_closed())

    async def begin(self, isolation: Isolation) -> None:
        """See Lent."""
        await self._connection.execution_options(isolation_level=isolation.upper())
        self._transaction = await self._connection.begin()
        await self._connection.exec_driver_sql(_BEGIN)

    async def settle(self) -> None:
        """See Lent."""
        if self._session is not None:
            await self._session.commit()

    async def commit(self) -> None:
        """See Lent."""
        await self._transaction.commit()

    async def roll_back(self) -> None:
        """See Lent."""
        if self._session is not None:
            await self._session.close()
        await self._connection.rollback()

    async def give_back(self) -> None:
        """See Lent."""
        if self._session is not None:
            await self._session.close()
        await self._connection.close()

    async def hang_up(self) -> None:
        """See Lent."""
        self._underneath.terminate()
        await self._connection.invalidate()
        await self._connection.close()


async def underneath(connection: Any) -> Any:
    """The driver's own connection of a caller's connection or session, its transaction begun."""
    mine = connection if isinstance(connection, AsyncConnection) else await connection.connection()
    await mine.exec_driver_sql(_BEGIN)
    return (await mine.get_raw_connection()).driver_connection
