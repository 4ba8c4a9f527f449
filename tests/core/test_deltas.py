"""What changed between two values, and that nothing else did."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everstep.core.deltas import BadDelta, Chain, apply, diff

encode = msgspec.json.encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**60), max_value=10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(alphabet="ab", min_size=60, max_size=200)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(alphabet='abc"\\é😀', max_size=3), inner, max_size=8),
    max_leaves=40,
)


@st.composite
def edited(draw: st.DrawFn) -> tuple[Any, Any]:
    """A value, and a copy of it in which some places were edited."""
    old = draw(VALUES)
    new = msgspec.json.decode(encode(old))
    for _ in range(draw(st.integers(0, 4))):
        new = draw_edit(draw, new)
    return old, new


def draw_edit(draw: st.DrawFn, value: Any) -> Any:
    match value:
        case {**fields} if fields:
            return draw_edit_of_fields(draw, cast("dict[str, Any]", fields))
        case [*items]:
            return draw_edit_of_items(draw, items)
        case str():
            at = draw(st.integers(0, len(value)))
            return value[:at] + draw(st.text(max_size=5)) + value[at:]
        case _:
            return draw(VALUES)


def draw_edit_of_fields(draw: st.DrawFn, fields: dict[str, Any]) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(fields)))
    before = fields.pop(key)
    match draw(st.sampled_from(("inside", "drop", "move", "add"))):
        case "inside":
            return {name: fields.get(name, before) for name in (key, *fields)} | {key: draw_edit(draw, before)}
        case "drop":
            return fields
        case "move":
            return fields | {key: before}
        case _:
            return {draw(st.text(max_size=2)): 1, key: before} | fields


def draw_edit_of_items(draw: st.DrawFn, items: list[Any]) -> list[Any]:
    at = draw(st.integers(0, len(items)))
    if at < len(items) and draw(st.booleans()):
        return [*items[:at], draw_edit(draw, items[at]), *items[at + 1 :]]
    return [*items[:at], *draw(st.lists(SCALARS, max_size=3)), *items[draw(st.integers(at, len(items))) :]]


@given(edited())
@example((True, 1))
@example(({"a": [True] * 40}, {"a": [1] * 40}))
@example(({"a": 1.0, "b": "x" * 99}, {"a": 1, "b": "x" * 99}))
@example(({"a": 1, "b": "x" * 99}, {"b": "x" * 99, "a": 1}))
@example(([1, 2, 3, *"x" * 60], [10**50, 2.0, 3, *"x" * 60]))
def test_a_delta_makes_exactly_the_newer_value(pair: tuple[Any, Any]) -> None:
    old, new = map(encode, pair)

    delta = diff(old, new)

    if delta is not None:
        assert new == apply(old, delta)
        assert len(delta) < len(new)


@given(st.lists(edited(), min_size=1, max_size=6))
def test_a_chain_reads_as_it_was_written(pairs: list[tuple[Any, Any]]) -> None:
    padding = "padding " * 80
    values = [encode({"padding": padding, "value": value}) for pair in pairs for value in pair]
    writer, reader = Chain(), Chain()

    for value in values:
        data, is_delta = writer.write(value)
        reader.read(data, is_delta=is_delta)

        assert value == writer.value() == reader.value()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_what_is_no_json_gives_no_delta_and_no_crash(old: bytes, new: bytes) -> None:
    delta = diff(old, new)

    assert delta is None or new == apply(old, delta)


def field(index: int, letter: str = "x") -> str:
    return letter * 80 + str(index)


STATE = {f"field {index}": field(index) for index in range(100)}
ROWS = [{"id": index, "text": field(index), "done": False} for index in range(100)]
TEXT = "".join(f"line {index}: é\n" for index in range(500))


@pytest.mark.parametrize(
    ("old", "new", "limit"),
    [
        pytest.param(STATE, STATE | {"field 50": field(50, "y")}, 130, id="one field changes"),
        pytest.param(STATE, STATE | {"new": field(1, "y")}, 130, id="one field is added"),
        pytest.param(STATE, {k: v for k, v in STATE.items() if k != "field 7"}, 40, id="one field goes"),
        pytest.param(dict(sorted(STATE.items())), dict(sorted({**STATE, "field 55b": 1}.items())), 60, id="between others"),
        pytest.param(ROWS, [*ROWS, ROWS[3]], 160, id="a list grows"),
        pytest.param(ROWS, [{"id": -1}, *ROWS], 60, id="a list grows at its beginning"),
        pytest.param(ROWS, [*ROWS[1:], {"id": 100}], 80, id="a list slides"),
        pytest.param(ROWS, ROWS[:40] + ROWS[60:], 40, id="items leave the middle"),
        pytest.param(ROWS, [*ROWS[:40], ROWS[40] | {"done": True}, *ROWS[41:], {"id": 1}], 110, id="one changes, one comes"),
        pytest.param(ROWS, [row | {"done": True} if row["id"] in (3, 70) else row for row in ROWS], 110, id="two change"),
        pytest.param(ROWS, [*ROWS[50:], *ROWS[:50]], 7000, id="halves change places"),
        pytest.param({"a": {"b": {"c": ROWS}}}, {"a": {"b": {"c": [*ROWS, 1]}}}, 90, id="deep inside"),
        pytest.param(TEXT, TEXT + "more", 40, id="a text is continued"),
        pytest.param({"log": TEXT}, {"log": TEXT.replace("line 250:", "Line 250:")}, 60, id="a letter changes"),
        pytest.param([0] * 5000, [0] * 5001, 40, id="all alike"),
        pytest.param(STATE, STATE, 3, id="nothing changes"),
    ],
)
def test_a_small_change_makes_a_small_delta(old: Any, new: Any, limit: int) -> None:
    before, after = encode(old), encode(new)

    delta = diff(before, after)

    assert delta is not None
    assert after == apply(before, delta)
    assert len(delta) <= limit


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'{"a": 1,  "b": "%s"}' % (b"x" * 100), b'{"a": 2,  "b": "%s"}' % (b"x" * 100), id="blanks"),
        pytest.param(b'{"a":"\\u0041%s","b":1}' % (b"x" * 100), b'{"a":"\\u0041%sy","b":1}' % (b"x" * 100), id="escapes"),
        pytest.param(b'{"a":1,"a":2,"b":"%s"}' % (b"x" * 100), b'{"a":1,"a":3,"b":"%s"}' % (b"x" * 100), id="a name twice"),
    ],
)
def test_what_is_not_written_as_we_write_gives_no_delta(old: bytes, new: bytes) -> None:
    """It would come back as the same value in other bytes: what was hashed and what is read must be one."""
    assert diff(old, new) is None


def test_fields_that_changed_places_are_written_anew() -> None:
    value = {"a": field(1), "b": {"c": field(2), "d": field(3)}}
    moved = {"a": field(1), "b": {"d": field(3), "c": field(2)}}

    delta = diff(encode(value), encode(moved))

    assert delta is not None
    assert encode(moved) == apply(encode(value), delta)
    assert list(moved["b"]) == list(msgspec.json.decode(apply(encode(value), delta))["b"])


@pytest.mark.parametrize("sealed", ["$sealed", "$sealed:0123", "$any"])
def test_what_is_sealed_in_one_piece_is_never_taken_apart(sealed: str) -> None:
    """A fragment of a secret would not be recognised as one when the entry is sealed, and would be stored in clear."""
    old = {"user": "ann", "token": {sealed: "secret " * 50}, "more": "x" * 500}
    new = {"user": "ann", "token": {sealed: "secret " * 50 + "!"}, "more": "x" * 500}

    delta = diff(encode(old), encode(new))

    assert {"set": {"token": new["token"]}} == msgspec.json.decode(delta or b"")
    assert diff(encode(old["token"]), encode(new["token"])) is None


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        b"7",
        b'{"unknown":1}',
        b'{"set":{"z":1}}',
        b'{"within":{"z":{}}}',
        b'{"drop":["z"]}',
        b'{"add":[[9,"z",1]]}',
        b'{"add":[[0,"a",1]]}',
        b'{"splice":[[0,1,[]]]}',
        b'{"text":[0,1,""]}',
        b'{"within":{"l":{"set":{"-1":0}}}}',
        b'{"within":{"l":{"set":{"9":0}}}}',
        b'{"within":{"l":{"splice":[[1,9,[]]]}}}',
        b'{"within":{"l":{"splice":[[-1,1,[]]]}}}',
        b'{"within":{"t":{"text":[2,9,""]}}}',
        b'{"within":{"t":{"set":{"a":1}}}}',
        b'{"within":' * 5000 + b"{}" + b"}" * 5000,
        b'{"within":{"a":' * 5000 + b"{}" + b"}}" * 5000,
    ],
)
def test_a_delta_of_another_value_is_refused(delta: bytes) -> None:
    with pytest.raises(BadDelta):
        apply(b'{"a":1,"l":[1,2],"t":"text"}', delta)


def test_a_change_before_any_whole_value_is_refused() -> None:
    chain = Chain()
    chain.read(b"{}", is_delta=True)

    with pytest.raises(BadDelta):
        chain.value()


def test_a_chain_that_does_not_fit_together_is_healed_by_the_next_value() -> None:
    chain = Chain()
    chain.read(encode(STATE), is_delta=False)
    chain.read(b'{"drop":["no such field"]}', is_delta=True)

    data, is_delta = chain.write(encode(STATE))

    assert (encode(STATE), False) == (data, is_delta)
    assert encode(STATE) == chain.value()


def test_deltas_never_outweigh_the_whole_value_that_they_spare() -> None:
    """Total and reading stay within twice of what is necessary."""
    chain, since_whole, total = Chain(), 0, 0
    rows: list[str] = []
    for index in range(400):
        rows.append(field(index) * 12)
        value = encode(rows)
        data, is_delta = chain.write(value)
        since_whole = since_whole + len(data) if is_delta else 0
        total += len(data)

        assert since_whole <= len(value)

    assert total <= 3 * len(encode(rows))


def test_a_small_value_is_always_written_whole() -> None:
    chain = Chain()
    small = encode({"stage": "charged", "done": 3, "of": 7})

    assert [False, False] == [chain.write(small).is_delta, chain.write(small).is_delta]
