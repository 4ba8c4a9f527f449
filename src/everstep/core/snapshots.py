"""
The state envelope: what a run looked like at any version of its journal. Pure, a fold over events.

A snapshot is derived, immutable and needs no code of the workflow: it can be had of any version of any run, live or ended, by
any process. ``verify_chain`` comes first: a snapshot of a journal that does not verify is not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never, cast

import msgspec
from msgspec import Raw, Struct

from everstep.core.deltas import BadDelta, Chain
from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.core.undone import Undone
from everstep.errors import CorruptJournal, UsageError
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
from everstep.journal import Entry, Reader, has_version, up_to, verify_chain, versions_of
from everstep.records import ErrorRecord, Micros, Relaxed, RunRecord, Status, UndoRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Checkpoint(Struct, frozen=True):
    """One committed point: the step that was finished, when, and the hash of the entry that says so."""

    step: str
    at: datetime
    hash: str


class Pointer(Struct, frozen=True):
    """The execution pointer.

    Attributes:
        name: The step (or child) that was asked for last and has not finished; empty if none is open.
        cursor: How many steps and children have been asked for.
    """

    name: str
    cursor: int


class Snapshot(Struct, frozen=True, kw_only=True):
    """A run at one version.

    Attributes:
        run_id: Its id.
        workflow: Its workflow.
        code_version: Version of the code that it started on.
        version: Number of the entry that this is the state after.
        status: Where it stood.
        current_step: The execution pointer.
        payload: What the workflow published with ``es.state``, by name, as plain JSON values. If it published nothing:
            ``{"arguments": …, "steps": {"charge": result, "charge#2": …}, "result": …}``. Of a pipeline: its payload, under
            ``"payload"`` if that is no object.
        checkpoints: Every finished step so far, in order.
        error: Why it failed, was paused or given up, if it was.
        hash: Hash of the entry.
        undone: What sagas have undone, in the order in which they did.
        undo_left: What they have still to undo, in the order in which they will. Of a dead run: what a person has to see to.
    """

    run_id: str
    workflow: str
    code_version: str
    version: int
    status: Status
    current_step: Pointer
    payload: Mapping[str, Any]
    checkpoints: tuple[Checkpoint, ...]
    error: ErrorRecord | None
    hash: str
    relaxed: Relaxed | None = None
    undone: tuple[UndoRecord, ...] = ()
    undo_left: tuple[UndoRecord, ...] = ()


def instant(micros: Micros) -> datetime:
    """An instant of the store's clock as an aware datetime."""
    return _EPOCH + timedelta(microseconds=micros)


def fold(
    entries: Sequence[Entry],
    run: RunRecord,
    version: int | None = None,
    *,
    shared: Ledger | None = None,
    reader: Reader | None = None,
) -> Snapshot:
    """The state after a version; None for the newest.

    Args:
        entries: The run's journal from its first entry, at least up to ``version``.
        run: The run, for its id; its status counts only for the newest version.
        version: Which state.
        shared: Of a fork: what the run that it shares its history with had finished.
        reader: Opens payloads; without one they are left as they are stored.

    Raises:
        CorruptJournal: The chain does not verify up to there.
        UsageError: There is no such version.
    """
    wanted = (entries[-1].version if entries else 1) if version is None else version
    if not has_version(entries, wanted):
        raise UsageError(f"run {run.run_id} has no version {wanted}: {versions_of(entries)}.")
    entries = up_to(entries, wanted)
    verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
    state = _Fold(run.run_id, {} if shared is None else shared.results())
    for entry, events in zip(entries, read_events(entries, run.run_id, reader=reader), strict=True):
        for event in events:
            state.apply(event, entry)
    last, payload = entries[-1], state.published() or state.stage() or state.payload
    newest = wanted == run.version
    return Snapshot(
        run_id=run.run_id,
        workflow=run.workflow,
        code_version=run.code_version,
        version=last.version,
        status=run.status if newest else state.status,
        current_step=Pointer(state.open_step(), state.cursor),
        payload=payload if reader is None else reader.shown(payload),
        checkpoints=tuple(state.checkpoints),
        error=state.error,
        hash=last.hash.hex(),
        relaxed=state.relaxed,
        undone=tuple(state.undone.done),
        undo_left=tuple(state.undone.left),
    )


