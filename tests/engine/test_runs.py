"""
Starting runs and getting their results.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import everstep as es
from everstep.events import RunCreated
from everstep.stores.base import RunFilter
from tests.engine.support import World, kill, link, lose_answer, turns, until, worker_of


@es.step
async def double(n: int) -> int:
    return 2 * n


@es.workflow
async def twice(n: int) -> int:
    return await double(await double(n))


@es.workflow
async def slow(n: int) -> int:
    await asyncio.sleep(100)
    return n


@es.workflow
async def fails(text: str) -> int:
    raise ValueError(text)


async def test_a_run_gives_its_result(world: World) -> None:
    engine = await world.engine(twice)

    assert 12 == await (await engine.start(twice(3), id="a")).result()
    assert 12 == await engine.handle("a", twice)
    assert 0 == world.seconds


async def test_a_second_start_with_the_same_id_joins(world: World) -> None:
    engine = await world.engine(twice)
    first = await engine.start(twice(3), id="a")
    second = await engine.start(twice(3), id="a")

    assert [12, 12] == [await first.result(), await second.result()]
    assert 12 == await (await engine.start(twice(3), id="a")).result(), "also when it has finished"
    assert 2 == sum((await world.completed("a")).values())


async def test_a_start_with_other_arguments_is_refused_and_shows_what_differs(world: World) -> None:
    engine = await world.engine(twice, slow)
    await engine.start(twice(3), id="a")

    with pytest.raises(es.RunConflict) as raised:
        await engine.start(twice(4), id="a")
    assert ("n: 3 recorded, 4 requested",) == raised.value.differences
    with pytest.raises(es.RunConflict, match="workflow: twice recorded, slow requested"):
        await engine.start(slow(3), id="a")
    assert 12 == await engine.handle("a").result()


@pytest.mark.parametrize("moment", ["in memory", "finished", "from a client"])
async def test_on_conflict_raise_refuses_even_the_same_start(world: World, moment: str) -> None:
    engine = await world.engine(twice)
    handle = await engine.start(twice(3), id="a")
    if moment == "finished":
        await handle.result()
    starter = await world.client() if moment == "from a client" else engine

    with pytest.raises(es.RunConflict, match="exists already"):
        await starter.start(twice(3), id="a", on_conflict="raise")


async def test_an_unknown_on_conflict_is_refused(world: World) -> None:
    """Else a misspelt 'raise' would join in silence."""
    engine = await world.engine(twice)
    nonsense: Any = "explode"

    with pytest.raises(es.UsageError, match="on_conflict"):
        await engine.start(twice(3), id="a", on_conflict=nonsense)
    with pytest.raises(es.RunNotFound):
        await engine.handle("a").status()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_hundred_starts_of_one_id_make_one_run(world: World, inline: bool) -> None:
    """E1: through two engines and a client at once."""
    engines = [await world.engine(twice, inline=inline), await world.engine(twice, inline=inline), await world.client()]

    handles = await asyncio.gather(*(engines[n % 3].start(twice(3), id="a") for n in range(100)))

    assert {12} == {await handle.result() for handle in handles}
    assert 1 == len(await world.store.list(RunFilter()))
    assert [1] == [1 for event in await world.events("a") if isinstance(event, RunCreated)]
    assert {"double": 2} == await world.completed("a")


@pytest.mark.parametrize("bad", ["", "a/b", "a b", "-a", "é", "a" * 201, "a\n", 7])
async def test_ids_that_are_not_inert_are_refused(world: World, bad: Any) -> None:
    engine = await world.engine(twice)
    client = await world.client()

    for starter in (engine, client):
        with pytest.raises(es.UsageError, match="not allowed"):
            await starter.start(twice(3), id=bad)
    assert [] == await world.store.list(RunFilter())


async def test_starting_a_step_is_refused(world: World) -> None:
    engine = await world.engine(twice)
    step_call: Any = double(3)

    with pytest.raises(es.UsageError, match="is a call of a step"):
        await engine.start(step_call)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"timeout": math.nan}, {"timeout": math.inf}])
async def test_a_timeout_that_is_no_duration_is_refused(world: World, options: Any) -> None:
    """0 must not mean 'no limit', and a negative one would fail the run at once."""
    engine = await world.engine(twice)

    with pytest.raises(es.UsageError, match="timeout"):
        await engine.start(twice(3), id="a", **options)


@pytest.mark.parametrize("delay", [-1.0, math.nan, math.inf])
async def test_a_delay_that_is_no_duration_is_refused(world: World, delay: float) -> None:
    engine = await world.engine(twice)

    with pytest.raises(es.UsageError, match="delay"):
        await engine.start(twice(3), id="a", delay=delay)


async def test_closing_waits_for_bodies_that_clean_up(world: World) -> None:
    """A connection is closed in a ``finally``: the loop must not end before it."""
    cleaned: list[bool] = []

    @es.step
    async def hold() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            cleaned.append(True)

    @es.workflow
    async def holding() -> None:
        await hold()

    engine = await world.engine(holding, grace=0)
    await engine.start(holding(), id="a")
    await turns()
    await engine.close()

    assert [True] == cleaned
    assert "queued" == await (await world.client()).handle("a").status()


async def test_a_child_with_the_name_of_another_workflow_is_not_driven_by_it(world: World) -> None:
    """Names are how a run finds its code: the wrong code would run under the right name."""

    @es.workflow(name="twice")
    async def impostor(n: int) -> int:
        return -n

    @es.workflow
    async def parent() -> int:
        await es.sleep(0.01)
        return await impostor(1)

    engine = await world.engine(twice, parent)
    handle = await engine.start(parent(), id="a")

    with pytest.raises(es.RunPaused, match="two workflows are named 'twice'"):
        await handle.result()
    assert ["a"] == [run.run_id for run in await world.store.list(RunFilter())]


async def test_a_delayed_run_starts_when_it_is_due(world: World) -> None:
    engine = await world.engine(twice)
    handle = await engine.start(twice(3), id="a", delay=60)

    assert "queued" == await handle.status()
    assert 12 == await handle.result()
    assert 60 <= world.seconds < 60.01


async def test_a_run_that_takes_too_long_fails_with_a_timeout(world: World) -> None:
    engine = await world.engine(slow)
    handle = await engine.start(slow(1), id="a", timeout=30)

    with pytest.raises(es.RunTimeout, match="time limit ended at 2027-01-15 08:00:30"):
        await handle.result()
    assert "failed" == await handle.status()
    assert 30 <= world.seconds < 30.01


async def test_the_timeout_of_a_workflow_holds_for_its_runs(world: World) -> None:
    @es.workflow(timeout=20)
    async def limited() -> None:
        await asyncio.sleep(100)

    engine = await world.engine(limited)

    with pytest.raises(es.RunTimeout, match="time limit ended at 2027-01-15 08:00:20"):
        await (await engine.start(limited())).result()


async def test_waiting_for_a_result_may_time_out_and_the_run_goes_on(world: World) -> None:
    engine = await world.engine(slow)
    handle = await engine.start(slow(7), id="a")

    with pytest.raises(es.RunTimeout, match="It goes on"):
        await handle.result(timeout=10)
    assert 10 <= world.seconds < 10.01
    with pytest.raises(es.RunTimeout):
        await handle.result(timeout=0)
    assert 7 == await handle.result()
    assert 7 == await handle.result(timeout=0)


async def test_a_failed_run_raises_its_cause(world: World) -> None:
    engine = await world.engine(fails)
    handle = await engine.start(fails("no good"), id="a")

    with pytest.raises(es.RunFailed, match="no good") as raised:
        await handle.result()
    assert isinstance(raised.value.__cause__, ValueError)


async def test_a_run_that_nobody_knows_is_not_found(world: World) -> None:
    engine = await world.engine(twice)

    for ask in (engine.handle("a").result, engine.handle("a").status, engine.handle("a").cancel):
        with pytest.raises(es.RunNotFound, match="there is no run a"):
            await ask()


async def test_a_client_starts_and_an_engine_drives_at_once(world: World) -> None:
    client = await world.client()
    await world.engine(twice)

    assert 12 == await (await client.start(twice(3), id="a")).result()
    assert 0 == world.seconds, "nobody may wait for a poll"


async def test_more_runs_than_the_engine_may_drive_wait_in_the_store(world: World) -> None:
    engine = await world.engine(twice, concurrency=3)

    handles = await asyncio.gather(*(engine.start(twice(n), id=f"r{n}") for n in range(50)))

    assert [4 * n for n in range(50)] == [await handle.result() for handle in handles]
    assert world.seconds < 0.01


async def test_a_start_whose_first_commit_is_answered_late_survives_a_caller_who_gives_up(world: World) -> None:
    """wait_for around start must not harm the run."""
    engine = await world.engine(twice, inline=False)
    link(engine).fail("commit", delay=5, error=None)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.start(twice(3), id="a"), 1)
    await until(lambda: worker_of(engine).driver_of("a") is None)

    assert 12 == await engine.handle("a", twice).result()


async def test_a_start_whose_answer_is_lost_happens_once(world: World) -> None:
    """B2: the same entry is repeated and recognised."""
    engine = await world.engine(twice)
    lose_answer(engine, "commit")

    assert 12 == await (await engine.start(twice(3), id="a")).result()
    assert {"double": 2} == await world.completed("a")


async def test_an_acknowledged_start_exists_even_if_the_worker_was_given_up_meanwhile(world: World) -> None:
    """The first entry of a worker that was declared dead is fenced: nothing is stored, and 'started' would be a lie."""
    engine = await world.engine(twice)
    world.store.kill(worker_of(engine).worker_key)
    other = await world.engine(slow)
    await (await other.start(slow(1), id="other")).status()
    await turns()

    handle = await engine.start(twice(3), id="a")

    assert 12 == await handle.result()


async def test_a_start_is_answered_when_the_lease_is_lost_while_its_first_entry_is_on_its_way(world: World) -> None:
    engine = await world.engine(twice, inline=False)
    link(engine).is_away = True
    starting = asyncio.ensure_future(engine.start(twice(3), id="a"))
    await asyncio.sleep(60)
    assert not starting.done()
    link(engine).is_away = False

    handle = await asyncio.wait_for(starting, 60)
    assert 12 == await asyncio.wait_for(handle.result(), 60)


async def test_a_call_that_could_not_be_started_does_not_warn_as_well(world: World, recwarn: pytest.WarningsRecorder) -> None:
    engine = await world.engine(twice)

    with pytest.raises(es.UsageError):
        await engine.start(twice(3), id="a/b")
    bad: Any = object()
    with pytest.raises(es.Unencodable):
        await engine.start(twice(bad), id="a")

    assert [] == list(recwarn)


async def test_an_engine_may_be_closed_twice_and_not_used_afterwards(world: World) -> None:
    engine = await world.engine(twice)
    handle = await engine.start(twice(3), id="a")
    await handle.result()
    await engine.close()
    await engine.close()

    for use in (lambda: engine.start(twice(3), id="b"), engine.open, handle.status, handle.result, handle.cancel):
        with pytest.raises(es.EngineClosed):
            await use()


async def test_an_engine_that_is_opened_by_two_at_once_is_opened_once(world: World) -> None:
    engine = world.unopened(twice)
    link(engine).fail("enlist", delay=1, error=None)
    link(engine).fail("enlist", delay=1, error=None)

    results = await asyncio.gather(*(engine.start(twice(n), id=f"r{n}") for n in range(5)))

    assert [4 * n for n in range(5)] == [await handle.result() for handle in results]
    assert 1 == link(engine).counts["enlist"]


async def test_an_engine_closed_while_it_opens_leaves_nothing_running(world: World) -> None:
    engine = world.unopened(twice)
    link(engine).fail("enlist", delay=1, error=None)
    opening = asyncio.ensure_future(engine.open())
    await turns()

    await engine.close()
    await asyncio.wait([opening])

    assert opening.exception() is None or isinstance(opening.exception(), es.EngineClosed)
    assert [] == [worker for worker in await world.store.workers() if worker.alive]
    assert worker_of(engine) is None


async def test_start_waits_for_the_store_and_close_lets_go_of_it(world: World) -> None:
    """A caller must not hang for ever on an engine that is closed."""
    engine = await world.engine(twice, inline=False, grace=1)
    link(engine).is_away = True
    starting = asyncio.ensure_future(engine.start(twice(3), id="a"))
    await asyncio.sleep(1)

    await engine.close()

    await asyncio.wait([starting], timeout=60)
    assert starting.done(), "it would wait for ever"
    assert isinstance(starting.exception(), es.EverstepError)


async def test_killed_before_the_first_claim_it_is_driven_by_another(world: World) -> None:
    """A1."""
    client = await world.client()
    await client.start(twice(3), id="a")
    first = await world.engine(twice)
    kill(first)
    second = await world.engine(twice)

    assert 12 == await second.handle("a", twice).result()


async def test_the_time_limit_of_a_run_that_waited_in_the_store_holds(world: World) -> None:
    """It was started by a program that drives nothing, so nobody has seen its first entry before."""
    client = await world.client()
    await client.start(slow(1), id="a", timeout=60)
    engine = await world.engine(slow)

    with pytest.raises(es.RunTimeout):
        await engine.handle("a", slow).result()
    assert world.seconds == pytest.approx(60, abs=0.1)
