"""
Signals that a run has received and its code has not taken, and the waits that found none. Pure.

Per name they are taken in the order in which they arrived, each once. Waits that find none are served in their order.
"""

from __future__ import annotations

from collections import deque

from everstep.core.waits import SignalWait


class Mailbox:
    """See the module."""

    def __init__(self) -> None:
        self._mail: dict[str, deque[bytes]] = {}
        self._waits: dict[str, deque[SignalWait]] = {}

    def receive(self, name: str, value: bytes) -> None:
        """A signal arrived: the longest waiting code gets it, or it stays here."""
        waits = self._waits.get(name)
        if waits:
            waits.popleft().set_result(value)
        else:
            self._mail.setdefault(name, deque()).append(value)

    def take(self, wait: SignalWait) -> None:
        """Serve a wait now, or when the next signal of its name arrives."""
        mail = self._mail.get(wait.event.name)
        if mail:
            wait.set_result(mail.popleft())
        else:
            self._waits.setdefault(wait.event.name, deque()).append(wait)

    def forget(self, wait: SignalWait) -> None:
        """The code no longer waits."""
        self._waits[wait.event.name].remove(wait)
