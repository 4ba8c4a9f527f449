"""
everstep through its public API: what is measured here is what a user gets. (Only replay goes to the core: no verb of the
API replays and does nothing else.)

The statements and commits of every connection are counted by apsw's own hooks when BENCH_COUNT is set; without it
nothing listens, so that speed is measured without a witness.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw

import everstep as es
from bench.serve import Verb, until
from everstep.core.execution import Execution
from everstep.definitions import Call
from everstep.records import Status

CONCURRENCY_DEFAULT = 1_000
CHUNK = 1_000
A_LONG_TIME_S = 30 * 86_400.0

_counts = {"statements": 0, "commits": 0, "gate": 0, "done": 0}
_blob = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=1_000_000))


@es.step
async def tiny(i: int) -> int:
    return i + 1


@es.workflow
async def chain(steps: int) -> int:
    total = 0
    for i in range(steps):
        total = await tiny(i)
    return total


@es.step
async def produce(size: int) -> str:
    return _blob[:size]


@es.workflow
async def produce_many(count: int, size: int) -> int:
    return sum([len(await produce(size)) for _ in range(count)])


@es.step
async def gate() -> None:
    """Hold the run here in the process that is going to be killed; let it pass in the one that resumes."""
    _counts["gate"] += 1
    if os.environ.get("BENCH_GATE") == "closed":
        await asyncio.Event().wait()


@es.step
async def finish(i: int) -> int:
    _counts["done"] += 1
    return i


@es.workflow
async def interrupted(i: int) -> int:
    first = await tiny(i)
    await gate()
    return await finish(first)


@es.workflow
async def sleeper(i: int) -> int:
    _counts["gate"] += 1
    await asyncio.sleep(A_LONG_TIME_S)
    return i


@es.step
async def clock() -> float:
    """CLOCK_MONOTONIC, which all processes of a machine share."""
    return time.monotonic()


@es.workflow
async def noticed() -> float:
    return await clock()


WORKFLOWS: list[es.Workflow[..., Any]] = [chain, produce_many, interrupted, sleeper, noticed]


def url(directory: Path) -> str:
    return f"sqlite:///{directory / 'everstep.db'}"


class Ours:
    """The verbs of a process with an engine; durations in seconds."""

    def __init__(self, engine: es.Engine, opened_at: float) -> None:
        self._engine = engine
        self._opened_at = opened_at

    async def steps(self, count: int) -> float:
        started = time.perf_counter()
        await (await self._engine.start(chain(count))).result()
        return time.perf_counter() - started

    async def commits(self, steps: int) -> int:
        """How many commits one run of so many steps makes, from its start to after its end."""
        before = _counts["commits"]
        await self.steps(steps)
        await asyncio.sleep(0.1)
        return _counts["commits"] - before

    async def runs(self, count: int, steps: int) -> float:
        started = time.perf_counter()
        for handle in await start_all(self._engine, [chain(steps) for _ in range(count)]):
            await handle.result()
        return time.perf_counter() - started

    async def latency(self, count: int) -> list[float]:
        return [await self.steps(1) for _ in range(count)]

    async def blobs(self, count: int, size: int) -> float:
        started = time.perf_counter()
        await (await self._engine.start(produce_many(count, size))).result()
        return time.perf_counter() - started

    async def interrupt(self, count: int) -> None:
        """Start runs of three steps and hold each in its second, to be killed there."""
        for first in range(0, count, CHUNK):
            await start_all(self._engine, [interrupted(i) for i in range(first, min(count, first + CHUNK))])
        await until(lambda: _counts["gate"] >= count)

    async def resume(self, count: int) -> float:
        """From opening the engine until every run that the dead process held has succeeded."""
        await until(lambda: _counts["done"] >= count)
        await self._none_left(Status.QUEUED, Status.RUNNING, Status.WAITING)
        return time.perf_counter() - self._opened_at

    async def replay(self, steps: int, times: int) -> float:
        """Replay a finished run of so many steps, read-only; the seconds of one replay, the best of ``times``."""
        handle = await self._engine.start(chain(steps))
        await handle.result()
        run, journal = await self._engine.load_journal(handle.run_id)
        durations = []
        for _ in range(times):
            execution = Execution(chain, run.run_key, run.run_id)
            started = time.perf_counter()
            execution.replay(journal)
            durations.append(time.perf_counter() - started)
            execution.program.evict()
        return min(durations)

    async def fall_asleep(self, count: int) -> float:
        """Start runs that sleep for a month, until all have parked."""
        started = time.perf_counter()
        for first in range(0, count, CHUNK):
            await start_all(self._engine, [sleeper(i) for i in range(first, min(count, first + CHUNK))])
        await self._none_left(Status.QUEUED, Status.RUNNING)
        return time.perf_counter() - started

    async def idle(self, seconds: float) -> dict[str, float]:
        """Do nothing, and report per second what happened nevertheless."""
        before, usage = dict(_counts), resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(seconds)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "statements": (_counts["statements"] - before["statements"]) / seconds,
            "commits": (_counts["commits"] - before["commits"]) / seconds,
            "switches": (after.ru_nvcsw - usage.ru_nvcsw) / seconds,
            "cpu_ms": 1000 * (after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime) / seconds,
            "rss": rss_bytes(),
        }

    async def gap(self, count: int, steps: int) -> dict[str, float]:
        """`runs`, beside a ticker that notes how long the loop of the host program stood still."""
        gaps: list[float] = []
        ticker = asyncio.create_task(tick(gaps))
        seconds = await self.runs(count, steps)
        ticker.cancel()
        return {"seconds": seconds, "worst": max(gaps)}

    async def _none_left(self, *status: Status) -> None:
        while await self._engine.list(status=status, limit=1):
            await asyncio.sleep(0.001)


async def start_all(engine: es.Engine, calls: Sequence[Call[Any]]) -> list[es.Handle[Any]]:
    return await asyncio.gather(*(engine.start(call) for call in calls))


async def tick(gaps: list[float], interval: float = 0.001) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(interval)
        gaps.append(time.perf_counter() - before - interval)


def rss_bytes() -> int:
    gc.collect()
    resident = Path("/proc/self/statm").read_text().split()[1]
    return int(resident) * resource.getpagesize()


def counts() -> dict[str, int]:
    """What this process has done so far."""
    return dict(_counts)


def count_on(connection: apsw.Connection) -> None:
    def statement(_: Mapping[str, Any]) -> None:
        _counts["statements"] += 1

    def commit() -> bool:
        _counts["commits"] += 1
        return False

    connection.trace_v2(apsw.SQLITE_TRACE_STMT, statement, id="bench")
    connection.set_commit_hook(commit, id="bench")


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    if os.environ.get("BENCH_COUNT"):
        apsw.connection_hooks.append(count_on)
    opened_at = time.perf_counter()
    concurrency = int(os.environ.get("BENCH_CONCURRENCY", CONCURRENCY_DEFAULT))
    async with es.Engine(url(directory), workflows=WORKFLOWS, concurrency=concurrency) as engine:
        ours = Ours(engine, opened_at)
        names = [name for name in dir(ours) if not name.startswith("_")]
        yield {name: getattr(ours, name) for name in names}
