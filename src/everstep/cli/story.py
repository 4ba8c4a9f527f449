"""
A journal as a person would tell it: which operations were asked for, when, and what became of each. Pure, a fold over events.

The snapshot says what a run *has*; the story says what it *did* and what it waits for. Both are derived from the same entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias, assert_never

import msgspec
from msgspec import Struct

from everstep.core.undone import Undone
from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildCancelled,
    ChildFailed,
    ChildRefused,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    CompensationEnded,
    DeadlinePassed,
    Drained,
    Event,
    MilestoneReached,
    NoteRecorded,
    PatchApplied,
    PauseRequested,
    RequestAnswered,
    RequestAwaited,
    RequestFailed,
    RequestHandlerSet,
    RequestReceived,
    RequestRefused,
    RequestWaitCancelled,
    ResultReused,
    RunCancelled,
    RunClaimed,
    RunContinued,
    RunCreated,
    RunDied,
    RunDiscarded,
    RunFailed,
    RunForked,
    RunPaused,
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
from everstep.ids import request_dedupe
from everstep.records import ErrorRecord, Micros

Dated: TypeAlias = tuple[Micros, Event]
"""An event, and when the entry that holds it was made."""


class What(StrEnum):
    """Kinds of operations."""

    STEP = "step"
    TIMER = "timer"
    CHILD = "child"
    SIGNAL = "signal"
    REQUEST = "request"
    """The code waits for one."""
    ANSWER = "answer"
    """One was accepted, and is being answered."""


class How(StrEnum):
    """What became of an operation."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


class Operation(Struct, kw_only=True):
    """Something that the workflow asked for.

    Attributes:
        key: Its command key.
        what: Kind.
        name: Of the step, the signal, the request or the child's workflow; of a timer, nothing.
        asked_at: When.
        source: Line of the user's code.
        due_at: Of a timer: when it fires.
        child_id: Of a child: its run.
        how: What became of it.
        ended_at: When that was known.
        attempt: Which attempt brought the outcome.
        error: Why it failed.
        is_reused: It had been done before the run was retried, or in the run that this one forks.
        undoes: Of a compensation: key of the step that it undoes; empty for one registered by hand.
        maybe: Nobody knew whether that step had had its effect.
        is_undone: A compensation has undone it.
    """

    key: str
    what: What
    name: str = ""
    asked_at: Micros = 0
    source: str = ""
    due_at: Micros | None = None
    child_id: str = ""
    how: How = How.OPEN
    ended_at: Micros | None = None
    attempt: int = 1
    error: ErrorRecord | None = None
    is_reused: bool = False
    undoes: str | None = None
    maybe: bool = False
    is_undone: bool = False


class Takeover(Struct, frozen=True):
    """A worker took the run: ``previous`` names the one that died, if one did."""

    at: Micros
    worker: str
    previous: str = ""


class Story(Struct, kw_only=True):
    """See the module.

    Attributes:
        created: The start.
        operations: In the order in which they were asked for.
        takeovers: Every claim, oldest first.
        cancel: The cancel that was asked for, if one was; a deadline counts.
        error: Why it failed, paused or died, as far as the events go.
        ended_at: When it came to rest.
        paused_by: The person who paused it, if it is paused and somebody said so.
        retries: How often its code began again after it had failed.
        handled: Names of the requests that a function of the workflow's answers.
        event_count: How many events there are.
        undone: What sagas have undone, and have left to undo.
    """

    created: RunCreated | None = None
    operations: list[Operation] = []
    takeovers: list[Takeover] = []
    cancel: CancelRequested | DeadlinePassed | None = None
    error: ErrorRecord | None = None
    ended_at: Micros | None = None
    paused_by: str = ""
    retries: int = 0
    handled: list[str] = []
    event_count: int = 0
    undone: Undone = msgspec.field(default_factory=Undone)

    def still_open(self) -> list[Operation]:
        """What is asked for and not finished."""
        return [operation for operation in self.operations if operation.how is How.OPEN]

    def work(self) -> list[Operation]:
        """Steps and children: what has an outcome of its own."""
        return [operation for operation in self.operations if operation.what in (What.STEP, What.CHILD)]

    def recoveries(self) -> list[Takeover]:
        """The claims that took the run over from a dead worker."""
        return [takeover for takeover in self.takeovers if takeover.previous]


