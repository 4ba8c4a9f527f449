"""What would not come back exactly is refused when it is passed, with its path; data that does not fit is refused when read."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from everstep.codec import DEPTH_MAX, VALUE_BYTES_MAX, Undecodable, codec_for
from everstep.errors import PayloadTooLarge, Unencodable
from tests.codec import shapes as s

NAN = float("nan")
INF = float("inf")


class Text(str):
    __slots__ = ()


def private(value: int) -> s.Private:
    model = s.Private(a=1)
    model._hidden = value  # pyright: ignore[reportPrivateUsage]
    return model


REFUSED: list[tuple[Any, Any, str, str]] = [
    (int, 1.0, "r", "expected int, got float"),
    (int, "1", "r", "expected int, got str"),
    (int, True, "r", "expected int, got bool"),
    (float, True, "r", "expected float, got bool"),
    (float, "1", "r", "expected float"),
    (bool, 1, "r", "expected bool, got int"),
    (str, Text("x"), "r", "exactly str, got its subclass"),
    (str, "a\ud800", "r", "lone surrogate at index 1"),
    (Any, {"\ud800": 1}, "r['\\ud800']", "lone surrogate"),
    (float, NAN, "r", "no JSON form"),
    (list[float], [1.0, INF], "r[1]", "no JSON form"),
    (Any, {"a": [1, NAN]}, "r['a'][1]", "no JSON form"),
    (float, 2**53 + 1, "r", "no float equals"),
    (float, 10**400, "r", "no float equals"),
    (Decimal, Decimal("nan"), "r", "refused like float nan"),
    (int, 10**1000, "r", "more than 1,000 digits"),
    (list[int], [1, -(10**1000)], "r[1]", "more than 1,000 digits"),
    (Any, (1, 2), "r", "annotate the parameter/return type"),
    (Any, {"a": {1, 2}}, "r['a']", "annotate the parameter/return type"),
    (Any, [b"x"], "r[0]", "annotate the parameter/return type"),
    (object, {1: 2}, "r[1]", "annotate the parameter/return type"),
    (list, [s.Card("1")], "r[0]", "annotate the parameter/return type"),
    (dict, {"a": s.Word.YES}, "r['a']", "annotate the parameter/return type"),
    (Any, OrderedDict(a=1), "r", "annotate the parameter/return type"),
    (dict[str, int], OrderedDict(a=1), "r", "subclass"),
    (s.Card, s.GoldCard("1"), "r", "subclass"),
    (s.Card, {"number": "1"}, "r", "expected Card, got dict"),
    (list[int], (1,), "r", "expected list[int], got tuple"),
    (tuple[int, str], (1,), "r", "a tuple of 1"),
    (dict[str, int], {"a": 1, "b": "x"}, "r['b']", "expected int, got str"),
    (dict[str, int], {1: 1}, "r[1]", "key: expected str"),
    (s.Order, s.Order(UUID(int=0), [s.Item("a", 1.5)]), "r.items[0].price", "expected Decimal, got float"),  # type: ignore[arg-type]
    (s.Options, {"size": 1}, "r", "'name' is missing"),
    (s.Options, {"name": "a", "colour": 1}, "r", "'colour' is no key"),
    (s.Options, {"name": 1}, "r['name']", "expected str"),
    (s.Colour, "red", "r", "expected Colour, got str"),
    (Literal["a"], "b", "r", "not one of Literal['a']"),
    (Literal[1], True, "r", "expected Literal[1], got bool"),
    (int | None, "x", "r", "expected None | int, got str"),
    (s.Doubling, s.Doubling(1), "r", "does not come back as it was"),
    (datetime, datetime(2026, 1, 1, fold=1), "r", "fold=1"),  # noqa: DTZ001
    (time, time(1, tzinfo=ZoneInfo("Europe/Paris")), "r", "no utc offset"),
    (time, time(1, tzinfo=timezone(timedelta(microseconds=1))), "r", "fraction of a second"),
    (s.Private, private(5), "r", "does not come back as it was"),
    (s.Open, s.Open.model_validate({"a": 1, "b": 2}), "r", "'b' beside"),
    (set[float], {NAN}, "r[…]", "no JSON form"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[3]}")
def test_refused_with_its_path(case: tuple[Any, Any, str, str]) -> None:
    annotation, value, path, reason = case

    with pytest.raises(Unencodable) as caught:
        codec_for(annotation, root="r").encode(value)

    first, rest = str(caught.value).split("\n", 1)
    assert path == caught.value.path
    assert first.startswith(f"{path}: ")
    assert reason in first
    assert rest.startswith("Nothing was stored.")


def test_messages_do_not_contain_the_value() -> None:
    """A value may be a secret; its class is enough to find the mistake."""
    with pytest.raises(Unencodable) as caught:
        codec_for(int).encode("hunter2")  # type: ignore[arg-type,unused-ignore]

    assert "hunter2" not in str(caught.value)


def test_attributes_beside_the_fields_are_not_dropped() -> None:
    value = s.Card("1")
    value.colour = "gold"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(Unencodable, match="'colour' beside its declared fields"):
        codec_for(s.Card).encode(value)


def test_a_field_without_a_value() -> None:
    value = s.Card("1")
    del value.number

    with pytest.raises(Unencodable, match="has no value") as caught:
        codec_for(s.Card).encode(value)

    assert "value.number" == caught.value.path


# --- depth and size -------------------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_the_depth_limit() -> None:
    assert nested(DEPTH_MAX) == codec_for(Any).decode(codec_for(Any).encode(nested(DEPTH_MAX)))

    with pytest.raises(Unencodable, match="deeper than 64"):
        codec_for(Any).encode(nested(DEPTH_MAX + 1))


def test_a_list_that_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(Unencodable, match="contains itself"):
        codec_for(Any).encode(value)


def test_a_tree_that_contains_itself() -> None:
    tree = s.Tree(1)
    tree.children.append(tree)

    with pytest.raises(Unencodable, match="contains itself"):
        codec_for(s.Tree).encode(tree)


def test_a_caller_that_has_no_stack_left() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            codec_for(Any).encode(nested(DEPTH_MAX))

    refused = 0
    for levels in range(0, sys.getrecursionlimit(), 10):
        try:
            deep(levels)
        except Unencodable:
            refused += 1
        except RecursionError:  # of our own function
            break

    assert refused


def test_shared_lists_do_not_unfold_into_gigabytes() -> None:
    value: Any = ["x"] * 10
    for _ in range(40):
        value = [value] * 10

    with pytest.raises(PayloadTooLarge):
        codec_for(Any).encode(value)


@pytest.mark.parametrize("value", ["x" * VALUE_BYTES_MAX, [10**900] * 5000, ["x" * 1000] * 3000, [0] * VALUE_BYTES_MAX])
def test_the_size_limit(value: Any) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        codec_for(Any, root="result").encode(value)

    assert VALUE_BYTES_MAX == caught.value.limit
    assert caught.value.size > caught.value.limit
    assert str(caught.value).startswith("result: at least ")


def test_bytes_are_measured_before_they_are_copied() -> None:
    with pytest.raises(PayloadTooLarge):
        codec_for(bytes).encode(bytes(VALUE_BYTES_MAX + 1))


def test_the_size_limit_is_a_parameter() -> None:
    assert b'"abc"' == codec_for(str, max_bytes=5).encode("abc")

    with pytest.raises(PayloadTooLarge):
        codec_for(str, max_bytes=5).encode("abcd")


# --- types that cannot be stored ------------------------------------------------------------------------------------------


@dataclass
class Hiding:
    deep: list[s.Opaque]


@dataclass
class Seeded:
    seed: InitVar[int]
    a: int = 0


@pytest.mark.parametrize(
    "annotation",
    [
        s.Opaque,
        Hiding,
        list[s.Opaque],
        type[int],
        "int",
        Seeded,
        complex,
        Exception,
        Text,
        Callable[[], int],
        dict[str, s.Opaque | int],
    ],
    ids=repr,
)
def test_a_type_without_known_structure_is_refused(annotation: Any) -> None:
    codec = codec_for(annotation, root="result")

    with pytest.raises(Unencodable, match=r"^result: its declared type cannot be stored") as caught:
        codec.check()

    assert "Nothing was stored." in str(caught.value)


# --- reading --------------------------------------------------------------------------------------------------------------

UNREADABLE: list[tuple[Any, bytes, str, str]] = [
    (int, b"1.0", "r", "expected int"),
    (int, b"true", "r", "expected int, got bool"),
    (int, b"", "r", "no valid JSON"),
    (int, b"nul", "r", "no valid JSON"),
    (int, b"1" * 5000, "r", "no valid JSON"),
    (float, b"1e400", "r", "no valid JSON"),
    (float, b"NaN", "r", "no valid JSON"),
    (float, b"9007199254740993", "r", "no float equals"),
    (str, b'"\xff"', "r", "no valid JSON"),
    (str, b'"\\ud800"', "r", "no valid JSON"),
    (Any, b"[" * 100_000, "r", "no valid JSON"),
    (Any, b"[" * 200 + b"]" * 200, "r", "nested deeper"),
    (s.Tree, b'{"value":1,"children":[' * 150 + b"]}" * 150, "r", "nested deeper"),
    (list[int], b'[1,"2"]', "r[1]", "expected int, got str"),
    (dict[int, int], b'{"x":1}', "r['x']", "not the key text"),
    (dict[int, int], b'{"1":1," 1":2}', "r", "the same key twice"),
    (set[int], b"[1,1]", "r", "same element twice"),
    (Decimal, b'"1_0"', "r", "not the text of a Decimal"),
    (UUID, b'"{00000000000000000000000000000000}"', "r", "not the text of a UUID"),
    (datetime, b'"20260101"', "r", "not the text of a datetime"),
    (bytes, b'"?"', "r", "not the text of a bytes"),
    (s.Colour, b'"green"', "r", "not one of"),
    (s.Mode, b"8", "r", "no combination"),
    (s.Card, b"{}", "r.number", "required field"),
    (s.Card, b'{"number":"1","holder":"me"}', "r", "'holder'"),
    (
        list[s.Order],
        b'[{"id":"00000000-0000-0000-0000-000000000000","items":[{"sku":1}]}]',
        "r[0].items[0].sku",
        "expected str",
    ),
    (s.Cat | s.Dog, b'{"type":"Cow"}', "r", "unknown type tag"),
    (tuple[int, int], b"[1]", "r", "array of 2"),
]


@pytest.mark.parametrize("case", UNREADABLE, ids=lambda case: f"{case[0]}-{case[1][:20]!r}")
def test_data_that_does_not_fit_is_refused(case: tuple[Any, bytes, str, str]) -> None:
    annotation, data, path, reason = case

    with pytest.raises(Undecodable) as caught:
        codec_for(annotation, root="r").decode(data)

    assert path == caught.value.path
    assert reason in str(caught.value)
    assert caught.value.type_name


def test_a_field_added_with_a_default_reads_older_data() -> None:
    older = make_dataclass("Card", [("number", str)])
    newer = make_dataclass("Card", [("number", str), ("holder", str, "unknown")])

    assert newer("1", "unknown") == codec_for(newer).decode(codec_for(older).encode(older("1")))


def test_a_field_added_without_a_default_is_an_error() -> None:
    older = make_dataclass("Card", [("number", str)])
    newer = make_dataclass("Card", [("number", str), ("holder", str)])

    with pytest.raises(Undecodable, match="required field") as caught:
        codec_for(newer, root="result").decode(codec_for(older).encode(older("1")))

    assert ("result.holder", "Card") == (caught.value.path, caught.value.type_name)


@dataclass
class Strict:
    a: int = field(default_factory=lambda: 1 // 0)

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("negative")


@pytest.mark.parametrize("data", [b"{}", b'{"a":-1}'])
def test_what_the_class_itself_refuses_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable, match="Strict"):
        codec_for(Strict).decode(data)


def test_a_removed_field_is_an_error() -> None:
    older = make_dataclass("Card", [("number", str), ("holder", str)])
    newer = make_dataclass("Card", [("number", str)])

    with pytest.raises(Undecodable, match="the data has 'holder'"):
        codec_for(newer).decode(codec_for(older).encode(older("1", "me")))
