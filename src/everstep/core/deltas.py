"""
Deltas: a JSON value written as what changed since another one, so that a big state of which little changes stays small. Pure.

    delta = diff(old, new)          bytes; None if writing ``new`` whole is no longer, or would be the only exact way
    new == apply(old, delta)        byte for byte

Both work on encoded values and compare encoded parts, so nothing can be blurred on the way: ``True``, ``1`` and ``1.0`` differ,
a whole number of a hundred digits stays one, and the order of keys is kept. ``diff`` applies what it found before it hands it
out; a delta that would not give exactly ``new`` is never returned, whatever produced the bytes.

A delta is JSON that a person can read. Every part is optional and all indices are those of the older value:

    set      fields (or items, by index) that have another value now
    within   fields (or items) that changed inside: the delta of each
    drop     fields that are gone
    add      fields that are new: place in the newer object, name, value
    splice   of a list: index, how many items are gone there, items that stand there now
    text     of a string: index, how many characters are gone there, text that stands there now

What it is not: the shortest edit. Lists are aligned by items that occur once in both (what moved past others is written anew),
strings by their common beginning and end. That covers what states do: a field changes, a list grows or slides, a text is
continued.

*Keyframes.* A chain of deltas must not cost more than it saves, in space or in reading. ``Chain`` decides: once the deltas
since the last whole value would outweigh the next one, that one is written whole. So the newest value is read from at most
twice its size, and all that is ever written is at most twice what the deltas alone would come to.

*Intended use.* ``Chain`` serves states, which follow one another. A result that is a changed copy of its step's input (the
payload of a pipeline) has its base beside it instead: record ``diff(input, result)`` if it is not None, with a flag on the
event that says so, and read it with ``apply(input, …)``. Where the inputs are recorded as deltas themselves, let each step's
result go through the ``Chain`` of the payload.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

WHOLE_BYTES_MAX: Final = 512
"""Values up to this size are never written as deltas: the entry around them is as long."""
_INSIDE_BYTES_MIN: Final = 64
"""What is shorter is replaced rather than looked into: the delta around the change would be as long."""


class BadDelta(ValueError):
    """It was not made against this value."""


class _Delta(Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    set: dict[str, Raw] = {}
    within: dict[str, Raw] = {}
    drop: list[str] = []
    add: list[tuple[int, str, Raw]] = []
    splice: list[tuple[int, int, list[Raw]]] = []
    text: tuple[int, int, str] | None = None


_NOTHING: Final = _Delta()
_encode: Final = msgspec.json.Encoder().encode
_read_delta: Final = msgspec.json.Decoder(_Delta).decode
_read_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_read_items: Final = msgspec.json.Decoder(list[Raw]).decode
_read_text: Final = msgspec.json.Decoder(str).decode

Tree: TypeAlias = "Raw | str | dict[str, Tree] | list[Tree]"
"""A value that is taken apart only where it changed."""


def diff(old: bytes, new: bytes) -> bytes | None:
    """What changed between two encoded values; None if writing the new one whole is better."""
    try:
        delta = _between(old, new)
        fits = delta is not None and len(delta) < len(new) and apply(old, delta) == new
    except (msgspec.MsgspecError, UnicodeError, RecursionError, BadDelta):
        return None  # Not JSON as our codecs write it, or too deep for the rest of the stack.
    return delta if fits else None


def apply(old: bytes, *deltas: bytes) -> bytes:
    """The encoded value that deltas, one after the other, make of an older one. Costs the value once, and each delta once.

    Raises:
        BadDelta: One of them was not made against what was there.
    """
    try:
        tree: Tree = Raw(old)
        for delta in deltas:
            tree = _changed(tree, delta)
        return _encode(tree)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, LookupError, ValueError) as error:
        raise BadDelta(f"the change does not fit the value before it: {type(error).__name__}: {error}") from error


class Written(NamedTuple):
    """How a value is recorded: whole, or as a delta against the one before."""

    data: bytes
    is_delta: bool


class Chain:
    """Values that follow one another, as they are recorded: which is written whole, and what they come to when read."""

    __slots__ = ("_deltas", "_weight", "_whole")

    def __init__(self) -> None:
        self._whole: bytes | None = None
        self._deltas: list[bytes] = []
        self._weight = 0

    def write(self, value: bytes) -> Written:
        """How to record the next value. It then counts as recorded."""
        delta = self._delta_to(value) if len(value) > WHOLE_BYTES_MAX else None
        self._whole, self._deltas = value, []
        if delta is None or self._weight + len(delta) > len(value):
            self._weight = 0
            return Written(value, is_delta=False)
        self._weight += len(delta)
        return Written(delta, is_delta=True)

    def read(self, data: bytes, *, is_delta: bool) -> None:
        """Follow what was recorded. Nothing is put together before somebody asks for the value."""
        if is_delta:
            self._deltas.append(data)
            self._weight += len(data)
        else:
            self._whole, self._deltas, self._weight = data, [], 0

    def value(self) -> bytes:
        """The newest value.

        Raises:
            BadDelta: What was recorded does not fit together.
        """
        if self._whole is None:
            raise BadDelta("there is no whole value before the first change")
        if self._deltas:
            self._whole, self._deltas = apply(self._whole, *self._deltas), []
        return self._whole

    def _delta_to(self, value: bytes) -> bytes | None:
        try:
            return None if self._whole is None else diff(self.value(), value)
        except BadDelta:
            return None  # Writing it whole heals the chain.


# --- finding -----------------------------------------------------------------------------------------------------------------


def _between(old: Raw | bytes, new: Raw | bytes) -> bytes | None:
    """The delta of two values of the same kind; None if it has to be replaced."""
    before, after = bytes(old), bytes(new)
    match before[:1], after[:1]:
        case b"{", b"{":
            return _between_objects(_read_fields(before), _read_fields(after))
        case b"[", b"[":
            return _between_lists(_read_items(before), _read_items(after))
        case b'"', b'"':
            return _between_texts(_read_text(before), _read_text(after))
        case _:
            return None


def _between_objects(old: dict[str, Raw], new: dict[str, Raw]) -> bytes | None:
    if _is_in_one_piece(old) or _is_in_one_piece(new):
        return None
    delta = _Delta(drop=[key for key in old if key not in new])
    kept = [key for key in new if key in old]
    if kept != [key for key in old if key in new]:
        return None  # The fields changed places.
    if len(kept) < len(new):
        delta.add = [(place, key, value) for place, (key, value) in enumerate(new.items()) if key not in old]
    for key in kept:
        _note_change(delta, key, old[key], new[key])
    return _encode(delta)


def _is_in_one_piece(fields: dict[str, Raw]) -> bool:
    """A form of our own: ``{"$…": …}``. What stands in it may be a secret, which is sealed whole or not found at all."""
    return len(fields) == 1 and next(iter(fields)).startswith("$")


def _note_change(delta: _Delta, key: str, old: Raw, new: Raw) -> None:
    if old == new:
        return
    inside = _inside(old, new)
    if inside is None:
        delta.set[key] = new
    else:
        delta.within[key] = Raw(inside)


def _inside(old: Raw, new: Raw) -> bytes | None:
    """The delta of a part, if that is shorter than the part."""
    size = len(memoryview(new))
    if size < _INSIDE_BYTES_MIN or len(memoryview(old)) < _INSIDE_BYTES_MIN:
        return None
    inside = _between(old, new)
    return inside if inside is not None and len(inside) < size else None


def _between_texts(old: str, new: str) -> bytes:
    start = _common_start(old, new)
    end = _common_start(old[start:][::-1], new[start:][::-1])
    return _encode(_Delta(text=(start, len(old) - start - end, new[start : len(new) - end])))


def _common_start(one: str, other: str) -> int:
    """How many characters both begin with. By halves, so that the comparing is done in C."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _between_lists(old: list[Raw], new: list[Raw]) -> bytes:
    delta = _Delta()
    before, after = [bytes(each) for each in old], [bytes(each) for each in new]
    for gap in _gaps(before, after):
        _note_gap(delta, old[gap.start : gap.end], new[gap.new_start : gap.new_end], gap.start)
    return _encode(delta)


