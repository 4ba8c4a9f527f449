"""
python -m examples.etl.demo: a pipeline stops at a bad row, a person corrects the payload, and it goes on at its cursor.

Then a fork answers a question about the same data, without touching the run that it forks.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import everstep as es
from examples.etl.job import Batch, Order, etl

SOURCE = Path(__file__).parent / "orders.csv"


async def main(folder: Path) -> None:
    """Tell what happens, step by step."""
    async with es.Engine(f"sqlite:///{folder / 'everstep.db'}", workflows=[etl]) as engine:
        handle = await engine.start(etl(Batch(str(SOURCE), str(folder / "orders.db"))), id="orders-may")
        try:
            await handle.result()
        except es.RunFailed as failed:
            print(f"stopped:  {failed.__cause__}")
        snapshot = await handle.snapshot()
        print(f"kept:     {_log(snapshot)}, at step {snapshot.current_step.cursor} of 4")

        batch = await _payload(handle)
        corrected = [replace(order, cents=3000) if order.order == 1004 else order for order in batch.orders]
        mended = replace(batch, orders=corrected, log=[*batch.log, "1004 corrected by hand"])
        await handle.complete_step("validate", mended, "cleo's order, from the paper copy", actor="ann")
        print(f"finished: {', '.join((await handle.result()).log)}")
        print(f"loaded:   {_totals(folder / 'orders.db')}")

        without = replace(mended, target=str(folder / "without.db"), orders=[o for o in corrected if o.order != 1004])
        fork = await handle.fork(edit={"validate": without}, id="orders-may-without-1004", reason="what if", actor="ann")
        await fork.result()
        print(f"forked:   {_totals(folder / 'without.db')}")


async def _payload(handle: es.Handle[Batch]) -> Batch:
    """The payload as it is now: a snapshot is plain data."""
    now: Any = (await handle.snapshot()).payload
    orders = [Order(**order) for order in now["orders"]]
    return Batch(now["source"], now["target"], orders, now["log"])


def _log(snapshot: es.Snapshot) -> str:
    log: Any = snapshot.payload["log"]
    return ", ".join(log)


def _totals(target: Path) -> str:
    with closing(sqlite3.connect(target)) as db:
        rows = db.execute("SELECT customer, sum(cents) FROM orders GROUP BY customer ORDER BY customer")
        return ", ".join(f"{customer} {cents}" for customer, cents in rows)


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
