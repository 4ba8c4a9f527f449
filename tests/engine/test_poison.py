"""
Runs that kill whoever drives them: counted, tried alone, given up; and nobody else suffers.
"""

from __future__ import annotations

import asyncio

import pytest

import everstep as es
from everstep.events import RunDied, RunResumed
from tests.engine.support import World, kill, turns, until, worker_of

executed: list[str] = []
fatal: set[str] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()
    fatal.clear()


@es.step
async def touch(name: str) -> str:
    executed.append(name)
    fatal.add(name)
    await asyncio.sleep(1000 if name.startswith("poison") else 0.5)
    return name


@es.workflow(max_recoveries=5)
async def poison(name: str) -> str:
    return await touch(name)


@es.workflow
async def healthy(name: str) -> str:
    for _ in range(4):
        await touch(name)
    return name


@es.workflow(max_recoveries=3)
async def moody(name: str) -> str:
    """Each step kills its first worker."""
    for n in range(8):
        await touch(f"poison {n} {name}")
    return name


async def one_life(world: World) -> es.Engine:
    """A worker that dies as soon as a poisonous step begins."""
    before = sum(name.startswith("poison") for name in executed)
    engine = await world.engine(poison, healthy, moody)
    for _ in range(400):
        if sum(name.startswith("poison") for name in executed) > before:
            kill(engine)
            return engine
        await asyncio.sleep(0.05)
    return engine


async def test_a_run_that_kills_every_worker_is_given_up(world: World) -> None:
    """G1: deaths are counted before the next execution."""
    client = await world.client()
    handle = await client.start(poison("poison"), id="p")
    for _ in range(10):
        await one_life(world)
        if (await world.record("p")).status.is_at_rest:
            break

    with pytest.raises(es.RunDead, match="given up"):
        await handle.result()
    assert 6 == len(executed), "once, and five recoveries"
    events = await world.events("p")
    assert isinstance(events[-1], RunDied)
    assert 5 == len([e for e in events if isinstance(e, RunResumed)])


async def test_bystanders_of_a_poisoned_run_finish(world: World) -> None:
    client = await world.client()
    bad = await client.start(poison("poison"), id="p")
    good = [await client.start(healthy(f"h{n}"), id=f"h{n}") for n in range(10)]
    for _ in range(12):
        await one_life(world)
        if (await world.record("p")).status.is_at_rest:
            break
    await world.engine(poison, healthy)

    assert [f"h{n}" for n in range(10)] == [await handle.result() for handle in good]
    with pytest.raises(es.RunDead):
        await bad.result()
    for n in range(10):
        assert not any(isinstance(event, RunDied) for event in await world.events(f"h{n}"))


async def test_a_suspect_is_driven_alone(world: World) -> None:
    client = await world.client()
    await client.start(poison("poison"), id="p")
    for _ in range(3):
        await one_life(world)
    assert 3 == len(executed)
    await client.start(healthy("h"), id="h")

    engine = await world.engine(poison, healthy)
    await turns()
    driven = [driver.run_id for driver in worker_of(engine).active.values()]
    assert 1 == len(driven)
    if driven == ["p"]:
        await asyncio.sleep(10)
        assert "queued" == await client.handle("h").status()
        second = await world.engine(poison, healthy)
        assert "h" == await second.handle("h", healthy).result()


async def test_progress_clears_a_suspect(world: World) -> None:
    """A run that gets on is no poison, however often its workers die."""
    client = await world.client()
    handle = await client.start(moody("m"), id="m")
    engine = await world.engine(moody)
    for n in range(8):
        await until(lambda n=n: f"poison {n} m" in executed)  # type: ignore[misc]
        kill(engine)
        engine = await world.engine(moody)
        for _ in range(2):
            await turns()
            await asyncio.sleep(1001)

    assert "m" == await handle.result()


async def test_a_waiting_suspect_does_not_hold_up_others_for_ever(world: World) -> None:
    """A busy worker makes room for the suspect; but if another worker has taken it meanwhile, it goes on claiming."""
    client = await world.client()
    await client.start(poison("poison"), id="p")
    for _ in range(3):
        await one_life(world)
    busy = await world.engine(poison, healthy, concurrency=50)

    @es.step
    async def long() -> str:
        await asyncio.sleep(100_000)
        return "long"

    @es.workflow
    async def marathon() -> str:
        return await long()

    # The busy one drives a run for a day when it learns that a suspect waits.
    kill(busy)
    busy = await world.engine(healthy, concurrency=50, lease=1000)
    await busy.start(marathon(), id="long")
    worker_of(busy)._registry.add(poison)
    await client.start(healthy("h0"), id="h0")
    await asyncio.sleep(5)
    await client.start(healthy("h1"), id="h1")

    assert "h0" == await asyncio.wait_for(client.handle("h0", healthy).result(), 5000)
    assert "h1" == await asyncio.wait_for(client.handle("h1", healthy).result(), 5000)
