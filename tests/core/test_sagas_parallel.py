"""Sagas with branches, and sagas in sagas: whose undo it is, and when its turn comes (I14)."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

import everstep as es
from everstep.events import (
    ChildFailed,
    CompensationBegan,
    CompensationEnded,
    RunFailed,
    RunSucceeded,
    StepCompleted,
    StepOutcomeUnknown,
    StepScheduled,
    StopRequested,
)
from everstep.records import ErrorRecord
from tests.core.driver import Run, drive
from tests.core.sagas import book, book_by_child, events, fail, failed, tidy, unbook, undone

# --- parallel branches ---------------------------------------------------------------------------------------------


@es.workflow
async def together(way: str) -> None:
    async with es.saga() as saga:
        branches = [
            saga.do(book("a"), undo=unbook),
            saga.do(book("b"), undo=unbook("b")),
            saga.do(book_by_child("c"), undo=unbook),
            fail("d"),
        ]
        if way == "gather":
            await asyncio.gather(*branches)
        else:
            async with asyncio.TaskGroup() as group:
                for branch in branches:
                    group.create_task(branch)


@pytest.mark.parametrize("way", ["gather", "group"])
def test_branches_that_are_still_at_work_are_told_to_stop_and_waited_for(way: str) -> None:
    """Undone at once, the refund could overtake the charge."""
    run = Run(together(way))
    run.begin()
    commands = run.feed(run.done("fail"))
    a, b, c = run.open

    assert {a: False, b: True, c: False} == {each.key: each.cut_off for each in commands if isinstance(each, StopRequested)}
    assert [] == run.feed(run.answer(a))
    assert [] == run.feed(StepOutcomeUnknown(b))
    run.feed(run.answer(c))
    run.finish().check_replays()

    assert ["ticket c", "b", "ticket a"] == undone(run)
    assert [False, True, False] == [each.maybe for each in events(run, StepScheduled) if each.undoes is not None]


def test_a_branch_that_did_nothing_after_all_has_nothing_to_undo() -> None:
    run = Run(together("group"))
    run.begin()
    run.feed(run.done("fail"))
    a, b, c = run.open
    run.feed(failed(a), failed(b), ChildFailed(c, "cancelled", ErrorRecord("everstep.errors.RunCancelled", "")))
    run.check_replays()

    assert [] == undone(run)
    assert [] == events(run, CompensationBegan)
    assert isinstance(run.ending, RunFailed)


@es.workflow
async def impatient() -> str:
    async with es.saga() as saga:
        try:
            async with es.saga() as attempt:
                return await asyncio.wait_for(attempt.do(book("slow"), undo=unbook), 5)
        except TimeoutError:
            return await saga.do(book("fast"), undo=unbook)


def test_a_step_that_takes_too_long_is_undone_when_its_own_saga_is_left() -> None:
    run = Run(impatient())
    run.begin()
    run.feed(run.fired())
    assert [] == undone(run)
    run.feed(run.done("book"))

    assert ["ticket slow"] == undone(run)
    run.finish().check_replays()
    assert "ticket fast" == run.result
    assert ["ticket slow"] == undone(run)


def test_a_result_that_came_too_late_is_still_undone() -> None:
    """The code was cancelled in the very activation in which the result came, but the step has happened."""
    run = Run(together("group"))
    run.begin()
    a, b, c, d = run.open
    run.feed(run.answer(a), run.answer(d), StepCompleted(b, Raw(b'"ticket b"')))
    run.feed(run.answer(c))
    run.finish().check_replays()

    assert ["ticket c", "b", "ticket a"] == undone(run)


# --- sagas in sagas ------------------------------------------------------------------------------------------------


@es.workflow
async def nested(inner_fails: bool, outer_fails: bool) -> str:
    async with es.saga() as outer:
        await outer.do(book("outer 1"), undo=unbook)
        try:
            async with es.saga() as inner:
                await inner.do(book("inner 1"), undo=unbook)
                await outer.do(book("outer 2"), undo=unbook)
                await inner.do(book("inner 2"), undo=unbook)
                if inner_fails:
                    await fail("inner")
        except es.StepFailed:
            await tidy("caught")
        await outer.do(book("outer 3"), undo=unbook)
        if outer_fails:
            await fail("outer")
    return "done"


def test_a_saga_that_worked_out_is_undone_by_the_one_around_it_in_the_order_of_asking() -> None:
    run = drive(nested(inner_fails=False, outer_fails=True))

    assert [f"ticket {name}" for name in ("outer 3", "inner 2", "outer 2", "inner 1", "outer 1")] == undone(run)
    assert 1 == len(events(run, CompensationBegan))


def test_a_saga_that_failed_undoes_its_own_and_is_done_with_it() -> None:
    run = drive(nested(inner_fails=True, outer_fails=False))

    assert "done" == run.result
    assert ["ticket inner 2", "ticket inner 1"] == undone(run)


def test_what_an_inner_saga_has_undone_is_not_undone_again() -> None:
    run = drive(nested(inner_fails=True, outer_fails=True))

    assert [f"ticket {name}" for name in ("inner 2", "inner 1", "outer 3", "outer 2", "outer 1")] == undone(run)


@es.workflow
async def branching(then: str) -> None:
    async def branch() -> None:
        async with es.saga() as inner:
            await inner.do(book("inner 1"), undo=unbook)
            await (fail("inner") if then == "both fail" else asyncio.sleep(10))
            await inner.do(book("inner 2"), undo=unbook)

    async with es.saga() as outer:
        await outer.do(book("outer"), undo=unbook)
        task = asyncio.create_task(branch())
        await tidy("meanwhile")
        if then != "outer works out":
            await fail("outer")
    await asyncio.wait([task])


def test_an_inner_saga_in_another_task_is_taken_over_when_the_outer_one_fails() -> None:
    """It could not be undone later: what it did came after what the outer one did."""
    run = Run(branching("outer fails"))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("book"), run.done("tidy"))
    run.feed(run.done("fail"))
    assert ["ticket inner 1"] == undone(run)
    run.finish().check_replays()

    assert ["ticket inner 1", "ticket outer"] == undone(run)
    assert isinstance(run.ending, RunFailed)


def test_an_outer_saga_waits_for_an_inner_one_that_undoes_already() -> None:
    run = Run(branching("both fail"))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("book"), run.done("tidy"))
    inner, outer = [key for key in run.open if run.open[key].definition.name == "fail"]
    run.feed(run.answer(outer))
    assert ["ticket inner 1"] == undone(run), "the outer one has failed, and so takes over what the inner one did"
    run.feed(run.answer(inner))
    run.finish().check_replays()

    assert ["ticket inner 1", "ticket outer"] == undone(run)


def test_the_same_when_the_inner_one_fails_first() -> None:
    run = Run(branching("both fail"))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("book"), run.done("tidy"))
    inner, outer = [key for key in run.open if run.open[key].definition.name == "fail"]
    run.feed(run.answer(inner))
    assert ["ticket inner 1"] == undone(run)
    run.feed(run.answer(outer))
    assert ["ticket inner 1"] == undone(run), "not before the inner one is through"
    run.finish().check_replays()

    assert ["ticket inner 1", "ticket outer"] == undone(run)


def test_an_inner_saga_outlives_an_outer_one_that_worked_out() -> None:
    run = drive(branching("outer works out"))

    assert [] == undone(run)
    assert isinstance(run.ending, RunSucceeded)


@es.workflow
async def stray(main_fails: bool) -> str:
    async def branch() -> None:
        async with es.saga() as saga:
            await saga.do(book("stray"), undo=unbook)
            await asyncio.sleep(1e6)

    asyncio.create_task(branch())  # noqa: RUF006  # the loop keeps it
    await tidy("a")
    await tidy("b")
    if main_fails:
        await fail("main")
    return "done"


@pytest.mark.parametrize("main_fails", [False, True])
def test_a_run_does_not_end_while_a_saga_is_open_in_a_task_of_its_own(main_fails: bool) -> None:
    """I14: the task is cancelled first, as asyncio does when a program ends."""
    run = drive(stray(main_fails))

    assert ["ticket stray"] == undone(run)
    assert (RunFailed if main_fails else RunSucceeded) is type(run.ending)
    [ended] = [n for n, entry in enumerate(run.entries) if any(isinstance(e, CompensationEnded) for e in entry.decoded())]
    assert len(run.entries) - 1 == ended


@es.workflow
async def never_left() -> str:
    saga = await es.saga().__aenter__()
    await saga.do(book("a"), undo=unbook)

    async def branch() -> None:
        await es.saga().__aenter__()

    await asyncio.create_task(branch())
    return "done"


def test_a_saga_that_nobody_can_leave_any_more_does_not_keep_the_run() -> None:
    assert "done" == drive(never_left()).result


@es.workflow
async def left_behind() -> None:
    async def late_branch(saga: es.Saga, way: str) -> None:
        await asyncio.sleep(10)
        if way == "do":
            await saga.do(book("too late"), undo=unbook)
        async with es.saga() as inner:
            await inner.do(book("too late"), undo=unbook)

    async with es.saga() as saga:
        await saga.do(book("a"), undo=lambda _: slow_unbook("a"))
        await asyncio.gather(late_branch(saga, "do"), late_branch(saga, "begin"), fail("now"))


@es.workflow
async def slow_unbook(ticket: str) -> None:
    await asyncio.sleep(100)
    await unbook(ticket)


def test_a_branch_that_a_failed_saga_has_left_behind_begins_nothing_more() -> None:
    """``gather`` leaves its other members running: what they did now would not be undone."""
    run = Run(left_behind(), answers={"slow_unbook": None})
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("fail"))
    run.feed(run.fired())
    run.feed(run.fired())
    run.finish().check_replays()

    assert ["a"] == [each.args and "a" for each in events(run, StepScheduled) if each.step == "book"]
    assert ["a"] == undone(run)
