"""
Drive one run that this worker owns: inputs in, one entry at a time, then what the entry asked for.

    input ──▶ queue ──▶ activate ──▶ commit ──▶ landed: start steps, arm timers ──▶ …
                           ▲                      │
                           └── more inputs came ◀─┘

Rules:

* One entry is in flight at most. What arrives meanwhile waits for the next.
* Nothing that an entry asks for is done before the entry is durable.
* A run that only waits is parked in the entry that says so, and leaves memory.
* Fenced means somebody else owns the run: stop everything, write nothing. Any doubt about what is stored ends the same way: the
  memory is dropped and made anew from the journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Protocol

import msgspec

from everstep.codec import describe_error
from everstep.core.attempts import plan_attempt
from everstep.core.execution import Activation, Closed, Execution, Held
from everstep.core.program import Program
from everstep.core.reuse import Ledger
from everstep.core.transitions import Happened, next_status, while_driven
from everstep.core.waits import Operation
from everstep.definitions import Workflow
from everstep.engine.alarms import Alarm
from everstep.engine.committer import Committer
from everstep.engine.facts import Ended, Facts
from everstep.engine.family import FAMILIAR, children_of, posts_of
from everstep.engine.intake import Intake, replies_of
from everstep.engine.parking import AT_ONCE, due, wake_at_if_parked
from everstep.engine.steps import StepRun, Tools
from everstep.engine.transact import TransactionRun, Turns
from everstep.errors import CorruptJournal, EverstepError, PayloadKeyMissing
from everstep.events import (
    ChildCancelled,
    ChildSignalled,
    ChildStarted,
    CommandEvent,
    CompensationBegan,
    CompensationEnded,
    DeadlinePassed,
    Event,
    Input,
    MilestoneReached,
    NoteRecorded,
    PatchApplied,
    PauseRequested,
    RequestAnswered,
    RequestAwaited,
    RequestFailed,
    RequestHandlerSet,
    RequestRefused,
    RequestWaitCancelled,
    ResultReused,
    RunCancelled,
    RunDied,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    SignalAwaited,
    SignalWaitCancelled,
    StatePublished,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
    StopRequested,
    SuffixLost,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everstep.journal import Entry, seal_bytes
from everstep.payloads import Payloads
from everstep.records import AttemptRecord, ErrorRecord, Message, Micros, Relaxed, Status, WorkerKey
from everstep.stores.base import (
    Append,
    Behind,
    Claimed,
    Exists,
    Fenced,
    Keep,
    Landed,
    NewRun,
    Outcome,
    Post,
    Refused,
    Reply,
    Slot,
    TooEarly,
)
from everstep.transactions import Transaction

logger = logging.getLogger("everstep")

TOO_EARLY_SECONDS = 0.05
MILESTONE_BOUND = Relaxed(seconds=5.0, steps=1_000)
"""Of a milestone in a durable run: an entry must not grow for ever, nor must what is done again after a crash."""
STEP_OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown)
"""Inputs that exist nowhere but in memory until an entry has them: messages stay in the inbox, alarms ring again."""

_HAPPENED = {
    RunSucceeded: Happened.SUCCEEDED,
    RunFailed: Happened.FAILED,
    RunCancelled: Happened.CANCELLED,
    RunDied: Happened.DIED,
}


class DriverHost(Protocol):
    """The worker, as its drivers see it."""

    worker_key: WorkerKey
    tools: Tools
    committer: Committer
    payloads: Payloads

    @property
    def is_lone(self) -> bool:
        """No other run is driven here."""
        ...

    def left(self, driver: Driver, wake_at: Micros | None) -> None:
        """The driver is done with its run: ended, parked, or lost."""
        ...

    def progressed(self, driver: Driver) -> None:
        """An entry landed."""
        ...

    def learn(self, workflow: Workflow[..., object]) -> None:
        """A child of this workflow will exist."""
        ...

    def look(self) -> None:
        """Other runs have become due."""
        ...

    def replied(self, driver: Driver) -> None:
        """A request to the run has its reply."""
        ...


class Driver:
    """See the module.

    Attributes:
        facts: About the run.
        started: Resolved when the first entry of a new run has landed, or could not.
        is_in_doubt: It left without knowing whether the run is still this worker's.
        ended: Resolved when the driver is done: with how the run ended, or None if it goes on elsewhere or later.
    """

    def __init__(self, host: DriverHost, execution: Execution, facts: Facts) -> None:
        self.facts = facts
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ended | None] = loop.create_future()
        self.started: asyncio.Future[Outcome] = loop.create_future()
        self._host = host
        self._execution = execution
        self._keeper = execution.keeper
        self._intake = Intake(facts.consumed, execution.keeper.encode_message)
        self._applied: Sequence[Input] = ()
        self._landed_consumed = facts.consumed
        self._in_flight = False
        self._is_over = False
        self._steps: dict[str, StepRun] = {}
        self._alarms: dict[str, Alarm] = {}
        self._deadline: Alarm | None = None
        self._kept: set[str] = set()
        self._unreadable: Callable[[], None] | None = None
        self.is_in_doubt = False
        self._is_draining = False
        self._pause_asked: PauseRequested | None = None
        self._overridden: set[str] = set()
        self._held_commands: list[CommandEvent] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._turns = Turns()

    @property
    def _program(self) -> Program:
        return self._execution.program

    @property
    def run_id(self) -> str:
        """Its run."""
        return self.facts.run_id

    @property
    def epoch(self) -> int:
        """Its fencing token."""
        return self.facts.epoch

    @property
    def run_token(self) -> str:
        """What no other run ever has."""
        return self.facts.token(self._keeper)

    @property
    def recoveries(self) -> int:
        """How often the run was taken over."""
        return self._execution.recoveries

    @property
    def is_over(self) -> bool:
        """It is done with its run."""
        return self._is_over

    @property
    def is_born(self) -> bool:
        """The run exists in the store."""
        return self.facts.create is None

    @property
    def is_busy(self) -> bool:
        """A body is being executed."""
        return any(step.waits_until is None for step in self._steps.values())

    def bodies(self) -> list[asyncio.Task[None]]:
        """The tasks that execute bodies now."""
        return [step.body for step in self._steps.values() if step.body is not None]

    @property
    def has_parent(self) -> bool:
        """Another run waits for this one."""
        return self.facts.has_parent

    # --- beginning --------------------------------------------------------------------------------------------------------

    def begin(self, inputs: Sequence[Input], messages: Sequence[Message] = ()) -> None:
        """Drive a run that does not exist yet: its first entry creates it, and has what is in its inbox from the beginning."""
        for event in inputs:
            self._intake.add(event)
        self._in_flight = True
        self.receive(messages)
        self._in_flight = False
        self._go()

    def resume(self, claimed: Claimed, shared: Ledger | None = None) -> None:
        """Go on with a run that was claimed: replay, then continue whatever is unfinished.

        Args:
            claimed: The run.
            shared: Of a fork: what the run that it shares its history with had finished.
        """
        entries = claimed.entries
        try:
            self._execution.replay(entries, self.facts.hash, previous=claimed.previous, shared=shared)
            rows = self._keeper.open_rows(claimed.attempts)
        except CorruptJournal as error:
            self.quarantine(error)
            return
        except Exception as error:  # noqa: BLE001  # whatever this code raises here is a reason for other code to try
            self._pause_for_other_code(error)
            return
        self.facts.deadline_at = self._execution.deadline_at
        # Nothing is activated before all is started again: what is known at once (an unknown outcome, the inbox) waits for
        # that.
        self._in_flight = True
        self._continue({row.key: row for row in rows}, outcomes_not_seen(entries))
        self._say_what_is_lost(entries[-1])
        self.receive(claimed.inbox)
        self._in_flight = False
        self._go()
        self._park_if_waiting()

    def _say_what_is_lost(self, claim: Entry) -> None:
        """A relaxed run that was taken over: its newest steps may have happened without a trace."""
        start = self._program.start
        relaxed = start.relaxed if start is not None else None
        if relaxed is not None and any(isinstance(event, RunResumed) for event in claim.decoded()):
            self.deliver(SuffixLost(relaxed.seconds, relaxed.steps))

    def quarantine(self, error: CorruptJournal | PayloadKeyMissing) -> None:
        """What is stored of the run cannot be trusted, or (another worker may know more) not be read."""
        if isinstance(error, PayloadKeyMissing):
            self._pause_for_other_code(error)
        else:
            self._pause(f"corrupt: {error}", is_public=True)

    def deliver(self, event: Input) -> None:
        """An input has arrived."""
        if not self._is_over:
            self._intake.add(event)
            self._go()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of the inbox; those known already are ignored."""
        for message in messages:
            if message.seq > self._intake.received and not self._is_over:
                self._intake.received = message.seq
                try:
                    event = self._keeper.decode_message(message.event)
                except (msgspec.MsgspecError, CorruptJournal, PayloadKeyMissing) as error:
                    self._unreadable = partial(self._refuse_message, message.seq, error)
                    self._go()
                    return
                if isinstance(event, PauseRequested):
                    self._pause_asked = event
                elif isinstance(event, StepOverridden):
                    self._overridden.add(event.key)
                self._intake.add(event, message.seq)  # type: ignore[arg-type]  # only inputs are ever posted
                self._go()

    # --- leaving ----------------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Somebody else owns the run, or may: stop everything, write nothing."""
        self.is_in_doubt = True
        self._leave(None, None)

    def drain(self) -> None:
        """Begin nothing new: give the run back as soon as no body of it is being executed."""
        self._is_draining = True
        self._leave_if_asked()

    def hand_back(self) -> None:
        """Give the run back as it stands, to be claimed by anybody at once. Bodies are cancelled; their attempts are kept."""
        if self._is_over:
            return
        if self._in_flight:
            # Whoever claims the run next sees whether its entry landed; retiring the worker gives it back.
            self.abandon()
            return
        if self._execution.is_holding:
            self._start_over()  # What steps came to is kept; what the code made of it is made anew.
            return
        rows = tuple(step.record(to_resume=True) for step in self._steps.values())
        self._release(Happened.HANDED_BACK, AT_ONCE, rows)

    def dirty_rows(self) -> list[AttemptRecord]:
        """Heartbeat details that are not written yet; they count as written from here on."""
        dirty = [step for step in self._steps.values() if step.is_dirty]
        for step in dirty:
            step.is_dirty = False
        return [step.record() for step in dirty]

    def keep(self, rows: Sequence[AttemptRecord]) -> None:
        """Write rows of attempts."""
        if rows and not self._is_over:
            self._kept.update(row.key for row in rows)
            self._host.committer.submit(self._keep(tuple(rows)), self._kept_rows)

    # --- the loop ---------------------------------------------------------------------------------------------------------

    def _go(self) -> None:
        if self._in_flight or self._is_over:
            return
        if self._unreadable is not None:
            self._unreadable()
            return
        requests, must_activate, is_holding = self._program.requests, self._execution.must_activate, self._execution.is_holding
        inputs = self._intake.take(self._is_wanted, requests, is_drained=not (must_activate or is_holding))
        if requests.was_disturbed:
            self._start_over()
            return
        if not inputs and is_holding and self._intake:
            self._flush()  # A request is judged by what is durable: whoever is refused is told at once, and for good.
            return
        if not inputs and (self._reply_and_park() or self._give_slot() or not must_activate):
            return
        # Of what is held, nothing is in the journal yet: it is applied, and not landed.
        self._applied = [*self._applied, *inputs] if self._applied else inputs
        try:
            activation = self._activated(inputs)
            if isinstance(activation, Held):
                self._go_on_holding(activation)
                return
            append = self._append(activation)
        except Exception as error:
            if self.facts.create is not None:
                raise  # Nothing is stored yet: whoever starts the run is told.
            self._pause_for_other_code(error)
            return
        self._submit(activation, append)

    def _reply_and_park(self) -> bool:
        """Write refusals of requests that lead to no entry; whether the run leaves with them, since nothing is left to do."""
        replies = self._intake.due_replies()
        if not replies:
            return False
        wake_at = self._wake_at_if_parked()
        if wake_at is not None:
            self._release(Happened.PARKED, wake_at, (), replies)
            return True
        keep = self._keep((), replies)
        self._host.committer.submit(keep, lambda outcome: self._kept_replies(keep, outcome))
        return False

    def _kept_replies(self, keep: Keep, outcome: Outcome) -> None:
        if isinstance(outcome, Landed):
            self._landed_consumed = max(self._landed_consumed, keep.consumed)
            self._host.replied(self)
        self._kept_rows(outcome)

    def _activated(self, inputs: Sequence[Input]) -> Activation | Held:
        now = self._host.tools.now()
        if self.facts.create is not None:
            return self._execution.activate(inputs, now)  # Whoever starts a run wants to know that it exists.
        return self._execution.activate_or_hold(inputs, now)

    def _go_on_holding(self, held: Held) -> None:
        """Obey at once: the entry is written later, together with what follows."""
        self._held_commands += held.commands
        self._obey_together(held.commands)
        bound = self._holding_bound
        if self._wake_at_if_parked() is not None or self._execution.held_count >= bound.steps or self._is_draining:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(bound.seconds, self._flush)
        self._go()
        self._leave_if_asked()

    def _flush(self) -> None:
        """Write what is held."""
        if self._is_over or self._in_flight or not self._execution.is_holding:
            return
        activation = self._execution.flush()
        self._submit(activation, self._append(activation))

    @property
    def _holding_bound(self) -> Relaxed:
        start = self._program.start
        return (start.relaxed if start else None) or MILESTONE_BOUND

    def _is_wanted(self, event: Input) -> bool:
        """False for what the code gave up while the event was on its way: a timer or a step that it cancelled."""
        match event:
            case TimerFired(key=key):
                return key in self._program.timers
            case StepCompleted() | StepFailed() | StepOutcomeUnknown() | StepOverridden():
                return event.key in self._program.operations
            case _:
                return True

    def _submit(self, activation: Activation, append: Append) -> None:
        if self._is_over:
            return
        self._in_flight = True
        # Alone and with nothing else running, nobody can join this commit: waiting for the end of the turn would only cost a
        # turn.
        at_once = not self._steps and self._host.is_lone
        self._host.committer.submit(append, lambda outcome: self._answered(activation, append, outcome), at_once=at_once)

    def _answered(self, activation: Activation, append: Append, outcome: Outcome) -> None:
        try:
            self._act_on(activation, append, outcome)
        except Exception as error:
            # A fault of the engine, or code that only fails when it is awaited: the run stops visibly, the others go on.
            logger.error("run %s cannot go on: %s", self.run_id, type(error).__name__, exc_info=self._loggable(error))  # noqa: TRY400
            self._pause(f"the engine failed while driving it: {type(error).__name__}: {error}")

    def _act_on(self, activation: Activation, append: Append, outcome: Outcome) -> None:
        self._in_flight = False
        if append.create is not None and not isinstance(outcome, TooEarly | Behind) and not self.started.done():
            self.started.set_result(outcome)  # Also when the run is no longer ours: whoever started it wants to know.
        if self._is_over:
            return
        match outcome:
            case Landed():
                self._landed(activation, append)
            case Fenced() | Exists():
                self.abandon()
            case Behind() if append.release and not append.status.is_at_rest:
                # Only the parking is refused: the same entry lands without it.
                self._submit(activation, msgspec.structs.replace(append, release=False, status=self._standing(), wake_at=None))
            case Behind():
                # It wanted to end with messages unread. The entry is gone; the journal and what arrived since decide anew.
                self._start_over()
            case TooEarly():
                loop = asyncio.get_running_loop()
                self._in_flight = True
                loop.call_later(TOO_EARLY_SECONDS, self._submit, activation, append)
            case Refused() if append.create is not None:
                self.abandon()
            case Refused(reason=reason):
                self._applied = ()  # It may be what was too large.
                self._pause(reason)

    def _landed(self, activation: Activation, append: Append) -> None:
        self._note_landed(append)
        if append.replies:
            self._host.replied(self)
        if append.children or append.posts:
            self._host.look()
        if append.status.is_at_rest:
            self._leave(Ended(self.run_id, append.status, append.step, append.entry.events), None)
        elif append.release:
            self._leave(None, append.wake_at)
        else:
            if activation.closed:
                self._stop_steps()
            for key in self._overridden:
                self._stop_step(key)
            self._overridden.clear()
            self._obey_together(activation.commands)
            self._go()
            self._leave_if_asked()

    def _note_landed(self, append: Append) -> None:
        entry, facts = append.entry, self.facts
        facts.version, facts.hash, facts.at, facts.create = entry.version, entry.hash, entry.at, None
        facts.step, facts.cursor = append.step, append.cursor
        facts.status = self._standing()
        self._landed_consumed, self._applied = append.consumed, ()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
            self._held_commands.clear()
        self._kept.difference_update(append.settled)
        self._host.progressed(self)

    # --- obeying an entry that has landed ---------------------------------------------------------------------------------

    def _obey_together(self, commands: Sequence[CommandEvent]) -> None:
        """What is known at once (a step that is told to stop before it begins) waits for the others."""
        self._in_flight = True
        self._obey(commands)
        self._in_flight = False

    def _obey(self, commands: Sequence[CommandEvent]) -> None:
        for command in commands:
            match command:
                case StepScheduled(key=key):
                    operation = self._program.operations.get(key)
                    if operation is not None:
                        self._start_step(operation, None)
                case StepCancelled(key=key):
                    self._stop_step(key)
                case StopRequested(key=key):
                    step = self._steps.get(key)
                    if step is not None:
                        step.wind_up(command)
                case TimerStarted():
                    if command.key in self._program.timers:
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

    def _continue(self, rows: dict[str, AttemptRecord], ended: Container[str]) -> None:
        """After a replay: start again whatever the journal leaves open."""
        self._kept.update(rows)
        for key, operation in list(self._program.operations.items()):
            if key in ended:
                continue
            if isinstance(operation.event, StepScheduled):
                self._start_step(operation, rows.get(key))
            else:
                self._host.learn(operation.definition)  # type: ignore[arg-type]  # a child's definition is a workflow
        for timer in self._program.timers.values():
            self._arm(timer.event)
        self._watch_deadline()

    def _start_step(self, operation: Operation, row: AttemptRecord | None) -> None:
        if self._is_draining or self._pause_asked:
            return  # Whoever claims the run next begins it: an at-most-once step must not be begun only to be cut off.
        tools = self._host.tools
        now = 0 if row is None else tools.now()
        plan = plan_attempt(row, scheduled_after=operation.recoveries, recoveries=self.recoveries, now=now)
        kind = TransactionRun if isinstance(operation.definition, Transaction) else StepRun
        step = kind(self, tools, self.facts.run_key, operation, plan)
        self._steps[step.key] = step
        step.start()

    def _arm(self, timer: TimerStarted) -> None:
        def ring() -> None:
            self._alarms.pop(timer.key, None)
            self.deliver(TimerFired(timer.key))

        self._alarms[timer.key] = Alarm(self._host.tools.now, timer.due_at, ring)

    def _watch_deadline(self) -> None:
        due_at = self.facts.deadline_at
        if due_at is not None and self._deadline is None and self._program.cancel_requested is None:
            self._deadline = Alarm(self._host.tools.now, due_at, lambda: self.deliver(DeadlinePassed()))

    # --- what steps report (StepHost) -------------------------------------------------------------------------------------

    def finished(self, event: StepCompleted | StepFailed | StepOutcomeUnknown) -> None:
        """A step has its outcome."""
        self._steps.pop(event.key, None)
        self.deliver(event)

    def described(self, error: BaseException) -> ErrorRecord:
        """What is recorded of a step's failure."""
        return self._keeper.redacted(describe_error(error))

    def storable(self, data: bytes) -> bytes:
        """The same bytes, if they can be stored."""
        return self._keeper.check(data)

    def seal_witness(self, key: str, data: bytes) -> bytes:
        """The result of a step, as it is stored in the user's database."""
        return self._keeper.seal_witness(key, data)

    def open_witness(self, key: str, data: bytes) -> bytes:
        """The opposite."""
        return self._keeper.open_witness(key, data)

    def interrupted(self) -> None:
        """The program is ending around a step: the run goes on elsewhere."""
        self.hand_back()

    def waits(self, record: AttemptRecord) -> None:
        """A step failed and will be tried again: its row is written before the wait, and the run may leave memory for it."""
        if self._is_over:
            return
        self._kept.add(record.key)
        is_held_up = self._in_flight or self._intake or self._execution.is_holding
        wake_at = None if is_held_up else self._wake_at_if_parked()
        if wake_at is not None:
            self._release(Happened.PARKED, wake_at, (record,))
        else:
            self._host.committer.submit(self._keep((record,)), self._kept_rows)

    # --- what transactional steps ask (TransactionHost) ---------------------------------------------------------------------

    async def take_slot(self) -> Slot:
        """Wait until no entry is in flight; from then on none is made but that of the caller."""
        await self._turns.wait(self._go, self._slot_unwanted)
        facts = self.facts
        return Slot(run_key=facts.run_key, version=facts.version + 1, epoch=self.epoch, worker_key=self._host.worker_key)

    def free_slot(self) -> None:
        """No entry was made."""
        self._in_flight = False

    def go_on(self) -> None:
        """See to what arrived meanwhile."""
        self._go()
        self._leave_if_asked()

    def alone(self, event: StepCompleted) -> Append:
        """The entry that holds this result and nothing else."""
        return Append(
            entry=self._execution.record([event], self._host.tools.now()),
            worker_key=self._host.worker_key,
            status=self._standing(),
            step=self.facts.step,
            cursor=self.facts.cursor,
            consumed=self._landed_consumed,
            settled=(event.key,) if event.key in self._kept else (),
        )

    def recorded(self, append: Append, event: StepCompleted) -> None:
        """The entry of a transactional step has landed: its code goes on in the next one."""
        self.free_slot()
        if not self._is_over:
            self._steps.pop(event.key, None)
            self._execution.adopt(append.entry, [event])
            self._note_landed(append)
            self.go_on()

    def _give_slot(self) -> bool:
        if self._execution.is_holding and self._turns.is_asked:
            self._flush()  # The slot is that of the next entry.
        else:
            self._in_flight = self._turns.grant()
        return self._in_flight

    def _slot_unwanted(self) -> None:
        self.free_slot()
        self._go()

    # --- parking ----------------------------------------------------------------------------------------------------------

    def _wake_at_if_parked(self) -> Micros | None:
        return wake_at_if_parked(self._program, self._steps, self.facts.deadline_at, self._host.tools.now())

    def _leave_if_asked(self) -> None:
        """Nothing new is to begin here: give the run back, or leave it paused, once no body of it is being executed."""
        if self._is_over or self._in_flight or self._intake or self.is_busy:
            return
        if self._pause_asked is not None:
            self._pause(self._pause_asked.reason, actor=self._pause_asked.actor)
        elif self._is_draining:
            self.hand_back()

    def _park_if_waiting(self) -> None:
        if not (self._is_over or self._in_flight or self._intake):
            wake_at = self._wake_at_if_parked()
            if wake_at is not None and self._execution.is_holding:
                self._flush()
            elif wake_at is not None:
                self._release(Happened.PARKED, wake_at, ())

    def _release(
        self, why: Happened, wake_at: Micros, rows: tuple[AttemptRecord, ...], replies: tuple[Reply, ...] = ()
    ) -> None:
        self._in_flight = True
        status = next_status(self._standing(), why)
        keep = self._keep(rows, replies, release=True, status=status, wake_at=due(wake_at))
        self._host.committer.submit(keep, lambda outcome: self._released(keep, outcome))

    def _released(self, keep: Keep, outcome: Outcome) -> None:
        self._in_flight = False
        if self._is_over:
            return
        match outcome:
            case Landed():
                if keep.replies:
                    self._host.replied(self)
                self._leave(None, keep.wake_at)
            case Behind():
                self._kept.update(row.key for row in keep.attempts)
                if keep.attempts or keep.replies:  # Without anything to write it would only ask to be parked again, and again.
                    stay = msgspec.structs.replace(keep, release=False)
                    self._host.committer.submit(stay, lambda outcome: self._kept_replies(stay, outcome))
                self._go()
            case _:
                self.abandon()

    # --- what is written --------------------------------------------------------------------------------------------------

    def _append(self, activation: Activation) -> Append:
        """The entry and all that depends on it."""
        program, commands = self._program, activation.commands
        status, release, wake_at = self._after(activation)
        children: tuple[NewRun, ...] = ()
        posts: tuple[Post, ...] = ()
        replies = self._intake.due_replies()
        for asked in (*activation.closed, Closed(program, commands)):
            if asked.program.family or any(isinstance(command, FAMILIAR) for command in asked.commands):
                born, told = self._to_family(asked, is_over=asked.program is not program or activation.ending is not None)
                children, posts = (*children, *born), (*posts, *told)
            if asked.program.requests.has_received:
                replies += replies_of(asked.commands, self._keeper.encode_message)
        return Append(
            entry=activation.entry,
            worker_key=self._host.worker_key,
            status=status,
            step=program.step,
            cursor=program.cursor,
            consumed=self._intake.taken,
            seen=self._intake.received,
            replies=replies,
            create=self.facts.create,
            release=release,
            wake_at=wake_at,
            children=children,
            posts=posts,
            settled=self._settled(activation) if self._kept else (),
            not_before=activation.not_before,
            begins_segment=activation.is_base,
        )

    def _to_family(self, asked: Closed, *, is_over: bool) -> tuple[tuple[NewRun, ...], tuple[Post, ...]]:
        program, facts, payloads = asked.program, self.facts, self._host.payloads
        born = children_of(program, asked.commands, facts.run_key, self._host.tools.now(), facts.family, payloads)
        for workflow, _ in born:
            self._host.learn(workflow)
        return tuple(child for _, child in born), posts_of(program, asked.commands, facts.run_key, payloads, is_over=is_over)

    def _after(self, activation: Activation) -> tuple[Status, bool, Micros | None]:
        """Status after the entry, whether the run leaves with it, and when it is then due."""
        status = self._standing()
        if activation.ending is not None:
            return next_status(status, _HAPPENED[type(activation.ending)]), True, None
        park_at = None if self._intake else self._wake_at_if_parked()
        if park_at is None:
            return status, False, None
        return next_status(status, Happened.PARKED), True, due(park_at)

    def _standing(self) -> Status:
        """The status of the run as its code stands now."""
        return while_driven(self.facts.status, is_compensating=self._program.undoing.is_compensating)

    def _keep(
        self,
        rows: tuple[AttemptRecord, ...],
        replies: tuple[Reply, ...] = (),
        *,
        release: bool = False,
        status: Status = Status.RUNNING,
        wake_at: Micros | None = None,
    ) -> Keep:
        return Keep(
            run_key=self.facts.run_key,
            worker_key=self._host.worker_key,
            epoch=self.epoch,
            # Replies are only ever written alone while nothing is in flight, so everything that was taken has landed.
            consumed=self._intake.taken if replies else self._landed_consumed,
            attempts=self._keeper.seal_rows(rows),
            replies=replies,
            release=release,
            status=status,
            wake_at=wake_at,
        )

    def _kept_rows(self, outcome: Outcome) -> None:
        if isinstance(outcome, Fenced):
            self.abandon()
        else:
            # A retry that began to wait while an entry was in flight could not park the run with it.
            self._park_if_waiting()

    def _settled(self, activation: Activation) -> tuple[str, ...]:
        if activation.closed:
            return tuple(self._kept)
        ended = [e.key for e in self._applied if isinstance(e, (*STEP_OUTCOMES, StepOverridden))]
        ended += [c.key for c in (*self._held_commands, *activation.commands) if isinstance(c, StepCancelled)]
        return tuple(key for key in ended if key in self._kept)

    # --- stopping ---------------------------------------------------------------------------------------------------------

    def _pause_for_other_code(self, error: Exception) -> None:
        """This code cannot drive the run: other code may."""
        if not isinstance(error, EverstepError):
            logger.error("run %s cannot be driven: %s", self.run_id, type(error).__name__, exc_info=self._loggable(error))
        reason = str(error) if isinstance(error, EverstepError) else f"{type(error).__name__}: {error}"
        # Another worker may have the keys that this one lacks, with the same code.
        refused_by = f"{self._program.workflow.fingerprint}{self._host.payloads.fingerprint}"
        self._pause(reason, refused_by=refused_by, is_public=isinstance(error, PayloadKeyMissing))

    def _refuse_message(self, seq: int, error: Exception) -> None:
        if isinstance(error, PayloadKeyMissing):
            self._pause_for_other_code(error)
        else:
            self._pause(f"corrupt: message {seq} of its inbox cannot be read: {error}", is_public=True)

    def _loggable(self, error: Exception) -> Exception | None:
        """An error to be logged with its message and traceback; None where these are not to be seen."""
        return None if self._keeper.is_discreet else error

    def _pause(self, reason: str, *, refused_by: str = "", actor: str = "", is_public: bool = False) -> None:
        """Append the verdict after the newest entry that has landed. ``is_public``: it says nothing of what users wrote."""
        verdict = RunPaused(reason, refused_by, actor)
        said = reason if is_public or not self._keeper.is_discreet else f"its journal says why: everstep show {self.run_id}"

        def left(append: Append, outcome: Outcome) -> None:
            if isinstance(outcome, Landed):
                level = logging.INFO if self._pause_asked else logging.ERROR
                logger.log(level, "run %s is paused: %s", self.run_id, said)
                self._leave(Ended(self.run_id, Status.PAUSED, append.step, append.entry.events), None)
            else:
                self.abandon()

        self._stop_with([verdict], Status.PAUSED, refused_by, left, is_public=is_public)

    def _start_over(self) -> None:
        """Drop this memory, and let the run be claimed and replayed anew, by anybody."""

        def left(append: Append, outcome: Outcome) -> None:
            if append.replies and isinstance(outcome, Landed):
                self._host.replied(self)
            self._leave(None, append.wake_at)

        self._stop_with([], next_status(self.facts.status, Happened.HANDED_BACK), "", left)

    def _stop_with(
        self,
        verdict: list[Event],
        status: Status,
        refused_by: str,
        done: Callable[[Append, Outcome], None],
        *,
        is_public: bool = False,
    ) -> None:
        """Give the run back with an entry that no code has seen: outcomes of steps that no entry has yet, and a verdict."""
        facts, now = self.facts, self._host.tools.now()
        # What was refused beside inputs that are lost now is judged again: nobody has heard of it.
        replies = () if self._applied else self._intake.due_replies()
        outcomes = [event for event in (*self._applied, *self._intake) if isinstance(event, STEP_OUTCOMES)]
        rows = tuple(step.record(to_resume=True) for step in self._steps.values())
        version = facts.version + 1
        data = self._keeper.encode([*outcomes, *verdict], version, clear=verdict if is_public else ())
        entry = seal_bytes(facts.hash, facts.run_key, version, self.epoch, max(facts.at, now), False, data)
        append = Append(
            entry=entry,
            worker_key=self._host.worker_key,
            status=status,
            step=facts.step,
            cursor=facts.cursor,
            consumed=self._intake.taken if replies else self._landed_consumed,
            release=True,
            wake_at=None if verdict else AT_ONCE,
            replies=replies,
            attempts=self._keeper.seal_rows(rows),
            settled=tuple(event.key for event in outcomes),
            refused_by=refused_by,
        )
        self._stop_everything()
        self._is_over = True

        def answered(outcome: Outcome) -> None:
            self._is_over = False
            done(append, outcome)

        self._host.committer.submit(append, answered)

    def _leave(self, ended: Ended | None, wake_at: Micros | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._stop_everything()
        self._host.left(self, wake_at)
        if not self.ended.done():
            self.ended.set_result(ended)

    def _stop_everything(self) -> None:
        self._stop_steps()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._program.evict()

    def _stop_steps(self) -> None:
        for key in list(self._steps):
            self._stop_step(key)
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()

    def _stop_step(self, key: str) -> None:
        step = self._steps.pop(key, None)
        if step is not None:
            step.stop()


def outcomes_not_seen(entries: Sequence[Entry]) -> set[str]:
    """Keys of steps whose outcome is in the journal, in an entry that no code has run on. Pure."""
    keys: set[str] = set()
    for entry in reversed(entries):
        if entry.drained:
            break
        keys.update(event.key for event in entry.decoded() if isinstance(event, (*STEP_OUTCOMES, StepOverridden)))
    return keys
