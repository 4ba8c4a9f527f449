"""
Who waits for news of which run: a result, a reply, or that the run is driven here.

Being told means only that it is worth looking. Whoever no longer waits leaves nothing behind.
"""

from __future__ import annotations

import asyncio


class Watchers:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def wait(self, run_id: str, timeout: float) -> None:
        """Wait until there is news of a run, or the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._forget(run_id, future)

    def tell(self, run_id: str) -> None:
        """There is news of this run."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(None)

    def tell_all(self) -> None:
        """Others changed something, nobody knows of which run."""
        for run_id in list(self._waiting):
            self.tell(run_id)

    def _forget(self, run_id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(run_id, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop(run_id, None)
