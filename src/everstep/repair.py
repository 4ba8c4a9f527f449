"""
What an operator does to a run: pause and resume it, retry it, say what a step came to, give it up, fork it.

Each is an entry of the journal with the actor and the reason. A run that somebody drives is asked, through its inbox; one that
nobody owns is changed in one transaction, if its journal still ends where we read it, else we look again. What the rules refuse
raises ``IllegalState`` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Raw, Struct

from everstep.codec import codec_for
from everstep.core.payloads import read_events
from everstep.core.starting import first_event
from everstep.errors import IllegalState, UsageError
from everstep.events import (
    ChildRefused,
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    Event,
    PauseRequested,
    ResultReused,
    RunCancelled,
    RunContinued,
    RunCreated,
    RunDied,
    RunDiscarded,
    RunForked,
    RunPaused,
    RunRetried,
    RunUnpaused,
    StatePublished,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
)
from everstep.ids import check_run_id, new_run_id
from everstep.journal import Entry, Reader, has_version, up_to, verify_chain, versions_of
from everstep.payloads import Payloads
from everstep.records import AT_ONCE, Message, Micros, RunRecord, Status, UndoRecord
from everstep.stores.base import Created, NewRun, Settlement, Store
from everstep.stores.rules import is_closed_with_parent

OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown, StepOverridden)


class Runs(Protocol):
    """What is needed of a client."""

    store: Store
    payloads: Payloads

    async def get(self, run_id: str) -> RunRecord:
        """The run. Raises RunNotFound."""
        ...

    def posted(self, run: RunRecord) -> None:
        """Something was written to a run."""
        ...


class By(Struct, frozen=True):
    """Who decides, and why: recorded with the decision."""

    reason: str = ""
    actor: str = ""


# --- pausing ----------------------------------------------------------------------------------------------------------------


async def pause(runs: Runs, run_id: str, by: By) -> None:
    """Let a run stop where it is. Bodies that are being executed finish first. Safe to repeat."""

    async def decide(run: RunRecord) -> RunRecord | None:
        if run.status is Status.PAUSED:
            return run
        _refuse_at_rest(run, "paused")
        if run.worker_key is not None:
            return await runs.store.post(run_id, _message(runs, run, PauseRequested(by.reason, by.actor)))
        verdict = RunPaused(by.reason or "somebody paused it", actor=by.actor)
        return await _settle(runs, run, [verdict], Status.PAUSED, None)

    await _decided(runs, run_id, decide)


async def resume(runs: Runs, run_id: str, by: By) -> None:
    """Let a paused run go on, whatever paused it. One that is not paused is left alone."""

    async def decide(run: RunRecord) -> RunRecord | None:
        if run.status is not Status.PAUSED:
            _refuse_at_rest(run, "resumed")
            return run
        return await _settle(runs, run, [RunUnpaused(by.reason, by.actor)], Status.QUEUED, AT_ONCE)

    await _decided(runs, run_id, decide)


# --- failed and dead runs ---------------------------------------------------------------------------------------------------


async def retry(runs: Runs, run_id: str, by: By) -> None:
    """Reopen a failed or dead run: its code begins again, and nothing that it finished is executed again.

    Raises:
        IllegalState: It has not failed; its parent has been told of its failure; or a saga has undone what it did.
    """

    async def decide(run: RunRecord) -> RunRecord | None:
        _refuse_retry(run)
        return await _reopened(runs, run, by)

    await _decided(runs, run_id, decide)


async def _reopened(runs: Runs, run: RunRecord, by: By, first: Sequence[Event] = ()) -> RunRecord | None:
    """Reopen a run, after its children that have no result: begun again, it finds them at work or done."""
    events = await _events(runs, run)
    goes_on = _goes_on(run, events)
    left = [] if goes_on else unfinished_children(events)
    anew = [key for key, child in left if not await _reopen_child(runs, run, child, by)]
    retried = _retried(runs, run, by, goes_on=goes_on, anew=tuple(anew))
    return await _settle(runs, run, [*first, retried], Status.QUEUED, AT_ONCE)


async def _reopen_child(runs: Runs, parent: RunRecord, run_id: str, by: By) -> bool:
    """Let a child of a run that is at rest go on as well. False: it cannot, or has been told to stop, and begins anew."""
    while True:
        child = await runs.store.get(run_id)
        if child is None or child.parent_key != parent.run_key or child.status is Status.CANCELLED:
            return False
        if not child.status.is_at_rest:
            return not is_closed_with_parent(child)
        if child.status is Status.SUCCEEDED:
            return True
        try:
            reopened = await _reopened(runs, child, by)
        except IllegalState:
            return False  # Its steps have been undone.
        if reopened is not None:
            runs.posted(reopened)
            return True


def unfinished_children(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Key and run of each child of which no result is known since the code last began with other arguments. Pure.

    What became of them may have come too late for the journal: a run at rest is told nothing.
    """
    started: dict[str, str] = {}
    for event in events:
        match event:
            case RunContinued():
                started.clear()
            case ChildStarted(key=key, run_id=run_id):
                started[key] = run_id
            case ChildSucceeded(key=key) | StepOverridden(key=key) | ChildRefused(key=key):
                started.pop(key, None)
            case _:
                pass
    return list(started.items())


