"""
Money under SIGKILL on PostgreSQL: the promises of ``test_ledger.py`` (I4), with bodies in two drivers and several workers on
one server. A process that is killed leaves its seat; one that is stopped loses its transaction to the server, and its run to
its lease.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.events import RunResumed
from tests.engine.test_ledger import ACCOUNTS, CENTS, PLACES, Ledger, move, result_of
from tests.engine.test_processes import PATIENCE_SECONDS, is_stopped, wait_until

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")
pytest.importorskip("psycopg", reason="needs psycopg: pip install --group test")

from everstep.stores.postgres import link
from everstep.stores.postgres.address import Address


class Bank(Ledger):
    """The accounts in a schema beside the store's, and the processes on them."""

    program = Path(__file__).with_name("ledger_postgres.py")

    def __init__(self, folder: Path, url: str, lease: float) -> None:
        super().__init__(folder, url=url, lease=lease)
        self._address = Address(url)

    async def _ask(self, *statements: str) -> list[Any]:
        connection = await link.connect(self._address, is_pooled=True)
        await connection.execute(f"SET search_path = {self._address.schema}_bank")
        found = [await connection.fetch(statement) for statement in statements][-1]
        await connection.close()
        return [tuple(row) for row in found]

    def open(self) -> None:
        """Make the accounts."""
        accounts = ", ".join(f"({name}, {CENTS})" for name in range(ACCOUNTS))
        asyncio.run(
            self._ask(
                f"CREATE SCHEMA {self._address.schema}_bank",
                "CREATE TABLE accounts(name int PRIMARY KEY, cents int NOT NULL)",
                "CREATE TABLE effects(key text NOT NULL, attempt int NOT NULL, epoch int NOT NULL)",
                f"INSERT INTO accounts VALUES {accounts}",
            )
        )

    def has_succeeded(self, run_id: str) -> bool:
        return self.status(run_id) is es.Status.SUCCEEDED

    def rows(self, statement: str) -> list[Any]:
        return asyncio.run(self._ask(statement))


def a_bank(folder: Path, url: str, lease: float) -> Iterator[Bank]:
    bank = Bank(folder, url, lease)
    bank.open()
    yield bank
    for process in bank.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def bank(tmp_path: Path, postgres_url: str) -> Iterator[Bank]:
    """Leases that outlast the test: whoever is found dead was found by its seat."""
    yield from a_bank(tmp_path, postgres_url, 60)


@pytest.fixture
def impatient(tmp_path: Path, postgres_url: str) -> Iterator[Bank]:
    """Leases that run out."""
    yield from a_bank(tmp_path, postgres_url, 2)


@pytest.mark.parametrize("point", ["in-body:1", "after-body:2", "before-commit:1", "before-commit:3", "after-commit:2"])
def test_a_kill_at_any_point_of_a_transaction_loses_and_repeats_nothing(bank: Bank, point: str) -> None:
    """A3, A4: the first transaction of a run is one of asyncpg, the others are of psycopg."""
    code, _ = bank.run("run", "move-1", f"KILL:{point}")

    assert -signal.SIGKILL == code
    bank.check(["move-1"])
    assert (0, result_of("move-1")) == bank.run("run", "move-1")
    bank.check(["move-1"])
    assert [(3,)] == bank.rows("SELECT count(*) FROM effects")
    if "after-commit" not in point:
        assert [(2,)] == bank.rows("SELECT max(attempt) FROM effects")


@pytest.mark.parametrize("point", ["before-body:1", "in-body:1", "before-commit:2"])
def test_a_worker_that_is_stopped_in_a_transaction_loses_it_and_writes_nothing_when_it_wakes(
    impatient: Bank, point: str
) -> None:
    """C1: the server has ended its transaction long before its run is taken over, so its locks are in nobody's way."""
    stopped = impatient.spawn("run", "move-3", f"STOP:{point}")
    wait_until(lambda: is_stopped(stopped.pid))

    assert (0, result_of("move-3")) == impatient.run("run", "move-3")
    history = impatient.history("move-3")
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=PATIENCE_SECONDS)

    assert (0, result_of("move-3")) == (stopped.returncode, out.strip()), err
    assert history == impatient.history("move-3"), "the zombie wrote something"
    impatient.check(["move-3"])
    assert ["lease expired"] == [event.why for entry in history for event in entry.events if isinstance(event, RunResumed)]


def test_workers_killed_and_stopped_at_random_conserve_the_money(impatient: Bank) -> None:
    """Two workers, ten transfers; kills and stops at random moments and at random points."""
    seed = int(os.environ.get("EVERSTEP_SEED", "17"))
    dice = random.Random(seed)
    run_ids = [f"move-{n}" for n in range(10)]
    asyncio.run(start_all(impatient, run_ids))
    workers = [impatient.spawn("serve") for _ in range(2)]
    for _ in range(5):
        victim = dice.randrange(2)
        time.sleep(dice.uniform(0.1, 0.5))
        if dice.random() < 0.7:
            workers[victim].kill()
        else:
            workers[victim].send_signal(signal.SIGSTOP)
        workers[victim] = impatient.spawn("serve", f"KILL:{dice.choice(PLACES)}:{dice.randint(1, 4)}")
        workers = [each if each.poll() is None else impatient.spawn("serve") for each in workers]
    for each in impatient.processes:
        each.send_signal(signal.SIGCONT)
    workers.append(impatient.spawn("serve"))

    for run_id in run_ids:
        wait_until(partial(impatient.has_succeeded, run_id))
    impatient.check(run_ids)
    assert [(30,)] == impatient.rows("SELECT count(*) FROM effects"), f"seed {seed}"


async def start_all(bank: Bank, run_ids: list[str]) -> None:
    async with es.Client(bank.url) as client:
        for run_id in run_ids:
            await client.start(move(int(run_id.partition("-")[2])), id=run_id)
