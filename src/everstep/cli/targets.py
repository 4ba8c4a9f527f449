"""
``module:attribute``: find what a person named on the command line.

The current directory comes first on the path, as with ``python script.py``: that is where people stand when they type this.
What the module itself raises while it is imported is its author's, and is told in one line with its place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from everstep.client import Client
from everstep.definitions import Step, Workflow
from everstep.errors import UsageError


def load(target: str) -> Any:
    """The object that ``module`` or ``module:attribute`` names.

    Raises:
        UsageError: There is no such module or attribute, or importing it failed.
    """
    module_name, _, attribute = target.partition(":")
    module = _import(module_name.removesuffix(".py").replace("/", ".") if module_name.endswith(".py") else module_name)
    found: Any = module
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no {ascii(part[:60])[1:-1]}. Nothing was done. {_offer(module)}")
        found = getattr(found, part)
    return found


def workflow_of(target: str) -> Workflow[..., Any]:
    """The workflow that a target names.

    Raises:
        UsageError: It names something else.
    """
    found = load(target)
    if isinstance(found, Workflow):
        return cast("Workflow[..., Any]", found)
    if isinstance(found, ModuleType):
        workflows = list(workflows_in(found).values())
        if len(workflows) == 1:
            return workflows[0]
        raise UsageError(f"{target} is a module. Nothing was started. {_offer(found)}")
    kind = "a step: write a workflow that awaits it" if isinstance(found, Step) else f"a {type(found).__name__}"
    raise UsageError(f"{target} is {kind}. Nothing was started. Name a function that is decorated with @es.workflow.")


def workflows_of(found: Any, target: str) -> list[Workflow[..., Any]]:
    """The workflows that a loaded target stands for: itself, what it holds, or all of a module.

    Raises:
        UsageError: There is none.
    """
    if isinstance(found, ModuleType):
        workflows = list(workflows_in(found).values())
    else:
        workflows = [_checked(one, target) for one in _each(found, target)]
    if not workflows:
        raise UsageError(f"{target} has no workflows. Nothing was driven. Decorate a function with @es.workflow.")
    return workflows


def workflows_in(module: ModuleType) -> dict[str, Workflow[..., Any]]:
    """Every workflow of a module, each once, by the first name that it has there."""
    names: dict[Workflow[..., Any], str] = {}
    for name, value in vars(module).items():
        if isinstance(value, Workflow):
            names.setdefault(cast("Workflow[..., Any]", value), name)
    return {name: workflow for workflow, name in names.items()}


def _each(found: Any, target: str) -> Iterator[Any]:
    if isinstance(found, Workflow):
        return iter([cast(Any, found)])
    if isinstance(found, Iterable) and not isinstance(found, str | bytes):
        return iter(cast(Any, found))
    raise UsageError(
        f"{target} is a {type(found).__name__}. Nothing was driven. Name an Engine, workflows, or a module that has some."
    )


def _checked(one: Any, target: str) -> Workflow[..., Any]:
    if isinstance(one, Workflow):
        return cast("Workflow[..., Any]", one)
    raise UsageError(f"{target} holds {one!r}, which is no workflow. Nothing was driven. Decorate it with @es.workflow.")


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if not all(part.isidentifier() for part in name.split(".")) or importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(_not_found(name, error)) from error
    except Exception as error:
        raise UsageError(
            f"{name} cannot be imported: {_told(error)}. Nothing was done. Correct it, or try: python -m {name}"
        ) from error
    except SystemExit as error:
        raise UsageError(
            f"{name} ended the program while it was imported. Nothing was done. Put what it runs under: if __name__ == ..."
        ) from error


def _not_found(name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or name
    if missing != name and not name.startswith(f"{missing}."):
        return f"{name} needs the module {ascii(missing)[1:-1]}, which is not installed. Nothing was done. Install it."
    return f"there is no module {name[:80]!a} here or on the path. Nothing was done. Write MODULE:NAME where MODULE.py is."


def _told(error: Exception) -> str:
    """The error in one line, with the place in the user's code where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    text = f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}"
    return f"{text} ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours and not isinstance(error, SyntaxError) else text


def _offer(module: ModuleType) -> str:
    engines = [name for name, value in vars(module).items() if isinstance(value, Client)]
    names = [*workflows_in(module), *engines]
    if not names:
        return f"{module.__name__} has no workflows: decorate a function with @es.workflow."
    return f"It has: {', '.join(f'{module.__name__}:{name}' for name in names[:10])}"
