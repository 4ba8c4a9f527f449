"""
What workflow code and step bodies call: ``es.current()``, ``es.now()``, ``es.log`` and their kin.

In a workflow the answers come from the journal and are the same on every replay. In a step, and outside everstep, they are the
real ones, so a function that uses them can be tested by calling it.
"""

from __future__ import annotations

import asyncio
import logging
import random as real_random
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from everstep.ambient import step_scope, workflow_scope
from everstep.codec import codec_for
from everstep.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """Where the code that asks is running.

    Attributes:
        run_id: The run; empty outside one.
        step: The step, in a step's body; else empty.
        attempt: Which attempt of the step, from 1. Executions lost to a killed worker count.
        idempotency_key: In a step the same for every attempt and for no other step: give it to receivers that deduplicate. In
            workflow code the run's id. Outside a run a fresh one each time.
        deadline: When the attempt times out, or None.
        version: In workflow code the journal entry that is being made; else 0.
        epoch: In a step the run's fencing token: a receiver that remembers the highest one it saw can refuse a frozen worker's
            late write.
        maybe: In a compensation (see ``es.saga``): nobody knows whether the step that it undoes has had its effect. It may
            find nothing to undo, and must take that well.
    """

    run_id: str = ""
    step: str = ""
    attempt: int = 1
    idempotency_key: str = ""
    deadline: datetime | None = None
    version: int = 0
    epoch: int = 0
    maybe: bool = False


def current() -> Current:
    """Where this code is running: in a workflow, in a step's body, or outside both."""
    workflow = workflow_scope()
    if workflow is not None:
        return Current(run_id=workflow.run_id, idempotency_key=workflow.run_id, version=workflow.version, maybe=workflow.maybe)
    step = step_scope.get()
    if step is None:
        return Current(idempotency_key=f"outside/{uuid.uuid4()}")
    return Current(
        run_id=step.run_id,
        step=step.step,
        attempt=step.attempt,
        idempotency_key=step.idempotency_key,
        deadline=step.deadline,
        epoch=step.epoch,
        maybe=step.maybe,
    )


def now() -> datetime:
    """The current instant, aware, UTC. In a workflow: of this activation, the same on every replay."""
    workflow = workflow_scope()
    return datetime.now(UTC) if workflow is None else workflow.now()


def random() -> float:
    """A random number in [0, 1). In a workflow the same on every replay."""
    workflow = workflow_scope()
    return real_random.random() if workflow is None else workflow.random.random()


def uuid4() -> uuid.UUID:
    """A random UUID. In a workflow the same on every replay; unique between runs."""
    workflow = workflow_scope()
    return uuid.uuid4() if workflow is None else uuid.UUID(int=workflow.random.getrandbits(128), version=4)


async def sleep(duration: float | timedelta) -> None:
    """Sleep for seconds (or a timedelta); in a workflow durably. The same as ``asyncio.sleep``.

    Zero and less yield once. What is longer than a century, or not a number, is refused.
    """
    await asyncio.sleep(duration.total_seconds() if isinstance(duration, timedelta) else duration)


async def sleep_until(instant: datetime) -> None:
    """Sleep until an instant; return at once if it has passed.

    Raises:
        UsageError: The datetime is naive, so it names no instant.
    """
    if instant.tzinfo is None:
        raise UsageError(
            f"sleep_until({instant!r}): a naive datetime names no instant. Give it a time zone, such as datetime.UTC."
        )
    await asyncio.sleep((instant - now()).total_seconds())


def heartbeat(details: object = None) -> None:
    """Tell from a step's body that it is alive, and leave details for the next attempt should this one be lost.

    Details are written with the worker's lease renewal, every few seconds; the last ones before a crash may be lost.

    Args:
        details: A JSON-like value, or one of a type that encodes by itself; None leaves the earlier details in place.

    Raises:
        Unencodable: The details cannot be stored.
    """
    step = step_scope.get()
    if step is not None:
        step.beat(None if details is None else codec_for(type(details), root="details").encode(details))


def last_heartbeat(kind: type[T]) -> T | None:
    """Details that an earlier attempt of this step left with its last heartbeat, or None."""
    step = step_scope.get()
    if step is None or step.last_details is None:
        return None
    value: T = codec_for(kind, root="details").decode(step.last_details)
    return value


class _OnceLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs what happens, not what is replayed."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        workflow = workflow_scope()
        return (workflow is None or not workflow.is_replaying) and self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        where = current()
        extra = {"run_id": where.run_id, "step": where.step, "attempt": where.attempt}
        kwargs["extra"] = {**extra, **_logged(dict(kwargs.get("extra") or {}))}
        return msg, kwargs


def _logged(extra: dict[str, Any]) -> dict[str, Any]:
    scope = workflow_scope() or step_scope.get()
    shown: dict[str, Any] = extra if scope is None else scope.logged(extra)
    return shown


log = _OnceLogger(logging.getLogger("everstep.run"))
"""A logger for workflow code and step bodies. In a workflow each line appears once, not again on replay.

What is given as ``extra`` is redacted as errors are (see ``es.Payloads``); what you write into the message is yours to guard.
"""
