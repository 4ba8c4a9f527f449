"""
What goes well is silent, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

import everstep as es
from everstep.core.execution import Execution
from everstep.core.loop import DeterministicLoop
from everstep.core.program import Program
from everstep.engine.driver import Driver
from everstep.engine.steps import StepRun
from everstep.engine.underway import Underway
from tests.engine.support import World, is_in_memory, kill, link, turns, until, worker_of


@es.step
async def add(a: int, b: int) -> int:
    return a + b


@es.step
def add_in_thread(a: int, b: int) -> int:
    return a + b


@es.workflow
async def small(n: int) -> int:
    return await add(n, 1)


@es.workflow
async def everything(n: int) -> int:
    a, b = await asyncio.gather(add(n, 1), add_in_thread(n, 2))
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(1)
    except TimeoutError:
        a += 1
    c = await small(b)
    await asyncio.sleep(60)
    task = asyncio.create_task(_await(small(n)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return a + b + c


word = es.signal("word", str)


@es.workflow
async def told() -> str:
    """Parks, says something, and parks again."""
    first = await word.wait()
    await asyncio.sleep(0.5)  # too short to park for
    await add(1, 2)
    return first + await word.wait()


async def _await(call: Any) -> Any:
    return await call


async def test_a_successful_run_logs_nothing(
    world: World, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.DEBUG, "everstep")
    caplog.set_level(logging.DEBUG, "asyncio")
    engine = await world.engine(everything, small)
    handles = [await engine.start(everything(n), id=f"r{n}") for n in range(5)]

    assert [3 * n + 7 for n in range(5)] == [await handle.result() for handle in handles]
    await engine.close()
    await turns()
    gc.collect()
    assert [] == [record for record in caplog.records if record.name.startswith("everstep") and record.levelno >= logging.INFO]
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [] == list(recwarn)


async def test_a_killed_worker_leaves_no_warnings_either(
    world: World, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    first = await world.engine(everything)
    await first.start(everything(1), id="a")
    await asyncio.sleep(30)
    kill(first)
    second = await world.engine(everything, small)

    assert 10 == await second.handle("a", everything).result()
    await turns()
    gc.collect()
    assert [] == [record.getMessage() for record in caplog.records]
    assert [] == list(recwarn)


def alive(kind: type) -> int:
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


@pytest.mark.parametrize("inline", [True, False])
async def test_a_thousand_runs_leave_nothing_behind(world: World, inline: bool) -> None:
    engine = await world.engine(small, everything, inline=inline, concurrency=300)
    client = await world.client()
    before = [alive(kind) for kind in (Driver, Program, StepRun)]
    handles = [await (client if n % 3 == 0 else engine).start(small(n), id=f"r{n}") for n in range(990)]
    handles += [await engine.start(everything(n), id=f"e{n}") for n in range(10)]

    results = await asyncio.gather(*(engine.handle(handle.run_id).result() for handle in handles))

    assert list(range(1, 991)) == results[:990]
    await turns()
    worker = worker_of(engine)
    assert {} == worker.active == worker._by_id
    assert 0 == worker.watchers.count
    assert [] == worker.committer._pending
    assert worker.committer._task is None
    assert 2 == len(worker._tasks)
    gc.collect()
    assert before == [alive(kind) for kind in (Driver, Program, StepRun)]


OF_A_RUN = (Driver, Underway, Execution, Program, DeterministicLoop, StepRun)


@pytest.mark.parametrize("how", ["ended", "parked", "woken", "fenced"])
async def test_a_run_that_has_left_leaves_nothing_to_the_garbage_collector(world: World, how: str) -> None:
    """It comes seldom, and holds up the host's loop until it has freed what a thousand runs left."""
    engine = await world.engine(small, told)
    gc.collect()
    gc.disable()
    try:
        before = [alive(kind) for kind in OF_A_RUN]
        if how == "ended":
            assert 2 == await (await engine.start(small(1))).result()
        else:
            handle = await engine.start(told(), id="a")
            await turns()
            assert how != "parked" or before == [alive(kind) for kind in OF_A_RUN]
            await handle.send(word, "one")
            await until(lambda: is_in_memory(engine, "a") is (how == "fenced"))
            if how == "fenced":
                worker_of(engine).driver_of("a").abandon()
        await turns()

        assert before == [alive(kind) for kind in OF_A_RUN]
    finally:
        gc.enable()


async def test_memory_of_a_run_is_freed_without_the_garbage_collector_seeing_to_it_first(world: World) -> None:
    """A parked run costs no memory: its coroutines are closed when it leaves."""
    closed: list[str] = []

    @es.workflow
    async def sleeper() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            closed.append("closed")

    engine = await world.engine(sleeper)
    await engine.start(sleeper(), id="a")
    await turns()

    assert ["closed"] == closed
    assert {} == worker_of(engine).active


async def test_polling_for_a_result_leaves_no_watchers(world: World) -> None:
    @es.workflow
    async def sleeper() -> None:
        await asyncio.sleep(10_000)

    engine = await world.engine(sleeper, lease=10_000)
    handle = await engine.start(sleeper(), id="a")
    for _ in range(50):
        with pytest.raises(es.RunTimeout):
            await handle.result(timeout=3)
    waiting = [asyncio.ensure_future(handle.result()) for _ in range(10)]
    await asyncio.sleep(500)
    assert worker_of(engine).watchers.count <= 10
    for waiter in waiting:
        waiter.cancel()
    await turns()

    assert 0 == worker_of(engine).watchers.count


async def test_an_idle_worker_asks_for_next_to_nothing(world: World) -> None:
    engine = await world.engine(small)
    before = link(engine).counts.copy()
    await asyncio.sleep(1000)

    made = link(engine).counts - before
    statements = sum(count for verb, count in made.items() if verb != "wait_for_work")
    assert statements <= 1000, made
    assert made["wait_for_work"] <= 1000
