"""
Timers, parking, and runs that wait for runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import everstep as es
from everstep.events import ChildCancelled, ChildStarted, ChildSucceeded, StepCompleted, TimerFired, TimerStarted
from everstep.stores.base import Append, Keep
from tests.engine.support import World, early_timers, is_in_memory, kill, link, turns

HOUR = 3600.0

done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _forget() -> None:
    done.clear()


@es.step
async def note(text: str) -> str:
    done[text] += 1
    return text


@es.workflow
async def nap(seconds: float) -> str:
    await note("before")
    await asyncio.sleep(seconds)
    return await note("after")


async def test_a_long_sleep_leaves_memory_and_wakes_when_due(world: World) -> None:
    engine = await world.engine(nap, lease=1000)
    handle = await engine.start(nap(HOUR), id="a")
    await turns()

    assert not is_in_memory(engine, "a")
    record = await world.record("a")
    assert (es.Status.WAITING, None) == (record.status, record.worker_key)
    assert "after" == await handle.result()
    assert HOUR <= world.seconds < HOUR + 0.1
    assert {"before": 1, "after": 1} == done
    assert [] == early_timers(await world.entries("a"))


async def test_a_short_sleep_stays_in_memory(world: World) -> None:
    engine = await world.engine(nap)
    handle = await engine.start(nap(0.5), id="a")
    await turns()

    assert is_in_memory(engine, "a")
    assert "after" == await handle.result()
    assert 0.5 <= world.seconds < 0.51


async def test_a_timer_is_not_fired_early_by_a_worker_whose_clock_is_ahead(world: World) -> None:
    """I9: the store decides."""
    engine = await world.engine(nap)
    link(engine).skew = 5_000_000
    handle = await engine.start(nap(0.5), id="a")
    link(engine).skew = 8_000_000

    assert "after" == await handle.result()
    [due_at] = [e.due_at for e in await world.events("a") if isinstance(e, TimerStarted)]
    assert world.clock.now() >= due_at


async def test_a_timer_is_not_fired_early_when_the_clock_of_the_store_is_set_back(world: World) -> None:
    """D2: late by the step, never early, never twice."""
    engine = await world.engine(nap)
    handle = await engine.start(nap(0.5), id="a")
    await turns()
    now = world.clock.now()
    store: Any = world.store
    store._latest = 0
    world.clock.shift = -300_000_000

    assert "after" == await handle.result()
    [due_at] = [e.due_at for e in await world.events("a") if isinstance(e, TimerStarted)]
    assert due_at == now + 500_000
    assert world.clock.now() >= due_at
    assert 1 == len([e for e in await world.events("a") if isinstance(e, TimerFired)])


async def test_a_timer_that_rings_while_the_entry_that_cancels_it_is_in_flight_is_forgotten(world: World) -> None:
    """wait_for around a step that is only just in time, and a slow commit."""

    @es.step
    async def takes(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "in time"

    @es.workflow
    async def just_in_time() -> str:
        result = await asyncio.wait_for(takes(0.9), 1)
        return result + await note(" and on")

    engine = await world.engine(just_in_time)
    handle = await engine.start(just_in_time(), id="a")
    link(engine).fail("commit", delay=0.5, error=None)

    assert "in time and on" == await handle.result()
    assert not any(isinstance(event, TimerFired) for event in await world.events("a")), "it had been cancelled"


async def test_a_step_that_finishes_while_the_entry_that_gives_it_up_is_in_flight_is_forgotten(world: World) -> None:
    """StepCancelled says that whatever the body still does is not recorded."""

    @es.step
    async def takes(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "too late"

    @es.workflow
    async def impatient() -> str:
        try:
            return await asyncio.wait_for(takes(1.2), 1)
        except TimeoutError:
            await asyncio.sleep(0.9)
            return "gave up"

    engine = await world.engine(impatient)
    handle = await engine.start(impatient(), id="a")
    link(engine).fail("commit", delay=0.5, error=None)

    assert "gave up" == await handle.result()
    assert not any(isinstance(event, StepCompleted) for event in await world.events("a"))


async def test_timers_started_after_a_resume_ring_once(world: World) -> None:
    """An outcome that is known while the run is being resumed must not get ahead of what is started again."""

    @es.step(at_most_once=True)
    async def once() -> str:
        await asyncio.sleep(1000)
        return "never"

    @es.workflow
    async def careful() -> str:
        try:
            await once()
        except es.StepOutcomeUnknown:
            await asyncio.sleep(0.5)
            await note("between")
            await asyncio.sleep(0.5)
        return await note("end")

    first = await world.engine(careful)
    await first.start(careful(), id="a")
    await turns()
    kill(first)
    second = await world.engine(careful)

    assert "end" == await second.handle("a", careful).result()
    assert {"between": 1, "end": 1} == done
    fired = [e.key for e in await world.events("a") if isinstance(e, TimerFired)]
    assert len(fired) == len(set(fired)) == 2


async def test_sleeps_of_many_lengths_wake_in_order(world: World) -> None:
    @es.workflow
    async def many() -> list[int]:
        woken: list[int] = []

        async def one(n: int) -> None:
            await asyncio.sleep(n)
            woken.append(n)

        await asyncio.gather(*(one(n) for n in (30, 10, 20, 0, 7)))
        return woken

    engine = await world.engine(many)

    assert [0, 7, 10, 20, 30] == await (await engine.start(many())).result()
    assert 30 <= world.seconds < 30.1


# --- retries wait outside memory ------------------------------------------------------------------------------------


async def test_a_wait_for_a_retry_leaves_memory_and_keeps_its_count(world: World) -> None:
    seen: list[tuple[int, float]] = []

    @es.step(retry=es.Retry(attempts=4, delay=100, factor=2, max_delay=1000, jitter=0))
    async def flaky() -> str:
        seen.append((es.current().attempt, world.seconds))
        if len(seen) < 4:
            raise OSError("not yet")
        return "at last"

    @es.workflow
    async def patient() -> str:
        return await flaky()

    engine = await world.engine(patient, lease=1000)
    handle = await engine.start(patient(), id="a")
    await turns()

    assert not is_in_memory(engine, "a")
    assert [2] == [row.attempt for row in world.attempts("a").values()]
    assert "at last" == await handle.result()
    assert [1, 2, 3, 4] == [attempt for attempt, _ in seen]
    assert [0, 100, 300, 700] == [round(at) for _, at in seen]
    assert {} == world.attempts("a")


async def test_a_retry_that_begins_to_wait_while_an_entry_is_in_flight_leaves_memory_too(world: World) -> None:
    @es.step(retry=es.Retry(attempts=2, delay=HOUR, jitter=0))
    async def flaky() -> str:
        await asyncio.sleep(0.1)
        if es.current().attempt == 1:
            raise OSError("not yet")
        return "flaky"

    @es.workflow
    async def both() -> list[str]:
        return list(await asyncio.gather(note("quick"), flaky()))

    engine = await world.engine(both, lease=1000)
    link(engine).fail("commit", skip=1, delay=0.5, error=None)
    handle = await engine.start(both(), id="a")
    await asyncio.sleep(2)

    assert not is_in_memory(engine, "a")
    assert ["quick", "flaky"] == await handle.result()


async def test_failures_are_not_forgotten_by_a_worker_that_dies_in_the_wait(world: World) -> None:
    attempts: list[int] = []

    @es.step(retry=es.Retry(attempts=3, delay=100, factor=1, jitter=0))
    async def hopeless() -> str:
        attempts.append(es.current().attempt)
        raise OSError("no")

    @es.workflow
    async def stubborn() -> str:
        return await hopeless()

    first = await world.engine(stubborn)
    await first.start(stubborn(), id="a")
    await turns()
    kill(first)
    second = await world.engine(stubborn)

    with pytest.raises(es.RunFailed, match="failed after 3 attempts"):
        await second.handle("a").result()
    assert [1, 2, 3] == attempts


# --- children -------------------------------------------------------------------------------------------------------


@es.workflow
async def child(text: str) -> str:
    return await note(text)


@es.workflow
async def parent(text: str) -> str:
    return "child said " + await child(text)


@es.workflow
async def grandparent(text: str) -> str:
    return "grand" + await parent(text)


@es.workflow
async def sleepy_child(seconds: float, text: str) -> str:
    await asyncio.sleep(seconds)
    return await note(text)


@es.workflow
async def sleepy_parent(seconds: float, text: str) -> str:
    return "child said " + await sleepy_child(seconds, text)


async def test_a_child_gives_its_result_and_nobody_waits_for_a_poll(world: World) -> None:
    engine = await world.engine(grandparent)

    assert "grandchild said x" == await (await engine.start(grandparent("x"), id="a")).result()
    assert {"x": 1} == done
    assert 0 == world.seconds
    assert es.Status.SUCCEEDED is (await world.record("a/0:1/0:1")).status
    assert 1 == len([e for e in await world.events("a") if isinstance(e, ChildSucceeded)])


async def test_children_are_gathered(world: World) -> None:
    @es.workflow
    async def family() -> list[str]:
        return list(await asyncio.gather(*(child(str(n)) for n in range(20))))

    engine = await world.engine(family, concurrency=5)

    assert [str(n) for n in range(20)] == await (await engine.start(family())).result()
    assert 20 == sum(done.values())
    assert world.seconds < 0.01


async def test_a_child_that_fails_fails_the_await(world: World) -> None:
    @es.workflow
    async def broken() -> None:
        raise ValueError("broken")

    @es.workflow
    async def forgiving() -> str:
        try:
            await broken()
        except es.RunFailed as error:
            return f"{type(error.__cause__).__name__} in {error.run_id}"
        return "?"

    engine = await world.engine(forgiving)

    assert "ValueError in a/0:1" == await (await engine.start(forgiving(), id="a")).result()


async def test_a_child_that_is_cancelled_raises_at_the_await(world: World) -> None:
    @es.workflow
    async def forgiving() -> str:
        try:
            return await sleepy_child(HOUR, "never")
        except es.RunCancelled as error:
            return f"cancelled {error.run_id}"

    engine = await world.engine(forgiving)
    handle = await engine.start(forgiving(), id="a")
    await turns()
    assert await engine.handle("a/0:1").cancel("enough")

    assert "cancelled a/0:1" == await handle.result()
    assert 0 == world.seconds


async def test_a_parked_parent_is_woken_by_its_child(world: World) -> None:
    engine = await world.engine(sleepy_parent, lease=1000)
    handle = await engine.start(sleepy_parent(100, "x"), id="a")
    await turns()

    assert not is_in_memory(engine, "a")
    assert "child said x" == await handle.result()
    assert 100 <= world.seconds < 100.1


async def test_a_parent_in_memory_hears_of_its_child_driven_elsewhere(world: World) -> None:
    @es.step
    async def long() -> str:
        await asyncio.sleep(50)
        return "long"

    @es.workflow
    async def both() -> list[str]:
        return list(await asyncio.gather(long(), sleepy_child(10, "x")))

    engine = await world.engine(both, concurrency=1)
    helper = await world.engine(sleepy_child)
    handle = await engine.start(both(), id="a")
    await asyncio.sleep(11)

    assert is_in_memory(engine, "a")
    assert any(isinstance(e, ChildSucceeded) for e in await world.events("a"))
    assert ["long", "x"] == await handle.result()
    assert helper is not engine


async def test_a_child_that_finishes_while_its_parents_parking_is_in_flight_is_heard(world: World) -> None:
    """The Behind path: parking is refused, the same entry lands without it, and the outcome is the next input."""

    @es.workflow
    async def patient() -> str:
        waiting = asyncio.ensure_future(child("x"))
        await note("1")
        await note("2")
        return await waiting + "!"

    engine = await world.engine(patient)
    helper = await world.engine(child)

    def parks(batch: Any) -> bool:
        return any(isinstance(w, Append) and w.release and not w.status.is_at_rest for w in batch)

    link(helper).fail("commit", delay=0.5, error=None)
    link(engine).fail("commit", delay=1, error=None, when=parks)
    link(engine).fail("claim", delay=0.2, error=None)
    handle = await engine.start(patient(), id="a")

    assert "x!" == await handle.result()
    assert world.seconds < 2
    assert {"1": 1, "2": 1, "x": 1} == done


async def test_a_message_that_comes_while_a_retry_wait_is_being_parked_is_heard(world: World) -> None:
    """The same for the write without an entry."""

    @es.step(retry=es.Retry(attempts=2, delay=HOUR, jitter=0))
    async def flaky() -> str:
        raise OSError("no")

    @es.workflow
    async def patient() -> str:
        return await flaky()

    engine = await world.engine(patient)

    def parks(batch: Any) -> bool:
        return any(isinstance(write, Keep) for write in batch)

    link(engine).fail("commit", delay=1, error=None, when=parks)
    handle = await engine.start(patient(), id="a")
    await asyncio.sleep(0.5)
    await (await world.client()).handle("a").cancel("enough")

    with pytest.raises(es.RunCancelled, match="enough"):
        await handle.result()
    assert world.seconds < 2


async def test_cancelling_a_parent_cancels_its_child(world: World) -> None:
    engine = await world.engine(sleepy_parent)
    handle = await engine.start(sleepy_parent(HOUR, "x"), id="a")
    await turns()
    await handle.cancel("enough")

    with pytest.raises(es.RunCancelled):
        await handle.result()
    with pytest.raises(es.RunCancelled, match="its parent a no longer waits"):
        await engine.handle("a/0:1").result()
    assert 0 == world.seconds, "the child must not wait for a poll"
    assert {} == done


async def test_cancelling_a_parent_reaches_a_child_that_runs_in_the_same_engine(world: World) -> None:
    @es.step
    async def long() -> None:
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            done["stopped"] += 1
            raise

    @es.workflow
    async def busy_child() -> None:
        await long()

    @es.workflow
    async def boss() -> str:
        try:
            await asyncio.wait_for(busy_child(), 10)
        except TimeoutError:
            return "timed out"
        return "?"

    engine = await world.engine(boss)

    assert "timed out" == await (await engine.start(boss(), id="a")).result()
    [started] = [e for e in await world.events("a") if isinstance(e, ChildStarted)]
    with pytest.raises(es.RunCancelled):
        await engine.handle(started.run_id).result()
    assert {"stopped": 1} == done
    assert 10 <= world.seconds < 10.1


async def test_a_child_that_is_started_and_cancelled_in_one_activation_exists_and_is_cancelled(world: World) -> None:
    """I13: the journal says that it was started."""

    @es.workflow
    async def fickle() -> str:
        await note("first")
        task = asyncio.create_task(child_never())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return await note("last")

    async def child_never() -> None:
        await sleepy_child(HOUR, "never")

    engine = await world.engine(fickle)

    assert "last" == await (await engine.start(fickle(), id="a")).result()
    events = await world.events("a")
    [started] = [e for e in events if isinstance(e, ChildStarted)]
    assert [started.key] == [e.key for e in events if isinstance(e, ChildCancelled)]
    with pytest.raises(es.RunCancelled):
        await engine.handle(started.run_id).result()


async def test_a_child_outlives_the_engine_that_started_it(world: World) -> None:
    first = await world.engine(sleepy_parent)
    await first.start(sleepy_parent(100, "x"), id="a")
    await turns()
    kill(first)
    second = await world.engine(sleepy_parent, sleepy_child)

    assert "child said x" == await second.handle("a", sleepy_parent).result()
    assert {"x": 1} == done


async def test_a_worker_whose_clock_is_ahead_does_not_spin_until_a_run_is_due(world: World) -> None:
    engine = await world.engine(nap)
    link(engine).skew = 20_000_000
    handle = await engine.start(nap(30), id="a")

    assert "after" == await handle.result()
    assert link(engine).counts["claim"] < 1000
