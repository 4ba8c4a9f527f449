"""
Who has not yet heard that something changed. Shared by all workers and clients of one store object, on one event loop.

A worker asks the store, finds nothing, and waits. What changes in between must not be lost, so a change is remembered for each
worker until that worker has waited for it; what a worker changed by itself is no news to it. A client without a worker has no
such memory: it looks and at once waits, and on one event loop nothing can happen in between.
"""

from __future__ import annotations

import asyncio

from everstep.records import WorkerKey


class Changes:
    """Remembers changes, and wakes those who wait for one."""

    def __init__(self) -> None:
        self._news: dict[WorkerKey, bool] = {}
        self._waiters: dict[asyncio.Future[bool], WorkerKey | None] = {}

    def join(self, worker_key: WorkerKey) -> None:
        """Remember changes for this worker from now on."""
        self._news[worker_key] = False

    def leave(self, worker_key: WorkerKey) -> None:
        """Forget the worker, and wake it if it waits."""
        self._news.pop(worker_key, None)
        self.mark()

    def mark(self, by: WorkerKey | None = None) -> None:
        """Something changed. ``by`` knows already."""
        for worker_key in self._news:
            if worker_key != by:
                self._news[worker_key] = True
        for waiter, waiting in self._waiters.items():
            if (waiting is None or waiting != by) and not waiter.done():
                waiter.set_result(True)

    def heard(self, worker_key: WorkerKey | None) -> bool:
        """Tell whether there is news for this worker, and take it as heard."""
        if worker_key is None or not self._news.get(worker_key, False):
            return False
        self._news[worker_key] = False
        return True

    async def wait(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """Wait for news for this worker, at most ``timeout`` seconds. True if there is some."""
        if self.heard(worker_key):
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        alarm = loop.call_later(max(0.0, timeout), _time_is_up, waiter)
        self._waiters[waiter] = worker_key
        try:
            changed = await waiter
        finally:
            alarm.cancel()
            del self._waiters[waiter]
        self.heard(worker_key)
        return changed


def _time_is_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
