"""Invariant I6 over random programs: whatever is composed of asyncio's primitives, replay of every prefix equals live."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everstep.events import CancelRequested
from tests.core.driver import ACTIVATIONS_MAX, Run, chooser, evict_all, random_chooser
from tests.core.elsewhere import Recorded, clock_reads, record
from tests.core.program_nodes import OPS
from tests.core.programs import Program, generate, play, random_program

numbers = st.lists(st.integers(0, 1000), max_size=60)


@settings(max_examples=500, deadline=None)
@given(program=numbers, order=numbers, cancel_at=st.none() | st.integers(1, 6))
@example(program=[1, 10, 1, 16, 0, 0, 2], order=[], cancel_at=None)  # waited for good once, under plain asyncio as well
def test_replay_of_every_prefix_equals_live(program: list[int], order: list[int], cancel_at: int | None) -> None:
    """Results come in any order and any batches, timers in any order, and a cancel anywhere among them."""
    try:
        run = live(generate(chooser(program)), chooser(order), cancel_at)

        run.check_replays()
    finally:
        evict_all()


SWALLOWING = ("try", "take_back")
"""Nodes that catch a cancel and go on, because that is what they are for."""
DROPPED_BY_PYTHON = ("wait_for", "event", "held_lock", "notified", "stack") if sys.version_info < (3, 12) else ()
"""Python 3.11's ``wait_for`` forgets the cancel of its task if what it waits for has just ended. (A run's comes later.)"""


@settings(max_examples=500, deadline=None)
@given(program=numbers, order=numbers, cancel_at=st.integers(1, 8))
def test_a_cancel_of_the_run_is_never_lost(program: list[int], order: list[int], cancel_at: int) -> None:
    """Whatever it comes together with, and whatever waits inside of what: it reaches the code, or the code has just ended."""
    try:
        run = live(generate(chooser(program), without=SWALLOWING), chooser(order), cancel_at)

        was_asked = [any(isinstance(event, CancelRequested) for event in entry.decoded()) for entry in run.entries]
        assert not any(was_asked[:-1]) or "cancelled" in run.result
    finally:
        evict_all()


@settings(max_examples=500, deadline=None)
@given(program=numbers, order=numbers)
@example(program=[1, 0, 1, 0, 0, 0, 1, 214], order=[1])  # it came as a timeout was entered that had run out already
def test_a_cancel_of_a_task_is_never_lost(program: list[int], order: list[int]) -> None:
    """It is raised at one of the task's awaits, unless the task has failed by itself meanwhile."""
    try:
        inside = generate(chooser(program), without=(*SWALLOWING, *DROPPED_BY_PYTHON))
        run = live(["delivered", inside, ["work", 1]], chooser(order), None)

        assert not [line for line in run.result if "lost a cancel" in line]
    finally:
        evict_all()


def test_a_cancel_that_is_swallowed_would_be_noticed() -> None:
    """The tests above would otherwise prove nothing."""
    swallowed = live(["delivered", ["try", ["sleep", 60], ["work", 1]], ["work", 2]], chooser([]), None)

    assert "lost a cancel" in swallowed.result
    evict_all()


def test_every_operation_is_generated_and_none_breaks() -> None:
    """A mistake in an operation would look like any other failure."""
    logs = [line for seed in range(600) for line in record_log(seed)]
    performed = {line.lstrip(".").partition(" ")[0] for line in logs}

    assert {name for name in OPS if name != "fail"} <= performed
    assert [] == [line for line in logs if re.search(r"(Type|Attribute|Name|Key|Index|Runtime|Usage)Error", line)]


def record_log(seed: int) -> list[str]:
    run = Run(play(random_program(seed))).finish(random_chooser(seed))
    run.evict()
    log: list[str] = run.result
    return log


def live(program: Program, choose: Callable[[int], int], cancel_at: int | None) -> Run:
    run = Run(play(program))
    run.begin()
    for number in range(ACTIVATIONS_MAX):
        if run.ending is not None:
            return run
        inputs = run.next_inputs(choose)
        if number == cancel_at:
            inputs.insert(choose(len(inputs) + 1), CancelRequested("enough"))
        run.feed(*inputs)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("hash_seed", ["1", "2", "3"])
def test_another_process_replays_alike_and_reads_no_clock(hash_seed: str, tmp_path: Path) -> None:
    """Hashes of strings and addresses of objects differ there, its clocks are an hour off, and reading one would be told."""
    journals = [record(play(random_program(seed)), random_chooser(seed)) for seed in range(60)]
    (tmp_path / "journals.json").write_bytes(msgspec.json.encode(journals))

    elsewhere = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.core.elsewhere", str(tmp_path / "journals.json")],
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ("60 replayed, clocks read: []\n", "") == (elsewhere.stdout, elsewhere.stderr)


def test_a_read_of_the_clock_would_be_noticed() -> None:
    """The test above would otherwise prove nothing."""
    import time
    from datetime import UTC, datetime

    def reads() -> Any:
        return time.monotonic(), datetime.now(UTC)

    assert ["monotonic", "now"] == clock_reads(reads)


def test_a_recorded_journal_is_what_it_says() -> None:
    journal = record(play(["work", 3]), random_chooser(0))

    assert journal == msgspec.json.decode(msgspec.json.encode(journal), type=Recorded)
    assert 2 == len(journal.entries)
