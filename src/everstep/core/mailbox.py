"""
Signals that a run has received and its code has not taken, and the waits that found none. Pure.

Per name they are taken in the order in which they arrived, each once. Waits that find none are served in their order.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter

from everstep.core.waits import SignalWait
from everstep.events import SignalReceived


class Mailbox:
    """See the module."""

    __slots__ = ("_count", "_mail", "_waits")

    def __init__(self) -> None:
        self._mail: dict[str, deque[tuple[int, SignalReceived]]] = {}
        self._waits: dict[str, deque[SignalWait]] = {}
        self._count = 0

    def receive(self, signal: SignalReceived) -> None:
        """A signal arrived: the longest waiting code gets it, or it stays here."""
        self._count += 1
        waits = self._waits.get(signal.name)
        if waits:
            waits.popleft().set_result(bytes(signal.value))
        else:
            self._mail.setdefault(signal.name, deque()).append((self._count, signal))

    def left(self) -> list[SignalReceived]:
        """What nobody has taken, in the order in which it arrived."""
        return [signal for _, signal in sorted((each for mail in self._mail.values() for each in mail), key=itemgetter(0))]

    def take(self, wait: SignalWait) -> None:
        """Serve a wait now, or when the next signal of its name arrives."""
        mail = self._mail.get(wait.event.name)
        if mail:
            wait.set_result(bytes(mail.popleft()[1].value))
        else:
            self._waits.setdefault(wait.event.name, deque()).append(wait)

    def close(self) -> None:
        """Nobody waits any more: waits refer to the program that this belongs to."""
        self._waits.clear()

    def forget(self, wait: SignalWait) -> None:
        """The code no longer waits."""
        self._waits[wait.event.name].remove(wait)
