"""
The node of ``Secret[T]``. It says nothing of the value in its errors; sealing and masking are done where bytes leave the
process.
"""

from __future__ import annotations

from typing import Any

from everstep.codec.node import Node, Refusal, class_of, enter, expected
from everstep.secret import IN_MEMORY, Secret


def secret_node(item: Node) -> Node:
    """Secrets of one type. Written as an object, so that in a union with records it gets a tag."""
    name = f"Secret[{item.name}]"
    misfit = f"the value in the secret is no {item.name} that can be stored"

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        if class_of(value) is not Secret:
            raise expected(name, value)
        enter(depth, left, 1)
        try:
            return {IN_MEMORY: item.pack(value.reveal(), depth + 1, left)}
        except Refusal:
            raise Refusal(misfit) from None

    def unpack(wire: Any) -> Secret[Any]:
        if type(wire) is not dict or [*wire] != [IN_MEMORY]:  # pyright: ignore[reportUnknownArgumentType]
            raise expected(f"a sealed {name}", wire)
        try:
            return Secret(item.unpack(wire[IN_MEMORY]))
        except Refusal:
            raise Refusal(misfit) from None

    return Node(name, frozenset({"object"}), frozenset({Secret}), pack, unpack, endless=item.endless)