async def withdraw(runs: Runs, run: RunRecord, reason: str) -> bool:
    """Cancel a run that waits in line and has never begun. False if it has, by now."""
    if run.status is not Status.QUEUED or run.version != 1:
        return False
    settled = await _settle(runs, run, [RunCancelled(reason)], Status.CANCELLED, None)
    if settled is not None:
        runs.posted(settled)
    return settled is not None


async def discard(runs: Runs, run_id: str, by: By) -> None:
    """Give a failed, dead or paused run up for good: it is over as it stands, and no more of its code is run."""

    async def decide(run: RunRecord) -> RunRecord | None:
        if run.status not in (Status.FAILED, Status.DEAD, Status.PAUSED):
            raise _illegal(run, "discarded", "Only a failed, dead or paused run can be; cancel it instead.")
        return await _settle(runs, run, [RunDiscarded(by.reason, by.actor)], Status.CANCELLED, None)

    await _decided(runs, run_id, decide)


def _retried(runs: Runs, run: RunRecord, by: By, *, goes_on: bool, anew: tuple[str, ...]) -> RunRetried:
    """The run gets its whole time limit again: it may be what it failed of."""
    created = first_event(run.created)
    limit = None if created.deadline_at is None else runs.store.now() + created.deadline_at - run.created_at
    return RunRetried(by.reason, by.actor, limit, goes_on, anew)


def _goes_on(run: RunRecord, events: Sequence[Event]) -> bool:
    """Whether a retry goes on where the run stopped, since a saga has undone steps."""
    if not has_compensated(events):
        return False
    if run.status is Status.FAILED:
        raise _illegal(run, "retried", "Its steps have been undone, so there is nothing to go on from: start a new run.")
    return True


def has_compensated(events: Sequence[Event]) -> bool:
    """Whether a saga has undone steps, or begun to, since the code last began. Pure."""
    compensated = False
    for event in events:
        match event:
            case CompensationBegan():
                compensated = True
            case RunContinued() | RunRetried(goes_on=False):
                compensated = False
            case _:
                pass
    return compensated


def _refuse_retry(run: RunRecord) -> None:
    if run.status not in (Status.FAILED, Status.DEAD):
        raise _illegal(run, "retried", "Only a failed or dead run can be.")
    if run.parent_key is not None:
        parent = run.run_id.rpartition("/")[0] or "that started it"
        raise _illegal(run, "retried", f"The run {parent} has been told how it ended: retry that one.")


# --- one step ---------------------------------------------------------------------------------------------------------------


async def override(runs: Runs, run_id: str, step: str, result: object, by: By, *, skip: bool) -> None:
    """Say what a step came to. A failed or dead run is retried with it; a live one goes on with it.

    Raises:
        IllegalState: The run is over, or has no such step that is unfinished or failed.
    """
    value = Raw(b"null") if skip else Raw(codec_for(type(result), root=step).encode(result))

    async def decide(run: RunRecord) -> RunRecord | None:
        if run.status.is_final:
            raise _illegal(run, "changed", "It is over.")
        events = await _events(runs, run)
        goes_on = run.status.is_at_rest and _goes_on(run, events)
        key = stuck_undo(events, step) if goes_on else unfinished_step(events, step)
        if key is None:
            raise _illegal(run, "changed", f"It has no step {step} that is unfinished or has failed.")
        event = StepOverridden(key, value, skip, by.reason, by.actor)
        if not run.status.is_at_rest:
            return await runs.store.post(run_id, _message(runs, run, event))
        _refuse_retry(run)
        return await _reopened(runs, run, by, [event])

    await _decided(runs, run_id, decide)


