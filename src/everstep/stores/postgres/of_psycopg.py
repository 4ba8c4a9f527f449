"""
Connections of psycopg 3, blocking and not: our statements on them, and as bodies get them. Imported only when one is used:
psycopg is an extra.

Ours are written with ``$1``, which psycopg's raw cursors pass on as it is. Each body has a connection of its own, so that
nobody who keeps it can reach into another transaction.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# Not installed everywhere.

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from everstep.records import Isolation
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import CONNECT_SECONDS, Row
from everstep.stores.postgres.threads import in_thread

ERRORS: Final[tuple[type[Exception], ...]] = (psycopg.Error, OSError, TimeoutError)
_LEVELS: Final = {
    "read committed": psycopg.IsolationLevel.READ_COMMITTED,
    "repeatable read": psycopg.IsolationLevel.REPEATABLE_READ,
    "serializable": psycopg.IsolationLevel.SERIALIZABLE,
}
_INTERRUPT_SECONDS: Final = 0.02


class PsycopgLink:
    """Our statements on a connection that blocks, in a thread."""

    def __init__(self, connection: psycopg.Connection[Any], executor: Executor | None = None) -> None:
        self._connection = connection
        self._executor = executor

    async def fetch(self, statement: str, /, *values: Any, timeout: float | None = None) -> list[Row]:
        """See Statements. How long it may take is the caller's to limit."""
        return await in_thread(self._executor, partial(self._run, statement, values))

    async def execute(self, statement: str, /, *, timeout: float | None = None) -> None:
        """See Statements."""
        await in_thread(self._executor, partial(self._run, statement, None))

    async def executemany(self, statement: str, lines: Sequence[Sequence[object]], /, *, timeout: float | None = None) -> None:
        """See Statements."""
        for line in lines:
            await self.fetch(statement, *line)

    def _run(self, text: str, values: tuple[Any, ...] | None) -> list[Row]:
        statement = text.encode()
        with psycopg.RawCursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(statement, values, prepare=False)
            return list[Row](cursor.fetchall()) if cursor.description else []


class AsyncPsycopgLink:
    """Our statements on a connection that does not block."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def fetch(self, statement: str, /, *values: Any, timeout: float | None = None) -> list[Row]:
        """See Statements. How long it may take is the caller's to limit."""
        return await self._run(statement, values)

    async def execute(self, statement: str, /, *, timeout: float | None = None) -> None:
        """See Statements."""
        await self._run(statement, None)

    async def executemany(self, statement: str, lines: Sequence[Sequence[object]], /, *, timeout: float | None = None) -> None:
        """See Statements."""
        for line in lines:
            await self.fetch(statement, *line)

    async def _run(self, text: str, values: tuple[Any, ...] | None) -> list[Row]:
        statement = text.encode()
        async with psycopg.AsyncRawCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(statement, values, prepare=False)
            return list[Row](await cursor.fetchall()) if cursor.description else []


def link_of(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> PsycopgLink | AsyncPsycopgLink:
    """Our statements on a caller's connection."""
    return PsycopgLink(connection) if isinstance(connection, psycopg.Connection) else AsyncPsycopgLink(connection)


def objection(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> str:
    """Why nothing can be written in a transaction on this connection; empty if it can.

    Where psycopg begins one by itself before the first statement, ours may be that.
    """
    status = connection.info.transaction_status
    if status is TransactionStatus.INERROR:
        return "has failed"
    return "is not open" if status is not TransactionStatus.INTRANS and connection.autocommit else ""


def connect(address: Address, *, is_pooled: bool, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect."""
    return psycopg.connect(address.dsn, autocommit=autocommit, **_options(is_pooled=is_pooled))


def _options(*, is_pooled: bool) -> dict[str, Any]:
    options = {"application_name": "everstep", "connect_timeout": CONNECT_SECONDS}
    return {**options, "prepare_threshold": None} if is_pooled else options


def hang_up(connection: psycopg.Connection[Any]) -> None:
    """Close it whatever it is doing, in another thread than that which uses it."""
    # More than once: a statement that was just about to begin does not hear the first one.
    while not connection.lock.acquire(timeout=_INTERRUPT_SECONDS):
        connection.cancel()
    try:
        connection.close()
    finally:
        connection.lock.release()


class LentPsycopg:
    """See ``Lent``. In psycopg's own block: it refuses ``commit()`` by itself, and blocks of the body's are savepoints."""

    errors: tuple[type[Exception], ...] = ERRORS

    def __init__(self, connection: psycopg.Connection[Any], executor: Executor) -> None:
        self.tx: Any = connection
        self.link = PsycopgLink(connection, executor)
        self._connection = connection
        self._executor = executor
        self._block: Any = None

    @classmethod
    async def open(cls, address: Address, executor: Executor, *, is_pooled: bool) -> LentPsycopg:
        """Connect."""
        return cls(await in_thread(executor, partial(connect, address, is_pooled=is_pooled)), executor)

    @property
    def is_closed(self) -> bool:
        """See Lent."""
        return self._connection.closed

    async def begin(self, isolation: Isolation) -> None:
        """See Lent."""
        self._connection.isolation_level = _LEVELS[isolation]
        self._block = self._connection.transaction()
        await self._in_thread(self._block.__enter__)

    async def settle(self) -> None:
        """See Lent. There is nothing that psycopg holds back."""

    async def commit(self) -> None:
        """See Lent."""
        await self._in_thread(partial(self._block.__exit__, None, None, None))

    async def roll_back(self) -> None:
        """See Lent."""
        rollback = psycopg.Rollback(self._block)
        await self._in_thread(partial(self._block.__exit__, psycopg.Rollback, rollback, None))

    async def give_back(self) -> None:
        """See Lent."""
        self._connection.close()

    async def hang_up(self) -> None:
        """See Lent."""
        await self._in_thread(partial(hang_up, self._connection))

    async def _in_thread(self, work: Callable[[], Any]) -> None:
        await in_thread(self._executor, work)


class LentAsyncPsycopg:
    """The same without blocking."""

    errors: tuple[type[Exception], ...] = ERRORS

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.tx: Any = connection
        self.link = AsyncPsycopgLink(connection)
        self._connection = connection
        self._block: Any = None

    @classmethod
    async def open(cls, address: Address, *, is_pooled: bool) -> LentAsyncPsycopg:
        """Connect."""
        options = _options(is_pooled=is_pooled)
        return cls(await psycopg.AsyncConnection.connect(address.dsn, autocommit=True, **options))

    @property
    def is_closed(self) -> bool:
        """See Lent."""
        return self._connection.closed

    async def begin(self, isolation: Isolation) -> None:
        """See Lent."""
        await self._connection.set_isolation_level(_LEVELS[isolation])
        self._block = self._connection.transaction()
        await self._block.__aenter__()

    async def settle(self) -> None:
        """See Lent."""

    async def commit(self) -> None:
        """See Lent."""
        await self._block.__aexit__(None, None, None)

    async def roll_back(self) -> None:
        """See Lent."""
        await self._block.__aexit__(psycopg.Rollback, psycopg.Rollback(self._block), None)

    async def give_back(self) -> None:
        """See Lent."""
        await self._connection.close()

    async def hang_up(self) -> None:
        """See Lent. A statement that is under way has been cancelled with the body."""
        await self._connection.close()
