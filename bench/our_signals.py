"""
A run that parks, and is woken by one signal after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw

import everstep as es
from bench.ours import count_on, counts, url
from bench.serve import Verb

# Signals come in a later version than this row: until then it has nothing to measure, which is no failure.
go: Any = es.signal("go", int) if hasattr(es, "signal") else None


@es.workflow
async def woken(times: int) -> int:
    return sum([await go.wait() for _ in range(times)])


# Long enough to park again after each signal: what is counted is commits, not time.
PARKED_S = 0.3


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    apsw.connection_hooks.append(count_on)
    async with es.Engine(url(directory), workflows=[woken]) as engine:

        async def wake_by_signals(times: int) -> float | None:
            """Commits for each wake-up of a parked run, that of the signal included."""
            if go is None:
                return None
            handle: Any = await engine.start(woken(times))
            await asyncio.sleep(PARKED_S)
            before = counts()["commits"]
            for i in range(times):
                await handle.send(go, i)
                await asyncio.sleep(PARKED_S)
            await handle.result()
            return (counts()["commits"] - before) / times

        yield {"wake_by_signals": wake_by_signals}
