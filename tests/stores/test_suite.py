"""Memory and SQLite keep every promise. (PostgreSQL: test_postgres_suite.)"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import apsw
import pytest

from everstep.records import WorkerKey
from everstep.stores.base import Store
from everstep.stores.memory import MemoryStore
from everstep.stores.sqlite import SQLiteStore
from everstep.stores.sqlite.ask import asking
from everstep.testing.scene import Clocks
from everstep.testing.store_suite import StoreSuite
from everstep.testing.suite_base import Caller


class TestMemoryStore(StoreSuite):
    """The reference."""

    async def make_store(self, clocks: Clocks) -> Store:
        return MemoryStore(now=clocks.now, monotonic=clocks.monotonic)

    async def kill_worker(self, store: Store, worker_key: WorkerKey) -> None:
        assert isinstance(store, MemoryStore)
        store.kill(worker_key)


class TestSQLiteStore(StoreSuite):
    """One file. That a killed *process* lets go of its lock is shown in ``test_sqlite_processes``."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "state.db"

    async def make_store(self, clocks: Clocks) -> Store:
        self.clocks = clocks
        return SQLiteStore(self.path, now=clocks.now, monotonic=clocks.monotonic)

    async def kill_worker(self, store: Store, worker_key: WorkerKey) -> None:
        assert isinstance(store, SQLiteStore)
        store.kill(worker_key)

    async def reopened(self, store: Store) -> Store:
        await store.close()
        again = await self.make_store(self.clocks)
        await again.open()
        return again

    def write_in_progress(self, store: Store) -> AbstractAsyncContextManager[None]:
        return _written_by_somebody_else(self.path)

    def calling(self, store: Store) -> AbstractAsyncContextManager[Caller]:
        return _calling(self.path)


@asynccontextmanager
async def _calling(path: Path) -> AsyncGenerator[Caller]:
    connection = apsw.Connection(str(path))
    ask = asking(connection)

    async def end(how: str) -> None:
        ask(how)

    ask("BEGIN IMMEDIATE")
    yield Caller(connection, lambda: end("COMMIT"), lambda: end("ROLLBACK"))
    connection.close()


@asynccontextmanager
async def _written_by_somebody_else(path: Path) -> AsyncGenerator[None]:
    connection = apsw.Connection(str(path))
    ask = asking(connection)
    ask("BEGIN IMMEDIATE; UPDATE runs SET status = 'dead', inbox_done = 99; DELETE FROM journal; DELETE FROM workers")
    try:
        yield
    finally:
        ask("ROLLBACK")
        connection.close()
