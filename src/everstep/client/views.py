"""What is told of runs to people: an entry, a dead letter, a signal that nobody took."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from everstep.client.outcomes import last_event
from everstep.core.snapshots import instant
from everstep.events import Event, RunDied
from everstep.payloads import PLAIN, Payloads
from everstep.records import RunRecord


class HistoryEntry(Struct, frozen=True):
    """One entry of a journal, for reading.

    Attributes:
        version: Its number.
        at: When it was made, an aware datetime.
        epoch: Under which claim.
        hash: Hex.
        events: What happened.
    """

    version: int
    at: Any
    epoch: int
    hash: str
    events: tuple[Event, ...]


class DeadLetter(Struct, frozen=True):
    """A run that the engine gave up on.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        step: The step that it last asked for.
        reason: Why it was given up.
        died_at: When, an aware datetime.
    """

    run_id: str
    workflow: str
    step: str
    reason: str
    died_at: datetime


def dead_letter(run: RunRecord, payloads: Payloads = PLAIN) -> DeadLetter:
    """What is told of a dead run."""
    last = last_event(run, payloads)
    reason = last.reason if isinstance(last, RunDied) else "its last entry cannot be read"
    return DeadLetter(run.run_id, run.workflow, run.step, reason, instant(run.updated_at))


class UndeliveredSignal(Struct, frozen=True):
    """A signal that a run accepted and has not taken.

    Attributes:
        name: Of the signal.
        value: As plain JSON values.
        key: What it was deduplicated by; empty for nothing.
    """

    name: str
    value: Any
    key: str
