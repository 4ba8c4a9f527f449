"""
What changed between two JSON values: one line of fact per place. Pure.

Places are compared by path, lists by index: the point is to show what a run's state became, not to find the shortest edit. JSON
has types that Python blurs (``true`` is not ``1``, ``1`` is not ``1.0``), so equality here means the same type as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias, TypeGuard, cast

from msgspec import Struct

Path: TypeAlias = tuple[str | int, ...]


class Kind(StrEnum):
    """What happened to a place."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Change(Struct, frozen=True):
    """One place in a value.

    Attributes:
        kind: What happened to it.
        path: Where: keys and indices from the root.
        old: The value before; None where there was none.
        new: The value after; None where there is none.
    """

    kind: Kind
    path: Path
    old: Any = None
    new: Any = None


def diff(old: Any, new: Any) -> list[Change]:
    """Every place of two JSON values, in the order of the newer one, what was removed where it stood.

    What is unchanged is one entry for its largest unchanged part, so that a big state that barely changed stays short.
    """
    return list(_walk((), old, new))


def changes(old: Any, new: Any) -> list[Change]:
    """The places that differ, without those that do not."""
    return [change for change in diff(old, new) if change.kind is not Kind.UNCHANGED]


def path_text(path: Path) -> str:
    """A path as one would write it: ``steps.charge[3]["two words"]``. The root is ``.``."""
    text = "".join(_part_text(part) for part in path)
    return text.removeprefix(".") or "."


def _walk(path: Path, old: Any, new: Any) -> Iterator[Change]:
    if same(old, new):
        yield Change(Kind.UNCHANGED, path, old, new)
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _walk_maps(path, cast(Mapping[str, Any], old), cast(Mapping[str, Any], new))
    elif _is_list(old) and _is_list(new):
        yield from _walk_lists(path, old, new)
    else:
        yield Change(Kind.CHANGED, path, old, new)


def _walk_maps(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key, value in old.items():
        if key not in new:
            yield Change(Kind.REMOVED, (*path, key), old=value)
    for key, value in new.items():
        if key in old:
            yield from _walk((*path, key), old[key], value)
        else:
            yield Change(Kind.ADDED, (*path, key), new=value)


def _walk_lists(path: Path, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Change]:
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        yield from _walk((*path, index), before, after)
    for index in range(len(new), len(old)):
        yield Change(Kind.REMOVED, (*path, index), old=old[index])
    for index in range(len(old), len(new)):
        yield Change(Kind.ADDED, (*path, index), new=new[index])


def same(old: Any, new: Any) -> bool:
    """Whether two JSON values are equal in value and in type, all the way down."""
    if type(old) is not type(new):
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        before, after = cast(Mapping[str, Any], old), cast(Mapping[str, Any], new)
        return before.keys() == after.keys() and all(same(value, after[key]) for key, value in before.items())
    if _is_list(old) and _is_list(new):
        return _same_lists(old, new)
    return bool(old == new)


def _same_lists(old: Sequence[Any], new: Sequence[Any]) -> bool:
    return len(old) == len(new) and all(map(same, old, new))


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _part_text(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    # "charge#2" is how a snapshot calls the second charge: it reads well without quotes.
    return f".{part}" if part.replace("#", "_").isidentifier() else f'["{part}"]'
