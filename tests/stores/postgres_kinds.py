"""Connections to PostgreSQL of every kind that users have: of bodies, and of callers."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from everstep.records import BodyKind

KINDS = (
    "asyncpg",
    "psycopg",
    "async psycopg",
    "sqlalchemy",
    "sqlalchemy session",
    "async sqlalchemy",
    "async sqlalchemy session",
)
SYNC = frozenset({"psycopg", "sqlalchemy", "sqlalchemy session"})
_TYPES = {
    "asyncpg": ("asyncpg", "Connection"),
    "psycopg": ("psycopg", "Connection"),
    "async psycopg": ("psycopg", "AsyncConnection"),
    "sqlalchemy": ("sqlalchemy", "Connection"),
    "sqlalchemy session": ("sqlalchemy", "Session"),
    "async sqlalchemy": ("sqlalchemy", "AsyncConnection"),
    "async sqlalchemy session": ("sqlalchemy", "AsyncSession"),
}


def need(name: str) -> None:
    """Skip the test where a package of this kind is not installed."""
    wanted = [_TYPES[name][0], *(["greenlet"] if name.startswith("async sqlalchemy") else [])]
    missing = [each for each in wanted if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: pip install --group test")


def kind_of(name: str, **options: Any) -> BodyKind:
    """What a body for such a connection asks for."""
    return BodyKind(*_TYPES[name], name not in SYNC, **options)


async def ask(name: str, tx: Any, statement: str) -> list[Any]:
    """The rows of a statement, or none, on such a connection."""
    if name == "asyncpg":
        return [tuple(row) for row in await tx.fetch(statement)]
    if "sqlalchemy" in name:
        import sqlalchemy

        found = tx.execute(sqlalchemy.text(statement))
        found = await found if inspect.isawaitable(found) else found
        return [tuple(row) for row in found] if found.returns_rows else []
    cursor = tx.execute(statement.encode())
    cursor = await cursor if inspect.isawaitable(cursor) else cursor
    rows = cursor.fetchall() if cursor.description else []
    return list(await rows if inspect.isawaitable(rows) else rows)


def run_plainly(coroutine: Any) -> Any:
    """What a coroutine returns that never waits: ``ask`` on a connection that blocks."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


@asynccontextmanager
async def connected(name: str, url: str) -> AsyncGenerator[tuple[Any, Callable[[str], Any]]]:
    """A caller's connection of this kind in a transaction, and how to end that: ``commit`` or ``rollback``."""
    dsn = url.partition("?")[0]
    if name == "asyncpg":
        import asyncpg

        connection: Any = await asyncpg.connect(dsn)
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection, lambda how: getattr(transaction, how)()
        finally:
            await connection.close()
    elif "psycopg" in name:
        import psycopg

        connection = await psycopg.AsyncConnection.connect(dsn) if name.startswith("async") else psycopg.connect(dsn)
        try:
            yield connection, lambda how: getattr(connection, how)()
        finally:
            closing = connection.close()
            if closing is not None:
                await closing
    elif name.startswith("async"):
        from sqlalchemy import NullPool
        from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

        engine: Any = create_async_engine(dsn.replace("postgresql:", "postgresql+asyncpg:"), poolclass=NullPool)
        connection = AsyncSession(engine) if "session" in name else await engine.connect()
        try:
            yield connection, lambda how: getattr(connection, how)()
        finally:
            await connection.close()
    else:
        import sqlalchemy
        from sqlalchemy.orm import Session

        engine = sqlalchemy.create_engine(dsn.replace("postgresql:", "postgresql+psycopg:"), poolclass=sqlalchemy.NullPool)
        connection = Session(engine) if "session" in name else engine.connect()
        try:
            yield connection, lambda how: getattr(connection, how)()
        finally:
            connection.close()
