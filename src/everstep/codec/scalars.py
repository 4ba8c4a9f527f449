"""
Leaves: the types that have no parts, and how each is written so that it comes back exactly.

Only the exact class is taken. A subclass (``numpy.float64``, ``pandas.Timestamp``, a ``str`` of one's own) would silently come
back as its base. Text forms are read back strictly: the parsed value must print as the very text that was read, because
``UUID("{…}")`` or ``Decimal(" 1_0 ")`` accept far more than they write.

Refused although JSON or Python would let them pass:

    NaN, infinities       msgspec writes null, PostgreSQL and SQLite disagree
    lone surrogates       no UTF-8 form; NUL is fine, JSON escapes it
    bool for int          True == 1, but it is not what was passed
    ints over 1,000 digits
    fold=1 without offset no ISO form; offsets with fractions of a second (fromisoformat reads +00:00:00.000001 as UTC)
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from math import inf
from typing import Any, Final
from uuid import UUID

import msgspec

from everstep.codec.node import INT_DIGITS_MAX, Node, Refusal, class_of, expected, spend

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_INT_END: Final = 10**INT_DIGITS_MAX
# Below this a text is not worth counting: the allowance is a guard against unfolding, not an account.
_TEXT_FREE: Final = 64


def _pack_none(value: Any, depth: int, left: list[int]) -> None:
    if value is not None:
        raise expected("None", value)


def _unpack_none(wire: Any) -> None:
    if wire is not None:
        raise expected("None", wire)


def _pack_bool(value: Any, depth: int, left: list[int]) -> bool:
    if value is True or value is False:
        return value
    raise expected("bool", value)


def _unpack_bool(wire: Any) -> bool:
    if wire is True or wire is False:
        return wire
    raise expected("bool", wire)


def pack_int(value: Any, depth: int, left: list[int]) -> int:
    if type(value) is not int:
        raise expected("int", value)
    if _INT64_MIN <= value <= _INT64_MAX:
        return value
    if not -_INT_END < value < _INT_END:
        raise Refusal(f"an int of more than {INT_DIGITS_MAX:,} digits")
    spend(left, value.bit_length() // 4)
    return value


def unpack_int(wire: Any) -> int:
    if type(wire) is int:
        return wire
    raise expected("int", wire)


def pack_float(value: Any, depth: int, left: list[int]) -> float:
    if type(value) is float:
        if -inf < value < inf:
            return value
        raise Refusal(f"{value!r} has no JSON form; use None or a finite number")
    if type(value) is int:
        return _float_of(value)
    raise expected("float", value)


def _float_of(value: int) -> float:
    # Type checkers take an int for a float, so we do; but 2**53 + 1 has no float of equal value.
    try:
        converted = float(value)
    except OverflowError:
        converted = inf
    if converted != value:
        raise Refusal("an int that no float equals, where float is declared")
    return converted


def _unpack_float(wire: Any) -> float:
    if type(wire) is float:
        return wire
    if type(wire) is int:
        return _float_of(wire)
    raise expected("float", wire)


def pack_str(value: Any, depth: int, left: list[int]) -> str:
    if type(value) is not str:
        raise expected("str", value)
    if len(value) > _TEXT_FREE:
        spend(left, len(value))
    if not value.isascii():
        _refuse_surrogates(value)
    return value


def _refuse_surrogates(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refusal(f"a lone surrogate at index {error.start}, which is not text and has no UTF-8 form") from None


def _unpack_str(wire: Any) -> str:
    if type(wire) is str:
        return wire
    raise expected("str", wire)


def _text_leaf(cls: type, write: Callable[[Any], str], read: Callable[[str], Any]) -> Node:
    """A leaf that is written as text; ``write(read(text))`` must be ``text`` again."""
    name = cls.__name__
    binary = cls in (bytes, bytearray)

    def pack(value: Any, depth: int, left: list[int]) -> str:
        if class_of(value) is not cls:
            raise expected(name, value)
        if binary:  # before a copy is made that may be gigabytes
            spend(left, len(value))
        text = write(value)
        if not binary and len(text) > _TEXT_FREE:
            spend(left, len(text))
        return text

    def unpack(wire: Any) -> Any:
        if type(wire) is not str:
            raise expected(f"{name} as text", wire)
        try:
            value = read(wire)
            same = type(value) is cls and write(value) == wire
        except (ValueError, InvalidOperation, OverflowError, msgspec.ValidationError):
            same = False
            value = None
        if not same:
            raise Refusal(f"not the text of a {name}")
        return value

    return Node(name, frozenset({"str"}), frozenset({cls}), pack, unpack)


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise Refusal(f"Decimal {value} is refused like float nan and inf; use None or a finite number")
    return str(value)


def _write_moment(value: datetime | time) -> str:
    offset = value.utcoffset()
    if offset is None:
        _refuse_unoffset(value)
    elif offset.microseconds:
        raise Refusal("a utc offset with a fraction of a second, which Python does not read back")
    return value.isoformat()


def _refuse_unoffset(value: datetime | time) -> None:
    if value.tzinfo is not None:
        raise Refusal("a tzinfo that gives no utc offset here, so it would come back naive")
    if value.fold:
        raise Refusal("fold=1 without a utc offset, which ISO 8601 cannot say; attach a timezone")


def _write_timedelta(value: timedelta) -> str:
    return str(msgspec.to_builtins(value))


def _read_timedelta(text: str) -> timedelta:
    return msgspec.convert(text, timedelta)


def _write_bytes(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _read_bytes(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _read_bytearray(text: str) -> bytearray:
    return bytearray(_read_bytes(text))


NONE: Final = Node("None", frozenset({"null"}), frozenset({type(None)}), _pack_none, _unpack_none, native=type(None))
BOOL: Final = Node("bool", frozenset({"bool"}), frozenset({bool}), _pack_bool, _unpack_bool, native=bool)
INT: Final = Node("int", frozenset({"int"}), frozenset({int}), pack_int, unpack_int, native=int)
FLOAT: Final = Node("float", frozenset({"float"}), frozenset({float, int}), pack_float, _unpack_float, native=None)
STR: Final = Node("str", frozenset({"str"}), frozenset({str}), pack_str, _unpack_str, native=str)

LEAVES: Final[dict[type, Node]] = {
    type(None): NONE,
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: STR,
    bytes: _text_leaf(bytes, _write_bytes, _read_bytes),
    bytearray: _text_leaf(bytearray, _write_bytes, _read_bytearray),
    Decimal: _text_leaf(Decimal, _write_decimal, Decimal),
    UUID: _text_leaf(UUID, str, UUID),
    datetime: _text_leaf(datetime, _write_moment, datetime.fromisoformat),
    date: _text_leaf(date, date.isoformat, date.fromisoformat),
    time: _text_leaf(time, _write_moment, time.fromisoformat),
    timedelta: _text_leaf(timedelta, _write_timedelta, _read_timedelta),
}
