"""What the loop orders, what it refuses, and what it says to use instead."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import everstep as es
from everstep.core.loop import DeterministicLoop
from everstep.errors import UsageError
from everstep.events import RunFailed, StepScheduled, TimerStarted
from tests.core.driver import Run, commands_of, drive
from tests.core.steps import note

NEEDED = {
    "call_soon",
    "call_later",
    "call_at",
    "time",
    "create_future",
    "create_task",
    "get_debug",
    "is_running",
    "is_closed",
    "get_task_factory",
    "get_exception_handler",
    "default_exception_handler",
    "call_exception_handler",
}
FORBIDDEN = sorted({name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_")} - NEEDED)


def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a server would do."""


def failure_of(run: Run) -> str:
    """Why it failed: ``Type: message``."""
    assert isinstance(run.ending, RunFailed), run.ending
    return f"{run.ending.error.type}: {run.ending.error.message}"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_method_says_what_to_use_instead(name: str) -> None:
    """All of them at once, so that a new Python's new method is refused as well."""

    @es.workflow
    async def reaches_out() -> str:
        loop = asyncio.get_running_loop()
        try:
            getattr(loop, name)()
        except UsageError as error:
            return str(error)
        return "allowed"

    message: str = drive(reaches_out()).result

    assert message.startswith(f"workflow code called loop.{name}(): ")
    assert message.endswith("Nothing was done.")
    assert 40 < len(message) - len(name)


def test_needed_methods_are_the_loops_own() -> None:
    assert NEEDED <= set(vars(DeterministicLoop))
    assert not inspect.isabstract(DeterministicLoop)


@pytest.mark.parametrize(
    ("what", "method"),
    [
        (lambda: asyncio.to_thread(len, ""), "run_in_executor"),
        (lambda: asyncio.open_connection("localhost", 1), "create_connection"),
        (lambda: asyncio.create_subprocess_exec("true"), "subprocess_exec"),
        (lambda: asyncio.start_server(serve, "localhost", 1), "create_server"),
    ],
    ids=["thread", "connection", "subprocess", "server"],
)
def test_what_asyncio_would_do_outside_is_refused(what: Callable[[], Any], method: str) -> None:
    @es.workflow
    async def reaches_out() -> str:
        await what()
        return "?"

    failure = failure_of(Run(reaches_out()).finish())

    assert f"everstep.errors.UsageError: workflow code called loop.{method}()" in failure
    assert "do it in a step" in failure


def test_another_loop_inside_is_refused_by_asyncio() -> None:
    @es.workflow
    async def nests() -> None:
        coro = asyncio.sleep(0)
        try:
            asyncio.run(coro)
        finally:
            coro.close()

    assert "cannot be called from a running event loop" in failure_of(Run(nests()).finish())


def test_eager_tasks_are_refused() -> None:
    @es.workflow
    async def eager() -> None:
        create_task: Any = asyncio.get_running_loop().create_task
        create_task(note("a"), eager_start=True)

    assert "eager tasks are not deterministic" in failure_of(Run(eager()).finish())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before Python 3.12")
def test_the_eager_task_factory_is_refused() -> None:
    @es.workflow
    async def eager() -> None:
        asyncio.get_running_loop().set_task_factory(vars(asyncio)["eager_task_factory"])

    assert "task factories are not deterministic" in failure_of(Run(eager()).finish())


def test_a_task_made_past_the_loop_has_no_place_in_the_journal() -> None:
    @es.workflow
    async def sneaks() -> str:
        async def inner() -> str:
            return await note("a")

        return await asyncio.Task(inner())

    run = Run(sneaks()).finish()

    assert "asyncio.create_task(…)" in failure_of(run)
    assert [] == commands_of(run.entries[0])


def test_as_completed_of_coroutines_in_no_order_is_refused_and_of_calls_is_not() -> None:
    async def plain() -> str:
        return await note("a")

    @es.workflow
    async def sneaks(*, calls: bool) -> list[str]:
        makers: list[Callable[[], Any]] = [lambda: note("a")] if calls else [plain]
        return [await each for each in asyncio.as_completed(iter([make() for make in makers]))]

    assert "Give it a list" in failure_of(Run(sneaks(calls=False)).finish())
    assert ["a"] == drive(sneaks(calls=True)).result


# --- order ----------------------------------------------------------------------------------------------------------------


def test_sets_of_tasks_and_futures_iterate_in_the_order_of_making() -> None:
    @es.workflow
    async def sets() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(40)]
        futures = [loop.create_future() for _ in range(40)]
        await asyncio.wait(tasks)
        both = set(tasks), set(futures)
        return [[tasks.index(task) for task in both[0]], [futures.index(future) for future in both[1]]]

    first, second = drive(sets()).result

    # A set starts at hash 0 modulo its size, which falls somewhere into the sequence.
    for order in (first, second):
        start = order.index(0)
        assert list(range(40)) == order[start:] + order[:start]


