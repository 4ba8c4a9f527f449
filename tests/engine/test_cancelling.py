"""
Cancelling runs: delivered at the next await, never lost, and clean-up still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest

import everstep as es
from everstep.events import CancelRequested, RunCancelled, StepCancelled, StepCompleted
from everstep.stores.base import Append
from tests.engine.support import World, is_in_memory, kill, link, turns

HOUR = 3600.0

done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _forget() -> None:
    done.clear()


@es.step
async def note(text: str) -> str:
    done[text] += 1
    return text


@es.step
async def works(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        done["stopped"] += 1
        raise
    return "worked"


@es.workflow
async def job(seconds: float) -> str:
    try:
        return await works(seconds)
    finally:
        await note("cleaned up")


@es.workflow
async def nap(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    finally:
        await note("cleaned up")
    return "slept"


async def assert_cancelled(world: World, handle: es.Handle[Any]) -> None:
    with pytest.raises(es.RunCancelled, match="enough"):
        await handle.result()
    last = (await world.events(handle.run_id))[-1]
    assert isinstance(last, RunCancelled)
    assert "enough" == last.reason
    assert es.Status.CANCELLED is (await world.record(handle.run_id)).status


@pytest.mark.parametrize("by_client", [False, True])
async def test_a_running_step_is_stopped_and_the_run_cleans_up(world: World, by_client: bool) -> None:
    engine = await world.engine(job)
    handle = await engine.start(job(HOUR), id="a")
    await turns()
    teller = (await world.client()).handle("a") if by_client else handle

    assert await teller.cancel("enough", actor="me")

    await assert_cancelled(world, handle)
    assert {"stopped": 1, "cleaned up": 1} == done
    assert 0 == world.seconds
    events = await world.events("a")
    assert [CancelRequested("enough", "me")] == [e for e in events if isinstance(e, CancelRequested)]
    assert 1 == len([e for e in events if isinstance(e, StepCancelled)])


@pytest.mark.parametrize(("seconds", "in_memory"), [(0.9, True), (HOUR, False)])
async def test_a_sleeping_run_is_woken_and_cleans_up(world: World, seconds: float, in_memory: bool) -> None:
    engine = await world.engine(nap)
    handle = await engine.start(nap(seconds), id="a")
    await turns()
    assert in_memory is is_in_memory(engine, "a")

    assert await handle.cancel("enough")

    await assert_cancelled(world, handle)
    assert {"cleaned up": 1} == done
    assert 0 == world.seconds


async def test_a_queued_run_is_cancelled_before_its_code_begins(world: World) -> None:
    client = await world.client()
    handle = await client.start(nap(1), id="a")
    assert await handle.cancel("enough")
    await world.engine(nap)

    await assert_cancelled(world, handle)
    assert {} == done


async def test_a_delayed_run_is_cancelled_at_once(world: World) -> None:
    engine = await world.engine(nap)
    handle = await engine.start(nap(1), id="a", delay=HOUR)
    assert await handle.cancel("enough")

    await assert_cancelled(world, handle)
    assert 0 == world.seconds


async def test_a_finished_run_cannot_be_cancelled(world: World) -> None:
    engine = await world.engine(nap)
    handle = await engine.start(nap(0), id="a")
    assert "slept" == await handle.result()
    version = (await world.record("a")).version

    assert not await handle.cancel("too late")
    assert version == (await world.record("a")).version
    assert "slept" == await handle.result()


async def test_a_cancel_for_a_run_that_is_only_just_being_started_is_not_said_to_be_heard(world: World) -> None:
    """It came too early and was dropped. That the run was there a moment later does not mean that it was told."""
    engine = await world.engine(nap)
    client = await world.client()
    store: Any = link(client)

    async def post_too_early(run_id: str, message: Any) -> Any:
        answer = await world.store.post(run_id, message)
        await engine.start(nap(HOUR), id=run_id)
        return answer

    store.post = post_too_early
    with pytest.raises(es.RunNotFound):
        await client.post("a", CancelRequested())
    del store.post

    assert await client.handle("a").cancel()
    with pytest.raises(es.RunCancelled):
        await client.handle("a").result()


async def test_cancelling_twice_is_cancelling_once(world: World) -> None:
    """A second cancel must not interrupt the clean-up."""

    @es.workflow
    async def careful() -> str:
        try:
            return await works(HOUR)
        finally:
            await works(10)
            await note("cleaned up")

    engine = await world.engine(careful)
    handle = await engine.start(careful(), id="a")
    await turns()
    await handle.cancel("enough")
    await asyncio.sleep(5)
    await handle.cancel("I said enough")

    await assert_cancelled(world, handle)
    assert {"stopped": 1, "cleaned up": 1} == done


async def test_a_clean_up_survives_the_death_of_the_worker(world: World) -> None:
    @es.workflow
    async def careful() -> str:
        try:
            return await works(HOUR)
        finally:
            await asyncio.sleep(10)
            await note("cleaned up")

    first = await world.engine(careful)
    handle = await first.start(careful(), id="a")
    await turns()
    await handle.cancel("enough")
    await asyncio.sleep(5)
    kill(first)
    second = await world.engine(careful)

    await assert_cancelled(world, second.handle("a"))
    assert {"stopped": 1, "cleaned up": 1} == done


async def test_a_run_may_refuse_to_be_cancelled(world: World) -> None:
    """As a task may: it then ends with its result."""

    @es.workflow
    async def stubborn() -> str:
        try:
            await asyncio.sleep(HOUR)
        except asyncio.CancelledError:
            return await note("no")
        return "?"

    engine = await world.engine(stubborn)
    handle = await engine.start(stubborn(), id="a")
    await turns()
    await handle.cancel("enough")

    assert "no" == await handle.result()


async def test_a_cancel_that_comes_while_the_final_entry_is_in_flight_is_heard(world: World) -> None:
    """The entry that would end the run is refused (Behind); nothing of what it knew is lost; whoever waits gets the outcome."""

    @es.workflow
    async def quick() -> str:
        return await note("once")

    def ends(batch: Any) -> bool:
        return any(isinstance(write, Append) and write.status.is_at_rest for write in batch)

    engine = await world.engine(quick, inline=False)
    link(engine).fail("commit", delay=1, error=None, when=ends)
    handle = await engine.start(quick(), id="a")
    waiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(0.5)
    await (await world.client()).handle("a").cancel("enough")

    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), es.RunCancelled) or "once" == waiting.result()
    assert {"once": 1} == done, "the step was executed again although its outcome was known"
    assert 1 == len([e for e in await world.events("a") if isinstance(e, StepCompleted)])
    assert 1 == len([e for e in await world.events("a") if isinstance(e, CancelRequested)])
    assert world.seconds < 1.1


async def test_an_at_most_once_step_in_the_background_is_not_repeated_when_the_end_is_refused(world: World) -> None:
    executed: list[int] = []

    @es.step(at_most_once=True)
    async def once() -> None:
        executed.append(es.current().attempt)
        await asyncio.sleep(HOUR)

    @es.workflow
    async def hasty() -> str:
        background = asyncio.ensure_future(_await(once()))
        text = await note("hasty")
        assert not background.done()
        return text

    def ends(batch: Any) -> bool:
        return any(isinstance(write, Append) and write.status.is_at_rest for write in batch)

    engine = await world.engine(hasty, inline=False)
    link(engine).fail("commit", delay=1, error=None, when=ends)
    handle = await engine.start(hasty(), id="a")
    await asyncio.sleep(0.5)
    await (await world.client()).handle("a").cancel("enough")

    with contextlib.suppress(es.RunCancelled):  # It may have ended first.
        assert "hasty" == await handle.result()
    assert [1] == executed
    assert {"hasty": 1} == done


async def _await(call: Any) -> Any:
    return await call
