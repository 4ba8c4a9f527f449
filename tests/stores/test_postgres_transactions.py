"""Transactional steps on PostgreSQL, driven: what the engine does about what its server says."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportArgumentType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import everstep as es
from everstep.engine import transact
from everstep.events import StepCompleted
from tests.postgres_pooler import Pooler
from tests.postgres_server import Server

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")
pytest.importorskip("psycopg", reason="needs psycopg: pip install --group test")

import asyncpg
import psycopg

from everstep.stores.postgres import link
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link

table = ""
executed: list[str] = []


@es.transaction
async def add(tx: asyncpg.Connection, name: str) -> int:
    executed.append(name)
    return int(await tx.fetchval(f"UPDATE {table} SET n = n + 1 WHERE name = $1 RETURNING n", name))


@es.transaction
def add_plainly(tx: psycopg.Connection[Any], name: str) -> int:
    executed.append(name)
    ((n,),) = tx.execute(f"UPDATE {table} SET n = n + 1 WHERE name = %s RETURNING n", (name,)).fetchall()
    return int(n)


@es.transaction(isolation="serializable")
async def add_up(tx: asyncpg.Connection, name: str) -> int:
    """Reads everything, and writes one: of two at once one has to give way."""
    total = int(await tx.fetchval(f"SELECT sum(n) FROM {table}"))
    await asyncio.sleep(0.02)
    await tx.execute(f"UPDATE {table} SET n = n + 1 WHERE name = $1", name)
    return total


@es.transaction
async def add_both(tx: asyncpg.Connection, first: str, second: str) -> None:
    """Two of these in opposite orders are a deadlock."""
    for name in (first, second):
        await tx.execute(f"UPDATE {table} SET n = n + 1 WHERE name = $1", name)
        await asyncio.sleep(0.05)


@es.workflow
async def add_each(number: int) -> list[int]:
    return [await add("a"), await add_plainly("a")]


@es.workflow
async def add_up_once(name: str) -> int:
    return await add_up(name)


@es.workflow
async def add_crosswise(first: str, second: str) -> None:
    await add_both(first, second)


WORKFLOWS = (add_each, add_up_once, add_crosswise)


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Link]:
    """Somebody else, and a table of the user's."""
    global table  # noqa: PLW0603  # steps have no other way to be told
    table = f"{Address(postgres_url).schema}_numbers"
    executed.clear()
    admin = await link.connect(Address(postgres_url), is_pooled=True)
    await admin.execute(f"CREATE TABLE {table}(name text, n int); INSERT INTO {table} VALUES ('a', 0), ('b', 0)")
    yield admin
    await admin.close()


async def numbers(admin: Link) -> dict[str, int]:
    return {str(row[0]): int(row[1]) for row in await admin.fetch(f"SELECT name, n FROM {table}")}


async def test_each_body_has_the_connection_it_asks_for_and_one_commit_with_its_record(admin: Link, postgres_url: str) -> None:
    """Async and plain ones; each result stands alone in an entry that no code ran in."""
    async with es.Engine(postgres_url, WORKFLOWS) as engine:
        handle = await engine.start(add_each(1), id="t")

        assert [1, 2] == await handle.result(20)
        _, entries = await engine.load_journal("t")
    alone = [[type(event) for event in entry.decoded()] for entry in entries if not entry.drained]
    assert [[StepCompleted]] * 2 == alone
    assert {"a": 2, "b": 0} == await numbers(admin)


@pytest.mark.parametrize("pooler", ["no", "yes"])
async def test_many_runs_share_one_connection(admin: Link, postgres_url: str, postgres_server: Server, pooler: str) -> None:
    """K1, with a pooler in transaction mode in between, too: nothing waits for ever, and nothing is done twice."""
    async with Pooler(postgres_server.socket) as between:
        url = f"{postgres_url}&pool=1"
        if pooler == "yes":
            url = f"postgresql://postgres@127.0.0.1:{between.port}/postgres?schema={Address(postgres_url).schema}&pool=1"
        async with es.Engine(url, WORKFLOWS) as engine:
            handles = [await engine.start(add_each(n), id=f"t-{n}") for n in range(10)]
            results = [await handle.result(60) for handle in handles]

    assert list(range(1, 21)) == sorted(n for each in results for n in each)
    assert {"a": 20, "b": 0} == await numbers(admin)
    assert 20 == len(executed)


