"""Drivers that block, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(executor: Executor | None, work: Callable[[], T]) -> T:
    """Do ``work`` in a thread of the executor, or in one of the loop's.

    Whoever is cancelled meanwhile still waits for its end: the connection that it works with may not be touched before.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    is_cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        future.exception()  # It is nobody's now.
        raise asyncio.CancelledError
    return future.result()
