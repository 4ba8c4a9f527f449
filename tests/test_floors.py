"""
The floors of everstep: a module imports only from floors below its own.

Parts on one floor do not know each other; the modules of one part may. Imports for type checkers count like any other: to
name a type is to know it. ``everstep/__init__.py`` is the roof; nothing inside imports it.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "everstep"
# Lowest first. One line is one floor, one string is one part: modules or packages that belong together.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors events commands records limits retry ids blobs journal journal_file ambient secret",),  # values only
    ("codec", "payloads", "telemetry", "queues"),
    ("definitions transactions", "inside", "talk", "asking", "many", "patches", "milestones"),
    ("generations pipelines", "children"),
    ("core", "stores", "undo", "databases"),
    ("forks",),
    ("client repair", "engine"),
    ("cli", "lint", "testing", "sync", "config"),
    ("__main__",),
)
# Known exceptions: (who, whom, why).
EXCEPTIONS: tuple[tuple[str, str, str], ...] = (
    ("engine", "client", "an engine offers the client's surface, and answers faster because it sees its own runs end"),
    (
        "testing",
        "lint",
        "a strict Env refuses at run time what `everstep check` finds in the text, by the same rules and words",
    ),
    ("cli", "lint", "`everstep check` prints what the lint finds; the lint itself knows nothing of everstep"),
)

FLOOR = {name: number for number, floor in enumerate(FLOORS) for part in floor for name in part.split()}
PART = {name: part for floor in FLOORS for part in floor for name in part.split()}


def test_a_module_imports_only_from_floors_below() -> None:
    """Otherwise the core could begin to wait, and values to know who stores them."""
    sources = {path.relative_to(PACKAGE): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

    assert sources
    assert [] == list(violations(sources))


def test_an_import_from_above_beside_or_nowhere_is_noticed() -> None:
    """A check that sees nothing would pass for ever: here is one of each kind."""
    planted = {
        Path("core/loop.py"): "def late():\n    from ..engine.worker import Worker",
        Path("stores/base.py"): "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import everstep.core.loop",
        Path("retry.py"): "import everstep as es",
        Path("misc.py"): "",
        Path("engine/__init__.py"): "from . import worker\nfrom everstep import client, errors",
        Path("engine/worker.py"): "from everstep.cli import main",
        Path("__init__.py"): "from everstep.cli import main",
    }

    found = [line.partition(":")[0] for line in violations(planted)]

    assert ["core/loop.py", "stores/base.py", "retry.py", "misc.py", "engine/worker.py"] == found


def violations(sources: Mapping[Path, str]) -> Iterator[str]:
    """Say which imports go where they must not, by the path of each module within the package."""
    for path, source in sources.items():
        who = path.parts[0].removesuffix(".py")
        if who == "__init__":
            continue
        if who not in FLOOR:
            yield f"{path.as_posix()}: {who} stands on no floor yet. Put it on one in {Path(__file__).name}."
            continue
        allowed = {whom for importer, whom, _ in EXCEPTIONS if importer == who}
        for line, whom in imported(ast.parse(source), path):
            below = FLOOR.get(whom, len(FLOORS)) < FLOOR[who]
            if not below and PART.get(whom) != PART[who] and whom not in allowed:
                yield f"{path.as_posix()}:{line} imports {whom}, which does not lie below {who}"


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """The part of everstep that each import names, with its line. The package itself is called ``everstep``."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=0):
                modules = [f"{module}.{alias.name}" for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ["everstep", *path.parts[:-1]][: len(path.parts) - level + 1]
                modules = [".".join([*base, *([module] if module else []), alias.name]) for alias in names]
            case _:
                continue
        for name in modules:
            package, _, rest = name.partition(".")
            if package == "everstep":
                yield node.lineno, rest.partition(".")[0] or package
