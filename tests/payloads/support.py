"""Keys, one event of every kind that holds payloads, and ways to spoil what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from everstep.events import (
    CancelRequested,
    ChildCancelled,
    ChildFailed,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    Event,
    NoteRecorded,
    PauseRequested,
    RequestAnswered,
    RequestFailed,
    RequestReceived,
    RequestRefused,
    RunCancelled,
    RunClaimed,
    RunContinued,
    RunCreated,
    RunDied,
    RunDiscarded,
    RunFailed,
    RunForked,
    RunPaused,
    RunRetried,
    RunSucceeded,
    RunUnpaused,
    SignalReceived,
    StatePublished,
    StepCompleted,
    StepFailed,
    StepOverridden,
    StepScheduled,
)
from everstep.payloads import Compression, Encryption, Payloads
from everstep.records import ErrorRecord, UndoRecord

CANARY = "canary-7f3a"
OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
RUN = "order-42"
PROSE = CANARY + " and a long story that repeats itself" * 100


def needs_cryptography() -> None:
    """Called at the head of a module: the extra is not installed everywhere."""
    pytest.importorskip("cryptography", reason="pip install 'everstep[encryption]'")


def encrypted(**options: Any) -> Payloads:
    """Everything encrypted with the old key."""
    return Payloads(encryption=Encryption({"2025": OLD}, "2025", **options))


def rotated(**options: Any) -> Payloads:
    """Everything encrypted with the new key; the old one can still be read."""
    return Payloads(encryption=Encryption({"2025": OLD, "2026": NEW}, "2026", **options), compression=Compression())


def value(content: object) -> Raw:
    return Raw(msgspec.json.encode(content))


ERROR = ErrorRecord("shop.Declined", PROSE, f"  File x, in {CANARY}", ErrorRecord("KeyError", CANARY))
EVENTS: list[Event] = [
    RunCreated(run_id=RUN, workflow="checkout", code_version="1", args=value({"a": CANARY}), salt=CANARY, python="3.11"),
    RunClaimed("host:1"),
    StepScheduled("0:1", "charge", value([CANARY]), "d1"),
    StepScheduled("0:2", "charge", value([CANARY, 2]), "d2"),
    StepCompleted("0:1", value({"text": PROSE})),
    StepCompleted("0:2", value(CANARY), 2),
    StepFailed("0:3", ERROR, 3),
    ChildStarted("0:4", f"{RUN}/0:4", "ship", value({"to": CANARY}), "d4"),
    ChildCancelled("0:4", CANARY),
    ChildSignalled("0:13", "0:4", f"{RUN}/0:4", "approval", value(CANARY), "d13", "click-5"),
    ChildSucceeded("0:4", value(CANARY)),
    ChildFailed("0:5", "failed", ERROR),
    SignalReceived("approval", value(CANARY), "click-1"),
    RequestReceived("quote", value(CANARY), "click-2", True),
    RequestAnswered("0:10", "quote", "click-2", value(CANARY)),
    RequestRefused("0:11", "quote", "click-3", CANARY),
    RequestFailed("0:12", "quote", "click-4", ERROR),
    StatePublished("0:6", "stage", value(CANARY)),
    NoteRecorded("0:7", "why", value({"because": CANARY})),
    CancelRequested(CANARY, "ann"),
    StepOverridden("0:8", value(CANARY), False, CANARY, "ann"),
    RunForked(run_id="r", run_key=7, version=3, hash="ab", edits={"a": value(CANARY), "b": value(PROSE)}, reason=CANARY),
    RunContinued(segment=1, args=value({"a": CANARY}), salt=CANARY, python="3.11", states={"stage": value(CANARY)}),
    PauseRequested(CANARY, "ann"),
    RunUnpaused(CANARY, "ann"),
    RunRetried(CANARY, "ann"),
    RunDiscarded(CANARY, "ann"),
    RunDied("a saga could not undo charge", (UndoRecord("refund"),), ERROR),
    RunDied("workers kept dying"),
    RunPaused(CANARY, "f1"),
    RunCancelled(CANARY),
    RunFailed(ERROR),
    RunSucceeded(value(CANARY)),
]


def spoiled(data: bytes, change: Callable[[Any], object]) -> bytes:
    """Stored JSON after somebody has changed it in place."""
    wire = msgspec.json.decode(data)
    change(wire)
    return msgspec.json.encode(wire)


def flipped(text: str) -> str:
    """Base64 of which one bit is another."""
    return text[:20] + ("B" if text[20] != "B" else "C") + text[21:]
