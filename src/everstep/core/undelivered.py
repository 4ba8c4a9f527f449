"""
Signals that a run was sent and its code has not taken. Pure, a fold over events.

Of a run at rest nobody will take them any more: they are kept, and can be listed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from everstep.events import Event, RunContinued, RunRetried, SignalAwaited, SignalReceived, SignalWaitCancelled


def untaken(events: Iterable[Event]) -> list[SignalReceived]:
    """What arrived and was not taken, in the order in which it arrived."""
    received: list[SignalReceived] = []
    left: list[SignalReceived] = []
    waits: deque[SignalAwaited] = deque()
    for event in events:
        match event:
            case SignalReceived(name=name):
                received.append(event)
                wait = next((each for each in waits if each.name == name), None)
                if wait is None:
                    left.append(event)
                else:
                    waits.remove(wait)
            case SignalAwaited(name=name):
                signal = next((each for each in left if each.name == name), None)
                if signal is None:
                    waits.append(event)
                else:
                    left = [each for each in left if each is not signal]
            case SignalWaitCancelled(key=key):
                waits = deque(each for each in waits if each.key != key)
            case RunRetried():
                left, waits = list(received), deque()  # They are there again.
            case RunContinued():
                received, left, waits = [], [], deque()  # What was not taken arrives again, in the same entry.
            case _:
                pass
    return left
