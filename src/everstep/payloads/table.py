"""
Which fields of which events hold what users wrote, and what each of them is tied to. A test holds every event to this table.

A sealed field is tied to its run, the version and place of its event, the field, and the event's ``bound`` fields. So a result
that is moved to another step, entry or run is found out. What is not named here is stored in clear: names, ids, tags, digests,
lines of source, and the few sentences that everstep writes itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from everstep.events import (
    CancelRequested,
    ChildCancelled,
    ChildFailed,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    NoteRecorded,
    PauseRequested,
    RequestAnswered,
    RequestFailed,
    RequestReceived,
    RequestRefused,
    RunCancelled,
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


class Kind(StrEnum):
    """What a field holds.

    VALUE: JSON (``Raw``) that code gets back. VALUES: several, by name. WORD: text that code depends on. TEXT: text that only
    people read, so whoever has no key can do without. ERROR: an ``ErrorRecord``.
    """

    VALUE = "value"
    VALUES = "values"
    WORD = "word"
    TEXT = "text"
    ERROR = "error"


class Rule(Struct, frozen=True):
    """The payloads of one kind of event.

    Attributes:
        fields: What each holds.
        bound: Fields in clear that the sealed ones are tied to. Once released never changed: what is stored would not open.
        redacted: Nothing of it is ever given back to code, so it may be redacted when it is stored.
    """

    fields: Mapping[str, Kind]
    bound: tuple[str, ...] = ()
    redacted: bool = False


# The salt keys the digests of arguments: in clear it would let anybody who reads the store try out guesses.
TABLE: Final[Mapping[type[Any], Rule]] = {
    RunCreated: Rule(
        {"args": Kind.VALUE, "salt": Kind.WORD}, ("run_id", "workflow", "parent_run_id", "segment", "maybe", "is_pipeline")
    ),
    StepScheduled: Rule({"args": Kind.VALUE}, ("key", "step", "digest", "undoes", "maybe", "of_payload")),
    StepCompleted: Rule({"result": Kind.VALUE}, ("key", "is_delta")),
    StepFailed: Rule({"error": Kind.ERROR}, ("key", "timed_out", "maybe")),
    ChildStarted: Rule({"args": Kind.VALUE}, ("key", "run_id", "workflow", "digest", "undoes", "maybe")),
    ChildCancelled: Rule({"reason": Kind.TEXT}, ("key",), redacted=True),
    ChildSignalled: Rule({"value": Kind.VALUE}, ("key", "child", "run_id", "name", "digest", "id")),
    ChildSucceeded: Rule({"result": Kind.VALUE}, ("key",)),
    ChildFailed: Rule({"error": Kind.ERROR}, ("key", "status")),
    SignalReceived: Rule({"value": Kind.VALUE}, ("name", "id")),
    RequestReceived: Rule({"value": Kind.VALUE}, ("name", "id")),
    RequestAnswered: Rule({"result": Kind.VALUE}, ("key", "name", "id")),
    RequestRefused: Rule({"reason": Kind.TEXT}, ("key", "name", "id"), redacted=True),
    RequestFailed: Rule({"error": Kind.ERROR}, ("key", "name", "id"), redacted=True),
    StatePublished: Rule({"value": Kind.VALUE}, ("key", "name", "is_delta")),
    NoteRecorded: Rule({"value": Kind.VALUE}, ("key", "name"), redacted=True),
    StepOverridden: Rule({"result": Kind.VALUE, "reason": Kind.TEXT}, ("key", "skipped", "actor")),
    RunForked: Rule({"edits": Kind.VALUES, "reason": Kind.TEXT}, ("run_id", "run_key", "version", "hash", "actor")),
    RunContinued: Rule({"args": Kind.VALUE, "salt": Kind.WORD, "states": Kind.VALUES}, ("segment", "maybe", "of_result")),
    CancelRequested: Rule({"reason": Kind.TEXT}, ("actor",), redacted=True),
    RunSucceeded: Rule({"result": Kind.VALUE}),
    RunFailed: Rule({"error": Kind.ERROR}, redacted=True),
    RunCancelled: Rule({"reason": Kind.TEXT}, redacted=True),
    RunPaused: Rule({"reason": Kind.TEXT}, ("refused_by", "actor"), redacted=True),
    PauseRequested: Rule({"reason": Kind.TEXT}, ("actor",), redacted=True),
    RunUnpaused: Rule({"reason": Kind.TEXT}, ("actor",), redacted=True),
    RunRetried: Rule({"reason": Kind.TEXT}, ("actor",), redacted=True),
    RunDied: Rule({"error": Kind.ERROR}, redacted=True),
    RunDiscarded: Rule({"reason": Kind.TEXT}, ("actor",), redacted=True),
}

FROM_CHILD: Final[Mapping[type[Any], frozenset[str]]] = {
    ChildSucceeded: frozenset({"RunSucceeded.result"}),
    ChildFailed: frozenset({"RunFailed.error", "RunCancelled.reason", "RunDiscarded.reason", "RunDied.error"}),
}
"""The store passes a child's outcome on as it was sealed by the child: as what it may arrive."""

ROW_FIELDS: Final = ("details", "error")
"""The payloads in the row of a step's attempts (``AttemptRecord``)."""

FORMS: Final = ("is_delta", "of_payload", "of_result", "is_pipeline")
"""Flags that say how the value beside them is to be read: as a change, or as what stands elsewhere."""
