"""Sagas in an engine: compensations retried, parked, killed, cancelled; steps that are told to stop; runs that end dead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import everstep as es
from everstep.events import (
    CompensationBegan,
    RunCancelled,
    RunDied,
    RunFailed,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
)
from everstep.testing import Effects, crash_everywhere
from tests.engine.support import World, freeze, is_in_memory, kill, lose_answer, thaw, turns, until

HOUR = 3600.0


class Provider:
    """What the steps do outside."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failures = 0
        self.threads = threading.Event()

    def did(self, what: str) -> None:
        self.log.append(f"{what}{' maybe' if es.current().maybe else ''}")


provider = Provider()


@pytest.fixture(autouse=True)
def _afresh() -> None:
    provider.__init__()  # type: ignore[misc]


@es.step
async def book(name: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    provider.did(f"book {name}")
    return name


@es.step(retry=es.Retry(attempts=5, delay=60, factor=1, jitter=0))
async def unbook(name: str, seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    if provider.failures:
        provider.failures -= 1
        raise OSError("the provider is away")
    provider.did(f"unbook {name}")


@es.step(at_most_once=True)
async def pay(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    provider.did(f"pay {name}")
    return name


@es.step(retry=es.Retry(attempts=None, delay=5, factor=1, jitter=0))
async def refused(name: str) -> str:
    provider.did(f"try {name}")
    raise OSError("refused")


@es.step
def slow_in_a_thread(name: str) -> str:
    log = provider.log  # A thread of an engine that was killed lives on into the next test.
    provider.threads.wait(10)
    log.append(f"book {name}")
    return name


@es.step
async def fail(why: str) -> None:
    raise ValueError(why)


@es.workflow
async def unbook_child(name: str) -> None:
    provider.did("child begins")
    await unbook(name)


@es.workflow
async def book_child(name: str) -> str:
    async with es.saga() as saga:
        await saga.do(book(f"{name} 1"), undo=unbook)
        await saga.do(book(f"{name} 2", HOUR), undo=unbook)
    return name


@es.workflow
async def trip(undo_seconds: float = 0.0) -> str:
    async with es.saga() as saga:
        for name in ("flight", "hotel"):
            await saga.do(book(name), undo=lambda booked: unbook(booked, undo_seconds))
        await fail("no car")
    return "done"


FORWARD = ["book flight", "book hotel"]
BACK = ["unbook hotel", "unbook flight"]


async def events(world: World, *kinds: type[Any]) -> list[Any]:
    return [event for event in await world.events("a") if isinstance(event, kinds)]


# --- undoing ----------------------------------------------------------------------------------------------------------


async def test_a_run_that_fails_undoes_its_steps_first(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="a")

    with pytest.raises(es.RunFailed, match=r"run a failed at fail: .*no car"):
        await handle.result()

    assert FORWARD + BACK == provider.log
    assert 0 == world.seconds


async def test_compensations_have_retries_of_their_own_and_the_run_leaves_memory_meanwhile(world: World) -> None:
    provider.failures = 3
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="a")
    await until(lambda: not is_in_memory(engine, "a"))

    record = await world.record("a")
    assert es.Status.COMPENSATING is record.status
    assert ("unbook", None) == (record.step, record.worker_key)
    snapshot = await handle.snapshot()
    assert ((), ["0:2", "0:1"]) == (snapshot.undone, [each.key for each in snapshot.undo_left])

    with pytest.raises(es.RunFailed):
        await handle.result()
    assert FORWARD + BACK == provider.log
    assert 180 == round(world.seconds)


async def test_while_it_undoes_its_status_says_so(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(30.0), id="a")
    await until(lambda: len(provider.log) == 3)

    assert es.Status.COMPENSATING is await handle.status()
    snapshot = await handle.snapshot()
    assert (1, 1, "unbook") == (len(snapshot.undone), len(snapshot.undo_left), snapshot.current_step.name)
    with pytest.raises(es.RunFailed):
        await handle.result()
    assert es.Status.FAILED is await handle.status()


@pytest.mark.parametrize("blow", ["kill", "freeze", "close"])
async def test_another_worker_goes_on_undoing(world: World, blow: str) -> None:
    """F3: executed at least once, recorded once, in order; a zombie's outcome counts for nothing."""
    first = await world.engine(trip, lease=6, grace=0)
    handle = await first.start(trip(30.0), id="a")
    await until(lambda: bool(provider.log) and provider.log[-1] == "book hotel")
    await asyncio.sleep(40)
    assert "unbook hotel" == provider.log[-1]
    closing = asyncio.ensure_future(first.close()) if blow == "close" else None
    if blow != "close":
        (kill if blow == "kill" else freeze)(first)
    second = await world.engine(trip, lease=6)

    with pytest.raises(es.RunFailed):
        await second.handle("a").result()

    assert FORWARD + BACK == list(dict.fromkeys(provider.log))
    assert {"book": 2, "unbook": 2} == await world.completed("a")
    if blow == "freeze":
        thaw(first)
        await asyncio.sleep(60)
        assert {"book": 2, "unbook": 2} == await world.completed("a")
    if closing is not None:
        await closing
    assert handle.run_id == "a"


async def test_a_lost_answer_undoes_nothing_twice(world: World) -> None:
    engine = await world.engine(trip)
    handle = await engine.start(trip(30.0), id="a")
    await until(lambda: len(provider.log) == 2)
    lose_answer(engine, "commit")
    lose_answer(engine, "commit", skip=1)

    with pytest.raises(es.RunFailed):
        await handle.result()

    assert {"book": 2, "unbook": 2} == await world.completed("a")


async def test_a_compensation_may_be_a_child_run_and_knows_what_it_may_find(world: World) -> None:
    @es.workflow
    async def paying() -> None:
        async with es.saga() as saga:
            await saga.do(pay("x", 30.0), undo=unbook_child("x"))

    first = await world.engine(paying, unbook_child, lease=6)
    await first.start(paying(), id="a")
    await turns()
    kill(first)
    second = await world.engine(paying, unbook_child, lease=6)

    with pytest.raises(es.RunFailed, match="StepOutcomeUnknown"):
        await second.handle("a").result()

    assert ["child begins maybe", "unbook x"] == provider.log


async def test_a_payment_of_unknown_outcome_is_undone_as_maybe(world: World) -> None:
    """F2."""

    @es.workflow
    async def paying() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=unbook)
            await saga.do(pay("x", 30.0), undo=unbook("x"))

    first = await world.engine(paying, lease=6)
    await first.start(paying(), id="a")
    await until(lambda: bool(provider.log))
    kill(first)
    second = await world.engine(paying, lease=6)

    with pytest.raises(es.RunFailed, match="StepOutcomeUnknown"):
        await second.handle("a").result()

    assert ["book flight", "unbook x maybe", "unbook flight"] == provider.log


async def test_a_step_that_fails_after_an_attempt_was_lost_may_have_had_its_effect(world: World) -> None:
    @es.step
    async def once_lost(name: str) -> None:
        await asyncio.sleep(10)
        raise ValueError(name)

    @es.workflow
    async def paying() -> bool:
        try:
            async with es.saga() as saga:
                await saga.do(once_lost("x"), undo=unbook("x"))
        except es.StepFailed as error:
            return error.maybe
        return False

    first = await world.engine(paying, lease=6)
    await first.start(paying(), id="a")
    await turns()
    kill(first)
    second = await world.engine(paying, lease=6)

    assert await second.handle("a").result()
    assert ["unbook x maybe"] == provider.log


@pytest.mark.parametrize("how", ["result", "timeout"])
async def test_a_result_that_is_lost_leaves_an_effect(world: World, how: str) -> None:
    """H5: what the step did is done, though its result cannot be stored; a step that is late may have done it."""

    @es.step(timeout=5)
    async def lossy(name: str) -> Any:
        if how == "timeout":
            await asyncio.sleep(10)
        return object()

    @es.workflow
    async def paying() -> None:
        async with es.saga() as saga:
            await saga.do(lossy("x"), undo=unbook("x"))

    handle = await (await world.engine(paying)).start(paying(), id="a")

    with pytest.raises(es.RunFailed):
        await handle.result()

    assert ["unbook x maybe"] == provider.log


# --- stopping ---------------------------------------------------------------------------------------------------------------


def one(call: Callable[[], es.Call[str]], undo: Any) -> es.Workflow[[], None]:
    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(call(), undo=undo)

    return alone


async def cancelled(world: World, workflow: es.Workflow[[], None], *more: Any, after: float = 2.0) -> es.Handle[None]:
    engine = await world.engine(workflow, *more)
    handle = await engine.start(workflow(), id="a")
    await asyncio.sleep(after)
    assert await handle.cancel("enough")
    return handle


async def test_a_body_whose_result_the_undo_needs_comes_to_its_end(world: World) -> None:
    handle = await cancelled(world, one(lambda: book("x", 30.0), unbook))

    with pytest.raises(es.RunCancelled, match="enough"):
        await handle.result()

    assert ["book x", "unbook x"] == provider.log
    assert 30 == round(world.seconds)


async def test_a_body_whose_undo_works_without_its_result_is_cut_off(world: World) -> None:
    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(book("x", HOUR), undo=unbook("x"))

    handle = await cancelled(world, alone)

    with pytest.raises(es.RunCancelled, match="enough"):
        await handle.result()

    assert ["unbook x maybe"] == provider.log
    assert 2 == round(world.seconds)
    assert [StepOutcomeUnknown("0:1")] == await events(world, StepOutcomeUnknown)


async def test_a_body_that_ignores_being_cut_off_is_waited_for_and_then_its_outcome_is_known(world: World) -> None:
    @es.step
    async def deaf(name: str) -> str:
        try:
            await asyncio.sleep(HOUR)
        except asyncio.CancelledError:
            await asyncio.sleep(20)
        provider.did(f"book {name}")
        return name

    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(deaf("x"), undo=unbook("x"))

    handle = await cancelled(world, alone)

    with pytest.raises(es.RunCancelled):
        await handle.result()

    assert ["book x", "unbook x"] == provider.log


async def test_a_thread_is_waited_for(world: World) -> None:
    """It cannot be stopped: undone meanwhile, the refund would overtake the charge."""

    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(slow_in_a_thread("x"), undo=unbook("x"))

    engine = await world.engine(alone)
    handle = await engine.start(alone(), id="a")
    await turns()
    assert await handle.cancel("enough")
    await turns()
    assert [] == provider.log
    provider.threads.set()

    with pytest.raises(es.RunCancelled):
        await handle.result()

    assert ["book x", "unbook x"] == provider.log


@pytest.mark.parametrize("needs_result", [True, False])
async def test_a_step_that_would_be_tried_for_ever_is_not_tried_again(world: World, needs_result: bool) -> None:
    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=unbook)
            await saga.do(refused("x"), undo=unbook if needs_result else unbook("x"))

    handle = await cancelled(world, alone, after=12.0)

    with pytest.raises(es.RunCancelled):
        await handle.result()

    assert ["book flight", "try x", "try x", "try x", "unbook flight"] == provider.log
    assert 12 == round(world.seconds)
    [failed] = await events(world, StepFailed)
    assert not failed.maybe


