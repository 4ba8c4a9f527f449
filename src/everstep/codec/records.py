"""
Records: dataclasses, attrs classes, msgspec Structs, pydantic models, named tuples and TypedDicts, all as JSON objects.

Three rules hold for every kind.

**Nothing is invented.** A field that is missing in the data takes the default that its class declares; without one, reading
fails. A key that the class does not know fails too: it is a field that was removed, and dropping it would lose what was
written. (A rolling upgrade therefore adds fields with defaults first, and removes them once no run holds them.)

**Nothing is lost.** The class must be exactly the declared one, and an instance may not carry attributes beside its fields.

**Constructors are not trusted to be neutral.** Fields are set directly where the kind allows it. A class with a hook that may
change values (``__post_init__``, attrs converters, pydantic's ``model_post_init``) is rebuilt once when it is encoded, and
refused if the copy differs.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, cast, get_origin

import msgspec

from everstep.codec.hints import class_hints, is_required
from everstep.codec.node import Node, Refusal, class_name, class_of, enter, expected

Compile = Callable[[Any], Node]
Build = Callable[[dict[str, Any]], Any]
Read = Callable[[Any], Mapping[str, Any]]

_REQUIRED: Final = object()
# Modes of packing inside a hooked record: as it is stored; and with the names of all attributes, to compare two instances.
_NESTED: Final = 0
_COMPARING: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field: its attribute, its key in JSON, its type, and how its default is made (None: it has none)."""

    name: str
    key: str
    node: Node
    default: Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What distinguishes one kind of record from another.

    Attributes:
        build: Makes an instance from all its fields by name.
        extra: Attributes of an instance that ``build`` would not restore.
        hooked: Whether building may change values, so that it has to be tried when encoding.
        tag: A key and value that every instance carries in JSON (msgspec's tagged Structs).
    """

    cls: type
    fields: tuple[Field, ...]
    build: Build
    extra: Callable[[Any], set[str]] | None = None
    hooked: bool = False
    tag: tuple[str, Any] | None = None


def shape_of(annotation: Any, compile_hint: Compile) -> Shape | None:
    """The shape of a record class, or None if it is no record."""
    cls: Any = get_origin(annotation) or annotation
    for recognise, describe in _KINDS:
        if recognise(cls):
            return describe(annotation, cls, compile_hint)
    return None


# --- from values to wire and back -----------------------------------------------------------------------------------------


def finish_record(node: Node, shape: Shape) -> None:
    """Give ``node`` the functions of this shape. The node exists before, so that a recursive class can refer to itself."""
    read = _reader(shape)
    write = _writer(node, shape)
    node.pack = _rebuilt_once(node.name, write, read) if shape.hooked else write
    node.unpack = read


def _writer(node: Node, shape: Shape) -> Callable[[Any, int, list[int]], dict[str, Any]]:
    cls, name, extra = shape.cls, node.name, shape.extra
    table = tuple((field.name, field.key, field.node.pack) for field in shape.fields)
    size = len(table)
    head = dict([shape.tag]) if shape.tag else {}

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        if type(value) is not cls:
            raise expected(name, value)
        enter(depth, left, size)
        if extra is not None and (beside := extra(value)):
            raise Refusal(
                f"{name} carries {_listed(beside)} beside its declared fields, which would be lost; declare it as a field"
            )
        wire = head.copy()
        depth += 1
        field = ""
        try:
            for field, key, pack_field in table:
                wire[key] = pack_field(getattr(value, field), depth, left)
        except Refusal as refusal:
            raise refusal.under(f".{field}") from None
        except AttributeError as error:
            if error.obj is value and error.name == field:
                raise Refusal("the field has no value").under(f".{field}") from None
            raise
        return wire

    return pack


def _reader(shape: Shape) -> Callable[[Any], Any]:
    cls, build, tag = shape.cls, shape.build, shape.tag
    table = tuple((field.name, field.key, field.node.unpack, field.default) for field in shape.fields)
    size = len(table) + (1 if tag else 0)
    keys = frozenset(field.key for field in shape.fields) | frozenset([tag[0]] if tag else ())

    def unpack(wire: Any) -> Any:
        if type(wire) is not dict:
            raise expected(f"object for {class_name(cls)}", wire)
        if tag and wire.get(tag[0]) != tag[1]:  # pyright: ignore[reportUnknownMemberType]
            raise Refusal(f"not tagged {tag[0]}={tag[1]!r}")
        values: dict[str, Any] = {}
        name = ""
        missing = 0
        try:
            for name, key, unpack_field, default in table:
                if key in wire:
                    values[name] = unpack_field(wire[key])
                elif default is not None:
                    missing += 1
                    values[name] = _made(default, cls)
                else:
                    raise Refusal(
                        f"{class_name(cls)} has this required field, the data has not; give it a default to read older data"
                    )
        except Refusal as refusal:
            raise refusal.under(f".{name}") from None
        if len(wire) + missing != size:  # pyright: ignore[reportUnknownArgumentType]
            unknown = _listed(set(wire) - keys)  # pyright: ignore[reportUnknownArgumentType]
            raise Refusal(
                f"the data has {unknown}, which {class_name(cls)} does not declare; keep the field to read older data"
            )
        return _built(build, values, cls)

    return unpack


def _made(default: Callable[[], Any], cls: type) -> Any:
    try:
        return default()
    except Exception as error:
        raise Refusal(f"the default that {class_name(cls)} declares cannot be made: {type(error).__name__}") from error


def _built(build: Build, values: dict[str, Any], cls: type) -> Any:
    try:
        return build(values)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"{class_name(cls)} does not accept these values: {type(error).__name__} in its own code") from error


def _rebuilt_once(
    name: str, write: Callable[[Any, int, list[int]], dict[str, Any]], read: Callable[[Any], Any]
) -> Callable[[Any, int, list[int]], dict[str, Any]]:
    """Encode, rebuild and compare: once for a whole tree of hooked records, at its outermost one, or it would take 2^depth."""

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        if len(left) == 1:
            return tried(value, depth, left)
        wire = write(value, depth, left)
        return {**wire, "": sorted(_attributes(value))} if left[1] == _COMPARING else wire

    def tried(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        allowance = left[0]
        inner = [allowance, _NESTED]
        wire = write(value, depth, inner)
        copy = read(msgspec.json.decode(msgspec.json.encode(wire)))
        before, after = (msgspec.json.encode(pack(it, depth, [allowance, _COMPARING])) for it in (value, copy))
        if before != after:
            raise Refusal(
                f"{name} does not come back as it was: its own code (__post_init__, converter) changes it when rebuilt"
            )
        left[0] = inner[0]
        return wire

    return pack


def _attributes(value: Any) -> set[str]:
    """What an instance has beside its fields, for comparison: attribute names, and pydantic's private attributes."""
    names: set[str] = set(getattr(value, "__dict__", ()))
    private: Mapping[str, Any] = getattr(value, "__pydantic_private__", None) or {}
    return (names - _cached_names(cast(Hashable, class_of(value)))) | {f"{name}={it!a}" for name, it in private.items()}


@functools.lru_cache(maxsize=1024)
def _cached_names(cls: Hashable) -> frozenset[str]:
    return frozenset(
        name
        for base in cast(type, cls).__mro__
        for name, member in vars(base).items()
        if isinstance(member, functools.cached_property)
    )


def _beside(cls: type, fields: tuple[Field, ...]) -> Callable[[Any], set[str]] | None:
    if not getattr(cls, "__dictoffset__", 0):
        return None
    names = frozenset(field.name for field in fields) | _cached_names(cls)
    size = len(fields)

    def extra(value: Any) -> set[str]:
        own = value.__dict__
        return set(own) - names if len(own) != size or not own.keys() <= names else set()

    return extra


def _listed(names: set[Any]) -> str:
    shown = sorted(ascii(str(name)[:60]) for name in names)
    return ", ".join(shown[:5]) + (" and more" if len(shown) > 5 else "")


# --- the kinds ------------------------------------------------------------------------------------------------------------


def _dataclass_shape(annotation: Any, cls: Any, compile_hint: Compile) -> Shape:
    if cls.__new__ is not object.__new__:
        raise Refusal(f"{class_name(cls)} has a __new__ of its own, so it cannot be rebuilt from its fields")
    if _has_init_vars(cls):
        raise Refusal(f"{class_name(cls)} has an InitVar, whose value is not kept, so it cannot be rebuilt; use a plain field")
    hints = class_hints(annotation)
    fields = tuple(
        Field(field.name, field.name, compile_hint(hints[field.name]), _dataclass_default(field))
        for field in dataclasses.fields(cls)
    )
    hook = getattr(cls, "__post_init__", None)
    extra = None if hook else _beside(cls, fields)
    return Shape(cls, fields, _object_builder(cls, hook), extra, hooked=hook is not None)


def _has_init_vars(cls: Any) -> bool:
    pseudo: Mapping[str, Any] = cls.__dataclass_fields__
    return any(field._field_type.name == "_FIELD_INITVAR" for field in pseudo.values())


def _dataclass_default(field: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return _constant(field.default, dataclasses.MISSING)


def _constant(value: Any, absent: object) -> Callable[[], Any] | None:
    return None if value is absent else lambda: value


def _object_builder(cls: type, hook: Callable[[Any], None] | None) -> Build:
    set_field = object.__setattr__
    new = cast(Callable[[type], Any], object.__new__)

    def build(values: dict[str, Any]) -> Any:
        built: Any = new(cls)
        for name, value in values.items():
            set_field(built, name, value)
        if hook is not None:
            hook(built)
        return built

    return build


def _struct_shape(annotation: Any, cls: Any, compile_hint: Compile) -> Shape:
    hints = class_hints(annotation)
    fields = tuple(
        Field(info.name, info.encode_name, compile_hint(hints[info.name]), _struct_default(info))
        for info in msgspec.structs.fields(cls)
    )
    config = cls.__struct_config__
    tag = None if config.tag is None else (config.tag_field, config.tag)
    return Shape(cls, fields, _keyword_builder(cls), _beside(cls, fields), hasattr(cls, "__post_init__"), tag)


def _struct_default(info: msgspec.structs.FieldInfo) -> Callable[[], Any] | None:
    if info.default_factory is not msgspec.NODEFAULT:
        return cast(Callable[[], Any], info.default_factory)
    return _constant(info.default, msgspec.NODEFAULT)


def _keyword_builder(cls: Any) -> Build:
    return lambda values: cls(**values)


def _attrs_shape(annotation: Any, cls: Any, compile_hint: Compile) -> Shape:
    hints = class_hints(annotation)
    attributes: tuple[Any, ...] = cls.__attrs_attrs__
    fields = tuple(Field(a.name, a.name, compile_hint(hints.get(a.name, Any)), _attrs_default(a)) for a in attributes)
    # __attrs_init__ means that the class has an __init__ of its own.
    hooks = ("__attrs_post_init__", "__attrs_pre_init__", "__attrs_init__")
    hooked = any(hasattr(cls, hook) for hook in hooks) or "__attrs_attrs__" not in vars(cls)
    hooked = hooked or any(a.converter is not None or not a.init for a in attributes)
    return Shape(cls, fields, _attrs_builder(cls, attributes), None if hooked else _beside(cls, fields), hooked)


def _attrs_default(attribute: Any) -> Callable[[], Any] | None:
    # attrs marks an absent default with NOTHING, and a factory with a Factory object; both belong to a module we do not import.
    default: Any = attribute.default
    factory: Callable[[], Any] | None = getattr(default, "factory", None)
    if type(default).__name__ == "Factory":
        return None if default.takes_self else factory
    return None if repr(default) == "NOTHING" else lambda: default


def _attrs_builder(cls: Any, attributes: tuple[Any, ...]) -> Build:
    given = tuple((a.name, a.alias) for a in attributes if a.init)
    later = tuple(a.name for a in attributes if not a.init)

    def build(values: dict[str, Any]) -> Any:
        built = cls(**{alias: values[name] for name, alias in given})
        for name in later:
            object.__setattr__(built, name, values[name])
        return built

    return build


def _pydantic_shape(annotation: Any, cls: Any, compile_hint: Compile) -> Shape:
    infos: Mapping[str, Any] = cls.model_fields
    fields = tuple(Field(name, name, compile_hint(info.annotation), _pydantic_default(info)) for name, info in infos.items())
    hooked = bool(cls.__private_attributes__) or cls.__pydantic_post_init__ is not None
    return Shape(cls, fields, _pydantic_builder(cls), _pydantic_extra(cls, fields), hooked)


def _pydantic_default(info: Any) -> Callable[[], Any] | None:
    if info.is_required() or getattr(info, "default_factory_takes_validated_data", False):
        return None
    return lambda: info.get_default(call_default_factory=True)


def _pydantic_builder(cls: Any) -> Build:
    # Fields were validated by their own types; ``model_construct`` keeps them as they are, where validation might convert. It
    # also looks for aliases, so a model that has any is given its state the way ``copy`` gives it.
    if not any(info.alias or info.validation_alias for info in cls.model_fields.values()):
        return lambda values: cls.model_construct(**values)

    def build(values: dict[str, Any]) -> Any:
        built = cls.model_construct()
        built.__dict__.update(values)
        object.__setattr__(built, "__pydantic_fields_set__", set(values))
        return built

    return build


def _pydantic_extra(cls: Any, fields: tuple[Field, ...]) -> Callable[[Any], set[str]]:
    beside = _beside(cls, fields)

    def extra(value: Any) -> set[str]:
        return set(value.__pydantic_extra__ or ()) | (beside(value) if beside else set())

    return extra


def _named_tuple_shape(annotation: Any, cls: Any, compile_hint: Compile) -> Shape:
    hints = class_hints(annotation)
    defaults: Mapping[str, Any] = cls._field_defaults
    names: tuple[str, ...] = cls._fields
    fields = tuple(
        Field(name, name, compile_hint(hints.get(name, Any)), _constant(defaults.get(name, _REQUIRED), _REQUIRED))
        for name in names
    )
    return Shape(cls, fields, lambda values: cls._make(values[name] for name in names), _beside(cls, ()))


def _is_pydantic(cls: Any) -> bool:
    # A class can only be a pydantic model if the program has imported pydantic; then it is in sys.modules and costs nothing.
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


_KINDS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any, Any, Compile], Shape]], ...]] = (
    (lambda cls: issubclass(cls, msgspec.Struct), _struct_shape),
    (_is_pydantic, _pydantic_shape),
    (lambda cls: hasattr(cls, "__attrs_attrs__"), _attrs_shape),
    (lambda cls: hasattr(cls, "__dataclass_fields__"), _dataclass_shape),
    (lambda cls: tuple in cls.__mro__ and hasattr(cls, "_fields"), _named_tuple_shape),
)


