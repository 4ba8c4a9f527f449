"""
What an operator does to runs: pause, resume, retry, decide by hand, fork, and deal with dead letters.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

import everstep as es
from everstep.events import ResultReused, RunDiscarded, RunForked, RunPaused, RunRetried, StepOverridden, StepScheduled
from everstep.records import Status
from tests.engine.support import World, is_in_memory, kill, turns, until

calls: Counter[str] = Counter()
broken: set[str] = set()
keys: list[str] = []
gates: list[asyncio.Event] = []
word = es.signal("word", str)
stage = es.state("stage", str)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()
    broken.clear()
    keys.clear()
    gates[:] = [asyncio.Event()]


@es.step
async def book(what: str) -> str:
    calls[what] += 1
    keys.append(es.current().idempotency_key)
    if what in broken:
        raise ConnectionError(f"{what} is down")
    return f"{what} booked"


@es.step(retry=es.Retry(attempts=None, delay=3600, jitter=0))
async def stubborn(what: str) -> str:
    calls[what] += 1
    raise ConnectionError(f"{what} is down")


@es.step
async def slow(what: str) -> str:
    calls[what] += 1
    await gates[0].wait()
    return what


@es.workflow
async def trip() -> list[str]:
    flight = await book("flight")
    stage.set("flown")
    hotel = await book("hotel")
    return [flight, hotel]


@es.workflow
async def insistent() -> str:
    return f"{await book('taxi')}, {await stubborn('train')}"


@es.workflow
async def two_parts() -> str:
    first = await slow("first")
    return f"{first} {await book('second')}"


@es.workflow
async def listener() -> str:
    return await word.wait()


@es.workflow
async def tour() -> str:
    return await trip_child()


@es.workflow
async def trip_child() -> str:
    await book("bus")
    return await book("boat")


@es.workflow
async def days(n: int, log: list[str]) -> list[str]:
    log.append(await book(f"day {n}"))
    if n:
        es.continue_as_new(days(n - 1, log))
    return log


async def failed(world: World, call: es.Call[Any], run_id: str, *workflows: es.Workflow[..., Any]) -> Any:
    engine = await world.engine(*workflows)
    handle = await engine.start(call, id=run_id)
    with pytest.raises(es.RunFailed):
        await handle.result()
    return engine, handle


# --- retry --------------------------------------------------------------------------------------------------------------------


async def test_a_failed_run_is_retried_from_its_last_good_point(world: World) -> None:
    broken.add("hotel")
    _, handle = await failed(world, trip(), "t", trip)
    broken.clear()

    await handle.retry("hotel is back", actor="ann")

    assert ["flight booked", "hotel booked"] == await handle.result()
    assert {"flight": 1, "hotel": 2} == dict(calls)
    assert keys[1] == keys[2], "the receiver can tell that it is the same booking"
    [retried] = [event for event in await world.events("t") if isinstance(event, RunRetried)]
    assert ("hotel is back", "ann") == (retried.reason, retried.actor)


async def test_a_retried_run_survives_the_death_of_its_worker(world: World) -> None:
    broken.add("hotel")
    engine, handle = await failed(world, trip(), "t", trip)
    broken.clear()
    kill(engine)
    other = await world.engine(trip)

    await other.handle("t").retry()

    assert ["flight booked", "hotel booked"] == await other.handle("t", trip).result()
    assert 1 == calls["flight"]
    assert "t" == handle.run_id


async def test_only_a_failed_or_dead_run_can_be_retried(world: World) -> None:
    engine = await world.engine(trip, listener)
    done = await engine.start(trip(), id="done")
    await done.result()
    waiting = await engine.start(listener(), id="waiting")
    await turns()

    for handle in (done, waiting):
        before = await world.record(handle.run_id)
        with pytest.raises(es.IllegalState, match=r"cannot be retried\. Nothing was changed"):
            await handle.retry()
        assert before == await world.record(handle.run_id)


async def test_a_child_whose_parent_knows_of_its_failure_is_not_retried_alone(world: World) -> None:
    broken.add("boat")
    engine, _ = await failed(world, tour(), "p", tour, trip_child)
    child = engine.handle("p/0:1")

    with pytest.raises(es.IllegalState, match="retry that one"):
        await child.retry()


async def test_a_retry_goes_on_in_the_children_that_failed(world: World) -> None:
    """What they had finished is not done again either, at any depth."""
    broken.add("boat")
    _, handle = await failed(world, expedition(), "p", expedition, tour, trip_child)
    broken.clear()

    await handle.retry("the sea is calm", actor="ann")

    assert "boat booked" == await handle.result()
    assert {"bus": 1, "boat": 2, "camp": 1} == dict(calls)
    assert "succeeded" == await_status(world, "p/0:2/0:1")


@es.workflow
async def expedition() -> str:
    await book("camp")
    return await tour()


def await_status(world: World, run_id: str) -> str:
    store: Any = world.store
    status: str = store._runs[store._keys[run_id]].record.status.value
    return status


@es.workflow
async def outing() -> str:
    return await cautious_trip()


async def test_a_child_whose_steps_were_undone_begins_anew(world: World) -> None:
    broken.add("car")
    _, handle = await failed(world, outing(), "p", outing, cautious_trip)
    broken.clear()

    await handle.retry()

    assert "never" == await handle.result()
    assert {"flight": 2, "hotel": 2, "car": 2, "hotel back": 1, "flight back": 1} == dict(calls)
    assert "failed" == await_status(world, "p/0:1")
    assert "succeeded" == await_status(world, "p/0:1~1")


@es.workflow
async def guided_tour() -> str:
    """A child at work when the parent fails, and is stopped with it."""
    async with asyncio.TaskGroup() as group:
        tour = group.create_task(lead())
        group.create_task(hurry())
    return tour.result()


@es.workflow
async def lead() -> str:
    try:
        await book("bus")
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(30)
        raise
    return await book("boat")


async def hurry() -> None:
    await asyncio.sleep(60)
    await book("ferry")


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_child_that_was_cancelled_with_its_parent_begins_anew_with_it(world: World, at_once: bool) -> None:
    """Nobody wanted its end but the failure of its parent, and a cancelled run is final; one that still cleans up is no use."""
    broken.add("ferry")
    _, handle = await failed(world, guided_tour(), "p", guided_tour, lead)
    await until(lambda: at_once or await_status(world, "p/0.1:1") == "cancelled")
    assert at_once is (await_status(world, "p/0.1:1") in ("running", "waiting"))
    broken.clear()

    await handle.retry("the ferry is there again")

    assert "boat booked" == await handle.result()
    assert {"bus": 2, "ferry": 2, "boat": 1} == dict(calls)
    assert "cancelled" == await_status(world, "p/0.1:1")
    assert "succeeded" == await_status(world, "p/0.1:1~1")


async def test_the_time_limit_begins_again_with_a_retry(world: World) -> None:
    engine = await world.engine(listener)
    handle = await engine.start(listener(), id="w", timeout=60)
    with pytest.raises(es.RunTimeout):
        await handle.result()

    await handle.retry()
    await asyncio.sleep(30)
    await handle.send(word, "in time")

    assert "in time" == await handle.result()


@es.workflow
async def cautious_trip() -> str:
    async with es.saga() as saga:
        await saga.do(book("flight"), undo=book("flight back"))
        await saga.do(book("hotel"), undo=book("hotel back"))
        await book("car")
    return "never"


async def test_a_run_whose_steps_were_undone_is_not_retried(world: World) -> None:
    broken.add("car")
    _, handle = await failed(world, cautious_trip(), "t", cautious_trip)

    with pytest.raises(es.IllegalState, match="have been undone"):
        await handle.retry()


async def test_a_run_that_could_not_undo_goes_on_undoing_where_it_stopped(world: World) -> None:
    """Not forward: what made it undo its steps has happened, although it would not happen now."""
    broken.update(("car", "flight back"))
    engine = await world.engine(cautious_trip)
    handle = await engine.start(cautious_trip(), id="t")
    with pytest.raises(es.RunDead):
        await handle.result()
    broken.clear()

    await handle.retry("the airline answers again")

    with pytest.raises(es.RunFailed, match="car is down"):
        await handle.result()
    assert {"flight": 1, "hotel": 1, "car": 1, "hotel back": 1, "flight back": 2} == dict(calls)


async def test_a_cancelled_run_that_could_not_undo_ends_as_cancelled_once_it_can(world: World) -> None:
    broken.add("hotel back")
    engine = await world.engine(slow_trip)
    handle = await engine.start(slow_trip(), id="t")
    await until(lambda: bool(calls["late"]))
    await handle.cancel("rain")
    with pytest.raises(es.RunDead):
        await handle.result()
    broken.clear()

    await handle.retry()

    with pytest.raises(es.RunCancelled, match="rain"):
        await handle.result()
    assert {"hotel": 1, "late": 1, "hotel back": 2} == dict(calls)


@es.workflow
async def slow_trip() -> None:
    async with es.saga() as saga:
        await saga.do(book("hotel"), undo=book("hotel back"))
        await slow("late")


# --- pause and resume ---------------------------------------------------------------------------------------------------------


async def test_a_paused_run_lets_what_runs_finish_and_begins_nothing(world: World) -> None:
    engine = await world.engine(two_parts)
    handle = await engine.start(two_parts(), id="t")
    await until(lambda: bool(calls["first"]))

    await handle.pause("maintenance", actor="ann")
    await turns()
    assert Status.RUNNING is await handle.status()
    gates[0].set()
    await until(lambda: not is_in_memory(engine, "t"))

    assert Status.PAUSED is await handle.status()
    assert {"first": 1} == dict(calls)
    [paused] = [event for event in await world.events("t") if isinstance(event, RunPaused)]
    assert ("maintenance", "ann") == (paused.reason, paused.actor)
    await handle.resume()
    assert "first second booked" == await handle.result()
    assert {"first": 1, "second": 1} == dict(calls)


async def test_a_waiting_run_is_paused_at_once_and_hears_nothing_until_it_is_resumed(world: World) -> None:
    engine = await world.engine(listener)
    handle = await engine.start(listener(), id="w")
    await until(lambda: not is_in_memory(engine, "w"))

    await handle.pause()
    await handle.pause()
    await handle.send(word, "psst")
    await asyncio.sleep(3600)
    assert Status.PAUSED is await handle.status()
    with pytest.raises(es.RunPaused):
        await handle.result()

    await handle.resume()
    assert "psst" == await handle.result()


async def test_a_queued_run_can_be_paused_without_any_worker(world: World) -> None:
    client = await world.client()
    handle = await client.start(trip(), id="t")

    await handle.pause()

    engine = await world.engine(trip)
    await asyncio.sleep(60)
    assert not calls
    await engine.handle("t").resume()
    assert 2 == len(await engine.handle("t", trip).result())


async def test_a_pause_outlives_the_worker_that_was_asked(world: World) -> None:
    engine = await world.engine(two_parts)
    handle = await engine.start(two_parts(), id="t")
    await until(lambda: bool(calls["first"]))
    client = await world.client()

    await client.handle("t").pause()
    kill(engine)
    other = await world.engine(two_parts)
    gates[0].set()
    await until(lambda: not is_in_memory(other, "t"))
    await turns()

    assert Status.PAUSED is await other.handle("t").status()
    assert 0 == calls["second"]
    assert "t" == handle.run_id


async def test_a_run_at_rest_is_neither_paused_nor_resumed(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()

    for act in (handle.pause, handle.resume):
        with pytest.raises(es.IllegalState):
            await act()


async def test_a_cancel_reaches_a_paused_run(world: World) -> None:
    engine = await world.engine(listener)
    handle = await engine.start(listener(), id="w")
    await until(lambda: not is_in_memory(engine, "w"))
    await handle.pause()

    assert await handle.cancel("enough")

    with pytest.raises(es.RunCancelled):
        await handle.result()


# --- by hand ------------------------------------------------------------------------------------------------------------------


async def test_a_step_that_waits_for_its_next_attempt_can_be_completed_by_hand(world: World) -> None:
    engine = await world.engine(insistent)
    handle = await engine.start(insistent(), id="t")
    await until(lambda: not is_in_memory(engine, "t"))

    await handle.complete_step("stubborn", "by coach", "the line is closed", actor="ann")

    assert "taxi booked, by coach" == await handle.result()
    assert 1 == calls["train"]
    assert not world.attempts("t")
    [event] = [event for event in await world.events("t") if isinstance(event, StepOverridden)]
    assert ("the line is closed", "ann", False) == (event.reason, event.actor, event.skipped)


async def test_a_step_that_is_being_executed_can_be_completed_by_hand(world: World) -> None:
    engine = await world.engine(two_parts)
    handle = await engine.start(two_parts(), id="t")
    await until(lambda: bool(calls["first"]))

    await handle.complete_step("slow", "given")

    assert "given second booked" == await handle.result()


async def test_a_failed_step_can_be_completed_or_skipped_which_retries_its_run(world: World) -> None:
    broken.add("hotel")
    engine, one = await failed(world, trip(), "one", trip, insistent)
    broken.add("taxi")
    two = await engine.start(insistent(), id="two")
    with pytest.raises(es.RunFailed):
        await two.result()

    await one.complete_step("book", "hostel booked")
    await two.skip_step("book", "we walk")
    await until(lambda: 1 == calls["train"])
    await two.complete_step("stubborn", "by coach")

    assert ["flight booked", "hostel booked"] == await one.result()
    assert "None, by coach" == await two.result()
    assert 1 == calls["hotel"] == calls["taxi"]


async def test_a_step_that_has_a_result_keeps_it(world: World) -> None:
    broken.add("hotel")
    _, handle = await failed(world, trip(), "t", trip)

    for step in ("0:1", "nothing"):
        with pytest.raises(es.IllegalState, match="no step"):
            await handle.complete_step(step, "x")


# --- forks --------------------------------------------------------------------------------------------------------------------


async def test_a_fork_finds_done_what_was_done_and_leaves_the_other_run_alone(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()
    before = await world.entries("t")

    fork = await handle.fork(at="book", id="again", reason="what if", actor="ann")

    assert ["flight booked", "hotel booked"] == await fork.result()
    assert before == await world.entries("t")
    [event] = [event for event in await world.events("again") if isinstance(event, RunForked)]
    assert ("t", "what if", "ann") == (event.run_id, event.reason, event.actor)


async def test_a_fork_at_a_version_does_again_what_came_after(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()

    fork = await handle.fork(at=2, id="again")

    await fork.result()
    assert {"flight": 1, "hotel": 2} == dict(calls)
    assert 3 == len(set(keys)), "under its own ids"
    snapshot = await fork.snapshot()
    assert {"stage": "flown"} == snapshot.payload


async def test_a_fork_with_an_edited_result_goes_on_with_it(world: World) -> None:
    engine = await world.engine(trip, days)
    handle = await engine.start(trip(), id="t")
    await handle.result()

    fork = await handle.fork(edit={"0:1": "train booked", "stage": "on rails"}, id="again")

    assert ["train booked", "hotel booked"] == await fork.result()
    assert {"stage": "on rails"} == (await fork.snapshot()).payload
    assert {"flight": 1, "hotel": 2} == dict(calls)


async def test_a_fork_of_a_fork_knows_both(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()
    first = await handle.fork(edit={"0:1": "train booked"}, id="first")
    await first.result()

    second = await first.fork(id="second")

    assert ["train booked", "hotel booked"] == await second.result()
    assert {"flight": 1, "hotel": 2} == dict(calls)


async def test_the_snapshot_of_a_fork_has_the_results_that_it_took_over(world: World) -> None:
    engine = await world.engine(two_parts)
    gates[0].set()
    handle = await engine.start(two_parts(), id="t")
    await handle.result()

    fork = await handle.fork(id="again")
    await fork.result()

    assert {"slow": "first", "book": "second booked"} == (await fork.snapshot()).payload["steps"]


async def test_a_fork_survives_its_worker_and_is_driven_by_another(world: World) -> None:
    engine = await world.engine(two_parts)
    handle = await engine.start(two_parts(), id="t")
    await until(lambda: bool(calls["first"]))
    fork = await handle.fork(id="again")
    await until(lambda: 2 == calls["first"])

    kill(engine)
    gates[0].set()
    other = await world.engine(two_parts)

    assert "first second booked" == await other.handle("again", two_parts).result()
    assert "again" == fork.run_id


async def test_a_fork_whose_history_was_altered_is_quarantined(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()
    store: Any = world.store
    client = await world.client()
    await engine.close()
    await client.handle("t").fork(id="again")
    entries = store._runs[store._keys["t"]].entries
    entries[1] = replace(entries[1], hash=bytes(32))

    other = await world.engine(trip)

    with pytest.raises(es.RunPaused, match="corrupt"):
        await other.handle("again").result()


async def test_a_fork_that_cannot_be_is_refused(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="t")
    await handle.result()

    for more in ({"at": 99}, {"at": "nothing"}, {"edit": {"nothing": 1}}, {"id": "t"}):
        wrong: Any = more
        with pytest.raises(es.IllegalState):
            await handle.fork(**wrong)


# --- dead letters -------------------------------------------------------------------------------------------------------------


@es.workflow(name="two_parts", max_recoveries=0)
async def fragile_two_parts() -> str:
    first = await slow("first")
    return f"{first} {await book('second')}"


async def poisoned(world: World, run_id: str) -> None:
    """A run whose worker dies of it."""
    doomed = await world.engine(fragile_two_parts)
    await doomed.start(fragile_two_parts(), id=run_id)
    before = calls["first"]
    await until(lambda: is_in_memory(doomed, run_id) and calls["first"] >= before)
    kill(doomed)
    other = await world.engine(fragile_two_parts)
    with pytest.raises(es.RunDead):
        await other.handle(run_id).result(timeout=60)
    await other.close()


async def test_dead_letters_are_listed_with_their_reason_and_requeued_or_discarded(world: World) -> None:
    client = await world.client()
    await poisoned(world, "a")
    await poisoned(world, "b")

    letters = await client.dead()
    assert ["b", "a"] == [letter.run_id for letter in letters]
    assert all("died while driving this run" in letter.reason and letter.step == "slow" for letter in letters)

    assert ["a"] == list(await client.requeue("a", reason="fixed"))
    assert ["b"] == list(await client.discard())
    assert [] == await client.dead()
    gates[0].set()
    engine = await world.engine(fragile_two_parts)
    assert "first second booked" == await engine.handle("a", fragile_two_parts).result()
    with pytest.raises(es.RunCancelled, match="given up by a person"):
        await engine.handle("b").result()
    assert isinstance((await world.events("b"))[-1], RunDiscarded)


# --- continue as new ----------------------------------------------------------------------------------------------------------


async def test_a_run_that_begins_again_for_ever_is_claimed_with_a_short_journal(world: World) -> None:
    engine = await world.engine(days)
    handle = await engine.start(days(20, []), id="d")
    await until(lambda: calls["day 10"] == 1)
    kill(engine)

    other = await world.engine(days)

    assert [f"day {n} booked" for n in range(20, -1, -1)] == await other.handle("d", days).result()
    assert all(count <= 2 for count in calls.values())
    run = await world.record("d")
    assert run.version - run.base <= 3
    scheduled = [event.key for event in await world.events("d") if isinstance(event, StepScheduled)]
    assert len(scheduled) == len(set(scheduled))
    assert "d" == handle.run_id


async def test_a_retry_reuses_only_the_newest_segment(world: World) -> None:
    broken.add("day 0")
    _, handle = await failed(world, days(3, []), "d", days)
    broken.clear()

    await handle.retry()

    assert 4 == len(await handle.result())
    assert {"day 3": 1, "day 2": 1, "day 1": 1, "day 0": 2} == dict(calls)
    assert not [event for event in await world.events("d") if isinstance(event, ResultReused)]
