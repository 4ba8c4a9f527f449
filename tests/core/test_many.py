"""``es.map`` and ``es.gather``: results in order, a bound on what is under way, and nothing left behind after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import everstep as es
from everstep.events import CancelRequested, ChildStarted, RunCancelled, RunFailed, StepCancelled, StepScheduled
from tests.core.driver import Run, chooser, commands_of, drive
from tests.core.steps import add, charge, child, decline, note, ship


def scheduled(run: Run) -> list[StepScheduled]:
    return [c for entry in run.entries for c in commands_of(entry) if isinstance(c, StepScheduled)]


@es.workflow
async def double_all(numbers: list[int], limit: int | None) -> list[int]:
    return await es.map(lambda n: add(n, n), numbers, limit=limit)


@pytest.mark.parametrize("limit", [None, 1, 2, 7, 100])
@pytest.mark.parametrize("choices", [[], [5, 2, 1, 0, 3], [0, 6, 1, 5, 2, 4, 1, 3]])
def test_results_come_in_the_order_of_the_items(limit: int | None, choices: list[int]) -> None:
    """Whatever order they finish in."""
    run = drive(double_all(list(range(7)), limit), choose=chooser(choices))

    assert [2 * n for n in range(7)] == run.result


def test_no_more_are_under_way_than_the_limit() -> None:
    run = Run(double_all(list(range(10)), 3))
    run.begin()
    most = len(run.open)
    while run.ending is None:
        run.feed(run.answer(list(run.open)[-1]))
        most = max(most, len(run.open))

    assert 3 == most
    assert 10 == len(scheduled(run))


def test_an_item_is_named_by_its_place_whatever_finished_first() -> None:
    """Its name is its idempotency key, and what a later attempt at the run finds its result by."""
    first = drive(double_all(list(range(6)), 2), choose=chooser([0]))
    other = drive(double_all(list(range(6)), 2), choose=chooser([0, 1] * 9))

    expected = [f"0.{n + 1}:1" for n in range(6)]
    assert expected == [event.key for event in scheduled(first)]
    assert {event.key: event.digest for event in scheduled(first)} == {event.key: event.digest for event in scheduled(other)}


def test_ten_thousand_items_cost_as_many_entries_and_commands() -> None:
    """Linear: the first and the last cost the same. The answers come one at a time, which makes the most entries."""
    count = 10_000
    run = Run(double_all(list(range(count)), 10))
    run.begin()
    while run.ending is None:
        run.feed(run.answer(next(iter(run.open))))

    assert count + 1 == len(run.entries)
    assert count == len(scheduled(run))
    assert 10 + 1 >= max(len(entry.decoded()) for entry in run.entries[1:])


def test_items_are_read_only_as_far_as_there_is_room() -> None:
    read: list[int] = []

    @es.workflow
    async def lazily() -> list[int]:
        def numbers() -> Any:
            for n in range(100):
                read.append(n)
                yield n

        return await es.map(lambda n: add(n, n), numbers(), limit=2)

    run = Run(lazily())
    run.begin()

    assert [0, 1, 2] == read
    assert 2 == len(run.open)


def test_it_takes_steps_children_and_async_functions() -> None:
    @es.workflow
    async def mixed() -> list[Any]:
        async def order(order_id: str) -> str:
            receipt = await charge(order_id, 1)
            return await ship(receipt)

        return [await es.map(note, ["a", "b"]), await es.map(child, ["1", "2"]), await es.map(order, ("7", "8"), limit=1)]

    run = drive(mixed())

    orders = ["shipped receipt 7 1", "shipped receipt 8 1"]
    assert [["a", "b"], ["shipped 1", "shipped 2"], orders] == run.result
    assert 2 == len([c for entry in run.entries for c in commands_of(entry) if isinstance(c, ChildStarted)])


def test_of_nothing_comes_nothing() -> None:
    @es.workflow
    async def nothing() -> list[Any]:
        return [await es.map(note, []), list(await es.gather())]

    assert [[], []] == drive(nothing()).result


def test_the_first_failure_cancels_what_was_begun_and_begins_nothing_more() -> None:
    @es.workflow
    async def some_fail() -> str:
        try:
            await es.map(lambda n: decline("no") if n == 1 else note(str(n)), range(10), limit=3)
        except es.StepFailed as error:
            return await note(f"{error.step}: {error.__cause__}")
        return "not reached"

    run = Run(some_fail())
    run.begin()
    commands = run.feed(run.done("decline"))
    run.finish().check_replays()

    assert "decline: no" == run.result
    assert ["0.1:1", "0.3:1"] == [c.key for c in commands if isinstance(c, StepCancelled)]
    assert ["note", "decline", "note", "note"] == [event.step for event in scheduled(run)]


def test_siblings_have_cleaned_up_before_the_error_is_raised() -> None:
    """Nothing goes on behind the back of the code that handles it."""

    @es.workflow
    async def tidy() -> list[str]:
        log: list[str] = []

        async def slow() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                log.append(await note("cleaned up"))

        try:
            await es.gather(slow(), decline("no"))
        except es.StepFailed:
            log.append("handled")
        return log

    assert ["cleaned up", "handled"] == drive(tidy()).result


def test_failures_at_the_same_time_are_counted_on_the_first() -> None:
    @es.workflow
    async def both_fail() -> list[str]:
        try:
            await es.gather(decline("one"), decline("two"), note("x"))
        except es.StepFailed as error:
            return [str(error.__cause__), *error.__notes__]
        return []

    run = Run(both_fail())
    run.begin()
    one, two, _ = run.open
    run.feed(run.answer(one), run.answer(two))

    assert ["one", "1 more failed at the same time; the rest was cancelled"] == run.result
    run.check_replays()


def test_an_uncaught_failure_fails_the_run_as_itself() -> None:
    """Neither a group nor a cause of its own stands between the run's error and the step's."""

    @es.workflow
    async def fails() -> None:
        await es.gather(decline("no"), note("x"))

    ending = drive(fails()).ending

    assert isinstance(ending, RunFailed)
    assert "everstep.errors.StepFailed" == ending.error.type
    assert ending.error.cause is not None
    assert "ValueError" == ending.error.cause.type.rpartition(".")[2]


def test_items_that_raise_while_they_are_read_cancel_what_was_begun() -> None:
    @es.workflow
    async def broken() -> str:
        def items() -> Any:
            yield "a"
            raise ValueError("no more")

        try:
            await es.map(note, items())
        except ValueError as error:
            return str(error)
        return "not reached"

    assert "no more" == drive(broken()).result


def test_a_cancel_of_the_run_cancels_all_and_waits_for_them() -> None:
    @es.workflow
    async def outer() -> None:
        await es.gather(es.map(note, ["a", "b", "c"], limit=2), asyncio.sleep(60))

    run = Run(outer())
    run.begin()
    run.feed(CancelRequested("enough"))

    assert RunCancelled("enough") == run.check_replays().ending
    assert [] == list(run.open)


def test_gather_gives_a_tuple_and_takes_whatever_can_be_awaited() -> None:
    @es.workflow
    async def many() -> list[Any]:
        task = asyncio.create_task(note("task"))
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result("future")
        got = await es.gather(note("call"), task, future, asyncio.sleep(1, "coroutine"), child("1"))
        assert isinstance(got, tuple)
        return list(got)

    assert ["call", "task", "future", "coroutine", "shipped 1"] == drive(many()).result


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
async def test_a_limit_that_makes_no_sense_is_refused(limit: Any) -> None:
    with pytest.raises(es.UsageError, match="limit="):
        await es.map(note, ["a"], limit=limit)


async def test_outside_a_workflow_it_just_calls_the_functions() -> None:
    """Business code stays testable."""
    assert ["a", "b"] == await es.map(note, ["a", "b"], limit=1)
    assert ("a", 3) == await es.gather(note("a"), add(1, 2))


async def test_streams_have_to_be_listed_first() -> None:
    """An async iterator is no iterable: the type checkers say so, and Python does."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    wrong: Any = numbers()
    with pytest.raises(TypeError, match="not iterable"):
        await es.map(add, wrong)
