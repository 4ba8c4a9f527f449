"""
``file.py`` or ``module[:attribute]``: find the text that a person named, without importing or executing any of it.

Only the first part of a dotted name is looked up by Python's own finders, which imports nothing; the rest is looked for in the
directories that it names. A package stands for all modules in it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import UsageError


@dataclass(frozen=True, slots=True)
class Source:
    """A file to look at.

    Attributes:
        path: As it is shown: relative where that is shorter.
        attribute: The name in it that was asked for; empty for all.
        target: What was written on the command line.
    """

    path: Path
    attribute: str
    target: str

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UsageError: It cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"{self.path} cannot be read: {reason}. Nothing was checked. Name a file or a module.") from error


def find_sources(targets: Sequence[str]) -> list[Source]:
    """The files of all targets, each once.

    Raises:
        UsageError: A target names nothing that has a text.
    """
    return list(dict.fromkeys(source for target in targets for source in _sources(target)))


def _sources(target: str) -> Iterator[Source]:
    name, _, attribute = _split(target)
    if name.endswith(".py"):
        yield Source(Path(name), attribute, target)
        return
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name[:80]!a} is no module. Nothing was checked. Write FILE.py, or MODULE:NAME where MODULE.py is.")
    for path in _files_of(name):
        yield Source(_short(path), attribute, target)


def _split(target: str) -> tuple[str, str, str]:
    name, colon, attribute = target.rpartition(":")
    # C:\app.py has a colon too; an attribute has no separators and no .py.
    if colon and (not attribute or all(part.isidentifier() for part in attribute.split("."))):
        return name, colon, attribute
    return target, "", ""


def _files_of(name: str) -> list[Path]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    top, *rest = name.split(".")
    places = _places_of(top)
    for part in rest:
        places = list(_below(places, part))
    if not places:
        raise UsageError(f"there is no module {name[:80]!a} here or on the path. Nothing was checked. Write FILE.py instead.")
    found = [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    if not found or found[0].suffix != ".py":
        raise UsageError(f"{name} has no Python source. Nothing was checked. Name a module that is written in Python.")
    return found


def _places_of(top: str) -> list[Path]:
    """The file of a module, or the directories of a package."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # __main__ and its like: loaded, but from nowhere
        spec = None
    if spec is None or spec.name != top:  # __main__ once more: the command line itself, which nobody meant
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin or "")]


def _below(places: Sequence[Path], part: str) -> Iterator[Path]:
    """The same for a part of a package. ``importlib.util.find_spec`` would import the package to find it."""
    directories = [place / part for place in places if (place / part).is_dir()]
    regular = [directory for directory in directories if (directory / "__init__.py").is_file()]
    files = [file for place in places if (file := place / f"{part}.py").is_file()]
    yield from regular[:1] or files[:1] or directories


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
