"""The state envelope at any version of any journal: derived, immutable, and without the workflow's code."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

import everstep as es
from everstep.core.snapshots import Checkpoint, Pointer, Snapshot, fold
from everstep.errors import UsageError
from everstep.events import (
    CancelRequested,
    RunClaimed,
    RunDied,
    RunPaused,
    RunResumed,
    StepCancelled,
    StepOutcomeUnknown,
)
from everstep.journal import Entry
from everstep.records import ErrorRecord, Status
from tests.core.driver import START, Run, sealed
from tests.core.records import record_of
from tests.core.steps import charge, child, decline, note, ship

BEGIN = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=START)


@es.workflow(name="checkout", version="7")
async def checkout(order_id: str, cents: int = 1999) -> str:
    receipt = await charge(order_id, cents)
    await asyncio.sleep(60)
    await asyncio.gather(note(receipt), note("second"))
    return await child(order_id)


def states(run: Run, status: Status = Status.RUNNING) -> list[Snapshot]:
    """The snapshot at every version."""
    record = record_of(run.entries, status)
    return [fold(run.entries, record, version) for version in range(1, len(run.entries) + 1)]


def finished() -> Run:
    return Run(checkout("42")).finish()


def test_the_envelope_names_the_run() -> None:
    run = finished()
    snapshot = fold(run.entries, record_of(run.entries, Status.SUCCEEDED))

    assert ("run-1", "checkout", "7", len(run.entries), Status.SUCCEEDED) == (
        snapshot.run_id,
        snapshot.workflow,
        snapshot.code_version,
        snapshot.version,
        snapshot.status,
    )
    assert run.entries[-1].hash.hex() == snapshot.hash


def test_the_pointer_moves_with_each_version() -> None:
    pointers = [snapshot.current_step for snapshot in states(finished(), Status.SUCCEEDED)]

    assert [
        Pointer("charge", 1),
        Pointer("", 1),  # sleeping
        Pointer("note", 3),
        Pointer("note", 3),
        Pointer("child", 4),
        Pointer("", 4),
    ] == pointers


def test_the_payload_grows_by_steps_and_counts_those_of_one_name() -> None:
    payloads = [snapshot.payload for snapshot in states(finished(), Status.SUCCEEDED)]

    receipt = "receipt 42 1999"
    assert {"arguments": {"order_id": "42"}, "steps": {}} == payloads[0]
    assert {"charge": receipt} == payloads[1]["steps"]
    assert {"charge": receipt, "note": receipt} == payloads[3]["steps"]
    assert {
        "arguments": {"order_id": "42"},
        "steps": {"charge": receipt, "note": receipt, "note#2": "second", "child": "shipped 42"},
        "result": "shipped 42",
    } == payloads[-1]


def test_checkpoints_are_finished_steps_with_time_and_hash() -> None:
    run = finished()
    checkpoints = fold(run.entries, record_of(run.entries)).checkpoints

    assert ["charge", "note", "note", "child"] == [checkpoint.step for checkpoint in checkpoints]
    assert Checkpoint("charge", BEGIN, run.entries[1].hash.hex()) == checkpoints[0]
    assert BEGIN + timedelta(seconds=60) == checkpoints[1].at


def test_history_is_never_rewritten() -> None:
    """Each version's checkpoints are the beginning of the next one's."""
    before: tuple[Checkpoint, ...] = ()
    for snapshot in states(finished()):
        assert before == snapshot.checkpoints[: len(before)]
        before = snapshot.checkpoints


def test_an_older_version_has_the_status_that_its_entries_give_it() -> None:
    """The row knows only the newest."""
    statuses = [snapshot.status for snapshot in states(finished(), Status.SUCCEEDED)]

    assert [Status.RUNNING] * 5 + [Status.SUCCEEDED] == statuses


def test_the_row_decides_about_the_newest_version() -> None:
    run = Run(checkout("42"))
    run.begin()

    assert Status.WAITING is fold(run.entries, record_of(run.entries, Status.WAITING)).status
    assert Status.RUNNING is fold(run.entries, record_of(run.entries, Status.WAITING, version=9)).status


@pytest.mark.parametrize("version", [0, -1, 7, 10**9])
def test_a_version_that_is_not_there_is_refused(version: int) -> None:
    run = finished()

    with pytest.raises(UsageError, match=f"run run-1 has no version {version}: its versions are 1 to 6"):
        fold(run.entries, record_of(run.entries), version)


def test_a_failure_is_the_error_of_its_version() -> None:
    @es.workflow
    async def fails() -> str:
        await decline("no funds")
        return ""

    run = Run(fails()).finish()
    before, after = states(run, Status.FAILED)

    assert before.error is None
    assert after.error is not None
    assert "everstep.errors.StepFailed" == after.error.type
    assert {"decline": {"error": {"type": "ValueError", "message": "no funds"}}} == after.payload["steps"]
    assert ["decline"] == [checkpoint.step for checkpoint in after.checkpoints]


def test_a_cancel_says_its_reason() -> None:
    run = Run(checkout("42"))
    run.begin()
    run.feed(CancelRequested("enough"))

    snapshot = fold(run.entries, record_of(run.entries, Status.CANCELLED))

    assert ErrorRecord("everstep.errors.RunCancelled", "enough") == snapshot.error
    assert Pointer("", 1) == snapshot.current_step


def with_verdicts() -> list[Entry]:
    run = Run(checkout("42"))
    run.begin()
    first = run.entries[0].decoded()
    return sealed(
        [
            (first, True),
            ([RunPaused("other code", "f00")], False),
            ([RunClaimed("w", "resumed")], False),
            ([RunResumed("v", "w")], False),
            ([StepOutcomeUnknown("0:1")], False),
            ([RunDied("three workers died")], False),
        ]
    )


def test_pauses_and_deaths_are_states_with_a_reason_and_a_claim_clears_them() -> None:
    entries = with_verdicts()
    record = record_of(entries, Status.DEAD)
    found = [fold(entries, record, version) for version in range(1, 7)]

    assert [
        Status.RUNNING,
        Status.PAUSED,
        Status.RUNNING,
        Status.RUNNING,
        Status.RUNNING,
        Status.DEAD,
    ] == [snapshot.status for snapshot in found]
    assert [None, "other code", None, None, None, "three workers died"] == [
        snapshot.error and snapshot.error.message for snapshot in found
    ]
    assert {"charge": {"error": "outcome unknown"}} == found[4].payload["steps"]


def test_a_late_result_of_a_cancelled_step_is_history_and_not_state() -> None:
    run = Run(checkout("42"))
    run.begin()
    late = run.done("charge")
    entries = sealed([(run.entries[0].decoded(), True), ([StepCancelled("0:1")], True), ([late], True)])

    snapshot = fold(entries, record_of(entries))

    assert {} == snapshot.payload["steps"]
    assert () == snapshot.checkpoints
    assert Pointer("", 1) == snapshot.current_step


def test_a_snapshot_is_a_value() -> None:
    run = finished()
    record = record_of(run.entries)

    snapshot = fold(run.entries, record)

    assert fold(run.entries, record) == snapshot
    assert fold(run.entries, record).payload is not snapshot.payload
    assert json.loads(msgspec.json.encode(snapshot))["run_id"] == "run-1"
    with pytest.raises(AttributeError):
        snapshot.version = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_child_that_was_refused_and_one_that_failed_are_in_the_payload() -> None:
    from everstep.events import ChildFailed, ChildRefused

    @es.workflow
    async def parents() -> None:
        await asyncio.gather(child("1"), child("2"), ship("3"), return_exceptions=True)

    run = Run(parents())
    run.begin()
    first, second, _ = run.open
    run.feed(ChildFailed(first, "dead", ErrorRecord("T", "gone")), ChildRefused(second, "the id is taken"))

    assert {"child": {"error": {"type": "T", "message": "gone"}}, "child#2": {"error": "the id is taken"}} == states(run)[
        -1
    ].payload["steps"]
