"""A structural difference as lines of text: ``+``, ``-`` and ``→``. Pure; every line is inert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everstep.cli.inert import inert, json_text
from everstep.cli.words import shortened
from everstep.core.diff import Change, Kind, path_text

_SIGNS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: " ", Kind.UNCHANGED: " "}
VALUE_CHARS_MAX = 200
PATH_WIDTH_MAX = 48
UNCHANGED_CHARS_MAX = 40


def change_lines(changes: Sequence[Change], *, shorten: bool) -> list[str]:
    """What changed, one place per line, and one line for all that did not."""
    told = [change for change in changes if change.kind is not Kind.UNCHANGED]
    unchanged = [change for change in changes if change.kind is Kind.UNCHANGED]
    paths = [inert(path_text(change.path)) for change in told]
    width = min(PATH_WIDTH_MAX, max(map(len, paths), default=0))
    lines = [
        f"{_SIGNS[change.kind]} {path:<{width}}  {_values(change, shorten)}" for change, path in zip(told, paths, strict=True)
    ]
    if not told:
        return ["  (no difference)"]
    return [*lines, _unchanged_line(unchanged, width)] if unchanged else lines


def change_json(change: Change) -> dict[str, Any]:
    """One place for programs."""
    shown: dict[str, Any] = {"change": change.kind.value, "path": list(change.path)}
    if change.kind is not Kind.ADDED:
        shown["old"] = change.old
    if change.kind is not Kind.REMOVED:
        shown["new"] = change.new
    return shown


def _values(change: Change, shorten: bool) -> str:
    match change.kind:
        case Kind.ADDED:
            return _value(change.new, shorten)
        case Kind.REMOVED:
            return _value(change.old, shorten)
        case _:
            return f"{_value(change.old, shorten)} → {_value(change.new, shorten)}"


def _value(value: Any, shorten: bool) -> str:
    text = json_text(value)
    return shortened(text, VALUE_CHARS_MAX) if shorten else text


def _unchanged_line(unchanged: Sequence[Change], width: int) -> str:
    first = unchanged[0]
    more = f", {len(unchanged) - 1} more" if len(unchanged) > 1 else ""
    value = shortened(json_text(first.new), UNCHANGED_CHARS_MAX)
    return f"  {inert(path_text(first.path)):<{width}}  {value}   (unchanged{more})"
