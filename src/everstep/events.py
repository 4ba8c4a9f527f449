"""
Events: the immutable facts of which a journal consists, past tense.

Two kinds stand side by side in an entry. *Inputs* are facts that arrived (a result, a timer, a cancel); *commands* are what the
workflow's code then asked for, recorded as the fact that it was asked. Replay feeds the inputs and expects the commands.

A ``key`` names a command for ever: the path of the asyncio task that issued it, a colon, its ordinal in that task (``0:3``).
The encoding is JSON with the type's name in ``event``; payloads are embedded as they were encoded (``msgspec.Raw``), so bytes
are hashed, stored and read without being touched. A field may be added with a default; none is ever renamed or reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct, field

from everstep.errors import Unencodable
from everstep.records import Cancellation, ErrorRecord, Micros, OnParentClose, Relaxed, RunKey, UndoRecord
from everstep.secret import holds_secret

NO_PAYLOAD = Raw(b"null")
FORMAT = 1
"""Version of the event format and of the loop's semantics; a worker never claims a run of a format it does not know."""


class BlobRef(Struct, frozen=True, array_like=True, gc=False):
    """A payload that stands beside the journal (``everstep.blobs``): field, argument (if it is one), hash (hex), size."""

    field: str
    member: str
    hash: str
    size: int


class _Event(Struct, frozen=True, kw_only=True, tag_field="event", tag=True, omit_defaults=True, gc=False):
    # Only in stored events: whoever reads an entry has the payloads in their places again.
    blobs: tuple[BlobRef, ...] = field(default=(), name="$blobs")


# --- inputs: facts that arrived -------------------------------------------------------------------------------------------


class RunCreated(_Event, frozen=True, kw_only=True, gc=False):
    """The first event of every run: what was asked for, and what replaying it depends on.

    ``salt`` keys the digests of arguments (hex), ``python`` is the minor version whose asyncio the journal was recorded on.
    ``segment`` is above 0 in a fork of a run that had been continued as new.
    ``maybe``: the run undoes a step of its parent, and nobody knows whether that had its effect.
    """

    run_id: str
    workflow: str
    code_version: str
    args: Raw
    salt: str
    python: str
    format: int = FORMAT
    parent_run_id: str = ""
    deadline_at: Micros | None = None
    tags: dict[str, str] = {}
    segment: int = 0
    maybe: bool = False
    is_pipeline: bool = False
    relaxed: Relaxed | None = None


class RunClaimed(_Event, frozen=True, gc=False):
    """A worker took the run while nobody owned it."""

    worker: str
    why: str = ""


class RunResumed(_Event, frozen=True, gc=False):
    """A worker took the run over from one that died."""

    worker: str
    previous: str
    why: str = ""


class StepCompleted(_Event, frozen=True, gc=False):
    """``is_delta``: the result is written as what it changed of a pipeline's payload."""

    key: str
    result: Raw
    attempt: int = 1
    is_delta: bool = False


class StepFailed(_Event, frozen=True, gc=False):
    """The step has no attempts left. ``timed_out``: the last one took too long. ``maybe``: it may have had its effect."""

    key: str
    error: ErrorRecord
    attempt: int = 1
    timed_out: bool = False
    maybe: bool = False


class StepOutcomeUnknown(_Event, frozen=True, gc=False):
    """An ``at_most_once`` step was begun by a worker that died."""

    key: str


class TimerFired(_Event, frozen=True, gc=False):
    key: str


class ChildSucceeded(_Event, frozen=True, gc=False):
    key: str
    result: Raw


class ChildFailed(_Event, frozen=True, gc=False):
    """The child ended otherwise: ``status`` is failed, cancelled or dead."""

    key: str
    status: str
    error: ErrorRecord


class ChildAccepted(_Event, frozen=True, gc=False):
    """The child exists, under the id that the caller gave it."""

    key: str


class ChildRefused(_Event, frozen=True, gc=False):
    """No child was started: its id belongs to another run."""

    key: str
    reason: str


class CancelRequested(_Event, frozen=True, gc=False):
    reason: str = ""
    actor: str = ""


class SignalReceived(_Event, frozen=True, gc=False):
    """A message of the user's: it waits in the program until the code takes it. ``id`` is what it was deduplicated by."""

    name: str
    value: Raw
    id: str = ""


