"""
Milestones and relaxed runs: what may be lost with a process, what never is, and what it costs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

import everstep as es
from everstep.events import MilestoneReached, StepCompleted, SuffixLost
from everstep.records import Status
from tests.engine.support import World, is_in_memory, kill, link, lose_answer, until

calls: Counter[str] = Counter()
keys: dict[str, set[str]] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()
    keys.clear()


@es.step
async def load(page: int) -> int:
    name = f"page {page}"
    calls[name] += 1
    keys.setdefault(name, set()).add(es.current().idempotency_key)
    await asyncio.sleep(0.01)
    return page


@es.step(at_most_once=True)
async def announce(text: str) -> str:
    calls[text] += 1
    return text


@es.step(retry=es.Retry(attempts=3, delay=30, jitter=0))
async def shaky(page: int) -> int:
    calls["shaky"] += 1
    if calls["shaky"] < 2:
        raise ConnectionError("not now")
    return page


@es.workflow
async def imported(pages: int) -> int:
    total = 0
    async with es.milestone("load"):
        for page in range(pages):
            total += await load(page)
    await announce("done")
    return total


@es.workflow(durability=es.Relaxed(seconds=1, steps=10))
async def relaxed(pages: int) -> int:
    return sum([await load(page) for page in range(pages)])


@es.workflow(durability="relaxed")
async def mixed(pages: int) -> int:
    total = await load(0)
    await announce("first")
    total += await shaky(1)
    await asyncio.sleep(3600)
    total += sum(await es.gather(load(2), load(3)))
    return total + await child(pages)


@es.workflow
async def child(pages: int) -> int:
    return sum([await load(10 + page) for page in range(pages)])


async def versions(world: World, run_id: str) -> int:
    return len(await world.entries(run_id))


def lost(events: list[Any]) -> list[SuffixLost]:
    return [event for event in events if isinstance(event, SuffixLost)]


async def test_the_steps_of_a_milestone_commit_together(world: World) -> None:
    engine = await world.engine(imported)
    handle = await engine.start(imported(50), id="m")

    assert sum(range(50)) == await handle.result()
    assert 3 == await versions(world, "m")
    [reached] = [event for event in await world.events("m") if isinstance(event, MilestoneReached)]
    assert "load" == reached.name
    assert 50 == sum(isinstance(event, StepCompleted) for event in await world.events("m")) - 1


async def test_a_milestone_that_was_cut_off_is_done_again_under_the_same_keys(world: World) -> None:
    engine = await world.engine(imported)
    await engine.start(imported(10), id="m")
    await until(lambda: calls["page 5"] == 1)
    kill(engine)

    other = await world.engine(imported)

    assert sum(range(10)) == await other.handle("m", imported).result()
    assert 2 == calls["page 0"]
    assert all(1 == len(each) for each in keys.values())
    assert {"done": 1} == {name: count for name, count in calls.items() if name == "done"}
    assert not lost(await world.events("m")), "its run is durable: what is done again is what the milestone says"


async def test_a_relaxed_run_loses_no_more_than_its_bound_of_steps(world: World) -> None:
    engine = await world.engine(relaxed)
    await engine.start(relaxed(40), id="r")
    await until(lambda: calls["page 35"] == 1)
    kill(engine)

    other = await world.engine(relaxed)

    assert sum(range(40)) == await other.handle("r", relaxed).result()
    again = [name for name, count in calls.items() if count > 1]
    assert 1 <= len(again) <= 11
    assert again == [f"page {page}" for page in range(35 - len(again) + 1, 36)], "the newest, without a hole"
    [said] = lost(await world.events("r"))
    assert (1.0, 10) == (said.seconds, said.steps)


async def test_what_a_run_may_lose_is_told_at_every_version(world: World) -> None:
    engine = await world.engine(relaxed)
    handle = await engine.start(relaxed(3), id="r")
    await handle.result()

    last = (await handle.history())[-1].version
    assert [relaxed.relaxed] * last == [(await handle.snapshot(version)).relaxed for version in range(1, last + 1)]
    assert relaxed.relaxed is not None


async def test_a_relaxed_run_loses_no_more_than_its_bound_of_time(world: World) -> None:
    engine = await world.engine(slow)
    await engine.start(slow(20), id="r")
    await until(lambda: calls["slow 10"] == 1)
    before = await versions(world, "r")
    kill(engine)

    other = await world.engine(slow)
    await other.handle("r", slow).result()

    assert before >= 4
    assert 2 >= max(calls.values())
    assert sum(count > 1 for count in calls.values()) <= 4


@es.step
async def slow_load(page: int) -> int:
    calls[f"slow {page}"] += 1
    await asyncio.sleep(0.5)
    return page


@es.workflow(durability=es.Relaxed(seconds=1, steps=1000))
async def slow(pages: int) -> int:
    return sum([await slow_load(page) for page in range(pages)])


async def test_a_relaxed_run_costs_a_commit_for_many_steps(world: World) -> None:
    engine = await world.engine(relaxed)
    handle = await engine.start(relaxed(40), id="r")
    await handle.result()

    assert await versions(world, "r") <= 6


async def test_what_leaves_the_process_waits_until_all_before_it_is_durable(world: World) -> None:
    """An at-most-once step, a retry that waits, a long sleep, a child, the end."""
    engine = await world.engine(mixed, child)
    handle = await engine.start(mixed(2), id="r")
    await until(lambda: calls["first"] == 1)
    assert any(isinstance(event, StepCompleted) for event in await world.events("r")), "the step before it is recorded"
    await until(lambda: not is_in_memory(engine, "r") and calls["shaky"] == 2)
    assert Status.WAITING is await handle.status()

    assert 0 + 1 + 2 + 3 + 21 == await handle.result()
    assert 1 == max(count for name, count in calls.items() if name != "shaky")


async def test_closing_the_engine_keeps_what_steps_came_to(world: World) -> None:
    engine = await world.engine(relaxed)
    await engine.start(relaxed(9), id="r")
    await until(lambda: calls["page 5"] == 1)
    await engine.close()

    other = await world.engine(relaxed)

    assert sum(range(9)) == await other.handle("r", relaxed).result()
    assert not lost(await world.events("r"))
    assert sum(calls.values()) <= 11


@pytest.mark.parametrize("grace", [0, 1])
async def test_closing_in_the_middle_of_a_milestone_repeats_nothing_that_was_finished(world: World, grace: float) -> None:
    """The outcomes used to be kept without the steps that they belong to: no code took them, and each was recorded twice."""
    engine = await world.engine(imported, grace=grace)
    await engine.start(imported(10), id="m")
    await until(lambda: calls["page 5"] == 1)
    await engine.close()

    other = await world.engine(imported)

    assert sum(range(10)) == await other.handle("m", imported).result()
    assert [1] * 5 == [calls[f"page {page}"] for page in range(5)]
    completed = [event.key for event in await world.events("m") if isinstance(event, StepCompleted)]
    assert sorted(set(completed)) == sorted(completed)


async def test_pausing_in_the_middle_of_a_milestone_repeats_nothing_that_was_finished(world: World) -> None:
    engine = await world.engine(imported)
    handle = await engine.start(imported(10), id="m")
    await until(lambda: calls["page 5"] == 1)
    await handle.pause("wait")
    await asyncio.sleep(10)
    assert Status.PAUSED is await handle.status()
    await handle.resume()

    assert sum(range(10)) == await handle.result()
    assert [1] * 10 == [calls[f"page {page}"] for page in range(10)]
    completed = [event.key for event in await world.events("m") if isinstance(event, StepCompleted)]
    assert sorted(set(completed)) == sorted(completed)


async def test_a_flush_whose_answer_is_lost_does_nothing_twice(world: World) -> None:
    engine = await world.engine(imported)
    fault = lose_answer(engine, "commit")
    fault.skip = 1
    fault.error = es.StoreUnavailable
    handle = await engine.start(imported(5), id="m")

    assert sum(range(5)) == await handle.result()
    assert 1 == calls["done"]
    assert not link(engine).faults


@pytest.mark.parametrize("seed", range(20))
async def test_killed_at_random_it_comes_to_the_same_result(world: World, seed: int) -> None:
    random = Random(seed)
    engine = await world.engine(mixed, child, imported, relaxed)
    for run_id, call in (("a", mixed(3)), ("b", imported(30)), ("c", relaxed(30))):
        await engine.start(call, id=run_id)
    for _ in range(6):
        await asyncio.sleep(random.random() * 0.2)
        kill(engine)
        engine = await world.engine(mixed, child, imported, relaxed)

    assert 6 + 33 == await engine.handle("a", mixed).result()
    assert sum(range(30)) == await engine.handle("b", imported).result()
    assert sum(range(30)) == await engine.handle("c", relaxed).result()
    assert calls["done"] <= 1
