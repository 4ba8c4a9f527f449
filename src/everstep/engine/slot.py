"""
The place of a run's next entry: whoever has it makes that entry, and nobody else makes one meanwhile.

That is how at most one entry of a run is in flight. The driver takes the place for as long as a commit lasts, and while it
starts what an entry asked for, so that what is known at once is applied together. A transactional step takes it before its
body begins; such steps queue for it.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Callable


class AppendSlot:
    """See the module.

    Attributes:
        is_taken: Somebody makes the next entry, or it is in flight.
    """

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_asked(self) -> bool:
        """A step waits for it."""
        return bool(self._waiting) and any(not turn.done() for turn in self._waiting)

    def grant(self) -> bool:
        """Give it to the step that waits longest; whether there was one. It must be free."""
        while self._waiting:
            turn = self._waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                self.is_taken = True
                return True
        return False

    async def wait(self, ask: Callable[[], None]) -> None:
        """Wait until it is the caller's, who frees it by ``is_taken = False``.

        Args:
            ask: Called once the caller stands in the queue; and again if the slot was given to him when he was being cancelled,
                for whoever comes next.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        ask()
        try:
            await turn
        except CancelledError:
            if turn.done() and not turn.cancelled():
                self.is_taken = False
                ask()
            raise
