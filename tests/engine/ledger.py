"""
The program that ``test_ledger.py`` starts, kills and stops: transfers between accounts, each step a transaction. Not a test
itself.

    ledger.py DB open                              make the accounts
    ledger.py DB run RUN_ID [FAILPOINT]            make one transfer, print its result
    ledger.py DB serve [FAILPOINT]                 drive whatever there is until SIGTERM

Failpoints are those of ``program.py``. Places: ``before-body``, ``in-body`` (after its SQL), ``after-body`` (its result is
encoded), ``before-commit`` (the entry is written too), ``after-commit``. Run ids are ``move-N``; N decides on the transfer.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

import everstep as es
from everstep.records import BodyKind
from everstep.stores.base import ANY_BODY, Append, Outcome, RolledBack, Slot, TransactionBody
from everstep.stores.sqlite.transaction import Tx, Writer
from everstep.stores.urls import open_store
from tests.engine.failpoints import Failpoint

LEASE_SECONDS = 1.5
ACCOUNTS = 5
CENTS = 1000
DB = Path(sys.argv[1])
failpoint = Failpoint(sys.argv[-1]) if sys.argv[-1].count(":") == 2 else Failpoint()


def note(tx: es.SQLiteTx) -> None:
    """Leave a trace of this execution, in the same transaction."""
    here = es.current()
    tx.execute("INSERT INTO effects VALUES (?, ?, ?)", (here.idempotency_key, here.attempt, here.epoch))


@es.transaction
def open_accounts(tx: es.SQLiteTx) -> int:
    tx.execute("CREATE TABLE accounts(name INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
    tx.execute("CREATE TABLE effects(key TEXT NOT NULL, attempt INTEGER NOT NULL, epoch INTEGER NOT NULL)")
    return tx.executemany("INSERT INTO accounts VALUES (?, ?)", [(name, CENTS) for name in range(ACCOUNTS)]).rowcount


@es.transaction
def debit(tx: es.SQLiteTx, name: int, cents: int) -> int:
    tx.execute("UPDATE accounts SET cents = cents - ? WHERE name = ?", (cents, name))
    note(tx)
    failpoint.passes("in-body")
    return cents


@es.transaction
async def credit(tx: es.SQLiteTx, name: int, cents: int) -> int:
    tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, name))
    await asyncio.sleep(0)
    note(tx)
    failpoint.passes("in-body")
    return cents


@es.workflow
async def setup() -> int:
    return await open_accounts()


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


def open_failing_store() -> Any:
    """The SQLite store, with the failpoint around its transactions."""
    store: Any = open_store(f"sqlite:///{DB}")
    writer: Any = Writer
    transact, commit = store.transact, writer._commit

    async def failing_transact(slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        async def failing_body(tx: Any) -> Append | None:
            append = await body(tx)
            failpoint.passes("after-body")
            return append

        failpoint.passes("before-body")
        outcome: Outcome | RolledBack = await transact(slot, failing_body, kind)
        failpoint.passes("after-commit")
        return outcome

    def failing_commit(self: Any, tx: Tx) -> None:
        if tx is not self.tx:
            failpoint.passes("before-commit")
        commit(self, tx)

    store.transact = failing_transact
    writer._commit = failing_commit
    return store


async def main() -> None:
    verb, run_id = sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
    async with es.Engine(open_failing_store(), [setup, move], lease=LEASE_SECONDS, grace=1) as engine:
        match verb:
            case "open":
                print(await (await engine.start(setup(), id="setup")).result(), flush=True)
            case "run":
                handle = await engine.start(move(int(run_id.partition("-")[2])), id=run_id)
                print(await handle.result(), flush=True)
            case _:
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.drain)
                print("serving", flush=True)
                await engine.serve()


if __name__ == "__main__":
    asyncio.run(main())
