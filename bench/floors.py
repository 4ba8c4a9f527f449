"""
The least that durability can cost here: apsw, the same settings as the SQLite store, and nothing else.

A floor commits rows of the size that everstep writes into a strict table. It has no index, no chain and no fence: what
everstep takes beyond it is the price of its promises.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from bench.serve import Verb

# What a step's entry weighs while no journal can be read to know better: intent, result and hash of a small step.
ENTRY_BYTES = 400

INSERT = "INSERT INTO entry (run, version, hash, events) VALUES (?, ?, ?, ?)"
SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, version INTEGER NOT NULL, hash BLOB NOT NULL, events BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS blob (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
"""


def connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    for pragma in ("page_size = 4096", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 1000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute(SCHEMA)
    return connection


def average_entry_bytes(store: Path) -> int:
    """What an entry weighs in a store of everstep's: a floor that commits less would be the floor of something else."""
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute(
        "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' AND c.name = 'events'",
    ).fetchall()
    weighed = [connection.execute(f'SELECT avg(length(CAST(events AS BLOB))) FROM "{table}"').get for (table,) in found]
    return round(max((weight for weight in weighed if weight), default=ENTRY_BYTES))


class Floors:
    """The verbs; each returns seconds."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._version = 0

    def single(self, count: int, size: int = ENTRY_BYTES) -> float:
        """Commit ``count`` rows, each alone."""
        events = os.urandom(size)
        started = time.perf_counter()
        for _ in range(count):
            self._connection.execute(INSERT, self._row(events))
        return time.perf_counter() - started

    def grouped(self, count: int, rows: int = 100, size: int = ENTRY_BYTES) -> float:
        """Make ``count`` commits of ``rows`` rows."""
        events = os.urandom(size)
        started = time.perf_counter()
        for _ in range(count):
            with self._connection:
                self._connection.executemany(INSERT, [self._row(events) for _ in range(rows)])
        return time.perf_counter() - started

    def blobs(self, count: int, size: int) -> float:
        """Commit ``count`` blobs, each alone."""
        body = os.urandom(size)
        started = time.perf_counter()
        for _ in range(count):
            self._connection.execute("INSERT INTO blob (body) VALUES (?)", (body,))
        return time.perf_counter() - started

    def _row(self, events: bytes) -> tuple[int, int, bytes, bytes]:
        self._version += 1
        return (1, self._version, events[:32], events)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    connection = connect(directory / "floor.db")
    floors = Floors(connection)
    yield {"single": floors.single, "grouped": floors.grouped, "blobs": floors.blobs}
    connection.close()
