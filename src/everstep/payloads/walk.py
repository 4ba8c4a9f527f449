"""
Go through a value where something concerns sealing: secrets become sealed, sealed ones secrets, and look-alikes are put in
quotes.

Called only for values in which the mark occurs at all, so nothing here is on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from everstep.payloads.envelope import LITERAL, SECRET, sole_item
from everstep.secret import IN_MEMORY

Path: TypeAlias = str
Seal: TypeAlias = Callable[[Any, Path], Any]


def seal_inside(wire: Any, seal: Seal, path: Path = "") -> Any:
    """The stored form of a value in memory.

    Args:
        wire: As JSON.
        seal: Makes what is stored of the content of a secret, given its path.
        path: Of ``wire``.
    """
    found = sole_item(wire)
    if found is None:
        return _each(wire, lambda part, at: seal_inside(part, seal, at), path)
    name, content = found
    if name == IN_MEMORY:
        return {SECRET: seal(content, path)}
    return {LITERAL: {name: seal_inside(content, seal, f"{path}.{name}")}}


def open_inside(wire: Any, unseal: Seal, path: Path = "") -> Any:
    """The value in memory of a stored form: the opposite.

    Args:
        wire: As JSON.
        unseal: Makes what stands for a secret, given what is stored and its path.
        path: Of ``wire``.

    Raises:
        ValueError: It holds what ``seal_inside`` does not write.
    """
    found = sole_item(wire)
    match found:
        case None:
            return _each(wire, lambda part, at: open_inside(part, unseal, at), path)
        case ("$sealed:secret", content):
            return unseal(content, path)
        case ("$sealed:plain", {**literal}) if len(literal) == 1 and sole_item(literal):
            [(name, content)] = literal.items()
            return {name: open_inside(content, unseal, f"{path}.{name}")}
        case _:
            raise ValueError("it holds something sealed where nothing sealed can stand")


def _each(wire: Any, change: Callable[[Any, Path], Any], path: Path) -> Any:
    match wire:
        case dict():
            parts = cast(Mapping[str, Any], wire)
            return {name: change(part, f"{path}.{name}") for name, part in parts.items()}
        case list():
            items = cast(Sequence[Any], wire)
            return [change(part, f"{path}[{number}]") for number, part in enumerate(items)]
        case _:
            return wire


def texts_in(wire: Any) -> list[str]:
    """Every text and number in a value, as text."""
    match wire:
        case str():
            return [wire]
        case dict():
            return [text for part in cast(Mapping[str, Any], wire).values() for text in texts_in(part)]
        case list():
            return [text for part in cast(Sequence[Any], wire) for text in texts_in(part)]
        case bool() | None:
            return []
        case _:
            return [str(wire)]
