"""
replay: code is held to a journal.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace as changed

import everstep as es
from everstep.definitions import Workflow
from everstep.errors import CorruptJournal, NondeterminismError, UsageError
from everstep.events import RunFailed, RunSucceeded
from everstep.journal import Entry
from everstep.testing import Env, replay

executed: list[int] = []


@es.step
async def charge(cents: int) -> int:
    executed.append(cents)
    return cents


@es.workflow(name="order")
async def order(cents: int) -> int:
    return await charge(cents)


@es.workflow(name="order")
async def dearer_order(cents: int) -> int:
    return await charge(cents + 1)


@es.workflow
async def fails() -> None:
    raise ValueError("no")


async def journal_of_order() -> list[Entry]:
    async with Env() as env:
        handle = await env.start(order(5))
        await handle
        return await handle.journal()


async def test_a_journal_replays_without_executing_anything() -> None:
    journal = await journal_of_order()
    executed.clear()

    assert isinstance(replay(journal, order), RunSucceeded)
    assert [] == executed


async def test_a_part_of_a_journal_has_no_ending() -> None:
    assert None is replay((await journal_of_order())[:1], order)


async def test_other_code_is_shown_side_by_side() -> None:
    with pytest.raises(NondeterminismError, match=r"(?s)recorded:.*charge\(.*requested:.*charge\("):
        replay(await journal_of_order(), dearer_order)


async def test_a_failure_is_an_ending_too() -> None:
    async with Env() as env:
        handle = await env.start(fails())
        with pytest.raises(es.RunFailed):
            await handle

        assert isinstance(replay(await handle.journal(), fails), RunFailed)


async def test_an_altered_journal_is_refused() -> None:
    first, *rest = await journal_of_order()

    with pytest.raises(CorruptJournal):
        replay([changed(first, at=first.at - 1), *rest], order)


@pytest.mark.parametrize("workflow", [fails])
async def test_a_journal_of_something_else_is_refused(workflow: Workflow[[], None]) -> None:
    with pytest.raises(UsageError, match="not fails"):
        replay(await journal_of_order(), workflow)
    with pytest.raises(UsageError, match="empty"):
        replay([], workflow)


async def test_a_fork_is_replayed_with_the_journal_of_the_run_that_it_shares() -> None:
    """And a fork of a fork with both."""
    async with Env([order]) as env:
        first = await env.start(order(5), id="first")
        await first
        second = await first.fork(at=1, id="second")
        await second
        third = await second.fork(id="third")
        await third
        journals = [await handle.journal() for handle in (first, second, third)]

    assert isinstance(replay(journals[1], order, shared=[journals[0]]), RunSucceeded)
    assert isinstance(replay(journals[2], order, shared=journals[:2]), RunSucceeded)
    with pytest.raises(UsageError, match="run second is a fork of run first at version 1, whose journal was not given"):
        replay(journals[1], order)
    with pytest.raises(UsageError, match="whose journal was not given"):
        replay(journals[2], order, shared=[journals[1]])
    with pytest.raises(CorruptJournal):
        replay(journals[1], order, shared=[[changed(journals[0][0], at=0), *journals[0][1:]]])
