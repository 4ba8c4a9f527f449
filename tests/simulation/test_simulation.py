"""
Seeds of the deterministic simulation: none finds a fault, all that must happen sometimes does, and each is the same everywhere.

To see one again: ``python -m everstep.testing.simulate --seed N --trace``. More of them: ``make simulate SEEDS=20000``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from everstep.testing.simulation.acts.choice import ALL
from everstep.testing.simulation.runner import Report, acts_named, describe, play, play_all
from tests.evidence import amount, note

SEEDS = amount(500, 20_000)
BATCH = 50
REGRESSIONS = Path(__file__).with_name("regressions.txt")

total = Report()

MUST_HAPPEN = (
    "Behind",
    "Fenced",
    "TooEarly",
    "ambiguous commits that had landed",
    "bodies that killed their process",
    "claimed alone",
    "duplicates joined",
    "executed by a zombie",
    "fenced writes",
    "journals damaged",
    "links: crash after",
    "links: late",
    "renewals refused",
    "runs pruned",
    "settlements",
    "starts that joined",
    "takeovers",
    "transactions found landed",
    "transactions rolled back by their body",
    "wake-ups that came twice",
    "ChildRefused",
    "CompensationEnded",
    "Drained",
    "PatchApplied",
    "RequestAnswered",
    "ResultReused",
    "RunContinued",
    "RunDied",
    "RunForked",
    "RunPaused",
    "RunResumed",
    "RunRetried",
    "StepOutcomeUnknown",
    "StepOverridden",
    "SuffixLost",
    "TimerFired",
)
"""What any 500 seeds have to come across, or they prove nothing. (Rarer things are asked for in ``make proof``.)"""


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_no_seed_finds_a_fault(first: int) -> None:
    """I1 to I22, as far as they have a subject, after every operation of the store and at the end."""
    report = play_all(range(first, min(first + BATCH, SEEDS)))

    total.add(report)
    assert not report.failures, "\n".join(describe(found) for found in report.failures)
    note("seeds of the simulation", report.seeds)
    note("operations of the store in simulations, every invariant asked after each", report.operations)


def test_what_must_happen_sometimes_does() -> None:
    if total.seeds < 500:
        pytest.skip("only with all seeds")

    assert [] == [what for what in MUST_HAPPEN if not total.seen[what]]


@pytest.mark.parametrize("line", REGRESSIONS.read_text(encoding="utf-8").splitlines())
def test_what_a_seed_found_once_it_does_not_find_again(line: str) -> None:
    """Lines: seed, acts (or *), and what it found. A seed means something else once acts or dice change; it costs little."""
    seed, names, _ = line.split(maxsplit=2)

    simulation = play(int(seed)) if names == "*" else play(int(seed), acts_named(names.split(",")))

    assert [] == simulation.problems


def test_a_seed_comes_to_the_same_in_every_process() -> None:
    """Byte for byte, whatever the order of sets is there."""
    program = (
        "from everstep.testing.simulation.runner import play\nprint([play(seed).trace.digest for seed in range(900, 912)])"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]

    first, second = (
        subprocess.run([sys.executable, "-c", program], env=each, capture_output=True, text=True, check=True).stdout
        for each in environments
    )

    assert first == second
    assert first.strip() == str([play(seed).trace.digest for seed in range(900, 912)])


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_act_is_played(kind: type) -> None:
    """By itself, so that its failures are its own."""
    report = play_all(range(10), acts_named([kind.__name__]))

    assert not report.failures, "\n".join(describe(found, [kind.__name__]) for found in report.failures)
    assert report.operations
