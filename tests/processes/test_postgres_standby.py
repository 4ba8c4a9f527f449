"""
B8: a real standby. It is never used for anything, and after a failover the workers find the new primary by themselves.

The standby is a synchronous one, so that what was acknowledged is there. That one which is not may lose what it has not got is
the server's choice; what everstep does then is shown too: nothing is torn, and what is missing is done again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

import everstep as es
from everstep.events import RunSucceeded, StepCompleted
from everstep.stores.urls import open_store
from tests.postgres_server import PASSWORD, USER, Server, Standby, missing

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import link
from everstep.stores.postgres.address import Address

PATIENCE_SECONDS = 60.0
effects: Counter[str] = Counter()
held: set[str] = set()
freed: set[str] = set()


@pytest.fixture
def primary() -> Iterator[Server]:
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    server = Server(wal_level="replica", wal_keep_size="64MB")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def standby(primary: Server) -> Iterator[Standby]:
    standby = Standby(primary)
    try:
        standby.start()
        yield standby
    finally:
        standby.remove()


@pytest.fixture(autouse=True)
def _forget() -> None:
    effects.clear()
    held.clear()
    freed.clear()


def both(primary: Server, standby: Standby) -> str:
    """A URL that names both, and wants the one that can be written to."""
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    return f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@{hosts}/postgres?target_session_attrs=read-write"


@es.step
async def count(name: str) -> str:
    effects[es.current().idempotency_key] += 1
    return name


@es.step
async def pause(name: str) -> str:
    """Until the test lets it go on, now or later."""
    effects[es.current().idempotency_key] += 1
    held.add(name)
    while name not in freed:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return name


@es.workflow
async def job(name: str) -> str:
    await count(f"{name} first")
    await pause(name)
    return await count(f"{name} last")


@asynccontextmanager
async def superuser(server: Server) -> AsyncGenerator[link.Link]:
    connection = await link.connect(Address(server.url()), is_pooled=True)
    try:
        yield connection
    finally:
        await connection.close()


async def wait_for(name: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while name not in held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_standby_is_refused_with_what_to_do(primary: Server, standby: Standby) -> None:
    """Decisions on what is a little old would be wrong ones."""
    store = open_store(primary.url())
    await store.open()
    await store.close()
    with pytest.raises(es.StoreUnavailable, match="may only be read: it is a standby") as caught:
        await open_store(standby.url()).open()

    assert "target_session_attrs=read-write" in str(caught.value)
    assert PASSWORD not in str(caught.value)


async def test_workers_go_on_with_the_primary_that_a_standby_becomes(primary: Server, standby: Standby) -> None:
    """The old primary crashes, the standby is promoted: no worker is restarted, nothing is lost, no step is executed twice."""
    await follow(primary, synchronously=True)
    async with es.Engine(both(primary, standby), workflows=[job], lease=600) as engine:
        handles = [await engine.start(job(f"run-{n}"), id=f"run-{n}") for n in range(5)]
        for n in range(5):
            await wait_for(f"run-{n}")
        await asyncio.to_thread(primary.stop, "immediate")
        freed.update(f"run-{n}" for n in range(5))
        await asyncio.to_thread(standby.promote)
        results = [await result_of(handle) for handle in handles]
        journals = [(await engine.load_journal(handle.run_id))[1] for handle in handles]

    assert [f"run-{n} last" for n in range(5)] == results
    assert {1} == set(effects.values())
    for entries in journals:
        events = [event for entry in entries for event in entry.decoded()]
        assert 3 == sum(isinstance(event, StepCompleted) for event in events)
        assert 1 == sum(isinstance(event, RunSucceeded) for event in events)


async def test_what_a_stale_standby_does_not_know_is_done_again(primary: Server, standby: Standby) -> None:
    """It had stopped to follow before the run's last entries. The worker notices the new timeline, finds a run of its own that
    it took to be finished, and lets it be claimed anew. What is not there at all is gone: the server's setting, not ours."""
    await follow(primary, synchronously=False)
    async with es.Engine(both(primary, standby), workflows=[job], lease=3) as engine:
        handle = await engine.start(job("stale"), id="stale")
        await wait_for("stale")
        async with superuser(standby) as connection:
            await caught_up(primary, connection)
        await asyncio.to_thread(standby.stop, "fast")
        freed.update(("stale", "late", "new"))
        late = await engine.start(job("late"), id="late")
        assert ["stale last", "late last"] == [await handle.result(PATIENCE_SECONDS), await late.result(PATIENCE_SECONDS)]
        await asyncio.to_thread(primary.stop, "immediate")
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)

        assert "new last" == await result_of_start(engine, "new")
        assert "stale last" == await result_of(engine.handle("stale", job))
        with pytest.raises(es.RunNotFound):
            await engine.handle("late").status()
        _, entries = await engine.load_journal("stale")
        events = [event for entry in entries for event in entry.decoded()]

    assert 3 == sum(isinstance(event, StepCompleted) for event in events)
    assert [1, 2, 2] == [count for key, count in effects.items() if key.startswith("stale/")]


async def result_of_start(engine: es.Engine, run_id: str) -> str:
    """Of a run that is started while the server may be away."""
    while True:
        try:
            return await result_of(await engine.start(job(run_id), id=run_id))
        except es.StoreUnavailable:
            await asyncio.sleep(0.05)


async def follow(primary: Server, *, synchronously: bool) -> None:
    async with superuser(primary) as connection:
        names = "*" if synchronously else ""
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await connection.execute("SELECT pg_reload_conf()")


async def caught_up(primary: Server, standby: link.Link) -> None:
    """All that the primary has now is there."""
    async with superuser(primary) as connection:
        ((place,),) = await connection.fetch("SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (await standby.fetch("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", place))[0][0]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def result_of(handle: es.Handle[str]) -> str:
    while True:
        try:
            return await handle.result(PATIENCE_SECONDS)
        except es.StoreUnavailable:
            await asyncio.sleep(0.05)
