"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import everstep as es
from examples.subscription.job import Account, payment, subscription


def call(folder: Path) -> es.Call[Account]:
    return subscription(str(folder / "invoices.txt"), Account("ann"), months=2)


def small_call(folder: Path) -> es.Call[Account]:
    return subscription(str(folder / "invoices.txt"), Account("ann"), months=1, month_seconds=10)


def effects(folder: Path) -> str:
    """The invoices, each with its idempotency key."""
    return (folder / "invoices.txt").read_text(encoding="utf-8")


async def drive(handle: es.Handle[Account]) -> None:
    """Pay for every month, or until the subscription is over."""
    with suppress(es.RunEnded):
        for month in (1, 2):
            await handle.send(payment, 999, key=f"month {month}")
