"""
Writing in a transaction of a caller's, on a connection of his: what is written is there iff he commits, and only then is
anybody told (NOTIFY waits for the commit).

Connections of asyncpg, psycopg 3 and SQLAlchemy 2 over one of these are taken, blocking or not; those that block are used in a
thread. A savepoint stands around what we write, so that what is refused leaves his transaction as it was.

Whoever locks a run's row (by sending to it) holds it until he commits. Others who need that row wait, or come back later;
nobody else does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from everstep.errors import UsageError
from everstep.stores.postgres import faults, link
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Statements
from everstep.stores.postgres.pool import TRIES_MAX, Again, Pool, Tx

Place: TypeAlias = tuple[object, ...]
"""Which store a connection reaches: its incarnation, the database, and the start of its server (a copy has another)."""

PLACE: Final = """
SELECT value, current_database(), pg_postmaster_start_time()::text FROM everstep.meta WHERE key = 'incarnation'
"""
_NO_STORE: Final = frozenset({"3F000", "42P01"})
_ABORTED: Final = "25P02"
_PAUSE_SECONDS: Final = 0.005
_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "sqlalchemy"})
_SUSPENDING: Final = frozenset({"AsyncConnection", "AsyncSession", "async_scoped_session"})

T = TypeVar("T")


class Callers:
    """See the module.

    Args:
        pool: Whose connections reach the store.
        address: For errors.
        place: Which store that is.
    """

    def __init__(self, pool: Pool, address: Address, place: Place) -> None:
        self._pool = pool
        self._address = address
        self._place = place

    async def write(self, connection: Any, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Do ``work`` in the caller's transaction. It may be done more than once; only the last time counts.

        Raises:
            UsageError: It is no such connection, or not to this store, or has no transaction.
            StoreUnavailable: The server refused. Nothing was written, and the caller should roll back.
        """
        try:
            tx = Tx(await _statements(connection), self._pool.names)
            return await self._repeated(tx, work)
        except Exception as error:
            if not _is_of_driver(error):
                raise
            if link.sqlstate(error) == _ABORTED:
                raise _no_transaction("has failed") from error
            told = faults.translated(error, self._address)
            raise type(told)(f"{told} Roll back the transaction that was passed as tx, and repeat it.") from error

    async def _repeated(self, tx: Tx, work: Callable[[Tx], Awaitable[T]]) -> T:
        for tries in range(1, TRIES_MAX + 1):
            with suppress(Again):
                return await self._once(tx, work)
            await asyncio.sleep(_PAUSE_SECONDS * tries * random.uniform(0.5, 1.5))
        raise faults.translated(faults.Exhausted(TRIES_MAX), self._address)

    async def _once(self, tx: Tx, work: Callable[[Tx], Awaitable[T]]) -> T:
        await tx.execute("SAVEPOINT everstep_tx")
        try:
            await self._check(tx)
            answer = await work(tx)
        except BaseException:
            with suppress(Exception):  # Else the connection is lost, and the transaction with it.
                await tx.execute("ROLLBACK TO SAVEPOINT everstep_tx; RELEASE SAVEPOINT everstep_tx")
            raise
        await tx.execute("RELEASE SAVEPOINT everstep_tx")
        return answer

    async def _check(self, tx: Tx) -> None:
        place = await place_of(tx)
        if place != self._place:
            self._place = await self._pool.ask(place_of)  # The server may have been started anew since we looked.
        if place != self._place:
            raise UsageError(
                f"the connection that was passed as tx is not to the database of the store {self._address.shown}. Nothing was "
                "written. Pass a connection to the very same database, of the same server."
            )


async def place_of(tx: Tx) -> Place:
    """Where a connection leads; empty if there is no such store."""
    try:
        found = await tx.fetch(PLACE)
    except Exception as error:
        if link.sqlstate(error) in _NO_STORE:
            return ()
        raise
    return tuple(found[0]) if found else ()


async def _statements(connection: Any) -> Statements:
    """What our statements run on, in the transaction of this connection."""
    driver = await _underneath(connection) if _package(connection) == "sqlalchemy" else connection
    match _package(driver):
        case "asyncpg":
            if not driver.is_in_transaction():
                raise _no_transaction("is not open")
            found: Statements = driver
        case "psycopg":
            from everstep.stores.postgres import of_psycopg

            objection = of_psycopg.objection(driver)
            if objection:
                raise _no_transaction(objection)
            found = of_psycopg.link_of(driver)
        case _:
            raise UsageError(
                f"tx={type(connection).__name__} is no connection that a store in PostgreSQL can write on. Nothing was written."
                " Pass one of asyncpg, of psycopg 3, or of SQLAlchemy over one of these (postgresql+asyncpg or +psycopg)."
            )
    return found


async def _underneath(connection: Any) -> Any:
    if _SUSPENDING.isdisjoint(each.__name__ for each in type(connection).__mro__):
        from everstep.stores.postgres import of_alchemy

        return await of_alchemy.underneath(connection)
    from everstep.stores.postgres import of_async_alchemy

    return await of_async_alchemy.underneath(connection)


def _package(thing: Any) -> str:
    """The driver whose class it is, or is derived from."""
    packages = (each.__module__.partition(".")[0] for each in type(thing).__mro__)
    return next((each for each in packages if each in _DRIVERS), "")


def _is_of_driver(error: Exception) -> bool:
    return bool(_package(error)) or isinstance(error, faults.OF_DRIVER)


def _no_transaction(how: str) -> UsageError:
    return UsageError(
        f"the transaction of the connection that was passed as tx {how}. Nothing was written. Begin one first, and commit it "
        "afterwards: async with connection.transaction(), or what your driver calls it."
    )
