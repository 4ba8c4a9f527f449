"""
everstep on PostgreSQL, beside the least that durability can cost there: rows of the same size, with the same key, by asyncpg.

The server is the one of the tests, out of a wheel, on the disk that is measured and with every commit synced. Floor and
everstep take turns in one process; the server has its own, so this is a race on two cores.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import everstep as es
from bench.contest import Bench
from bench.measurement import Measurement, at_least, at_most, percentile
from bench.our_signals import TALKING, Talk
from bench.ours import WORKFLOWS, Ours
from bench.rows.talking import SAGA_STEPS, answered, signalled, undone, woken_by_signal
from tests.postgres_server import Server, missing

OF_FLOOR = 0.7
CONCURRENT_PER_S = 25_000.0
OVER_COMMITS_MS = 0.2
STEPS_PER_RUN, RUNS, GROUP = 10, 1_000, 100
NAMED = "PostgreSQL: "
TABLE = """
CREATE TABLE floor(
    run int8, version int8, at int8 NOT NULL, hash bytea NOT NULL, events text NOT NULL, PRIMARY KEY (run, version)
)
"""
INSERT = "INSERT INTO floor VALUES ($1, $2, $3, $4, $5)"
INSERT_GROUP = "INSERT INTO floor SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::bytea[], $5::text[])"


def postgres(bench: Bench) -> list[Measurement]:
    """One run, many runs, the shortest run."""
    if missing():
        return [Measurement(name="PostgreSQL", error=f"needs {missing()}")]
    place = bench.place()
    for folder in (bench.directory, place):
        folder.chmod(0o755)  # PostgreSQL does not run as root, and whom it runs as has to get there.
    server = Server(place, fsync="on", full_page_writes="on", shared_buffers="128MB", max_wal_size="4GB")
    try:
        server.start()
        return asyncio.run(_measured(bench, server.url()))
    finally:
        server.remove()


class Floor:
    """Commits rows."""

    def __init__(self, connection: Any, size: int) -> None:
        self._connection = connection
        self._events = "x" * size
        self._version = 0

    async def single(self, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            self._version += 1
            await self._connection.fetch(INSERT, 1, self._version, 1, bytes(32), self._events)
        return (time.perf_counter() - started) / count

    async def grouped(self, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count // GROUP):
            self._version += 1
            runs = list(range(2, 2 + GROUP))
            same = ([self._version] * GROUP, [1] * GROUP, [bytes(32)] * GROUP, [self._events] * GROUP)
            await self._connection.fetch(INSERT_GROUP, runs, *same)
        return (time.perf_counter() - started) / count


async def _measured(bench: Bench, url: str) -> list[Measurement]:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute(TABLE)
    steps, rounds = bench.pick(2_000, 500), bench.pick(7, 3)

    async def commits() -> int:
        """How many transactions have written so far: each takes a number."""
        taken: int = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8")
        return taken

    async with es.Engine(url, workflows=[*WORKFLOWS, *TALKING], concurrency=RUNS) as engine:
        floor, ours = Floor(connection, bench.entry_bytes), Ours(engine, time.perf_counter())
        await ours.steps(50)

        async def per_step(count: int) -> float:
            return await ours.steps(count) / count

        async def per_step_of_many(count: int) -> float:
            return await ours.runs(RUNS, STEPS_PER_RUN) / count

        single, alone = await _raced(rounds, (floor.single, steps), (per_step, steps))
        grouped, many = await _raced(rounds, (floor.grouped, RUNS * STEPS_PER_RUN), (per_step_of_many, RUNS * STEPS_PER_RUN))
        latency = percentile(await ours.latency(bench.pick(400, 100)), 0.5)
        talked = await _talked(bench, Talk(engine, commits))
    await connection.close()
    over = 1e3 * (latency - 2 * single)
    return [
        Measurement(
            name="PostgreSQL: one run, sequential steps",
            value=1 / alone,
            unit="steps/s",
            floor=1 / single,
            bar=f"≥ {OF_FLOOR} of its floor",
            met=at_least(single / alone, OF_FLOOR),
        ),
        Measurement(
            name=f"PostgreSQL: {RUNS:,} runs × {STEPS_PER_RUN} steps",
            value=1 / many,
            unit="steps/s",
            floor=1 / grouped,
            bar=f"≥ {CONCURRENT_PER_S:,.0f}/s",
            met=at_least(1 / many, CONCURRENT_PER_S),
        ),
        Measurement(
            name="PostgreSQL: start → result, one step, p50",
            value=1e3 * latency,
            unit="ms",
            better="less",
            floor=2e3 * single,
            bar=f"two commits + {OVER_COMMITS_MS} ms",
            met=at_most(over, OVER_COMMITS_MS),
        ),
        *talked,
    ]


async def _talked(bench: Bench, talk: Talk) -> list[Measurement]:
    await talk.undo(SAGA_STEPS, 3)
    return [
        woken_by_signal(NAMED, await talk.wake_by_signals(10)),
        signalled(NAMED, await talk.signal(bench.pick(200, 50))),
        answered(NAMED, await talk.ask(bench.pick(100, 30))),
        undone(NAMED, await talk.undo(SAGA_STEPS, bench.pick(100, 30))),
    ]


async def _raced(rounds: int, *questions: tuple[Callable[[int], Awaitable[float]], int]) -> list[float]:
    """Medians of seconds per unit, the contenders taking turns."""
    seconds: list[list[float]] = [[] for _ in questions]
    for _ in range(rounds):
        for (verb, count), kept in zip(questions, seconds, strict=True):
            gc.collect()
            kept.append(await verb(count))
    return [median(each) for each in seconds]
