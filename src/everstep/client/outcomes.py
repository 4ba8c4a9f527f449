"""How a run, or a request to one, came out: its result, or the error that says why there is none."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import Struct

from everstep.codec import rebuild_error
from everstep.definitions import Workflow, declared_errors
from everstep.errors import RequestFailed, RequestRefused, RunCancelled, RunDead, RunFailed, RunPaused, RunTimeout
from everstep.events import Event, RequestAnswered, RunDied, RunDiscarded, RunSucceeded
from everstep.events import RequestFailed as RequestFailedEvent
from everstep.events import RequestRefused as RequestRefusedEvent
from everstep.events import RunCancelled as RunCancelledEvent
from everstep.events import RunFailed as RunFailedEvent
from everstep.events import RunPaused as RunPausedEvent
from everstep.payloads import PLAIN, Payloads
from everstep.records import ErrorRecord, Status
from everstep.secret import masked


class Ending(Protocol):
    """How a run came to rest, as far as its result is concerned: a RunRecord has it, and so does what a driver remembers."""

    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def step(self) -> str: ...
    @property
    def outcome(self) -> bytes | None: ...


class Paused(Struct, frozen=True):
    """A run that is paused, with the entry that paused it."""

    run_id: str
    status: Status
    step: str
    outcome: bytes | None


def result_of(run: Ending, workflow: Workflow[..., Any] | None, payloads: Payloads = PLAIN) -> Any:
    """The result of a run that cannot go further by itself, or the error that says why there is none."""
    last = last_event(run, payloads)
    match last:
        case RunSucceeded(result=result):
            return workflow.result.decode(result) if workflow else msgspec.json.decode(masked(bytes(result)))
        case RunFailedEvent(error=record):
            raise _failure(run, record) from rebuild_error(record, declared_errors(workflow) if workflow else {})
        case RunCancelledEvent(reason=reason):
            because = f": {reason}" if reason else ""
            raise RunCancelled(f"run {run.run_id} was cancelled{because}. It has no result.", run_id=run.run_id)
        case RunDiscarded(reason=reason):
            because = f": {reason}" if reason else ""
            raise RunCancelled(f"run {run.run_id} was given up by a person{because}. It has no result.", run_id=run.run_id)
        case RunDied(reason=reason, error=record):
            cause = None if record is None else rebuild_error(record, declared_errors(workflow) if workflow else {})
            raise RunDead(f"run {run.run_id} was given up: {reason}", run_id=run.run_id) from cause
        case RunPausedEvent(reason=reason):
            raise RunPaused(
                f"run {run.run_id} is paused: {reason}\nWhat it did so far is kept: everstep show {run.run_id}",
                run_id=run.run_id,
            )
        case _:
            raise RunPaused(
                f"run {run.run_id} is paused and will not go on by itself; its last entry cannot be read. What it did is "
                f"kept. See its history: everstep show {run.run_id}",
                run_id=run.run_id,
            )


def result_of_request(run_id: str, reply: Event) -> bytes:
    """The answer, as JSON, or the error that says why there is none."""
    match reply:
        case RequestAnswered(result=result):
            return bytes(result)
        case RequestRefusedEvent(name=name, id=key, reason=reason):
            raise RequestRefused(
                f"run {run_id} refused request {name} {key}: {reason.rstrip('. ')}. Nothing was done.",
                run_id=run_id,
                request=name,
                key=key,
                reason=reason,
            )
        case RequestFailedEvent(name=name, id=key, error=record):
            raise RequestFailed(
                f"request {name} {key} failed in run {run_id}: {record.type}: {record.message.rstrip('. ')}. The run goes on. "
                f"What it did for the request is in its history: everstep show {run_id}",
                run_id=run_id,
                request=name,
                key=key,
            ) from rebuild_error(record, {})
        case _:
            raise AssertionError(f"the reply to a request of run {run_id} is a {type(reply).__name__}")


def last_event(run: Ending, payloads: Payloads) -> Event | None:
    """What brought the run to rest; None if that cannot be read."""
    try:
        return payloads.keeper(run.run_id).decode_ending(run.outcome) if run.outcome else None
    except (msgspec.MsgspecError, IndexError):
        return None


def _failure(run: Ending, record: ErrorRecord) -> RunFailed | RunTimeout:
    kind = RunTimeout if record.type == "everstep.errors.RunTimeout" else RunFailed
    at = f" at {run.step}" if run.step else ""
    return kind(
        f"run {run.run_id} failed{at}: {record.type}: {record.message.rstrip('. ')}. What it finished is kept in its history: "
        f"everstep show {run.run_id}",
        run_id=run.run_id,
    )
