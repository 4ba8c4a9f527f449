"""
Unions: natural JSON where the members differ in JSON, an explicit tag where they do not.

``int | str | None`` needs nothing. In ``str | bytes | Decimal`` all three are JSON strings: ``str`` stays as it is, the others
become ``{"$type": "Decimal", "value": "1.50"}``. As soon as one member is tagged, every member that is a JSON object is tagged
as well, so that no user data can look like a tag.

The order in which members are written does not count: Python caches unions and may hand out ``B | A`` for ``A | B``, so
anything that depended on the order could differ between two processes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from everstep.codec.node import Node, Pack, Refusal, Unpack, class_of, expected

_KIND_OF: Final[dict[type, str]] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
    dict: "object",
}
_LISTS: Final[frozenset[type]] = frozenset({list})
_ARRAYS: Final = frozenset({"array"})
#: Members that are JSON themselves and keep their natural form when others of the same kind are tagged.
_NATURAL: Final = ("str", "int", "float", "bool", "None")


class UnknownType(Refusal):
    """A tag that no member of the union has."""


def union_node(members: list[Node]) -> Node:
    """Combine compiled members. Two of one name (``v1.Card | v2.Card``) are called by their full names."""
    members = sorted(_distinct(members), key=lambda member: member.name)
    name = " | ".join(member.name for member in members)
    tagged = _tagged(members)
    kinds = frozenset(kind for member in members for kind in (("object",) if member.name in tagged else member.kinds))
    classes = frozenset(cls for member in members for cls in member.classes)
    return Node(
        name,
        kinds,
        classes,
        _packer(name, members, tagged),
        _reader(name, members, tagged),
        endless=any(m.endless for m in members),
    )


def _distinct(members: list[Node]) -> list[Node]:
    members = list({id(member): member for member in members}.values())
    counts = Counter(member.name for member in members)
    named = [member if counts[member.name] == 1 else _in_full(member) for member in members]
    if len({member.name for member in named}) < len(named):
        raise Refusal(f"a union has two members named {counts.most_common(1)[0][0]}; rename one")
    return named


def _in_full(member: Node) -> Node:
    return Node(member.full_name, member.kinds, member.classes, member.pack, member.unpack, endless=member.endless)


# --- which members need a tag ---------------------------------------------------------------------------------------------


def _tagged(members: list[Node]) -> frozenset[str]:
    """The names of the members that are written with a tag."""
    clashing = {a.name for a in members for b in members if a is not b and _clash(a, b)}
    natural = {member.name for member in members if member.name in _NATURAL}
    natural |= _one_array(members, natural)
    tagged = {
        member.name
        for member in members
        if member.name in clashing - natural and any(_clash(member, other) for other in members if other is not member)
    }
    if tagged:
        tagged |= {member.name for member in members if any(kind.startswith("object") for kind in member.kinds)}
    return frozenset(tagged)


def _one_array(members: list[Node], natural: set[str]) -> set[str]:
    lists = [member.name for member in members if member.classes == _LISTS and member.kinds == _ARRAYS]
    return set(lists[:1])


def _clash(a: Node, b: Node) -> bool:
    return any(_same_kind(x, y) for x in a.kinds for y in b.kinds)


def _same_kind(x: str, y: str) -> bool:
    if x == y:
        return True
    if not (x.startswith("object") and y.startswith("object")):
        return False
    # "object:type='cat'" and "object:type='dog'" are told apart by their tag; with another tag field, or none, they are not.
    return x == "object" or y == "object" or x.partition("=")[0] != y.partition("=")[0]


# --- values to wire -------------------------------------------------------------------------------------------------------


def _packer(name: str, members: list[Node], tagged: frozenset[str]) -> Pack:
    table: dict[type, list[Pack]] = {}
    for member in members:
        pack = _with_tag(member) if member.name in tagged else member.pack
        for cls in member.classes:
            packs = table.setdefault(cls, [])
            # An int is taken by a member that means int before one that means float.
            packs.insert(0 if cls is int and member.name != "float" else len(packs), pack)
    single = {cls: packs[0] for cls, packs in table.items() if len(packs) == 1}

    def pack_union(value: Any, depth: int, left: list[int]) -> Any:
        pack = single.get(class_of(value))
        if pack is not None:
            return pack(value, depth, left)
        candidates = table.get(class_of(value))
        if candidates is None:
            raise expected(name, value)
        return _first(candidates, value, depth, left)

    return pack_union


def _first(candidates: list[Pack], value: Any, depth: int, left: list[int]) -> Any:
    budget = left[0]
    best: Refusal | None = None
    for pack in candidates:
        try:
            return pack(value, depth, left)
        except Refusal as refusal:
            left[0] = budget
            if best is None or len(refusal.steps) > len(best.steps):  # the one that got furthest says most
                best = refusal
    raise best or Refusal("no member")


def _with_tag(member: Node) -> Pack:
    name = member.name

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        return {"$type": name, "value": member.pack(value, depth, left)}

    return pack


# --- wire to values -------------------------------------------------------------------------------------------------------


def _reader(name: str, members: list[Node], tagged: frozenset[str]) -> Unpack:
    natural = [member for member in members if member.name not in tagged]
    by_kind = {kind: member.unpack for member in natural for kind in member.kinds}
    if "float" in by_kind:
        by_kind.setdefault("int", by_kind["float"])
    by_tag = {member.name: member.unpack for member in members if member.name in tagged}
    own_tags = _own_tags(natural)

    def unpack(wire: Any) -> Any:
        kind = _KIND_OF[class_of(wire)]
        if kind == "object" and by_tag:
            return _untag(wire, by_tag, name)
        if kind == "object" and own_tags:
            return _by_own_tag(wire, own_tags, name)
        reader = by_kind.get(kind)
        if reader is None:
            raise expected(name, wire)
        return reader(wire)

    return unpack


def _untag(wire: dict[str, Any], by_tag: dict[str, Unpack], name: str) -> Any:
    tag = wire.get("$type")
    if type(tag) is not str or wire.keys() != {"$type", "value"}:
        raise Refusal(f"no type tag, where one tells the members of {name} apart")
    reader = by_tag.get(tag)
    if reader is None:
        raise UnknownType(f"unknown type tag {tag[:100]!a}; the members are {', '.join(sorted(by_tag))}")
    return reader(wire["value"])


def _own_tags(members: list[Node]) -> dict[tuple[str, str], Unpack]:
    """Members that bring a tag field of their own (msgspec's tagged Structs), by field and printed tag."""
    tags: dict[tuple[str, str], Unpack] = {}
    for member in members:
        for kind in member.kinds:
            if kind.startswith("object:"):
                field, _, tag = kind.removeprefix("object:").partition("=")
                tags[field, tag] = member.unpack
    return tags


def _by_own_tag(wire: dict[str, Any], own_tags: dict[tuple[str, str], Unpack], name: str) -> Any:
    for field in {field for field, _ in own_tags}:
        reader = own_tags.get((field, repr(wire.get(field))))
        if reader is not None:
            return reader(wire)
    raise UnknownType(f"unknown type tag, where one tells the members of {name} apart")
