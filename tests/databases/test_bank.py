"""Money in another database under SIGKILL: what was committed there is found by its witness, and not done again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from tests.engine.test_ledger import completed_in, expected_balances, move, result_of
from tests.engine.test_processes import Scene, wait_until

PLACES = ["in-body", "before-commit", "after-commit"]


class Bank(Scene):
    """The store, the bank beside it, and the processes on them."""

    program = Path(__file__).with_name("bank.py")

    def open(self) -> None:
        with closing(sqlite3.connect(f"{self.db}.bank")) as connection:
            connection.executescript(
                "CREATE TABLE accounts(name INTEGER PRIMARY KEY, cents INTEGER); CREATE TABLE effects(key TEXT);"
                + "".join(f"INSERT INTO accounts VALUES ({name}, 1000);" for name in range(5))
            )

    def rows(self, statement: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self.db}.bank")) as connection:
            return connection.execute(statement).fetchall()

    def check(self, run_ids: list[str], *, unrecorded_max: int = 0) -> None:
        """I4: no effect twice; every recorded one is there; the balances say the same. Not every effect is recorded yet."""
        effects = Counter(str(key) for (key,) in self.rows("SELECT key FROM effects"))
        completed = {key for run_id in run_ids for key in completed_in(self.history(run_id), run_id)}
        assert set(effects.values()) <= {1}
        assert completed <= set(effects)
        assert len(effects) - len(completed) <= unrecorded_max
        assert expected_balances(list(effects)) == dict(self.rows("SELECT name, cents FROM accounts"))


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    bank = Bank(tmp_path)
    bank.open()
    yield bank
    for process in bank.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ordinal", [1, 2, 3, 4])
def test_a_kill_at_any_point_loses_and_repeats_nothing(bank: Bank, place: str, ordinal: int) -> None:
    """The table of witnesses is made by a commit too: so there are four."""
    code, _ = bank.run("run", "move-1", f"KILL:{place}:{ordinal}")

    assert code in (-signal.SIGKILL, 0)
    bank.check(["move-1"], unrecorded_max=2)
    assert (0, result_of("move-1")) == bank.run("run", "move-1")
    bank.check(["move-1"])
    assert [(3,)] == bank.rows("SELECT count(*) FROM effects")
    assert [(3,)] == bank.rows("SELECT count(*) FROM everstep_witness WHERE result IS NOT NULL")


def test_workers_killed_at_random_conserve_the_money(bank: Bank) -> None:
    """Three workers, twenty transfers, kills at random moments and at random points."""
    seed = int(os.environ.get("EVERSTEP_SEED", "13"))
    dice = random.Random(seed)
    run_ids = [f"move-{n}" for n in range(20)]
    asyncio.run(start_all(bank, run_ids))
    workers = [bank.spawn("serve") for _ in range(3)]
    for _ in range(8):
        victim = dice.randrange(3)
        time.sleep(dice.uniform(0.05, 0.4))
        workers[victim].kill()
        workers[victim] = bank.spawn("serve", f"KILL:{dice.choice(PLACES)}:{dice.randint(1, 4)}")
        workers = [each if each.poll() is None else bank.spawn("serve") for each in workers]
    workers.append(bank.spawn("serve"))

    wait_until(lambda: all(bank.status(run_id) is es.Status.SUCCEEDED for run_id in run_ids))
    bank.check(run_ids)
    assert [(60,)] == bank.rows("SELECT count(*) FROM effects"), f"seed {seed}"


async def start_all(bank: Bank, run_ids: list[str]) -> None:
    async with es.Client(f"sqlite:///{bank.db}") as client:
        for run_id in run_ids:
            await client.start(move(int(run_id.partition("-")[2])), id=run_id)
