"""
The states that a run publishes, by name: what its code sees, and how the journal records them. Pure.

The two may differ. On replay the code may publish another value than was recorded (a corrected text strands nobody), and goes
on with its own; the next delta must nevertheless be one against what the journal says.
"""

from __future__ import annotations

from msgspec import Raw

from everstep.core.deltas import Chain
from everstep.events import StatePublished


class States:
    """See the module."""

    __slots__ = ("_recorded", "_values")

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._recorded: dict[str, Chain] = {}

    def get(self, name: str) -> bytes | None:
        """What the code published last."""
        return self._values.get(name)

    def publish(self, key: str, name: str, value: bytes) -> StatePublished:
        """The event that records the next value."""
        self._values[name] = value
        data, is_delta = self._chain(name).write(value)
        return StatePublished(key, name, Raw(data), is_delta)

    def follow(self, recorded: StatePublished, value: bytes) -> None:
        """The code published a value again that is recorded so."""
        self._values[recorded.name] = value
        self._chain(recorded.name).read(bytes(recorded.value), is_delta=recorded.is_delta)

    def recorded(self) -> dict[str, Raw]:
        """The newest value of each, as the journal has it."""
        return {name: Raw(chain.value()) for name, chain in self._recorded.items()}

    def _chain(self, name: str) -> Chain:
        return self._recorded.setdefault(name, Chain())
