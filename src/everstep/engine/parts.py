"""
What a driver is made of, and the flow through it. Each part owns its data; nobody else changes it.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from everstep.core.execution import Execution
from everstep.engine.drafts import Drafts
from everstep.engine.facts import Facts
from everstep.engine.holding import Holding
from everstep.engine.intake import Intake
from everstep.engine.slot import AppendSlot
from everstep.engine.underway import Underway
from everstep.records import Micros
from everstep.stores.base import Append


class Parts(Struct, frozen=True):
    """See the module.

    Attributes:
        facts: About the run.
        execution: Its code and its journal.
        intake: What has arrived and is in no entry.
        slot: The place of the next entry.
        drafts: What is written, and what of it has landed.
        underway: Steps, timers and the time limit.
        holding: How long entries may be held back.
    """

    facts: Facts
    execution: Execution
    intake: Intake
    slot: AppendSlot
    drafts: Drafts
    underway: Underway
    holding: Holding

    def drop(self) -> None:
        """Stop all of it: the run leaves memory."""
        self.underway.stop()
        self.holding.rest()
        self.execution.program.evict()


class Flow(Protocol):
    """The driver, as its parts and whoever writes beside its entries see it."""

    def left(self, wake_at: Micros | None) -> None:
        """The run is no longer driven here."""
        ...

    def go(self) -> None:
        """Make the next entry if there is reason to."""
        ...

    def flush(self) -> None:
        """Write what is held back."""
        ...

    def leave_if_asked(self) -> None:
        """Leave, if the run only waits for its bodies to end."""
        ...

    def note_landed(self, append: Append) -> None:
        """The run stands after this entry."""
        ...

    def replied(self) -> None:
        """A request has its reply."""
        ...


class _Nowhere:
    """What is left of a driver whose run has left: nothing happens any more."""

    def left(self, wake_at: Micros | None) -> None:
        pass

    def go(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def leave_if_asked(self) -> None:
        pass

    def note_landed(self, append: Append) -> None:
        pass

    def replied(self) -> None:
        pass


NOWHERE: Flow = _Nowhere()
"""A driver and its parts know each other, and would keep each other in memory until the garbage collector comes. It comes
seldom, finds the things of a thousand dead runs at once, and holds up the host's loop for as long as it takes to free them."""
