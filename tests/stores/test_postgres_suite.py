"""The PostgreSQL store keeps every promise, with the rights of a role that may only do what an engine has to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from everstep.records import WorkerKey
from everstep.stores.base import Store
from everstep.testing.scene import Clocks
from everstep.testing.store_suite import StoreSuite
from everstep.testing.suite_base import Caller
from tests.stores.postgres_roles import EngineRole

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link
from everstep.stores.postgres.address import Address


class TestPostgresStore(StoreSuite):
    """One schema. That a killed *process* leaves its seat is shown in ``test_postgres_processes``."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres_url: str, engine_role: EngineRole) -> None:
        self.owner_url, self.role = postgres_url, engine_role

    async def make_store(self, clocks: Clocks) -> Store:
        self.clocks = clocks
        self.url = await self.role.url(self.owner_url)
        await _make_table(Address(self.owner_url), self.role.name)
        return PostgresStore(self.url, now=clocks.now, monotonic=clocks.monotonic, empty_seconds=0)

    async def store_of_owner(self, store: Store) -> Store:
        owned = PostgresStore(self.owner_url, now=self.clocks.now, monotonic=self.clocks.monotonic)
        await owned.open()
        return owned

    async def kill_worker(self, store: Store, worker_key: WorkerKey) -> None:
        assert isinstance(store, PostgresStore)
        await store.kill(worker_key)

    async def reopened(self, store: Store) -> Store:
        await store.close()
        again = await self.make_store(self.clocks)
        await again.open()
        return again

    async def put(self, tx: Any, number: int) -> None:
        await tx.execute(f"INSERT INTO {Address(self.url).schema}_users.suite VALUES ($1)", number)

    async def numbers(self, tx: Any) -> list[int]:
        found = await tx.fetch(f"SELECT number FROM {Address(self.url).schema}_users.suite ORDER BY number")
        return [number for (number,) in found]

    async def end_transaction(self, tx: Any) -> None:
        await tx.execute("COMMIT")

    async def trespass(self, tx: Any) -> None:
        await tx.execute(f"UPDATE {Address(self.url).schema}.runs SET deaths = 9")

    def calling(self, store: Store) -> AbstractAsyncContextManager[Caller]:
        return _calling(Address(self.url))

    def write_in_progress(self, store: Store) -> AbstractAsyncContextManager[None]:
        return _written_by_somebody_else(Address(self.owner_url))


@asynccontextmanager
async def _calling(address: Address) -> AsyncGenerator[Caller]:
    connection = await link.connect(address, is_pooled=True)
    await connection.execute("BEGIN")
    yield Caller(connection, lambda: connection.execute("COMMIT"), lambda: connection.execute("ROLLBACK"))
    await connection.close()


async def _make_table(address: Address, role: str) -> None:
    """A table of the user's, in a schema of his."""
    connection = await link.connect(address, is_pooled=True)
    await connection.execute(f"""
        CREATE SCHEMA IF NOT EXISTS {address.schema}_users;
        CREATE TABLE IF NOT EXISTS {address.schema}_users.suite(number int8);
        GRANT USAGE ON SCHEMA {address.schema}_users TO {role};
        GRANT SELECT, INSERT ON {address.schema}_users.suite TO {role};
    """)
    await connection.close()


@asynccontextmanager
async def _written_by_somebody_else(address: Address) -> AsyncGenerator[None]:
    connection = await link.connect(address, is_pooled=True)
    await connection.execute(f"""
        SET search_path = {address.schema};
        BEGIN;
        UPDATE runs SET status = 'dead', inbox_done = 99;
        DELETE FROM journal;
        DELETE FROM workers
    """)
    try:
        yield
    finally:
        await connection.execute("ROLLBACK")
        await connection.close()
