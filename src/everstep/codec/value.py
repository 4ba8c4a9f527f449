"""
The codec of one declared type: values to JSON bytes and back, exactly, or an error that names the place.

A codec is compiled at its first use, so that a step whose types are imported lazily can be defined, and cached by annotation.
Encoding never falls back to anything: a value either comes back as it was, or is refused before anything is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from everstep.codec.compiler import compile_type
from everstep.codec.hints import function_hints
from everstep.codec.node import DEPTH_MAX, VALUE_BYTES_MAX, Node, Refusal, Spent
from everstep.codec.unions import UnknownType as _UnknownTag
from everstep.errors import EverstepError, PayloadTooLarge, Unencodable

T = TypeVar("T")
Data: TypeAlias = "bytes | bytearray | memoryview | msgspec.Raw"

_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder().decode
#: Values are never deep enough for this; the caller's own stack was nearly full already.
NO_STACK: Final = Refusal("nested deeper than the rest of the caller's stack allows")
# Every level of a value may stand in a union, whose tag is one more level of JSON.
_WIRE_DEPTH_MAX: Final = 2 * DEPTH_MAX + 2


class Undecodable(EverstepError):
    """Stored data that does not fit the declared type: another version of the type wrote it, or it is damaged.

    Attributes:
        type_name: The declared type.
        path: Where in the value: ``result.items[3]``.
    """

    def __init__(self, message: str, *, type_name: str = "", path: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.path = path


class UnknownType(Undecodable):
    """Stored data carries a type tag that the declared union does not have (any more)."""


class ValueCodec(Generic[T]):
    """Encode and decode the values of one declared type. Immutable once compiled; safe to share between threads."""

    __slots__ = ("_annotation", "_max_bytes", "_node", "_pack", "_read", "_root")

    def __init__(self, annotation: Any, *, root: str = "value", max_bytes: int = VALUE_BYTES_MAX) -> None:
        self._annotation = annotation
        self._root = root
        self._max_bytes = max_bytes
        self._node: Node | None = None
        self._pack: Callable[[Any, int, list[int]], Any] = self._compile_and_pack
        self._read: Callable[[Any], Any] = self._compile_and_read

    def check(self) -> None:
        """Compile now.

        Raises:
            Unencodable: The type cannot be stored.
        """
        self._compiled()

    def encode(self, value: T) -> bytes:
        """JSON bytes that ``decode`` turns into an equal value of the same types.

        Raises:
            Unencodable: Some part of the value does not fit its declared type or has no exact form. Its path is named.
            PayloadTooLarge: The encoded value exceeds ``max_bytes``.
        """
        limit = self._max_bytes
        try:
            data = _ENCODE(self._pack(value, 0, [limit]))
        except Refusal as refusal:
            raise unencodable(refusal, self._root) from None
        except Spent as spent:
            raise too_large(self._root, limit + spent.over, limit) from None
        except RecursionError:
            raise unencodable(NO_STACK, self._root) from None
        if len(data) > limit:
            raise too_large(self._root, len(data), limit)
        return data

    def decode(self, data: Data) -> T:
        """The value that was encoded, made anew: it shares nothing with the one that was passed.

        Raises:
            Undecodable: The data does not fit the type. Nothing outside the declared types was constructed.
        """
        try:
            return cast(T, self._read(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return cast(T, self._read_again(data, error))
        except Refusal as refusal:
            raise undecodable(refusal, self._root, self._compiled().name) from None

    def _read_again(self, data: Data, error: Exception) -> Any:
        # The fast reader failed and knows no path of ours. The slow one is the truth; it fails at the same place or succeeds.
        name = self._compiled().name
        try:
            return self._compiled().unpack(parse(data))
        except Refusal as refusal:
            raise undecodable(refusal, self._root, name) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as again:
            raise undecodable(Refusal(f"no valid JSON ({again})"), self._root, name) from error

    # --- compiling --------------------------------------------------------------------------------------------------------

    def _compiled(self) -> Node:
        if self._node is None:
            try:
                node = compile_type(self._annotation)
            except Refusal as refusal:
                raise unsupported(refusal, self._root) from None
            self._pack, self._read, self._node = node.pack, reader(node), node
        return self._node

    def _compile_and_pack(self, value: Any, depth: int, left: list[int]) -> Any:
        return self._compiled().pack(value, depth, left)

    def _compile_and_read(self, data: Any) -> Any:
        self._compiled()
        return self._read(data)


def codec_for(annotation: Any, *, root: str = "value", max_bytes: int = VALUE_BYTES_MAX) -> ValueCodec[Any]:
    """The codec of a type; the same object for the same arguments.

    Args:
        annotation: What stands after the colon or arrow, resolved (no strings).
        root: What the value is called in error paths: ``result``, ``cents``.
        max_bytes: Largest encoded size.
    """
    try:
        return _cached(annotation, root, max_bytes)
    except TypeError:  # unhashable metadata in Annotated
        return ValueCodec(annotation, root=root, max_bytes=max_bytes)


@functools.lru_cache(maxsize=4096)
def _cached(annotation: Any, root: str, max_bytes: int) -> ValueCodec[Any]:
    return ValueCodec(annotation, root=root, max_bytes=max_bytes)


def result_codec(function: Callable[..., Any], *, max_bytes: int = VALUE_BYTES_MAX) -> ValueCodec[Any]:
    """The codec of what a function returns; plain JSON where it does not say.

    Raises:
        Unencodable: The annotations of the function cannot be resolved.
    """
    try:
        annotation = function_hints(function).get("return", Any)
    except Refusal as refusal:
        raise unsupported(refusal, "result") from None
    return codec_for(annotation, root="result", max_bytes=max_bytes)


# --- reading --------------------------------------------------------------------------------------------------------------


def reader(node: Node) -> Callable[[Any], Any]:
    """From JSON bytes to a value of this type."""
    if node.endless:
        return lambda data: node.unpack(parse(data))
    if node.native is not None:
        return cast(Callable[[Any], Any], msgspec.json.Decoder(node.native).decode)
    unpack = node.unpack
    return lambda data: unpack(_DECODE(data))


def parse(data: Any) -> Any:
    """JSON bytes to wire form; refuses what nests deeper than any value may."""
    wire: Any = _DECODE(data)
    # Each level takes two bytes, so what is short is not deep.
    if len(data) > 2 * _WIRE_DEPTH_MAX and _openings(bytes(data)) > _WIRE_DEPTH_MAX and _is_deeper(wire, _WIRE_DEPTH_MAX):
        raise Refusal(f"nested deeper than {DEPTH_MAX} levels")
    return wire


def _openings(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def _is_deeper(wire: Any, levels: int) -> bool:
    level: list[Any] = [wire]
    for _ in range(levels + 1):
        level = [part for whole in level for part in _parts(whole) if type(part) in (list, dict)]
        if not level:
            return False
    return True


def _parts(whole: Any) -> Any:
    if type(whole) is dict:
        return whole.values()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return whole if type(whole) is list else ()  # pyright: ignore[reportUnknownVariableType]


# --- what the user is told ------------------------------------------------------------------------------------------------


def unencodable(refusal: Refusal, root: str) -> Unencodable:
    path = refusal.path(root)
    return Unencodable(
        f"{path}: {refusal.reason}.\nNothing was stored. Pass a value of the declared type, or change the annotation.",
        path=path,
    )


def unsupported(refusal: Refusal, root: str) -> Unencodable:
    path = refusal.path(root)
    return Unencodable(
        f"{path}: its declared type cannot be stored: {refusal.reason}.\n"
        "Nothing was stored. Change the annotation to types that everstep can read back exactly.",
        path=path,
    )


def too_large(root: str, size: int, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{root}: at least {size:,} bytes encoded, the limit is {limit:,}.\n"
        "Nothing was stored. Keep the data elsewhere and pass its id, or pass it in several parts.",
        size=size,
        limit=limit,
    )


def undecodable(refusal: Refusal, root: str, type_name: str) -> Undecodable:
    path = refusal.path(root)
    cls = UnknownType if isinstance(refusal, _UnknownTag) else Undecodable
    return cls(
        f"{path}: the stored data does not fit {type_name}: {refusal.reason}.\n"
        "No value was made of it and the data is unchanged. Deploy the types that wrote it, or let them accept it.",
        type_name=type_name,
        path=path,
    )
