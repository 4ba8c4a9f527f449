"""
Values that are never shown and never stored in clear.

In memory a secret travels inside encoded arguments and results under a key that is drawn anew in every process, so no value of
a user's can be mistaken for one. ``everstep.events`` refuses to make bytes for a store while that key is in them: whoever
forgets to seal a payload gets an error, and no secret on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import msgspec

T_co = TypeVar("T_co", covariant=True)

HIDDEN: Final = "***"
MARK: Final = b"$sealed"
"""Stands in whatever concerns sealing, stored or in memory, and in next to nothing else: one search tells that there is nothing
to do."""
IN_MEMORY: Final = f"$sealed:{os.urandom(16).hex()}"
"""Key of the object that holds a secret inside encoded values, in this process only."""
_IN_MEMORY: Final = IN_MEMORY.encode()


class Secret(Generic[T_co]):
    """A value for parameters, fields and results that is never shown, and only ever stored encrypted.

    Write ``Secret[str]`` as the type, and give the engine ``es.Encryption``: without it such a value is refused. It takes no
    part in comparing arguments, so a token may be renewed without changing what a run was started with.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T_co) -> None:
        self.__value = value

    def reveal(self) -> T_co:
        """The value itself. What you write into messages, logs and other values from here on is yours to guard."""
        return self.__value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return self.__value == other.__value if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __copy__(self) -> Secret[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> Secret[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: its value would be stored in clear. Give everstep an encryption key instead.")


def holds_secret(data: bytes) -> bool:
    """Whether encoded values hold a secret in clear."""
    return _IN_MEMORY in data


def masked(data: bytes) -> bytes:
    """Encoded values with every secret replaced by three stars: for digests, comparisons and messages."""
    return msgspec.json.encode(_masked(msgspec.json.decode(data))) if _IN_MEMORY in data else data


def _masked(wire: Any) -> Any:
    match wire:
        case dict():
            parts = cast(Mapping[str, Any], wire)
            return HIDDEN if IN_MEMORY in parts else {name: _masked(part) for name, part in parts.items()}
        case list():
            return [_masked(part) for part in cast(Sequence[Any], wire)]
        case _:
            return wire
