"""
What is cut out of texts before they are stored, and masked in values when they are shown.

Arguments, results, states and signals must come back exactly, so nothing can be cut out of them when they are stored. Notes
and reasons never come back to code. Errors do, as exceptions: they are redacted when they are described, before any code sees
them, so that it sees the same text on replay. In these three,

* a field or variable whose name matches a pattern loses its value: ``password='…'``, ``"api_token": "…"``, ``password: …``;
* every text that stands in such a field of the run's payloads, and every revealed ``Secret``, is replaced wherever it occurs.

Views (snapshots, histories, the command line) show stars in the fields that match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from everstep.errors import UsageError
from everstep.payloads.walk import texts_in
from everstep.records import ErrorRecord
from everstep.secret import HIDDEN

HIDDEN_CHARS_MIN: Final = 4
"""Shorter values are not searched for: every second word would go."""
_PATTERN: Final = re.compile(r"[A-Za-z0-9_*-]{1,64}")
_VALUE: Final = r"""(?:"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|(?:(?:bearer|basic|token)\s+)?[^\s,;&)\]}]+)"""


class Redaction:
    """Field names whose values are not to be read by people.

    Args:
        patterns: Names; ``*`` stands for any letters, digits, ``_`` and ``-``. Case does not matter.
    """

    __slots__ = ("_field", "_hint", "_name", "_text", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        if isinstance(patterns, str) or not all(_PATTERN.fullmatch(pattern) for pattern in self.patterns):
            raise UsageError(f"redact={patterns!a}: give a list of field names; * stands for any letters, digits, _ and -.")
        # Bounded, so that a long word cannot make the search quadratic.
        names = "|".join(re.escape(pattern).replace(r"\*", r"[\w-]{0,40}") for pattern in self.patterns)
        self._field = re.compile(names, re.IGNORECASE)
        self._hint = re.compile(rf'"(?:{names})":'.encode(), re.IGNORECASE)
        self._name = re.compile(rf'"(?:{names})"'.encode(), re.IGNORECASE)
        self._text = re.compile(rf"""((?<![\w-])["']?(?:{names})["']?\s*(?:=|:)\s*){_VALUE}""", re.IGNORECASE)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def text(self, text: str) -> str:
        """A text without what stands after such names."""
        return self._text.sub(lambda found: f"{found[1]}{HIDDEN}", text) if self.patterns else text

    def value(self, data: bytes) -> bytes:
        """A JSON value with stars in such fields."""
        return msgspec.json.encode(self._starred(msgspec.json.decode(data))) if self._concerns(data) else data

    def mentioned(self, data: bytes) -> bytes:
        """The same of a change, which names fields in more than one way: stars for all of it if it names one."""
        return msgspec.json.encode(HIDDEN) if self._name.search(data) else data

    def plain(self, wire: Any) -> Any:
        """The same of a value that is decoded."""
        return self._starred(wire) if self.patterns else wire

    def found(self, data: bytes) -> list[str]:
        """The texts that stand in such fields of a JSON value."""
        return self._found(msgspec.json.decode(data)) if self._concerns(data) else []

    def _concerns(self, data: bytes) -> bool:
        return bool(self.patterns) and self._hint.search(data) is not None

    def _starred(self, wire: Any) -> Any:
        match wire:
            case dict():
                parts = cast(Mapping[str, Any], wire)
                return {name: HIDDEN if self._field.fullmatch(name) else self._starred(part) for name, part in parts.items()}
            case list():
                return [self._starred(part) for part in cast(Sequence[Any], wire)]
            case _:
                return wire

    def _found(self, wire: Any) -> list[str]:
        match wire:
            case dict():
                parts = cast(Mapping[str, Any], wire)
                return [
                    t for name, p in parts.items() for t in (texts_in(p) if self._field.fullmatch(name) else self._found(p))
                ]
            case list():
                return [text for part in cast(Sequence[Any], wire) for text in self._found(part)]
            case _:
                return []


NOTHING: Final = Redaction(())
"""Redacts nothing by name."""


def without(text: str, hidden: Iterable[str]) -> str:
    """A text with every hidden value replaced, the longest first: one may be part of another."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def spellings(value: str) -> list[str]:
    """How a value may stand in a text: as it is, and as ``repr`` and JSON write it."""
    if len(value) < HIDDEN_CHARS_MIN:
        return []
    return list({value, repr(value)[1:-1], msgspec.json.encode(value).decode()[1:-1]})


def redacted_error(record: ErrorRecord, redaction: Redaction, hidden: Iterable[str]) -> ErrorRecord:
    """An error, and what caused it, without what is hidden."""

    def clean(text: str) -> str:
        return without(redaction.text(text), hidden)

    cause = None if record.cause is None else redacted_error(record.cause, redaction, hidden)
    return ErrorRecord(record.type, clean(record.message), clean(record.traceback), cause)
