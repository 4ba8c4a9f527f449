"""
Money under SIGKILL: transfers between accounts as transactional steps, in processes that are killed and stopped at every point.

What must hold after every one of them (I4): no money is lost or made, every step that the journal says is completed has had its
effect, once, and there is no effect that the journal does not know. No idempotency key does this: the table of effects takes
duplicates.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import apsw
import pytest

import everstep as es
from everstep.client import HistoryEntry
from everstep.events import RunResumed, StepCompleted, StepScheduled
from everstep.stores.sqlite.ask import Row, asking
from tests.engine.test_processes import PATIENCE_SECONDS, Scene, is_stopped, wait_until

ACCOUNTS, CENTS = 5, 1000
PLACES = ["before-body", "in-body", "after-body", "before-commit", "after-commit"]


class Ledger(Scene):
    """The database with the accounts, and the processes on it."""

    program = Path(__file__).with_name("ledger.py")

    def rows(self, statement: str) -> list[Row]:
        with closing(apsw.Connection(str(self.db), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            return asking(connection)(statement).fetchall()

    def check(self, run_ids: list[str]) -> None:
        """I4, and I1 and I3 for each journal."""
        completed = [key for run_id in run_ids for key in completed_in(self.history(run_id), run_id)]
        effects = Counter(str(key) for (key,) in self.rows("SELECT key FROM effects"))
        assert Counter(completed) == effects
        assert set(effects.values()) <= {1}
        assert expected_balances(completed) == dict(self.rows("SELECT name, cents FROM accounts"))


def completed_in(history: list[HistoryEntry], run_id: str) -> list[str]:
    """The idempotency keys of the steps that a journal says are completed."""
    events = [event for entry in history for event in entry.events]
    names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
    return [f"{run_id}/{names[event.key]}/{event.key}" for event in events if isinstance(event, StepCompleted)]


def expected_balances(completed: list[str]) -> dict[int, int]:
    """What the accounts must hold after these steps: worked out here a second time, from the numbers of the runs."""
    balances = dict.fromkeys(range(ACCOUNTS), CENTS)
    for key in completed:
        run_id, step, command = key.split("/")
        giver, first, second, cents = transfer(int(run_id.partition("-")[2]))
        if step == "debit":
            balances[giver] -= cents
        else:
            balances[first if command == "0.1:1" else second] += cents // 2
    return balances


def transfer(number: int) -> tuple[int, int, int, int]:
    dice = Random(number)
    giver, first, second = dice.sample(range(ACCOUNTS), 3)
    return giver, first, second, 2 * dice.randint(1, 50)


def result_of(run_id: str) -> str:
    number = int(run_id.partition("-")[2])
    giver, first, second, cents = transfer(number)
    return f"{number}: {cents} from {giver} to {first} and {second}"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path)
    assert (0, "5") == ledger.run("open")
    yield ledger
    for process in ledger.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ordinal", [1, 2, 3])
def test_a_kill_at_any_point_of_a_transaction_loses_and_repeats_nothing(ledger: Ledger, place: str, ordinal: int) -> None:
    """A3, A4: before the commit there is neither effect nor event, after it both; then the run is finished by another."""
    code, _ = ledger.run("run", "move-1", f"KILL:{place}:{ordinal}")

    assert -signal.SIGKILL == code
    ledger.check(["move-1"])
    assert (0, result_of("move-1")) == ledger.run("run", "move-1")
    ledger.check(["move-1"])
    assert [(3,)] == ledger.rows("SELECT count(*) FROM effects")
    if place != "after-commit":
        assert 1 == len(ledger.rows("SELECT 1 FROM effects WHERE attempt = 2 LIMIT 1"))


@pytest.mark.parametrize("place", PLACES)
def test_five_kills_in_a_row_are_as_one(ledger: Ledger, place: str) -> None:
    """A7."""
    for _ in range(5):
        code, _ = ledger.run("run", "move-2", f"KILL:{place}:1")
        ledger.check(["move-2"])
        if code == 0:
            break  # After a commit each life gets one step further.

    assert (0, result_of("move-2")) == ledger.run("run", "move-2")
    ledger.check(["move-2"])


def test_a_worker_that_was_stopped_before_its_body_is_fenced_and_never_runs_it(ledger: Ledger) -> None:
    """C1: it wakes up after the takeover."""
    stopped = ledger.spawn("run", "move-3", "STOP:before-body:1")
    wait_until(lambda: is_stopped(stopped.pid))

    assert (0, result_of("move-3")) == ledger.run("run", "move-3")
    history = ledger.history("move-3")
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=PATIENCE_SECONDS)

    assert (0, result_of("move-3")) == (stopped.returncode, out.strip()), err
    assert history == ledger.history("move-3"), "the zombie wrote something"
    ledger.check(["move-3"])
    assert ["lease expired"] == [event.why for entry in history for event in entry.events if isinstance(event, RunResumed)]


@pytest.mark.parametrize("place", ["in-body", "before-commit"])
def test_a_worker_that_is_stopped_inside_its_body_makes_the_others_wait_and_goes_on(ledger: Ledger, place: str) -> None:
    """The file has one lock: nobody can take the run over meanwhile, so there is nothing to be fenced from."""
    stopped = ledger.spawn("run", "move-4", f"STOP:{place}:1")
    wait_until(lambda: is_stopped(stopped.pid))
    helper = ledger.spawn("serve")
    time.sleep(2.5)  # Longer than the lease.
    assert [] == ledger.rows("SELECT * FROM effects")
    stopped.send_signal(signal.SIGCONT)

    wait_until(lambda: ledger.status("move-4") is es.Status.SUCCEEDED)
    ledger.check(["move-4"])
    stopped.communicate(timeout=PATIENCE_SECONDS)
    helper.send_signal(signal.SIGTERM)
    helper.communicate(timeout=PATIENCE_SECONDS)
    assert (0, 0) == (stopped.returncode, helper.returncode)


def test_workers_killed_at_random_conserve_the_money(ledger: Ledger) -> None:
    """Three workers, thirty transfers, kills at random moments and at random points."""
    seed = int(os.environ.get("EVERSTEP_SEED", "11"))
    dice = random.Random(seed)
    run_ids = [f"move-{n}" for n in range(30)]
    asyncio.run(start_all(ledger, run_ids))
    workers = [ledger.spawn("serve") for _ in range(3)]
    for _ in range(12):
        victim = dice.randrange(3)
        if dice.random() < 0.5:
            time.sleep(dice.uniform(0.05, 0.4))
            workers[victim].kill()
            workers[victim] = ledger.spawn("serve")
        else:
            workers[victim].kill()
            workers[victim] = ledger.spawn("serve", f"KILL:{dice.choice(PLACES)}:{dice.randint(1, 4)}")
        workers = [each if each.poll() is None else ledger.spawn("serve") for each in workers]
    workers.append(ledger.spawn("serve"))

    wait_until(lambda: all(ledger.status(run_id) is es.Status.SUCCEEDED for run_id in run_ids))
    ledger.check(run_ids)
    assert [(90,)] == ledger.rows("SELECT count(*) FROM effects"), f"seed {seed}"


@es.workflow
async def move(number: int) -> str:
    """Only to be started: the workers have the code."""
    raise NotImplementedError


async def start_all(ledger: Ledger, run_ids: list[str]) -> None:
    async with es.Client(f"sqlite:///{ledger.db}") as client:
        for run_id in run_ids:
            await client.start(move(int(run_id.partition("-")[2])), id=run_id)
