"""Cancels, time limits, other code and eviction in the middle of a saga: nothing is skipped and nothing is lost (I14, F4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import everstep as es
from everstep.events import (
    CancelRequested,
    CompensationBegan,
    CompensationEnded,
    DeadlinePassed,
    RunCancelled,
    RunFailed,
    StepOutcomeUnknown,
    StepScheduled,
    StopRequested,
)
from tests.core.driver import Run, drive, replayed
from tests.core.sagas import book, bookings, events, fail, tidy, unbook, undone

# --- cancels -------------------------------------------------------------------------------------------------------


@es.workflow
async def careful() -> str:
    try:
        async with es.saga() as saga:
            await saga.do(book("a"), undo=unbook)
            await saga.do(book("b"), undo=unbook("b"))
            await asyncio.sleep(1000)
    except asyncio.CancelledError:
        return await tidy("swallowed")
    except es.StepFailed:
        await tidy("goes on")
    return "not cancelled"


def test_a_cancel_waits_for_the_step_that_is_at_work_and_undoes_it_too() -> None:
    run = Run(careful())
    run.begin()
    commands = run.feed(CancelRequested("enough"))
    assert [StopRequested("0:1")] == commands
    run.feed(run.done("book"))
    run.finish().check_replays()

    assert ["ticket a"] == undone(run)
    assert "swallowed" == run.result


def test_a_step_whose_undo_needs_no_result_is_cut_off_by_a_cancel() -> None:
    run = Run(careful())
    run.begin()
    run.feed(run.done("book"))
    assert [StopRequested("0:2", cut_off=True)] == run.feed(CancelRequested("enough"))
    run.feed(StepOutcomeUnknown("0:2"))
    run.finish().check_replays()

    assert ["b", "ticket a"] == undone(run)


@pytest.mark.parametrize("when", ["with the result", "before it", "after it"])
def test_a_cancel_and_a_result_that_meet_lose_neither(when: str) -> None:
    run = Run(careful())
    run.begin()
    result, cancel = run.done("book"), CancelRequested("enough")
    match when:
        case "with the result":
            run.feed(result, cancel)
        case "before it":
            run.feed(cancel, result)
        case _:
            run.feed(result)
            run.feed(cancel)
    run.finish().check_replays()

    assert ["b", "ticket a"] == undone(run)


@es.workflow
async def half_way() -> str:
    try:
        async with es.saga() as saga:
            await saga.do(book("a"), undo=unbook)
            await saga.do(book("b"), undo=unbook)
            await fail("now")
    except es.StepFailed:
        try:
            await tidy("next await")
        except asyncio.CancelledError:
            return await tidy("swallowed")
    return "not cancelled"


@pytest.mark.parametrize("stop", [CancelRequested("enough"), DeadlinePassed()])
@pytest.mark.parametrize("step", [3, 4])
def test_a_cancel_during_the_undoing_does_not_skip_it_and_comes_at_the_next_await(stop: Any, step: int) -> None:
    """F4."""
    run = Run(half_way())
    run.begin()
    for number in range(1, 5):
        run.feed(*run.next_inputs(), *([stop] if number == step else []))
    run.finish().check_replays()

    assert ["ticket b", "ticket a"] == undone(run)
    assert "swallowed" == run.result
    assert [] == events(run, StopRequested)


def test_a_cancel_during_the_undoing_of_a_run_that_fails_changes_nothing() -> None:
    run = Run(bookings(2, 3))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("book"))
    run = Run(bookings(2, 2))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("fail"))
    run.feed(CancelRequested("enough"))
    run.finish().check_replays()

    assert ["ticket 1"] == undone(run)
    assert isinstance(run.ending, RunFailed)


def test_a_run_that_is_cancelled_in_its_saga_ends_as_cancelled_after_the_undoing() -> None:
    run = Run(bookings(2, 0))
    run.begin()
    run.feed(run.done("book"))
    run.feed(CancelRequested("enough"))
    run.feed(run.done("book"))
    run.finish().check_replays()

    assert ["ticket 2", "ticket 1"] == undone(run)
    assert RunCancelled("enough") == run.ending


def test_a_run_whose_time_is_up_in_its_saga_fails_after_the_undoing() -> None:
    run = Run(bookings(2, 0))
    run.begin()
    run.feed(run.done("book"))
    run.feed(DeadlinePassed())
    run.feed(run.done("book"))
    run.finish().check_replays()

    assert ["ticket 2", "ticket 1"] == undone(run)
    assert isinstance(run.ending, RunFailed)
    assert "everstep.errors.RunTimeout" == run.ending.error.type


@es.workflow
async def timed(seconds: float) -> str:
    log: list[str] = []
    try:
        async with asyncio.timeout(seconds):
            try:
                async with es.saga() as saga:
                    await saga.do(book("a"), undo=unbook)
                    await fail("now")
            except es.StepFailed:
                log.append("failed")
                await asyncio.sleep(1)
                log.append("slept")
    except TimeoutError:
        log.append("timed out")
    return " ".join([*log, await tidy("after")])


def test_a_timeout_during_the_undoing_strikes_after_it() -> None:
    run = Run(timed(5))
    run.begin()
    run.feed(run.done("book"))
    run.feed(run.done("fail"))
    run.feed(run.fired())
    assert ["unbook"] == [each.definition.name for each in run.open.values()]
    run.finish().check_replays()

    assert "failed timed out after" == run.result
    assert ["ticket a"] == undone(run)


@es.workflow
async def told_itself() -> str:
    try:
        async with es.saga() as saga:
            await saga.do(book("a"), undo=unbook)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            raise ValueError
    except ValueError:
        try:
            await tidy("next await")
        except asyncio.CancelledError:
            return "cancelled afterwards"
    return "lost"


def test_a_cancel_that_code_gave_itself_before_the_undoing_comes_after_it() -> None:
    run = drive(told_itself())

    assert "cancelled afterwards" == run.result
    assert ["ticket a"] == undone(run)


@es.workflow
async def grouped() -> list[str]:
    log: list[str] = []

    async def branch(name: str, *, fails: bool) -> None:
        async with es.saga() as saga:
            await saga.do(book(name), undo=unbook)
            await (fail(name) if fails else asyncio.sleep(1000))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a", fails=True))
            group.create_task(branch("b", fails=False))
    except* es.StepFailed as group_error:
        log += [type(error).__name__ for error in group_error.exceptions]
    return log


def test_each_member_of_a_group_undoes_its_own() -> None:
    run = drive(grouped())

    assert ["StepFailed"] == run.result
    assert ["ticket a", "ticket b"] == sorted(undone(run))
    assert 2 == len(events(run, CompensationBegan)) == len(events(run, CompensationEnded))


def test_a_cancel_that_reaches_a_group_whose_members_undo_waits_for_them() -> None:
    run = Run(grouped())
    run.begin()
    run.feed(*(run.answer(key) for key in list(run.open)))
    run.feed(run.done("fail"))
    assert ["unbook"] == [each.definition.name for each in run.open.values()], "the group learns of it when that is done"
    run.feed(CancelRequested("enough"))
    assert ["unbook", "unbook"] == [each.definition.name for each in run.open.values()]
    run.finish().check_replays()

    assert ["ticket a", "ticket b"] == sorted(undone(run))


# --- leaving memory, other code ------------------------------------------------------------------------------------


def test_a_run_that_leaves_memory_undoes_nothing() -> None:
    run = Run(bookings(3, 0))
    run.begin()
    run.feed(run.done("book"))
    issued = list(run.execution.program.issued)

    run.evict()

    assert ["book"] == [each.step for each in issued if isinstance(each, StepScheduled)]
    assert issued == run.execution.program.issued


def test_code_that_no_longer_matches_undoes_nothing() -> None:
    run = Run(bookings(3, 3))
    run.finish()
    other: es.Workflow[..., None] = es.Workflow(_other_bookings, name="bookings")

    with pytest.raises(es.NondeterminismError, match="unbook"):
        replayed(other, run.entries)


async def _other_bookings(count: int, fail_at: int) -> None:
    async with es.saga() as saga:
        await saga.do(book("1"), undo=unbook)
        await saga.do(book("2"), undo=lambda _: unbook("another"))
        await fail(f"at {fail_at}")


def test_a_takeover_goes_on_undoing() -> None:
    run = Run(bookings(4, 4))
    run.begin()
    for number in range(7):
        run.feed(*run.next_inputs())
        if number > 2:
            run.claim_after_death()
    run.finish().check_replays()

    assert ["ticket 3", "ticket 2", "ticket 1"] == undone(run)


@es.workflow
async def generated() -> str:
    async def tickets() -> AsyncIterator[str]:
        async with es.saga() as saga:
            yield await saga.do(book("a"), undo=unbook)
            yield await saga.do(book("b"), undo=unbook)

    async for ticket in tickets():
        return ticket
    return ""


def test_a_generator_that_is_dropped_in_its_saga_leaves_it() -> None:
    assert "ticket a" == drive(generated()).result
