"""
Connections for the bodies of transactions, each of the kind that its body asks for.

They are not those of the store's own verbs, which must go on while a body runs: of either there are at most ``pool=`` of the
URL, so neither can starve the other, with a pool of one either. Drivers are imported when the first body asks for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, Protocol

from everstep.errors import UsageError
from everstep.records import BodyKind, Isolation
from everstep.stores.postgres import faults
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Statements

ASYNC: Final = "asyncpg.Connection, psycopg.AsyncConnection, or SQLAlchemy's AsyncConnection or AsyncSession"
PLAIN: Final = "psycopg.Connection, or SQLAlchemy's Connection or Session"
DEFAULTS: Final = {True: ("asyncpg", "Connection"), False: ("psycopg", "Connection")}
"""For bodies whose connection parameter says nothing: async and plain ones."""


class Lent(Protocol):
    """A connection in the hands of a body, and its transaction. Every method may raise ``errors``."""

    errors: tuple[type[Exception], ...]
    tx: Any
    """What the body gets."""
    link: Statements
    """What our statements run on, in the same transaction."""

    @property
    def is_closed(self) -> bool:
        """It is of no use any more."""
        ...

    async def begin(self, isolation: Isolation) -> None:
        """Begin the transaction, as the driver itself does."""
        ...

    async def settle(self) -> None:
        """Have the driver write what it still holds back."""
        ...

    async def commit(self) -> None:
        """Commit."""
        ...

    async def roll_back(self) -> None:
        """Roll back."""
        ...

    async def give_back(self) -> None:
        """The transaction has ended: let go of the connection."""
        ...

    async def hang_up(self) -> None:
        """Let go of the connection whatever it is doing; the server then rolls back."""
        ...


class Loan:
    """A connection, and whether its transaction has ended. If it has not when the loan ends, the connection is hung up."""

    __slots__ = ("has_ended", "lent")

    def __init__(self, lent: Lent) -> None:
        self.lent = lent
        self.has_ended = False


class Lender:
    """See the module.

    Args:
        address: Where to connect to.
        is_pooled: There may be a pooler in between.
    """

    def __init__(self, address: Address, *, is_pooled: bool) -> None:
        self._address = address
        self._is_pooled = is_pooled
        self._places = asyncio.Semaphore(address.pool)
        # Threads of our own: those of the loop may all be busy with what waits for us.
        self._threads = ThreadPoolExecutor(address.pool, thread_name_prefix="everstep-tx")
        self._pool: Any = None
        self._engine: Any = None
        self._async_engine: Any = None

    @asynccontextmanager
    async def lend(self, kind: BodyKind) -> AsyncGenerator[Loan]:
        """A connection of this kind, for one transaction.

        Raises:
            UsageError: There is no such connection here.
            StoreUnavailable: The server cannot be reached.
        """
        opening = self._opening(kind)
        async with self._places:
            try:
                loan = Loan(await opening())
            except Exception as error:
                # Each driver has errors of its own for a server that does not answer, and this one is just being found out.
                raise faults.translated(error, self._address) from error
            try:
                yield loan
            finally:
                await _let_go(loan)

    async def close(self) -> None:
        """Wait for what is under way, and let go of all connections."""
        for _ in range(self._address.pool):
            await self._places.acquire()
        if self._pool is not None:
            from everstep.stores.postgres import of_asyncpg

            await of_asyncpg.close(self._pool)
        self._threads.shutdown(wait=False)

    def _opening(self, kind: BodyKind) -> Any:
        asked = (kind.package, kind.type) if kind.package else DEFAULTS[kind.is_async]
        try:
            match (kind.is_async, *asked):
                case (True, "asyncpg", _):
                    return self._asyncpg
                case (True, "psycopg", "AsyncConnection"):
                    from everstep.stores.postgres.of_psycopg import LentAsyncPsycopg

                    return partial(LentAsyncPsycopg.open, self._address, is_pooled=self._is_pooled)
                case (False, "psycopg", "Connection"):
                    from everstep.stores.postgres.of_psycopg import LentPsycopg

                    return partial(LentPsycopg.open, self._address, self._threads, is_pooled=self._is_pooled)
                case (True, "sqlalchemy", "AsyncConnection" | "AsyncSession"):
                    return self._async_alchemy(as_session=kind.type == "AsyncSession")
                case (False, "sqlalchemy", "Connection" | "Session"):
                    return self._alchemy(as_session=kind.type == "Session")
                case _:
                    raise _unknown(kind)
        except ImportError as error:
            raise UsageError(
                f"a body asks for a {'.'.join(asked)}, which needs the package {error.name}. It was not run. "
                f"pip install {error.name}, or ask for another connection: {ASYNC if kind.is_async else PLAIN}."
            ) from error

    async def _asyncpg(self) -> Lent:
        from everstep.stores.postgres import of_asyncpg

        if self._pool is None:
            self._pool = of_asyncpg.make_pool(self._address, is_pooled=self._is_pooled)
        return await of_asyncpg.LentAsyncpg.open(self._pool)

    def _alchemy(self, *, as_session: bool) -> Any:
        from everstep.stores.postgres import of_alchemy, of_psycopg

        if self._engine is None:
            connect = partial(of_psycopg.connect, self._address, is_pooled=self._is_pooled, autocommit=False)
            self._engine = of_alchemy.make_engine(connect)
        return partial(of_alchemy.LentAlchemy.open, self._engine, self._threads, as_session=as_session)

    def _async_alchemy(self, *, as_session: bool) -> Any:
        if find_spec("greenlet") is None:  # SQLAlchemy finds out too late.
            raise ModuleNotFoundError(name="greenlet")
        from everstep.stores.postgres import of_async_alchemy, of_asyncpg

        if self._async_engine is None:
            connect = partial(of_asyncpg.connect, self._address, is_pooled=self._is_pooled)
            self._async_engine = of_async_alchemy.make_engine(connect, is_pooled=self._is_pooled)
        return partial(of_async_alchemy.LentAsyncAlchemy.open, self._async_engine, as_session=as_session)


async def _let_go(loan: Loan) -> None:
    if loan.has_ended:
        with suppress(*loan.lent.errors):
            await loan.lent.give_back()
            return
    with suppress(*loan.lent.errors):
        await loan.lent.hang_up()


def _unknown(kind: BodyKind) -> UsageError:
    what = "an async function" if kind.is_async else "a plain function"
    return UsageError(
        f"the body of a transaction is {what} and asks for a connection of the type {kind}; on PostgreSQL there is none such. "
        f"It was not run. Ask for {ASYNC} in an async function, {PLAIN} in a plain one."
    )
