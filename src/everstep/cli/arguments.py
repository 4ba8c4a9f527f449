"""JSON from the command line to the arguments of a workflow, by name and by declared type. Pure."""

from __future__ import annotations

import inspect
import json
from typing import Any, NoReturn, cast

from everstep.codec import INT_DIGITS_MAX, Undecodable
from everstep.definitions import Call, Workflow
from everstep.errors import UsageError

_BY_NAME = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def call_with(workflow: Workflow[..., Any], text: str) -> Call[Any]:
    """The call that a JSON object describes.

    Raises:
        UsageError: It is no JSON object, or does not fit the workflow; names the field.
    """
    given = _parse(text)
    _refuse_misfits(workflow, given)
    try:
        positional, keyword = workflow.arguments.decode(json.dumps(given).encode())
    except Undecodable as error:
        raise UsageError(f"{_reason(error)}. Nothing was started. {workflow.name} takes {_signature(workflow)}") from error
    return workflow(*positional, **keyword)


def parse_value(text: str, what: str = "the value is", so: str = "Nothing was sent") -> Any:
    """Any JSON value.

    Args:
        text: The JSON.
        what: Subject and verb of the error.
        so: What therefore did not happen.

    Raises:
        UsageError: It is none.
    """
    subject = what.rpartition(" ")[0]
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_int)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{what} no JSON: {error.msg.lower()} at character {error.pos + 1}. {so}. "
            'Write it in single quotes: \'{"order_id": "42"}\''
        ) from error
    except RecursionError as error:
        raise UsageError(f"{what} nested too deep. {so}. Pass flatter values.") from error
    except ValueError as error:
        raise UsageError(f"{subject} cannot be read: {error}. {so}. Correct the JSON.") from error


def _parse(text: str) -> dict[str, Any]:
    given = parse_value(text, "the arguments are", "Nothing was started")
    if not isinstance(given, dict):
        raise UsageError('the arguments are no JSON object. Nothing was started. Give them by name: \'{"order_id": "42"}\'')
    return cast(dict[str, Any], given)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!a} is given twice")
    return found


def _int(digits: str) -> int:
    if len(digits) > INT_DIGITS_MAX:
        raise ValueError(f"a number of {len(digits):,} digits is too long")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _refuse_misfits(workflow: Workflow[..., Any], given: dict[str, Any]) -> None:
    """The codec says this too, but in words for stored data."""
    parameters = inspect.signature(workflow.function).parameters
    takes = f"{workflow.name} takes {_signature(workflow)}"
    unknown = [name for name in given if name not in parameters]
    if unknown:
        raise UsageError(f"there is no argument {unknown[0][:60]!a}. Nothing was started. {takes}")
    missing = [name for name, p in parameters.items() if p.kind in _BY_NAME and p.default is p.empty and name not in given]
    if missing:
        raise UsageError(f"the argument {missing[0]!r} is missing. Nothing was started. {takes}")


def _reason(error: Undecodable) -> str:
    """``order.items[3]: the reason``, without what the codec says of stored data."""
    first = str(error).partition("\n")[0].removesuffix(".")
    before, found, reason = first.partition(f"does not fit {error.type_name}: ")
    return f"argument {error.path}: {reason}" if found and before else f"argument {first}"


def _signature(workflow: Workflow[..., Any]) -> str:
    parameters = inspect.signature(workflow.function).parameters.values()
    return f"({', '.join(str(parameter).replace('typing.', '') for parameter in parameters)})"
