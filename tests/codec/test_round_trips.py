"""What is stored comes back exactly: equal, and of the same types all the way down."""

from __future__ import annotations

import math
from collections import abc
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.codec import Undecodable, UnknownType, codec_for
from tests.codec import shapes as s

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
OFFSETS = st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
MOMENTS = st.datetimes().map(lambda at: at.replace(fold=0)) | st.datetimes(timezones=OFFSETS)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
ITEMS = st.builds(s.Item, TEXT, DECIMALS, st.lists(TEXT, max_size=3).map(tuple))
ORDERS = st.builds(s.Order, st.uuids(), st.lists(ITEMS, max_size=3), st.none() | MOMENTS, TEXT, st.dictionaries(TEXT, TEXT))
TREES = st.recursive(
    st.builds(s.Tree, st.integers()), lambda inner: st.builds(s.Tree, st.integers(), st.lists(inner, max_size=3)), max_leaves=8
)

FAMILIES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "none": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, st.integers() | st.integers(min_value=-(10**999), max_value=10**999)),
    "float": (float, FINITE),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary()),
    "bytearray": (bytearray, st.binary().map(bytearray)),
    "decimal": (Decimal, DECIMALS),
    "uuid": (UUID, st.uuids()),
    "datetime": (datetime, MOMENTS),
    "date": (date, st.dates()),
    "time": (time, st.times().map(lambda at: at.replace(fold=0)) | st.times(timezones=OFFSETS)),
    "timedelta": (timedelta, st.timedeltas()),
    "enum": (s.Colour, st.sampled_from(s.Colour)),
    "int enum": (s.Level, st.sampled_from(s.Level)),
    "str enum": (s.Word, st.sampled_from(s.Word)),
    "odd enum": (s.Odd, st.sampled_from(s.Odd)),
    "flag": (s.Mode, st.integers(0, 7).map(s.Mode)),
    "literal": (Literal["a", 1, True, s.Colour.RED] | None, st.sampled_from(["a", 1, True, None, s.Colour.RED])),
    "list": (list[int], st.lists(st.integers())),
    "list of floats": (list[float], st.lists(FINITE)),
    "fixed tuple": (tuple[int, str, Decimal], st.tuples(st.integers(), TEXT, DECIMALS)),
    "tuple": (tuple[float, ...], st.lists(FINITE).map(tuple)),
    "empty tuple": (tuple[()], st.just(())),
    "set": (set[int], st.sets(st.integers())),
    "frozenset": (frozenset[UUID | None], st.frozensets(st.uuids() | st.none())),
    "set of tuples": (set[tuple[int, str]], st.sets(st.tuples(st.integers(), TEXT))),
    "dict": (dict[str, list[int]], st.dictionaries(TEXT, st.lists(st.integers()))),
    "int keys": (dict[int, str], st.dictionaries(st.integers(), TEXT)),
    "float keys": (dict[float, int], st.dictionaries(FINITE, st.integers())),
    "uuid keys": (dict[UUID, int], st.dictionaries(st.uuids(), st.integers())),
    "date keys": (dict[date, int], st.dictionaries(st.dates(), st.integers())),
    "enum keys": (dict[s.Level, int], st.dictionaries(st.sampled_from(s.Level), st.integers())),
    "tuple keys": (dict[tuple[int, str], int], st.dictionaries(st.tuples(st.integers(), TEXT), st.integers())),
    "union keys": (dict[int | str | None, int], st.dictionaries(st.integers() | TEXT | st.none(), st.integers())),
    "sequence": (abc.Sequence[int], st.lists(st.integers()) | st.lists(st.integers()).map(tuple)),
    "abstract set": (abc.Set[int], st.sets(st.integers()) | st.frozensets(st.integers())),
    "mapping": (abc.Mapping[str, Decimal], st.dictionaries(TEXT, DECIMALS)),
    "optional": (Optional[int], st.none() | st.integers()),  # noqa: UP045
    "natural union": (int | str | None, st.none() | st.integers() | TEXT),
    "text union": (str | bytes | Decimal, TEXT | st.binary() | DECIMALS),
    "number union": (int | float, st.integers() | FINITE),
    "bool union": (int | bool | float, st.integers() | FINITE | st.booleans()),
    "array union": (list[int] | tuple[int, ...] | set[int], st.lists(st.integers()) | st.sets(st.integers())),
    "record union": (s.Card | s.Cash | None, st.builds(s.Card, TEXT) | st.builds(s.Cash, TEXT) | st.none()),
    "record or dict": (s.Card | dict[str, str], st.builds(s.Card, TEXT) | st.dictionaries(TEXT, TEXT)),
    "tagged structs": (s.Cat | s.Dog, st.builds(s.Cat, TEXT) | st.builds(s.Dog, st.integers())),
    "enum or text": (s.Word | str, TEXT | st.sampled_from(s.Word)),
    "list union": (list[int] | list[str], st.lists(st.integers()) | st.lists(TEXT)),
    "newtype": (s.UserId, TEXT),
    "annotated": (Annotated[int, "cents"], st.integers()),
    "plain": (Any, PLAIN),
    "bare list": (list, st.lists(PLAIN, max_size=3)),
    "bare dict": (dict, st.dictionaries(TEXT, PLAIN, max_size=3)),
    "dataclass": (s.Item, ITEMS),
    "frozen slots": (s.Order, ORDERS),
    "recursive": (s.Tree, TREES),
    "generic": (s.Box[Decimal], st.builds(s.Box, DECIMALS)),
    "generic of generic": (s.Box[s.Box[bytes]], st.builds(s.Box, st.builds(s.Box, st.binary()))),
    "generic subclass": (s.IntBox, st.builds(s.IntBox, st.integers(), TEXT)),
    "init=False": (s.Derived, st.builds(s.Derived, st.integers())),
    "struct": (s.Dog, st.builds(s.Dog, st.integers())),
    "array_like": (s.Point, st.builds(s.Point, FINITE, FINITE)),
    "attrs": (s.Attr, st.builds(s.Attr, st.integers(), TEXT, st.lists(st.integers()))),
    "attrs converter": (s.Converted, st.builds(s.Converted, st.integers())),
    "pydantic": (s.Plain, st.builds(s.Plain, a=st.integers(), b=st.lists(TEXT))),
    "pydantic private": (s.Private, st.builds(s.Private, a=st.integers())),
    "pydantic open": (s.Open, st.builds(s.Open, a=st.integers())),
    "namedtuple": (s.Pair, st.builds(s.Pair, st.integers(), TEXT)),
    "typeddict": (s.Options, st.fixed_dictionaries({"name": TEXT}, optional={"size": st.integers()})),
    "typeddict 2": (s.Config, st.fixed_dictionaries({"level": st.integers()}, optional={"extra": st.just((1, 2))})),
    "everything": (
        s.Everything,
        st.builds(
            s.Everything,
            st.lists(st.integers()),
            st.dictionaries(st.integers(), TEXT),
            TEXT | st.binary() | DECIMALS,
            st.sampled_from(["x", 1, True, None]),
            st.sets(st.sampled_from(s.Colour)),
            PLAIN,
        ),
    ),
}