# --- TypedDict: a record whose values are plain dicts ---------------------------------------------------------------------


def finish_typed_dict(node: Node, annotation: Any, compile_hint: Compile) -> None:
    """Give ``node`` the functions of a TypedDict. Absent optional keys stay absent."""
    cls: Any = get_origin(annotation) or annotation
    hints = class_hints(annotation)
    required = frozenset(name for name, hint in hints.items() if is_required(hint, name in cls.__required_keys__))
    nodes = {name: compile_hint(hint) for name, hint in hints.items()}
    packs = {name: field.pack for name, field in nodes.items()}
    unpacks = {name: field.unpack for name, field in nodes.items()}
    node.endless = any(field.endless for field in nodes.values())

    def check(value: dict[Any, Any]) -> None:
        if not value.keys() <= nodes.keys():
            raise Refusal(f"{_listed(set(value) - nodes.keys())} is no key of {node.name}")
        if not required <= value.keys():
            raise Refusal(f"{_listed(set(required - value.keys()))} is missing, which {node.name} requires")

    def pack(value: Any, depth: int, left: list[int]) -> dict[str, Any]:
        if type(value) is not dict:
            raise expected(node.name, value)
        check(value)  # pyright: ignore[reportUnknownArgumentType]
        enter(depth, left, len(value))  # pyright: ignore[reportUnknownArgumentType]
        return _each(value, lambda key, element: packs[key](element, depth + 1, left))  # pyright: ignore[reportUnknownArgumentType]

    def unpack(wire: Any) -> dict[str, Any]:
        if type(wire) is not dict:
            raise expected("object", wire)
        check(wire)  # pyright: ignore[reportUnknownArgumentType]
        return _each(wire, lambda key, element: unpacks[key](element))  # pyright: ignore[reportUnknownArgumentType]

    node.pack, node.unpack = pack, unpack


def _each(pairs: dict[str, Any], convert: Callable[[str, Any], Any]) -> dict[str, Any]:
    done: dict[str, Any] = {}
    key = ""
    try:
        for key, element in pairs.items():
            done[key] = convert(key, element)
    except Refusal as refusal:
        raise refusal.under(f"[{key!r}]") from None
    return done
