"""
The bounded pool that runs plain functions, and the bodies that outlived their attempt.

A thread cannot be stopped, and a task that swallows its cancel goes on as well. They live on, are counted, and the next attempt
may overlap with them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

logger = logging.getLogger("everstep")


class ThreadPool:
    """The bounded pool for plain functions, and the bodies that outlived their attempt.

    Attributes:
        thread_max: How many bodies may run at once.
    """

    def __init__(self, thread_max: int) -> None:
        self.thread_max = thread_max
        self._executor = ThreadPoolExecutor(thread_max, thread_name_prefix="everstep-step")
        self._free = asyncio.Semaphore(thread_max)
        self._lost: set[Future[Any]] = set()
        self._strays: set[asyncio.Task[None]] = set()

    @property
    def lost_count(self) -> int:
        """Threads that still run a body whose attempt is over."""
        return len(self._lost)

    @property
    def is_exhausted(self) -> bool:
        """Every thread is lost: nothing can be executed here until one comes back."""
        return len(self._lost) >= self.thread_max

    async def run(self, function: Callable[[], Any], name: str, begin: Callable[[], None]) -> tuple[Any, BaseException | None]:
        """Run it in a thread; ``begin`` is called once one is free. If the waiting task is cancelled meanwhile, the thread is
        lost.

        Returns:
            Its result, or None and what it raised. (Not every exception can be raised through a future: StopIteration cannot.)
        """
        await self.reserve()
        return await self.run_reserved(function, name, begin)

    async def reserve(self) -> None:
        """Wait until a thread is free, and keep it for one ``run_reserved`` or ``release``."""
        await self._free.acquire()

    def release(self) -> None:
        """The thread that was reserved is not needed."""
        self._free.release()

    async def run_reserved(
        self, function: Callable[[], Any], name: str, begin: Callable[[], None]
    ) -> tuple[Any, BaseException | None]:
        """Run it in the thread that was reserved; see ``run``."""
        try:
            begin()
            # Asked of the loop rather than of the pool: a loop on virtual time then knows that a thread is at work.
            ended: Future[None] = Future()
            body = partial(_outcome_of, function, ended)
            outcome = asyncio.get_running_loop().run_in_executor(self._executor, contextvars.copy_context().run, body)
        except BaseException:
            self._free.release()
            raise
        try:
            return await outcome
        finally:
            if ended.done() or ended.cancel():  # It can be cancelled only before a thread has begun with it.
                self._free.release()
            else:
                self._lose(ended, name)

    def leave_behind(self, task: asyncio.Task[None], name: str) -> None:
        """A body that goes on although it was told to stop: nobody waits for it any more."""
        logger.warning("step %s goes on although it was cancelled; the next attempt may overlap with it", name)
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)

    def close(self) -> None:
        """Take no more work. Threads that still run are not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _lose(self, future: Future[Any], name: str) -> None:
        if not self._lost:
            logger.warning("a thread of step %s cannot be stopped and lives on; the next attempt may overlap with it", name)
        self._lost.add(future)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda done: _tell(loop, self._regain, done))

    def _regain(self, future: Future[Any]) -> None:
        self._lost.discard(future)
        self._free.release()


def _outcome_of(function: Callable[[], Any], ended: Future[None]) -> tuple[Any, BaseException | None]:
    if not ended.set_running_or_notify_cancel():
        return None, None
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001  # whatever a body raises is its outcome
        return None, error
    finally:
        ended.set_result(None)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[Future[Any]], None], future: Future[Any]) -> None:
    with suppress(RuntimeError):  # The loop was closed meanwhile: nobody counts any more.
        loop.call_soon_threadsafe(callback, future)