def unfinished_step(events: Sequence[Event], step: str) -> str | None:
    """Key of the last step of that name (or with that key) which has no result. Pure."""
    names: dict[str, str] = {}
    for event in events:
        match event:
            case RunContinued():
                names.clear()
            case StepScheduled(key=key, step=name):
                names[key] = name
            case StepCompleted(key=key) | StepOverridden(key=key):
                names.pop(key, None)
            case _:
                pass
    return next((key for key, name in reversed(names.items()) if step in (key, name)), None)


def stuck_undo(events: Sequence[Event], step: str) -> str | None:
    """Key of the compensation (or, if it has none, of the step) of that name that a dead run could not go on at. Pure."""
    asked: dict[tuple[str, str], str] = {}
    stuck: UndoRecord | None = None
    for event in events:
        match event:
            case (
                StepScheduled(key=key, step=name, undoes=str(undoes)) | ChildStarted(key=key, workflow=name, undoes=str(undoes))
            ):
                asked[name, undoes] = key
            case RunDied(undo_left=[first, *_]):
                stuck = first
            case _:
                pass
    if stuck is None:
        return None
    key = asked[stuck.undo, stuck.key] if stuck.undo else stuck.key
    return key if step in (key, stuck.undo or stuck.step) else None


# --- forks ------------------------------------------------------------------------------------------------------------------


class Fork(Struct, frozen=True, kw_only=True):
    """What is forked.

    Attributes:
        at: A version, or the name (or key) of a step: up to just before it was finished. None for the newest version.
        edits: New values for results of steps and published states, by name or key.
        run_id: Id of the fork; None for a fresh one.
    """

    at: int | str | None = None
    edits: Mapping[str, object] = {}
    run_id: str | None = None


async def fork(runs: Runs, run_id: str, request: Fork, by: By) -> str:
    """Make a run that shares the history of another up to a version. Returns its id.

    Raises:
        IllegalState: The id is taken, or there is no such version, step or state.
    """
    run = await runs.get(run_id)
    entries = await runs.store.load(run.run_key, run.version)
    verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
    reader = runs.payloads.keeper(run.run_id)
    version, edits = place_of(run, entries, request, reader)
    shared = up_to(entries, version)
    if has_compensated(_verified(runs, shared, run)):
        raise _illegal(run, f"forked at version {version}", "Its steps have been undone by then: fork it before that.")
    created = _created_at_version(run, shared, runs.store.now(), request, reader)
    forked = RunForked(
        run_id=run.run_id,
        run_key=run.run_key,
        version=version,
        hash=shared[-1].hash.hex(),
        edits=edits,
        reason=by.reason,
        actor=by.actor,
    )
    new = NewRun(
        run_id=created.run_id,
        workflow=run.workflow,
        code_version=run.code_version,
        created=runs.payloads.keeper(created.run_id).encode([created, forked], 1),
        max_recoveries=run.max_recoveries,
        forked_from=run.run_key,
        forked_at=version,
        pinned=run.pinned,
        queue=run.queue,
        queue_key=run.queue_key,
        priority=run.priority,
    )
    [answer] = await runs.store.create([new])
    if not isinstance(answer, Created):
        raise _illegal(run, "forked", f"The id {created.run_id} is taken.")
    runs.posted(answer.run)
    return created.run_id


def place_of(
    run: RunRecord, entries: Sequence[Entry], request: Fork, reader: Reader | None = None
) -> tuple[int, dict[str, Raw]]:
    """Up to which version the fork shares, and its edits by key. Pure."""
    version = entries[-1].version
    match request.at:
        case int():
            version = request.at
            if not has_version(entries, version):
                raise _illegal(run, f"forked at version {version}", f"{versions_of(entries).capitalize()}.")
        case str():
            version = _before(run, entries, request.at, reader)
        case None:
            pass
    edits: dict[str, Raw] = {}
    for name, value in request.edits.items():
        key, made_in = _made_in(run, up_to(entries, version), name, reader)
        edits[key] = Raw(codec_for(type(value), root=name).encode(value))
        if request.at is None:
            version = min(version, made_in)
    return version, edits


def _before(run: RunRecord, entries: Sequence[Entry], step: str, reader: Reader | None) -> int:
    """The version before the step was finished; the newest if it is not."""
    keys: dict[str, int] = {}
    found: int | None = None
    for entry, events in zip(entries, read_events(entries, run.run_id, reader=reader), strict=True):
        for event in events:
            match event:
                case StepScheduled(key=key, step=name) | ChildStarted(key=key, workflow=name) if step in (key, name):
                    keys[key], found = entry.version, entries[-1].version
                case StepCompleted(key=key) | StepFailed(key=key) | StepOverridden(key=key) if key in keys:
                    return max(keys[key], entry.version - 1)
                case _:
                    pass
    if found is None:
        raise _illegal(run, f"forked at {step}", "It has no such step.")
    return found