def test_a_set_of_calls_iterates_by_first_use() -> None:
    """By address, ``gather(*{…})`` would ask in another order in each process."""

    @es.workflow
    async def sets() -> None:
        await asyncio.gather(*{note(f"{number:02}") for number in range(30)})

    texts = [[bytes(c.args) for c in Run(sets()).begin() if isinstance(c, StepScheduled)] for _ in range(3)]

    assert texts[0] == texts[1] == texts[2]
    assert sorted(texts[0]) == [f'{{"text":"{number:02}"}}'.encode() for number in range(30)]


def test_keys_name_the_task_and_the_place_in_it() -> None:
    @es.workflow
    async def tree() -> None:
        async def branch() -> None:
            await note("inner")
            await asyncio.gather(note("leaf"), note("leaf"))

        await note("first")
        await asyncio.create_task(branch())
        await asyncio.sleep(1)

    run = drive(tree())
    keys = [c.key for entry in run.entries for c in commands_of(entry) if isinstance(c, StepScheduled | TimerStarted)]

    assert ["0:1", "0.1:1", "0.1.1:1", "0.1.2:1", "0:2"] == keys


# --- sleeping (D5) --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, -1e9, -float("inf")])
def test_sleeping_for_nothing_yields_once_and_is_no_timer(seconds: float) -> None:
    @es.workflow
    async def yields() -> list[str]:
        log: list[str] = []

        async def other() -> None:
            log.append("other")

        task = asyncio.create_task(other())
        await es.sleep(seconds)
        log.append("slept")
        await task
        return log

    run = drive(yields())

    assert ["other", "slept"] == run.result
    assert [] == commands_of(run.entries[0])


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 100 * 366 * 86_400.0, 1e300, timedelta.max])
@pytest.mark.parametrize("way", ["sleep", "timeout", "wait_for"])
def test_what_is_no_length_of_time_is_refused_at_the_call(seconds: float | timedelta, way: str) -> None:
    length = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds

    @es.workflow
    async def sleeps() -> None:
        if way == "sleep":
            await es.sleep(seconds)
        elif way == "timeout":
            async with asyncio.timeout(length):
                await asyncio.Event().wait()
        else:
            call = note("a")
            try:
                await asyncio.wait_for(call, length)
            finally:
                call.close()

    run = Run(sleeps()).finish()

    # From Python 3.13 on asyncio.sleep itself refuses what is not a number.
    assert "a timer of" in failure_of(run) or "NaN" in failure_of(run)
    assert not [command for command in commands_of(run.entries[0]) if isinstance(command, TimerStarted)]


def test_the_longest_sleep_is_a_century_and_fits_the_calendar() -> None:
    @es.workflow
    async def sleeps() -> str:
        await es.sleep(timedelta(days=36_525))
        return es.now().isoformat()

    assert "2127-01-16T08:00:00+00:00" == drive(sleeps()).result


def test_sleeping_until_the_year_9999_is_refused_and_until_a_naive_instant_too() -> None:
    @es.workflow
    async def sleeps(instant: str) -> None:
        await es.sleep_until(datetime.fromisoformat(instant))

    assert "The longest possible is a century" in failure_of(Run(sleeps("9999-12-31T23:59:59+00:00")).finish())
    assert "a naive datetime names no instant" in failure_of(Run(sleeps("2030-01-01T00:00:00")).finish())


def test_a_sleep_of_a_fraction_of_a_microsecond_is_a_timer_that_is_due_at_once() -> None:
    @es.workflow
    async def sleeps() -> None:
        await asyncio.sleep(1e-9)

    [timer] = commands_of(drive(sleeps()).entries[0])

    assert isinstance(timer, TimerStarted)
    assert 0 == timer.delay


def test_days_around_a_change_of_clocks_are_as_long_as_they_are() -> None:
    """D5: instants are compared, not what clocks on walls show."""
    from zoneinfo import ZoneInfo

    paris = ZoneInfo("Europe/Paris")

    @es.workflow
    async def sleeps(until: str) -> float:
        before = datetime(2027, 3, 27, 12, tzinfo=paris)
        await es.sleep_until(before)
        begin = es.now()
        await es.sleep_until(datetime.fromisoformat(until).replace(tzinfo=paris))
        return (es.now() - begin).total_seconds() / 3600

    assert 23.0 == drive(sleeps("2027-03-28T12:00:00")).result
    assert 24.0 == drive(sleeps("2027-03-29T12:00:00")).result - 23.0


def test_a_workflow_runs_on_whatever_thread_activates_it() -> None:
    """Without a loop of the host's around it."""
    results: list[Any] = []

    @es.workflow
    async def short() -> str:
        return await note("a")

    thread = threading.Thread(target=lambda: results.append(drive(short()).result))
    thread.start()
    thread.join()

    assert ["a"] == results
