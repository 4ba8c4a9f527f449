"""
Three providers that know nothing of everstep: an airline, a hotel and a car rental, each a small database of its own.

They do what real ones do: a booking made twice with the same key is one booking, and giving back what one does not hold is no
error. Of cars there are none left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

PROVIDERS = ("flight", "hotel", "car")
SCHEMA = """
CREATE TABLE IF NOT EXISTS bookings (key TEXT PRIMARY KEY, trip TEXT, number INTEGER, cancelled_by TEXT);
"""


class SoldOut(Exception):
    """Nothing is left."""


def book(folder: str, provider: str, trip: str, key: str) -> str:
    """Book for a trip and return the number of the booking. With a key that was seen before: that booking again."""
    if provider == "car":
        raise SoldOut("no car is left")
    with _books(folder, provider) as db:
        number = db.execute("SELECT count(*) + 1 FROM bookings").fetchone()[0]
        db.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?, ?, NULL)", (key, trip, number))
        [number] = db.execute("SELECT number FROM bookings WHERE key = ?", (key,)).fetchone()
    return f"{provider}-{number}"


def cancel(folder: str, provider: str, number: str, key: str) -> None:
    """Give a booking back. Safe to repeat, with the same key or another."""
    with _books(folder, provider) as db:
        db.execute(
            "UPDATE bookings SET cancelled_by = ? WHERE number = ? AND cancelled_by IS NULL",
            (key, int(number.rpartition("-")[2])),
        )


def held(folder: Path) -> dict[str, int]:
    """How many bookings each provider holds and has not been given back."""
    return {provider: _count(folder, provider, "cancelled_by IS NULL") for provider in PROVIDERS}


def given_back(folder: Path) -> dict[str, int]:
    """How many have been given back."""
    return {provider: _count(folder, provider, "cancelled_by IS NOT NULL") for provider in PROVIDERS}


def _count(folder: Path, provider: str, which: str) -> int:
    with _books(str(folder), provider) as db:
        count: int = db.execute(f"SELECT count(*) FROM bookings WHERE {which}").fetchone()[0]
        return count


@contextmanager
def _books(folder: str, provider: str) -> Generator[sqlite3.Connection, None, None]:
    with closing(sqlite3.connect(Path(folder) / f"{provider}.db", timeout=30)) as db:
        db.executescript(SCHEMA)
        with db:
            yield db
