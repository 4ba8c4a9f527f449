"""
What `tests/examples/test_crash_everywhere.py` kills: a small import, and what it must leave in its target.

Every example has such a file: `call` and `effects`, and if needed `small_call` (for real processes), `WORKFLOWS` and `drive`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import everstep as es
from examples.airports.job import Report, import_airports

TARGET = "airports.db"


def call(folder: Path) -> es.Call[Report]:
    return import_airports(str(folder / TARGET), limit=900, batch_size=300)


def small_call(folder: Path) -> es.Call[Report]:
    return import_airports(str(folder / TARGET), limit=400, batch_size=400)


def effects(folder: Path) -> tuple[object, object]:
    """Every row of the target, and every idempotency key that it has taken."""
    with closing(sqlite3.connect(folder / TARGET)) as db:
        rows = db.execute("SELECT * FROM airports ORDER BY batch, icao").fetchall()
        return rows, db.execute("SELECT * FROM batches ORDER BY batch").fetchall()
