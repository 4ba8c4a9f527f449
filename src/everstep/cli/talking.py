"""
What ``signal`` and ``ask`` share: the value, as JSON, and its declared type if the code that declares it is at hand.

Without the code nobody here knows the type. A signal of the wrong type then fails the run that takes it; a request is refused
by the run itself. So whoever has the code should name it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from everstep.asking import Request
from everstep.cli.arguments import parse_value
from everstep.cli.targets import load
from everstep.codec import Undecodable, ValueCodec
from everstep.errors import UsageError
from everstep.talk import Signal

F = TypeVar("F", bound="Callable[..., Any]")


def code_option(function: F) -> F:
    """``--code``: where the types are declared."""
    return click.option(
        "--code", metavar="MODULE", help="Module that defines it: the value is then checked against its type before it is sent."
    )(function)


def key_option(function: F) -> F:
    """``--key``: what makes sending safe to repeat."""
    return click.option("--key", default="", metavar="KEY", help="A second one with the same key is the same one.")(function)


def value_of(text: str, kind: type[Signal[Any] | Request[Any, Any]], name: str, code: str | None) -> bytes:
    """The value as JSON.

    Raises:
        UsageError: It is no JSON, does not fit the declared type, or the code declares no such thing.
    """
    parse_value(text)
    try:
        msgspec.json.decode(text)
    except msgspec.MsgspecError as error:
        raise UsageError(f"the value cannot be read: {error}. Nothing was sent. Correct the JSON.") from error
    if code is None:
        return text.encode()
    codec = _codec_of(_declared(kind, name, code))
    try:
        return codec.encode(codec.decode(text.encode()))
    except Undecodable as error:
        raise UsageError(f"{str(error).partition(chr(10))[0].rstrip('.')}. Nothing was sent. Correct the value.") from error


def _codec_of(found: Signal[Any] | Request[Any, Any]) -> ValueCodec[Any]:
    return found.codec if isinstance(found, Signal) else found.ask_codec


def _declared(kind: type[Signal[Any] | Request[Any, Any]], name: str, code: str) -> Signal[Any] | Request[Any, Any]:
    module: Any = load(code.partition(":")[0])
    names: dict[str, Any] = module.__dict__
    found: dict[str, Any] = {each.name: each for each in names.values() if isinstance(each, kind)}
    if name in found:
        return found[name]  # type: ignore[no-any-return]  # it is of that kind
    what = kind.__name__.lower()
    has = f"It has: {', '.join(sorted(found))}." if found else f"It has none: define it there with es.{what}(…)."
    raise UsageError(f"{module.__name__} has no {what} {ascii(name[:60])[1:-1]}. Nothing was sent. {has}")
