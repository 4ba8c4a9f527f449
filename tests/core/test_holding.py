"""
Entries that are written behind: several drains of the code in one entry, which replays as it was.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Raw

import everstep as es
from everstep.core.execution import Held
from everstep.events import CancelRequested, Drained, MilestoneReached, RunSucceeded, SignalReceived, SuffixLost
from tests.core.driver import Run, new_execution


@es.step
def work(n: int) -> int:
    return n * 10


@es.step(at_most_once=True)
def once(n: int) -> int:
    return n


@es.workflow
async def child(n: int) -> int:
    return await work(n)


@es.workflow
async def loading(count: int) -> list[str]:
    seen = [f"{es.now():%S}"]
    async with es.milestone("load"):
        seen += [f"{await work(n)} at {es.now():%S}" for n in range(count)]
    seen.append(f"{await work(99)}")
    return seen


@es.workflow(durability="relaxed")
async def relaxed(count: int) -> list[int]:
    return [await work(n) for n in range(count)]


@es.workflow
async def with_barriers(kind: str) -> None:
    async with es.milestone("load"):
        await work(1)
        if kind == "once":
            await once(1)
        elif kind == "child":
            await child(1)
        elif kind == "two":
            async with es.milestone("inner"):
                await work(2)
        await work(3)


class Holder:
    """Drives a run as the engine does that may hold entries back."""

    def __init__(self, run: Run) -> None:
        self.run = run
        run.begin()

    def answer(self, *, seconds: float = 1.0) -> bool:
        """Answer the oldest operation; whether the entry was held."""
        run = self.run
        run.now += round(seconds * 1e6)
        outcome = run.answer(next(iter(run.open)))
        made = run.execution.activate_or_hold([outcome], run.now)
        if isinstance(made, Held):
            return True
        run.keep(made)
        return False


def test_the_steps_of_a_milestone_are_one_entry_that_replays_as_it_was() -> None:
    run = Run(loading(4))
    holder = Holder(run)

    held = [holder.answer() for _ in range(5)]

    assert [True, True, True, False, False] == held
    assert 3 == len(run.entries)
    second = run.entries[1].decoded()
    assert 3 == sum(isinstance(event, Drained) for event in second)
    assert isinstance(second[-2], MilestoneReached)
    assert isinstance(run.ending, RunSucceeded)
    assert ["00", "0 at 01", "10 at 02", "20 at 03", "30 at 04", "990"] == run.result
    run.check_replays()


def test_a_replayed_run_goes_on_after_the_last_of_its_drains() -> None:
    """Time in it never goes back."""
    run = Run(loading(3))
    holder = Holder(run)
    for _ in range(3):
        holder.answer()
    again = new_execution(run.workflow)
    again.replay(run.entries)

    made = again.activate([run.answer(next(iter(run.open)))], run.entries[1].at)

    last = max(event.at for event in run.entries[1].decoded() if isinstance(event, Drained))
    assert made.entry.at == last


def test_a_relaxed_run_holds_everything_until_somebody_flushes_it() -> None:
    run = Run(relaxed(4))
    holder = Holder(run)

    assert [True, True, True] == [holder.answer() for _ in range(3)]
    assert 3 == run.execution.held_count
    run.keep(run.execution.flush())
    assert not run.execution.is_holding
    assert not holder.answer(), "the end of a run is always durable"

    assert 3 == len(run.entries)
    assert [0, 10, 20, 30] == run.result
    run.check_replays()


@pytest.mark.parametrize(("kind", "held"), [("once", [False, True]), ("child", [False, True]), ("two", [True, False])])
def test_what_leaves_the_process_is_not_asked_for_before_all_is_durable(kind: str, held: list[bool]) -> None:
    run = Run(with_barriers(kind))
    holder = Holder(run)

    assert held == [holder.answer() for _ in range(2)]
    run.evict()


@es.workflow
async def interrupted() -> str:
    try:
        async with es.milestone("load"):
            await work(1)
            await work(2)
    except asyncio.CancelledError:
        return f"{await work(3)}"
    return "loaded"


def test_a_milestone_that_is_not_reached_does_not_say_so() -> None:
    run = Run(interrupted())
    holder = Holder(run)
    holder.answer()

    run.feed(CancelRequested())

    assert not any(isinstance(event, MilestoneReached) for entry in run.entries for event in entry.decoded())
    assert "30" == run.finish().result


def test_a_milestone_outside_a_workflow_is_refused() -> None:
    async def outside() -> None:
        async with es.milestone("load"):
            pass

    with pytest.raises(es.UsageError, match="outside a workflow"):
        asyncio.run(outside())
    with pytest.raises(es.UsageError, match="not allowed"):
        es.milestone("two words\n")


@pytest.mark.parametrize("wrong", ["lax", es.Relaxed(0, 1), es.Relaxed(1, 0), es.Relaxed(1e9, 1), None])
def test_a_durability_that_cannot_be_is_refused_where_the_workflow_is_defined(wrong: Any) -> None:
    with pytest.raises(es.UsageError, match="durability"):
        es.workflow(durability=wrong)(work_twice)


async def work_twice() -> None:
    await work(2)


def test_signals_and_the_loss_of_a_suffix_are_inputs_like_any_other() -> None:
    run = Run(relaxed(2))
    run.begin()

    run.feed(SuffixLost(1.0, 100))
    run.feed(SignalReceived("nobody", Raw(b"1")))

    assert [0, 10] == run.finish().check_replays().result
