"""
Typed access to statements. The stubs of apsw name types that Python 3.11 does not have, so a strict checker sees ``Unknown``
wherever they are used; this is the one place where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, cast

import apsw

Value: TypeAlias = int | float | str | bytes | None
Row: TypeAlias = tuple[Any, ...]
"""The tables are STRICT, so the types of a row's values are what the schema says; a type checker cannot know."""


class Rows(Protocol):
    """The answer to a statement: rows, read as they are asked for."""

    def __iter__(self) -> Iterator[Row]: ...

    def fetchall(self) -> list[Row]: ...

    def fetchone(self) -> Row | None: ...


class Ask(Protocol):
    """Runs a statement with its bindings."""

    def __call__(self, statement: str, bindings: Sequence[Value] = (), /) -> Rows: ...


def asking(connection: apsw.Connection) -> Ask:
    """Ask with a cursor for each statement, so that several may be read at once."""
    return cast(Ask, getattr(connection, "execute"))  # noqa: B009  # the attribute is what has no type


def asking_once(connection: apsw.Connection) -> Ask:
    """Ask with one cursor: faster, and each statement ends the one before."""
    return cast(Ask, getattr(connection.cursor(), "execute"))  # noqa: B009


def only(answer: Rows) -> Row:
    """The one row of a statement that always has one."""
    (row,) = answer.fetchall()
    return row