class RequestReceived(_Event, frozen=True, gc=False):
    """A request that was accepted. ``id`` names it for ever: the second one with the same is the same.

    ``judged``: a handler was there and had no objection. Else it is judged when one is set, if one is.
    """

    name: str
    value: Raw
    id: str
    judged: bool = False


class DeadlinePassed(_Event, frozen=True, gc=False):
    """The run outlived its own time limit."""


class StepOverridden(_Event, frozen=True, gc=False):
    """A person said what a step came to: its result, or (``skipped``) that it is not needed."""

    key: str
    result: Raw
    skipped: bool = False
    reason: str = ""
    actor: str = ""


class Drained(_Event, frozen=True, gc=False):
    """The code had gone as far as it could, and the entry was held back. What follows came later, at this instant."""

    at: Micros


class SuffixLost(_Event, frozen=True, gc=False):
    """A run of relaxed durability was taken over: what its last worker did within this bound may be lost, and is done again."""

    seconds: float
    steps: int


class RunForked(_Event, frozen=True, kw_only=True, gc=False):
    """The second event of a fork: it knows what the other run had finished up to a version, whose entry has this hash.

    ``edits`` replace results of steps and published states, by the key of their command.
    """

    run_id: str
    run_key: RunKey
    version: int
    hash: str
    edits: dict[str, Raw] = {}
    reason: str = ""
    actor: str = ""


class RunRetried(_Event, frozen=True, gc=False):
    """A run at rest was reopened: its code begins again, and what it had finished is not done again.

    ``goes_on``: it does not begin again, because a saga has undone steps. It is replayed and goes on where it had stopped:
    begun again, a step that had failed might work this time, and the code go forward over steps that are undone. ``anew``: keys
    of children that cannot be reopened, and begin anew under another id.
    """

    reason: str = ""
    actor: str = ""
    deadline_at: Micros | None = None
    goes_on: bool = False
    anew: tuple[str, ...] = ()


class PauseRequested(_Event, frozen=True, gc=False):
    """Whoever drives the run should stop and leave it paused. Never in a journal: ``RunPaused`` is."""

    reason: str = ""
    actor: str = ""


class RunUnpaused(_Event, frozen=True, gc=False):
    """A person let a paused run go on."""

    reason: str = ""
    actor: str = ""


# --- commands: what the code asked for ------------------------------------------------------------------------------------


class StepScheduled(_Event, frozen=True, gc=False):
    """``undoes``: it is a compensation, of the step with this key (empty: registered by hand). ``maybe``: see UndoRecord.
    ``of_payload``: its argument is a pipeline's payload, which is not written again."""

    key: str
    step: str
    args: Raw
    digest: str
    source: str = ""
    undoes: str | None = None
    maybe: bool = False
    of_payload: bool = False


class StepCancelled(_Event, frozen=True, gc=False):
    """The code no longer waits for the step; whatever its body still does is not recorded."""

    key: str


class TimerStarted(_Event, frozen=True, gc=False):
    """``delay`` (microseconds) is what the code asked for and is compared; ``due_at`` is what it came to."""

    key: str
    delay: Micros
    due_at: Micros
    source: str = ""


class TimerCancelled(_Event, frozen=True, gc=False):
    key: str


class ChildStarted(_Event, frozen=True, gc=False):
    """``undoes`` and ``maybe`` as in StepScheduled."""

    key: str
    run_id: str
    workflow: str
    args: Raw
    digest: str
    source: str = ""
    undoes: str | None = None
    maybe: bool = False
    on_parent_close: OnParentClose = "cancel"
    cancellation: Cancellation = "request"


class ChildCancelled(_Event, frozen=True, gc=False):
    """The code asks the child to stop, mostly because it no longer waits for it."""

    key: str
    reason: str = ""


class ChildSignalled(_Event, frozen=True, gc=False):
    """A message to a child: ``child`` is the key of the command that started it, ``id`` what the message is deduplicated by."""

    key: str
    child: str
    run_id: str
    name: str
    value: Raw
    digest: str
    id: str = ""
    source: str = ""


