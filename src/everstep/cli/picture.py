"""One run as lines of text: what ``show`` prints and ``watch`` redraws. Pure; every line is inert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from everstep.cli.glyphs import status_text
from everstep.cli.inert import inert, inert_lines
from everstep.cli.sentence import Circumstances, attempt_of, doing, summary
from everstep.cli.story import How, Operation, Story, What
from everstep.cli.words import clock, count, duration, iso, micros, shortened
from everstep.client import Hindrance
from everstep.core.progress import OpenStep
from everstep.core.snapshots import Snapshot
from everstep.core.undone import show_undo
from everstep.records import ErrorRecord, Micros

_SIGNS = {How.OPEN: "▶", How.DONE: "✓", How.FAILED: "✕", How.UNKNOWN: "◆", How.CANCELLED: "⊘"}
OPERATIONS_SHOWN = 200
NAME_WIDTH_MAX = 60
ERROR_LINES_MAX = 60


class Picture(Struct, frozen=True, kw_only=True):
    """Everything that is shown of a run.

    Attributes:
        snapshot: What it has.
        story: What it did.
        facts: What the journal does not say.
        untaken: Name and key of each signal that the code has not taken, in order.
        wide: Nothing is shortened: the reader is a program.
    """

    snapshot: Snapshot
    story: Story
    facts: Circumstances
    untaken: tuple[tuple[str, str], ...] = ()
    wide: bool = False


def lines(picture: Picture, *, steps_max: int = OPERATIONS_SHOWN) -> list[str]:
    """Header, sentence, steps, error, in this order."""
    snapshot, story, facts = picture.snapshot, picture.story, picture.facts
    return [
        inert(_header(snapshot, story, facts)),
        inert(doing(story, facts)),
        "",
        *_operations(story, facts, None if picture.wide else steps_max),
        *_left_to_undo(story),
        *_nobody_took(picture),
        *_error(story.error),
        inert(_footer(snapshot, story, facts)),
    ]


def as_json(picture: Picture) -> dict[str, Any]:
    """The same for programs, with the whole state."""
    snapshot, story, facts = picture.snapshot, picture.story, picture.facts
    error = None if snapshot.error is None else msgspec.to_builtins(snapshot.error)
    return {
        "run_id": snapshot.run_id,
        "workflow": snapshot.workflow,
        "code_version": snapshot.code_version,
        "status": snapshot.status.value,
        "version": snapshot.version,
        "hash": snapshot.hash,
        "doing": doing(story, facts),
        "waits_for": [_hindrance_json(each) for each in facts.waits_for],
        "current_step": {"name": snapshot.current_step.name, "cursor": snapshot.current_step.cursor},
        "recoveries": len(story.recoveries()),
        "error": error,
        "operations": [_operation_json(operation, facts.open_steps.get(operation.key)) for operation in story.operations],
        "undone": list(msgspec.to_builtins(snapshot.undone)),
        "retries": story.retries,
        "undelivered": [{"name": name, "key": key} for name, key in picture.untaken],
        "undo_left": list(msgspec.to_builtins(snapshot.undo_left)),
        "payload": snapshot.payload,
    }


def _header(snapshot: Snapshot, story: Story, facts: Circumstances) -> str:
    version = shortened(snapshot.code_version, 12)
    parts = [f"{snapshot.run_id}  {snapshot.workflow}@{version}  {status_text(snapshot.status)}"]
    if facts.owner:
        parts.append(f"on {facts.owner}")
    if story.retries:
        parts.append("(retried once)" if story.retries == 1 else f"(retried {story.retries} times)")
    recovered = story.recoveries()
    if recovered:
        last = recovered[-1]
        times = f", {len(recovered)} times in all" if len(recovered) > 1 else ""
        parts.append(f"(recovered from {last.previous}, {clock(last.at, facts.now)}{times})")
    return "  ".join(parts)


def _operations(story: Story, facts: Circumstances, shown_max: int | None) -> list[str]:
    operations = story.operations
    hidden = 0 if shown_max is None else max(0, len(operations) - shown_max)
    shown = operations[hidden:]
    if not shown:
        return []
    width = min(NAME_WIDTH_MAX, max(len(inert(operation_name(operation))) for operation in shown))
    before = [f" … {count(hidden, 'earlier operation')} not shown: --json prints all"] if hidden else []
    return [*before, *(_operation(operation, facts, width) for operation in shown), ""]


def _operation(operation: Operation, facts: Circumstances, width: int) -> str:
    is_waiting = operation.how is How.OPEN and operation.what is not What.STEP
    sign = "◷" if is_waiting else _SIGNS[operation.how]
    name = inert(operation_name(operation))
    return f" {sign} {name:<{width}}  {_length(operation, facts.now):>8}  {inert(_remark(operation, facts))}".rstrip()


def operation_name(operation: Operation) -> str:
    """What people call it. A compensation says so: the step that it undoes says *undone*."""
    name = _plain_name(operation)
    return name if operation.undoes is None else f"↶ {name}"


def _plain_name(operation: Operation) -> str:
    match operation.what:
        case What.STEP:
            return operation.name
        case What.CHILD:
            return f"{operation.name} (child)"
        case What.SIGNAL:
            return f"{operation.name} (signal)"
        case What.REQUEST:
            return f"{operation.name} (next request)"
        case What.ANSWER:
            return f"{operation.name} (request {operation.key.rpartition(':')[2]})"
        case What.TIMER:
            return f"timer {duration((operation.due_at or 0) - operation.asked_at)}"


def _length(operation: Operation, now: Micros) -> str:
    return duration((operation.ended_at or now) - operation.asked_at)


def _remark(operation: Operation, facts: Circumstances) -> str:
    attempts = f"{operation.attempt} attempts" if operation.attempt > 1 else ""
    match operation.how:
        case How.OPEN:
            return _pending(operation, facts.now, facts.open_steps.get(operation.key))
        case How.FAILED:
            return " · ".join(filter(None, [attempts, summary(operation.error)]))
        case How.UNKNOWN:
            return "its worker died in it, and it must not be repeated"
        case How.CANCELLED:
            return "cancelled"
        case How.DONE:
            reused = "found done" if operation.is_reused else ""
            return " · ".join(filter(None, [attempts, reused, "undone" if operation.is_undone else ""]))


def _pending(operation: Operation, now: Micros, tried: OpenStep | None) -> str:
    match operation.what:
        case What.TIMER:
            left = (operation.due_at or 0) - now
            return f"{duration(left)} left" if left > 0 else "due"
        case What.CHILD:
            return f"waiting for {operation.child_id}"
        case What.SIGNAL:
            return f"waiting for signal {operation.name}"
        case What.REQUEST:
            return "waiting for somebody to ask"
        case What.ANSWER:
            return "not answered yet"
        case What.STEP:
            return "running" if tried is None or tried.error is None else _tried(tried, now)


def _tried(step: OpenStep, now: Micros) -> str:
    when = "running" if step.due_at is None else f"in {duration(micros(step.due_at) - now)}"
    return f"{attempt_of(step)}, {when} · {summary(step.error)}"


def _left_to_undo(story: Story) -> list[str]:
    """What sagas have not undone yet, the next first; of a dead run what a person has to see to."""
    left = [inert(show_undo(record)) for record in story.undone.left]
    return [" left to undo:", *(f"   ↶ {each}" for each in left), ""] if left else []


def _nobody_took(picture: Picture) -> list[str]:
    """Signals that arrived and that the code has not taken."""
    left = [inert(f"{name} {key}".rstrip()) for name, key in picture.untaken]
    return [" signals that nobody has taken:", *(f"   · {each}" for each in left), ""] if left else []


def _error(error: ErrorRecord | None) -> list[str]:
    """The error with its causes and tracebacks; nothing that the sentence has said already."""
    if error is None:
        return []
    told = _more(error) if error.type.startswith("everstep.errors.Run") else _causes(error)
    return [*(f"   {line}" for line in told[:ERROR_LINES_MAX]), ""] if told else []


def _more(error: ErrorRecord) -> list[str]:
    """Of a verdict the sentence has told the first line: a mismatch of code and journal shows both sides in the next ones."""
    more = inert_lines(error.message)[1:]
    return more if error.cause is None else [*more, "caused by:", *_causes(error.cause)]


def _causes(error: ErrorRecord) -> list[str]:
    told: list[str] = []
    cause: ErrorRecord | None = error
    while cause is not None and len(told) < ERROR_LINES_MAX:
        said = f"{cause.type.removeprefix('builtins.')}: {cause.message}"
        told += ["caused by:"] * bool(told)
        told += inert_lines(f"{cause.traceback.rstrip()}\n{said}" if cause.traceback else said)
        cause = cause.cause
    return told


def _footer(snapshot: Snapshot, story: Story, facts: Circumstances) -> str:
    created = story.created
    started = story.takeovers[0].at if story.takeovers else None
    parts = [count(story.event_count, "event"), f"version {snapshot.version}"]
    if started is not None:
        parts += [f"began {clock(started, facts.now)}", f"took {duration((story.ended_at or facts.now) - started)}"]
    if created is not None and created.parent_run_id:
        parts.append(f"child of {created.parent_run_id}")
    if created is not None and created.tags:
        parts.append(" ".join(f"{name}={value}" for name, value in sorted(created.tags.items())))
    return " · ".join(parts)


def _hindrance_json(each: Hindrance) -> dict[str, Any]:
    until = None if each.until is None else each.until.isoformat()
    return {"kind": each.kind, "text": each.text, "until": until, "runs": list(each.runs)}


def _operation_json(operation: Operation, tried: OpenStep | None) -> dict[str, Any]:
    error = operation.error if tried is None else tried.error
    return {
        "key": operation.key,
        "what": operation.what.value,
        "name": operation.name,
        "how": operation.how.value,
        "attempt": operation.attempt if tried is None else tried.attempt,
        "failures": None if tried is None else tried.failures,
        "failures_max": None if tried is None else tried.failures_max,
        "next_attempt_at": None if tried is None or tried.due_at is None else iso(micros(tried.due_at)),
        "asked_at": iso(operation.asked_at),
        "ended_at": None if operation.ended_at is None else iso(operation.ended_at),
        "due_at": None if operation.due_at is None else iso(operation.due_at),
        "child_run_id": operation.child_id or None,
        "source": operation.source,
        "error": None if error is None else msgspec.to_builtins(error),
        "undoes": operation.undoes,
        "maybe": operation.maybe,
        "is_undone": operation.is_undone,
    }


def event_line(version: int, at: Micros, event: dict[str, Any], names: Mapping[str, str]) -> Sequence[str]:
    """One event as cells: version, instant, kind, what it is about, detail.

    Args:
        version: Of its entry.
        at: Of its entry.
        event: As JSON.
        names: Of operations, by key.
    """
    key = str(event.get("key", ""))
    about = names.get(key, key) or str(event.get("worker") or event.get("workflow") or "")
    error: dict[str, Any] | None = event.get("error")
    detail = f"{error['type']}: {error['message']}" if error else str(event.get("reason") or "")
    return (str(version), iso(at), str(event.get("event", "")), about, detail)
