"""
A run's code in memory: inputs in, commands out.

The program never waits and never knows the time; it is told both. Live and replayed it behaves alike, with one difference:
live, a command that the code issues is appended to ``issued``; replayed, it is looked up among the commands that the entry
recorded, and compared at the moment of the call, so that the traceback of a mismatch points at the user's line.

An activation applies *all* its inputs first (a future resolved, a handle appended; never user code), then drains. A cancel of
the run comes last, after that drain: as if it had come a moment later. Applied together with a result, it would be swallowed
by whatever still passes the result on (``gather`` when a member fails, ``wait_for`` on Python 3.11), and never reach the code.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio import CancelledError, tasks
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import Any, TypeVar, assert_never

from msgspec import Raw, structs

from everstep.codec import ArgumentsCodec, Undecodable, describe_error
from everstep.core.children import StartedChild
from everstep.core.desk import Desk
from everstep.core.failures import failure_of
from everstep.core.loop import new_loop
from everstep.core.mailbox import Mailbox
from everstep.core.mismatch import diverged, same_by_todays_types, same_command, slot_of
from everstep.core.patches import Patches
from everstep.core.place import user_line
from everstep.core.reuse import Ledger, Start
from everstep.core.states import States
from everstep.core.undoing import Undoing
from everstep.core.waits import Operation, SignalWait, Timer
from everstep.definitions import Call, Step, Workflow
from everstep.errors import ContinuedAsNew, NondeterminismError, UsageError
from everstep.events import (
    NO_PAYLOAD,
    CancelRequested,
    ChildAccepted,
    ChildCancelled,
    ChildFailed,
    ChildRefused,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    CommandEvent,
    DeadlinePassed,
    Drained,
    Ending,
    Input,
    MilestoneReached,
    NoteRecorded,
    PatchApplied,
    PauseRequested,
    RequestReceived,
    ResultReused,
    RunCancelled,
    RunClaimed,
    RunContinued,
    RunCreated,
    RunFailed,
    RunForked,
    RunResumed,
    RunRetried,
    RunSucceeded,
    RunUnpaused,
    SignalAwaited,
    SignalReceived,
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
from everstep.ids import child_run_id
from everstep.records import ChildOptions, ErrorRecord, Micros
from everstep.secret import masked

logger = logging.getLogger("everstep")

Op = TypeVar("Op", bound=Operation)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = StepScheduled("", "", NO_PAYLOAD, "")
_NO_CHILD = ChildStarted("", "", "", NO_PAYLOAD, "")
"""What code is given to wait for that cannot be unwound."""
_DEFAULTS = ChildOptions()
_ENDS_OF_CHILDREN = (ChildSucceeded, ChildFailed, ChildRefused)
_TIMER_SECONDS_MAX = 100 * 365.25 * 86400
"""A century: longer than any machine, shorter than what overflows a calendar in year 9999."""


class Program:
    """One run's workflow code under its own loop.

    Attributes:
        operations: Steps and children that are not finished, by key.
        timers: Timers that have not fired, by key.
        issued: Commands of the current activation, live.
        children: Workflows of the children among them, by key; also of those that were given up again at once.
        child_options: How those of them are to be started that were not simply awaited, by key.
        family: Children that are not known to have ended, by key, whether or not the code still waits for them.
        ending: How the run ended, once it has.
        cancel_requested: The cancel that arrived, if one did.
        divergence: The first mismatch between code and journal; the program is useless from then on.
        patches: The changes of its code that it takes; those in the journal are told before it is replayed.
        recoveries: How often the run had been taken over when the current activation was made; operations remember theirs.
        step: Name of the step or child last asked for.
        cursor: How many steps and children have been asked for.
        milestone_count: How many milestones the code is in.
        undoing: What its sagas are at.
        requests: Those that were accepted.
        is_discreet: What users wrote is not to be logged.
        logged: What of a value may be, all the same.
        has_begun: The workflow function has been called.
    """

    # Declared, because a class with more than thirty attributes gets no other compact form from CPython: 1.5 KB per run.
    __slots__ = (
        "__weakref__",
        "_at",
        "_expected",
        "_is_cut_short",
        "_ledger",
        "_mailbox",
        "_main",
        "_random",
        "_salt",
        "_states",
        "_stopped_children",
        "_timer_keys",
        "_was_told_to_stop",
        "cancel_requested",
        "child_options",
        "children",
        "cursor",
        "divergence",
        "ending",
        "family",
        "has_begun",
        "is_discreet",
        "issued",
        "logged",
        "loop",
        "milestone_count",
        "operations",
        "patches",
        "recoveries",
        "requests",
        "run_id",
        "start",
        "step",
        "timers",
        "undoing",
        "version",
        "workflow",
    )

    def __init__(
        self, workflow: Workflow[..., Any], run_id: str, start: Start | None = None, ledger: Ledger | None = None
    ) -> None:
        self.workflow = workflow
        self.run_id = run_id
        self.start = start if ledger is None else ledger.start
        self._salt = b"" if self.start is None else self.start.salt
        segment = 0 if self.start is None else self.start.segment
        self.loop = new_loop(self, run_id.encode(), str(segment))
        self.loop.scope = self
        self.operations: dict[str, Operation] = {}
        self.timers: dict[str, Timer] = {}
        self.issued: list[CommandEvent] = []
        self.children: dict[str, Workflow[..., Any]] = {}
        self.child_options: dict[str, ChildOptions] = {}
        self.family: dict[str, ChildStarted] = {}
        self.ending: Ending | None = None
        self.cancel_requested: CancelRequested | DeadlinePassed | None = None
        self.divergence: NondeterminismError | None = None
        self.version = 0
        self.patches = Patches()
        self.recoveries = 0
        self.step = ""
        self.cursor = 0 if self.start is None else self.start.cursor
        self.undoing = Undoing(self)
        self.is_discreet = False
        self.logged: Callable[[Any], Any] = _as_it_is
        self._expected: dict[str, CommandEvent] | None = None
        # By identity: two handles with the same time and callback are equal to asyncio.
        self._timer_keys: dict[int, str] = {}
        self._mailbox = Mailbox()
        self.requests = Desk(self)
        self._states = States()
        self._ledger = ledger
        self.milestone_count = 0
        self._at: Micros = 0
        self._was_told_to_stop = False
        self._main: asyncio.Task[Any] | None = None
        self.has_begun = False
        self._random: Random | None = None
        self._stopped_children: set[str] = set()
        self._is_cut_short = False
        if ledger is not None:
            self.patches.learn(ledger.patches)
            for event in ledger.signals:
                self._mailbox.receive(event)
            for request in ledger.requests:
                self.requests.receive(request)
            if ledger.is_fork and ledger.is_exhausted:
                self._reseed()

    # --- activation -------------------------------------------------------------------------------------------------------

    def activate(self, inputs: Iterable[Input], at: Micros, version: int) -> list[CommandEvent]:
        """Go on live: apply the inputs, run the code as far as it goes, and return what it asks for."""
        self._expected = None
        self.issued, self.children, self.child_options = [], {}, {}
        self._run(inputs, at, version)
        return self.issued

    def replay(
        self,
        inputs: Iterable[Input],
        recorded: Iterable[CommandEvent],
        at: Micros,
        version: int,
        ending: Ending | None = None,
    ) -> None:
        """Go on as recorded: apply the inputs and check that the code asks for what was recorded and nothing else.

        Raises:
            NondeterminismError: It does not, or it ends where the journal goes on, or the other way round. The program must
                then be evicted.
        """
        # A marker that no code asks for any more is no difference.
        self._expected = {slot_of(event): event for event in recorded if not isinstance(event, PatchApplied)}
        self._run(inputs, at, version)
        if self.divergence is None and self._expected:
            left = next(iter(self._expected.values()))
            self.divergence = diverged(self.run_id, self.version, left, self.ending, self._recorded_on())
        if self.divergence is None and type(self.ending) is not type(ending):
            self.divergence = diverged(self.run_id, self.version, ending, self.ending, self._recorded_on())
        if self.divergence is not None:
            raise self.divergence

    def evict(self) -> None:
        """Free the memory: coroutines are closed in order, and what they still ask for is refused."""
        self.loop.evict()
        self.loop.let_go(_Heir(self.run_id, is_discreet=self.is_discreet, is_silent=self.is_replaying))
        self.operations.clear()
        self.timers.clear()
        self._mailbox.close()
        self.requests.close()
        self._main = None

    def _run(self, inputs: Iterable[Input], at: Micros, version: int) -> None:
        self._at, self.version = at, version
        for event in inputs:
            self._apply(event)
        if self._main is None:
            self._begin()
        self._drain()
        if not self._was_told_to_stop and self.cancel_requested is not None:
            self._stop()
            self._drain()
        if self._main is not None and self._main.done():
            self._end(self._main)

    def _end(self, main: asyncio.Task[Any]) -> None:
        """The workflow function has returned: that is the end of the run, once no saga is open and no child is waited for."""
        while self.ending is None and self.divergence is None and self.undoing.stop_stray():
            self._drain()
        if self.ending is not None or self.divergence is not None or self.undoing.has_open:
            return
        left = self._must_wait_for()
        if not left:
            self.ending = self._conclude(main)
        elif self.cancel_requested is not None:
            for child in left:
                self.stop_child(child)

    def _must_wait_for(self) -> list[ChildStarted]:
        return [child for child in self.family.values() if child.on_parent_close == "wait"]

    def _drain(self) -> None:
        assert self.start is not None, "a journal begins with RunCreated"
        seconds = (self._at - self.start.at) / 1e6
        while True:
            try:
                self.loop.drain(seconds)
            except SystemExit:
                continue  # The task has it as its exception too: it is the workflow's failure, not the worker's order to exit.
            return

    def _begin(self) -> None:
        assert self.start is not None, "a journal begins with RunCreated"
        args, kwargs = self.workflow.arguments.decode(self.start.args)
        self._main = self.loop.create_main_task(self.workflow.function(*args, **kwargs))
        self.has_begun = True
        if self.cancel_requested is not None:
            self._stop()  # It is not called at all.

    def _stop(self) -> None:
        """Cancel the code. If it is finished, and the run is not, the children that it waits for are asked to stop instead."""
        self._is_cut_short = self._main_task.done() and bool(self._must_wait_for())
        self._was_told_to_stop = self._is_cut_short or not self._main_task.done()
        self._main_task.cancel()

    @property
    def _main_task(self) -> asyncio.Task[Any]:
        assert self._main is not None, "the first activation begins it"
        return self._main

    def _conclude(self, main: asyncio.Task[Any]) -> Ending:
        try:
            if self._is_cut_short:
                raise CancelledError
            return RunSucceeded(Raw(self.workflow.result.encode(main.result())))
        except ContinuedAsNew as continued:
            return self._continuation(continued.args_json)
        except CancelledError as error:
            match self.cancel_requested:
                case CancelRequested(reason=reason):
                    return RunCancelled(reason)
                case DeadlinePassed():
                    limit = 0 if self.start is None else self.start.deadline_at or 0
                    ended = _EPOCH + timedelta(microseconds=limit)
                    return RunFailed(ErrorRecord("everstep.errors.RunTimeout", f"the run's time limit ended at {ended}"))
                case None:
                    return RunFailed(describe_error(error))
        except BaseException as error:  # noqa: BLE001  # whatever user code raised is the run's outcome, SystemExit included
            return RunFailed(describe_error(error))

    def _continuation(self, args: bytes) -> RunContinued:
        """What begins the next segment. Its salt follows from this one's: no random number comes twice."""
        start = self.start
        assert start is not None, "the code has begun"
        return RunContinued(
            segment=start.segment + 1,
            args=Raw(args),
            salt=blake2b(start.salt, digest_size=16, person=b"segment").hexdigest(),
            python=start.python,
            cursor=self.cursor,
            deadline_at=start.deadline_at,
            relaxed=start.relaxed,
            maybe=start.maybe,
            states={**start.states, **self._states.recorded()},
        )

    def left_over(self) -> list[Input]:
        """What has arrived and the code, having ended, has not taken."""
        mail: list[Input] = [*self._mailbox.left(), *self.requests.unanswered()]
        is_owed = self.cancel_requested is not None and not self._was_told_to_stop
        return [*mail, self.cancel_requested] if is_owed and self.cancel_requested else mail

    # --- inputs -----------------------------------------------------------------------------------------------------------

    def _apply(self, event: Input) -> None:
        if isinstance(event, _ENDS_OF_CHILDREN):
            self.family.pop(event.key, None)
        match event:
            case StepCompleted(key, result) | ChildSucceeded(key, result):
                operation = self.operations.pop(key, None)
                if operation is not None and not operation.done():
                    self._resolve(operation, result)
            case StepFailed() | ChildFailed() | ChildRefused() | StepOutcomeUnknown():
                operation = self.operations.pop(event.key, None)
                if operation is not None and not operation.done():
                    operation.set_exception(failure_of(self.run_id, self.workflow, operation, event))
            case ChildAccepted(key):
                child = self.operations.get(key)
                if isinstance(child, StartedChild):
                    child.begin()
            case TimerFired(key):
                timer = self.timers.pop(key, None)
                if timer is not None:
                    del self._timer_keys[id(timer.handle)]
                    self.loop.make_ready(timer.handle)
            case SignalReceived():
                self._mailbox.receive(event)
            case RequestReceived():
                self.requests.receive(event)
            case CancelRequested() | DeadlinePassed():
                self.cancel_requested = self.cancel_requested or event
            case RunCreated():
                if self.start is None:  # Not in a fork, which has begun with what it took over.
                    self.start = Start.of(event, self._at)
                    self._salt = self.start.salt
            case StepOverridden(key, result, skipped):
                operation = self.operations.pop(key, None)
                if operation is not None and not operation.done():
                    self._override(operation, result, skipped=skipped)
                self.undoing.decided(event)
            case RunRetried(deadline_at=deadline_at):
                self.ending = None
                self.start = self.start and structs.replace(self.start, deadline_at=deadline_at)
                self.undoing.go_on()
            case RunClaimed() | RunResumed() | RunUnpaused() | RunForked():
                pass
            case PauseRequested() | Drained() | SuffixLost():
                pass
            case _:
                assert_never(event)

    def _override(self, operation: Operation, result: Raw, *, skipped: bool) -> None:
        if skipped:
            operation.set_result(None)  # Whatever its type: the code has to be ready for it, the person said so.
        else:
            self._resolve(operation, result)

    def _resolve(self, operation: Operation, result: Raw) -> None:
        try:
            operation.set_result(operation.definition.result.decode(result))
        except Undecodable as error:
            self.divergence = self.divergence or NondeterminismError(
                f"run {self.run_id}: the recorded result of {operation.definition.name} no longer fits its declared type: "
                f"{error}. Nothing was executed and the journal is unchanged; the run is paused. Deploy code whose type can "
                "read it."
            )

    # --- commands: called by user code, through the loop ------------------------------------------------------------------

    def issue(self, call: Call[Any], *, undoes: str | None = None, maybe: bool = False) -> Operation:
        """Ask for a step or a child run. Called at the await, so errors point there.

        Args:
            call: Of the step or the child's workflow.
            undoes: It is a compensation: of the step with this key, or (empty) of what the user says.
            maybe: Nobody knows whether that step had an effect.
        """
        if self._is_shut():
            return Operation(self, _NEVER, call)
        return self._ask(call, Operation, _DEFAULTS, undoes, maybe=maybe)

    def start_child(self, call: Call[Any], options: ChildOptions) -> StartedChild:
        """Start a child that goes on by itself."""
        return StartedChild(self, _NO_CHILD, call) if self._is_shut() else self._ask(call, StartedChild, options)

    def _ask(
        self, call: Call[Any], kind: type[Op], options: ChildOptions, undoes: str | None = None, *, maybe: bool = False
    ) -> Op:
        key = self.loop.next_key()
        definition, args = call.definition, call.encoded()
        digest = self._digest(args)
        if isinstance(definition, Step):
            event: Any = StepScheduled(key, definition.name, Raw(args), digest, call.source, undoes=undoes, maybe=maybe)
        else:
            event = self._child(key, call, args, digest, options)
            event = structs.replace(event, undoes=undoes, maybe=maybe) if undoes is not None else event
        self.step = definition.name
        self.cursor += 1
        if self._ledger is not None:
            reused = self._reuse(self._ledger, event, kind, call)
            if reused is not None:
                return reused
        operation = kind(self, self._record(event, definition.arguments), call, args)
        self.operations[key] = operation
        if isinstance(operation.event, ChildStarted):
            self.family[key] = operation.event
        return operation

    def _child_id(self, key: str) -> str:
        run_id = child_run_id(self.run_id, key)
        return run_id if self._ledger is None else self._ledger.child_id(run_id, key)

    def _child(self, key: str, call: Call[Any], args: bytes, digest: str, options: ChildOptions) -> ChildStarted:
        workflow = call.definition
        assert isinstance(workflow, Workflow), "what is no step is a workflow"
        self.children[key], self.child_options[key] = workflow, options
        return ChildStarted(
            key,
            options.run_id or self._child_id(key),
            workflow.name,
            Raw(args),
            digest,
            call.source,
            on_parent_close=options.on_parent_close,
            cancellation=options.cancellation,
        )

    def _digest(self, value: bytes) -> str:
        return blake2b(masked(value), key=self._salt, digest_size=8).hexdigest()

    def _reuse(self, ledger: Ledger, event: StepScheduled | ChildStarted, kind: type[Op], call: Call[Any]) -> Op | None:
        """The operation with the outcome that it had before the code began again; None if it has to be done."""
        definition = call.definition
        is_once = isinstance(definition, Step) and definition.at_most_once
        outcome = ledger.outcome(event, even_bad=is_once)
        if outcome is None:
            return None
        self._record(ResultReused(event.key, definition.name, event.digest, isinstance(event, ChildStarted), call.source))
        operation = kind(self, event, call)
        match outcome:
            case StepOverridden(result=result, skipped=skipped):
                self._override(operation, result, skipped=skipped)
            case StepCompleted(result=result) | ChildSucceeded(result=result):
                self._resolve(operation, result)
            case StepFailed() | StepOutcomeUnknown() | ChildFailed() | ChildRefused():
                operation.set_exception(failure_of(self.run_id, self.workflow, operation, outcome))
            case _:
                assert_never(outcome)
        if self.divergence is not None:
            raise self.divergence
        if ledger.is_fork and ledger.is_exhausted:
            self._reseed()
        return operation

    def _reseed(self) -> None:
        """From here on the fork goes its own way: it must not draw the very numbers that the other run draws."""
        self.random.seed(f"{self._salt.hex()} {self.run_id}")

    def withdraw(self, event: StepScheduled | ChildStarted) -> None:
        """The code no longer waits for an operation."""
        if self.loop.is_closing or not event.key:
            return
        self.operations.pop(event.key, None)
        if isinstance(event, StepScheduled):
            self._record(StepCancelled(event.key))
        else:
            self.stop_child(event)

    def stop_child(self, child: ChildStarted, reason: str = "") -> None:
        """The code asks a child to stop; the first time it does, that is recorded."""
        if child.key not in self._stopped_children and not self.loop.is_closing:
            self._stopped_children.add(child.key)
            self._record(ChildCancelled(child.key, reason))

    def signal_child(self, child: ChildStarted, name: str, value: bytes, message_id: str) -> None:
        """The code sends a message to a child."""
        if not self._is_shut():
            address = (self.loop.next_key(), child.key, child.run_id, name)
            self._record(ChildSignalled(*address, Raw(value), self._digest(value), message_id, user_line()))

    def request_stop(self, request: StopRequested) -> None:
        """A saga wants an operation to come to an end, and goes on waiting for it."""
        if not self.loop.is_closing:
            self._record(request)

    def next_signal(self, name: str) -> asyncio.Future[bytes]:
        """Take the next signal of that name, or wait for it."""
        if self._is_shut():
            return self.loop.create_future()
        wait = SignalWait(self, self._record(SignalAwaited(self.loop.next_key(), name, user_line())))
        self._mailbox.take(wait)
        return wait

    def stop_waiting(self, wait: SignalWait) -> None:
        """The code no longer waits for a signal."""
        if not self.loop.is_closing:
            self._mailbox.forget(wait)
            self._record(SignalWaitCancelled(wait.event.key))

    def publish(self, name: str, value: bytes) -> None:
        """Publish a state with the entry that is being made."""
        if self._is_shut():
            return
        key = self.loop.next_key()
        if self._ledger is not None:
            value = self._ledger.edited(key, value)
        if self._expected is None:
            self._record(self._states.publish(key, name, value))
        else:
            self._states.follow(self._record(StatePublished(key, name, Raw(value))), value)

    def published(self, name: str) -> bytes | None:
        """What was published last."""
        return self._states.get(name)

    def milestone_began(self) -> None:
        """The code enters a milestone."""
        self._is_shut()
        self.milestone_count += 1

    def milestone_left(self, name: str) -> None:
        """The code leaves one; nameless if it has not reached it."""
        self.milestone_count -= 1
        if name and not self._is_shut():
            self._record(MilestoneReached(self.loop.next_key(), name))

    def note(self, name: str, value: bytes) -> None:
        """Record a note with the entry that is being made."""
        if not self._is_shut():
            self._record(NoteRecorded(self.loop.next_key(), name, Raw(value)))

    def patched(self, patch_id: str) -> bool:
        """Whether the run takes a change of its code; the first time it is asked live, the answer is recorded."""
        # Code that begins again has not come here first while it still finds done what was done by then.
        is_catching_up = self._ledger is not None and not self._ledger.is_exhausted
        return self._take_patch(patch_id, is_past=self.is_replaying or is_catching_up)

    def deprecate_patch(self, patch_id: str) -> None:
        """Mark the run as one that takes the change. Replayed it asks nothing: what the old branch asked for is compared."""
        if not self.is_replaying:
            self._take_patch(patch_id, is_past=False)

    def _take_patch(self, patch_id: str, *, is_past: bool) -> bool:
        if self._is_shut():
            return False
        if not self.patches.is_decided(patch_id) and not is_past:
            self._record(PatchApplied(patch_id))
        return self.patches.ask(patch_id, is_past=is_past)

    def wait_until(self, predicate: Callable[[], bool]) -> asyncio.Future[None]:
        """Wait until the code itself has made this true."""
        self._is_shut()
        return self.loop.wait_until(predicate)

    def start_timer(self, delay_seconds: float, handle: asyncio.TimerHandle) -> None:
        """The loop's ``call_later``: a durable timer."""
        if self._is_shut():
            return
        if not delay_seconds <= _TIMER_SECONDS_MAX:
            raise UsageError(
                f"run {self.run_id}: a timer of {delay_seconds} s was asked for. It was not started. The longest possible is a "
                "century; to wait for good, wait for an event instead."
            )
        delay = max(0, round(delay_seconds * 1e6))
        key = self.loop.next_key()
        due_at = None if self._ledger is None else self._ledger.due_at(key, delay)
        event = self._record(TimerStarted(key, delay, self._at + delay if due_at is None else due_at, user_line()))
        assert isinstance(event, TimerStarted)
        self.timers[key] = Timer(event, handle)
        self._timer_keys[id(handle)] = key

    def cancel_timer(self, handle: asyncio.TimerHandle) -> None:
        """The loop's ``TimerHandle.cancel``; of one that has fired it means nothing."""
        key = self._timer_keys.pop(id(handle), None)
        if key is not None and not self.loop.is_closing:
            del self.timers[key]
            self._record(TimerCancelled(key))

    def _record(self, event: Any, arguments: ArgumentsCodec | None = None) -> Any:
        """Live: note the command. Replayed: find it among the recorded ones, or raise where it was called."""
        if self._expected is None:
            self.issued.append(event)
            return event
        if self.divergence is not None:
            return event  # A cancel on the way out: the first difference is the one to tell.
        recorded = self._expected.pop(slot_of(event), None)
        is_same = recorded is not None and (
            same_command(recorded, event) or (arguments is not None and same_by_todays_types(recorded, event, arguments))
        )
        if not is_same:
            self.divergence = diverged(self.run_id, self.version, recorded, event, self._recorded_on())
            raise self.divergence
        return recorded

    def _is_shut(self) -> bool:
        """Nothing may start any more: the run is leaving memory, or its code has diverged."""
        if self.divergence is not None:
            self.loop.refusal = "the code no longer matches the journal"
        elif not self.loop.is_closing:
            return False
        self.loop.refuse()
        return True

    # --- what its desk needs ------------------------------------------------------------------------------------------------

    def record(self, event: Any) -> Any:
        """Issue a command."""
        return self._record(event)

    def is_shut(self) -> bool:
        """Nothing may start any more."""
        return self._is_shut()

    def traces(self) -> tuple[object, ...]:
        """What shows that something was asked of the program between two activations."""
        return *self.loop.traces(), len(self.issued), self.divergence

    def _recorded_on(self) -> str:
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        recorded = self.python or running
        if recorded == running:
            return ""
        return (
            f"The journal was recorded on Python {recorded} and this is {running}: their asyncio schedules tasks differently.\n"
        )

    def report(self, context: dict[str, Any]) -> None:
        """What asyncio would log: a task's exception that nobody looked at. Once, not again on replay."""
        if not self.is_replaying:
            _report(self.run_id, self.is_discreet, context)

    # --- the scope: what user code sees -----------------------------------------------------------------------------------

    @property
    def workflow_name(self) -> str:
        """Name of the workflow."""
        return self.workflow.name

    @property
    def is_replaying(self) -> bool:
        """Whether what happens now has happened before."""
        return self._expected is not None

    @property
    def random(self) -> Random:
        """Seeded by the run: the same numbers on every replay. Made at first use: most runs never ask."""
        if self._random is None:
            self._random = Random(self._salt.hex())
        return self._random

    @property
    def maybe(self) -> bool:
        """The run undoes something that may not have happened."""
        return self.start is not None and self.start.maybe

    @property
    def python(self) -> str:
        """Python's minor version that the journal is recorded on."""
        return self.start.python if self.start else ""

    def now(self) -> datetime:
        """The instant of this activation."""
        return _EPOCH + timedelta(microseconds=self._at)

    def current_task(self) -> asyncio.Task[Any] | None:
        """The task whose code is running."""
        return tasks.current_task(self.loop)


def _as_it_is(value: Any) -> Any:
    return value


def _report(run_id: str, is_discreet: bool, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if is_discreet and error is not None:
        logger.error("run %s: a task failed with %s, and nobody looked at it", run_id, type(error).__name__)
        return
    logger.error("run %s: %s", run_id, context.get("message"), exc_info=error)


class _Heir:
    """What a loop knows of its program once that was evicted."""

    __slots__ = ("_is_discreet", "_is_silent", "_run_id")

    def __init__(self, run_id: str, *, is_discreet: bool, is_silent: bool) -> None:
        self._run_id = run_id
        self._is_discreet = is_discreet
        self._is_silent = is_silent

    def start_timer(self, delay_seconds: float, handle: asyncio.TimerHandle) -> None:
        pass  # Nothing may start any more.

    def cancel_timer(self, handle: asyncio.TimerHandle) -> None:
        pass

    def report(self, context: dict[str, Any]) -> None:
        if not self._is_silent:
            _report(self._run_id, self._is_discreet, context)