async def test_a_step_that_is_given_up_in_the_activation_that_asks_for_it_is_not_begun(world: World) -> None:
    @es.workflow
    async def hasty() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=unbook)
            async with asyncio.TaskGroup() as group:
                group.create_task(saga.do(book("never"), undo=unbook))
                await asyncio.sleep(0)
                raise ValueError

    handle = await (await world.engine(hasty)).start(hasty(), id="a")

    with pytest.raises(es.RunFailed):
        await handle.result()

    assert ["book flight", "unbook flight"] == provider.log


async def test_a_child_is_cancelled_and_undoes_what_is_its_own(world: World) -> None:
    handle = await cancelled(world, one(lambda: book_child("x"), unbook), book_child)

    with pytest.raises(es.RunCancelled):
        await handle.result()

    assert ["book x 1", "book x 2", "unbook x 2", "unbook x 1"] == provider.log
    assert HOUR == round(world.seconds)
    assert [] == await events(world, CompensationBegan)


@pytest.mark.parametrize("needs_result", [True, False])
async def test_a_worker_that_dies_with_a_step_told_to_stop(world: World, needs_result: bool) -> None:
    """Where the result is needed, only another attempt can tell (it has the same idempotency key); else it is not repeated."""

    @es.workflow
    async def alone() -> None:
        async with es.saga() as saga:
            await saga.do(slow_in_a_thread("x"), undo=unbook if needs_result else unbook("x"))

    first = await world.engine(alone, lease=6)
    handle = await first.start(alone(), id="a")
    await turns()
    assert await handle.cancel("enough")
    await turns()
    kill(first)
    provider.threads.set()
    second = await world.engine(alone, lease=6)

    with pytest.raises(es.RunCancelled):
        await second.handle("a").result()

    undo = "unbook x" if needs_result else "unbook x maybe"
    assert undo in provider.log
    # Where it is not needed, the dead worker's thread may still do it, or not.
    assert not needs_result or ["book x", undo] == list(dict.fromkeys(provider.log))


