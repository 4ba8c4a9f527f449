"""Runs and signals that exist iff a transaction of the caller's on PostgreSQL commits, with connections of every kind."""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

import everstep as es
from everstep.events import TimerFired
from everstep.records import Status
from everstep.stores.base import Behind, Landed, TooEarly
from everstep.testing.scene import Scene, message, new_run
from tests.postgres_server import Server
from tests.stores.postgres_kinds import KINDS, ask, connected, need

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link
from everstep.stores.postgres.address import Address

approval = es.signal("approval", str)


@es.workflow
async def greet(name: str) -> str:
    return f"hello {name}"


@es.workflow
async def wait_for_it() -> str:
    return await approval.wait()


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[es.Engine]:
    """An engine, a run that waits for a signal, and a table of the user's."""
    async with es.Engine(postgres_url, [greet, wait_for_it]) as engine:
        await engine.start(wait_for_it(), id="w")
        admin = await link.connect(Address(postgres_url), is_pooled=True)
        await admin.execute(f"CREATE TABLE {orders(postgres_url)}(id TEXT)")
        await admin.close()
        yield engine


def orders(url: str) -> str:
    """The name of a table beside the store."""
    return f"{Address(url).schema}_orders"


async def end(how: Any) -> None:
    if inspect.isawaitable(how):
        await how


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Each kind of connection."""
    need(request.param)
    return str(request.param)


# --- it exists iff he commits -------------------------------------------------------------------------------------------------


async def test_a_run_and_a_signal_exist_once_the_callers_transaction_commits(
    engine: es.Engine, postgres_url: str, name: str
) -> None:
    """P35: with his own row; nobody hears of them before, and then at once."""
    async with connected(name, postgres_url) as (tx, ends):
        await ask(name, tx, f"INSERT INTO {orders(postgres_url)} VALUES ('42')")
        handle = await engine.start(greet("ann"), id="a", tx=tx)
        await engine.handle("w").send(approval, "yes", tx=tx)
        with pytest.raises(es.RunNotFound):
            await handle.status()
        await end(ends("commit"))

        assert "hello ann" == await handle.result(timeout=20)
        assert "yes" == await engine.handle("w", wait_for_it).result(timeout=20)
        assert [("42",)] == await ask(name, tx, f"SELECT id FROM {orders(postgres_url)}")


async def test_a_run_and_a_signal_are_gone_with_the_callers_transaction(
    engine: es.Engine, postgres_url: str, name: str
) -> None:
    """P35: it was rolled back, so there is neither."""
    async with connected(name, postgres_url) as (tx, ends):
        await engine.start(greet("ann"), id="a", tx=tx)
        await engine.handle("w").send(approval, "no", tx=tx)
        await end(ends("rollback"))

    with pytest.raises(es.RunNotFound):
        await engine.handle("a").status()
    run = await engine.get("w")
    assert (0, 0) == (run.inbox_seq, len(await engine.store.mail(run.run_key)))


async def test_nothing_else_need_be_asked_in_the_transaction_before(postgres_url: str, name: str) -> None:
    """A client that was not open, and a transaction that the driver has not told the server of yet."""
    async with es.Client(postgres_url) as client:
        await client.start(greet("bob"), id="b")
    client = es.Client(postgres_url)
    async with connected(name, postgres_url) as (tx, ends):
        await client.start(greet("ann"), id="a", tx=tx)
        await end(ends("commit"))
    assert ["a", "b"] == [run.run_id for run in await client.list()]
    await client.close()


async def test_what_is_refused_leaves_the_callers_transaction_as_it_was(
    engine: es.Engine, postgres_url: str, name: str
) -> None:
    """P35: another start under the id, a signal to nobody; a joined start; and he goes on."""
    async with connected(name, postgres_url) as (tx, ends):
        await engine.start(greet("ann"), id="a", tx=tx)
        await engine.start(greet("ann"), id="a", tx=tx)
        with pytest.raises(es.RunConflict):
            await engine.start(greet("bob"), id="a", tx=tx)
        with pytest.raises(es.RunNotFound):
            await engine.handle("nobody").send(approval, "yes", tx=tx)
        await ask(name, tx, f"INSERT INTO {orders(postgres_url)} VALUES ('42')")
        await end(ends("commit"))

    assert "hello ann" == await engine.handle("a", greet).result(timeout=20)


async def test_what_fails_in_the_middle_leaves_nothing_of_itself_and_all_of_the_callers(
    engine: es.Engine, postgres_url: str
) -> None:
    """P35: whatever it is: a crash of ours, a cancellation between two statements."""
    store: Any = engine.store
    admin = await link.connect(Address(postgres_url), is_pooled=True)
    await admin.execute(f"BEGIN; INSERT INTO {orders(postgres_url)} VALUES ('42')")

    async def work(error: BaseException, tx: Any) -> None:
        await tx.fetch("UPDATE everstep.runs SET status = 'dead'")
        raise error

    for error in (ZeroDivisionError(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await store._state().callers.write(admin, partial(work, error))
    await admin.execute("COMMIT")

    assert 1 == len(await admin.fetch(f"SELECT 1 FROM {orders(postgres_url)}"))
    assert "dead" != await engine.handle("w").status()
    await admin.close()


async def test_a_run_may_be_started_with_a_signal_in_its_inbox(engine: es.Engine, postgres_url: str) -> None:
    async with connected("asyncpg", postgres_url) as (tx, ends):
        await engine.start(wait_for_it(), id="a", send=approval.message("first"), tx=tx)
        await ends("commit")

    assert "first" == await engine.handle("a", wait_for_it).result(timeout=20)


# --- what is refused ----------------------------------------------------------------------------------------------------------


async def refused(engine: es.Engine, tx: Any, match: str) -> None:
    with pytest.raises(es.UsageError, match=match) as told:
        await engine.start(greet("ann"), id="a", tx=tx)
    assert "Nothing was written" in str(told.value)


async def test_a_connection_without_a_transaction_is_refused(engine: es.Engine, postgres_url: str) -> None:
    """What is written would be committed by itself."""
    admin = await link.connect(Address(postgres_url), is_pooled=True)
    await refused(engine, admin, "is not open")
    await admin.close()
    psycopg: Any = pytest.importorskip("psycopg")
    with psycopg.connect(postgres_url.partition("?")[0], autocommit=True) as connection:
        await refused(engine, connection, "is not open")
        with connection.transaction():
            await engine.start(greet("ann"), id="a", tx=connection)
    assert "hello ann" == await engine.handle("a", greet).result(timeout=20)


async def test_a_transaction_that_has_failed_is_refused(engine: es.Engine, postgres_url: str, name: str) -> None:
    async with connected(name, postgres_url) as (tx, ends):
        with pytest.raises(Exception, match="division by zero"):
            await ask(name, tx, "SELECT 1 / 0")
        await refused(engine, tx, "has failed")
        await end(ends("rollback"))


async def test_a_connection_to_another_database_or_server_is_refused(
    engine: es.Engine, postgres_url: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to a copy, which has the same name and marks; and the caller's transaction goes on."""
    admin = await link.connect(Address(postgres_url), is_pooled=True)
    if not await admin.fetch("SELECT 1 FROM pg_database WHERE datname = 'elsewhere'"):
        await admin.execute("CREATE DATABASE elsewhere")
    async with connected("asyncpg", postgres_server.url("elsewhere")) as (tx, ends):
        await refused(engine, tx, "not to the database of the store")
        assert [(1,)] == await ask("asyncpg", tx, "SELECT 1")
        await ends("commit")
    store: Any = engine.store
    await admin.execute("BEGIN")
    store._state().callers._place = ("another", "postgres", "long ago")
    await engine.start(greet("ann"), id="a", tx=admin)  # It looks again: the server may have been started anew.

    async def elsewhere(_: object) -> tuple[str, ...]:
        return ("the same", "postgres", "on another server")

    store._state().callers._place = ()
    monkeypatch.setattr(store._state().pool, "ask", elsewhere)
    await refused(engine, admin, "not to the database of the store")
    monkeypatch.undo()
    await admin.execute("ROLLBACK")
    await admin.close()


