"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import everstep as es
from examples.etl.job import Batch, etl

GOOD = "order,customer,cents,currency\n1,ann,100,EUR\n2,bob,200,USD\n"


def call(folder: Path) -> es.Call[Batch]:
    source = folder / "orders.csv"
    source.write_text(GOOD, encoding="utf-8")
    return etl(Batch(str(source), str(folder / "orders.db")))


def effects(folder: Path) -> list[tuple[object, ...]]:
    """Every row of the target."""
    with closing(sqlite3.connect(folder / "orders.db")) as db:
        return db.execute("SELECT * FROM orders ORDER BY number").fetchall()