async def test_a_run_whose_time_is_up_undoes_its_steps(world: World) -> None:
    @es.workflow(timeout=10)
    async def late() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=lambda name: unbook(name, 30.0))
            await asyncio.sleep(HOUR)

    handle = await (await world.engine(late)).start(late(), id="a")

    with pytest.raises(es.RunTimeout):
        await handle.result()

    assert ["book flight", "unbook flight"] == provider.log
    assert 40 == round(world.seconds)


async def test_a_cancel_during_the_undoing_does_not_skip_it(world: World) -> None:
    """F4."""
    engine = await world.engine(trip)
    handle = await engine.start(trip(30.0), id="a")
    await until(lambda: len(provider.log) == 2)
    await asyncio.sleep(10)
    assert await handle.cancel("enough")

    with pytest.raises(es.RunFailed, match="no car"):
        await handle.result()

    assert FORWARD + BACK == provider.log
    assert 60 == round(world.seconds)


async def test_a_run_is_parked_while_a_child_undoes(world: World) -> None:
    @es.workflow
    async def undo_slowly(name: str) -> None:
        await asyncio.sleep(HOUR)
        await unbook(name)

    @es.workflow
    async def patient() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=undo_slowly)
            await fail("now")

    engine = await world.engine(patient, undo_slowly)
    handle = await engine.start(patient(), id="a")
    await until(lambda: not is_in_memory(engine, "a"))
    assert es.Status.COMPENSATING is await handle.status()
    assert await handle.cancel("enough")
    await turns()
    assert es.Status.COMPENSATING is await handle.status()

    with pytest.raises(es.RunFailed, match="now"):
        await handle.result()
    assert ["book flight", "unbook flight"] == provider.log


