"""The PostgreSQL store behind a pooler in transaction mode: no connection remembers anything of the transaction before."""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from msgspec import Raw

import everstep as es
from everstep.events import RunSucceeded, TimerFired
from everstep.journal import verify_chain
from everstep.records import Status
from everstep.stores.base import Landed, Post
from everstep.testing.scene import Scene, message, new_run
from tests.postgres_pooler import Pooler
from tests.postgres_server import Server

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore
from everstep.stores.postgres.address import Address

HOUR = 3600.0


@pytest.fixture
async def pooler(postgres_server: Server) -> AsyncIterator[Pooler]:
    async with Pooler(postgres_server.socket) as pooler:
        yield pooler


@pytest.fixture
def pooled_url(pooler: Pooler, postgres_url: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{pooler.port}/postgres?schema={Address(postgres_url).schema}"


async def opened(url: str) -> PostgresStore:
    store = PostgresStore(url)
    await store.open()
    return store


async def test_a_pooler_is_noticed(pooled_url: str, postgres_url: str) -> None:
    """By the process number that it makes up. Nothing is then kept on connections, and nobody listens."""
    pooled, direct = await opened(pooled_url), await opened(postgres_url)

    assert (True, None) == (pooled._state().pool.is_pooled, pooled._state().watch)
    assert not direct._state().pool.is_pooled
    assert direct._state().watch is not None
    await pooled.close()
    await direct.close()


async def test_a_url_may_say_that_there_is_a_pooler(postgres_url: str) -> None:
    """For one that hides itself."""
    store = await opened(f"{postgres_url}&pooler=yes")

    assert store._state().pool.is_pooled
    await store.close()


async def test_every_verb_works_behind_a_pooler(pooler: Pooler, pooled_url: str) -> None:
    """Each on whatever connection it meets; twenty at a time, on two connections of the pooler's."""
    store = await opened(pooled_url)
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker("me", HOUR)
    ending = RunSucceeded(Raw(b"1"))

    async def live(name: str) -> None:
        run = await scene.landed(scene.first(worker, name))
        run = await scene.landed(scene.append(run))
        child = new_run(f"{name}/child", parent_command="0:1")
        run = await scene.landed(
            scene.append(run, children=(child,), posts=(Post(run_id=name, message=message(TimerFired("0:1"))),))
        )
        assert await store.post(name, message(TimerFired("0:2"))) is not None
        assert await store.heartbeat(worker)
        await scene.rest(await scene.run(name), ending, Status.SUCCEEDED)

    await asyncio.gather(*(live(f"order-{n}") for n in range(20)))

    claims = await scene.claim(worker, 50)
    assert 20 == len(claims.runs)
    assert [Landed()] * 20 == await scene.commit(
        *(scene.append(each.run, ending, status=Status.SUCCEEDED) for each in claims.runs)
    )
    await scene.verify()
    assert 1 == len(await store.workers())
    assert pooler.transactions > 200
    await store.retire(worker)
    await store.close()


async def test_news_are_asked_for_where_nobody_tells_them(pooled_url: str) -> None:
    """The worker then looks once a second, and a lease tells who died."""
    store, other = await opened(pooled_url), await opened(pooled_url)
    frozen, heir = await store.enlist("frozen", 0.2), await other.enlist("heir", HOUR)
    scene = Scene(other, None)  # type: ignore[arg-type]
    await store.create([new_run()])
    assert 1 == len((await Scene(store, None).claim(frozen)).runs)  # type: ignore[arg-type]
    while not (claims := await scene.claim(heir)).runs:
        assert await other.wait_for_work(heir, 10)

    assert b"lease expired" in claims.runs[0].entries[-1].events
    await store.close()
    await other.close()


approval = es.signal("approval", bool)


@es.step
async def double(n: int) -> int:
    return 2 * n


@es.workflow
async def ordered(n: int) -> int:
    results = await es.gather(double(n), double(n + 1))
    await es.sleep(timedelta(milliseconds=20))
    return sum(results) if await approval.wait() else 0


async def test_the_engine_runs_behind_a_pooler(pooled_url: str) -> None:
    """Steps, timers and signals, with one connection of ours."""
    async with es.Engine(f"{pooled_url}&pool=1", workflows=[ordered]) as engine:
        handles = await asyncio.gather(*(engine.start(ordered(n), id=f"order-{n}") for n in range(20)))
        for handle in handles:
            await handle.send(approval, True)

        assert [2 * n + 2 * (n + 1) for n in range(20)] == [await handle.result(20) for handle in handles]
        run, journal = await engine.load_journal("order-0")
        verify_chain(journal, run_key=run.run_key, run_id=run.run_id, head=run.hash)
