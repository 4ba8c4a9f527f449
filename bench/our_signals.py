"""
Runs that park and are woken: by one signal after the other, by requests. And runs that undo what they did.

The verbs are the same on both stores; only how commits are counted differs, so whoever opens the engine says how.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import apsw

import everstep as es
from bench.measurement import paired_difference
from bench.ours import count_on, counts, tiny, url
from bench.serve import Verb

go = es.signal("go", int)
quote = es.request("quote", int, int)

Commits: TypeAlias = Callable[[], Awaitable[int]]


@es.workflow
async def woken(times: int) -> int:
    return sum([await go.wait() for _ in range(times)])


@es.workflow
async def desk(times: int) -> int:
    answered = 0

    async def answer(price: int) -> int:
        nonlocal answered
        answered += 1
        return price + 1

    quote.handle(answer)
    await es.condition(lambda: answered == times)
    return answered


@es.step
async def give_back(i: int) -> int:
    return i


class ChangedMind(Exception):
    """Why everything is undone."""


@es.workflow
async def booked(steps: int, is_undone: bool) -> None:
    try:
        async with es.saga() as saga:
            for i in range(steps):
                await saga.do(tiny(i), undo=give_back)
            if is_undone:
                raise ChangedMind
    except ChangedMind:
        pass


TALKING: list[es.Workflow[..., Any]] = [woken, desk, booked]

# Long enough to park again after each signal: what is counted is commits, not time.
PARKED_S = 0.3


class Talk:
    """The verbs; durations in seconds.

    Args:
        engine: With the workflows above.
        commits: How many there have been in its store.
    """

    def __init__(self, engine: es.Engine, commits: Commits) -> None:
        self._engine = engine
        self._commits = commits

    async def wake_by_signals(self, times: int) -> float:
        """Commits for each wake-up of a parked run, that of the signal included."""
        handle = await self._engine.start(woken(times))
        await asyncio.sleep(PARKED_S)
        before = await self._commits()
        for i in range(times):
            await handle.send(go, i)
            await asyncio.sleep(PARKED_S)
        await handle.result()
        return (await self._commits() - before) / times

    async def signal(self, count: int) -> list[float]:
        """From sending a signal to a parked run to its result."""
        durations = []
        for i in range(count):
            handle = await self._engine.start(woken(1))
            await _parked(handle)
            started = time.perf_counter()
            await handle.send(go, i)
            await handle.result()
            durations.append(time.perf_counter() - started)
        return durations

    async def ask(self, count: int) -> dict[str, Any]:
        """From sending a request to a parked run to its answer; and commits for each."""
        handle = await self._engine.start(desk(count))
        durations = []
        await _parked(handle)
        before = await self._commits()
        for i in range(count):
            await _parked(handle)
            started = time.perf_counter()
            await handle.ask(quote, i)
            durations.append(time.perf_counter() - started)
        await handle.result()
        return {"seconds": durations, "commits": (await self._commits() - before) / count}

    async def undo(self, steps: int, count: int) -> float:
        """What undoing so many steps takes, as a share of what doing them took."""
        done, undone = [], []
        for _ in range(count):
            done.append(await self._took(booked(steps, False)))
            undone.append(await self._took(booked(steps, True)))
        return paired_difference(undone, done) / sorted(done)[count // 2]

    async def _took(self, call: es.Call[None]) -> float:
        started = time.perf_counter()
        await (await self._engine.start(call)).result()
        return time.perf_counter() - started


async def _parked(handle: es.Handle[Any]) -> None:
    while await handle.status() is not es.Status.WAITING:
        await asyncio.sleep(0.001)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    apsw.connection_hooks.append(count_on)

    async def commits() -> int:
        return counts()["commits"]

    async with es.Engine(url(directory), workflows=TALKING) as engine:
        talk = Talk(engine, commits)
        yield {name: getattr(talk, name) for name in ("wake_by_signals", "signal", "ask", "undo")}
