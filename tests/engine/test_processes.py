"""
Real processes on one SQLite file, killed with SIGKILL and stopped with SIGSTOP at named points and at random.

What must hold after every one of them: the run ends with the right result, every step is completed once in a journal that
verifies, no step is executed again after its result was recorded, and every execution of a step carried the same idempotency
key.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import everstep as es
from everstep.client import HistoryEntry
from everstep.events import RunClaimed, RunDied, RunResumed, RunSucceeded, StepCompleted, StepOutcomeUnknown, StepScheduled

PROGRAM = Path(__file__).with_name("program.py")
PATIENCE_SECONDS = 30


class Scene:
    """A database, and the processes that were started on it."""

    program = PROGRAM

    def __init__(self, folder: Path, **settings: object) -> None:
        self.db = folder / "state.db"
        self.url = str(settings.get("url", f"sqlite:///{self.db}"))
        if settings:
            self.db.with_suffix(".json").write_text(json.dumps(settings))
        self.processes: list[subprocess.Popen[str]] = []

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(self.program), str(self.db), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the program to its end: exit code (negative: the signal) and output."""
        process = self.spawn(*arguments)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in err, err
        return process.returncode, out.strip()

    def effects(self) -> list[tuple[str, str, int, int, int]]:
        lines = Path(f"{self.db}.effects").read_text().splitlines()
        parts = [line.split() for line in lines]
        return [(step, key, int(attempt), int(epoch), int(pid)) for step, key, attempt, epoch, pid in parts]

    def history(self, run_id: str) -> list[HistoryEntry]:
        async def read() -> list[HistoryEntry]:
            async with es.Client(self.url) as client:
                return await client.handle(run_id).history()

        return asyncio.run(read())

    def status(self, run_id: str) -> es.Status:
        async def read() -> es.Status:
            async with es.Client(self.url) as client:
                return await client.handle(run_id).status()

        return asyncio.run(read())

    def wait_for_effect(self, step: str) -> None:
        wait_until(lambda: Path(f"{self.db}.effects").exists() and step in [effect[0] for effect in self.effects()])


def wait_until(condition: object) -> None:
    """Poll what another process does; there is nothing to be notified by across a SIGSTOP."""
    assert callable(condition)
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    for process in scene.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def check_journal(history: list[HistoryEntry], effects: list[tuple[str, str, int, int, int]]) -> None:
    """I1, I3, I5 for one run: ``history`` verifies the chain by itself."""
    events = [event for entry in history for event in entry.events]
    names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
    completed = Counter(names[event.key] for event in events if isinstance(event, StepCompleted))
    assert list(range(1, len(history) + 1)) == [entry.version for entry in history]
    assert all(count == 1 for count in completed.values())
    for step in completed:
        keys = {key for name, key, *_ in effects if name == step}
        assert len(keys) == 1, f"{step} was executed under the keys {keys}"


RESULT = "shipped checkout-1: reserved checkout-1, charged checkout-1"


def test_a_run_that_a_client_started_before_it_died_is_driven_by_whoever_comes(scene: Scene) -> None:
    """A1: an acknowledged start will run."""
    assert scene.run("start", "checkout-1") == (0, "")

    assert scene.run("run", "checkout-1") == (0, RESULT)
    check_journal(scene.history("checkout-1"), scene.effects())


def test_a_step_killed_after_its_effect_is_executed_again_under_the_same_key(scene: Scene) -> None:
    """A2: at least once, attempt + 1, one record."""
    code, _ = scene.run("run", "checkout-1", "KILL:in-body:1")

    assert code == -signal.SIGKILL
    assert scene.run("run", "checkout-1") == (0, RESULT)
    reserved = [(key, attempt) for step, key, attempt, *_ in scene.effects() if step == "reserve"]
    assert [("checkout-1/reserve/0.1:1", 1), ("checkout-1/reserve/0.1:1", 2)] == reserved
    check_journal(scene.history("checkout-1"), scene.effects())


@pytest.mark.parametrize("place", ["before-commit", "after-commit"])
@pytest.mark.parametrize("ordinal", [1, 2, 3, 4, 5])
def test_a_kill_around_any_commit_loses_and_repeats_nothing(scene: Scene, place: str, ordinal: int) -> None:
    """A4, A5: what was committed is found and not executed again; what was not is."""
    code, _ = scene.run("run", "checkout-1", f"KILL:{place}:{ordinal}")
    assert code in (-signal.SIGKILL, 0)  # 0: the steps' results shared fewer entries this time
    recorded = {
        event.key: entry.version
        for entry in (scene.history("checkout-1") if (place, ordinal) != ("before-commit", 1) else [])
        for event in entry.events
        if isinstance(event, StepCompleted)
    }
    before = Counter(key for _, key, *_ in (scene.effects() if Path(f"{scene.db}.effects").exists() else []))

    assert scene.run("run", "checkout-1") == (0, RESULT)

    after = Counter(key for _, key, *_ in scene.effects())
    for key in recorded:
        full = next(full for full in after if full.endswith(f"/{key}"))
        assert before[full] == after[full], "a step was executed again after its result was recorded"
    check_journal(scene.history("checkout-1"), scene.effects())


def test_five_kills_in_a_row_cost_one_entry_each_and_nothing_else(scene: Scene) -> None:
    """A7: the journal grows by the claims, the attempts count up."""
    for _ in range(5):
        code, _ = scene.run("run", "checkout-1", "KILL:in-body:1")
        assert code == -signal.SIGKILL

    assert scene.run("run", "checkout-1") == (0, RESULT)
    history = scene.history("checkout-1")
    resumed = [event for entry in history for event in entry.events if isinstance(event, RunResumed)]
    assert 5 == len(resumed)
    assert {"killed"} == {event.why for event in resumed}
    assert [1, 2, 3, 4, 5, 6] == [attempt for step, _, attempt, *_ in scene.effects() if step == "reserve"]


