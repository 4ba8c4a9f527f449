"""
What of a run is under way: its steps, its timers, its time limit. Owner of all of them.

A command is obeyed here once its entry has landed. What comes of it is an input, which the driver is told. After a replay the
same is begun again for whatever the journal leaves open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, Protocol

from everstep.codec import describe_error
from everstep.core.attempts import plan_attempt
from everstep.core.execution import Execution
from everstep.core.waits import Operation
from everstep.engine.alarms import Alarm
from everstep.engine.facts import Facts
from everstep.engine.host import Host
from everstep.engine.parking import wake_at_if_parked
from everstep.engine.steps import StepRun
from everstep.engine.transact import Recorder, TransactionRun
from everstep.events import (
    ChildCancelled,
    ChildSignalled,
    ChildStarted,
    CommandEvent,
    CompensationBegan,
    CompensationEnded,
    DeadlinePassed,
    Input,
    MilestoneReached,
    NoteRecorded,
    PatchApplied,
    RequestAnswered,
    RequestAwaited,
    RequestFailed,
    RequestHandlerSet,
    RequestRefused,
    RequestWaitCancelled,
    ResultReused,
    SignalAwaited,
    SignalWaitCancelled,
    StatePublished,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
    StopRequested,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everstep.records import AttemptRecord, ErrorRecord, Micros
from everstep.transactions import Transaction


class Owner(Protocol):
    """The driver: whom everything that is under way is reported to."""

    @property
    def recorder(self) -> Recorder:
        """Writes what transactional steps come to."""
        ...

    def deliver(self, event: Input) -> None:
        """An input has arrived."""
        ...

    def hand_back(self) -> None:
        """The run goes on elsewhere."""
        ...

    def waits(self, record: AttemptRecord) -> None:
        """A step will be tried again: write the row before the wait."""
        ...


class _Nobody:
    """Whom steps report to that end after their run has left."""

    @property
    def recorder(self) -> Recorder:
        raise AssertionError("nothing is begun any more")

    def deliver(self, event: Input) -> None:
        pass

    def hand_back(self) -> None:
        pass

    def waits(self, record: AttemptRecord) -> None:
        pass


_NOBODY: Owner = _Nobody()


class Underway:
    """See the module. It is what steps report to (``StepHost``).

    Attributes:
        steps: Those that were begun and are not over, by key.
        begins_nothing: The run is about to leave: a step that is asked for now is begun by whoever goes on with it.
        storable: Gives back the bytes that it gets if they can be stored, and raises Unencodable if not.
    """

    __slots__ = (
        "_alarms",
        "_deadline",
        "_execution",
        "_facts",
        "_host",
        "_keeper",
        "_owner",
        "begins_nothing",
        "steps",
        "storable",
    )

    def __init__(self, owner: Owner, host: Host, execution: Execution, facts: Facts) -> None:
        self.steps: dict[str, StepRun] = {}
        self.begins_nothing = False
        self._owner = owner
        self._host = host
        self._execution = execution
        self._keeper = execution.keeper
        self.storable = execution.keeper.check
        self._facts = facts
        self._alarms: dict[str, Alarm] = {}
        self._deadline: Alarm | None = None

    @property
    def is_busy(self) -> bool:
        """A body is being executed."""
        return any(step.waits_until is None for step in self.steps.values())

    def bodies(self) -> list[asyncio.Task[None]]:
        """The tasks that execute bodies now."""
        return [step.body for step in self.steps.values() if step.body is not None]

    def rows(self) -> tuple[AttemptRecord, ...]:
        """How far each step is, for whoever goes on with the run."""
        return tuple(step.record(to_resume=True) for step in self.steps.values())

    def dirty_rows(self) -> list[AttemptRecord]:
        """Heartbeat details that are not written yet; they count as written from here on."""
        dirty = [step for step in self.steps.values() if step.is_dirty]
        for step in dirty:
            step.is_dirty = False
        return [step.record() for step in dirty]

    def wake_at_if_parked(self) -> Micros | None:
        """When the run should be looked at again if it left memory now; None if it should stay."""
        return wake_at_if_parked(self._execution.program, self.steps, self._facts.deadline_at, self._host.tools.now)

    # --- beginning --------------------------------------------------------------------------------------------------------

    def obey(self, commands: Sequence[CommandEvent]) -> None:
        """Do what an entry asked for."""
        for command in commands:
            match command:
                case StepScheduled(key=key):
                    operation = self._execution.program.operations.get(key)
                    if operation is not None:
                        self._start_step(operation, None)
                case StepCancelled(key=key):
                    self.stop_step(key)
                case StopRequested(key=key):
                    step = self.steps.get(key)
                    if step is not None:
                        step.wind_up(command)
                case TimerStarted():
                    if command.key in self._execution.program.timers:
                        self._arm(command)
                case TimerCancelled(key=key):
                    alarm = self._alarms.pop(key, None)
                    if alarm is not None:
                        alarm.cancel()
                case ChildStarted() | ChildCancelled() | ChildSignalled():
                    pass  # The child, or the message to it, was part of the entry.
                case CompensationBegan() | CompensationEnded():
                    pass  # The status of the run was part of the entry.
                case (
                    SignalAwaited()
                    | SignalWaitCancelled()
                    | StatePublished()
                    | NoteRecorded()
                    | PatchApplied()
                    | MilestoneReached()
                ):
                    pass  # These are done by being recorded.
                case ResultReused():
                    pass  # The code has its outcome already.
                case RequestHandlerSet() | RequestAwaited() | RequestWaitCancelled():
                    pass  # The same.
                case RequestAnswered() | RequestRefused() | RequestFailed():
                    pass  # The reply was part of the entry.
        self._watch_deadline()

    def begin_again(self, rows: Mapping[str, AttemptRecord], ended: Container[str]) -> None:
        """After a replay: start whatever the journal leaves open.

        Args:
            rows: How far unfinished steps were, by key.
            ended: Steps of which the outcome is known, and that the code has yet to see.
        """
        program = self._execution.program
        for key, operation in list(program.operations.items()):
            if key in ended:
                continue
            if isinstance(operation.event, StepScheduled):
                self._start_step(operation, rows.get(key))
            else:
                self._host.learn(operation.definition)  # type: ignore[arg-type]  # a child's definition is a workflow
        for timer in program.timers.values():
            self._arm(timer.event)
        self._watch_deadline()

    def _start_step(self, operation: Operation, row: AttemptRecord | None) -> None:
        if self.begins_nothing:
            return  # Whoever claims the run next begins it: an at-most-once step must not be begun only to be cut off.
        tools = self._host.tools
        now = 0 if row is None else tools.now()
        plan = plan_attempt(row, scheduled_after=operation.recoveries, recoveries=self._execution.recoveries, now=now)
        kind = TransactionRun if isinstance(operation.definition, Transaction) else StepRun
        step = kind(self, tools, self._facts.run_key, operation, plan)
        self.steps[step.key] = step
        step.start()

    def _arm(self, timer: TimerStarted) -> None:
        def ring() -> None:
            self._alarms.pop(timer.key, None)
            self._owner.deliver(TimerFired(timer.key))

        self._alarms[timer.key] = Alarm(self._host.tools.now, timer.due_at, ring)

    def _watch_deadline(self) -> None:
        due_at = self._facts.deadline_at
        if due_at is not None and self._deadline is None and self._execution.program.cancel_requested is None:
            self._deadline = Alarm(self._host.tools.now, due_at, lambda: self._owner.deliver(DeadlinePassed()))

    # --- ending -----------------------------------------------------------------------------------------------------------

    def drop(self, key: str) -> None:
        """The step is over."""
        self.steps.pop(key, None)

    def stop_step(self, key: str) -> None:
        """Nobody wants its outcome any more."""
        step = self.steps.pop(key, None)
        if step is not None:
            step.stop()

    def stop_segment(self) -> None:
        """Nobody wants the outcomes of what the code has asked for: it has begun again. The time limit stays."""
        self.stop_steps(list(self.steps))
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()

    def stop_steps(self, keys: Collection[str]) -> None:
        """The same of several steps."""
        for key in keys:
            self.stop_step(key)

    def stop(self) -> None:
        """The driver is done with the run, and hears no more of it (see ``NOWHERE``)."""
        self.stop_segment()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._owner = _NOBODY

    # --- what steps ask and report (StepHost) -----------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """Its run."""
        return self._facts.run_id

    @property
    def epoch(self) -> int:
        """Its fencing token."""
        return self._facts.epoch

    @property
    def run_token(self) -> str:
        """What no other run ever has."""
        return self._facts.token(self._keeper)

    @property
    def recoveries(self) -> int:
        """How often the run was taken over."""
        return self._execution.recoveries

    @property
    def recorder(self) -> Recorder:
        """Writes what transactional steps come to."""
        return self._owner.recorder

    def finished(self, event: StepCompleted | StepFailed | StepOutcomeUnknown) -> None:
        """A step has its outcome."""
        self.steps.pop(event.key, None)
        self._owner.deliver(event)

    def described(self, error: BaseException) -> ErrorRecord:
        """What is recorded of a step's failure."""
        return self._keeper.redacted(describe_error(error))

    def seal_witness(self, key: str, data: bytes) -> bytes:
        """The result of a step, as it is stored in the user's database."""
        return self._keeper.seal_witness(key, data)

    def open_witness(self, key: str, data: bytes) -> bytes:
        """The opposite."""
        return self._keeper.open_witness(key, data)

    def logged(self, value: Any) -> Any:
        """What of a value may go into logs."""
        return self._keeper.logged(value)

    def interrupted(self) -> None:
        """The program is ending around a step: the run goes on elsewhere."""
        self._owner.hand_back()

    def waits(self, record: AttemptRecord) -> None:
        """A step failed and will be tried again."""
        self._owner.waits(record)
