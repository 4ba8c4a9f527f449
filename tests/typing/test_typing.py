"""Both type checkers, in strict mode, see what a user sees: every planted mistake, and none where there is none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import everstep

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src"


def mypy(file: Path) -> dict[int, str]:
    """What ``mypy --strict`` says, by line."""
    out = subprocess.run(
        # Silent about everstep's own files, as mypy is about everything that is installed.
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--config-file=",
            file.name,
        ],
        env={**os.environ, "MYPYPATH": str(SOURCES), "MYPY_CACHE_DIR": str(HERE.parents[1] / ".mypy_cache")},
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "" == out.stderr
    assert re.search(r"^(Success|Found \d+ errors?) ", out.stdout.replace(":", " "), re.MULTILINE), out.stdout
    found = re.findall(r"^(.+?):(\d+): error: (.*)$", out.stdout, re.MULTILINE)
    assert {file.name} >= {name for name, _, _ in found}, out.stdout
    return {int(line): message for _, line, message in found}


def pyright(file: Path) -> dict[int, str]:
    """What pyright says in strict mode, by line."""
    (file.parent / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "include": [file.name], "extraPaths": [str(SOURCES)]})
    )
    out = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(file.parent)],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(out.stdout)
    assert 1 == report["summary"]["filesAnalyzed"], out.stdout
    return {each["range"]["start"]["line"] + 1: each["message"] for each in report["generalDiagnostics"]}


CHECKERS = [mypy, pyright]


def copied(name: str, folder: Path) -> Path:
    """The file in a folder of its own, without the comments that keep ``make lint`` away from the planted mistakes."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    shown = ["" if re.match(r"# (type|ruff): ", line) else line for line in lines]
    copy = folder / f"user_{name}"
    copy.write_text("\n".join(shown) + "\n", encoding="utf-8")
    return copy


@pytest.mark.parametrize("check", CHECKERS)
def test_programs_as_users_write_them_have_no_errors_and_exact_types(
    check: Callable[[Path], dict[int, str]], tmp_path: Path
) -> None:
    assert {} == check(copied("good.py", tmp_path))


@pytest.mark.parametrize("check", CHECKERS)
def test_exactly_the_planted_mistakes_are_told(check: Callable[[Path], dict[int, str]], tmp_path: Path) -> None:
    file = copied("planted.py", tmp_path)
    lines = file.read_text(encoding="utf-8").splitlines()
    planted = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}

    told = check(file)

    assert len(planted) > 40
    assert [] == [f"not told: {number}: {lines[number - 1]}" for number in sorted(planted - set(told))]
    assert [] == [f"{number}: {lines[number - 1]}  ({told[number]})" for number in sorted(set(told) - planted)]


@pytest.mark.parametrize(("name", "mark"), [("good.py", ""), ("planted.py", "# error")])
def test_every_public_name_is_used_rightly_and_wrongly(name: str, mark: str) -> None:
    """If this fails for a new name: show it in ``good.py`` with its exact type, and in ``planted.py`` a mistake with it."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    used = {word for line in lines if line.endswith(mark) for word in re.findall(r"\bes\.(\w+)", line)}

    assert set() == set(everstep.__all__) - used
