"""
Outline packages of Python's standard library: which public functions and classes each of their modules defines.

    python -m examples.outline.job outlines json wsgiref email

One child run for each package, all at once; in each, a few modules at a time (``es.map``). Kill it wherever you like and run it
again: what was outlined is not outlined again, and a package that was finished is not even looked at.

An outline is written to a file beside its place and then moved there, so whoever is killed in between leaves no half file, and
writing it twice makes no difference.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import everstep as es

MODULES_AT_ONCE = 4
_BEGINNINGS = ("def ", "class ", "async def ")


@dataclass(frozen=True)
class Outline:
    """What one module came to: its name, and how much it defines."""

    module: str
    names: int


@dataclass(frozen=True)
class Package:
    """What one package came to."""

    name: str
    modules: int
    names: int
    largest: str


# The workflows: the order in which things happen.


@es.workflow
async def outline_packages(target: str, packages: list[str]) -> list[Package]:
    """Outline several packages, each by a child of its own that can be looked at, cancelled and found by its tag."""
    children = [es.start(outline_package(target, name), tags={"package": name}) for name in packages]
    done = await es.map(_result, children)
    await write_contents(target, done)
    return done


@es.workflow
async def outline_package(target: str, name: str) -> Package:
    outlines = await es.map(lambda module: outline(target, module), await modules_of(name), limit=MODULES_AT_ONCE)
    largest = max(outlines, key=lambda each: (each.names, each.module))
    return Package(name, len(outlines), sum(each.names for each in outlines), largest.module)


async def _result(child: es.ChildHandle[Package]) -> Package:
    return await child


# The steps: the work.


@es.step
def modules_of(package: str) -> list[str]:
    """The modules that lie in a package, and the package itself."""
    folder = _source_of(package).parent
    return [package, *sorted(f"{package}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__")]


@es.step
def outline(target: str, module: str) -> Outline:
    """Read a module and write down what it defines. Safe to repeat: the same file comes of it."""
    names = list(public_names(_source_of(module).read_text(encoding="utf-8")))
    _write(Path(target) / f"{module}.json", {"module": module, "names": names})
    return Outline(module, len(names))


@es.step
def write_contents(target: str, packages: list[Package]) -> None:
    """Write the file that says what there is."""
    _write(Path(target) / "contents.json", {each.name: [each.modules, each.names] for each in packages})


def public_names(source: str) -> Iterator[str]:
    """The functions and classes at the margin of a module that do not begin with an underscore."""
    # Tokens, not ast: until Python 3.12 its parser was not safe in several threads at once, and steps run in threads.
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for token in tokens:
        if token.string in ("def", "class") and token.type == tokenize.NAME and token.line.startswith(_BEGINNINGS):
            name = next(tokens).string
            if not name.startswith("_"):
                yield name


def _source_of(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ValueError(f"{module} is no module with a source")
    return Path(found.origin)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{es.current().idempotency_key.replace('/', '_')}")
    beside.write_text(json.dumps(value), encoding="utf-8")
    beside.replace(path)


# The program.


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.outline.job", description="Outline packages; safe to kill and to repeat.")
    parser.add_argument("target", help="folder to write into")
    parser.add_argument("packages", nargs="+", help="packages of the standard library, such as json")
    parser.add_argument("--id", default="outline", help="run id: the same id goes on where that run stopped")
    asked = parser.parse_args()

    for each in es.run(outline_packages(str(Path(asked.target).resolve()), asked.packages), id=asked.id):
        print(f"{each.name}: {each.names} names in {each.modules} modules, most of them in {each.largest}")


if __name__ == "__main__":
    main()
