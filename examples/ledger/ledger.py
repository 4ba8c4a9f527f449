"""
Transfers between accounts that are never done twice and never half, whenever this program is killed.

    python -m examples.ledger.ledger bank.db

Every transfer is a run of two transactional steps. The SQL of a step and the record of its result are one commit in one file,
so there is no instant at which one is there without the other. Run it, kill it, run it again: it goes on where it was.
"""

from __future__ import annotations

import asyncio
import sys

import everstep as es

ACCOUNTS = ("ann", "bob", "cy", "dee")
CENTS = 1000
TRANSFERS = 40


@es.transaction
def open_accounts(tx: es.SQLiteTx) -> None:
    """The tables stand in the store's own file. The books take the same line twice: nothing here hides a repetition."""
    tx.execute("CREATE TABLE accounts(name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0))")
    tx.execute("CREATE TABLE books(transfer INTEGER NOT NULL, account TEXT NOT NULL, cents INTEGER NOT NULL)")
    tx.executemany("INSERT INTO accounts VALUES (?, ?)", [(name, CENTS) for name in ACCOUNTS])


@es.transaction
def book(tx: es.SQLiteTx, transfer: int, account: str, cents: int) -> int:
    """Change one account; the balance after it."""
    tx.execute("INSERT INTO books VALUES (?, ?, ?)", (transfer, account, cents))
    [(balance,)] = tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ? RETURNING cents", (cents, account))
    return int(balance)


@es.workflow
async def setup() -> None:
    """Before anything else, once."""
    await open_accounts()


@es.workflow
async def transfer(number: int) -> str:
    """Take from one, give to the next; in between the money is in nobody's account, for as long as that takes."""
    giver, taker = ACCOUNTS[number % 4], ACCOUNTS[(number + 1) % 4]
    left = await book(number, giver, -10)
    await asyncio.sleep(0.01)
    has = await book(number, taker, 10)
    return f"transfer {number}: {giver} has {left}, {taker} has {has}"


async def main(path: str) -> None:
    """Make all transfers, whatever of it is done already."""
    async with es.Engine(f"sqlite:///{path}", [setup, transfer], lease=3) as engine:
        await (await engine.start(setup(), id="setup")).result()
        for number in range(TRANSFERS):
            handle = await engine.start(transfer(number), id=f"transfer-{number}")
            print(await handle.result(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "bank.db"))
