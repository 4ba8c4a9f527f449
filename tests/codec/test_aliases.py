"""``type X = …`` (3.12): aliases are transparent, may be generic, and may be recursive."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from everstep.codec import ArgumentsCodec, codec_for
from everstep.errors import Unencodable

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is new in Python 3.12")

SOURCE = """
from dataclasses import dataclass
from decimal import Decimal

type Cents = int
type Pairs[T] = list[tuple[str, T]]
type Tree = int | Decimal | str | list[Tree] | dict[str, Tree] | None

@dataclass
class Bag[T]:
    content: T
    more: Pairs[T]

def put(bag: Bag[Decimal], cents: Cents = 0) -> Tree: ...
"""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    made: dict[str, Any] = {"__name__": __name__}
    exec(compile(SOURCE, "aliases", "exec", dont_inherit=True), made)
    return made


def test_a_plain_and_a_generic_alias(names: dict[str, Any]) -> None:
    assert b"5" == codec_for(names["Cents"]).encode(5)
    assert [("a", 1)] == codec_for(names["Pairs"][int]).decode(b'[["a",1]]')
    with pytest.raises(Unencodable):
        codec_for(names["Pairs"][int]).encode([("a", "b")])


def test_a_recursive_alias(names: dict[str, Any]) -> None:
    value = [1, {"a": [names["Decimal"]("1.5"), None]}, "x"]
    codec = codec_for(names["Tree"])

    assert value == codec.decode(codec.encode(value))
    with pytest.raises(Unencodable):
        codec.encode([1, {"a": [b"x"]}])


def test_new_style_generics_in_a_function(names: dict[str, Any]) -> None:
    decimal = names["Decimal"]
    bag = names["Bag"](decimal(1), [("a", decimal(2))])
    codec = ArgumentsCodec(names["put"])

    assert ([bag, 3], {}) == codec.decode(codec.encode((bag, 3), {}))