# --- dead ---------------------------------------------------------------------------------------------------------------------


@es.workflow
async def handles_everything() -> str:
    try:
        await trip_inside()
    except BaseException:  # noqa: BLE001  # the strongest there is
        return "success"
    finally:
        await book("finally")
    return "done"


async def trip_inside() -> None:
    async with es.saga() as saga:
        await saga.do(book("flight"), undo=unbook)
        await saga.do(book("hotel"), undo=unbook)
        await fail("no car")


async def test_a_compensation_that_fails_for_good_ends_the_run_dead(world: World) -> None:
    """F4: after its own retries, visible, with what is left; never failed, and never a success."""
    provider.failures = 99
    engine = await world.engine(handles_everything)
    handle = await engine.start(handles_everything(), id="a")

    with pytest.raises(es.RunDead, match="a saga could not undo book: unbook failed for good") as caught:
        await handle.result()

    assert 94 == provider.failures
    assert FORWARD == provider.log
    assert isinstance(caught.value.__cause__, es.StepFailed)
    record = await world.record("a")
    assert es.Status.DEAD is record.status
    snapshot = await handle.snapshot()
    assert [("unbook", "book", "0:2"), ("unbook", "book", "0:1")] == [(u.undo, u.step, u.key) for u in snapshot.undo_left]
    assert [RunDied] == [type(each) for each in await events(world, RunDied, RunFailed, RunCancelled)]


