"""``everstep check``, as a process: what it prints, how it ends, and that it executes nothing."""

import json
import re
from pathlib import Path

import pytest

from everstep.lint import RULES
from tests.cli.support import everstep

GOOD = "import everstep as es\n@es.workflow\nasync def good() -> str: return es.now().isoformat()\n"
BAD = "import time\nimport everstep as es\n@es.workflow\nasync def bad() -> None: time.time()\n"
LOUD = "raise SystemExit('executed')\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Modules and a package, each of which would end the program if it were imported."""
    (tmp_path / "good.py").write_text(GOOD + LOUD, encoding="utf-8")
    (tmp_path / "bad.py").write_text(BAD + GOOD + LOUD, encoding="utf-8")
    (tmp_path / "warned.py").write_text(GOOD + "@es.workflow\nasync def chatty() -> None: print()\n", encoding="utf-8")
    (tmp_path / "shop" / "orders").mkdir(parents=True)
    for file in ("shop/__init__.py", "shop/orders/__init__.py"):
        (tmp_path / file).write_text(LOUD, encoding="utf-8")
    (tmp_path / "shop" / "orders" / "flows.py").write_text(BAD + LOUD, encoding="utf-8")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "flows.py").write_text(BAD + LOUD, encoding="utf-8")
    return tmp_path


def test_clean_code_is_exit_code_0(project: Path) -> None:
    """How much was looked at goes to stderr."""
    done = everstep("check", "good.py", cwd=project)

    assert (0, "", "1 file · 1 workflow · 0 steps · 0 errors\n") == (done.returncode, done.stdout, done.stderr)


def test_an_error_is_one_line_and_exit_code_5(project: Path) -> None:
    """Where, which rule, what, and what to do: as editors and CI read it."""
    done = everstep("check", "bad.py", "good.py", cwd=project)

    assert 5 == done.returncode
    assert (
        "bad.py:4:26: E01 time.time() in workflow bad reads the clock, which says something else on replay. Use es.now().\n"
        == done.stdout
    )
    assert "2 files · 3 workflows · 0 steps · 1 error\n" == done.stderr


def test_a_warning_is_shown_and_does_not_fail(project: Path) -> None:
    """Only what breaks a run does."""
    done = everstep("check", "warned.py", cwd=project)

    assert 0 == done.returncode
    assert ": W19 print() in workflow chatty" in done.stdout
    assert done.stderr.endswith("0 errors · 1 warning\n")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("bad", "bad.py"),
        ("bad:bad", "bad.py"),
        ("bad.py:bad", "bad.py"),
        ("shop", "shop/orders/flows.py"),
        ("shop.orders", "shop/orders/flows.py"),
        ("shop.orders.flows:bad", "shop/orders/flows.py"),
        ("loose", "loose/flows.py"),
        ("loose.flows", "loose/flows.py"),
        ("shop/orders/flows.py", "shop/orders/flows.py"),
    ],
)
def test_a_module_is_found_and_never_executed(target: str, path: str, project: Path) -> None:
    """Not even the packages around it: each would end the program at once."""
    done = everstep("check", target, cwd=project)

    assert 5 == done.returncode
    assert done.stdout.startswith(f"{path}:4:26: E01 ")
    assert "executed" not in done.stderr
    assert not list(project.rglob("__pycache__"))


def test_one_workflow_of_a_module_can_be_checked(project: Path) -> None:
    """And its neighbours are left alone."""
    assert 0 == everstep("check", "bad:good", cwd=project).returncode


def test_json_is_one_list_for_programs(project: Path) -> None:
    """The exit code is the same; a clean check is an empty list."""
    bad, good = (everstep("check", name, "--json", cwd=project) for name in ("bad.py", "good.py"))

    assert [
        {
            "path": "bad.py",
            "line": 4,
            "column": 26,
            "id": "E01",
            "level": "error",
            "what": "time.time() in workflow bad reads the clock, which says something else on replay",
            "instead": "Use es.now().",
        }
    ] == json.loads(bad.stdout)
    assert [] == json.loads(good.stdout)
    assert (5, 0) == (bad.returncode, good.returncode)