def test_an_at_most_once_step_is_not_executed_again_after_a_kill(scene: Scene) -> None:
    """The intent was committed before the body, so the code learns that nobody knows."""
    code, _ = scene.run("run", "announce-1", "KILL:in-body:1")

    assert code == -signal.SIGKILL
    assert scene.run("run", "announce-1") == (0, "unknown announce-1")
    assert 1 == len(scene.effects())
    events = [event for entry in scene.history("announce-1") for event in entry.events]
    assert any(isinstance(event, StepOutcomeUnknown) for event in events)


def test_another_live_worker_takes_over_from_a_killed_one_at_once(scene: Scene) -> None:
    """The OS lock proves the death: nobody waits for the lease."""
    helper = scene.spawn("serve")
    assert helper.stdout is not None
    assert "serving" == helper.stdout.readline().strip()
    code, _ = scene.run("run", "checkout-1", "KILL:in-body:1")
    killed_at = time.monotonic()

    wait_until(lambda: scene.status("checkout-1") is es.Status.SUCCEEDED)

    assert code == -signal.SIGKILL
    assert time.monotonic() - killed_at < PATIENCE_SECONDS
    claims = [event for entry in scene.history("checkout-1") for event in entry.events if isinstance(event, RunResumed)]
    assert ["killed"] == [claim.why for claim in claims]
    check_journal(scene.history("checkout-1"), scene.effects())


@pytest.mark.parametrize("place", ["in-body:1", "before-commit:2", "after-commit:2"])
def test_a_frozen_worker_is_fenced_when_it_wakes(scene: Scene, place: str) -> None:
    """C1: it stops beyond its lease between effect and append; another takes over; what it then writes is refused."""
    frozen = scene.spawn("run", "checkout-1", f"STOP:{place}")
    wait_until(lambda: is_stopped(frozen.pid))

    assert scene.run("run", "checkout-1") == (0, RESULT)
    history = scene.history("checkout-1")
    frozen.send_signal(signal.SIGCONT)
    out, err = frozen.communicate(timeout=PATIENCE_SECONDS)

    assert (0, RESULT) == (frozen.returncode, out.strip()), err
    assert history == scene.history("checkout-1"), "the zombie wrote something"
    claims = [event for entry in history for event in entry.events if isinstance(event, RunResumed)]
    assert ["lease expired"] == [claim.why for claim in claims]
    check_journal(history, scene.effects())


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_run_that_kills_every_worker_is_given_up_and_others_are_not(scene: Scene) -> None:
    """G1: deaths are counted before the next execution; a healthy run beside it finishes."""
    scene.run("start", "poison-1")
    scene.run("start", "checkout-1")
    for _ in range(12):
        worker = scene.spawn("serve")
        wait_until(lambda worker=worker: worker.poll() is not None or scene.status("poison-1").is_at_rest)
        if scene.status("poison-1").is_at_rest:
            break

    assert es.Status.DEAD is scene.status("poison-1")
    wait_until(lambda: scene.status("checkout-1") is es.Status.SUCCEEDED)
    events = [event for entry in scene.history("poison-1") for event in entry.events]
    assert isinstance(events[-1], RunDied)
    assert 4 == len([effect for effect in scene.effects() if effect[0] == "crash"])


def test_workers_killed_at_random_lose_nothing_and_repeat_no_recorded_step(scene: Scene) -> None:
    """Three workers, thirty runs, kills at random moments."""
    seed = int(os.environ.get("EVERSTEP_SEED", "7"))
    dice = random.Random(seed)
    run_ids = [f"checkout-{n}" for n in range(30)]
    for run_id in run_ids[:3]:
        scene.run("start", run_id)
    asyncio.run(start_all(scene, run_ids))
    workers = [scene.spawn("serve") for _ in range(3)]
    for _ in range(8):
        time.sleep(dice.uniform(0.05, 0.4))
        victim = dice.randrange(3)
        workers[victim].kill()
        workers[victim] = scene.spawn("serve")

    wait_until(lambda: all_succeeded(scene, run_ids))

    effects = scene.effects()
    for run_id in run_ids:
        history = scene.history(run_id)
        check_journal(history, [effect for effect in effects if effect[1].startswith(f"{run_id}/")])
        [*_, last] = history[-1].events
        assert isinstance(last, RunSucceeded), f"seed {seed}"
        assert f'"shipped {run_id}: reserved {run_id}, charged {run_id}"'.encode() == bytes(last.result)


@es.workflow
async def checkout(order_id: str) -> str:
    """Only to be started: the workers have the code."""
    raise NotImplementedError


async def start_all(scene: Scene, run_ids: list[str]) -> None:
    async with es.Client(scene.url) as client:
        for run_id in run_ids:
            await client.start(checkout(run_id), id=run_id)


def all_succeeded(scene: Scene, run_ids: list[str]) -> bool:
    return all(scene.status(run_id) is es.Status.SUCCEEDED for run_id in run_ids)


def test_a_worker_that_is_told_to_stop_hands_its_runs_back(scene: Scene) -> None:
    """SIGTERM drains: what was running is claimed at once by the next, without waiting for a lease."""
    worker = scene.spawn("serve")
    scene.run("start", "checkout-1")
    scene.wait_for_effect("reserve")
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=PATIENCE_SECONDS)

    assert (0, "") == (worker.returncode, err)
    assert scene.run("run", "checkout-1") == (0, RESULT)
    claims = [event for entry in scene.history("checkout-1") for event in entry.events]
    assert not any(isinstance(event, RunResumed) for event in claims)
    assert any(isinstance(event, RunClaimed) for event in claims)
