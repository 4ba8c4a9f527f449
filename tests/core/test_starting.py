"""Starting a run: what is recorded of it, and whether a second start with the same id means the same (E2)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import everstep as es
from everstep.core.starting import describe_start, first_event, refuse_conflict, start_differences
from everstep.errors import CallAlreadyUsed, RunConflict, Unencodable, UsageError
from everstep.events import RunCreated
from tests.core.driver import SALT, START, Run, created
from tests.core.steps import charge


@es.workflow(name="checkout", timeout=60, tags={"team": "shop", "tier": "1"})
async def checkout(order_id: str, cents: int = 1999) -> str:
    return await charge(order_id, cents)


@es.workflow
async def anything(value: Any = None) -> None: ...


def start(call: es.Call[Any], **options: Any) -> RunCreated:
    return describe_start(call, "run-1", SALT, START, options.pop("tags", {}), options.pop("timeout", None), **options)


def test_what_is_recorded() -> None:
    event = start(checkout("42", cents=5), tags={"tier": "2"}, parent="up")

    assert ("run-1", "checkout", checkout.code_version, b'{"order_id":"42","cents":5}', SALT.hex(), "up") == (
        event.run_id,
        event.workflow,
        event.code_version,
        bytes(event.args),
        event.salt,
        event.parent_run_id,
    )
    assert {"team": "shop", "tier": "2"} == event.tags
    assert f"{sys.version_info.major}.{sys.version_info.minor}" == event.python


def test_the_deadline_is_the_starts_own_or_the_workflows() -> None:
    assert START + 60_000_000 == start(checkout("42")).deadline_at
    assert START + 5_000_000 == start(checkout("42"), timeout=5).deadline_at
    assert start(anything()).deadline_at is None


def test_a_step_cannot_be_started() -> None:
    with pytest.raises(UsageError, match=r"is a call of a step\. Only a workflow can be started"):
        start(charge("42", 1))


def test_a_call_is_started_once() -> None:
    call = checkout("42")
    start(call)

    with pytest.raises(CallAlreadyUsed):
        start(call)


def test_an_argument_that_cannot_be_stored_is_refused_before_anything_is() -> None:
    call = checkout("42", "many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with pytest.raises(Unencodable, match="cents: expected int"):
        start(call)
    call.close()


def test_the_same_start_in_other_words_is_the_same() -> None:
    refuse_conflict(start(checkout("42", 5)), start(checkout(cents=5, order_id="42"), tags={"other": "tag"}))


def test_other_arguments_are_listed() -> None:
    with pytest.raises(RunConflict) as caught:
        refuse_conflict(start(checkout("42", 1999)), start(checkout("43", 2499)))

    assert ("order_id: '42' recorded, '43' requested", "cents: 1999 recorded, 2499 requested") == caught.value.differences
    assert "Nothing was started and that run is untouched." in str(caught.value)


def test_a_default_differs_from_a_value() -> None:
    assert ("cents: its default recorded, 5 requested",) == start_differences(start(checkout("42")), start(checkout("42", 5)))
    assert ("cents: 5 recorded, its default requested",) == start_differences(start(checkout("42", 5)), start(checkout("42")))


def test_another_workflow_differs() -> None:
    assert ("workflow: checkout recorded, anything requested",) == start_differences(start(checkout("42")), start(anything()))


@pytest.mark.parametrize(
    ("recorded", "requested"),
    [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": 1}, {"a": 1.0}), (None, False), ("1", 1), ([], {})],
)
def test_what_is_equal_only_to_python_differs(recorded: object, requested: object) -> None:
    """It would silently join a run that was started with something else."""
    assert 1 == len(start_differences(start(anything(recorded)), start(anything(requested))))


def test_the_order_of_keys_is_no_difference() -> None:
    assert () == start_differences(start(anything({"a": 1, "b": [2]})), start(anything({"b": [2], "a": 1})))


def test_long_values_are_cut_and_inert() -> None:
    [line] = start_differences(start(anything("\x1b[31m" + "x" * 1000)), start(anything("y")))

    assert "\x1b" not in line
    assert len(line) < 300


def test_the_first_event_is_found_in_the_first_entry() -> None:
    run = Run(checkout("42"))
    run.begin()

    assert created(run) == first_event(run.entries[0].events)


@pytest.mark.parametrize("created", [b"[]", b"{", b'[{"event":"TimerFired","key":"0:1"}]'])
def test_a_first_entry_that_cannot_be_read_is_corruption(created: bytes) -> None:
    """Joining it would compare arguments with nothing."""
    with pytest.raises(es.CorruptJournal, match="everstep verify"):
        first_event(created)
