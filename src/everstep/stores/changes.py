"""
Who has not yet heard that something changed. Shared by all workers and clients of one store object, on one event loop.

A worker asks the store, finds nothing, and waits. What changes in between must not be lost, so a change is remembered for each
worker until that worker has waited for it; what a worker changed by itself is no news to it. A client without a worker has no
such memory: it looks and at once waits, and on one event loop nothing can happen in between. It counts from when it began.
"""

from __future__ import annotations

import asyncio

from everstep.records import WorkerKey


class Changes:
    """Remembers changes, and wakes those who wait for one.

    Attributes:
        count: How many there have been.
    """

    def __init__(self) -> None:
        self.count = 0
        self._news: dict[WorkerKey, bool] = {}
        self._waiters: dict[asyncio.Future[None], WorkerKey | None] = {}

    def join(self, worker_key: WorkerKey) -> None:
        """Remember changes for this worker from now on."""
        self._news[worker_key] = False

    def leave(self, worker_key: WorkerKey) -> None:
        """Forget the worker; its runs are now anybody's."""
        self._news.pop(worker_key, None)
        self.mark()

    def mark(self, by: WorkerKey | None = None) -> None:
        """Something changed. ``by`` knows already."""
        self.count += 1
        for worker_key in self._news:
            if worker_key != by:
                self._news[worker_key] = True
        for waiter, waiting in self._waiters.items():
            if waiting is None or waiting != by:
                _wake(waiter)

    async def wait(self, worker_key: WorkerKey | None, since: int, timeout: float) -> bool:
        """Wait for news, at most ``timeout`` seconds. True if there is some, which is then taken as heard.

        Args:
            worker_key: Who waits; None for a client.
            since: A client's news are the changes after this ``count``.
            timeout: Seconds.
        """
        if self._hears(worker_key, since):
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        alarm = loop.call_later(max(0.0, timeout), _wake, waiter)
        self._waiters[waiter] = worker_key
        try:
            await waiter
        finally:
            alarm.cancel()
            del self._waiters[waiter]
        # Asked anew, not told by the waker: a change may come after the alarm, before we run again.
        return self._hears(worker_key, since)

    def _hears(self, worker_key: WorkerKey | None, since: int) -> bool:
        if worker_key is None:
            return self.count != since
        has_news = self._news.get(worker_key, False)
        if has_news:
            self._news[worker_key] = False
        return has_news


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
