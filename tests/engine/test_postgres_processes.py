"""
The same real processes on PostgreSQL: several workers on one database, killed and frozen at the same points.

There a killed process is noticed by the seat that its connection leaves, a second or two later; a frozen one by its lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import everstep as es
from everstep.events import RunResumed
from tests.engine.test_processes import (
    RESULT,
    Scene,
    check_journal,
    test_a_run_that_a_client_started_before_it_died_is_driven_by_whoever_comes,
    test_a_step_killed_after_its_effect_is_executed_again_under_the_same_key,
    test_a_worker_that_is_told_to_stop_hands_its_runs_back,
    test_an_at_most_once_step_is_not_executed_again_after_a_kill,
    test_another_live_worker_takes_over_from_a_killed_one_at_once,
    test_workers_killed_at_random_lose_nothing_and_repeat_no_recorded_step,
    wait_until,
)
from tests.engine.test_processes import test_a_frozen_worker_is_fenced_when_it_wakes as frozen

__all__ = [  # collected here with this module's scene
    "test_a_run_that_a_client_started_before_it_died_is_driven_by_whoever_comes",
    "test_a_step_killed_after_its_effect_is_executed_again_under_the_same_key",
    "test_a_worker_that_is_told_to_stop_hands_its_runs_back",
    "test_an_at_most_once_step_is_not_executed_again_after_a_kill",
    "test_another_live_worker_takes_over_from_a_killed_one_at_once",
    "test_workers_killed_at_random_lose_nothing_and_repeat_no_recorded_step",
]

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")


def ended(scene: Scene) -> None:
    for process in scene.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def scene(tmp_path: Path, postgres_url: str) -> Iterator[Scene]:
    """Leases that outlast the test: whoever is found dead was found by its seat."""
    scene = Scene(tmp_path, url=postgres_url, lease=60)
    yield scene
    ended(scene)


@pytest.fixture
def impatient(tmp_path: Path, postgres_url: str) -> Iterator[Scene]:
    """Leases that run out."""
    scene = Scene(tmp_path, url=postgres_url, lease=1.5)
    yield scene
    ended(scene)


@pytest.mark.parametrize("place", ["in-body:1", "before-commit:2", "after-commit:2"])
def test_a_frozen_worker_is_fenced_when_it_wakes(impatient: Scene, place: str) -> None:
    """C1: a frozen process keeps its connection, and so its seat; only its lease tells."""
    frozen(impatient, place)


@pytest.mark.parametrize("ordinal", [1, 2, 3, 4])
def test_a_kill_in_the_middle_of_a_commit_loses_and_repeats_nothing(scene: Scene, ordinal: int) -> None:
    """A4, B2: the answer never comes; another worker, alive all the time, finds what was committed."""
    helper = scene.spawn("serve")
    assert helper.stdout is not None
    assert "serving" == helper.stdout.readline().strip()

    scene.run("run", "checkout-1", f"KILL:after-commit:{ordinal}")
    wait_until(lambda: scene.status("checkout-1") is es.Status.SUCCEEDED)

    history = scene.history("checkout-1")
    check_journal(history, scene.effects())
    claims = [event for entry in history for event in entry.events if isinstance(event, RunResumed)]
    assert {"killed"} >= {claim.why for claim in claims}
    assert (0, RESULT) == scene.run("run", "checkout-1")