async def test_bodies_that_conflict_are_run_again_until_each_had_its_way(admin: Link, postgres_url: str) -> None:
    """B8: a serialization failure is no failure of the step: each sees what those before it did."""
    async with es.Engine(postgres_url, WORKFLOWS) as engine:
        handles = [await engine.start(add_up_once("ab"[n % 2]), id=f"t-{n}") for n in range(6)]

        assert list(range(6)) == sorted([await handle.result(60) for handle in handles])
        _, entries = await engine.load_journal("t-0")
    [done] = [event for entry in entries for event in entry.decoded() if isinstance(event, StepCompleted)]
    assert 1 == done.attempt
    assert {"a": 3, "b": 3} == await numbers(admin)


async def test_bodies_that_deadlock_are_run_again(admin: Link, postgres_url: str, postgres_server: Server) -> None:
    """The server ends one of them after a second, and it gets its turn."""
    async with es.Engine(postgres_url, WORKFLOWS) as engine:
        handles = [
            await engine.start(add_crosswise("a", "b"), id="ab"),
            await engine.start(add_crosswise("b", "a"), id="ba"),
        ]
        for handle in handles:
            await handle.result(60)

    assert {"a": 2, "b": 2} == await numbers(admin)
    assert "deadlock detected" in postgres_server.log


async def test_a_body_that_never_gets_its_way_fails_its_step_in_the_end(
    admin: Link, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the server's own words."""
    monkeypatch.setattr(transact, "TRIES_MAX", 3)
    tries = 0

    @es.transaction
    async def unlucky(tx: asyncpg.Connection) -> None:
        nonlocal tries
        tries += 1
        await tx.execute("DO $$ BEGIN RAISE EXCEPTION 'again and again' USING ERRCODE = '40001'; END $$")

    @es.workflow
    async def only() -> None:
        await unlucky()

    async with es.Engine(postgres_url, [only]) as engine:
        with pytest.raises(es.RunFailed, match="again and again"):
            await (await engine.start(only(), id="t")).result(20)
    assert 3 == tries


async def test_a_connection_that_is_lost_in_a_body_does_not_fail_the_step(admin: Link, postgres_url: str) -> None:
    """The store going away is never an error of a run: the body is run again when it is back."""
    tries = 0

    @es.transaction
    async def lost(tx: asyncpg.Connection) -> int:
        nonlocal tries
        tries += 1
        n = await tx.fetchval(f"UPDATE {table} SET n = n + 1 WHERE name = 'a' RETURNING n")
        if tries == 1:
            await admin.fetch("SELECT pg_terminate_backend($1)", await tx.fetchval("SELECT pg_backend_pid()"))
            await tx.execute("SELECT 1")
        return int(n)

    @es.workflow
    async def only() -> int:
        return await lost()

    async with es.Engine(postgres_url, [only]) as engine:
        assert 1 == await (await engine.start(only(), id="t")).result(20)
    assert 2 == tries


async def test_a_body_for_sqlite_is_refused_with_what_to_write_instead(admin: Link, postgres_url: str) -> None:
    @es.transaction
    def for_sqlite(tx: es.SQLiteTx) -> None:
        pytest.fail("it ran")

    @es.transaction
    async def for_postgresql(tx: asyncpg.Connection) -> None:
        pytest.fail("it ran")

    @es.workflow
    async def on_postgresql() -> None:
        await for_sqlite()

    @es.workflow
    async def in_memory() -> None:
        await for_postgresql()

    async with es.Engine(postgres_url, [on_postgresql]) as engine:
        with pytest.raises(es.RunFailed, match=r"everstep\.SQLiteTx; on PostgreSQL there is none such"):
            await (await engine.start(on_postgresql(), id="t")).result(20)
    async with es.Engine("memory://", [in_memory]) as other:
        with pytest.raises(es.RunFailed, match=r"asyncpg\.Connection, and the store memory:// has none"):
            await (await other.start(in_memory(), id="t")).result(20)
    assert {"a": 0, "b": 0} == await numbers(admin)


def test_an_isolation_that_is_none_is_refused() -> None:
    define: Any = es.transaction(isolation="whatever")  # type: ignore[call-overload]

    async def body(tx: Any) -> None: ...

    with pytest.raises(es.UsageError, match="isolation='whatever' is not known"):
        define(body)
