"""What every part of the conformance suite stands on: what a subclass says about its store, and the scene of a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import pytest_asyncio

from everstep.records import WorkerKey
from everstep.stores.base import Store
from everstep.testing.scene import Clocks, Scene


class Caller(NamedTuple):
    """Somebody in the middle of a transaction of his own.

    Attributes:
        connection: In what the store calls its own database.
        commit: Ends the transaction.
        roll_back: The same.
    """

    connection: Any
    commit: Callable[[], Awaitable[Any]]
    roll_back: Callable[[], Awaitable[Any]]


class SuiteBase:
    """What a subclass of ``StoreSuite`` says about its store."""

    async def make_store(self, clocks: Clocks) -> Store:
        """A new, empty store that takes its time from ``clocks``. Not yet opened."""
        raise NotImplementedError

    async def kill_worker(self, store: Store, worker_key: WorkerKey) -> None:
        """Do to the store what the sudden death of this worker's process does."""
        raise NotImplementedError

    async def reopened(self, store: Store) -> Store:
        """Close the store, and open what it stored again."""
        await store.close()
        await store.open()
        return store

    async def store_of_owner(self, store: Store) -> Store:
        """The same store, opened by somebody who may forget runs. The default is a store in which everybody may."""
        return store

    def write_in_progress(self, store: Store) -> AbstractAsyncContextManager[None]:
        """Somebody else is in the middle of a write while this lasts. The default is a store in which nobody can be."""
        return _nothing()

    async def put(self, tx: Any, number: int) -> None:
        """Have an effect in a transaction of users: a row with this number in a table of the test's, made if missing."""
        tx.execute("CREATE TABLE IF NOT EXISTS suite(number INTEGER)")
        tx.execute("INSERT INTO suite VALUES (?)", (number,))

    async def numbers(self, tx: Any) -> list[int]:
        """The numbers that are there, in a transaction of users."""
        tx.execute("CREATE TABLE IF NOT EXISTS suite(number INTEGER)")
        return [number for (number,) in tx.execute("SELECT number FROM suite ORDER BY number")]

    async def end_transaction(self, tx: Any) -> None:
        """End a transaction of users in its middle, as a body must not."""
        tx.execute("COMMIT")

    async def trespass(self, tx: Any) -> None:
        """Change a table of everstep's in a transaction of users."""
        tx.execute("UPDATE runs SET deaths = 9")

    def calling(self, store: Store) -> AbstractAsyncContextManager[Caller] | None:
        """A connection of a caller's in a transaction; None if the store does not write in those."""
        return None

    @pytest_asyncio.fixture
    async def scene(self) -> AsyncIterator[Scene]:
        """An open store and what to act on it with."""
        clocks = Clocks()
        store = await self.make_store(clocks)
        await store.open()
        scene = Scene(store, clocks)
        owned = await self.store_of_owner(store)
        if owned is not store:
            scene.pruner = owned
        yield scene
        await scene.verify()
        await scene.store.close()
        await owned.close()


@asynccontextmanager
async def _nothing() -> AsyncGenerator[None]:
    yield
