"""
The race of section 6 of the design, forced on both SQL stores: a message is posted between what the owner of a run has read of
its inbox and what it then writes (parking, an ending, a new generation, or the claim itself).

Named points in a store around the store, not sleeps: at a point the owner waits until somebody else's connection has posted.
An acknowledged message is consumed, or listed as undelivered; it never waits in the inbox of a run that nobody wakes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

import everstep as es
from everstep.events import SignalReceived
from everstep.stores.base import Append, Behind, Claims, Landed, Outcome, Write
from everstep.stores.urls import open_store
from everstep.testing.connection import Connection

T = TypeVar("T")
PATIENCE_SECONDS = 30.0
approval = es.signal("approval", int)


class Pausing(Connection):
    """An engine's connection that does something at named points: ``before park``, ``after claim`` and their like.

    Attributes:
        hooks: What to do at a point, once.
        passed: How often each point was passed.
        behind: How many writes were refused because a message had come.
    """

    def __init__(self, url: str) -> None:
        super().__init__(open_store(url))
        self.commits_inline = False  # A hook may take its time.
        self.hooks: dict[str, Callable[[], Awaitable[object]]] = {}
        self.passed: Counter[str] = Counter()
        self.behind = 0

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        writes: list[Write] = list(arguments[0]) if verb == "commit" else []
        for write in writes:
            await self._pass(f"before {point_of(write)}")
        answer: Any = await super().ask(verb, arguments, act)
        outcomes: list[Outcome] = answer if writes else []
        for write, outcome in zip(writes, outcomes, strict=True):
            self.behind += isinstance(outcome, Behind)
            if isinstance(outcome, Landed):
                await self._pass(f"after {point_of(write)}")
        if isinstance(answer, Claims) and answer.runs:
            await self._pass("after claim")
        return cast(T, answer)

    async def _pass(self, point: str) -> None:
        self.passed[point] += 1
        hook = self.hooks.pop(point, None)
        if hook is not None:
            await hook()

    async def close(self) -> None:
        await super().close()
        await self.inner.close()


def point_of(write: Write) -> str:
    """What an owner does with its run here."""
    if isinstance(write, Append) and write.status.is_at_rest:
        return "end"
    if isinstance(write, Append) and write.begins_segment:
        return "cut"
    return "park" if write.release else "write"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
def store(url: str) -> Pausing:
    return Pausing(url)


@es.workflow
async def waits(count: int) -> list[int]:
    return [await approval.wait() for _ in range(count)]


@es.workflow
async def careless() -> str:
    await es.sleep(0.01)
    return "done"


@es.workflow
async def again(is_first: bool) -> int:
    if is_first:
        await es.sleep(0.01)
        es.continue_as_new(again(False))
    return await approval.wait()


@pytest.mark.parametrize(
    "points",
    [
        ["after park", "before park", "before park", "before park"],
        ["after park", "after park", "after park"],
        ["after park", "after claim", "before park", "after park", "after claim", "before park"],
    ],
    ids=["before", "after", "all"],
)
async def test_a_signal_that_races_with_the_parking_of_a_run_is_never_lost(store: Pausing, url: str, points: list[str]) -> None:
    """The run waits for as many signals as there are points; each is sent at the next point, and nothing else wakes the run."""
    async with es.Client(url) as client, es.Engine(store, workflows=[waits], lease=60) as engine:

        def meet(number: int) -> None:
            async def post() -> None:
                if number + 1 < len(points):
                    meet(number + 1)
                await client.handle("a").send(approval, number, key=f"key-{number}")

            store.hooks[points[number]] = post

        meet(0)
        handle = await engine.start(waits(len(points)), id="a")
        result = await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)
        keys = await received(client, "a")

    assert list(range(len(points))) == result
    assert [f"key-{number}" for number in range(len(points))] == keys
    assert points.count("before park") <= store.behind, "the owner was never caught in the act"


async def test_a_signal_that_races_with_the_end_of_a_run_is_kept(store: Pausing, url: str) -> None:
    """It was acknowledged, so it is listed as undelivered; the next one is refused."""
    async with es.Client(url) as client, es.Engine(store, workflows=[careless], lease=60) as engine:
        store.hooks["before end"] = lambda: client.handle("a").send(approval, 7, key="late")
        handle = await engine.start(careless(), id="a")

        assert "done" == await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)
        assert 1 <= store.behind
        assert 1 == len(await handle.undelivered())
        with pytest.raises(es.RunEnded):
            await client.handle("a").send(approval, 8, key="later")


async def test_a_signal_that_races_with_a_new_generation_is_carried_over(store: Pausing, url: str) -> None:
    """The generation that begins finds it in its inbox."""
    async with es.Client(url) as client, es.Engine(store, workflows=[again], lease=60) as engine:
        store.hooks["before cut"] = lambda: client.handle("a").send(approval, 7, key="once")
        handle = await engine.start(again(True), id="a")

        assert 7 == await asyncio.wait_for(handle.result(), PATIENCE_SECONDS)
        assert ["once"] == await received(client, "a")
        assert store.passed["before cut"]


async def received(client: es.Client, run_id: str) -> list[str]:
    """The keys of all signals that were consumed, in order."""
    run, entries = await client.load_journal(run_id)
    assert run.status is es.Status.SUCCEEDED
    return [event.id for entry in entries for event in entry.decoded() if isinstance(event, SignalReceived)]