def _note_gap(delta: _Delta, old: list[Raw], new: list[Raw], start: int) -> None:
    """Items that stand in the place of others: each is compared with its counterpart for as long as they are alike."""
    paired = 0
    for before, after in zip(old, new, strict=False):
        inside = _inside(before, after)
        if inside is not None:
            delta.within[str(start + paired)] = Raw(inside)
        elif len(old) == len(new):
            delta.set[str(start + paired)] = after
        else:
            break
        paired += 1
    if paired < max(len(old), len(new)):
        delta.splice.append((start + paired, len(old) - paired, new[paired:]))


class _Gap(NamedTuple):
    """Where two lists differ: this range of the older one stands for that range of the newer one."""

    start: int
    end: int
    new_start: int
    new_end: int


def _gaps(old: Sequence[bytes], new: Sequence[bytes]) -> list[_Gap]:
    """The ranges between the items that both have."""
    whole = _trimmed(old, new, _Gap(0, len(old), 0, len(new)))
    gaps: list[_Gap] = []
    start, new_start = whole.start, whole.new_start
    for place, new_place in [*_anchors(old, new, whole), (whole.end, whole.new_end)]:
        gap = _trimmed(old, new, _Gap(start, place, new_start, new_place))
        if gap.start < gap.end or gap.new_start < gap.new_end:
            gaps.append(gap)
        start, new_start = place + 1, new_place + 1
    return gaps