async def test_a_parent_hears_that_its_child_could_not_undo_and_undoes_it_as_maybe(world: World) -> None:
    @es.workflow
    async def parent() -> None:
        async with es.saga() as saga:
            await saga.do(handles_everything(), undo=book("undo of the child"))

    provider.failures = 99
    engine = await world.engine(parent, handles_everything)
    handle = await engine.start(parent(), id="a")

    with pytest.raises(es.RunFailed):
        await handle.result()

    assert [*FORWARD, "book undo of the child maybe"] == provider.log


async def test_messages_do_not_keep_a_run_from_its_death(world: World) -> None:
    provider.failures = 99
    engine = await world.engine(handles_everything)
    handle = await engine.start(handles_everything(), id="a")
    await until(lambda: provider.failures < 99)
    client = await world.client()
    assert await client.handle("a").cancel("enough")

    with pytest.raises(es.RunDead):
        await handle.result()


# --- going on -----------------------------------------------------------------------------------------------------------------


async def stuck_run(world: World) -> es.Handle[str]:
    provider.failures = 5
    engine = await world.engine(handles_everything)
    handle = await engine.start(handles_everything(), id="a")
    with pytest.raises(es.RunDead):
        await handle.result()
    return handle


async def test_a_dead_run_that_is_retried_goes_on_undoing(world: World) -> None:
    handle = await stuck_run(world)

    await handle.retry("the provider is back", actor="ops")

    assert "success" == await handle.result()
    assert [*FORWARD, *(f"unbook {name}" for name in ("hotel", "flight")), "book finally"] == provider.log
    assert {"book": 3, "unbook": 2} == await world.completed("a")


@pytest.mark.parametrize("blow", [True, False])
async def test_a_person_who_has_undone_it_by_hand_says_so(world: World, blow: bool) -> None:
    handle = await stuck_run(world)
    with pytest.raises(es.IllegalState, match="has no step fail that is unfinished"):
        await handle.skip_step("fail")

    await handle.skip_step("unbook", "done on the phone", actor="ann")
    if blow:
        await turns(3)
        kill(world._engines[0])  # pyright: ignore[reportPrivateUsage]
        await world.engine(handles_everything)
        assert "success" == await (await world.client()).handle("a", handles_everything).result()
    else:
        assert "success" == await handle.result()

    assert [*FORWARD, "unbook flight", "book finally"] == provider.log


async def test_a_run_that_has_undone_what_it_did_cannot_be_retried(world: World) -> None:
    """Begun again, a step that had failed might work this time, and the code go forward over steps that are undone."""
    engine = await world.engine(trip)
    handle = await engine.start(trip(), id="a")
    with pytest.raises(es.RunFailed):
        await handle.result()

    with pytest.raises(es.IllegalState, match="have been undone"):
        await handle.retry()
    with pytest.raises(es.IllegalState, match="have been undone"):
        await handle.complete_step("fail", None)
    with pytest.raises(es.IllegalState, match="fork it before that"):
        await handle.fork()
    assert es.Status.FAILED is await handle.status()
    fork = await handle.fork(at="fail", id="b")
    with pytest.raises(es.RunFailed):
        await fork.result()
    assert FORWARD + BACK + BACK == provider.log


