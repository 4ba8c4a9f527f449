"""
A pipeline over one payload: read → validate → convert → load. Each step gets what the one before returned, typed.

The payload is a value: what was read, what became of it, and what each step has to say. A row that cannot be right stops the
pipeline, and keeps all that came before.
"""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import everstep as es

RATES = {"EUR": Decimal(1), "USD": Decimal("0.92")}


@dataclass(frozen=True)
class Order:
    order: int
    customer: str
    cents: int | None
    currency: str = "EUR"


@dataclass(frozen=True)
class Batch:
    """The payload.

    Attributes:
        source: CSV file.
        target: SQLite file.
        orders: What was read, and is being worked on.
        log: What each step did.
    """

    source: str
    target: str
    orders: list[Order] = field(default_factory=list[Order])
    log: list[str] = field(default_factory=list[str])


@es.step
def read(batch: Batch) -> Batch:
    with Path(batch.source).open(encoding="utf-8", newline="") as file:
        orders = [_order(row) for row in csv.DictReader(file)]
    return replace(batch, orders=orders, log=[*batch.log, f"read {len(orders)} orders"])


@es.step
def validate(batch: Batch) -> Batch:
    wrong = [order.order for order in batch.orders if order.cents is None or order.currency not in RATES]
    if wrong:
        raise ValueError(f"orders without a sum or a known currency: {', '.join(map(str, wrong))}")
    return replace(batch, log=[*batch.log, "all have a sum"])


@es.step
def convert(batch: Batch) -> Batch:
    orders = [replace(order, cents=_euros(order), currency="EUR") for order in batch.orders]
    changed = sum(before != after for before, after in zip(batch.orders, orders, strict=True))
    return replace(batch, orders=orders, log=[*batch.log, f"converted {changed}"])


@es.step
def load(batch: Batch) -> Batch:
    """Safe to repeat: the order's number is the key."""
    with closing(sqlite3.connect(batch.target)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS orders(number INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)")
        rows = [(order.order, order.customer, order.cents) for order in batch.orders]
        db.executemany("INSERT OR REPLACE INTO orders VALUES (?, ?, ?)", rows)
    return replace(batch, log=[*batch.log, f"loaded {len(batch.orders)}"])


etl = es.pipeline("etl", Batch, [read, validate, convert, load])


def _order(row: dict[str, str]) -> Order:
    return Order(int(row["order"]), row["customer"], int(row["cents"]) if row["cents"] else None, row["currency"])


def _euros(order: Order) -> int:
    return round((order.cents or 0) * RATES[order.currency])
