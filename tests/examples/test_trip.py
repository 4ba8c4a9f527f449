"""The trip example: all or nothing, also when it is killed while it undoes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.trip import providers

ROOT = Path(__file__).parents[2]
NOTHING = "Lisbon: nothing is booked, because no car is left"


def begin(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "examples.trip.job", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_trip_without_a_car_is_no_trip(tmp_path: Path) -> None:
    with begin(tmp_path) as job:
        out, _ = job.communicate(timeout=60)

    assert ["booked flight-1", "booked hotel-1", "gave back hotel-1", "gave back flight-1", NOTHING] == out.splitlines()
    assert {"flight": 0, "hotel": 0, "car": 0} == providers.held(tmp_path)
    assert {"flight": 1, "hotel": 1, "car": 0} == providers.given_back(tmp_path)


@pytest.mark.parametrize("line", ["booked hotel-1", "gave back hotel-1"])
def test_killed_and_run_again_it_ends_the_same(tmp_path: Path, line: str) -> None:
    """With the second line it dies in the middle of undoing: the hotel is not given back twice, the flight not forgotten."""
    with begin(tmp_path) as job:
        assert job.stdout is not None
        while job.stdout.readline().rstrip() != line:
            assert job.poll() is None
        job.kill()

    with begin(tmp_path) as job:
        out, _ = job.communicate(timeout=60)

    assert NOTHING == out.splitlines()[-1]
    assert "booked flight-1" not in out, "what was finished is not done again"
    assert {"flight": 0, "hotel": 0, "car": 0} == providers.held(tmp_path)
    assert {"flight": 1, "hotel": 1, "car": 0} == providers.given_back(tmp_path)
