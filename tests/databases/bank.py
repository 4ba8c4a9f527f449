"""
The program that ``test_bank.py`` starts and kills: transfers in a database that is not the store. Not a test itself.

    bank.py DB run RUN_ID [FAILPOINT]              make one transfer, print its result
    bank.py DB serve [FAILPOINT]                   drive whatever there is until SIGTERM

The accounts are in ``DB.bank``. Places: ``in-body`` (after its SQL), ``before-commit``, ``after-commit`` (the effect is there,
and the journal knows nothing of it). Run ids are ``move-N``; N decides on the transfer.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from random import Random
from typing import Any

import everstep as es
from everstep.databases.sqlite import Sqlite3Session
from tests.engine.failpoints import Failpoint

ACCOUNTS = 5
DB = sys.argv[1]
failpoint = Failpoint(sys.argv[-1]) if sys.argv[-1].count(":") == 2 else Failpoint()
bank = es.database(f"sqlite:///{DB}.bank")


@bank.transaction
def debit(tx: sqlite3.Connection, name: int, cents: int) -> int:
    change(tx, name, -cents)
    return cents


@bank.transaction
def credit(tx: sqlite3.Connection, name: int, cents: int) -> int:
    change(tx, name, cents)
    return cents


def change(tx: sqlite3.Connection, name: int, cents: int) -> None:
    tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, name))
    tx.execute("INSERT INTO effects VALUES (?)", (es.current().idempotency_key,))
    failpoint.passes("in-body")


@es.workflow(max_recoveries=1000)
async def move(number: int) -> str:
    """Takes from one account, and gives to two others at once."""
    dice = Random(number)
    giver, first, second = dice.sample(range(ACCOUNTS), 3)
    cents = 2 * dice.randint(1, 50)
    await debit(giver, cents)
    await asyncio.sleep(0.01)
    await asyncio.gather(credit(first, cents // 2), credit(second, cents // 2))
    return f"{number}: {cents} from {giver} to {first} and {second}"


def fail_at_commits() -> None:
    """Put the failpoints around the commit of a session."""
    session: Any = Sqlite3Session
    commit = session.commit

    def failing_commit(self: Any) -> None:
        failpoint.passes("before-commit")
        commit(self)
        failpoint.passes("after-commit")

    session.commit = failing_commit


async def main() -> None:
    fail_at_commits()
    async with es.Engine(f"sqlite:///{DB}", [move], lease=1.5, grace=1) as engine:
        if sys.argv[2] == "run":
            handle = await engine.start(move(int(sys.argv[3].partition("-")[2])), id=sys.argv[3])
            print(await handle.result(), flush=True)
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.drain)
            print("serving", flush=True)
            await engine.serve()


if __name__ == "__main__":
    asyncio.run(main())
