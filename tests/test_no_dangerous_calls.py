"""
S1: nothing in the package can turn stored bytes into code.

Journals outlive the programs that wrote them, and whoever can write to a store writes what the next worker reads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "everstep"
MODULES = frozenset({"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "joblib", "code"})
CALLS = frozenset({"eval", "exec", "compile", "__import__"})
# (file, name): where a name is imported that the program or a person gives, never one that was stored.
IMPORTS_BY_NAME = {
    ("cli/targets.py", "import_module"),  # what was typed on the command line
    ("cli/group.py", "import_module"),  # a constant table of verbs
    ("testing/crash_child.py", "import_module"),  # the module of the test that starts this process
    ("testing/__init__.py", "import_module"),  # a constant table
    ("payloads/encryption.py", "import_module"),  # constants: the extra is loaded when it is asked for
}
"""Elsewhere nothing is imported by a name that is computed."""


def found(source: str, path: str) -> Iterator[str]:
    """What must not be there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=module):
                modules = [module or ""]
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield f"{path}:{node.lineno} calls {name}"
                continue
            case ast.Call(func=(ast.Name(id="import_module") | ast.Attribute(attr="import_module"))):
                if (path, "import_module") not in IMPORTS_BY_NAME:
                    yield f"{path}:{node.lineno} imports by name"
                continue
            case _:
                continue
        yield from (f"{path}:{node.lineno} imports {name}" for name in modules if name.partition(".")[0] in MODULES)


def test_no_module_can_turn_bytes_into_code() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))

    assert len(paths) > 100
    assert [] == [line for path in paths for line in found(path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix())]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import yaml.loader",
        "eval('1')",
        "exec(data)",
        "compile(a, b, 'exec')",
        "__import__(name)",
        "importlib.import_module(name)",
        "from cloudpickle import *",
    ],
)
def test_each_of_them_is_noticed(source: str) -> None:
    assert 1 == len(list(found(source, "core/x.py")))
