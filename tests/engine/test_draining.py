"""A worker that is asked to leave: what it still does, what it no longer does, and who goes on."""

from __future__ import annotations

import asyncio

import everstep as es
from everstep.events import RunClaimed, RunResumed
from tests.engine.support import World, is_in_memory, turns, until, worker_of


@es.step
async def works(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "worked"


@es.workflow
async def job(seconds: float, times: int = 1) -> str:
    for _ in range(times):
        await works(seconds)
    return "done"


async def drain(world: World, engine: es.Engine) -> None:
    assert await world.store.drain(worker_of(engine).worker_key)


async def test_a_worker_that_was_asked_to_drain_leaves_at_its_next_heartbeat(world: World) -> None:
    """Its ``serve`` returns, so the process that waited in it ends."""
    engine = await world.engine(job, lease=15)
    serving = asyncio.ensure_future(engine.serve())
    await turns()
    await drain(world, engine)

    await serving

    assert world.seconds <= 5.1
    await engine.close()
    assert [] == await world.store.workers()


async def test_a_drained_worker_finishes_the_step_at_hand_and_gives_the_run_back(world: World) -> None:
    """The next worker goes on after it: no step is repeated, nothing was taken from a living one."""
    first = await world.engine(job, lease=15, grace=60)
    handle = await first.start(job(20, 3), id="a")
    await asyncio.sleep(1)
    second = await world.engine(job)
    serving = asyncio.ensure_future(first.serve())
    await turns()
    await drain(world, first)
    await serving
    await first.close()

    assert "done" == await second.handle("a", job).result()
    events = await world.events("a")
    assert [] == [each for each in events if isinstance(each, RunResumed)]
    assert 2 == sum(isinstance(each, RunClaimed) for each in events)
    assert 60 <= world.seconds < 61
    assert handle.run_id == "a"


async def test_a_draining_worker_takes_nothing_new(world: World) -> None:
    """Not even before it has heard of it; and what is started through it is stored for others."""
    first = await world.engine(job, lease=15)
    await drain(world, first)
    client = await world.client()
    await client.start(job(1), id="a")
    await until(lambda: not worker_of(first).can_start_here)
    await first.start(job(1), id="b")
    await asyncio.sleep(10)

    assert not is_in_memory(first, "a")
    assert not is_in_memory(first, "b")
    second = await world.engine(job)
    assert ["done", "done"] == [await second.handle(run_id, job).result() for run_id in "ab"]


async def test_people_see_what_a_leaving_worker_is_waiting_for(world: World) -> None:
    """``close`` gives steps their grace: meanwhile the list says that it drains."""
    engine = await world.engine(job, grace=60)
    await engine.start(job(20), id="a")
    await asyncio.sleep(1)
    closing = asyncio.ensure_future(engine.close())
    await turns()

    (record,) = await world.store.workers()
    assert (True, 1) == (record.draining, record.run_count)
    await closing


async def test_a_worker_says_what_it_can_drive(world: World) -> None:
    """For whoever wonders why nobody takes a run."""
    await world.engine(job)

    (record,) = await world.store.workers()

    assert (("job", None, job.fingerprint),) == record.profile.workflows
    assert (1000, record.name) == (record.profile.run_max, f"{record.profile.host}:{record.profile.pid}")
