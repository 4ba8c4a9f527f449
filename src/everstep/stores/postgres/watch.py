"""
The connection that stays open: it hears what others did, and shows that we are alive.

Whoever writes something that others may wait for says so on a channel, once per transaction and with the name of the store
object that says it, so that nobody wakes up for its own news. The same connection holds the seats of our workers.

It needs the server itself at the other end: behind a pooler in transaction mode there is no such connection. Then, and while it
is broken, we say that there may be news every ``POLL_SECONDS``, and only leases tell who is dead.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from everstep.records import WorkerKey
from everstep.stores.postgres import faults, link, workers
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link
from everstep.stores.postgres.pool import Names, Tx

POLL_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 1.0
"""How often an idle worker looks whether the seat of another is empty: the one statement a second that idling costs."""
EMPTY_SECONDS: Final = 1.0
"""How long a seat must be seen empty until it proves a death: who only lost its connection has taken it again by then."""
_BACKOFF_SECONDS: Final = 0.1
_BACKOFF_SECONDS_MAX: Final = 2.0
_CLOSE_SECONDS: Final = 2.0


class Watch:
    """See the module.

    Args:
        address: Where to connect to.
        names: Statements for the store's schema.
        channel: Where news are told.
        sender: Our name there.
        on_news: Called when others have done something.
    """

    def __init__(self, address: Address, names: Names, channel: str, sender: str, on_news: Callable[[], None]) -> None:
        self._address = address
        self._names = names
        self._channel = channel
        self._sender = sender
        self._on_news = on_news
        self._link: Link | None = None
        self._seats: set[WorkerKey] = set()
        self._turn = asyncio.Lock()
        self._returning: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_listening(self) -> bool:
        """News arrive by themselves."""
        return self._link is not None and not self._link.is_closed()

    async def begin(self, connection: Link) -> None:
        """Listen on this connection from now on. If that fails it is hung up."""
        try:
            await connection.add_listener(self._channel, self._hear)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._lose)
        self._link = connection

    async def sit(self, worker_key: WorkerKey) -> None:
        """Take the seat of a worker, if there is a connection; else as soon as there is."""
        self._seats.add(worker_key)
        connection = self._link
        if connection is None or connection.is_closed():
            return
        try:
            async with self._turn:
                await workers.sit(Tx(connection, self._names), worker_key)
        except faults.OF_DRIVER:
            connection.terminate()  # It will come back, and take all seats.

    async def stand_up(self, worker_key: WorkerKey) -> None:
        """Leave the seat of a worker."""
        self._seats.discard(worker_key)
        connection = self._link
        if connection is None or connection.is_closed():
            return
        with suppress(*faults.OF_DRIVER):
            async with self._turn:
                await workers.stand_up(Tx(connection, self._names), worker_key)

    async def close(self) -> None:
        """Hear no more."""
        self._is_closed = True
        if self._returning is not None:
            self._returning.cancel()
        connection, self._link = self._link, None
        if connection is not None:
            with suppress(Exception):
                await connection.close(timeout=_CLOSE_SECONDS)

    def _hear(self, _connection: Any, _pid: int, _channel: str, sender: str) -> None:
        if sender != self._sender:
            self._on_news()

    def _lose(self, _connection: Any) -> None:
        if not self._is_closed and (self._returning is None or self._returning.done()):
            self._returning = asyncio.get_running_loop().create_task(self._return(), name="everstep listens again")

    async def _return(self) -> None:
        backoff = _BACKOFF_SECONDS
        while not self._is_closed:
            with suppress(*faults.OF_DRIVER):
                await self.begin(await link.connect(self._address, is_pooled=True))
            for worker_key in list(self._seats):
                await self.sit(worker_key)
            # It may have been lost again while the seats were taken, and nobody else begins anew while this does.
            if self.is_listening:
                self._on_news()  # Whatever was told meanwhile was not heard.
                return
            await asyncio.sleep(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, _BACKOFF_SECONDS_MAX)


class Seats:
    """Remembers since when the seats of others have been empty."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._empty_since: dict[WorkerKey, float] = {}
        self._looked_at = 0.0
        self.others: Sequence[WorkerKey] = ()

    def note(self, seen: Sequence[workers.Seen], mine: Collection[WorkerKey]) -> dict[WorkerKey, bool]:
        """Note what was seen. Returns the workers whose seats are empty, and whether for long enough."""
        now = self._looked_at = time.monotonic()
        self.others = [each.worker_key for each in seen if not each.gone and each.worker_key not in mine]
        empty = {each.worker_key for each in seen if each.is_empty}
        self._empty_since = {key: self._empty_since.get(key, now) for key in empty}
        return {key: now - since >= self._patience_seconds for key, since in self._empty_since.items()}

    @property
    def is_due(self) -> bool:
        """It is time to look again."""
        return bool(self.others) and time.monotonic() - self._looked_at >= PROBE_SECONDS


async def is_direct(connection: Link, address: Address) -> bool:
    """Whether the server itself is at the other end, and not a pooler: that makes up the process number it shows."""
    try:
        # In a transaction, or the pooler might ask one server to prepare the statement and another one to run it.
        await connection.execute("BEGIN")
        ((pid,),) = await connection.fetch("SELECT pg_backend_pid()")
        await connection.execute("ROLLBACK")
    except faults.OF_DRIVER as error:
        raise faults.translated(error, address) from error
    return bool(pid == connection.get_server_pid())
