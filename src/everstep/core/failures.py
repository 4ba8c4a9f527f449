"""
The exceptions that workflow code gets when what it waits for did not return. Pure: from what the journal records.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from everstep import errors
from everstep.codec import rebuild_error
from everstep.core.waits import Operation
from everstep.definitions import Workflow, declared_errors
from everstep.errors import RunDead, StepTimeout
from everstep.events import ChildFailed, ChildRefused, ChildStarted, StepFailed, StepOutcomeUnknown, StepScheduled
from everstep.ids import is_derived
from everstep.records import ErrorRecord

Failure: TypeAlias = StepFailed | StepOutcomeUnknown | ChildFailed | ChildRefused


def failure_of(run_id: str, workflow: Workflow[..., Any], operation: Operation, event: Failure) -> Exception:
    """What the await of an operation raises in the code of this workflow."""
    name = operation.definition.name
    match event:
        case StepFailed():
            return _step_failure(run_id, operation, event)
        case StepOutcomeUnknown():
            return errors.StepOutcomeUnknown(
                f"step {name} of run {run_id} was begun by a worker that died, so its outcome is unknown. It was not "
                "executed again, because it is at_most_once. Find out what happened, then go on or undo it.",
                step=name,
                maybe=True,
            )
        case ChildFailed(status=status, error=record):
            return _child_failure(workflow, operation, status, record)
        case ChildRefused(reason=reason):
            return _refusal(run_id, operation, reason)


def _step_failure(run_id: str, operation: Operation, event: StepFailed) -> Exception:
    name, record, attempt = operation.definition.name, event.error, event.attempt
    kind = StepTimeout if event.timed_out else errors.StepFailed
    tries = "attempt" if attempt == 1 else "attempts"
    error = kind(
        f"step {name} of run {run_id} failed after {attempt} {tries}: {record.type}: {record.message}",
        step=name,
        attempt=attempt,
        maybe=event.maybe,
    )
    error.__cause__ = rebuild_error(record, declared_errors(operation.definition))
    return error


def _refusal(run_id: str, operation: Operation, reason: str) -> Exception:
    what = f"child {operation.definition.name} of run {run_id} was not started: {reason}"
    event: StepScheduled | ChildStarted = operation.event
    if isinstance(event, StepScheduled) or is_derived(event.run_id):
        return errors.RunFailed(what, run_id=run_id)
    return errors.RunConflict(f"{what}. That run is untouched. Give the child another id, or none.", run_id=event.run_id)


def _child_failure(workflow: Workflow[..., Any], operation: Operation, status: str, record: ErrorRecord) -> Exception:
    event: StepScheduled | ChildStarted = operation.event
    child = event.run_id if isinstance(event, ChildStarted) else ""
    kind = {"cancelled": errors.RunCancelled, "dead": RunDead}.get(status, errors.RunFailed)
    error = kind(f"child run {child} ended as {status}: {record.type}: {record.message}", run_id=child)
    error.__cause__ = rebuild_error(record, declared_errors(workflow))
    return error
