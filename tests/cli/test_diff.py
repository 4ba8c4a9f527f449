"""What changed between two states, and how it is told."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from everstep.cli.changes import change_json, change_lines
from everstep.core.diff import Change, Kind, diff, path_text, same

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_a_difference_leads_from_the_old_value_to_the_new_one(old: Any, new: Any) -> None:
    """Otherwise it is no difference, but a story."""
    assert json.dumps(new, sort_keys=True) == json.dumps(applied(old, diff(old, new)), sort_keys=True)


@given(VALUES, VALUES)
def test_a_difference_turned_around_is_the_way_back(old: Any, new: Any) -> None:
    """Added and removed are two views of one fact."""
    there = {(change.path, change.kind) for change in diff(old, new) if change.kind in (Kind.ADDED, Kind.REMOVED)}
    back = {(change.path, change.kind) for change in diff(new, old) if change.kind in (Kind.ADDED, Kind.REMOVED)}

    turned = {(path, Kind.REMOVED if kind is Kind.ADDED else Kind.ADDED) for path, kind in there}
    assert turned == back


@given(VALUES)
def test_nothing_differs_from_itself(value: Any) -> None:
    """And that is one fact, however large the value is."""
    assert [Change(Kind.UNCHANGED, (), value, value)] == diff(value, value)


def test_json_types_are_told_apart() -> None:
    """Python thinks that True, 1 and 1.0 are equal; a reader of JSON does not."""
    assert not same(True, 1)
    assert not same(1, 1.0)
    assert not same([{"a": 0}], [{"a": False}])
    assert same({"a": [1], "b": 2}, {"b": 2, "a": [1]})


def test_a_difference_is_told_with_signs() -> None:
    """The example of the documentation."""
    old = {"stage": "charged", "charge_id": "ch_7", "gone": 1, "cents": 5, "to": {"street": "a"}}
    new = {"stage": "awaiting approval", "charge_id": "ch_7", "reminded": False, "cents": 5, "to": {"street": "a"}}

    assert [
        "- gone      1",
        '  stage     "charged" → "awaiting approval"',
        "+ reminded  false",
        '  charge_id  "ch_7"   (unchanged, 2 more)',
    ] == change_lines(diff(old, new), shorten=False)


def test_no_difference_is_said() -> None:
    """Silence could also mean that nothing was compared."""
    assert ["  (no difference)"] == change_lines(diff({"a": 1}, {"a": 1}), shorten=True)


def test_long_values_are_shortened_for_people_only() -> None:
    """A pipe gets everything."""
    changes = diff({}, {"a": "x" * 1000})

    assert len(change_lines(changes, shorten=True)[0]) < 250
    assert "x" * 1000 in change_lines(changes, shorten=False)[0]


def test_values_and_keys_are_inert() -> None:
    """State comes from users."""
    lines = change_lines(diff({}, {"\x1b[2J": "\u202e", "two words": 1, "charge#2": 1}), shorten=False)

    assert '+ ["\\x1b[2J"]    "\\u202e"' == lines[0]
    assert all(line.isprintable() for line in lines)
    assert "charge#2" == path_text(("charge#2",))
    assert '["two words"][3].a' == path_text(("two words", 3, "a"))


def test_a_difference_for_programs_has_only_what_there_is() -> None:
    """A removed place has no new value, not even null."""
    changes = [change for change in diff({"a": 1, "b": 1}, {"b": 2, "c": None}) if change.kind is not Kind.UNCHANGED]

    assert [
        {"change": "removed", "path": ["a"], "old": 1},
        {"change": "changed", "path": ["b"], "old": 1, "new": 2},
        {"change": "added", "path": ["c"], "new": None},
    ] == [change_json(change) for change in changes]


def applied(old: Any, changes: list[Change]) -> Any:
    """The value that a difference leads to: what it adds and changes in its order, then what it removes, last first."""
    root: list[Any] = [json.loads(json.dumps(old))]
    removed = [change for change in changes if change.kind is Kind.REMOVED]
    for change in [one for one in changes if one.kind in (Kind.ADDED, Kind.CHANGED)] + removed[::-1]:
        *way, last = (0, *change.path)
        place: Any = root
        for part in way:
            place = place[part]
        if change.kind is Kind.REMOVED:
            del place[last]
        elif change.kind is Kind.ADDED and last == len(place) and not hasattr(place, "keys"):
            place += [change.new]
        else:
            place[last] = change.new
    return root[0]
