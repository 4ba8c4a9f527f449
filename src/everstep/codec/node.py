"""
What one declared type compiles to: a pair of functions between its values and their *wire* form.

The wire form is what JSON has by itself: None, bool, int, float, str, list and dict with str keys. ``pack`` goes there and
validates on the way: it raises ``Refusal`` for every value that would not come back equal and of the same type. ``unpack``
goes back and trusts nothing: a wire value that ``pack`` cannot have produced raises ``Refusal`` too.

A refusal starts at a leaf without knowing where it is; every container it passes adds its own step of the path. So the
path costs nothing until something goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

#: S6. Deep enough for any document a person wrote; far from Python's recursion limit, which stores and callers share.
DEPTH_MAX: Final = 64
#: Python itself refuses to print more than 4,300 digits, and the limit is adjustable; 1,000 is the same in every process.
INT_DIGITS_MAX: Final = 1_000
#: Larger values belong into a blob or behind a reference: a journal entry is read whole on each replay.
VALUE_BYTES_MAX: Final = 2 * 1024 * 1024

#: ``pack(value, depth, left)``: ``depth`` counts the containers around the value. ``left`` holds the bytes which may still be
#: spent: it stops a small graph of shared lists before it unfolds into gigabytes. A second cell, if there is one, is a mode
#: that concerns ``records`` alone.
Pack = Callable[[Any, int, list[int]], Any]
Unpack = Callable[[Any], Any]


#: ``type`` of one argument; type checkers keep what they guessed of the value, this one says that it may be anything.
class_of: Final = cast(Callable[[Any], type[Any]], type)


class Refusal(Exception):
    """A value or a wire value does not fit its type. Never leaves this package: the codecs turn it into a public error."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []

    def under(self, step: str) -> Refusal:
        """Add the step of the container that the refusal is passing."""
        self.steps.append(step)
        return self

    def path(self, root: str) -> str:
        """The place as one would write it in Python: ``result.items[3]['price']``."""
        return root + "".join(reversed(self.steps))


class Spent(Exception):
    """The byte allowance ran out before the value was walked to its end. Carries how many bytes it is over, at least."""

    def __init__(self, over: int) -> None:
        super().__init__(over)
        self.over = over


class Node:
    """One compiled type.

    Attributes:
        name: The type as messages and union tags show it: ``list[Decimal]``.
        full_name: The same with the module, for two types of one name.
        kinds: The JSON kinds its wire form may take: ``null bool int float str array object``, or ``object:key=tag``.
        classes: The exact Python classes of its values; empty means any (``Any``).
        pack: Value to wire.
        unpack: Wire to value.
        native: A msgspec type whose strict decoding equals ``unpack``, or None. It only makes decoding faster.
        endless: Whether values may nest to any depth (recursive types and ``Any``).
    """

    __slots__ = ("classes", "endless", "full_name", "kinds", "name", "native", "pack", "unpack")

    def __init__(
        self,
        name: str,
        kinds: frozenset[str] = frozenset(),
        classes: frozenset[type] = frozenset(),
        pack: Pack | None = None,
        unpack: Unpack | None = None,
        *,
        full_name: str = "",
        native: Any = None,
        endless: bool = False,
    ) -> None:
        self.name = name
        self.full_name = full_name or name
        self.kinds = kinds
        self.classes = classes
        self.pack: Pack = pack or self._pack_later
        self.unpack: Unpack = unpack or self._unpack_later
        self.native = native
        self.endless = endless

    def _pack_later(self, value: Any, depth: int, left: list[int]) -> Any:
        # A recursive type meets itself before it is compiled: what captured this method finds the finished one here.
        return self.pack(value, depth, left)

    def _unpack_later(self, wire: Any) -> Any:
        return self.unpack(wire)


def class_name(cls: type) -> str:
    """A class as messages show it: builtins by name alone, all others with their module."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def expected(name: str, value: Any) -> Refusal:
    """The refusal of a value of the wrong class. It names the class only: the value may be a secret."""
    cls: type[Any] = class_of(value)
    got = class_name(cls)
    if name == "int" and cls is bool:
        return Refusal("expected int, got bool (True would not come back as 1; write int(…), or annotate bool)")
    bases = [base for base in cls.__mro__[1:-1] if base.__name__ == name.partition("[")[0]]
    if bases:
        return Refusal(f"expected exactly {name}, got its subclass {got}, which would come back as {name}")
    return Refusal(f"expected {name}, got {got}")


def spend(left: list[int], count: int) -> None:
    """Take ``count`` bytes from the allowance.

    Raises:
        Spent: The value is certainly larger than its limit.
    """
    left[0] -= count
    if left[0] < 0:
        raise Spent(-left[0])


def enter(depth: int, left: list[int], count: int) -> None:
    """Begin a container of ``count`` elements: each needs at least a byte."""
    if depth >= DEPTH_MAX:
        raise Refusal(f"nested deeper than {DEPTH_MAX} levels (or it contains itself)")
    spend(left, count)
