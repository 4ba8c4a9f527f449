"""
Resolve what an author wrote as annotations: forward references, generics and the wrappers that say nothing about the value.

Names are looked up in the namespaces of the function or class that carries the annotation, and nowhere else: annotations are
the author's code, never stored data.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

from everstep.codec.node import Refusal, class_name

_WRAPPERS: Final = frozenset({Annotated, typing.Final, typing.ClassVar, typing.Required, typing.NotRequired})


def function_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, resolved; names of the enclosing function are found where Python kept them."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    local = dict(_filled_cells(getattr(code, "co_freevars", ()), cells))
    return _resolve(function, local, getattr(function, "__qualname__", repr(function)))


def _filled_cells(names: tuple[str, ...], cells: tuple[Any, ...]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, cell in zip(names, cells, strict=False):
        try:
            pairs.append((name, cell.cell_contents))
        except ValueError:  # not assigned yet
            continue
    return pairs


def class_hints(annotation: Any) -> dict[str, Any]:
    """The field annotations of a class or of a parametrised generic (``Box[int]``), type variables replaced."""
    cls: type = get_origin(annotation) or annotation
    hints = _resolve(cls, {cls.__name__: cls}, class_name(cls))
    variables = _variables_by_class(annotation)
    owners = {name: base for base in reversed(cls.__mro__) for name in inspect.get_annotations(base)}
    return {name: substitute(hint, variables.get(owners.get(name, cls), {})) for name, hint in hints.items()}


def _resolve(target: Any, local: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target, localns=local or None, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise Refusal(
            f"the annotations of {name} cannot be resolved ({error}); the names must be importable where it is defined"
        ) from None


def _variables_by_class(annotation: Any) -> dict[type, dict[Any, Any]]:
    """For a class and its generic bases: what each one's type variables stand for."""
    found: dict[type, dict[Any, Any]] = {}
    pending: list[Any] = [annotation]
    while pending:
        current = pending.pop()
        cls: Any = get_origin(current) or current
        if not isinstance(cls, type):  # NamedTuple and TypedDict are functions, and stand among the bases
            continue
        bound = dict(zip(getattr(cls, "__parameters__", ()), get_args(current), strict=False))
        found.setdefault(cls, bound)
        bases = cls.__dict__.get("__orig_bases__", cls.__bases__)
        pending.extend(substitute(base, bound) for base in bases if (get_origin(base) or base) is not typing.Generic)
    return found


def substitute(hint: Any, variables: Mapping[Any, Any]) -> Any:
    """Replace type variables, at any depth."""
    if not variables:
        return hint
    if isinstance(hint, TypeVar):
        return variables.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(variables.get(parameter, parameter) for parameter in parameters)]


def unwrap(annotation: Any) -> Any:
    """Drop what does not change the value: Annotated, Final, Required, NewType and plain type aliases."""
    while True:
        if get_origin(annotation) in _WRAPPERS or _is_named(get_origin(annotation), "ReadOnly"):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, TypeVar):
            annotation = _variable_bound(annotation)
        else:
            return annotation


def is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a TypedDict key must be there. ``__required_keys__`` alone is wrong where annotations were strings."""
    while get_origin(hint) in _WRAPPERS or _is_named(get_origin(hint), "ReadOnly"):
        if get_origin(hint) in (typing.Required, typing.NotRequired):
            return get_origin(hint) is typing.Required
        hint = get_args(hint)[0]
    return otherwise


def alias_value(annotation: Any) -> tuple[bool, Any]:
    """Whether this is a ``type X = …`` alias (3.12+, or typing_extensions), and what it stands for."""
    alias = get_origin(annotation) or annotation
    if not _is_named(type(alias), "TypeAliasType"):
        return False, None
    return True, substitute(alias.__value__, dict(zip(alias.__type_params__, get_args(annotation), strict=False)))


def _variable_bound(variable: TypeVar) -> Any:
    if variable.__constraints__:
        return typing.Union[variable.__constraints__]  # noqa: UP007 - the members are only known now
    return Any if variable.__bound__ is None else variable.__bound__


def _is_named(thing: Any, name: str) -> bool:
    # typing_extensions has its own copies on older Pythons; comparing names avoids importing it.
    return getattr(thing, "__name__", getattr(thing, "_name", None)) == name and thing.__module__ in (
        "typing",
        "typing_extensions",
    )
