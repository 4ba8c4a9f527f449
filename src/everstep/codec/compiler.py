"""
From an annotation to a compiled ``Node``: the table of what can be stored.

A type that is not in it is refused here, with what to do instead. There is no registry and no fallback: what a value becomes
follows from the annotation in the running program alone, so stored data can never choose a class.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final, Literal, Union, get_args, get_origin

from everstep.codec.containers import PLAIN, dict_node, fixed_tuple_node, list_node, set_node, tuple_node
from everstep.codec.hints import alias_value, unwrap
from everstep.codec.node import Node, Refusal, class_name
from everstep.codec.records import finish_record, finish_typed_dict, shape_of
from everstep.codec.scalars import LEAVES, STR
from everstep.codec.secrets import secret_node
from everstep.codec.tables import enum_node, literal_node
from everstep.codec.unions import union_node
from everstep.secret import Secret

_UNDECLARED: Final = (Any, object, inspect.Parameter.empty)

# As values, so that type checkers let them be parametrised with a variable.
_LIST: Any = list
_TUPLE: Any = tuple
_SET: Any = set
_FROZENSET: Any = frozenset

# Which concrete containers a value of an abstract type may be. The first is written as natural JSON, the others with a tag.
_ABSTRACT: Final[dict[Any, Callable[[Any], Any]]] = {
    collections.abc.Sequence: lambda t: Union[_LIST[t], _TUPLE[t, ...]],  # noqa: UP007 - of values
    collections.abc.Collection: lambda t: Union[_LIST[t], _TUPLE[t, ...], _SET[t], _FROZENSET[t]],  # noqa: UP007 - of values
    collections.abc.Iterable: lambda t: Union[_LIST[t], _TUPLE[t, ...], _SET[t], _FROZENSET[t]],  # noqa: UP007 - of values
    collections.abc.MutableSequence: lambda t: _LIST[t],
    collections.abc.Set: lambda t: Union[_SET[t], _FROZENSET[t]],  # noqa: UP007 - of values
    collections.abc.MutableSet: lambda t: _SET[t],
}
_MAPPINGS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def compile_type(annotation: Any) -> Node:
    """Compile one annotation.

    Raises:
        Refusal: The type, or a part of it, cannot be stored.
    """
    return _Compiler().compile(annotation)


class _Compiler:
    """One compilation. Remembers the named types it has met, which is what makes recursive ones finite."""

    def __init__(self) -> None:
        self._named: dict[Any, Node] = {}
        self._open: set[int] = set()

    def compile(self, annotation: Any) -> Node:
        annotation = unwrap(annotation)
        if annotation in _UNDECLARED:
            return PLAIN
        is_alias, target = alias_value(annotation)
        if is_alias:
            return self._named_type(annotation, lambda node: self._finish_alias(node, target))
        if isinstance(annotation, (str, typing.ForwardRef)):
            raise Refusal(f"the annotation {annotation!r} is an unresolved name; give the type itself")
        return self._constructed(annotation, get_origin(annotation), get_args(annotation))

    def _constructed(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Node:
        if origin in (Union, types.UnionType):
            return self._union(annotation)
        if origin is Literal:
            return self._literal(args)
        if annotation is typing.LiteralString:
            return STR
        cls = type(None) if annotation is None else origin or annotation
        if cls in _ABSTRACT:
            return self.compile(_ABSTRACT[cls](args[0] if args else Any))
        if cls in _MAPPINGS:
            return self._mapping(args)
        if not isinstance(cls, type):
            raise Refusal(f"{annotation!r} is no type whose values can be stored")
        return self._class(annotation, cls, args)

    def _class(self, annotation: Any, cls: type, args: tuple[Any, ...]) -> Node:
        if cls in LEAVES:
            return LEAVES[cls]
        if cls is list:
            return list_node(self.compile(args[0] if args else Any))
        if cls is tuple:
            return self._tuple(annotation, args)
        if cls is set or cls is frozenset:
            return set_node(cls, self.compile(args[0] if args else Any))
        if cls is Secret:
            return secret_node(self.compile(args[0] if args else Any))
        if issubclass(cls, enum.Enum):
            return enum_node(cls)
        return self._named_type(annotation, lambda node: self._finish_class(node, annotation))

    # --- parts ------------------------------------------------------------------------------------------------------------

    def _tuple(self, annotation: Any, args: tuple[Any, ...]) -> Node:
        if not args and annotation in (tuple, typing.Tuple):  # noqa: UP006 - the bare alias is what some authors write
            return tuple_node(PLAIN)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple_node(self.compile(args[0]))
        return fixed_tuple_node(tuple(self.compile(arg) for arg in args))

    def _mapping(self, args: tuple[Any, ...]) -> Node:
        if not args:
            return dict_node(STR, PLAIN)
        key = self.compile(args[0])
        return dict_node(STR if key is PLAIN else key, self.compile(args[1]))

    def _literal(self, values: tuple[Any, ...]) -> Node:
        name = f"Literal[{', '.join(repr(v) if not isinstance(v, enum.Enum) else str(v) for v in values)}]"
        return literal_node(name, [(value, self.compile(type(value)).pack(value, 0, [1 << 20])) for value in values])

    def _union(self, annotation: Any) -> Node:
        hints = _flattened(annotation)
        if any(hint in _UNDECLARED for hint in hints):
            return PLAIN
        members = [self.compile(hint) for hint in hints]
        plain = {member.name for member in members}
        # Literal["a"] | str says no more than str.
        kept = [m for m in members if not (m.name.startswith("Literal[") and {cls.__name__ for cls in m.classes} <= plain)]
        return kept[0] if len(kept) == 1 else union_node(kept)

    # --- types with a name, which may be recursive ------------------------------------------------------------------------

    def _named_type(self, annotation: Any, finish: Callable[[Node], None]) -> Node:
        found = self._named.get(annotation)
        if found is not None:
            found.endless = found.endless or id(found) in self._open
            return found
        node = self._named[annotation] = Node(_short_name(annotation), full_name=_full_name(annotation))
        self._open.add(id(node))
        finish(node)
        self._open.discard(id(node))
        return node

    def _finish_alias(self, node: Node, target: Any) -> None:
        compiled = self.compile(target)
        node.kinds, node.classes = compiled.kinds, compiled.classes
        node.pack, node.unpack = compiled.pack, compiled.unpack
        node.endless = node.endless or compiled.endless
        node.native = None if node.endless and compiled is not PLAIN else compiled.native

    def _finish_class(self, node: Node, annotation: Any) -> None:
        cls: Any = get_origin(annotation) or annotation
        if typing.is_typeddict(cls) or _is_extension_typed_dict(cls):
            node.kinds, node.classes = frozenset({"object"}), frozenset({dict})
            finish_typed_dict(node, annotation, self.compile)
            return
        # Known before the fields are: a union among them may ask.
        node.classes = frozenset({cls})
        node.kinds = frozenset({_record_kind(cls)})
        shape = shape_of(annotation, self.compile)
        if shape is None:
            raise Refusal(
                f"values of {class_name(cls)} cannot be stored: its structure is not known. "
                "Pass an id or plain data instead, or make it a dataclass, msgspec.Struct, attrs class or pydantic model"
            )
        node.endless = node.endless or any(field.node.endless for field in shape.fields)
        finish_record(node, shape)


def _flattened(annotation: Any) -> list[Any]:
    """The members of a union, through aliases of unions, in the order written."""
    annotation = unwrap(annotation)
    is_alias, target = alias_value(annotation)
    if is_alias and get_origin(unwrap(target)) in (Union, types.UnionType):
        return _flattened(target)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in _ABSTRACT or annotation in _ABSTRACT:
        annotation = _ABSTRACT[origin or annotation](args[0] if args else Any)
        origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [member for arg in args for member in _flattened(arg)]
    return [annotation]


def _record_kind(cls: Any) -> str:
    config = getattr(cls, "__struct_config__", None)
    tag = getattr(config, "tag", None)
    return "object" if tag is None else f"object:{getattr(config, 'tag_field', None)}={tag!r}"


def _is_extension_typed_dict(cls: Any) -> bool:
    return dict in cls.__mro__ and hasattr(cls, "__required_keys__") and hasattr(cls, "__total__")


def _short_name(annotation: Any) -> str:
    return _named(annotation, lambda cls: getattr(cls, "__name__", repr(cls)))


def _full_name(annotation: Any) -> str:
    return _named(annotation, lambda cls: f"{cls.__module__}.{getattr(cls, '__qualname__', cls.__name__)}")


def _named(annotation: Any, name: Callable[[Any], str]) -> str:
    args = get_args(annotation)
    base = name(get_origin(annotation) or annotation)
    inside = ", ".join(name(arg) if isinstance(arg, type) and not get_args(arg) else repr(arg) for arg in args)
    return f"{base}[{inside}]" if args else base