async def test_a_run_whose_workers_die_while_it_undoes_goes_on_undoing_when_it_is_retried(world: World) -> None:
    """Poison: the verdict comes from the store, and the code is not told."""

    @es.workflow(max_recoveries=0)
    async def fragile() -> None:
        async with es.saga() as saga:
            await saga.do(book("flight"), undo=lambda name: unbook(name, 30.0))
            await fail("now")

    first = await world.engine(fragile, lease=6)
    await first.start(fragile(), id="a")
    for _ in range(9):
        await asyncio.sleep(5)
        if (await world.record("a")).status is es.Status.DEAD:
            break
        kill(first)
        first = await world.engine(fragile, lease=6)
    assert es.Status.DEAD is (await world.record("a")).status
    assert ["book flight"] == provider.log
    handle = first.handle("a")

    await handle.retry("it has more memory now")

    with pytest.raises(es.RunFailed, match="now"):
        await handle.result()
    assert ["book flight", "unbook flight"] == provider.log


# --- everywhere -------------------------------------------------------------------------------------------------------------


@es.workflow
async def thorough(fails: bool) -> str:
    """Nested, parallel, with a child as a step and one as an undo, and retries in between."""
    try:
        async with es.saga() as outer:
            await outer.do(book("flight"), undo=unbook)
            async with es.saga() as inner:
                await inner.do(book("seat"), undo=unbook_child)
                inner.undo(unbook("by hand"))
            await asyncio.gather(outer.do(quick_child("hotel"), undo=unbook), outer.do(book("car", 2.0), undo=unbook("car")))
            if fails:
                await fail("no ferry")
    except es.StepFailed:
        await book("consolation")
        return "undone"
    return "done"


@es.workflow
async def quick_child(name: str) -> str:
    await asyncio.sleep(5)
    return await book(name)


THERE = ["book flight", "book seat", "book car", "book hotel"]
AND_BACK = ["unbook car", "unbook hotel", "unbook by hand", "child begins", "unbook seat", "unbook flight", "book consolation"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_saga_survives_every_crash(fails: bool) -> None:
    """F3, and I14 at every durable point: the same result, each step completed once, undone in the same order."""

    def check(effects: Effects) -> None:
        done = list(dict.fromkeys(provider.log))
        assert (THERE + AND_BACK if fails else THERE) == done
        assert ("undone" if fails else "done") == effects.result
        assert (5 if fails else 0) == effects.completed.get("unbook", 0)

    report = crash_everywhere(
        thorough(fails),
        workflows=[quick_child, unbook_child],
        check=check,
        prepare=provider.__init__,  # type: ignore[misc]
    )

    assert report.points > (20 if fails else 10)


def prepare_for_death() -> None:
    provider.__init__()  # type: ignore[misc]
    provider.failures = 10**6


def test_a_saga_that_cannot_undo_is_dead_wherever_it_crashed() -> None:
    def check(effects: Effects) -> None:
        assert FORWARD == list(dict.fromkeys(provider.log))
        assert 0 == effects.completed.get("unbook", 0)

    crash_everywhere(handles_everything(), check=check, prepare=prepare_for_death)


async def test_ten_steps_undone_cost_no_more_commits_than_ten_steps_done(world: World) -> None:
    """The bar is twice."""

    @es.workflow
    async def ten(fails: bool) -> None:
        async with es.saga() as saga:
            for number in range(10):
                await saga.do(book(f"{number}"), undo=unbook)
            if fails:
                await fail("now")

    engine = await world.engine(ten)
    await (await engine.start(ten(False), id="forward")).result()
    forward = len(await world.entries("forward"))
    with pytest.raises(es.RunFailed):
        await (await engine.start(ten(True), id="a")).result()
    entries = await world.entries("a")

    scheduled = [event for event in await events(world, StepScheduled) if event.undoes is not None]
    assert 10 == len(scheduled)
    assert 11 == forward
    assert forward + 1 + 10 == len(entries)
