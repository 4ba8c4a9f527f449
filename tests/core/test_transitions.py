"""The life of a run as one table: exhaustive, with no way out of what is final, and the diagram says the same."""

from __future__ import annotations

import itertools

import pytest

from everstep.core.transitions import NEXT_STATUS, Happened, mermaid, next_status
from everstep.records import Status

S, H = Status, Happened

# Written out again on purpose: a change of the table must be meant twice.
LEGAL = {
    S.QUEUED: {H.CLAIMED: S.RUNNING, H.PAUSED: S.PAUSED, H.CANCELLED: S.CANCELLED},
    S.RUNNING: {
        H.CLAIMED: S.RUNNING,
        H.PARKED: S.WAITING,
        H.HANDED_BACK: S.QUEUED,
        H.PAUSED: S.PAUSED,
        H.COMPENSATION_BEGAN: S.COMPENSATING,
        H.SUCCEEDED: S.SUCCEEDED,
        H.CANCELLED: S.CANCELLED,
        H.FAILED: S.FAILED,
        H.DIED: S.DEAD,
    },
    S.WAITING: {H.CLAIMED: S.RUNNING, H.PAUSED: S.PAUSED, H.DIED: S.DEAD},
    S.PAUSED: {H.CLAIMED: S.RUNNING, H.HANDED_BACK: S.QUEUED, H.DISCARDED: S.CANCELLED},
    S.COMPENSATING: {
        H.CLAIMED: S.COMPENSATING,
        H.PARKED: S.COMPENSATING,
        H.HANDED_BACK: S.COMPENSATING,
        H.COMPENSATION_ENDED: S.RUNNING,
        H.PAUSED: S.PAUSED,
        H.CANCELLED: S.CANCELLED,
        H.FAILED: S.FAILED,
        H.DIED: S.DEAD,
    },
    S.SUCCEEDED: {},
    S.CANCELLED: {},
    S.FAILED: {H.REOPENED: S.QUEUED, H.DISCARDED: S.CANCELLED},
    S.DEAD: {H.REOPENED: S.QUEUED, H.DISCARDED: S.CANCELLED},
}


@pytest.mark.parametrize(("status", "happened"), list(itertools.product(Status, Happened)))
def test_every_pair_is_legal_or_refused(status: Status, happened: Happened) -> None:
    expected = LEGAL[status].get(happened)

    if expected is not None:
        assert expected is next_status(status, happened)
    else:
        with pytest.raises(ValueError, match=f"a run that is {status} cannot be {happened}"):
            next_status(status, happened)


def test_final_statuses_have_no_exit_and_those_at_rest_only_the_audited_ones() -> None:
    """I7."""
    exits = {status: {happened for before, happened in NEXT_STATUS if before is status} for status in Status}

    assert {S.SUCCEEDED, S.CANCELLED} == {status for status in Status if status.is_final}
    assert {S.SUCCEEDED, S.CANCELLED} == {status for status in Status if not exits[status]}
    assert all(exits[status] <= {H.REOPENED, H.DISCARDED} for status in Status if status.is_at_rest)
    assert not any(H.REOPENED in exits[status] for status in Status if not status.is_at_rest)


def test_every_status_can_be_reached_and_every_run_can_come_to_rest() -> None:
    def reachable(start: Status) -> set[Status]:
        found = {start}
        while new := {after for (before, _), after in NEXT_STATUS.items() if before in found} - found:
            found |= new
        return found

    assert set(Status) == reachable(S.QUEUED)
    assert all(any(end.is_at_rest for end in reachable(status)) for status in Status)


def test_everything_that_can_happen_happens_to_somebody() -> None:
    assert set(Happened) == {happened for _, happened in NEXT_STATUS}


def test_the_diagram_shows_exactly_the_table() -> None:
    lines = [line.strip() for line in mermaid().splitlines()]

    arrows = {f"{before} --> {after}: {happened}" for (before, happened), after in NEXT_STATUS.items()}
    assert "stateDiagram-v2" == lines[0]
    assert arrows | {"[*] --> queued", "succeeded --> [*]", "cancelled --> [*]"} == set(lines[1:])
    assert len(lines) == len(set(lines))
