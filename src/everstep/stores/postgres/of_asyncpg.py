"""
Connections of asyncpg as bodies get them: out of a pool of their own, for ours plan every query through an index.

What a body gets is asyncpg's own stand-in for a connection of a pool. It is of no use once the connection is given back, so a
body that keeps it cannot reach into the transaction of another.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg

from everstep.records import Isolation
from everstep.stores.postgres import faults
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import CONNECT_SECONDS, InterfaceError, Statements

_IDLE_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 2.0
# A plan that is made for each execution sees how large the tables are by now.
_SETTINGS: Final = {"application_name": "everstep", "plan_cache_mode": "force_custom_plan"}


async def connect(address: Address, *, is_pooled: bool) -> Any:
    """A connection by itself."""
    return await asyncpg.connect(address.dsn, timeout=CONNECT_SECONDS, **_options(is_pooled=is_pooled))


def make_pool(address: Address, *, is_pooled: bool) -> Any:
    """A pool in which there is nothing yet."""
    return asyncpg.create_pool(
        address.dsn,
        min_size=0,
        max_size=address.pool,
        max_inactive_connection_lifetime=_IDLE_SECONDS,
        reset=_nothing if is_pooled else None,
        timeout=CONNECT_SECONDS,
        **_options(is_pooled=is_pooled),
    )


def _options(*, is_pooled: bool) -> dict[str, Any]:
    if is_pooled:
        return {"statement_cache_size": 0, "server_settings": {"application_name": "everstep"}}
    return {"server_settings": _SETTINGS}


async def _nothing(_connection: Any) -> None:
    """Behind a pooler there is no session to be cleared up."""


async def close(pool: Any) -> None:
    """Close a pool."""
    try:
        await asyncio.wait_for(pool.close(), _CLOSE_SECONDS)
    except (TimeoutError, *faults.OF_DRIVER):
        pool.terminate()


class LentAsyncpg:
    """See ``Lent``."""

    errors: tuple[type[Exception], ...] = faults.OF_DRIVER

    def __init__(self, pool: Any, connection: Any) -> None:
        self.tx: Any = connection
        self.link: Statements = connection
        self._pool = pool
        self._connection = connection
        self._transaction: Any = None

    @classmethod
    async def open(cls, pool: Any) -> LentAsyncpg:
        """Take a connection out of the pool."""
        await pool  # Safe to repeat.
        return cls(pool, await pool.acquire())

    @property
    def is_closed(self) -> bool:
        """See Lent."""
        try:
            return bool(self._connection.is_closed())
        except InterfaceError:  # The pool has taken it back, because it was lost.
            return True

    async def begin(self, isolation: Isolation) -> None:
        """See Lent. As asyncpg does it, so that the body's own ``transaction()`` is a savepoint."""
        self._transaction = self._connection.transaction(isolation=isolation.replace(" ", "_"))
        await self._transaction.start()

    async def settle(self) -> None:
        """See Lent. There is nothing that asyncpg holds back."""

    async def commit(self) -> None:
        """See Lent."""
        await self._transaction.commit()

    async def roll_back(self) -> None:
        """See Lent."""
        await self._transaction.rollback()

    async def give_back(self) -> None:
        """See Lent."""
        await self._pool.release(self._connection)

    async def hang_up(self) -> None:
        """See Lent."""
        self._connection.terminate()
        await self._pool.release(self._connection)
