"""No value is ever formatted into a statement: every one is a constant of its module, and values are bound."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import everstep.stores.sqlite

SOURCES = sorted(Path(everstep.stores.sqlite.__file__).parent.glob("*.py"))


def statements_of(tree: ast.Module) -> Iterator[ast.expr]:
    """First argument of every call that runs a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"execute", "executemany", "ask"}:
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
            return name in constants or name in {"statement", "step"}
        case _:
            return False


def test_every_statement_is_a_constant() -> None:
    """J2. ``statement`` and ``step`` are names that are themselves given constants, in read.py and schema.py."""
    found = 0
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        for statement in statements_of(tree):
            found += 1
            assert is_constant(statement, tree), f"{source.name}:{statement.lineno}: {ast.unparse(statement)}"

    assert found > 40