class StopRequested(_Event, frozen=True, gc=False):
    """A saga wants a step or child to come to an end, and goes on waiting: it has to know the outcome in order to undo it.

    There will be no further attempt, unless only that can tell what became of one that was lost. ``cut_off``: nobody needs the
    result, so not even then, and the attempt that is being executed is cancelled. A child is cancelled.
    """

    key: str
    cut_off: bool = False


class CompensationBegan(_Event, frozen=True, gc=False):
    """A saga undoes what is in its plan, in this order. Between this and its end the run's status is compensating."""

    key: str
    plan: tuple[UndoRecord, ...]


class CompensationEnded(_Event, frozen=True, gc=False):
    """All of the plan is undone. ``key`` is that of the beginning."""

    key: str


class SignalAwaited(_Event, frozen=True, gc=False):
    """The code asks for the next signal of that name; which one it gets follows from their order."""

    key: str
    name: str
    source: str = ""


class SignalWaitCancelled(_Event, frozen=True, gc=False):
    """The code no longer waits; what arrives goes to the next wait."""

    key: str


class ResultReused(_Event, frozen=True, gc=False):
    """The code asked for a step or child that was finished before the run was retried, or in the run that it forks."""

    key: str
    name: str
    digest: str
    is_child: bool = False
    source: str = ""


class RequestHandlerSet(_Event, frozen=True, gc=False):
    """From here on requests of that name are answered by a function of the workflow's."""

    key: str
    name: str
    source: str = ""


class RequestAwaited(_Event, frozen=True, gc=False):
    """The code asks for the next request of that name, to answer it itself."""

    key: str
    name: str
    source: str = ""


class RequestWaitCancelled(_Event, frozen=True, gc=False):
    """The code no longer waits; what arrives goes to the next wait."""

    key: str


class RequestAnswered(_Event, frozen=True, gc=False):
    """Whoever sent the request gets this result."""

    key: str
    name: str
    id: str
    result: Raw


class RequestRefused(_Event, frozen=True, gc=False):
    """The code does not answer the request. One that is refused before it was accepted is in no journal."""

    key: str
    name: str
    id: str
    reason: str


class RequestFailed(_Event, frozen=True, gc=False):
    """The function that was to answer the request raised; the run goes on."""

    key: str
    name: str
    id: str
    error: ErrorRecord


class MilestoneReached(_Event, frozen=True, gc=False):
    """The code left a milestone: everything in it is durable with this."""

    key: str
    name: str


class StatePublished(_Event, frozen=True, gc=False):
    """``is_delta``: ``value`` is what changed since the last state of that name (``core/deltas.py``), not the state itself."""

    key: str
    name: str
    value: Raw
    is_delta: bool = False


class NoteRecorded(_Event, frozen=True, gc=False):
    key: str
    name: str
    value: Raw


class PatchApplied(_Event, frozen=True, gc=False):
    """The run takes a change of its code, here and wherever it is asked later. It has no key: it shifts nobody's ordinal."""

    id: str


# --- how it ends, or stops --------------------------------------------------------------------------------------------------


class RunSucceeded(_Event, frozen=True, gc=False):
    result: Raw


class RunFailed(_Event, frozen=True, gc=False):
    error: ErrorRecord


class RunCancelled(_Event, frozen=True, gc=False):
    reason: str = ""


class RunContinued(_Event, frozen=True, kw_only=True, gc=False):
    """The code ended in order to begin again with other arguments: everything after this event belongs to the next segment.

    It says all that replaying the segment needs, so that nothing before it has to be read. Inputs that follow it in the same
    entry are carried over: they had arrived, and the code had not taken them. ``of_result``: the arguments are the payload that
    the last step returned, and the segment's number. ``states``: what the run has published by then, whole, by name; so it can
    still be read from outside when the segments before are pruned.
    """

    segment: int
    args: Raw
    salt: str
    python: str
    cursor: int = 0
    format: int = FORMAT
    deadline_at: Micros | None = None
    maybe: bool = False
    of_result: bool = False
    relaxed: Relaxed | None = None
    states: dict[str, Raw] = {}


class RunPaused(_Event, frozen=True, gc=False):
    """Nobody goes on with the run until something changes. ``refused_by``: fingerprint of code that could not replay it."""

    reason: str
    refused_by: str = ""
    actor: str = ""


