"""
The life of a run: which status follows which, as one table. Pure.

What is not in the table cannot happen. The documentation's diagram and an exhaustive test are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from everstep.records import Status


class Happened(StrEnum):
    """What can happen to a run."""

    CLAIMED = "claimed"
    PARKED = "parked"
    HANDED_BACK = "handed back"
    PAUSED = "paused"
    COMPENSATION_BEGAN = "compensation began"
    COMPENSATION_ENDED = "compensation ended"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DIED = "died"
    REOPENED = "reopened"
    DISCARDED = "discarded"


_S, _H = Status, Happened
_ACTIVE = {
    _H.PAUSED: _S.PAUSED,
    _H.CANCELLED: _S.CANCELLED,
    _H.FAILED: _S.FAILED,
    _H.DIED: _S.DEAD,
}
_ROWS: Mapping[Status, Mapping[Happened, Status]] = {
    _S.QUEUED: {_H.CLAIMED: _S.RUNNING, _H.PAUSED: _S.PAUSED, _H.CANCELLED: _S.CANCELLED},
    _S.RUNNING: {
        **_ACTIVE,
        _H.CLAIMED: _S.RUNNING,
        _H.PARKED: _S.WAITING,
        _H.HANDED_BACK: _S.QUEUED,
        _H.COMPENSATION_BEGAN: _S.COMPENSATING,
        _H.SUCCEEDED: _S.SUCCEEDED,
    },
    _S.WAITING: {_H.CLAIMED: _S.RUNNING, _H.PAUSED: _S.PAUSED, _H.DIED: _S.DEAD},
    _S.PAUSED: {_H.CLAIMED: _S.RUNNING, _H.HANDED_BACK: _S.QUEUED, _H.DISCARDED: _S.CANCELLED},
    _S.COMPENSATING: {
        **_ACTIVE,
        _H.CLAIMED: _S.COMPENSATING,
        _H.PARKED: _S.COMPENSATING,
        _H.HANDED_BACK: _S.COMPENSATING,
        _H.COMPENSATION_ENDED: _S.RUNNING,
    },
    _S.SUCCEEDED: {},
    _S.CANCELLED: {},
    _S.FAILED: {_H.REOPENED: _S.QUEUED, _H.DISCARDED: _S.CANCELLED},
    _S.DEAD: {_H.REOPENED: _S.QUEUED, _H.DISCARDED: _S.CANCELLED},
}
NEXT_STATUS: Mapping[tuple[Status, Happened], Status] = {
    (status, happened): after for status, row in _ROWS.items() for happened, after in row.items()
}


def next_status(status: Status, happened: Happened) -> Status:
    """The status after something happened.

    Raises:
        ValueError: It cannot happen to a run of that status: a bug of the engine, never of a user.
    """
    try:
        return NEXT_STATUS[status, happened]
    except KeyError:
        raise ValueError(f"a run that is {status} cannot be {happened}") from None


def while_driven(status: Status, *, is_compensating: bool) -> Status:
    """The status of a run that is being driven, after code that undoes steps now, or does not."""
    if is_compensating is (status is Status.COMPENSATING):
        return status
    return next_status(status, Happened.COMPENSATION_BEGAN if is_compensating else Happened.COMPENSATION_ENDED)


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = [f"    {before} --> {after}: {happened}" for (before, happened), after in NEXT_STATUS.items()]
    ends = [f"    {status} --> [*]" for status in Status if status.is_final]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Status.QUEUED}", *lines, *ends])
