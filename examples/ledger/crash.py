"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import everstep as es
from examples.ledger.ledger import setup, transfer

KILLS = ("process",)  # its transactions need a real store
WORKFLOWS = (setup, transfer)


@es.workflow
async def first_transfer() -> str:
    await setup()
    return await transfer(0)


def call(_: Path) -> es.Call[str]:
    return first_transfer()


def effects(folder: Path) -> tuple[object, object]:
    """Every account and every line of the books, out of the store itself: it is beside the folder."""
    with closing(sqlite3.connect(folder.parent / "state.db")) as db:
        accounts = db.execute("SELECT * FROM accounts ORDER BY name").fetchall()
        return accounts, db.execute("SELECT * FROM books ORDER BY account").fetchall()
