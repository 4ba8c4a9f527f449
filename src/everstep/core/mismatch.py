"""
When code and journal no longer agree: what counts as a difference, and how it is told. Pure.

A command is the same if its key, kind, name and the digest of its arguments (or its timer's length) are. The line in the source
is shown but never compared, so a new comment strands nobody. Order between tasks is not compared either: keys name the task.

Arguments whose digest differs are looked at once more, by the types of today: a field that was added with a default strands
nobody.
"""

from __future__ import annotations

from msgspec import Raw

from everstep.codec import ArgumentsCodec, Undecodable
from everstep.errors import NondeterminismError, Unencodable
from everstep.events import (
    ChildCancelled,
    ChildSignalled,
    ChildStarted,
    CommandEvent,
    CompensationBegan,
    CompensationEnded,
    Ending,
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
    RunCancelled,
    RunContinued,
    RunDied,
    RunFailed,
    RunSucceeded,
    SignalAwaited,
    SignalWaitCancelled,
    StatePublished,
    StepCancelled,
    StepScheduled,
    StopRequested,
    TimerCancelled,
    TimerStarted,
)
from everstep.ids import is_derived
from everstep.secret import masked

_SHOWN_CHARS = 120


def slot_of(event: CommandEvent) -> str:
    """What the command is expected under: starting something and ending it are two commands of one key."""
    match event:
        case StepCancelled() | TimerCancelled() | ChildCancelled() | SignalWaitCancelled() | RequestWaitCancelled():
            return f"cancel {event.key}"
        case PatchApplied():
            return f"patch {event.id}"
        case StopRequested():
            return f"stop {event.key}"
        case CompensationEnded():
            return f"end {event.key}"
        case _:
            return event.key


def same_command(recorded: CommandEvent, requested: CommandEvent) -> bool:
    """Whether the code asks for what was recorded."""
    match recorded, requested:
        case StepScheduled(), StepScheduled():
            return recorded.step == requested.step and recorded.digest == requested.digest
        case TimerStarted(), TimerStarted():
            return recorded.delay == requested.delay
        case ChildStarted(), ChildStarted():
            return _is_same_child(recorded, requested) and recorded.digest == requested.digest
        case ChildSignalled(), ChildSignalled():
            return (recorded.child, recorded.name, recorded.digest) == (requested.child, requested.name, requested.digest)
        case ResultReused(), ResultReused():
            return recorded.name == requested.name and recorded.digest == requested.digest
        case _:
            return type(recorded) is type(requested) and _about(recorded) == _about(requested)


def _about(event: CommandEvent) -> tuple[str, str]:
    """What is compared of these: what a command is about, and not what it says.

    What is published follows from the inputs, so a corrected text or figure strands nobody. The answer to a request was given
    once, and stays.
    """
    match event:
        case SignalAwaited() | StatePublished() | NoteRecorded() | MilestoneReached():
            return event.name, ""
        case RequestAwaited() | RequestHandlerSet():
            return event.name, ""
        case RequestAnswered() | RequestRefused() | RequestFailed():
            return event.name, event.id
        case _:
            return "", ""


def same_by_todays_types(recorded: CommandEvent, requested: CommandEvent, arguments: ArgumentsCodec) -> bool:
    """Whether a call is the same once what was recorded is read by today's types: a new field with a default is no difference.

    Asked only when the digests differ, so it costs nothing otherwise.
    """
    match recorded, requested:
        case StepScheduled(), StepScheduled() if recorded.step == requested.step:
            return _reread(recorded.args, arguments) == masked(bytes(requested.args))
        case ChildStarted(), ChildStarted() if _is_same_child(recorded, requested):
            return _reread(recorded.args, arguments) == masked(bytes(requested.args))
        case _:
            return False


