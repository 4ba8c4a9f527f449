"""A cancel is delivered at the next await, throws no result away, and is never lost, whatever it is batched with."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import everstep as es
from everstep.events import (
    CancelRequested,
    ChildCancelled,
    DeadlinePassed,
    Input,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StepCancelled,
    StepScheduled,
    TimerCancelled,
)
from tests.core.driver import Run, commands_of
from tests.core.steps import add, charge, child, decline, note

CANCEL = CancelRequested("enough", "ops")


def names(run: Run) -> list[str]:
    """Names of the steps that were asked for."""
    return [c.step for entry in run.entries for c in commands_of(entry) if isinstance(c, StepScheduled)]


def test_a_cancel_ends_the_run_as_cancelled_with_its_reason() -> None:
    @es.workflow
    async def waits() -> None:
        await asyncio.gather(note("a"), child("42"), asyncio.sleep(60))

    run = Run(waits())
    run.begin()
    commands = run.feed(CANCEL)

    assert [StepCancelled, ChildCancelled, TimerCancelled] == [type(command) for command in commands]
    assert RunCancelled("enough") == run.check_replays().ending


def test_a_cancel_before_the_code_began_means_that_it_never_does() -> None:
    @es.workflow
    async def untouched() -> str:
        return await note("a")

    run = Run(untouched())
    commands = run.begin(CANCEL)

    assert [] == commands
    assert RunCancelled("enough") == run.check_replays().ending


async def _directly() -> str:
    return await charge("42", 1)


async def _as_task() -> str:
    return await asyncio.create_task(_directly())


async def _as_nested_task() -> str:
    return await asyncio.create_task(_as_task())


async def _gathered() -> str:
    (receipt,) = await asyncio.gather(charge("42", 1), return_exceptions=True)
    return str(receipt)


async def _waited_for() -> str:
    return await asyncio.wait_for(charge("42", 1), 60)


async def _in_time() -> str:
    async with asyncio.timeout(60):
        return await charge("42", 1)


async def _in_group() -> str:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(charge("42", 1))
    return task.result()


async def _shielded() -> str:
    return await asyncio.shield(charge("42", 1))


async def _completed() -> str:
    (receipt,) = [await each for each in asyncio.as_completed([charge("42", 1)])]
    return receipt


WAYS = [_directly, _as_task, _as_nested_task, _gathered, _waited_for, _in_time, _in_group, _shielded, _completed]


@pytest.mark.parametrize("cancel_first", [False, True], ids=["result, cancel", "cancel, result"])
@pytest.mark.parametrize("way", WAYS)
def test_a_cancel_that_comes_with_a_result_waits_for_the_next_await(way: Callable[[], Any], *, cancel_first: bool) -> None:
    """The charge happened: its receipt must reach the code. And the cancel must not be lost in wait_for or gather."""

    @es.workflow
    async def checkout() -> list[str]:
        log = [await way()]
        try:
            await asyncio.sleep(0)
            await note("not reached, or cancelled at once")
        except asyncio.CancelledError:
            log.append("cancelled")
        return log

    run = Run(checkout())
    run.begin()
    inputs: list[Input] = [run.done("charge"), CANCEL]
    run.feed(*(reversed(inputs) if cancel_first else inputs))

    assert ["receipt 42 1", "cancelled"] == run.check_replays().result
    assert not run.open


def test_a_cancel_that_comes_with_a_failure_is_not_lost_in_gather() -> None:
    """gather raises the failure; under asyncio the cancel would have been swallowed with it."""

    @es.workflow
    async def checkout() -> str:
        try:
            await asyncio.gather(decline("no"), note("slow"))
        except es.StepFailed:
            await note("undo")
        return "done"

    run = Run(checkout())
    run.begin()
    run.feed(run.done("decline"), CANCEL)

    assert RunCancelled("enough") == run.check_replays().ending
    assert ["decline", "note", "note"] == names(run)


def test_a_run_that_finishes_in_the_activation_of_its_cancel_has_finished() -> None:
    """As if the cancel had come a moment later."""

    @es.workflow
    async def short() -> str:
        return await note("done")

    run = Run(short())
    run.begin()
    run.feed(CANCEL, run.done("note"))

    assert "done" == run.check_replays().result


def test_code_may_swallow_a_cancel_and_run_cleanup_steps() -> None:
    @es.workflow
    async def tidy() -> str:
        try:
            await note("work")
        except asyncio.CancelledError:
            return await charge("refund", 1) + await note(" and tell")
        return "?"

    run = Run(tidy())
    run.begin()
    run.feed(CANCEL)

    assert "receipt refund 1 and tell" == run.finish().check_replays().result


def test_cleanup_in_a_finally_runs_and_the_run_is_cancelled() -> None:
    @es.workflow
    async def tidy() -> str:
        try:
            return await note("work")
        finally:
            await charge("refund", 1)

    run = Run(tidy())
    run.begin()
    run.feed(CANCEL)
    run.finish().check_replays()

    assert RunCancelled("enough") == run.ending
    assert ["note", "charge"] == names(run)


def test_cleanup_under_a_timeout_is_not_cancelled_twice() -> None:
    """The timeout's own cancel lost its race and was taken back; the run's cancel had been delivered long before."""

    @es.workflow
    async def tidy() -> str:
        try:
            await note("work")
        except asyncio.CancelledError:
            async with asyncio.timeout(5):
                refund = await charge("refund", 1)
            return refund + await note(" and tell")
        return "?"

    run = Run(tidy())
    run.begin()
    run.feed(CANCEL)
    timer, refund = run.fired(), run.done("charge")
    run.feed(timer, refund)

    assert "receipt refund 1 and tell" == run.finish().check_replays().result


def test_a_cancel_and_a_timeout_in_one_activation_are_one_cancellation() -> None:
    """The second request finds the await cancelled already, and must not hit the cleanup."""

    @es.workflow
    async def tidy() -> str:
        try:
            async with asyncio.timeout(5):
                await note("work")
        except (asyncio.CancelledError, TimeoutError) as error:
            return type(error).__name__ + await note(" and tell")
        return "?"

    for order in (1, -1):
        run = Run(tidy())
        run.begin()
        run.feed(*(run.fired(), CANCEL)[::order])
        run.finish().check_replays()

        assert RunCancelled("enough") == run.ending, "the timeout was handled first; the cancel came during the cleanup"


def test_two_cancels_by_code_at_once_are_one() -> None:
    @es.workflow
    async def twice() -> str:
        async def work() -> str:
            try:
                await note("work")
            except asyncio.CancelledError:
                return await charge("refund", 1)
            return "?"

        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel()
        task.cancel()
        return await task

    run = Run(twice())
    run.begin()
    run.feed(run.fired())

    assert "receipt refund 1" == run.finish().check_replays().result


@pytest.mark.parametrize("timer_first", [True, False])
@pytest.mark.parametrize("way", [way for way in WAYS if way not in (_shielded, _completed, _in_group)])
def test_a_timeout_that_comes_with_the_result_gives_the_result(way: Callable[[], Any], *, timer_first: bool) -> None:
    """In both orders: which of the two was a microsecond earlier decides about no charge."""

    @es.workflow
    async def bounded() -> list[str]:
        log: list[str] = []
        try:
            async with asyncio.timeout(5):
                log.append(await way())
        except TimeoutError:
            log.append("late")
        log.append(await note("goes on"))
        return log

    run = Run(bounded())
    run.begin()
    timer = run.fired(run.timers[0])
    result = run.done("charge")
    run.feed(*([timer, result] if timer_first else [result, timer]))

    assert ["receipt 42 1", "goes on"] == run.finish().check_replays().result


def test_a_cancel_passed_on_to_a_task_that_ends_is_still_owed_to_who_waited_for_it() -> None:
    """The inner task gets its result and ends without another await; the outer one must stop all the same."""

    @es.workflow
    async def nested() -> list[str]:
        log: list[str] = []

        async def outer() -> None:
            log.append(await asyncio.create_task(_directly()))
            try:
                await asyncio.sleep(86_400)
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        async def canceller(task: asyncio.Task[None]) -> None:
            await asyncio.sleep(5)
            task.cancel()

        task = asyncio.create_task(outer())
        await canceller(task)
        await asyncio.wait([task])
        return log

    run = Run(nested())
    run.begin()
    timer = run.fired()
    run.feed(timer, run.done("charge"))

    assert ["receipt 42 1", "cancelled"] == run.check_replays().result


def test_a_task_that_swallows_a_cancel_passed_on_to_it_shields_who_waits_for_it() -> None:
    """As under asyncio."""

    @es.workflow
    async def nested() -> str:
        async def stubborn() -> str:
            try:
                return await note("work")
            except asyncio.CancelledError:
                return "kept"

        async def outer() -> str:
            return await asyncio.create_task(stubborn()) + await note(" on")

        task = asyncio.create_task(outer())
        await asyncio.sleep(5)
        task.cancel()
        return await task

    run = Run(nested())
    run.begin()
    run.feed(run.fired())

    assert "kept on" == run.finish().check_replays().result


def test_a_cancelled_member_of_gather() -> None:
    @es.workflow
    async def many() -> list[str]:
        task = asyncio.create_task(_directly())
        both = asyncio.gather(task, note("kept"), return_exceptions=True)
        await asyncio.sleep(5)
        task.cancel()
        return [type(result).__name__ for result in await both]

    run = Run(many())
    run.begin()
    run.feed(run.fired())

    assert ["CancelledError", "str"] == run.finish().check_replays().result


def test_a_group_whose_last_member_fails_does_not_cancel_what_follows() -> None:
    """The group cancels its parent to wake it; that cancel belongs to the group alone."""

    @es.workflow
    async def group() -> str:
        failed = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(decline("no"))
        except* es.StepFailed as error:
            failed = str(error.exceptions[0].__cause__)
        return failed + await note(" undone") + await note(" twice")

    run = Run(group()).finish().check_replays()

    assert "no undone twice" == run.result


def test_a_member_awaited_within_its_group_fails_once() -> None:
    @es.workflow
    async def group() -> list[str]:
        failed: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                await tasks.create_task(decline("no"))
        except* es.StepFailed as error:
            failed.extend(str(each.__cause__) for each in error.exceptions)
        return failed

    assert ["no"] == Run(group()).finish().check_replays().result


def test_a_cancel_reaches_every_member_of_a_group() -> None:
    @es.workflow
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(note("a"))
            tasks.create_task(asyncio.sleep(60))
            await child("42")

    run = Run(group())
    run.begin()
    commands = run.feed(CANCEL)

    assert {StepCancelled, TimerCancelled, ChildCancelled} == {type(command) for command in commands}
    assert RunCancelled("enough") == run.check_replays().ending


def test_shield_keeps_a_step_through_a_cancel_of_the_run() -> None:
    @es.workflow
    async def careful() -> str:
        inner = asyncio.create_task(_directly())
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            await note(await inner)
            raise

    run = Run(careful())
    run.begin()
    commands = run.feed(CANCEL)
    run.finish().check_replays()

    assert [] == commands
    assert RunCancelled("enough") == run.ending
    assert ["charge", "note"] == names(run)


def test_a_result_that_arrives_after_its_cancellation_is_history() -> None:
    @es.workflow
    async def race() -> str:
        try:
            async with asyncio.timeout(5):
                return await note("late")
        except TimeoutError:
            return await charge("42", 1)

    run = Run(race())
    run.begin()
    late = run.done("note")
    run.feed(run.fired())
    run.feed(late)

    assert "receipt 42 1" == run.finish().check_replays().result


def test_the_deadline_of_a_run_fails_it() -> None:
    @es.workflow(timeout=60)
    async def slow() -> str:
        return await note("slow")

    run = Run(slow())
    run.begin()
    run.feed(DeadlinePassed())

    assert isinstance(run.ending, RunFailed)
    assert "everstep.errors.RunTimeout" == run.ending.error.type
    run.check_replays()


def test_a_cancelled_error_that_nobody_asked_for_is_a_failure() -> None:
    @es.workflow
    async def odd() -> str:
        raise asyncio.CancelledError

    run = Run(odd()).finish()

    assert isinstance(run.ending, RunFailed)


def test_a_second_cancel_changes_nothing() -> None:
    """Cleanup that has begun is not interrupted."""

    @es.workflow
    async def tidy() -> int:
        try:
            await note("work")
        except asyncio.CancelledError:
            return await add(1)
        return 0

    run = Run(tidy())
    run.begin()
    run.feed(CANCEL)
    run.feed(CancelRequested("again"))

    assert 2 == run.finish().check_replays().result


def test_every_place_of_a_cancel_in_every_batch_is_seen_by_the_code() -> None:
    """Exhaustive over one workflow: wherever the cancel comes, the run ends cancelled or had nothing left to do."""

    @es.workflow
    async def checkout() -> str:
        async with asyncio.timeout(60):
            receipt = await charge("42", 1)
        first, second = await asyncio.gather(note(receipt), _as_task())
        await asyncio.sleep(1)
        return first + second

    for cancel_at, position in itertools.product(range(3), range(3)):
        run = Run(checkout())
        run.begin()
        for number in itertools.count():
            if run.ending is not None:
                break
            inputs: list[Input] = [run.answer(key) for key in run.open] or [run.fired()]
            if number == cancel_at:
                inputs.insert(position, CANCEL)
            run.feed(*inputs)

        # With the last timer the run has nothing left to await.
        assert (RunCancelled if cancel_at < 2 else RunSucceeded) is type(run.ending), (cancel_at, position)
        run.check_replays()


# A group that fails while a cancel arrives: until Python 3.13 asyncio forgets the cancel.


async def clean_up(*, fails: bool) -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        await note("cleaned up")
        if fails:
            raise ValueError("the clean-up failed")


@es.workflow
async def waits_for_its_members() -> None:
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(decline("no"))
            group.create_task(clean_up(fails=False))
    await asyncio.sleep(0)
    await note("not reached")


@es.workflow
async def fails_while_it_cleans_up() -> None:
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(clean_up(fails=True))
            await asyncio.sleep(1000)
    await note("not reached")


@es.workflow
async def is_a_task_of_its_own() -> None:
    await asyncio.create_task(waits_for_its_members.function())


@pytest.mark.parametrize("workflow", [waits_for_its_members, is_a_task_of_its_own])
def test_a_cancel_is_not_lost_in_a_group_that_waits_for_its_members_to_clean_up(workflow: es.Workflow[[], None]) -> None:
    run = Run(workflow())
    run.begin()
    run.feed(run.done("decline"))
    run.feed(CANCEL)
    run.feed(run.done("note"))

    assert RunCancelled("enough") == run.check_replays().ending


def test_a_cancel_is_not_lost_in_a_group_whose_members_fail_while_they_clean_up() -> None:
    run = Run(fails_while_it_cleans_up())
    run.begin()
    run.feed(CANCEL)
    run.feed(run.done("note"))

    assert RunCancelled("enough") == run.check_replays().ending


def test_a_timeout_that_came_while_a_group_failed_is_taken_back() -> None:
    """It is over with its block: nothing is owed to what comes after."""

    @es.workflow
    async def late() -> str:
        with suppress(ExceptionGroup, TimeoutError):
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(decline("no"))
                group.create_task(clean_up(fails=False))
        return await note("reached")

    run = Run(late())
    run.begin()
    run.feed(run.done("decline"))
    run.feed(run.fired())
    run.feed(run.done("note"))
    run.finish()

    assert isinstance(run.check_replays().ending, RunSucceeded)
