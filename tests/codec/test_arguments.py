"""The arguments of a call are one JSON object, the same for every way to pass them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.codec import ArgumentsCodec, Undecodable, codec_for, result_codec
from everstep.errors import PayloadTooLarge, Unencodable
from tests.codec import shapes as s


def charge(order_id: str, cents: int) -> str:
    return f"{order_id}:{cents}"


def options(a: int, b: int = 2, *, c: int, d: Decimal = Decimal(4)) -> None: ...


def rest(a: int, *more: int, flag: bool = False, **named: str) -> None: ...


def only(a: int, b: int = 1, /, **named: int) -> None: ...


def injected(tx: s.Opaque, amount: Decimal) -> None: ...


def lazily(a: int, client: s.Opaque | None = None) -> None: ...


def undeclared(a, b=None):  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    ...


def test_by_name_whatever_way_they_are_passed() -> None:
    codec = ArgumentsCodec(charge)
    expected = b'{"order_id":"42","cents":1999}'

    assert expected == codec.encode(("42", 1999), {})
    assert expected == codec.encode(("42",), {"cents": 1999})
    assert expected == codec.encode((), {"cents": 1999, "order_id": "42"})
    assert (["42", 1999], {}) == codec.decode(expected)


def test_what_was_not_passed_is_left_out() -> None:
    codec = ArgumentsCodec(options)

    assert b'{"a":1,"c":3}' == codec.encode((1,), {"c": 3})
    assert ([1], {"c": 3}) == codec.decode(b'{"a":1,"c":3}')


def test_after_a_gap_arguments_go_by_keyword() -> None:
    def three(a: int = 1, b: int = 2, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    args, kwargs = ArgumentsCodec(three).decode(ArgumentsCodec(three).encode((), {"a": 9, "c": 8}))

    assert ([9], {"c": 8}) == (args, kwargs)
    assert (9, 2, 8) == three(*args, **kwargs)


def test_variable_arguments() -> None:
    codec = ArgumentsCodec(rest)
    data = codec.encode((1, 2, 3), {"z": "z", "flag": True, "b": "b"})

    assert b'{"a":1,"more":[2,3],"flag":true,"named":{"b":"b","z":"z"}}' == data
    assert ([1, 2, 3], {"flag": True, "b": "b", "z": "z"}) == codec.decode(data)


def test_positional_only_names_are_free_for_keywords() -> None:
    codec = ArgumentsCodec(only)
    data = codec.encode((5,), {"a": 7})

    assert b'{"a":5,"named":{"a":7}}' == data
    assert ([5], {"a": 7}) == codec.decode(data)


def test_the_first_parameter_can_be_left_out() -> None:
    codec = ArgumentsCodec(injected, skip_first=True)
    codec.check()

    assert b'{"amount":"1.5"}' == codec.encode((Decimal("1.5"),), {})


def test_a_default_never_needs_encoding() -> None:
    codec = ArgumentsCodec(lazily)
    codec.check()

    assert b'{"a":1}' == codec.encode((1,), {})
    with pytest.raises(Unencodable, match="Opaque"):
        codec.encode((1, s.Opaque()), {})


def test_undeclared_parameters_take_plain_json() -> None:
    codec = ArgumentsCodec(cast(Callable[..., Any], undeclared))

    assert ([[1, {"a": None}]], {}) == codec.decode(codec.encode(([1, {"a": None}],), {}))
    with pytest.raises(Unencodable, match="annotate") as caught:
        codec.encode((1, (2,)), {})
    assert "b" == caught.value.path


def test_an_unsupported_parameter_is_named() -> None:
    with pytest.raises(Unencodable, match="Opaque") as caught:
        ArgumentsCodec(injected).check()

    assert "tx" == caught.value.path


WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (charge, (), {}),
    (charge, ("42",), {}),
    (charge, ("42", 1, 2), {}),
    (charge, ("42", 1), {"cents": 1}),
    (charge, ("42", 1), {"colour": 1}),
    (options, (1,), {}),
    (options, (1, 2, 3), {"c": 1}),
    (only, (), {"a": 1}),
    (undeclared, (), {}),
]


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_calls_fail_in_pythons_words(case: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> None:
    function, args, kwargs = case
    with pytest.raises(TypeError) as python:
        function(*args, **kwargs)

    with pytest.raises(TypeError) as ours:
        ArgumentsCodec(function).encode(args, kwargs)

    # CPython appends "(and 1 keyword-only argument)" in one case; the sentence up to there is the same.
    assert str(ours.value)[:30] == str(python.value)[:30]


def test_a_wrong_value_names_its_parameter() -> None:
    with pytest.raises(Unencodable) as caught:
        ArgumentsCodec(charge).encode(("42", "1999"), {})

    assert "cents" == caught.value.path


def test_all_arguments_together_have_one_limit() -> None:
    with pytest.raises(PayloadTooLarge, match="charge"):
        ArgumentsCodec(charge, max_bytes=20).encode(("42", 1999), {})


def test_an_argument_that_is_too_large_is_named_with_its_function_size_and_limit() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"argument order_id of charge: at least 3,0\d\d bytes encoded, the limit is 2,000"
    ):
        ArgumentsCodec(charge, max_bytes=2000).encode(("x" * 3000, 1999), {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b"{}",
        b'{"order_id":"42"}',
        b'{"order_id":"42","cents":1,"vat":2}',
        b'{"order_id":42,"cents":1}',
        b"[" * 9999,
    ],
    ids=repr,
)
def test_arguments_that_do_not_fit_the_signature(data: bytes) -> None:
    with pytest.raises(Undecodable):
        ArgumentsCodec(charge).decode(data)


def test_stored_keywords_cannot_shadow_parameters() -> None:
    with pytest.raises(Undecodable, match="parameter of its own"):
        ArgumentsCodec(rest).decode(b'{"a":1,"named":{"flag":"x"}}')


@given(st.lists(st.integers(), max_size=3), st.dictionaries(st.text("bcxyz", min_size=1), st.text("ab"), max_size=3))
def test_decoded_arguments_encode_to_the_same_bytes(more: list[int], named: dict[str, str]) -> None:
    codec = ArgumentsCodec(rest)
    data = codec.encode((1, *more), named)
    args, kwargs = codec.decode(data)

    assert data == codec.encode(tuple(args), kwargs)


def test_shown_as_a_call() -> None:
    codec = ArgumentsCodec(options)

    assert '"42", 1999' == ArgumentsCodec(charge).show(b'{"order_id":"42","cents":1999}')
    assert '1, c=3, d="4"' == codec.show(codec.encode((1,), {"c": 3, "d": Decimal(4)}))
    assert "b=2, c=3" == codec.show(b'{"b":2,"c":3}')


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202eevil", "\x7f", "a\nb", "\u2028", "\x9b"])
def test_shown_text_cannot_move_the_cursor(text: str) -> None:
    shown = ArgumentsCodec(charge).show(codec_for(dict[str, str]).encode({"order_id": text}))

    assert shown.isprintable()


@given(st.binary())
def test_showing_never_fails(data: bytes) -> None:
    assert len(ArgumentsCodec(charge).show(data)) <= 2400


def test_long_arguments_are_abbreviated() -> None:
    assert 200 == len(ArgumentsCodec(charge).show(ArgumentsCodec(charge).encode(("x" * 10_000, 1), {})))


def test_a_partial_has_the_types_of_its_function() -> None:
    assert b'{"cents":1999}' == ArgumentsCodec(partial(charge, "42")).encode((1999,), {})
    with pytest.raises(Unencodable, match="expected int"):
        ArgumentsCodec(partial(charge, "42")).encode(("1999",), {})


def test_the_result_by_its_annotation() -> None:
    assert b'"ok"' == result_codec(charge).encode("ok")
    with pytest.raises(Unencodable) as caught:
        result_codec(charge).encode(1)
    assert "result" == caught.value.path


def test_types_of_the_enclosing_function_are_found() -> None:
    class Local(s.Card):
        pass

    def local(card: s.Card) -> Local | None:
        return Local(card.number)

    assert b"null" == result_codec(local).encode(None)