def _trimmed(old: Sequence[bytes], new: Sequence[bytes], gap: _Gap) -> _Gap:
    """The gap without what it begins and ends with on both sides."""
    start, end, new_start, new_end = gap
    while start < end and new_start < new_end and old[start] == new[new_start]:
        start, new_start = start + 1, new_start + 1
    while start < end and new_start < new_end and old[end - 1] == new[new_end - 1]:
        end, new_end = end - 1, new_end - 1
    return _Gap(start, end, new_start, new_end)


def _anchors(old: Sequence[bytes], new: Sequence[bytes], gap: _Gap) -> list[tuple[int, int]]:
    """Places (old, new) of items that each list has once, as many as stand in the same order in both."""
    once = _places_of_single(old, gap.start, gap.end)
    pairs = [
        (once[item], new_place)
        for item, new_place in _places_of_single(new, gap.new_start, gap.new_end).items()
        if item in once
    ]
    return _longest_rising(pairs)


def _places_of_single(items: Sequence[bytes], start: int, end: int) -> dict[bytes, int]:
    places: dict[bytes, int] = {}
    repeated: set[bytes] = set()
    for place in range(start, end):
        item = items[place]
        if item in places:
            repeated.add(item)
        places[item] = place
    for item in repeated:
        del places[item]
    return places


def _longest_rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of pairs, sorted by their second number already, whose first numbers rise too (patience sorting)."""
    tops: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, (place, _) in enumerate(pairs):
        pile = bisect_left(tops, place)
        before.append(ends[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(place)
            ends.append(index)
        else:
            tops[pile], ends[pile] = place, index
    chosen: list[tuple[int, int]] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chosen.append(pairs[index])
        index = before[index]
    return chosen[::-1]


# --- applying ----------------------------------------------------------------------------------------------------------------


def _changed(tree: Tree, data: Raw | bytes) -> Tree:
    """The tree after a change. Objects and lists are changed in place."""
    delta = _read_delta(data)
    opened = _opened(tree)
    match opened:
        case dict():
            return _changed_object(opened, delta)
        case list():
            return _changed_list(opened, delta)
        case str():
            return _changed_text(opened, delta)
        case _:
            _require(delta == _NOTHING)
            return opened


def _opened(tree: Tree) -> Tree:
    if not isinstance(tree, Raw):
        return tree
    data = bytes(tree)
    match data[:1]:
        case b"{":
            return cast("dict[str, Tree]", _read_fields(data))
        case b"[":
            return cast("list[Tree]", _read_items(data))
        case b'"':
            return _read_text(data)
        case _:
            return tree


def _changed_text(old: str, delta: _Delta) -> str:
    _require(not (delta.set or delta.within or delta.drop or delta.add or delta.splice))
    start, dropped, text = delta.text or (0, 0, "")
    _require(0 <= start <= start + dropped <= len(old))
    return old[:start] + text + old[start + dropped :]


def _changed_object(tree: dict[str, Tree], delta: _Delta) -> Tree:
    _require(not delta.splice and delta.text is None)
    for key, value in delta.set.items():
        _require(key in tree)
        tree[key] = value
    for key, inside in delta.within.items():
        tree[key] = _changed(tree[key], inside)
    for key in delta.drop:
        del tree[key]
    return _with_added(tree, delta.add) if delta.add else tree


def _with_added(tree: dict[str, Tree], added: Sequence[tuple[int, str, Raw]]) -> Tree:
    keys = list(tree)
    for place, key, value in added:
        _require(0 <= place <= len(keys) and key not in tree)
        keys.insert(place, key)
        tree[key] = value
    return tree if keys == list(tree) else {key: tree[key] for key in keys}


def _changed_list(tree: list[Tree], delta: _Delta) -> Tree:
    _require(not (delta.drop or delta.add) and delta.text is None)
    for index, value in delta.set.items():
        tree[_index(index)] = value
    for index, inside in delta.within.items():
        tree[_index(index)] = _changed(tree[_index(index)], inside)
    for start, dropped, items in reversed(delta.splice):
        _require(0 <= start <= start + dropped <= len(tree))
        tree[start : start + dropped] = items
    return tree


def _index(text: str) -> int:
    _require(text.isdecimal())
    return int(text)


def _require(holds: bool) -> None:
    if not holds:
        raise BadDelta("a place was changed that does not exist")
