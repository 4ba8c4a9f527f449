"""
When a run may leave memory: nothing of it is being executed, and it waits for longer than coming back costs. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from everstep.core.program import Program
from everstep.events import StepScheduled
from everstep.records import Micros

PARK_SECONDS = 1.0
"""A run that waits longer than this leaves memory: coming back costs one commit and a replay, a few milliseconds at most."""
NEVER: Micros = 1 << 62
"""Only a message can wake the run."""


class Waiting(Protocol):
    """A step, as far as parking is concerned."""

    @property
    def waits_until(self) -> Micros | None:
        """When its next attempt is due; None while one is executed."""
        ...


def wake_at_if_parked(
    program: Program, steps: Mapping[str, Waiting], deadline_at: Micros | None, now: Callable[[], Micros]
) -> Micros | None:
    """When the run should be looked at again if it left memory now; None if it should stay.

    Args:
        program: Its code, after the activation that is about to be written.
        steps: Steps that have been started, by key. One that is only about to be started is missing, and keeps the run here; so
            does one that waits for its next attempt and is about to be told that there will be none.
        deadline_at: The run's own time limit.
        now: The store's clock. Not asked while something of the run is being executed.
    """
    dues: list[Micros] = []
    for key, operation in program.operations.items():
        if isinstance(operation.event, StepScheduled):
            step = steps.get(key)
            if step is None or step.waits_until is None or operation.stopping is not None:
                return None
            dues.append(step.waits_until)
    dues += [timer.event.due_at for timer in program.timers.values()]
    if deadline_at is not None and program.cancel_requested is None:
        dues.append(deadline_at)
    wake_at = min(dues, default=NEVER)
    return wake_at if wake_at - now() > PARK_SECONDS * 1e6 else None


def due(wake_at: Micros) -> Micros | None:
    """How a store is told: None for a run that only a message can wake."""
    return None if wake_at == NEVER else wake_at
