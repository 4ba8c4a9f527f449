"""Types that the codec tests store: one of every kind that a user may declare."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, NewType, NotRequired, Required, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic

T = TypeVar("T")
UserId = NewType("UserId", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"
    NO = "no"


class Odd(enum.Enum):
    PAIR = (1, 2)
    OTHER = 3.5


class Mode(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


@dataclass
class Item:
    sku: str
    price: Decimal
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    id: UUID
    items: list[Item]
    at: datetime | None = None
    by: UserId = UserId("nobody")
    notes: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list["Tree"])


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class IntBox(Box[int]):
    label: str = ""


@dataclass
class Card:
    number: str


@dataclass
class Cash:
    number: str


@dataclass
class GoldCard(Card):
    pass


@dataclass
class Derived:
    a: int
    b: int = field(init=False)

    def __post_init__(self) -> None:
        self.b = self.a * 2


@dataclass
class Doubling:
    a: int

    def __post_init__(self) -> None:
        self.a *= 2


@dataclass
class HookedTree:
    child: HookedTree | None = None

    def __post_init__(self) -> None:
        self.seen = True


@dataclass
class Cached:
    a: int

    @cached_property
    def twice(self) -> int:
        return self.a * 2


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True, rename="camel"):
    bark_count: int = 0


class Point(msgspec.Struct, frozen=True, array_like=True):
    x: float
    y: float


@attrs.frozen
class Attr:
    x: int
    _hidden: str = "h"
    items: list[int] = attrs.field(factory=list[int])


@attrs.define
class Converted:
    x: int = attrs.field(converter=int)


class Model(pydantic.BaseModel):
    id: UUID
    total: Decimal
    child: Model | None = None
    when: datetime | None = pydantic.Field(default=None, alias="whenAt")


class Plain(pydantic.BaseModel):
    a: int
    b: list[str] = []


class Private(pydantic.BaseModel):
    a: int
    _hidden: int = 3


class Open(pydantic.BaseModel, extra="allow"):
    a: int


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Options(TypedDict, total=False):
    name: Required[str]
    size: int


class Config(TypedDict):
    level: int
    extra: NotRequired[tuple[int, int]]


@dataclass
class Everything:
    a: Sequence[int]
    b: Mapping[int, str]
    c: str | bytes | Decimal
    d: Literal["x", 1, True] | None
    e: set[Colour]
    f: Any = None


class Opaque:
    """A class that nobody can store."""
