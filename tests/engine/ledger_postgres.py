"""
The program that ``test_ledger_postgres.py`` starts, kills and stops: the transfers of ``ledger.py`` on PostgreSQL, where each
step uses another driver. Not a test itself.

    ledger_postgres.py DB run RUN_ID [FAILPOINT]            make one transfer, print its result
    ledger_postgres.py DB serve [FAILPOINT]                 drive whatever there is until SIGTERM

``DB.json`` has the URL of the store and the lease. Places are those of ``ledger.py``. Run ids are ``move-N``.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import psycopg

import everstep as es
from everstep.records import BodyKind
from everstep.stores.base import ANY_BODY, Append, Outcome, RolledBack, Slot, TransactionBody
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.of_asyncpg import LentAsyncpg
from everstep.stores.postgres.of_psycopg import LentPsycopg
from everstep.stores.urls import open_store
from tests.engine.failpoints import Failpoint

ACCOUNTS = 5
DB = Path(sys.argv[1])
SETTINGS = json.loads(DB.with_suffix(".json").read_text())
BANK = f"{Address(SETTINGS['url']).schema}_bank"
failpoint = Failpoint(sys.argv[-1]) if sys.argv[-1].count(":") == 2 else Failpoint()


patient = es.Retry(attempts=None, delay=0.1)  # A busy machine may take longer than a third of a short lease.


@es.transaction(retry=patient)
async def debit(tx: asyncpg.Connection, name: int, cents: int) -> int:
    await tx.execute(f"UPDATE {BANK}.accounts SET cents = cents - $1 WHERE name = $2", cents, name)
    here = es.current()
    effect = (here.idempotency_key, here.attempt, here.epoch)
    await tx.execute(f"INSERT INTO {BANK}.effects VALUES ($1, $2, $3)", *effect)
    failpoint.passes("in-body")
    return cents


@es.transaction(retry=patient)
def credit(tx: psycopg.Connection[Any], name: int, cents: int) -> int:
    tx.execute(f"UPDATE {BANK}.accounts SET cents = cents + %s WHERE name = %s".encode(), (cents, name))
    here = es.current()
    effect = (here.idempotency_key, here.attempt, here.epoch)
    tx.execute(f"INSERT INTO {BANK}.effects VALUES (%s, %s, %s)".encode(), effect)
    failpoint.passes("in-body")
    return cents


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
    """The store, with the failpoint around its transactions."""
    store: Any = open_store(SETTINGS["url"])
    transact = store.transact

    async def failing_transact(slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        async def failing_body(tx: Any) -> Append | None:
            append = await body(tx)
            failpoint.passes("after-body")
            return append

        failpoint.passes("before-body")
        outcome: Outcome | RolledBack = await transact(slot, failing_body, kind)
        failpoint.passes("after-commit")
        return outcome

    store.transact = failing_transact
    for lent in (LentAsyncpg, LentPsycopg):
        fail_before_commit(lent)
    return store


def fail_before_commit(lent: Any) -> None:
    """The entry is written, and not committed."""
    commit = lent.commit

    async def failing_commit(self: Any) -> None:
        failpoint.passes("before-commit")
        await commit(self)

    lent.commit = failing_commit


async def main() -> None:
    verb = sys.argv[2]
    async with es.Engine(open_failing_store(), [move], lease=SETTINGS["lease"], grace=1) as engine:
        if verb == "run":
            handle = await engine.start(move(int(sys.argv[3].partition("-")[2])), id=sys.argv[3])
            print(await handle.result(), flush=True)
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.drain)
            print("serving", flush=True)
            await engine.serve()


if __name__ == "__main__":
    asyncio.run(main())
