"""
The connections of a store: few, made when they are needed, and never two for one verb, so that a pool of one is enough.

A connection goes back to the pool only if its last transaction has ended for certain. Whoever is cancelled, or loses patience,
leaves one behind of which nobody knows what it is doing: it is hung up. When one turns out to be broken the idle ones are
hung up too, for the server has probably restarted.

Statements are written for the schema ``everstep``, so that they can be read, and run by hand; ``Names`` turns them to the
schema of this store, once each.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from everstep.stores.postgres import faults, link
from everstep.stores.postgres.address import SCHEMA_DEFAULT, Address
from everstep.stores.postgres.link import Link, Row, Statements

TRIES_MAX: Final = 20
"""How often a transaction is repeated that lost against another one (deadlock, serialization) and left nothing behind."""
_PAUSE_SECONDS: Final = 0.005
_CLOSE_SECONDS: Final = 2.0

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# Behind a pooler nothing that was set before can be relied on.
_PLANNER: Final = "".join(
    f"; SET LOCAL {name} = '{value}'" for name, value in link.SETTINGS.items() if name.startswith(("enable_", "jit"))
)
LOCK_SECONDS: Final = 10
# Where it qualifies a name, or is what a statement ends with.
_SCHEMA: Final = re.compile(rf"\b{SCHEMA_DEFAULT}(?=\.|$)")

T = TypeVar("T")


class Again(Exception):
    """What the transaction read is no longer so; it is rolled back and begins anew."""


class LockHeld(Exception):
    """Another transaction holds what was needed. Nothing has happened."""


class Names(dict[str, str]):
    """Statements for the store's own schema, by the statement as it is written."""

    def __init__(self, schema: str) -> None:
        super().__init__()
        self._schema = schema

    def __missing__(self, statement: str) -> str:
        named = _SCHEMA.sub(f'"{self._schema}"', statement)
        self[statement] = named
        return named


class Tx:
    """What a verb works with: one connection, for as long as it lasts. ``seconds``: how long a statement may take."""

    __slots__ = ("_link", "_names", "_seconds")

    def __init__(self, connection: Statements, names: Names, seconds: float | None = None) -> None:
        self._link = connection
        self._names = names
        self._seconds = seconds

    async def fetch(self, statement: str, *values: object) -> list[Row]:
        """The rows of a statement."""
        return await self._link.fetch(self._names[statement], *values, timeout=self._seconds)

    async def one(self, statement: str, *values: object) -> Row:
        """The one row of a statement that always has one."""
        (row,) = await self._link.fetch(self._names[statement], *values, timeout=self._seconds)
        return row

    async def execute(self, statement: str) -> None:
        """Statements without values, all in one message."""
        await self._link.execute(self._names[statement], timeout=self._seconds)

    async def put_lines(self, statement: str, lines: Sequence[Sequence[object]]) -> None:
        """A statement once for each line of values."""
        await self._link.executemany(self._names[statement], lines, timeout=self._seconds)


class Pool:
    """See the module.

    Args:
        address: Where to connect to.
        is_pooled: A pooler in transaction mode may be in between.
    """

    def __init__(self, address: Address, *, is_pooled: bool) -> None:
        self._address = address
        self.is_pooled = is_pooled
        self.names = Names(address.schema)
        settings = _PLANNER if is_pooled else ""
        self._begin = f"{_BEGIN}; SET LOCAL lock_timeout = {link.MOMENT_MILLISECONDS}{settings}"
        self._begin_patient = f"{_BEGIN}; SET LOCAL lock_timeout = {LOCK_SECONDS * 1000}{settings}"
        self._idle: list[Link] = []
        self._room = address.pool
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    async def ask(self, work: Callable[[Tx], Awaitable[T]], *, is_patient: bool = True) -> T:
        """Do what is a transaction by itself: one statement, or questions that need not agree with each other.

        Args:
            work: What to do.
            is_patient: Whether to wait for a lock for some seconds, or only for a moment.

        Raises:
            LockHeld: Somebody holds a lock that was needed, and it was not waited for.
            StoreUnavailable: It could not be done, or nobody knows whether it was.
        """
        begin = self._begin_patient if is_patient else self._begin
        return await self._repeat(work, begin=begin if self.is_pooled else "", is_patient=is_patient)

    async def transact(self, work: Callable[[Tx], Awaitable[T]], *, is_patient: bool = True) -> T:
        """Do several things in one transaction. ``work`` may be run more than once; only the last time counts.

        Args:
            work: What to do.
            is_patient: Whether to wait for a lock for ``LOCK_SECONDS``, or only for a moment.

        Raises:
            LockHeld: Somebody holds a lock that was needed, and it was not waited for.
        """
        return await self._repeat(work, begin=self._begin_patient if is_patient else self._begin, is_patient=is_patient)

    @property
    def has_idle(self) -> bool:
        """Whoever asks now gets a connection without waiting."""
        return bool(self._idle) and not self._idle[-1].is_closed()

    async def close(self) -> None:
        """Let go of all connections."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for each in idle:
            with suppress(Exception):
                await each.close(timeout=_CLOSE_SECONDS)

    def hang_up(self) -> None:
        """Let go of the idle connections, which are probably broken."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.terminate()

    async def _repeat(self, work: Callable[[Tx], Awaitable[T]], *, begin: str, is_patient: bool) -> T:
        for tries in range(1, TRIES_MAX + 1):
            try:
                return await self._once(work, begin)
            except (*faults.OF_DRIVER, Again) as error:
                if not is_patient and faults.is_lock(error):
                    raise LockHeld from error
                # Without a BEGIN there is no telling the server how patient we are, so we ask again.
                is_over = not begin and faults.is_lock(error)
                if tries == TRIES_MAX or not (is_over or isinstance(error, Again) or faults.is_transient(error)):
                    if isinstance(error, Again):
                        raise faults.translated(faults.Exhausted(tries), self._address) from None
                    if faults.is_of_connection(error):
                        self.hang_up()
                    raise faults.translated(error, self._address) from error
            await asyncio.sleep(_PAUSE_SECONDS * tries * random.uniform(0.5, 1.5))
        raise AssertionError("the last try returns or raises")

    async def _once(self, work: Callable[[Tx], Awaitable[T]], begin: str) -> T:
        connection = await self._take()
        is_clean = False
        try:
            if begin:
                answer = await self._in_transaction(connection, work, begin)
            else:
                answer = await work(Tx(connection, self.names))
            is_clean = True
        except link.Error as error:
            is_clean = not faults.is_of_connection(error)
            raise
        except Again:
            is_clean = True
            raise
        finally:
            self._give_back(connection, is_clean=is_clean)
        return answer

    async def _in_transaction(self, connection: Link, work: Callable[[Tx], Awaitable[T]], begin: str) -> T:
        await connection.execute(begin)
        try:
            answer = await work(Tx(connection, self.names))
        except (link.Error, Again) as error:
            # After anything else the connection is hung up, and the server rolls back by itself.
            if not faults.is_of_connection(error):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return answer

    async def _take(self) -> Link:
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    self._room -= 1
                    return connection
            if self._room > 0:
                self._room -= 1
                try:
                    return await link.connect(self._address, is_pooled=self.is_pooled)
                except BaseException:
                    self._room += 1
                    self._wake_one()
                    raise
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._wake_one()  # The place was ours and goes to the next.
                raise

    def _give_back(self, connection: Link, *, is_clean: bool) -> None:
        self._room += 1
        if not is_clean or self._is_closed:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
