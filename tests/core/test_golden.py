"""Journals of earlier versions replay to the same commands and results, whatever the process (L4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from everstep.core.children import StartedChild
from everstep.events import ENDINGS, CommandEvent, Ending, Event, Input, RunDied, RunDiscarded
from everstep.journal import verify_chain
from tests.core.driver import RUN_KEY, replayed
from tests.core.golden_runs import FOLDER, read, shared_by

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_journal_verifies_and_replays_to_its_end(name: str) -> None:
    workflow, entries = read(name)

    verify_chain(entries, run_key=RUN_KEY, run_id="run-1")
    execution = replayed(workflow, entries, shared=shared_by(entries))

    [ending] = [event for event in entries[-1].decoded() if isinstance(event, ENDINGS)]
    assert type(ending) is type(execution.program.ending)
    assert getattr(ending, "result", None) == getattr(execution.program.ending, "result", None)
    left = [each for each in execution.program.operations.values() if not isinstance(each, StartedChild)]
    assert not left or isinstance(ending, RunDied), "children in the background go on by themselves"


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_of_a_golden_journal_replays(name: str) -> None:
    workflow, entries = read(name)

    for version in range(len(entries)):
        replayed(workflow, entries[:version], shared=shared_by(entries[:version]))


def test_the_golden_journals_hold_every_kind_of_event_there_is() -> None:
    """A new kind needs a golden journal; of a run that a person gave up there is nothing to replay."""
    kinds = {type(event) for name in NAMES for entry in read(name)[1] for event in entry.decoded()}

    assert set(Event.__args__) - {RunDiscarded} == kinds
    assert {*Input.__args__, *CommandEvent.__args__, *Ending.__args__} <= kinds


def test_the_commands_are_the_same_under_every_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-W", "error", "-m", "tests.core.golden_runs", "replay"],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert 1 == len(outputs)
    assert 30 < len(outputs.pop().splitlines())
