"""``everstep db prune``. Real processes on a real store."""

import json
from pathlib import Path

import pytest

from tests.cli.support import everstep, on_a_terminal
from tests.cli.test_looking import ALL

AT_REST = {"order-1", "hostile-1", "order-5"}
"""Succeeded or cancelled; order-2 and hostile-2 failed."""


def runs(place: Path) -> set[str]:
    return set(everstep("runs", "-q", cwd=place).stdout.split())


def test_a_dry_run_says_what_would_go_and_changes_nothing(seeded: Path) -> None:
    done = everstep("db", "prune", "--older-than", "0s", "--dry-run", "--json", cwd=seeded)

    assert 0 == done.returncode
    told = json.loads(done.stdout)
    assert (True, 3, {}) == (told["dry_run"], told["runs"], told["kept"])
    assert told["entries"] >= 3
    assert ALL == runs(seeded)


def test_runs_at_rest_are_forgotten_and_the_others_stay(place: Path) -> None:
    done = everstep("db", "prune", "--older-than", "0s", "--yes", cwd=place)

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("forgotten\t3\t")
    assert ALL - AT_REST == runs(place)
    assert 4 == everstep("show", "order-1", cwd=place).returncode
    assert 0 == everstep("verify", cwd=place).returncode


def test_failed_runs_go_only_if_they_are_named(place: Path) -> None:
    """They wait for somebody to look at them."""
    done = everstep("db", "prune", "--older-than", "0s", "--status", "failed", "--yes", cwd=place)

    assert 0 == done.returncode
    assert ALL - {"order-2", "hostile-2"} == runs(place)


def test_young_runs_stay(place: Path) -> None:
    done = everstep("db", "prune", "--older-than", "30d", cwd=place)

    assert (0, "forgotten\t0\t0") == (done.returncode, done.stdout.strip())
    assert ALL == runs(place)


def test_nothing_is_forgotten_where_nobody_can_be_asked(place: Path) -> None:
    """A script says --yes, or means something else."""
    done = everstep("db", "prune", "--older-than", "0s", cwd=place)

    assert 2 == done.returncode
    assert "Forget 3 runs with " in done.stderr
    assert "Add --yes" in done.stderr
    assert ALL == runs(place)


def test_a_person_is_asked_and_told_how_much(place: Path) -> None:
    code, seen = on_a_terminal("db", "prune", "--older-than", "0s", cwd=place, typed=("for good? [y/N]", "n\n"))

    assert 5 == code
    assert "Forget 3 runs with " in seen
    assert ALL == runs(place)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--older-than", "a while"], "is no age"),
        (["--older-than", "30"], "is no age"),
        ([], "--older-than"),
        (["--older-than", "1d", "--status", "running"], "running"),
    ],
)
def test_what_means_nothing_is_refused(arguments: list[str], named: str, seeded: Path) -> None:
    done = everstep("db", "prune", *arguments, cwd=seeded)

    assert (2, "") == (done.returncode, done.stdout)
    assert named in done.stderr
