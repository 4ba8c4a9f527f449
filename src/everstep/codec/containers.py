"""
Containers: lists, tuples, sets, mappings, and the plain JSON that stands for ``Any``.

Sets are written sorted, so that equal sets give equal bytes in every process whatever the hash seed. Mapping keys that are not
text by their type are written as the JSON of the key (``5`` as ``"5"``, ``(1, 2)`` as ``"[1,2]"``), which no two keys share.

Where nothing is declared only what JSON has by itself is accepted: a tuple there would come back as a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from everstep.codec.node import Node, Pack, Refusal, Unpack, class_name, class_of, enter, expected
from everstep.codec.scalars import INT, STR, pack_float, pack_int, pack_str

# As values, so that type checkers let them be parametrised with a variable.
_LIST: Any = list
_DICT: Any = dict
# Kinds that Python orders totally. All else is ordered by its bytes: any order will do, as long as it is always the same.
_ORDERED: Final = (frozenset({"str"}), frozenset({"int"}), frozenset({"float"}))
_ARRAY: Final = frozenset({"array"})
_OBJECT: Final = frozenset({"object"})
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


# --- sequences ------------------------------------------------------------------------------------------------------------


def list_node(item: Node) -> Node:
    name = f"list[{item.name}]"
    native = None if item.native is None else _LIST[item.native]
    pack = _ints_packer(name) if item is INT else _items_packer(list, name, item)
    return Node(name, _ARRAY, frozenset({list}), pack, _items_reader(list, item), native=native, endless=item.endless)


def tuple_node(item: Node) -> Node:
    name = f"tuple[{item.name}, ...]"
    pack = _items_packer(tuple, name, item)
    return Node(name, _ARRAY, frozenset({tuple}), pack, _items_reader(tuple, item), endless=item.endless)


def _ints_packer(name: str) -> Pack:
    """The common case of numbers by the thousand: whole-list checks in C, and the slow way only to find the culprit."""
    slow = _items_packer(list, name, INT)

    def pack(value: Any, depth: int, left: list[int]) -> Any:
        if type(value) is not list or not value or set(map(type, value)) != {int}:  # pyright: ignore[reportUnknownArgumentType]
            return slow(value, depth, left)
        if min(value) < _INT64_MIN or max(value) > _INT64_MAX:  # pyright: ignore[reportUnknownArgumentType]
            return slow(value, depth, left)
        enter(depth, left, len(value))  # pyright: ignore[reportUnknownArgumentType]
        return value  # pyright: ignore[reportUnknownVariableType]

    return pack


def _items_packer(cls: type, name: str, item: Node) -> Pack:
    pack_item = item.pack

    def pack(value: Any, depth: int, left: list[int]) -> list[Any]:
        given = class_of(value)
        if given is not cls:
            raise expected(name, value)
        enter(depth, left, len(value))
        wire: list[Any] = []
        depth += 1
        try:
            for element in value:
                wire.append(pack_item(element, depth, left))  # noqa: PERF401 - its length is the path of a refusal
        except Refusal as refusal:
            raise refusal.under(f"[{len(wire)}]") from None
        return wire

    return pack


def _items_reader(build: Callable[[list[Any]], Any], item: Node) -> Unpack:
    unpack_item = item.unpack

    def unpack(wire: Any) -> Any:
        if type(wire) is not list:
            raise expected("array", wire)
        values: list[Any] = []
        try:
            for element in wire:  # pyright: ignore[reportUnknownVariableType]
                values.append(unpack_item(element))  # noqa: PERF401 - its length is the path of a refusal
        except Refusal as refusal:
            raise refusal.under(f"[{len(values)}]") from None
        return values if build is list else build(values)

    return unpack


def fixed_tuple_node(items: tuple[Node, ...]) -> Node:
    name = f"tuple[{', '.join(item.name for item in items) or '()'}]"
    size = len(items)
    packs = tuple(item.pack for item in items)
    unpacks = tuple(item.unpack for item in items)

    def pack(value: Any, depth: int, left: list[int]) -> list[Any]:
        if type(value) is not tuple:
            raise expected(name, value)
        if len(value) != size:  # pyright: ignore[reportUnknownArgumentType]
            raise Refusal(f"expected {name}, got a tuple of {len(value)}")  # pyright: ignore[reportUnknownArgumentType]
        enter(depth, left, size)
        wire: list[Any] = []
        try:
            for pack_item, element in zip(packs, value, strict=True):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                wire.append(pack_item(element, depth + 1, left))
        except Refusal as refusal:
            raise refusal.under(f"[{len(wire)}]") from None
        return wire

    def unpack(wire: Any) -> tuple[Any, ...]:
        if type(wire) is not list or len(wire) != size:  # pyright: ignore[reportUnknownArgumentType]
            raise expected(f"array of {size}", wire)
        values: list[Any] = []
        try:
            for unpack_item, element in zip(unpacks, wire, strict=True):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                values.append(unpack_item(element))
        except Refusal as refusal:
            raise refusal.under(f"[{len(values)}]") from None
        return tuple(values)

    return Node(name, _ARRAY, frozenset({tuple}), pack, unpack, endless=any(item.endless for item in items))


# --- sets -----------------------------------------------------------------------------------------------------------------


def set_node(cls: type[set[Any] | frozenset[Any]], item: Node) -> Node:
    name = f"{cls.__name__}[{item.name}]"
    pack_item = item.pack
    in_order: Callable[[Iterable[Any]], list[Any]] = sorted if item.kinds in _ORDERED else _by_bytes

    def pack(value: Any, depth: int, left: list[int]) -> list[Any]:
        if type(value) is not cls:
            raise expected(name, value)
        enter(depth, left, len(value))
        try:
            return in_order([pack_item(element, depth + 1, left) for element in value])
        except Refusal as refusal:
            raise refusal.under("[…]") from None

    read_items = _items_reader(list, item)

    def unpack(wire: Any) -> Any:
        values = read_items(wire)
        try:
            built = cls(values)
        except TypeError:
            raise Refusal(f"an element that cannot be in a {cls.__name__}") from None
        if len(built) != len(values):
            raise Refusal(f"the same element twice in a {cls.__name__}")
        return built

    return Node(name, _ARRAY, frozenset({cls}), pack, unpack, endless=item.endless)


def _by_bytes(wires: Iterable[Any]) -> list[Any]:
    return sorted(wires, key=msgspec.json.encode)


# --- mappings -------------------------------------------------------------------------------------------------------------


def dict_node(key: Node, item: Node) -> Node:
    name = f"dict[{key.name}, {item.name}]"
    # The wire form of such a key is text whatever the value, so it can stand as it is.
    as_text = key.kinds == STR.kinds
    native = _DICT[str, item.native] if key is STR and item.native is not None else None
    pack = _pairs_packer(name, key.pack if as_text else _key_packer(key), item)
    unpack = _pairs_reader(key.unpack if as_text else _key_reader(key), item)
    return Node(name, _OBJECT, frozenset({dict}), pack, unpack, native=native, endless=item.endless or key.endless)


def _pairs_packer(name: str, pack_key: Pack, item: Node) -> Pack:
    pack_item = item.pack

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        if type(value) is not dict:
            raise expected(name, value)
        enter(depth, left, 4 * len(value))  # pyright: ignore[reportUnknownArgumentType]
        wire: dict[str, Any] = {}
        depth += 1
        for key, element in value.items():  # pyright: ignore[reportUnknownVariableType]
            try:
                text = pack_key(key, depth, left)
            except Refusal as refusal:
                raise Refusal(f"key: {refusal.reason}").under(_step(key)) from None
            try:
                wire[text] = pack_item(element, depth, left)
            except Refusal as refusal:
                raise refusal.under(_step(key)) from None
        if len(wire) != len(value):  # pyright: ignore[reportUnknownArgumentType]
            raise Refusal("two keys that are written alike")
        return wire

    return pack


def _pairs_reader(unpack_key: Unpack, item: Node) -> Unpack:
    unpack_item = item.unpack

    def unpack(wire: Any) -> dict[Any, Any]:
        if type(wire) is not dict:
            raise expected("object", wire)
        values: dict[Any, Any] = {}
        text: Any = ""
        try:
            for text, element in wire.items():  # pyright: ignore[reportUnknownVariableType]
                values[unpack_key(text)] = unpack_item(element)
        except Refusal as refusal:
            raise refusal.under(_step(text)) from None
        if len(values) != len(wire):  # pyright: ignore[reportUnknownArgumentType]
            raise Refusal("the same key twice, written differently")
        return values

    return unpack


def _key_packer(key: Node) -> Pack:
    def pack(value: Any, depth: int, left: list[int]) -> str:
        return msgspec.json.encode(key.pack(value, depth, left)).decode()

    return pack


def _key_reader(key: Node) -> Unpack:
    def unpack(text: Any) -> Any:
        try:
            value = key.unpack(msgspec.json.decode(text))
            hash(value)
        except (msgspec.DecodeError, TypeError):
            raise Refusal(f"not the key text of {key.name}") from None
        return value

    return unpack


def _step(key: Any) -> str:
    """A key as a step of a path. Only plain keys are shown: the repr of another class is the user's code."""
    if isinstance(key, str):
        shown = ascii(str(key))
        return f"[{shown}]" if len(shown) <= 60 else f"[{shown[:57]}…]"
    plain = key is None or type(key) in (bool, float) or (type(key) is int and _INT64_MIN <= key <= _INT64_MAX)
    return f"[{key!r}]" if plain else f"[<{class_name(class_of(key))}>]"