def same(a: Any, b: Any) -> bool:
    """Equal and of the same type, at every level."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return bool(a == b) and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    if isinstance(a, datetime):
        return bool(a == b and a.utcoffset() == b.utcoffset())
    if issubclass(type(a), dict):
        left: dict[Any, Any] = a
        right: dict[Any, Any] = b
        return list(map(repr, left)) == list(map(repr, right)) and all(map(same, left.values(), right.values()))
    if isinstance(a, (list, tuple)):
        a, b = cast(list[Any], a), cast(list[Any], b)
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return bool(a == b)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_a_value_comes_back_exactly(family: str, data: st.DataObject) -> None:
    annotation, values = FAMILIES[family]
    value = data.draw(values)
    codec = codec_for(annotation)

    encoded = codec.encode(value)
    decoded = codec.decode(encoded)

    assert same(value, decoded), (value, encoded, decoded)
    assert encoded == codec.encode(decoded)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_what_another_type_wrote_is_read_exactly_or_refused(family: str, data: st.DataObject) -> None:
    """Foreign JSON never decodes to something that would be written differently, and never raises anything else."""
    codec = codec_for(FAMILIES[family][0])
    text = msgspec.json.encode(data.draw(PLAIN))
    try:
        value = codec.decode(text)
    except Undecodable:
        return

    assert same(value, codec.decode(codec.encode(value)))


def test_pydantic_models_with_aliases_and_children() -> None:
    child = s.Model(id=UUID(int=1), total=Decimal("1.50"), whenAt=datetime(2026, 1, 2, tzinfo=UTC))
    model = s.Model(id=UUID(int=2), total=Decimal(3), child=child)

    decoded = codec_for(s.Model).decode(codec_for(s.Model).encode(model))

    assert model == decoded
    assert type(decoded.child) is s.Model
    assert "1.50" == str(decoded.child.total)


@pytest.mark.parametrize("value", [2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 10**1000 - 1])
def test_integers_of_any_size(value: int) -> None:
    assert value == codec_for(int).decode(codec_for(int).encode(value))
    assert [value] == codec_for(list[int]).decode(codec_for(list[int]).encode([value]))
    assert {"a": value} == codec_for(Any).decode(codec_for(Any).encode({"a": value}))


def test_nul_is_kept_escaped() -> None:
    data = codec_for(str).encode("a\0b")

    assert b"\0" not in data
    assert "a\0b" == codec_for(str).decode(data)


def test_a_zone_is_kept_as_its_offset() -> None:
    """The instant and the offset survive; the rules of the zone are not part of the value."""
    paris = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))

    decoded = codec_for(datetime).decode(codec_for(datetime).encode(paris))

    assert paris.timestamp() == decoded.timestamp()
    assert paris.utcoffset() == decoded.utcoffset()


def test_an_int_is_accepted_as_a_float_and_written_like_one() -> None:
    assert b"1.0" == codec_for(float).encode(1) == codec_for(float).encode(1.0)


def test_natural_json_where_the_members_differ() -> None:
    assert b"5" == codec_for(int | str | None).encode(5)
    assert b'"x"' == codec_for(str | Decimal).encode("x")
    assert b'{"$type":"Decimal","value":"1.50"}' == codec_for(str | Decimal).encode(Decimal("1.50"))
    assert b'{"type":"Cat","name":"Tom"}' == codec_for(s.Cat | s.Dog).encode(s.Cat("Tom"))


def test_the_order_of_a_union_does_not_count() -> None:
    """Python caches unions, so the order that a process sees may be another's."""
    one = codec_for(Union[list[int], list[str]])  # noqa: UP007
    other = codec_for(Union[list[str], list[int]])  # noqa: UP007

    assert one.encode([]) == other.encode([])
    assert one.encode(["a"]) == other.encode(["a"])


