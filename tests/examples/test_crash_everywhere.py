"""
Every example survives being killed at each of its durable points: simulated at all of them, and by SIGKILL in a small variant.

An example says in its ``crash.py`` what is killed: ``call`` and ``effects``, both given a folder of the execution; if needed
``small_call`` (for SIGKILL), ``WORKFLOWS`` and ``drive``. ``KILLS = ("process",)`` is for one with transactions: the store of
simulated kills has none. ``NOT_HERE`` is the reason why one cannot be run by tests at all. One that says nothing fails here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from everstep.testing import crash_everywhere

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted({path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob("*.py")})
OPTIONS = {"WORKFLOWS": "workflows", "drive": "drive"}


def subject_of(name: str, kill: str) -> Any:
    assert (EXAMPLES / name / "crash.py").exists(), f"examples/{name} has no crash.py: say there what is killed, as others do"
    subject = import_module(f"examples.{name}.crash")
    if hasattr(subject, "NOT_HERE"):
        pytest.skip(subject.NOT_HERE)
    if kill not in getattr(subject, "KILLS", (kill,)):
        pytest.skip(f"examples/{name} is killed otherwise")
    return subject


def options_of(subject: Any) -> dict[str, Any]:
    return {option: getattr(subject, name) for name, option in OPTIONS.items() if hasattr(subject, name)}


def test_there_are_examples() -> None:
    assert "airports" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_survives_every_crash(name: str) -> None:
    subject = subject_of(name, "simulated")
    report = crash_everywhere(subject.call, effects=subject.effects, **options_of(subject))

    assert report.points > 2
    assert report.kills > report.points


@pytest.mark.parametrize("name", NAMES)
def test_an_example_survives_sigkill_everywhere(name: str) -> None:
    subject = subject_of(name, "process")
    call = getattr(subject, "small_call", subject.call)
    report = crash_everywhere(call, effects=subject.effects, kill="process", **options_of(subject))

    assert report.kills > 2


def test_an_example_that_is_not_killed_is_noticed() -> None:
    """A new one must say how."""
    with pytest.raises(AssertionError, match=r"examples/shiny has no crash\.py"):
        subject_of("shiny", "process")
