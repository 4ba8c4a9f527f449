"""
Drive one run that this worker owns: inputs in, one entry at a time, then what the entry asked for.

    input ──▶ intake ──▶ activate ──▶ commit ──▶ landed: start steps, arm timers ──▶ …
                            ▲                      │
                            └── more inputs came ◀─┘

Rules:

* One entry is in flight at most. What arrives meanwhile waits for the next.
* Nothing that an entry asks for is done before the entry is durable.
* A run that only waits is parked in the entry that says so, and leaves memory.
* Fenced means somebody else owns the run: stop everything, write nothing. Any doubt about what is stored ends the same way: the
  memory is dropped and made anew from the journal.

The flow is here. Everything that has a state has an owner of its own (``parts``): what is under way, what is written, what is
held back, what has arrived, and whose the next entry is. How a run leaves is in ``leaving``, what is no entry in ``keeping``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from everstep.core.execution import Activation, Execution, Held
from everstep.core.reuse import Ledger
from everstep.core.transitions import Happened
from everstep.engine.drafts import STEP_OUTCOMES, Drafts
from everstep.engine.facts import Ended, Facts
from everstep.engine.holding import Holding
from everstep.engine.host import DriverHost
from everstep.engine.intake import Intake
from everstep.engine.keeping import Keeping
from everstep.engine.leaving import Leaving
from everstep.engine.parts import Parts
from everstep.engine.recording import Recording
from everstep.engine.slot import AppendSlot
from everstep.engine.underway import Underway
from everstep.engine.verdicts import Verdict, of_engine, of_history, of_message, of_person
from everstep.errors import CorruptJournal, PayloadKeyMissing
from everstep.events import CommandEvent, Input, PauseRequested, RunPaused, RunResumed, StepOverridden, SuffixLost
from everstep.journal import Entry
from everstep.records import AT_ONCE, AttemptRecord, Message, Micros
from everstep.stores.base import (
    Append,
    Behind,
    Claimed,
    Exists,
    Fenced,
    Landed,
    Outcome,
    Refused,
    TooEarly,
)
from everstep.stores.rules import child_of

TOO_EARLY_SECONDS = 0.05


class Driver:
    """See the module.

    Attributes:
        facts: About the run.
        started: Resolved when the first entry of a new run has landed, or could not.
        ended: Resolved when the driver is done: with how the run ended, or None if it goes on elsewhere or later.
    """

    __slots__ = (
        "_drafts",
        "_execution",
        "_holding",
        "_host",
        "_intake",
        "_is_draining",
        "_keeping",
        "_leaving",
        "_must_leave",
        "_overridden",
        "_parts",
        "_pause_asked",
        "_slot",
        "_underway",
        "_unreadable",
        "ended",
        "facts",
        "started",
    )

    def __init__(self, host: DriverHost, execution: Execution, facts: Facts) -> None:
        self.facts = facts
        self.started: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._host = host
        self._execution = execution
        self._intake = Intake(facts.consumed, execution.keeper)
        self._slot = AppendSlot()
        self._drafts = Drafts(host, execution, facts, self._intake)
        self._underway = Underway(self, host, execution, facts)
        self._holding = Holding(execution)
        parts = Parts(facts, execution, self._intake, self._slot, self._drafts, self._underway, self._holding)
        self._parts = parts
        self._leaving = Leaving(self, host, parts)
        self._keeping = Keeping(host, parts, self._leaving)
        self.ended: asyncio.Future[Ended | None] = self._leaving.ended
        self._is_draining = False
        self._must_leave = False
        self._pause_asked: PauseRequested | None = None
        self._unreadable: Verdict | None = None
        self._overridden: list[str] = []

    @property
    def run_id(self) -> str:
        """Its run."""
        return self.facts.run_id

    @property
    def epoch(self) -> int:
        """Its fencing token."""
        return self.facts.epoch

    @property
    def has_parent(self) -> bool:
        """Another run waits for this one."""
        return self.facts.has_parent

    @property
    def is_born(self) -> bool:
        """The run exists in the store."""
        return self.facts.create is None

    @property
    def is_over(self) -> bool:
        """It is done with its run."""
        return self._leaving.is_over

    @property
    def is_in_doubt(self) -> bool:
        """It left without knowing whether the run is still this worker's."""
        return self._leaving.is_in_doubt

    @property
    def recorder(self) -> Recording:
        """What transactional steps write through: made when one asks, for most runs have none."""
        return Recording(self, self._host, self._parts, self._leaving)

    @property
    def is_busy(self) -> bool:
        """A body is being executed."""
        return self._underway.is_busy

    def bodies(self) -> list[asyncio.Task[None]]:
        """The tasks that execute bodies now."""
        return self._underway.bodies()

    # --- beginning --------------------------------------------------------------------------------------------------------

    def begin(self, inputs: Sequence[Input], messages: Sequence[Message] = ()) -> None:
        """Drive a run that does not exist yet: its first entry creates it, and has what is in its inbox from the beginning."""
        for event in inputs:
            self._intake.add(event)
        self._slot.is_taken = True
        self.receive(messages)
        self._slot.is_taken = False
        self.go()

    def resume(self, claimed: Claimed, shared: Ledger | None = None) -> None:
        """Go on with a run that was claimed: replay, then continue whatever is unfinished.

        Args:
            claimed: The run.
            shared: Of a fork: what the run that it shares its history with had finished.
        """
        entries = claimed.entries
        try:
            self._execution.replay(entries, self.facts.hash, previous=claimed.previous, shared=shared)
            rows = self._execution.keeper.open_rows(claimed.attempts)
        except CorruptJournal as error:
            self.quarantine(error)
            return
        except Exception as error:  # noqa: BLE001  # whatever this code raises here is a reason for other code to try
            self._leaving.pause_for_other_code(error)
            return
        self.facts.deadline_at = self._execution.deadline_at
        self._drafts.kept.update(row.key for row in rows)
        # Nothing is activated before all is started again: what is known at once (an unknown outcome, the inbox) waits for
        # that.
        self._slot.is_taken = True
        self._underway.begin_again({row.key: row for row in rows}, outcomes_not_seen(entries))
        self._say_what_is_lost(entries[-1])
        self.receive(claimed.inbox)
        self._slot.is_taken = False
        self.go()
        self._keeping.park_if_waiting()

    def _say_what_is_lost(self, claim: Entry) -> None:
        """A relaxed run that was taken over: its newest steps may have happened without a trace."""
        start = self._execution.program.start
        relaxed = start.relaxed if start is not None else None
        if relaxed is not None and any(isinstance(event, RunResumed) for event in claim.decoded()):
            self.deliver(SuffixLost(relaxed.seconds, relaxed.steps))

    def quarantine(self, error: CorruptJournal | PayloadKeyMissing) -> None:
        """What is stored of the run cannot be trusted, or (another worker may know more) not be read."""
        self._leaving.pause(of_history(error, self._leaving.fingerprint))

    # --- what arrives -----------------------------------------------------------------------------------------------------

    def deliver(self, event: Input) -> None:
        """An input has arrived."""
        if not self._leaving.is_over:
            self._intake.add(event)
            self.go()

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of the inbox; those known already are ignored."""
        for message in messages:
            if message.seq > self._intake.received and not self._leaving.is_over:
                self._intake.received = message.seq
                try:
                    event = self._execution.keeper.decode_message(message.event)
                except (msgspec.MsgspecError, CorruptJournal, PayloadKeyMissing) as error:
                    self._unreadable = of_message(message.seq, error, self._leaving.fingerprint)
                    self.go()
                    return
                if isinstance(event, PauseRequested):
                    self._pause_asked = event
                    self._underway.begins_nothing = True
                elif isinstance(event, StepOverridden):
                    self._overridden.append(event.key)
                child = child_of(message.dedupe)
                self._intake.add(event, message.seq, child)  # type: ignore[arg-type]  # only inputs are ever posted
                self.go()

    def waits(self, record: AttemptRecord) -> None:
        """A step failed and will be tried again."""
        self._keeping.waits(record)

    # --- leaving ----------------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Somebody else owns the run, or may: stop everything, write nothing."""
        self._leaving.abandon()

    def drain(self) -> None:
        """Begin nothing new: give the run back as soon as no body of it is being executed."""
        self._is_draining = self._underway.begins_nothing = True
        self.leave_if_asked()

    def hand_back(self) -> None:
        """Give the run back as it stands, to be claimed by anybody at once. Bodies are cancelled; their attempts are kept."""
        if self._leaving.is_over:
            return
        if self._slot.is_taken:
            # Whoever claims the run next sees whether its entry landed; retiring the worker gives it back.
            self.abandon()
        elif self._execution.is_holding:
            # What is held is written first: whoever goes on would do all of it again.
            self._must_leave = self._underway.begins_nothing = True
            self.flush()
        else:
            self._keeping.release(Happened.HANDED_BACK, AT_ONCE, self._underway.rows())

    def leave_if_asked(self) -> None:
        """Nothing new is to begin here: give the run back, or leave it paused, once no body of it is being executed."""
        if not self._underway.begins_nothing:
            return
        if self._must_leave:
            if not self._slot.is_taken:
                self.hand_back()
            return
        if self._leaving.is_over or self._slot.is_taken or self._intake or self._underway.is_busy:
            return
        if self._pause_asked is not None and self._execution.is_holding:
            self.flush()
        elif self._pause_asked is not None:
            self._leaving.pause(of_person(self._pause_asked))
        elif self._is_draining:
            self.hand_back()

    def dirty_rows(self) -> list[AttemptRecord]:
        """Heartbeat details that are not written yet; they count as written from here on."""
        return self._underway.dirty_rows()

    def keep(self, rows: Sequence[AttemptRecord]) -> None:
        """Write rows of attempts."""
        self._keeping.keep(rows)

    def replied(self) -> None:
        """A request to the run has its reply."""
        self._host.replied(self)

    def left(self, wake_at: Micros | None) -> None:
        """The run is no longer driven here."""
        self._host.left(self, wake_at)

    # --- the flow ---------------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Make the next entry, if something arrived and nothing is in flight."""
        if self._slot.is_taken or self._leaving.is_over:
            return
        if self._unreadable is not None:
            self._leaving.pause(self._unreadable)
            return
        execution, intake = self._execution, self._intake
        must_activate = execution.must_activate
        if intake.is_idle and not (must_activate or self._slot.is_asked):
            return  # What was begun has not ended yet: so most rounds end.
        is_holding = execution.is_holding
        inputs = intake.take(execution.program, is_drained=not (must_activate or is_holding))
        if execution.program.requests.was_disturbed:
            self._leaving.start_over()
            return
        if not inputs and is_holding and intake:
            self.flush()  # A request is judged by what is durable: whoever is refused is told at once, and for good.
            return
        if not inputs and (self._keeping.reply_and_park() or self._give_slot() or not must_activate):
            return
        # Of what is held, nothing is in the journal yet: it is applied, and not landed.
        self._drafts.applied = [*self._drafts.applied, *inputs] if self._drafts.applied else inputs
        try:
            activation = self._activated(inputs)
            if isinstance(activation, Held):
                self._go_on_holding(activation)
                return
            append = self._append(activation)
        except Exception as error:
            if self.facts.create is not None:
                raise  # Nothing is stored yet: whoever starts the run is told.
            self._leaving.pause_for_other_code(error)
            return
        self._submit(activation, append)

    def _activated(self, inputs: Sequence[Input]) -> Activation | Held:
        now = self._host.tools.now()
        if self.facts.create is not None:
            return self._execution.activate(inputs, now)  # Whoever starts a run wants to know that it exists.
        return self._execution.activate_or_hold(inputs, now)

    def _append(self, activation: Activation) -> Append:
        # After many cuts in one entry the code of the newest segment has not run yet: nothing would ever wake it.
        stays = activation.ending is not None or self._intake or (activation.closed and self._execution.must_activate)
        return self._drafts.of(activation, None if stays else self._underway.wake_at_if_parked())

    def _give_slot(self) -> bool:
        """Whether a transactional step makes the next entry, or must wait until what is held is written."""
        if self._execution.is_holding and self._slot.is_asked:
            self.flush()
            return self._slot.is_taken
        return self._slot.grant()

    def _go_on_holding(self, held: Held) -> None:
        """Obey at once: the entry is written later, together with what follows."""
        self._drafts.obeyed += held.commands
        self._obey_together(held.commands)
        if self._holding.is_full or self._is_draining or self._underway.wake_at_if_parked() is not None:
            self.flush()
        else:
            self._holding.watch(self.flush)
        self.go()
        self.leave_if_asked()

    def flush(self) -> None:
        """Write what is held."""
        if self._leaving.is_over or self._slot.is_taken or not self._execution.is_holding:
            return
        activation = self._execution.flush()
        self._submit(activation, self._append(activation))

    def _submit(self, activation: Activation, append: Append) -> None:
        if self._leaving.is_over:
            return
        self._slot.is_taken = True
        # Alone and with nothing else running, nobody can join this commit: waiting for the end of the turn would only cost a
        # turn.
        at_once = not self._underway.steps and self._host.is_lone
        self._host.committer.submit(append, partial(self._answered, activation, append), at_once=at_once)

    def _answered(self, activation: Activation, append: Append, outcome: Outcome) -> None:
        try:
            self._act_on(activation, append, outcome)
        except Exception as error:  # noqa: BLE001
            # A fault of the engine, or code that only fails when it is awaited: the run stops visibly, the others go on.
            self._leaving.log(error, "cannot go on")
            self._leaving.pause(of_engine(error))

    def _act_on(self, activation: Activation, append: Append, outcome: Outcome) -> None:
        self._slot.is_taken = False
        if append.create is not None and not isinstance(outcome, TooEarly | Behind) and not self.started.done():
            self.started.set_result(outcome)  # Also when the run is no longer ours: whoever started it wants to know.
        if self._leaving.is_over:
            return
        match outcome:
            case Landed():
                self._landed(activation, append)
            case Fenced() | Exists():
                self.abandon()
            case Behind() if append.release and not append.status.is_at_rest:
                # Only the parking is refused: the same entry lands without it.
                stays = msgspec.structs.replace(append, release=False, status=self._drafts.standing(), wake_at=None)
                self._submit(activation, stays)
            case Behind():
                # It wanted to end with messages unread. The entry is gone; the journal and what arrived since decide anew.
                self._leaving.start_over()
            case TooEarly():
                self._slot.is_taken = True
                asyncio.get_running_loop().call_later(TOO_EARLY_SECONDS, self._submit, activation, append)
            case Refused() if append.create is not None:
                self.abandon()
            case Refused(reason=reason):
                self._drafts.applied = ()  # It may be what was too large.
                self._leaving.pause(Verdict(RunPaused(reason)))

    def _landed(self, activation: Activation, append: Append) -> None:
        self.note_landed(append)
        if append.replies:
            self.replied()
        if append.children or append.posts:
            self._host.look()
        if append.status.is_at_rest:
            self._leaving.leave(Ended(self.run_id, append.status, append.step, append.entry.events), None)
        elif append.release:
            self._leaving.leave(None, append.wake_at)
        else:
            if activation.closed:
                self._underway.stop_segment()
            if self._overridden:
                self._underway.stop_steps(self._overridden)
                self._overridden.clear()
            self._obey_together(activation.commands)
            self.go()
            self.leave_if_asked()

    def note_landed(self, append: Append) -> None:
        """The run stands after this entry."""
        self._drafts.note_landed(append)
        self._holding.rest()
        self._host.progressed(self)

    def _obey_together(self, commands: Sequence[CommandEvent]) -> None:
        """What is known at once (a step that is told to stop before it begins) waits for the others."""
        self._slot.is_taken = True
        self._underway.obey(commands)
        self._slot.is_taken = False


def outcomes_not_seen(entries: Sequence[Entry]) -> set[str]:
    """Keys of steps whose outcome is in the journal, in an entry that no code has run on. Pure."""
    keys: set[str] = set()
    for entry in reversed(entries):
        if entry.drained:
            break
        keys.update(event.key for event in entry.decoded() if isinstance(event, (*STEP_OUTCOMES, StepOverridden)))
    return keys