async def test_what_is_no_connection_is_refused(engine: es.Engine) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        await refused(engine, connection, "tx=Connection is no connection that a store in PostgreSQL can write on")
    await refused(engine, object(), "tx=object")


async def test_a_role_that_may_not_write_there_is_told(engine: es.Engine, postgres_url: str, postgres_server: Server) -> None:
    """The caller's role is another than the engine's, and needs the same rights."""
    admin = await link.connect(Address(postgres_url), is_pooled=True)
    if not await admin.fetch("SELECT 1 FROM pg_roles WHERE rolname = 'a_caller_without_rights'"):
        await admin.execute("CREATE ROLE a_caller_without_rights LOGIN PASSWORD 'x'")
    async with connected("asyncpg", postgres_server.url(user="a_caller_without_rights", password="x")) as (tx, ends):
        with pytest.raises(es.StoreUnavailable, match=r"does not permit this.*Roll back"):
            await engine.start(greet("ann"), id="a", tx=tx)
        await ends("rollback")
    await admin.close()


# --- whom it holds up ---------------------------------------------------------------------------------------------------------


async def test_a_message_in_an_open_transaction_holds_up_its_run_only(postgres_url: str) -> None:
    """Other runs are claimed, written to and ended meanwhile; that one comes back later, with nothing lost."""
    store = PostgresStore(postgres_url)
    await store.open()
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker("me", 3600)
    held, free = await scene.owned(worker, "held"), await scene.owned(worker, "free")
    await scene.create("due")
    async with connected("asyncpg", postgres_url) as (tx, ends):
        await store.post_in(tx, "held", message(TimerFired("0:9")))
        writes = [
            scene.append(held, status=Status.WAITING, release=True),
            scene.append(free, status=Status.WAITING, release=True),
        ]
        outcomes = await scene.commit(*writes)
        claimed = await scene.claim_one(worker)
        held_again = await scene.commit(scene.append(held))
        await ends("commit")

    assert [TooEarly(), Landed()] == outcomes
    assert "due" == claimed.run.run_id
    assert [Landed()] == held_again, "an entry that needs nothing but its place is not held up"
    assert [Behind()] == await scene.commit(scene.append(await scene.run("held"), status=Status.WAITING, release=True)), (
        "it has mail"
    )
    await store.close()


async def test_a_start_under_an_id_that_an_open_transaction_is_creating_holds_up_nobody_else(postgres_url: str) -> None:
    """Only the other transaction knows whether the id is taken; whoever else writes in the same batch goes on."""
    store = PostgresStore(postgres_url)
    await store.open()
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker("me", 3600)
    run = await scene.owned(worker, "other")
    async with connected("asyncpg", postgres_url) as (tx, ends):
        await store.create_in(tx, [new_run("a")])
        first = scene.first(worker, "a")
        outcomes = await scene.commit(first, scene.append(run), scene.first(worker, "b"))
        await ends("rollback")

    assert [TooEarly(), Landed(), Landed()] == outcomes
    assert [Landed()] == await scene.commit(first)
    await store.close()