class RunDied(_Event, frozen=True, gc=False):
    """The engine gave the run up: its workers kept dying, or a compensation failed for good.

    ``undo_left``: what sagas had still to undo, in the order in which they would have. ``error``: why they could not.
    """

    reason: str
    undo_left: tuple[UndoRecord, ...] = ()
    error: ErrorRecord | None = None


class RunDiscarded(_Event, frozen=True, gc=False):
    """A person gave the run up: it is over as it stands, and no more of its code is run."""

    reason: str = ""
    actor: str = ""


Input: TypeAlias = (
    RunCreated
    | RunClaimed
    | RunResumed
    | StepCompleted
    | StepFailed
    | StepOutcomeUnknown
    | TimerFired
    | ChildSucceeded
    | ChildFailed
    | ChildAccepted
    | ChildRefused
    | CancelRequested
    | SignalReceived
    | RequestReceived
    | DeadlinePassed
    | StepOverridden
    | Drained
    | SuffixLost
    | RunForked
    | RunRetried
    | PauseRequested
    | RunUnpaused
)
CommandEvent: TypeAlias = (
    StepScheduled
    | StepCancelled
    | TimerStarted
    | TimerCancelled
    | ChildStarted
    | ChildCancelled
    | ChildSignalled
    | StopRequested
    | CompensationBegan
    | CompensationEnded
    | SignalAwaited
    | SignalWaitCancelled
    | ResultReused
    | MilestoneReached
    | RequestHandlerSet
    | RequestAwaited
    | RequestWaitCancelled
    | RequestAnswered
    | RequestRefused
    | RequestFailed
    | StatePublished
    | NoteRecorded
    | PatchApplied
)
RequestSettled: TypeAlias = RequestAnswered | RequestRefused | RequestFailed
RunEnding: TypeAlias = RunSucceeded | RunFailed | RunCancelled | RunDied
Ending: TypeAlias = RunEnding | RunContinued
Verdict: TypeAlias = RunPaused | RunDied | RunDiscarded
Event: TypeAlias = Input | CommandEvent | Ending | Verdict

ENDINGS = (RunSucceeded, RunFailed, RunCancelled, RunDied, RunContinued)
OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown, ChildSucceeded, ChildFailed, ChildRefused, StepOverridden)
VERDICTS = (RunPaused, RunDied, RunDiscarded)
COMMANDS = (
    StepScheduled,
    StepCancelled,
    TimerStarted,
    TimerCancelled,
    ChildStarted,
    ChildCancelled,
    ChildSignalled,
    StopRequested,
    CompensationBegan,
    CompensationEnded,
    SignalAwaited,
    SignalWaitCancelled,
    ResultReused,
    MilestoneReached,
    RequestHandlerSet,
    RequestAwaited,
    RequestWaitCancelled,
    RequestAnswered,
    RequestRefused,
    RequestFailed,
    StatePublished,
    NoteRecorded,
    PatchApplied,
)
REQUEST_SETTLED = (RequestAnswered, RequestRefused, RequestFailed)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Event])
_decoder_one: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_events(events: Sequence[Event]) -> bytes:
    """The bytes of an entry: they are hashed and stored exactly as returned here.

    Raises:
        Unencodable: A secret is among them that nobody has sealed.
    """
    return _without_secrets(_encoder.encode(events))


def decode_events(data: bytes) -> list[Event]:
    """The events of an entry.

    Raises:
        msgspec.MsgspecError: The bytes are no list of known events.
    """
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise _too_deep() from None


def encode_event(event: Event) -> bytes:
    """One event by itself: the body of a message. Raises as above."""
    return _without_secrets(_encoder.encode(event))


def _without_secrets(data: bytes) -> bytes:
    if not holds_secret(data):
        return data
    raise Unencodable(
        "a Secret would be stored in clear. Nothing was stored. Give the engine and its clients a key: "
        "payloads=es.Payloads(encryption=es.Encryption(…))."
    )


def decode_event(data: bytes) -> Event:
    """The event of a message; raises ``msgspec.MsgspecError`` as above."""
    try:
        return _decoder_one.decode(data)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> msgspec.DecodeError:
    """Nobody writes such events: the codec refuses values long before (``DEPTH_MAX``)."""
    return msgspec.DecodeError("it is nested deeper than anything that is ever stored")
