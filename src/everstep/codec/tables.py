"""
Closed sets of values: enums, flags and ``Literal``, looked up in a table in both directions.

An enum class is never called with stored data (except a Flag, whose combinations are no table): ``_missing_`` could turn what
is no member into a default in silence. Classes take part in every comparison, because 1 is not True.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from everstep.codec.node import Node, Refusal, Unpack, class_name, class_of, expected
from everstep.codec.scalars import pack_int, unpack_int

_ABSENT: Final = object()
_KIND: Final[dict[type, str]] = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}


def enum_node(cls: type[enum.Enum]) -> Node:
    """An enum by its values if all are plain str or int, else by names. Never through ``_missing_``: no silent default."""
    if issubclass(cls, enum.Flag):
        return _flag_node(cls)
    members = list(cls)
    by_value = all(type(member.value) in (str, int) for member in members)
    wires = {member: (member.value if by_value else member.name) for member in members}
    to_wire = {(cls, member): wire for member, wire in wires.items()}
    return _keyed_table(cls.__name__, to_wire, frozenset({cls}), class_name(cls))


def _flag_node(cls: type[enum.Flag]) -> Node:
    name = cls.__name__

    def pack(value: Any, depth: int, left: list[int]) -> int:
        if type(value) is not cls:
            raise expected(name, value)
        return pack_int(value.value, depth, left)

    def unpack(wire: Any) -> Any:
        bits = unpack_int(wire)
        try:
            value: enum.Flag | None = cls(bits)
        except ValueError:
            value = None
        if value is None or type(value) is not cls or value.value != bits:
            raise Refusal(f"no combination of {name}")
        return value

    return Node(name, frozenset({"int"}), frozenset({cls}), pack, unpack, full_name=class_name(cls))


def literal_node(name: str, pairs: list[tuple[Any, Any]]) -> Node:
    """``Literal``: ``pairs`` of value and wire (1 and True may both be there, so this cannot be a dict)."""
    return _keyed_table(
        name, {(class_of(value), value): wire for value, wire in pairs}, frozenset(class_of(v) for v, _ in pairs)
    )


def _keyed_table(name: str, to_wire: dict[tuple[type, Any], Any], classes: frozenset[type], full_name: str = "") -> Node:
    from_wire = {(class_of(wire), wire): value for (_, value), wire in to_wire.items()}
    if len(from_wire) != len(to_wire):
        raise Refusal(f"{name} has two members that JSON cannot tell apart")

    def pack(value: Any, depth: int, left: list[int]) -> Any:
        if class_of(value) in classes:
            wire = to_wire.get((class_of(value), value), _ABSENT)
            if wire is not _ABSENT:
                return wire
            raise Refusal(f"not one of {name}")
        raise expected(name, value)

    kinds = frozenset(_KIND[class_of(wire)] for wire in to_wire.values())
    return Node(name, kinds, classes, pack, _table_reader(name, from_wire), full_name=full_name)


def _table_reader(name: str, from_wire: dict[tuple[type, Any], Any]) -> Unpack:
    def unpack(wire: Any) -> Any:
        value = from_wire.get((class_of(wire), wire), _ABSENT) if type(wire) in _KIND else _ABSENT
        if value is _ABSENT:
            raise Refusal(f"not one of {name}")
        return value

    return unpack
