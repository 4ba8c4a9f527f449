"""
Entries that transactional steps make: each holds one result and nothing else, and is committed with the user's SQL.

The driver makes no entry meanwhile, for the step has the append slot. Once it has landed, the code goes on in the next entry.
"""

from __future__ import annotations

from everstep.engine.host import Host
from everstep.engine.leaving import Leaving
from everstep.engine.parts import Flow, Parts
from everstep.events import StepCompleted
from everstep.stores.base import Append, Slot


class Recording:
    """See the module. It is what transactional steps write through (``Recorder``)."""

    __slots__ = ("_flow", "_host", "_leaving", "_parts")

    def __init__(self, flow: Flow, host: Host, parts: Parts, leaving: Leaving) -> None:
        self._flow = flow
        self._host = host
        self._parts = parts
        self._leaving = leaving

    async def take_slot(self) -> Slot:
        """Wait until no entry is in flight; from then on none is made but that of the caller."""
        await self._parts.slot.wait(self._flow.go)
        facts = self._parts.facts
        return Slot(run_key=facts.run_key, version=facts.version + 1, epoch=facts.epoch, worker_key=self._host.worker_key)

    def free_slot(self) -> None:
        """No entry was made."""
        self._parts.slot.is_taken = False

    def go_on(self) -> None:
        """See to what arrived meanwhile."""
        self._flow.go()
        self._flow.leave_if_asked()

    def alone(self, event: StepCompleted) -> Append:
        """The entry that holds this result and nothing else."""
        return self._parts.drafts.of_result(event)

    def recorded(self, append: Append, event: StepCompleted) -> None:
        """It has landed."""
        self.free_slot()
        if not self._leaving.is_over:
            self._parts.underway.drop(event.key)
            self._parts.execution.adopt(append.entry, [event])
            self._flow.note_landed(append)
            self.go_on()

    def abandon(self) -> None:
        """Somebody else owns the run."""
        self._leaving.abandon()
