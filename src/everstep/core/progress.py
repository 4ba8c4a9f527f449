"""
How far a run is, and what it waits for: what is open, which attempt of it is next, why the last one failed. Pure.

The journal says what was asked for and when. What happens between two attempts stands in rows beside it: here both come
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from everstep.core.attempts import plan_attempt
from everstep.core.snapshots import instant
from everstep.events import (
    ENDINGS,
    ChildCancelled,
    ChildFailed,
    ChildRefused,
    ChildStarted,
    ChildSucceeded,
    Event,
    RunDied,
    RunDiscarded,
    RunResumed,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
)
from everstep.journal import Entry, decode_verified, verify_chain
from everstep.records import AttemptRecord, ErrorRecord, Micros, RunRecord, Status

_FINISHED = (
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepCancelled,
    StepOverridden,
    ChildSucceeded,
    ChildFailed,
    ChildRefused,
    ChildCancelled,
)


class OpenStep(Struct, frozen=True):
    """A step or child that was asked for and has no outcome yet.

    Attributes:
        key: Of its command.
        name: Of the step, or of the child's workflow.
        since: When it was asked for.
        attempt: The attempt that runs, or that is due next.
        failures: How many attempts have raised.
        failures_max: So many failures end it; None for no limit, or if none has happened yet.
        due_at: When that attempt may start; None if it may run already.
        error: What the last failure was, without its traceback; None if there was none.
        child_run_id: The child's run; empty for a step.
    """

    key: str
    name: str
    since: datetime
    attempt: int = 1
    failures: int = 0
    failures_max: int | None = None
    due_at: datetime | None = None
    error: ErrorRecord | None = None
    child_run_id: str = ""


class Progress(Struct, frozen=True):
    """What a run is doing.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        status: Where it stands.
        version: Number of its newest entry.
        step: The step or child that was asked for last and is open; empty if none is.
        cursor: How many steps and children it has asked for.
        since: When that step was asked for; if none is open, when the newest entry was made.
        wake_at: When a worker looks at it again, if it waits for an instant.
        open_steps: All steps and children that are open, in the order in which they were asked for.
    """

    run_id: str
    workflow: str
    status: Status
    version: int
    step: str
    cursor: int
    since: datetime
    wake_at: datetime | None
    open_steps: tuple[OpenStep, ...]


def progress(run: RunRecord, entries: Sequence[Entry], rows: Iterable[AttemptRecord], now: Micros) -> Progress:
    """See Progress.

    Args:
        run: The run.
        entries: Its journal, to the version of ``run``.
        rows: Of its attempts.
        now: The store's clock.

    Raises:
        CorruptJournal: The chain does not verify.
    """
    verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
    reader = _Reader()
    for entry in entries:
        for event in decode_verified(entry, run.run_id):
            reader.note(event, entry.at)
    by_key = {row.key: row for row in rows}
    steps = tuple(reader.open_step(key, asked, by_key.get(key), now) for key, asked in reader.open.items())
    return Progress(
        run_id=run.run_id,
        workflow=run.workflow,
        status=run.status,
        version=run.version,
        step=steps[-1].name if steps else "",
        cursor=run.cursor,
        since=steps[-1].since if steps else instant(run.updated_at),
        wake_at=instant(run.wake_at) if run.wake_at is not None and now < run.wake_at else None,
        open_steps=steps,
    )


class _Asked(Struct, frozen=True):
    name: str
    at: Micros
    recoveries: int
    child_run_id: str = ""


class _Reader:
    """What is open, while events are read."""

    def __init__(self) -> None:
        self.open: dict[str, _Asked] = {}
        self._recoveries = 0

    def note(self, event: Event, at: Micros) -> None:
        """One event."""
        if isinstance(event, StepScheduled):
            self.open[event.key] = _Asked(event.step, at, self._recoveries)
        elif isinstance(event, ChildStarted):
            self.open[event.key] = _Asked(event.workflow, at, self._recoveries, event.run_id)
        elif isinstance(event, _FINISHED):
            self.open.pop(event.key, None)
        elif isinstance(event, RunResumed):
            self._recoveries += 1
        elif isinstance(event, (*ENDINGS, RunDied, RunDiscarded)):
            self.open.clear()

    def open_step(self, key: str, asked: _Asked, row: AttemptRecord | None, now: Micros) -> OpenStep:
        """An open step with what is known of its attempts."""
        if asked.child_run_id:
            return OpenStep(key, asked.name, instant(asked.at), child_run_id=asked.child_run_id)
        plan = plan_attempt(row, scheduled_after=asked.recoveries, recoveries=self._recoveries, now=now)
        return OpenStep(
            key=key,
            name=asked.name,
            since=instant(asked.at),
            attempt=plan.attempt,
            failures=plan.failures,
            failures_max=None if row is None else row.failures_max,
            due_at=None if plan.due_at is None else instant(plan.due_at),
            error=None if plan.error is None else msgspec.json.decode(plan.error, type=ErrorRecord),
        )