def test_hints_are_given_on_request(project: Path) -> None:
    """They never fail a check."""
    (project / "hint.py").write_text(
        "import asyncio\nimport everstep as es\n@es.step\nasync def one() -> None: ...\n"
        "@es.workflow\nasync def flow() -> None: await asyncio.gather(one(), one())\n",
        encoding="utf-8",
    )

    plain, asked = everstep("check", "hint.py", cwd=project), everstep("check", "hint.py", "--hints", cwd=project)

    assert (0, "") == (plain.returncode, plain.stdout)
    assert 0 == asked.returncode
    assert "hint.py:6:33: H16 " in asked.stdout


def test_a_check_that_found_no_workflow_says_so(project: Path) -> None:
    """It would pass for ever."""
    (project / "empty.py").write_text("", encoding="utf-8")

    done = everstep("check", "empty.py", cwd=project)

    assert 0 == done.returncode
    assert "no workflow was found there" in done.stderr


def test_a_syntax_error_is_one_finding(project: Path) -> None:
    """And not the end of the check: the other files are looked at."""
    (project / "broken.py").write_text("x = (\n", encoding="utf-8")

    done = everstep("check", "broken.py", "bad.py", cwd=project)

    assert 5 == done.returncode
    first, second = done.stdout.splitlines()
    assert first.startswith("broken.py:1:5: E00 this is not Python")
    assert second.startswith("bad.py:4:26: E01")


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ([], "Missing argument"),
        (["nope"], "there is no module 'nope'"),
        (["nope.py"], "nope.py cannot be read"),
        (["bad.py:nope"], "bad.py has no nope"),
        (["shop.nope"], "there is no module 'shop.nope'"),
        (["bad.nope"], "there is no module 'bad.nope'"),
        (["a b"], "is no module"),
        (["../bad"], "is no module"),
        (["sys"], "has no Python source"),
        (["__main__"], "there is no module '__main__'"),
        (["é\u202e"], "is no module"),
        (["x" * 5000 + ".py"], "cannot be read"),
        ([""], "is no module"),
        ([":bad"], "is no module"),
    ],
)
def test_a_target_that_names_no_source_is_wrong_usage(targets: list[str], named: str, project: Path) -> None:
    """Nothing was checked, and that must not look like a clean check."""
    done = everstep("check", *targets, cwd=project)

    assert (2, "") == (done.returncode, done.stdout)
    assert named in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "\u202e" not in done.stderr


def test_the_how_to_shows_what_is_printed(tmp_path: Path) -> None:
    """Its bad example is found as it says, its good one is clean, and every rule is in its table."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "check-your-workflows.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```text\n\$ cat app.py\n(.*?)```", page, flags=re.DOTALL)
    [good] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    bad, _, output = shown.partition("$ everstep check app.py\n")
    (tmp_path / "app.py").write_text(bad, encoding="utf-8")
    (tmp_path / "good.py").write_text(good, encoding="utf-8")

    found, clean = everstep("check", "app.py", cwd=tmp_path), everstep("check", "good.py", "--hints", cwd=tmp_path)

    assert output == found.stdout + found.stderr
    assert (0, "") == (clean.returncode, clean.stdout)
    assert [] == [rule for rule in RULES if rule not in page]


def test_what_the_code_holds_cannot_move_the_cursor(project: Path) -> None:
    """Names may hold what turns a line around."""
    (project / "evil.py").write_text(BAD.replace("time.time()", "open('\u202e\x1b[2J')"), encoding="utf-8")

    done = everstep("check", "evil.py", cwd=project)

    assert 5 == done.returncode
    assert not {"\x1b", "\u202e"} & set(done.stdout)
