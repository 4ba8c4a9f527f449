"""
A store whose commits take their time: the loop goes on meanwhile, and more writes share a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

import everstep as es
from everstep.engine import committer
from everstep.engine.committer import GROUP_MAX, GROUP_MAX_SLOW, Committer
from everstep.records import Status
from everstep.stores.base import Keep, Landed, Outcome, Write
from tests.engine.support import World, turns

FSYNC_SECONDS = 0.01


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the committer measures by; it stands still unless a store lets it pass."""
    now = [0.0]
    monkeypatch.setattr(committer, "monotonic", lambda: now[0])
    return now


class SlowStore:
    """Takes any write, after a while."""

    url = "slow://"
    commits_inline = False

    def __init__(self, clock: list[float], seconds: float = FSYNC_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self.story: list[str] = []
        self.sizes: list[int] = []

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        self.story.append("begins")
        self.sizes.append(len(batch))
        await turns(5)
        self._clock[0] += self._seconds
        self.story.append("ends")
        return [Landed()] * len(batch)


def submit(writer: Committer, store: SlowStore, count: int) -> list[int]:
    """So many writes, each of a run of its own; who was told of its outcome, in order."""
    told: list[int] = []

    def told_by(number: int) -> None:
        told.append(number)
        if not store.story or store.story[-1] != "told":
            store.story.append("told")

    for number in range(count):
        keep = Keep(run_key=number, worker_key=1, epoch=1, status=Status.RUNNING)
        writer.submit(keep, lambda _, number=number: told_by(number))  # type: ignore[misc]
    return told


def a_committer(store: Any) -> Committer:
    return Committer(store, Random(0))


async def test_what_a_slow_commit_led_to_is_done_during_the_next_one(clock: list[float]) -> None:
    """Disk and loop work together, not in turns."""
    store = SlowStore(clock)
    writer = a_committer(store)
    told = submit(writer, store, GROUP_MAX + GROUP_MAX_SLOW + 1)

    await writer.settle()

    assert [GROUP_MAX, GROUP_MAX_SLOW, 1] == store.sizes
    assert ["begins", "ends", "told", "begins", "ends", "told", "begins", "told", "ends", "told"] == store.story
    assert list(range(GROUP_MAX + GROUP_MAX_SLOW + 1)) == told


async def test_no_turn_of_the_loop_is_told_more_than_one_group(clock: list[float]) -> None:
    """Each outcome lets a run go on, and the host's loop waits for all that go on in one turn."""
    store = SlowStore(clock)
    writer = a_committer(store)
    told = submit(writer, store, 5 * GROUP_MAX_SLOW)
    per_turn: list[int] = []
    settling = asyncio.ensure_future(writer.settle())

    while not settling.done():
        before = len(told)
        await asyncio.sleep(0)
        per_turn.append(len(told) - before)

    assert GROUP_MAX >= max(per_turn)
    assert 5 * GROUP_MAX_SLOW == len(told)


async def test_quick_commits_are_told_at_once(clock: list[float]) -> None:
    """Whoever waits for the outcome need not wait for a turn of the loop, and groups stay small."""
    store = SlowStore(clock, 0)
    writer = a_committer(store)
    submit(writer, store, 2 * GROUP_MAX)

    await writer.settle()

    assert [GROUP_MAX, GROUP_MAX] == store.sizes
    assert ["begins", "ends", "told"] * 2 == store.story


async def test_a_committer_that_is_closed_tells_nobody_any_more(clock: list[float]) -> None:
    store = SlowStore(clock)
    writer = a_committer(store)
    told = submit(writer, store, 3 * GROUP_MAX_SLOW)
    while len(store.sizes) < 3:
        await turns(1)
    before = len(told)

    writer.close()
    await turns()

    assert before == len(told)


async def test_runs_on_a_slow_disk_end_as_they_should(world: World, clock: list[float]) -> None:
    """Two hundred at once, each entry after the one before it."""

    @es.step
    async def next_of(number: int) -> int:
        clock[0] += FSYNC_SECONDS  # whatever is being committed takes that long
        return number + 1

    @es.workflow
    async def counting(count: int) -> int:
        number = 0
        for _ in range(count):
            number = await next_of(number)
        return number

    engine = await world.engine(counting, inline=False)

    handles = await asyncio.gather(*(engine.start(counting(2), id=f"r{number}") for number in range(200)))

    assert [2] * 200 == [await handle.result() for handle in handles]
    for handle in handles[::50]:
        assert 3 == len(await world.entries(handle.run_id))