def test_user_data_cannot_look_like_a_tag() -> None:
    codec = codec_for(s.Card | dict[str, str])
    value = {"$type": "Card", "value": "x"}

    assert value == codec.decode(codec.encode(value))


def test_sets_are_written_in_one_order() -> None:
    assert b'["a","b","c"]' == codec_for(set[str]).encode({"c", "a", "b"})
    assert codec_for(set[int | str]).encode({1, "a", "b"}) == codec_for(set[int | str]).encode({"b", "a", 1})


def test_a_result_never_aliases_the_value() -> None:
    value = [s.Item("a", Decimal(1))]
    codec = codec_for(list[s.Item])

    decoded = codec.decode(codec.encode(value))

    assert value == decoded
    assert value[0] is not decoded[0]


def test_cached_properties_are_not_state() -> None:
    value = s.Cached(2)
    assert 4 == value.twice

    assert value == codec_for(s.Cached).decode(codec_for(s.Cached).encode(value))


def test_any_buffer_can_be_read() -> None:
    for data in (
        b'{"number":"1"}',
        memoryview(b'{"number":"1"}'),
        msgspec.Raw(b'{"number":"1"}'),
        bytearray(b'{"number":"1"}'),
    ):
        assert s.Card("1") == codec_for(s.Card).decode(data)
        assert {"number": "1"} == codec_for(Any).decode(data)


def test_a_deep_hooked_record_costs_no_more_than_it_is_deep() -> None:
    value = s.HookedTree()
    for _ in range(50):
        value = s.HookedTree(value)

    assert value == codec_for(s.HookedTree).decode(codec_for(s.HookedTree).encode(value))


def test_an_unknown_tag_is_named() -> None:
    with pytest.raises(UnknownType, match="'Bitcoin'") as caught:
        codec_for(s.Card | s.Cash, root="result").decode(b'{"$type":"Bitcoin","value":{}}')

    assert "result" == caught.value.path
