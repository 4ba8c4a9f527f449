"""
Every asynchronous test in this folder runs on virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest

from everstep import client
from everstep.engine import leases, steps, worker
from tests.engine.support import CountedThreads, VirtualLoop, World, a_world, virtual_loop, virtual_time


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}


@contextlib.contextmanager
def engine_on(loop: VirtualLoop) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (client, leases, steps, worker):
            patch.setattr(module, "time", virtual_time(loop.clock), raising=False)
        patch.setattr(steps, "ThreadPoolExecutor", CountedThreads)
        yield


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with engine_on(virtual_loop()):
        async with a_world() as world:
            yield world