def tell(events: Sequence[Dated]) -> Story:
    """The story of a journal, or of its beginning."""
    teller = _Teller()
    for at, event in events:
        teller.apply(event, at)
    return teller.story


class _Teller:
    """The story that grows while events are applied."""

    def __init__(self) -> None:
        self.story = Story()
        self._by_key: dict[str, Operation] = {}
        self._unread: dict[tuple[What, str], int] = {}
        self._received: dict[tuple[What, str], int] = {}

    def apply(self, event: Event, at: Micros) -> None:
        story = self.story
        story.event_count += 1
        story.undone.apply(event)
        match event:
            case RunCreated():
                story.created = event
            case RunClaimed(worker=worker):
                self._taken(Takeover(at, worker))
            case RunResumed(worker=worker, previous=previous):
                self._taken(Takeover(at, worker, previous or "another worker"))
            case StepScheduled(key=key, step=name):
                self._asked_for(event, Operation(key=key, what=What.STEP, name=name, asked_at=at))
            case ChildStarted(key=key, workflow=name, run_id=child_id):
                self._asked_for(event, Operation(key=key, what=What.CHILD, name=name, asked_at=at, child_id=child_id))
            case TimerStarted(key=key, due_at=due_at, source=source):
                self._asked(Operation(key=key, what=What.TIMER, asked_at=at, due_at=due_at, source=source))
            case StepOverridden(key=key):
                self._settled(key, at, How.DONE)
            case StepCompleted(key=key, attempt=attempt):
                self._settled(key, at, How.DONE, attempt=attempt)
            case StepFailed(key=key, error=error, attempt=attempt):
                self._settled(key, at, How.FAILED, attempt=attempt, error=error)
            case ChildFailed(key=key, error=error):
                self._settled(key, at, How.FAILED, error=error)
            case ChildRefused(key=key, reason=reason):
                self._settled(key, at, How.FAILED, error=ErrorRecord("everstep.errors.RunConflict", reason))
            case StepOutcomeUnknown(key=key):
                self._settled(key, at, How.UNKNOWN)
            case ChildSucceeded(key=key) | TimerFired(key=key):
                self._settled(key, at, How.DONE)
            case StepCancelled(key=key) | TimerCancelled(key=key) | ChildCancelled(key=key):
                self._settled(key, at, How.CANCELLED)
            case SignalWaitCancelled(key=key) | RequestWaitCancelled(key=key):
                self._settled(key, at, How.CANCELLED)
            case SignalAwaited(key=key, name=name, source=source):
                self._asked(Operation(key=key, what=What.SIGNAL, name=name, asked_at=at, source=source))
                self._match(What.SIGNAL, name, at)
            case SignalReceived(name=name):
                self._arrived(What.SIGNAL, name, at)
            case RequestAwaited(key=key, name=name, source=source):
                self._asked(Operation(key=key, what=What.REQUEST, name=name, asked_at=at, source=source))
                self._match(What.REQUEST, name, at)
            case RequestHandlerSet(name=name):
                story.handled = [*(each for each in story.handled if each != name), name]
            case RequestReceived(name=name, id=request_id):
                asked = self._by_key.get(request_dedupe(name, request_id))
                if asked is None:  # Else it was carried over.
                    self._asked(Operation(key=request_dedupe(name, request_id), what=What.ANSWER, name=name, asked_at=at))
                self._arrived(What.REQUEST, name, at)
            case RequestAnswered(name=name, id=request_id):
                self._settled(request_dedupe(name, request_id), at, How.DONE)
            case RequestRefused(name=name, id=request_id, reason=reason):
                refusal = ErrorRecord("everstep.errors.RequestRefused", reason)
                self._settled(request_dedupe(name, request_id), at, How.FAILED, error=refusal)
            case RequestFailed(name=name, id=request_id, error=error):
                self._settled(request_dedupe(name, request_id), at, How.FAILED, error=error)
            case StopRequested() | CompensationBegan() | CompensationEnded():
                pass  # Told by what becomes of the operations.
            case StatePublished() | NoteRecorded() | PatchApplied() | ChildAccepted() | ChildSignalled():
                pass  # Said by ``state`` and by the history.
            case CancelRequested() | DeadlinePassed():
                story.cancel = story.cancel or event
            case RunSucceeded():
                story.ended_at = at
            case RunFailed(error=error):
                story.ended_at, story.error = at, error
            case RunCancelled(reason=reason):
                story.ended_at, story.error = at, ErrorRecord("everstep.errors.RunCancelled", reason)
            case RunDied(reason=reason, error=error):
                story.ended_at, story.error = at, ErrorRecord("everstep.errors.RunDead", reason, cause=error)
            case RunDiscarded(reason=reason):
                story.ended_at, story.error = at, ErrorRecord("everstep.errors.RunCancelled", reason)
            case RunPaused(reason=reason, actor=actor):
                story.error, story.paused_by = ErrorRecord("everstep.errors.RunPaused", reason), actor
            case ResultReused(key=key, name=name, is_child=is_child, source=source):
                what = What.CHILD if is_child else What.STEP
                self._asked(Operation(key=key, what=what, name=name, asked_at=at, source=source, is_reused=True))
                self._settled(key, at, How.DONE)
            case RunRetried():
                story.retries += 1
                story.ended_at, story.error, story.cancel = None, None, None
                self._begin_anew(at)
                self._unread = dict(self._received)
            case RunContinued():
                self._begin_anew(at)
                self._received, self._unread = {}, {}  # What was not taken arrives again, in the same entry.
            case RunForked() | RunUnpaused() | PauseRequested() | Drained() | SuffixLost() | MilestoneReached():
                pass  # Said by the history.
            case _:
                assert_never(event)

    def _taken(self, takeover: Takeover) -> None:
        # Whoever takes a run goes on with it: what stopped it before is history.
        self.story.takeovers.append(takeover)
        self.story.error = None

    def _begin_anew(self, at: Micros) -> None:
        """Nobody waits any more for what the code had asked for before."""
        for operation in self.story.still_open():
            if operation.what is not What.ANSWER:  # Whoever asked still waits.
                operation.how, operation.ended_at = How.CANCELLED, at
        self.story.handled = []

    def _arrived(self, what: What, name: str, at: Micros) -> None:
        self._received[what, name] = self._received.get((what, name), 0) + 1
        self._unread[what, name] = self._unread.get((what, name), 0) + 1
        self._match(what, name, at)

    def _match(self, what: What, name: str, at: Micros) -> None:
        """The oldest wait takes what arrived first, as in the program."""
        unread = self._unread.get((what, name), 0)
        waits = [each for each in self.story.still_open() if each.what is what and each.name == name]
        if waits and unread:
            self._unread[what, name] = unread - 1
            self._settled(waits[0].key, at, How.DONE)

    def _asked_for(self, event: StepScheduled | ChildStarted, operation: Operation) -> None:
        operation.source, operation.undoes, operation.maybe = event.source, event.undoes, event.maybe
        self._asked(operation)

    def _asked(self, operation: Operation) -> None:
        self.story.operations.append(operation)
        self._by_key[operation.key] = operation

    def _settled(self, key: str, at: Micros, how: How, *, attempt: int = 1, error: ErrorRecord | None = None) -> None:
        operation = self._by_key.get(key)
        if operation is None or operation.how is not How.OPEN:
            return  # A late outcome of something cancelled changes nothing.
        operation.how, operation.ended_at, operation.attempt, operation.error = how, at, attempt, error
        if how is How.DONE and operation.undoes in self._by_key:
            self._by_key[operation.undoes].is_undone = True
