"""The airports example: its rules for records, its checks, and the whole of it with two kills."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from examples.airports.demo import (
    KILLED_STATUS,
    REPOSITORY,
    Line,
    Outcome,
    Process,
    Target,
    choose_marks,
    judge,
)
from examples.airports.job import Batch, cut, read_source, survey, validate
from examples.airports.records import airport, cell, faults

SANTIAGO = {
    "icao": "SCEL",
    "iata": "SCL",
    "name": "Comodoro Arturo  Merino Benitez International Airport ",
    "city": "Santiago",
    "subd": "",
    "country": "CL",
    "elevation": "1555",
    "lat": "-33.393",
    "lon": "-70.7858",
    "tz": "America/Santiago",
    "lid": "",
}

# Records.


def test_a_good_record_is_put_in_order() -> None:
    """Metres, tidy names, None for what is not there, a cell, and the clock of winter and summer."""
    row = airport(SANTIAGO)

    assert () == faults(SANTIAGO)
    assert "Comodoro Arturo Merino Benitez International Airport" == row.name
    assert row.region is None
    assert 474.0 == row.elevation_m
    assert "66jdj" == row.cell
    assert (-180, -60) == (row.utc_offset_min, row.summer_shift_min)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("icao", "_AYM", "icao: '_AYM' is not four letters or digits"),
        ("iata", "SC", "iata: 'SC' is not three letters or nothing"),
        ("name", " ", "name: is missing"),
        ("name", "L?liang Dawu Airport", "name: 'L?liang Dawu Airport' lost a letter"),
        ("country", "Chile", "country: 'Chile' is not two letters"),
        ("elevation", "29032", "elevation: 29032 lies outside -1400 to 15500"),
        ("elevation", "high", "elevation: 'high' is not a number"),
        ("lat", "nan", "lat: nan lies outside -90 to 90"),
        ("lon", "-180.5", "lon: -180.5 lies outside -180 to 180"),
        ("tz", "America/Atlantis", "tz: not a known time zone"),
        ("tz", "../etc/passwd", "tz: not a known time zone"),
        ("tz", "", "tz: not a known time zone"),
    ],
)
def test_a_faulty_record_is_refused_with_its_reason(field: str, value: str, reason: str) -> None:
    assert (reason,) == faults({**SANTIAGO, field: value})


def test_every_fault_of_a_record_is_named() -> None:
    """A person who repairs the file should not have to come back once per field."""
    assert 3 == len(faults({**SANTIAGO, "icao": "", "name": "", "lat": "91"}))


def test_the_cell_agrees_with_published_geohashes() -> None:
    """57.64911, 10.40744 is the example of the geohash article: u4pruydqqvj."""
    assert "u4pruydqqvj" == cell(57.64911, 10.40744, length=11)
    assert "6gkzwg" == cell(-25.382708, -49.265506, length=6)


# Steps, outside a run: awaiting one simply calls it.


async def test_steps_can_be_called_without_an_engine() -> None:
    """Business code stays testable."""
    source = await survey(None)
    everything = Batch(1, 0, source.rows)
    rejects = await validate(source, everything, 0)

    assert source.rows == len(read_source()[0]) > 28_000
    assert 0 < len(rejects) < source.rows * 0.001
    assert all(reject.reasons for reject in rejects)


async def test_another_file_than_the_one_surveyed_is_refused() -> None:
    """A run that is resumed after an upgrade of the data must not mix two files."""
    source = replace(await survey(10), sha256="0" * 64)

    with pytest.raises(ValueError, match="not the file that this import began with"):
        await validate(source, Batch(1, 0, 10), 0)


def test_batches_cover_every_record_once() -> None:
    batches = cut(1001, 400)

    assert [(1, 0, 400), (2, 400, 800), (3, 800, 1001)] == [(batch.number, batch.first, batch.end) for batch in batches]


# The demo's judgement: each of its claims must be able to fail.

STEPS = ("validate:1", "prepare", "load:1", "report")


def line(pid: int, verb: str, body: str) -> Line:
    return Line(pid, 0.0, verb, body)


def trace(pid: int, *bodies: str) -> list[Line]:
    return [line(pid, verb, body) for body in bodies for verb in ("began", "ended")]


TARGET = Target(rows=400, sha256="ab" * 32, loads=((1, 400),), rows_by_batch=((1, 400),))
FINISHED = Process(pid=2, began_at=0.0, seconds=1.0, status=0, output="400 airports\n", found=2)
REFERENCE = Outcome((replace(FINISHED, pid=9, found=0),), tuple(trace(9, *STEPS)), ("0:1", "0:2", "0:3", "0:4"), TARGET)
INTERRUPTED = Outcome(
    (Process(pid=1, began_at=0.0, seconds=1.0, status=KILLED_STATUS, output="", found=0), FINISHED),
    (*trace(1, "validate:1", "prepare"), line(1, "began", "load:1"), *trace(2, "load:1", "report")),
    REFERENCE.recorded,
    TARGET,
)


def broken(outcome: Outcome) -> list[str]:
    return [proof.claim for proof in judge(REFERENCE, outcome, kills=1) if not proof.holds]


def test_an_interrupted_run_without_damage_passes_every_check() -> None:
    assert [] == broken(INTERRUPTED)


@pytest.mark.parametrize(
    ("outcome", "claim"),
    [
        (replace(INTERRUPTED, processes=(replace(FINISHED, pid=1), FINISHED)), "each kill hit a working process"),
        (replace(INTERRUPTED, target=replace(TARGET, sha256="cd" * 32)), "the table equals that of the uninterrupted run"),
        (
            replace(INTERRUPTED, processes=(INTERRUPTED.processes[0], replace(FINISHED, output="399 airports\n"))),
            "the printed report is the same",
        ),
        (
            replace(INTERRUPTED, target=replace(TARGET, loads=((1, 400), (1, 400)), rows_by_batch=((1, 800),))),
            "no batch was loaded twice, none is missing",
        ),
        (replace(INTERRUPTED, recorded=(*REFERENCE.recorded, "0:4")), "each step was recorded once"),
        (
            replace(INTERRUPTED, trace=(*INTERRUPTED.trace[:5], *trace(2, "validate:1", "load:1", "report"))),
            "no finished step ran again",
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_each_kind_of_damage_breaks_its_check(outcome: Outcome, claim: str) -> None:
    """A proof that cannot fail proves nothing."""
    assert claim in broken(outcome)


def test_the_moments_follow_from_the_seed_and_spread_over_the_job() -> None:
    marks = choose_marks(7, kills=5, step_count=145)
    bodies = [mark.bodies for mark in marks]

    assert marks == choose_marks(7, kills=5, step_count=145) != choose_marks(8, kills=5, step_count=145)
    assert bodies == sorted(set(bodies))
    assert bodies[0] >= 1
    assert bodies[-1] <= 140


def test_a_job_too_short_for_the_kills_is_refused() -> None:
    with pytest.raises(ValueError, match="too few to be killed 5 times"):
        choose_marks(7, kills=5, step_count=12)


# All of it, for real.


def test_a_killed_import_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """The main promise, on real records, with real processes and real kills."""
    options = ["--seed", "11", "--kills", "2", "--limit", "3000", "--directory", str(tmp_path / "demo")]

    done = subprocess.run(
        [sys.executable, "-m", "examples.airports.demo", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "" == done.stderr
    assert 6 == done.stdout.count("ok  ")
    assert done.stdout.count("SIGKILL") >= 2
