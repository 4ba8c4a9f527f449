"""Every event is held to the table of payloads: whoever adds one that holds what users wrote has to say so there."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from msgspec import Raw

from everstep.events import Event
from everstep.payloads.table import FROM_CHILD, ROW_FIELDS, TABLE, Kind
from everstep.records import AttemptRecord, ErrorRecord

EVENTS = sorted(Event.__args__, key=lambda event: event.__name__)
HOLDS = {"dict[str, msgspec.Raw]": Kind.VALUES, Raw.__name__: Kind.VALUE, ErrorRecord.__name__: Kind.ERROR}
# Texts that are stored in clear: (event, field), because no user wrote them.
OURS = {
    ("RunClaimed", "why"),
    ("RunResumed", "why"),
    ("ChildRefused", "reason"),  # written by the store, which has no keys
    ("RunDied", "reason"),  # the same
}
TEXTS = {"why", "reason", "message", "detail", "description", "text"}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_field_that_holds_what_users_wrote_is_in_the_table(event: type) -> None:
    """If this fails for a new event: name its fields in ``payloads/table.py``, and what they are bound to."""
    told: Mapping[str, Kind] = TABLE[event].fields if event in TABLE else {}
    for field in msgspec.structs.fields(event):
        kinds = [kind for holder, kind in HOLDS.items() if holder in str(field.type)][:1]
        assert kinds == [told[field.name]] if kinds else told.get(field.name) in (None, Kind.WORD, Kind.TEXT), field.name
        if field.name in TEXTS and (event.__name__, field.name) not in OURS:
            assert told.get(field.name) is Kind.TEXT, field.name


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_belongs_to_a_command_is_bound_to_its_key(event: type) -> None:
    names = {field.name for field in msgspec.structs.fields(event)}
    rule = TABLE.get(event)

    if rule is not None:
        assert {*rule.fields, *rule.bound} <= names
        assert "key" in rule.bound or "key" not in names


def test_an_outcome_arrives_as_what_a_child_can_have_sealed() -> None:
    sealed = {f"{event.__name__}.{field}" for event, rule in TABLE.items() for field in rule.fields}

    assert all(fields <= sealed for fields in FROM_CHILD.values())
    assert set(FROM_CHILD) <= set(TABLE)


def test_the_rows_of_attempts_are_covered() -> None:
    holders = [field.name for field in msgspec.structs.fields(AttemptRecord) if "bytes" in str(field.type)]

    assert list(ROW_FIELDS) == holders
