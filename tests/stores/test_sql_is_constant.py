"""No value is ever formatted into a statement: every one is a constant of its module, and values are bound."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import everstep.stores

STORES = Path(everstep.stores.__file__).parent
VERBS = {"sqlite": {"execute", "executemany", "ask"}, "postgres": {"execute", "fetch", "one", "put_lines"}}
GIVEN = {"statement", "step", "begin"}
"""Names that are themselves given constants, in read.py, schema.py and pool.py."""


def statements_of(tree: ast.Module, verbs: set[str]) -> Iterator[ast.expr]:
    """First argument of every call that runs a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in verbs:
                yield node.args[0]


def is_constant(statement: ast.expr, tree: ast.Module) -> bool:
    """A literal, or a name in capitals that the module assigns at its top, or a step of the migrations."""
    constants = {
        target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if isinstance(target, ast.Name) and target.id.isupper()
    }
    match statement:
        case ast.Constant(value=str()):
            return True
        case ast.Name(id=name):
            return name in constants or name in GIVEN
        case ast.Subscript(value=ast.Name(id=name)):
            return name in constants  # Of a table of constants.
        case ast.Subscript(value=ast.Attribute(attr="_names"), slice=ast.Name(id="statement")):
            return True  # For the schema of this store, whose name is checked where the URL is read.
        case _:
            return False


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_every_statement_is_a_constant(store: str) -> None:
    """J2, S11."""
    found = 0
    for source in sorted((STORES / store).glob("*.py")):
        tree = ast.parse(source.read_text())
        for statement in statements_of(tree, VERBS[store]):
            found += 1
            assert is_constant(statement, tree), f"{source.name}:{statement.lineno}: {ast.unparse(statement)}"

    assert found > 40
