"""
Env: workflows run in a test as they do in production, but for the clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

import everstep as es
from everstep.errors import RunFailed, UsageError
from everstep.testing import Env, Stuck, run


@es.step
async def charge(cents: int) -> int:
    return cents


@es.step
def receipt(cents: int) -> str:
    time.sleep(0.01)
    return f"{cents} paid"


@es.workflow
async def trial(cents: int) -> str:
    await asyncio.sleep(30 * 86_400)
    return await receipt(await charge(cents))


@es.workflow
async def subscription(months: int) -> int:
    return sum([len(await trial(month)) for month in range(months)])


@es.workflow
async def never() -> None:
    await asyncio.Event().wait()


@es.workflow
async def fails() -> None:
    raise ValueError("no")


@es.workflow
async def numbers() -> tuple[float, str]:
    return es.random(), str(es.uuid4())


async def test_a_month_passes_in_virtual_time_only() -> None:
    """The run takes 30 days by its own clock; by that of the machine nobody waits."""
    real = asyncio.get_running_loop().time()
    async with Env() as env:
        began_at = env.now()
        assert "1999 paid" == await env.run(trial(1999))
        assert timedelta(days=30) == env.now() - began_at

    assert asyncio.get_running_loop().time() - real < 86_400, "the loop is back on the machine's clock"


skip_a_day = es.signal("skip_a_day", str)
page = es.state("page", int)


@es.workflow
async def diary(days: int) -> list[str]:
    """A month of quiet, then a page a day, unless somebody says that there is nothing to write."""
    await asyncio.sleep(30 * 86_400)
    pages: list[str] = []
    for day in range(days):
        page.set(day)
        skipped = await skip_a_day.wait(timeout=86_400, default="")
        pages.append(skipped or await receipt(day))
    return pages


async def test_a_month_and_thirty_days_with_signals_in_between_take_less_than_a_second() -> None:
    """Of this process's time: the machine may be busy with something else."""
    began = time.process_time()
    async with Env([diary]) as env:
        handle = await env.start(diary(30))
        await env.skip(timedelta(days=30))
        for day in range(0, 30, 3):
            await env.skip(timedelta(days=2))
            assert day + 2 == page_of(await handle.snapshot())
            await handle.send(skip_a_day, f"ill on day {day + 2}")
            await env.settle()
        pages = await handle

    assert 30 == len(pages)
    assert ["0 paid", "1 paid", "ill on day 2", "3 paid"] == pages[:4]
    assert time.process_time() - began < 1


def page_of(snapshot: es.Snapshot) -> object:
    """The state that the diary publishes."""
    return snapshot.payload["page"]


async def test_skip_lets_happen_what_falls_due() -> None:
    async with Env([trial]) as env:
        handle = await env.start(trial(5), id="trial")
        await env.skip(timedelta(days=29))
        assert "waiting" == await handle.status()
        await env.skip(timedelta(days=1))

        assert "succeeded" == await handle.status()
        assert "5 paid" == await env.handle("trial", trial)


async def test_time_does_not_go_back() -> None:
    async with Env() as env:
        with pytest.raises(UsageError, match="time does not go back"):
            await env.skip(timedelta(seconds=-1))


async def test_children_and_threads_are_waited_for() -> None:
    async with Env() as env:
        assert 3 * len("0 paid") == await env.run(subscription(3))


def test_a_plain_test_runs_a_workflow() -> None:
    assert "7 paid" == run(trial(7)) == Env.run_sync(trial(7))


def test_a_century_passes_too() -> None:
    """Floats are coarse by then: a timer must still ring."""

    @es.workflow
    async def century() -> str:
        for _ in range(100):
            await asyncio.sleep(365.25 * 86_400 + 0.123)
        return "old"

    assert "old" == run(century())


def test_what_can_never_happen_is_told() -> None:
    with pytest.raises(Stuck, match="nothing happens any more"):
        run(never())


def test_a_failure_is_raised() -> None:
    with pytest.raises(RunFailed, match="ValueError: no"):
        run(fails())


async def test_run_is_refused_inside_a_loop() -> None:
    with pytest.raises(UsageError, match="Nothing was started"):
        run(fails())


def test_the_same_run_is_the_same_in_every_test() -> None:
    """Randomness comes from the run's id."""
    assert run(numbers()) == run(numbers())


async def test_the_fixture_opens_itself(everstep_env: Env) -> None:
    assert "3 paid" == await everstep_env.run(trial(3))
    await everstep_env.start(never(), id="left-waiting")
    await everstep_env.start(trial(1), id="left-sleeping")


def test_the_fixture_works_in_plain_tests(everstep_env: Env) -> None:
    assert "3 paid" == everstep_env.run_sync(trial(3))


def test_an_env_that_is_not_open_says_so(everstep_env: Env) -> None:
    with pytest.raises(UsageError, match="not open"):
        everstep_env.now()
