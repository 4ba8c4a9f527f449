"""The sessions of psycopg 3, blocking and not. Imported only when one is used: psycopg is an extra."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# Not installed everywhere.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.errors import UniqueViolation
from psycopg.pq import TransactionStatus

from everstep.databases.sessions import is_insert
from everstep.databases.witness import Duplicate, with_percents


class PsycopgSession:
    """See ``Session``. The transaction is psycopg's own block, in which it refuses ``commit()`` by itself."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        self._block: Any = None

    @property
    def is_open(self) -> bool:
        """See Session."""
        return self.connection.info.transaction_status is TransactionStatus.INTRANS

    def begin(self) -> None:
        """See Session."""
        self._block = self.connection.transaction()
        self._block.__enter__()

    def ask(self, statement: str, bindings: dict[str, str]) -> Any:
        """See Session."""
        try:
            cursor = self.connection.execute(with_percents(statement).encode(), bindings)
        except UniqueViolation as error:
            if is_insert(statement):
                raise Duplicate(str(error)) from error
            raise
        return cursor.fetchone() if cursor.description else None

    def run(self, body: Callable[[Any], str]) -> str:
        """See Session."""
        return body(self.connection)

    def commit(self) -> None:
        """See Session."""
        block, self._block = self._block, None
        block.__exit__(None, None, None)

    def roll_back(self) -> None:
        """See Session."""
        block, self._block = self._block, None
        if block is not None:
            rollback = psycopg.Rollback(block)
            block.__exit__(psycopg.Rollback, rollback, None)

    def close(self) -> None:
        """See Session. The server rolls back what is open."""
        self.connection.close()


class AsyncPsycopgSession:
    """See ``AsyncSession``."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self._block: Any = None

    @classmethod
    async def open(cls, url: str) -> AsyncPsycopgSession:
        """Connect."""
        return cls(await psycopg.AsyncConnection.connect(url, autocommit=True))

    @property
    def is_open(self) -> bool:
        """See Session."""
        return self.connection.info.transaction_status is TransactionStatus.INTRANS

    async def begin(self) -> None:
        """See Session."""
        self._block = self.connection.transaction()
        await self._block.__aenter__()

    async def ask(self, statement: str, bindings: dict[str, str]) -> Any:
        """See Session."""
        try:
            cursor = await self.connection.execute(with_percents(statement).encode(), bindings)
        except UniqueViolation as error:
            if is_insert(statement):
                raise Duplicate(str(error)) from error
            raise
        return await cursor.fetchone() if cursor.description else None

    async def commit(self) -> None:
        """See Session."""
        block, self._block = self._block, None
        await block.__aexit__(None, None, None)

    async def roll_back(self) -> None:
        """See Session."""
        block, self._block = self._block, None
        if block is not None:
            await block.__aexit__(psycopg.Rollback, psycopg.Rollback(block), None)

    async def close(self) -> None:
        """See Session."""
        await self.connection.close()
