"""The outline example: it says of Python's own modules what Python itself says of them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.outline.job import public_names

ROOT = Path(__file__).parents[2]
PACKAGES = ["json", "wsgiref", "email"]


def outlined(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.outline.job", str(folder / "outlines"), *PACKAGES],
        cwd=ROOT,
        env={**environment, "EVERSTEP_URL": f"sqlite:///{folder / 'state.db'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_packages_are_outlined_and_a_second_run_prints_the_same(tmp_path: Path) -> None:
    first, second = outlined(tmp_path), outlined(tmp_path)

    assert (0, "") == (first.returncode, first.stderr)
    assert (first.returncode, first.stdout) == (second.returncode, second.stdout)
    assert PACKAGES == [line.partition(":")[0] for line in first.stdout.splitlines()]
    contents = json.loads((tmp_path / "outlines" / "contents.json").read_bytes())
    assert PACKAGES == list(contents)
    written = {path.stem for path in (tmp_path / "outlines").glob("*.json")} - {"contents"}
    assert sum(modules for modules, _ in contents.values()) == len(written)
    assert {"json", "json.decoder", "wsgiref.handlers", "email.message"} <= written


@pytest.mark.parametrize("module", ["json.decoder", "wsgiref.util", "email.message"])
def test_an_outline_has_what_the_module_defines(module: str) -> None:
    """Read from the source, without importing it; Python, which does import it, agrees."""
    loaded = importlib.import_module(module)
    defined = [
        name
        for name, value in vars(loaded).items()
        if getattr(value, "__module__", "") == module and (inspect.isclass(value) or inspect.isfunction(value))
    ]

    expected = {name for name in defined if not name.startswith("_")}
    assert expected == set(public_names(inspect.getsource(loaded)))