def show_command(event: CommandEvent | Ending | None) -> str:
    """One line: what it was, and where in the source."""
    match event:
        case None:
            return "nothing"
        case StepScheduled():
            return f"step {event.step}({_short(event.args)})".ljust(42) + f"  {event.source}"
        case TimerStarted():
            return f"timer of {event.delay / 1e6:g} s".ljust(42) + f"  {event.source}"
        case ChildStarted():
            named = "" if is_derived(event.run_id) else f" as {event.run_id}"
            return f"child {event.workflow}({_short(event.args)}){named}".ljust(42) + f"  {event.source}"
        case ChildSignalled():
            return f"signal {event.name} to child {event.run_id}".ljust(42) + f"  {event.source}"
        case ResultReused():
            return f"{'child' if event.is_child else 'step'} {event.name}, finished before".ljust(42) + f"  {event.source}"
        case SignalAwaited():
            return f"wait for signal {event.name}".ljust(42) + f"  {event.source}"
        case RequestAwaited():
            return f"wait for request {event.name}".ljust(42) + f"  {event.source}"
        case RequestHandlerSet():
            return f"handler of request {event.name}".ljust(42) + f"  {event.source}"
        case RequestAnswered():
            return f"answer to request {event.name} {event.id}"
        case RequestRefused():
            return f"refusal of request {event.name} {event.id}"
        case RequestFailed():
            return f"failure of request {event.name} {event.id}"
        case StatePublished():
            return f"state {event.name} published"
        case NoteRecorded():
            return f"note {event.name}"
        case MilestoneReached():
            return f"milestone {event.name}"
        case PatchApplied():
            return f"patch {event.id}"
        case StepCancelled() | TimerCancelled() | ChildCancelled() | SignalWaitCancelled() | RequestWaitCancelled():
            return f"cancellation of {event.key}"
        case StopRequested():
            return f"request to stop {event.key}"
        case CompensationBegan(plan=plan):
            return f"undoing of {len(plan)} steps of a saga"
        case CompensationEnded():
            return "the end of the undoing of a saga"
        case RunSucceeded():
            return "the end of the run, with a result"
        case RunFailed(error=error):
            return f"the end of the run, failed with {error.type}"
        case RunCancelled():
            return "the end of the run, cancelled"
        case RunContinued():
            return "the end of this segment, continued as new"
        case RunDied():
            return "the end of the run, given up while undoing"


def diverged(
    run_id: str,
    version: int,
    recorded: CommandEvent | Ending | None,
    requested: CommandEvent | Ending | None,
    recorded_on: str,
) -> NondeterminismError:
    """The error: recorded and requested side by side, what did not happen, what to do."""
    return NondeterminismError(
        f"run {run_id}: the workflow code no longer matches its journal at entry {version}.\n"
        f"  recorded:  {show_command(recorded)}\n"
        f"  requested: {show_command(requested)}\n"
        f"{recorded_on}"
        "Nothing was executed and the journal is unchanged; the run is paused. Deploy the code that it started on, or guard "
        f"the change with es.patched(...); it then goes on by itself. To see the journal: everstep show {run_id}",
        run_id=run_id,
        version=version,
        recorded=show_command(recorded).strip(),
        requested=show_command(requested).strip(),
    )


def _is_same_child(recorded: ChildStarted, requested: ChildStarted) -> bool:
    """Derived ids follow from the key. What becomes of the child is as recorded: another option strands nobody."""
    is_same_id = recorded.run_id == requested.run_id or (is_derived(recorded.run_id) and is_derived(requested.run_id))
    return is_same_id and recorded.workflow == requested.workflow


def _reread(args: Raw, arguments: ArgumentsCodec) -> bytes:
    """Recorded arguments, as today's types would have written them; nothing if they no longer fit."""
    try:
        positional, named = arguments.decode(args)
        return masked(arguments.encode(tuple(positional), named))
    except (Undecodable, Unencodable):
        return b""


def _short(args: Raw) -> str:
    text = masked(bytes(args)).decode(errors="replace")[1:-1]
    text = text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
    return text.encode("unicode_escape").decode() if not text.isprintable() else text
