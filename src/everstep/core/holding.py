"""
When an entry may be written behind: inside a milestone, and in runs whose durability is relaxed. Pure.

What is held is lost as a whole if the process dies, and done again. So nothing may follow from it that this process cannot take
back: whatever leaves it is a barrier, and waits until the entry is durable.
"""

from __future__ import annotations

from collections.abc import Sequence

from everstep.core.program import Program
from everstep.definitions import Step
from everstep.events import (
    REQUEST_SETTLED,
    ChildCancelled,
    ChildSignalled,
    ChildStarted,
    CommandEvent,
    CompensationBegan,
    CompensationEnded,
    Ending,
    MilestoneReached,
    StepScheduled,
)

BARRIERS = (
    ChildStarted,
    ChildCancelled,
    ChildSignalled,
    MilestoneReached,
    CompensationBegan,
    CompensationEnded,
    *REQUEST_SETTLED,
)
"""Commands that others hear of, with an effect on the run's status, or that are there to be durable."""


def may_hold(program: Program, commands: Sequence[CommandEvent], ending: Ending | None) -> bool:
    """Whether what an activation came to may be written later, together with what follows.

    Args:
        program: The code, after the activation.
        commands: What it asked for.
        ending: How it ended, if it did.
    """
    is_relaxed = program.start is not None and program.start.relaxed is not None
    if ending is not None or not (is_relaxed or program.milestone_count):
        return False
    return not any(isinstance(command, BARRIERS) or _must_be_known(program, command) for command in commands)


def _must_be_known(program: Program, command: CommandEvent) -> bool:
    """The command is a step of which it has to be known that it was begun."""
    operation = program.operations.get(command.key) if isinstance(command, StepScheduled) else None
    return operation is not None and isinstance(operation.definition, Step) and operation.definition.must_be_known_first
