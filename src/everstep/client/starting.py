"""What a start asks the store for, and when it may join a run that exists."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from msgspec import Raw

from everstep.core.starting import first_event, refuse_conflict
from everstep.definitions import Call, Workflow
from everstep.errors import RunConflict, UsageError
from everstep.events import RunCreated, SignalReceived
from everstep.payloads import PLAIN, Payloads
from everstep.records import Message, Micros, Place, RunRecord
from everstep.stores.base import NewRun
from everstep.talk import SignalMessage

OnConflict = Literal["join", "raise"]
NOWHERE = Place()
"""In no queue."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_run(
    created: RunCreated,
    workflow: Workflow[..., Any],
    payloads: Payloads = PLAIN,
    *,
    wake_at: Micros | None = None,
    send: SignalMessage | Sequence[SignalMessage] = (),
    place: Place = NOWHERE,
) -> NewRun:
    """What the store is asked to create. Raises Unencodable for a Secret, if there is no encryption."""
    keeper = payloads.keeper(created.run_id)
    mail = [Message(event=keeper.encode_message(event_of(each)), dedupe=dedupe_of(each)) for each in signals_of(send)]
    return NewRun(
        run_id=created.run_id,
        workflow=created.workflow,
        code_version=created.code_version,
        created=keeper.encode([created], 1),
        wake_at=wake_at,
        max_recoveries=workflow.max_recoveries,
        pinned=workflow.version or "",
        messages=tuple(mail),
        queue=place.queue,
        queue_key=place.key,
        priority=place.priority,
        dedupes=place.dedupes,
    )


def due_at(now: Micros, delay: float, at: datetime | None) -> Micros | None:
    """When a run may begin; None for at once. Pure.

    Raises:
        UsageError: Both are given, the delay is none, or the instant has no time zone.
    """
    if not 0 <= delay < float("inf"):
        raise UsageError(f"delay={delay!r}: give a finite number of seconds, at least 0. Nothing was started.")
    if at is None:
        return now + round(delay * 1e6) if delay else None
    if delay or at.tzinfo is None:
        problem = f"delay={delay!r} and at={at!s}: give one of them" if delay else f"at={at!s} has no time zone"
        raise UsageError(f"{problem}. Nothing was started.")
    return max(now, (at - EPOCH) // timedelta(microseconds=1))


def signals_of(send: SignalMessage | Sequence[SignalMessage]) -> Sequence[SignalMessage]:
    """What a start is to send."""
    signals = (send,) if isinstance(send, SignalMessage) else send
    for each in signals:
        if not isinstance(each, SignalMessage):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody has a checker
            raise UsageError(f"send={each!r} is no signal with a value. Nothing was started. Write: send=approval.message(…)")
    return signals


def event_of(signal: SignalMessage) -> SignalReceived:
    """What the signal becomes."""
    return SignalReceived(signal.name, Raw(signal.value), signal.key)


def dedupe_of(signal: SignalMessage) -> str:
    """What names it in its run's inbox; nothing without a key."""
    return f"signal:{signal.name}:{signal.key}" if signal.key else ""


def check_joinable(existing: RunRecord, requested: RunCreated, on_conflict: OnConflict, payloads: Payloads = PLAIN) -> None:
    """Return if a start may join an existing run, else raise RunConflict."""
    refuse_conflict(first_event(existing.created, payloads.keeper(existing.run_id)), requested)
    if on_conflict == "raise":
        raise RunConflict(
            f"run {existing.run_id} exists already ({existing.status}), started with the same arguments. Nothing was started. "
            "Leave out on_conflict='raise' to join it.",
            run_id=existing.run_id,
        )


@contextmanager
def closing_if_refused(call: Call[Any]) -> Generator[None, None, None]:
    """A call that is refused with an error needs no warning that it was never started."""
    try:
        yield
    except BaseException:
        call.close()
        raise


def workflow_of(call: Call[Any]) -> Workflow[..., Any]:
    """Whose call it is."""
    assert isinstance(call.definition, Workflow), "describe_start refuses calls of steps"
    return call.definition