def _made_in(run: RunRecord, entries: Sequence[Entry], name: str, reader: Reader | None) -> tuple[str, int]:
    """Key of the last step (or published state) of that name, and the version that holds its result, if it has one."""
    names: dict[str, str] = {}
    found: tuple[str, int] | None = None
    for entry, events in zip(entries, read_events(entries, run.run_id, reader=reader), strict=True):
        for event in events:
            match event:
                case StepScheduled(key=key, step=asked):
                    names[key] = asked
                    found = (key, entry.version) if name in (key, asked) else found
                case StepCompleted(key=key) | StepOverridden(key=key) | ResultReused(key=key):
                    names[key] = event.name if isinstance(event, ResultReused) else names.get(key, "")
                    if name in (key, names[key]):
                        # Code that has begun anew in that entry has left the result behind: it has to be edited before.
                        is_left = any(isinstance(each, RunContinued) for each in events)
                        found = key, entry.version - 1 if is_left else entry.version
                case StatePublished(key=key, name=published) if name in (key, published):
                    found = key, entry.version
                case _:
                    pass
    if found is None:
        raise _illegal(run, f"forked with another {name}", "It has no such step or state there.")
    return found


def _created_at_version(run: RunRecord, entries: Sequence[Entry], now: Micros, request: Fork, reader: Reader) -> RunCreated:
    """The first event of the fork: what the segment began with that it continues."""
    first = first_event(run.created, reader)
    args, salt, segment = first.args, first.salt, first.segment
    for events in read_events(entries, run.run_id, reader=reader):
        for event in events:
            if isinstance(event, RunContinued):
                args, salt, segment = event.args, event.salt, event.segment
    limit = None if first.deadline_at is None else now + first.deadline_at - run.created_at
    return RunCreated(
        run_id=new_run_id() if request.run_id is None else check_run_id(request.run_id),
        workflow=first.workflow,
        code_version=first.code_version,
        args=args,
        salt=salt,
        python=first.python,
        deadline_at=limit,
        tags=first.tags,
        segment=segment,
        is_pipeline=first.is_pipeline,
        relaxed=first.relaxed,
    )


# --- what they have in common -------------------------------------------------------------------------------------------------


async def _decided(runs: Runs, run_id: str, decide: Callable[[RunRecord], Awaitable[RunRecord | None]]) -> None:
    """Look and decide, until the decision met the run as it was seen."""
    while True:
        run = await decide(await runs.get(run_id))
        if run is not None:
            runs.posted(run)
            return


async def _settle(
    runs: Runs, run: RunRecord, events: Sequence[Event], status: Status, wake_at: Micros | None
) -> RunRecord | None:
    data = runs.payloads.keeper(run.run_id).encode(events, run.version + 1)
    return await runs.store.settle(
        Settlement(run_key=run.run_key, version=run.version, events=data, status=status, wake_at=wake_at)
    )


def _message(runs: Runs, run: RunRecord, event: Event) -> Message:
    return Message(event=runs.payloads.keeper(run.run_id).encode_message(event))


async def _events(runs: Runs, run: RunRecord) -> list[Event]:
    return _verified(runs, await runs.store.load(run.run_key, run.version), run)


def _verified(runs: Runs, entries: Sequence[Entry], run: RunRecord) -> list[Event]:
    verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
    # Lenient: who decides needs to know which steps there are, not what they hold.
    reader = runs.payloads.viewer(run.run_id, lenient=True)
    return [event for events in read_events(entries, run.run_id, reader=reader) for event in events]


def _refuse_at_rest(run: RunRecord, done: str) -> None:
    if run.status.is_at_rest:
        raise _illegal(run, done, "It is over." if run.status.is_final else "Retry it, or discard it.")


def _illegal(run: RunRecord, done: str, why: str) -> IllegalState:
    return IllegalState(f"run {run.run_id} is {run.status} and cannot be {done}. Nothing was changed. {why}", run_id=run.run_id)


def check_by(reason: object, actor: object) -> By:
    """Who and why, checked."""
    if isinstance(reason, str) and isinstance(actor, str):
        return By(reason, actor)
    raise UsageError(f"reason={reason!r}, actor={actor!r}: give text. Nothing was changed.")
