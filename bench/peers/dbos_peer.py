"""
DBOS Transact on SQLite, as its documentation shows it: decorated functions, a workflow started in the background.
"""

# The lint environment may not have it at all; its decorators are then untyped.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from dbos import DBOS, DBOSConfig

from bench.serve import Verb, until

_seen = {"gate": 0.0, "opened_at": 0.0}


@DBOS.step()
async def tiny(i: int) -> int:
    return i + 1


@DBOS.workflow()
async def chain(steps: int) -> int:
    total = 0
    for i in range(steps):
        total = await tiny(i)
    return total


@DBOS.step()
async def gate() -> None:
    """Hold the run here in the process that is going to be killed; let it pass in the one that resumes."""
    _seen["gate"] += 1
    if os.environ.get("BENCH_GATE") == "closed":
        await asyncio.Event().wait()


@DBOS.workflow()
async def interrupted(i: int) -> int:
    first = await tiny(i)
    await gate()
    return await tiny(first)


async def steps(count: int) -> float:
    started = time.perf_counter()
    await (await DBOS.start_workflow_async(chain, count)).get_result()
    return time.perf_counter() - started


async def runs(count: int, steps: int) -> float:
    started = time.perf_counter()
    handles = [await DBOS.start_workflow_async(chain, steps) for _ in range(count)]
    for handle in handles:
        await handle.get_result()
    return time.perf_counter() - started


async def latency(count: int) -> list[float]:
    return [await steps(1) for _ in range(count)]


async def interrupt(count: int) -> None:
    for i in range(count):
        await DBOS.start_workflow_async(interrupted, i)
    await until(lambda: _seen["gate"] >= count)


async def resume(count: int) -> float:
    """Launching resumes by itself; the clock starts before, in `opened`."""
    while await DBOS.list_workflows_async(status=["PENDING", "ENQUEUED"], limit=1):  # it tells nobody
        await asyncio.sleep(0.02)
    if _seen["gate"] < count:
        raise RuntimeError(f"resumed {_seen['gate']:.0f} of {count} runs")
    return time.perf_counter() - _seen["opened_at"]


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": f"sqlite:///{directory / 'dbos.db'}",
        "application_version": "1",
        "log_level": "ERROR",
    }
    _seen["opened_at"] = time.perf_counter()
    DBOS(config=config)
    DBOS.launch()
    yield {"steps": steps, "runs": runs, "latency": latency, "interrupt": interrupt, "resume": resume}
    DBOS.destroy()
