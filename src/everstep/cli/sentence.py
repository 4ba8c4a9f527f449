"""
"What is it doing?": one sentence about a run, with what to do next where somebody has to. Pure, derived from the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from everstep.cli.story import How, Operation, Story, What
from everstep.cli.words import clock, count, duration, micros
from everstep.client import Hindrance
from everstep.core.progress import OpenStep
from everstep.events import CancelRequested
from everstep.records import ErrorRecord, Micros, Status

IN_QUEUE = frozenset({"queue paused", "concurrency", "key", "rate", "line"})
"""What a queue keeps a run waiting for."""


class Circumstances(Struct, frozen=True, kw_only=True):
    """What the journal does not say.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        status: Where it stands.
        now: The store's clock.
        wake_at: When a worker should look at it; None if only a message can wake it.
        owner: Name of the worker that owns it; empty for none.
        pinned: The version of the workflow that alone may drive it; empty if any may.
        workers: How many workers are alive on this store; None if not known.
        unread: How many messages (a cancel, a child's end) wait in its inbox.
        open_steps: What is known of the attempts of steps that are open, by the key of their command.
        waits_for: Why nobody drives it, as the store tells; empty if that is not known.
    """

    run_id: str
    workflow: str
    status: Status
    now: Micros
    wake_at: Micros | None = None
    owner: str = ""
    pinned: str = ""
    workers: int | None = None
    unread: int = 0
    open_steps: Mapping[str, OpenStep] = {}
    waits_for: Sequence[Hindrance] = ()


def doing(story: Story, facts: Circumstances) -> str:
    """The sentence. Its text may hold what users wrote: make it inert before it is shown."""
    match facts.status:
        case Status.SUCCEEDED:
            return f"Succeeded {_took(story)}with {count(_done(story), 'step')}."
        case Status.CANCELLED:
            return f"Cancelled{_because(story.error)}. Nothing more will happen."
        case Status.FAILED:
            return f"Failed{_where(story)}: {summary(_root(story))}. Fix the cause, then: everstep retry {facts.run_id}"
        case Status.DEAD:
            return f"Given up: {_message(story.error)}"
        case Status.PAUSED:
            if story.paused_by:
                why = _message(story.error).rstrip(".")
                return f"Paused by {story.paused_by}: {why}. {_unread(facts)}To let it go on: everstep resume {facts.run_id}"
            return f"Paused: {_message(story.error)}"
        case _:
            return _active(story, facts)


def summary(error: ErrorRecord | None) -> str:
    """An error in one line: type and first line of its message."""
    if error is None:
        return "no reason was recorded"
    name = error.type.removeprefix("builtins.")
    first = error.message.partition("\n")[0].rstrip(".")
    return f"{name}: {first}" if first else name


def _active(story: Story, facts: Circumstances) -> str:
    cancel = _cancel(story) + _unread(facts)
    if facts.status is Status.QUEUED and not story.takeovers:
        return f"{cancel}Not begun: {_waits_for_worker(facts)}"
    if not facts.owner and facts.wake_at is not None and facts.wake_at <= facts.now:
        since = f"Due for {duration(facts.now - facts.wake_at)}" if facts.wake_at > 0 else "Due at once"
        return f"{cancel}{since}: {_waits_for_worker(facts)}"
    return f"{_undoing(story)}{cancel}{_waits(story.still_open(), facts)}{_answers(story)}"


def _undoing(story: Story) -> str:
    """How far a saga is with undoing its steps."""
    if not story.undone.is_compensating:
        return ""
    done, left = len(story.undone.done), len(story.undone.left)
    return f"Undoing its steps: {done} of {done + left} undone. "


def _waits(pending: Sequence[Operation], facts: Circumstances) -> str:
    if not pending:
        where = f" on {facts.owner}" if facts.owner else ""
        return f"The workflow's code is being driven{where}." if facts.status is Status.RUNNING else "Waiting for a message."
    steps = [operation for operation in pending if operation.what is What.STEP]
    children = [operation for operation in pending if operation.what is What.CHILD]
    timers = [operation for operation in pending if operation.what is What.TIMER]
    if steps:
        return _steps(steps, facts)
    if children:
        return _children(children, timers, facts)
    signals = [operation for operation in pending if operation.what is What.SIGNAL]
    if signals:
        return _signals(signals, timers, facts)
    requests = [operation for operation in pending if operation.what is What.REQUEST]
    if requests:
        return _requests(requests, timers, facts)
    if timers:
        return f"Waiting for {_timer(timers, facts)}."
    return f"Waiting for its code to answer {_listed([operation.name for operation in pending])}."


def _steps(steps: Sequence[Operation], facts: Circumstances) -> str:
    names = _listed([step.name for step in steps])
    verb = "is" if len(steps) == 1 else "are"
    noun = "Step" if len(steps) == 1 else "Steps"
    tried = facts.open_steps.get(steps[0].key) if len(steps) == 1 else None
    if tried is not None and tried.due_at is not None:
        return (
            f"{attempt_of(tried).capitalize()} of {names} at {clock(micros(tried.due_at), facts.now)}: {summary(tried.error)}."
        )
    if not facts.owner and facts.wake_at is not None:
        # Parked with a step open: only a retry delay does that.
        return f"{noun} {names} {verb} between attempts: the next one in {duration(facts.wake_at - facts.now)}."
    where = f" on {facts.owner}" if facts.owner else ""
    since = duration(facts.now - min(step.asked_at for step in steps))
    again = f", {attempt_of(tried)} after {summary(tried.error)}" if tried is not None and tried.error is not None else ""
    return f"{noun} {names} {verb} running{where}, asked for {since} ago{again}."


def attempt_of(step: OpenStep) -> str:
    """``attempt 4 of 5``. Attempts that were lost with their worker use up none of them, and may be more."""
    limit = f" of {step.failures_max}" if step.failures_max is not None and step.attempt <= step.failures_max else ""
    return f"attempt {step.attempt}{limit}"


def _children(children: Sequence[Operation], timers: Sequence[Operation], facts: Circumstances) -> str:
    limit = f", or {_timer(timers, facts)}" if timers else ""
    if len(children) == 1:
        child = children[0]
        return f"Waiting for its child {child.child_id} ({child.name}){limit}. To see it: everstep show {child.child_id}"
    return f"Waiting for {len(children)} children: {_listed([child.child_id for child in children])}{limit}."


def _signals(signals: Sequence[Operation], timers: Sequence[Operation], facts: Circumstances) -> str:
    limit = f", or {_timer(timers, facts)}" if timers else ""
    names = _listed([signal.name for signal in signals])
    return f"Waiting for the {'signal' if len(signals) == 1 else 'signals'} {names}{limit}."


def _requests(requests: Sequence[Operation], timers: Sequence[Operation], facts: Circumstances) -> str:
    limit = f", or {_timer(timers, facts)}" if timers else ""
    names = _listed([request.name for request in requests])
    return f"Waiting for somebody to ask {names}{limit}."


def _answers(story: Story) -> str:
    return f" It answers requests: {_listed(story.handled)}." if story.handled else ""


def _timer(timers: Sequence[Operation], facts: Circumstances) -> str:
    due_at = min(timer.due_at or 0 for timer in timers)
    left = due_at - facts.now
    many = f" (the first of {len(timers)})" if len(timers) > 1 else ""
    if left <= 0:
        return f"a timer{many} that is due now"
    return f"a timer{many}: {duration(left)} left, until {clock(due_at, facts.now)}"


def _waits_for_worker(facts: Circumstances) -> str:
    if facts.waits_for and any(each.kind in IN_QUEUE for each in facts.waits_for):
        return "; ".join(each.text for each in facts.waits_for) + "."
    if facts.wake_at is not None and facts.wake_at > facts.now:
        return f"it starts in {duration(facts.wake_at - facts.now)}, at {clock(facts.wake_at, facts.now)}."
    what = f"version {facts.pinned} of {facts.workflow}" if facts.pinned else facts.workflow
    if facts.workers == 0:
        return f"no worker is alive on this store. Start one that knows {what}: everstep worker MODULE"
    return f"waiting for a worker that knows {what} and has room."


def _cancel(story: Story) -> str:
    if story.cancel is None:
        return ""
    if isinstance(story.cancel, CancelRequested):
        who = f" by {story.cancel.actor}" if story.cancel.actor else ""
        why = f" ({story.cancel.reason})" if story.cancel.reason else ""
        return f"Was asked to stop{who}{why} and cleans up. "
    return "Outlived its time limit and cleans up. "


def _failed(story: Story) -> Operation | None:
    """The operation whose failure the workflow let through, if it was one."""
    if story.error is None or not story.error.type.startswith("everstep.errors.Step"):
        return None
    failed = [operation for operation in story.work() if operation.how in (How.FAILED, How.UNKNOWN)]
    return failed[-1] if failed else None


def _root(story: Story) -> ErrorRecord | None:
    """What the step raised says more than that the step failed."""
    failed = _failed(story)
    return failed.error if failed is not None and failed.error is not None else story.error


def _unread(facts: Circumstances) -> str:
    """Messages that the worker has not taken; of a run that is being driven they are on their way."""
    if facts.owner or not facts.unread:
        return ""
    return f"{count(facts.unread, 'message')} {'waits' if facts.unread == 1 else 'wait'} for it. "


def _where(story: Story) -> str:
    failed = _failed(story)
    if failed is None:
        return ""
    tries = f" after {count(failed.attempt, 'attempt')}" if failed.attempt > 1 else ""
    source = f" ({failed.source})" if failed.source else ""
    return f" at {failed.name}{source}{tries}"


def _took(story: Story) -> str:
    if story.ended_at is None or not story.takeovers:
        return ""
    return f"in {duration(story.ended_at - story.takeovers[0].at)} "


def _done(story: Story) -> int:
    return sum(operation.how is How.DONE for operation in story.work())


def _because(error: ErrorRecord | None) -> str:
    return f": {error.message}" if error is not None and error.message else ""


def _message(error: ErrorRecord | None) -> str:
    return error.message.partition("\n")[0] if error is not None and error.message else "no reason was recorded."


def _listed(names: Sequence[str]) -> str:
    shown = [name if number == 1 else f"{name} (×{number})" for name, number in _counted(names)]
    return ", ".join(shown) if len(shown) <= 5 else f"{', '.join(shown[:4])} and {len(shown) - 4} more"


def _counted(names: Sequence[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return list(counts.items())