class _Fold:
    """The state that grows while events are applied."""

    def __init__(self, run_id: str, known: Mapping[tuple[str, str, str], Raw]) -> None:
        self.status = Status.QUEUED
        self.payload: dict[str, Any] = {"arguments": {}, "steps": {}}
        self.checkpoints: list[Checkpoint] = []
        self.error: ErrorRecord | None = None
        self.cursor = 0
        self.relaxed: Relaxed | None = None
        self._run_id = run_id
        self._version = 0
        self._states: dict[str, Chain] = {}
        self.undone = Undone()
        self._open: dict[str, str] = {}
        self._seen: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        self._known: dict[tuple[str, str, str], Any] = {each: msgspec.json.decode(value) for each, value in known.items()}
        self._cursor_before = 0
        self._is_pipeline = False

    def stage(self) -> Mapping[str, Any]:
        """The payload of a pipeline."""
        if not self._is_pipeline:
            return {}
        payload = self.payload["result"] if "result" in self.payload else self.payload["arguments"]["payload"]
        return cast(Mapping[str, Any], payload) if isinstance(payload, Mapping) else {"payload": payload}

    def open_step(self) -> str:
        """The operation asked for last among those that have not finished."""
        return next(reversed(self._open.values()), "")

    def published(self) -> dict[str, Any]:
        """The newest value of each state."""
        try:
            return {name: msgspec.json.decode(chain.value()) for name, chain in self._states.items()}
        except BadDelta as error:
            raise CorruptJournal(
                f"run {self._run_id}: a state that it published up to entry {self._version} cannot be put together: {error}. "
                "No snapshot was made and nothing was changed. The entries are as they were written: please report it.",
                run_id=self._run_id,
                version=self._version,
            ) from error

    def apply(self, event: Event, entry: Entry) -> None:
        """Apply one event."""
        self._version = entry.version
        self.undone.apply(event)
        match event:
            case RunCreated(args=args, is_pipeline=is_pipeline):
                self.payload["arguments"] = msgspec.json.decode(args)
                self._is_pipeline, self.relaxed = is_pipeline, event.relaxed
            case RunClaimed() | RunResumed():
                self.status, self.error = self._while_driven(), None
            case CompensationBegan() | CompensationEnded():
                self.status = self._while_driven()
            case StepScheduled(key=key, step=name, digest=digest) | ChildStarted(key=key, workflow=name, digest=digest):
                self.cursor += 1
                self._open[key] = name
                self._digests[key] = digest
            case StepCompleted(key=key, result=result) | ChildSucceeded(key=key, result=result):
                self._finish(key, msgspec.json.decode(result), entry)
            case StepFailed(key=key, error=error) | ChildFailed(key=key, error=error):
                self._finish(key, {"error": msgspec.to_builtins(error)}, entry)
            case StepOverridden(key=key, result=result):
                self._finish(key, msgspec.json.decode(result), entry)
            case ResultReused(key=key, name=name, digest=digest):
                self.cursor += 1
                self._reuse(key, name, digest)
            case StepOutcomeUnknown(key=key):
                self._finish(key, {"error": "outcome unknown"}, entry)
            case ChildRefused(key=key, reason=reason):
                self._finish(key, {"error": reason}, entry)
            case StepCancelled(key=key) | ChildCancelled(key=key):
                self._open.pop(key, None)
            case RunSucceeded(result=result):
                self.status = Status.SUCCEEDED
                self.payload["result"] = msgspec.json.decode(result)
            case RunFailed(error=error):
                self.status, self.error = Status.FAILED, error
            case RunCancelled(reason=reason):
                self.status, self.error = Status.CANCELLED, ErrorRecord("everstep.errors.RunCancelled", reason)
            case RunPaused(reason=reason):
                self.status, self.error = Status.PAUSED, ErrorRecord("everstep.errors.RunPaused", reason)
            case RunDied(reason=reason, error=error):
                self.status, self.error = Status.DEAD, ErrorRecord("everstep.errors.RunDead", reason, cause=error)
            case StatePublished(name=name, value=value, is_delta=is_delta):
                self._states.setdefault(name, Chain()).read(bytes(value), is_delta=is_delta)
            case RunDiscarded(reason=reason):
                self.status, self.error = Status.CANCELLED, ErrorRecord("everstep.errors.RunCancelled", reason)
            case RunForked():
                pass  # What it took over is named again when its code asks for it.
            case RunRetried():
                self.status, self.error, self.cursor = Status.QUEUED, None, self._cursor_before
                self._begin_anew()
            case RunUnpaused():
                self.status, self.error = Status.QUEUED, None
            case RunContinued(args=args, cursor=cursor, states=states):
                for name, value in states.items():
                    self._states.setdefault(name, Chain()).read(bytes(value), is_delta=False)
                self.payload["arguments"] = msgspec.json.decode(args)
                self.cursor = self._cursor_before = cursor
                self._begin_anew()
                self._known.clear()
            case (
                TimerStarted()
                | TimerCancelled()
                | TimerFired()
                | CancelRequested()
                | DeadlinePassed()
                | NoteRecorded()
                | Drained()
                | SuffixLost()
                | MilestoneReached()
            ):
                pass  # These change what the run waits for (or say why), not what it has.
            case SignalReceived() | SignalAwaited() | SignalWaitCancelled() | PauseRequested() | StopRequested():
                pass  # These change what the run waits for, not what it has.
            case ChildAccepted() | ChildSignalled():
                pass  # Neither has an outcome.
            case PatchApplied():
                pass  # It says which branch the code takes; what came of that says itself.
            case RequestReceived() | RequestHandlerSet() | RequestAwaited() | RequestWaitCancelled():
                pass  # The same.
            case RequestAnswered() | RequestRefused() | RequestFailed():
                pass  # What others were told; what it means for the run the code publishes.
            case _:
                assert_never(event)

    def _while_driven(self) -> Status:
        return Status.COMPENSATING if self.undone.is_compensating else Status.RUNNING

    def _finish(self, key: str, result: Any, entry: Entry) -> None:
        name = self._open.pop(key, None)
        if name is None:
            return  # It was cancelled before; its late outcome is history, not state.
        self._known[key, name, self._digests[key]] = result
        self._put(name, result)
        self.checkpoints.append(Checkpoint(name, instant(entry.at), entry.hash.hex()))

    def _reuse(self, key: str, name: str, digest: str) -> None:
        """A result that is there already: it was a checkpoint when it was made."""
        self._put(name, self._known.get((key, name, digest)))

    def _put(self, name: str, result: Any) -> None:
        count = self._seen[name] = self._seen.get(name, 0) + 1
        self.payload["steps"][name if count == 1 else f"{name}#{count}"] = result

    def _begin_anew(self) -> None:
        """The code begins again: what it asks for from here on is counted anew."""
        self.payload["steps"] = {}
        self._open.clear()
        self._seen.clear()
