"""
What a journal says of the undoing of steps: what has been undone, and what is left. Pure, a fold over events.
"""

from __future__ import annotations

from everstep.events import (
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    CompensationEnded,
    Event,
    RunDied,
    StepCompleted,
    StepScheduled,
)
from everstep.records import UndoRecord


def show_undo(record: UndoRecord) -> str:
    """For people: ``refund (undoes charge)``."""
    if not record.step:
        return record.undo
    perhaps = "perhaps " if record.maybe else ""
    return f"{record.undo or 'nothing that is known'} (undoes {perhaps}{record.step})"


class Undone:
    """See the module. Fed with all events of a run in order.

    Attributes:
        done: What has been undone, in the order in which it was.
        left: What is left to undo, in the order in which it will be.
    """

    def __init__(self) -> None:
        self.done: list[UndoRecord] = []
        self._plans: dict[str, list[UndoRecord]] = {}
        self._asked: dict[str, UndoRecord] = {}
        self._given_up: tuple[UndoRecord, ...] = ()

    @property
    def is_compensating(self) -> bool:
        """A saga is undoing its steps."""
        return bool(self._plans)

    @property
    def left(self) -> list[UndoRecord]:
        """See the class. Of a run that was given up it is all that its sagas held, not only the one that was undoing."""
        return list(self._given_up) or [record for plan in self._plans.values() for record in plan]

    def apply(self, event: Event) -> None:
        """Apply one event; most say nothing about this."""
        match event:
            case CompensationBegan(key=key, plan=plan):
                self._plans[key] = list(plan)
            case CompensationEnded(key=key):
                self._plans.pop(key, None)
            case StepScheduled(undoes=str(undoes), step=name) | ChildStarted(undoes=str(undoes), workflow=name):
                self._asked[event.key] = UndoRecord(name, key=undoes, maybe=event.maybe)
            case StepCompleted(key=key) | ChildSucceeded(key=key) if key in self._asked:
                self._settle(self._asked.pop(key))
            case RunDied(undo_left=left):
                self._given_up = left
            case _:
                pass

    def _settle(self, asked: UndoRecord) -> None:
        for plan in self._plans.values():
            for place, record in enumerate(plan):
                if (record.undo, record.key) == (asked.undo, asked.key):
                    self.done.append(plan.pop(place))
                    return
