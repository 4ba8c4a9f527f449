"""
A program that only starts runs: an `everstep.Client` in a process without a worker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import everstep as es
from bench.ours import noticed, url
from bench.serve import Verb

# Longer than any poll interval that could pass for a wake-up, and jittered, so that no start falls in step with one.
PAUSE_S = (0.15, 0.3)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    async with es.Client(url(directory)) as client:

        async def wake(count: int) -> list[float]:
            """How long after an acknowledged start its first step began in the worker's process."""
            delays = []
            for _ in range(count):
                await asyncio.sleep(random.uniform(*PAUSE_S))
                handle = await client.start(noticed())
                acknowledged = time.monotonic()
                delays.append(max(0.0, await handle.result() - acknowledged))
            return delays

        yield {"wake": wake}