# --- nothing declared -----------------------------------------------------------------------------------------------------


def pack_plain(value: Any, depth: int, left: list[int]) -> Any:
    """Accept what JSON has by itself, at any place."""
    cls = class_of(value)
    if cls is str:
        return pack_str(value, depth, left)
    if cls is int:
        return pack_int(value, depth, left)
    if cls is float:
        return pack_float(value, depth, left)
    if value is None or cls is bool:
        return value
    if cls is list:
        return _pack_plain_list(value, depth, left)
    if cls is dict:
        return _pack_plain_dict(value, depth, left)
    raise Refusal(
        f"{class_name(cls)} where no type is declared; annotate the parameter/return type (it would not come back as it is)"
    )


def unpack_plain(wire: Any) -> Any:
    """JSON is already what it is."""
    return wire


#: ``Any``, ``object`` and everything without an annotation.
PLAIN: Final = Node(
    "Any",
    frozenset({"null", "bool", "int", "float", "str", "array", "object"}),
    frozenset(),
    pack_plain,
    unpack_plain,
    native=Any,
    endless=True,
)

_pack_plain_list: Final = _items_packer(list, "list", PLAIN)


def _pack_plain_key(key: Any, depth: int, left: list[int]) -> str:
    if type(key) is str:
        return pack_str(key, depth, left)
    raise Refusal(
        f"{class_name(class_of(key))} where no type is declared; annotate the parameter/return type (JSON has only str keys)"
    )


_pack_plain_dict: Final = _pairs_packer("dict", _pack_plain_key, PLAIN)
