"""
The form in which sealed values are stored. JSON, so that stores and SQL need not know of it.

    {"$sealed": ["zlib", "eJw…"]}                                        compressed
    {"$sealed": ["gcm", "2026-11", "9f3c21aa", [where…], "kQ…"]}         encrypted ("gcm+zlib": compressed before that)
    {"$sealed:secret": ["gcm", …]}                                       a Secret inside a value that may be in clear
    {"$sealed:plain": {"$sealed": "mine"}}                               a user's own value that looks like one of these

``where`` is the place that the value belongs to: run, version, index of the event, field, and the bound fields. It is
authenticated along with scheme and key id, and compared with the place where the value was found.

In texts (error messages, reasons) the same JSON stands as text.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct

SEALED: Final = "$sealed"
SECRET: Final = "$sealed:secret"  # noqa: S105  # a name in JSON
LITERAL: Final = "$sealed:plain"
TEXT_HEAD: Final = '{"$sealed'
ZLIB: Final = "zlib"
GCM: Final = "gcm"
GCM_ZLIB: Final = "gcm+zlib"
_FORMAT: Final = "everstep payload 1"


class Envelope(Struct, frozen=True):
    """A sealed value. ``key_id``, ``check`` and ``where`` are empty if it is only compressed."""

    scheme: str
    data: bytes
    key_id: str = ""
    check: str = ""
    where: Sequence[Any] = ()

    @property
    def bound(self) -> bytes:
        """What is authenticated along with the data."""
        return bound(self.scheme, self.key_id, self.check, self.where)

    def listed(self) -> list[Any]:
        """As it is stored."""
        text = binascii.b2a_base64(self.data, newline=False).decode()
        return [self.scheme, self.key_id, self.check, list(self.where), text] if self.key_id else [self.scheme, text]


class _Compressed(Struct, array_like=True, forbid_unknown_fields=True):
    scheme: Literal["zlib"]
    text: str

    def envelope(self) -> Envelope:
        return Envelope(self.scheme, _bytes(self.text))


class _Encrypted(Struct, array_like=True, forbid_unknown_fields=True):
    scheme: Literal["gcm", "gcm+zlib"]
    key_id: Annotated[str, Meta(min_length=1)]
    check: str
    where: list[Any]
    text: str

    def envelope(self) -> Envelope:
        return Envelope(self.scheme, _bytes(self.text), self.key_id, self.check, self.where)


def bound(scheme: str, key_id: str, check: str, where: Sequence[Any]) -> bytes:
    """See Envelope."""
    return msgspec.json.encode([_FORMAT, scheme, key_id, check, list(where)])


def parse(listed: object) -> Envelope:
    """What ``listed`` made.

    Raises:
        ValueError: It is none.
    """
    scheme = cast(list[object], listed)[0] if isinstance(listed, list) and listed else None
    try:
        if scheme == ZLIB:
            return msgspec.convert(listed, _Compressed).envelope()
        return msgspec.convert(listed, _Encrypted).envelope()
    except msgspec.ValidationError:
        raise ValueError("it is sealed in a way that this version of everstep does not know") from None


def sole_item(wire: Any) -> tuple[str, Any] | None:
    """Name and content, if this is an object of the forms above."""
    if type(wire) is dict and len(wire) == 1:  # pyright: ignore[reportUnknownArgumentType]
        [(name, content)] = cast(dict[str, Any], wire).items()
        if name.startswith(SEALED):
            return name, content
    return None


def _bytes(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is no base64") from None
