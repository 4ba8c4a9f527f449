"""
Import 28,000 airports into a database of your own, in batches. Kill it wherever you like and run it again.

    python -m examples.airports.job airports.db

Every batch is validated before the first one is loaded: a file that is mostly broken must not be half loaded. Then each batch
is transformed and loaded in one transaction. The rows themselves never pass through the journal; it holds what was decided
and done (the source, the rejects, the batches loaded), which is what the next process needs to know.

Loading is an effect outside everstep, so a kill may fall after the target's commit and before the journal's. The step is then
executed once more, with the same idempotency key. ``load`` writes that key into the target *in the transaction of the rows*,
and looks for it first: that is all it takes for the rows to be there once, however often the body runs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path

import everstep as es
from examples.airports.records import Airport, Reject, airport, faults

BATCH_SIZE = 400
REJECTS_MAX_RATIO = 0.01
TRACE_ENV = "AIRPORTS_TRACE"
"""Names a file to which each step body adds a line when it begins and when it ends. For the demo, which checks them."""


@dataclass(frozen=True)
class Source:
    """The file as it was when the import began. A resumed process refuses to go on with another one."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Batch:
    """A stretch of the file: records ``first`` up to ``end``, counted from 0, ``end`` not included."""

    number: int
    first: int
    end: int


@dataclass(frozen=True)
class Loaded:
    """What loading one batch did. ``already``: an earlier, killed attempt had committed it; nothing was written this time."""

    batch: int
    rows: int
    already: bool


@dataclass(frozen=True)
class Report:
    """What the target holds at the end."""

    rows: int
    rejects: tuple[Reject, ...]
    countries: tuple[tuple[str, int], ...]


# The workflow: the order in which things happen. It runs again from the top in every process; the steps that are in the
# journal return at once what they returned the first time.


@es.workflow
async def import_airports(target: str, limit: int | None = None, batch_size: int = BATCH_SIZE, pace_ms: int = 0) -> Report:
    source = await survey(limit)
    batches = cut(source.rows, batch_size)

    rejects = list(chain.from_iterable([await validate(source, batch, pace_ms) for batch in batches]))
    if len(rejects) > source.rows * REJECTS_MAX_RATIO:
        raise ValueError(f"{len(rejects)} of {source.rows} records are faulty; nothing was loaded. Is it the right file?")

    await prepare(target)
    for batch in batches:
        await load(target, source, batch, pace_ms)
    return await report(target, tuple(rejects))


def cut(rows: int, size: int) -> list[Batch]:
    """Cut ``rows`` records into batches of ``size``; the last one may be smaller."""
    return [Batch(number, first, min(first + size, rows)) for number, first in enumerate(range(0, rows, size), start=1)]


# The steps: what touches the world. Plain functions run in a thread, so they may block.


@es.step
def survey(limit: int | None) -> Source:
    """Look at the file: how many records, and which file exactly."""
    with traced("survey"):
        records, sha256 = read_source()
        return Source(len(records) if limit is None else min(limit, len(records)), sha256)


@es.step
def validate(source: Source, batch: Batch, pace_ms: int) -> tuple[Reject, ...]:
    """Find the records of a batch that cannot be loaded."""
    with traced(f"validate:{batch.number}"):
        pause(pace_ms)
        return tuple(reject for _, reject in judged(source, batch) if reject)


@es.step
def prepare(target: str) -> None:
    """Create the tables, unless they are there."""
    with traced("prepare"), closing(sqlite3.connect(target)) as db, db:
        columns = ", ".join(field.name for field in fields(Airport))
        db.execute("CREATE TABLE IF NOT EXISTS batches (idempotency_key TEXT PRIMARY KEY, batch INTEGER, rows INTEGER)")
        # No unique key on purpose: in this example a batch that is loaded twice must show as double rows, not be hidden.
        db.execute(f"CREATE TABLE IF NOT EXISTS airports (batch, {columns})")


@es.step
def load(target: str, source: Source, batch: Batch, pace_ms: int) -> Loaded:
    """Transform a batch and load it: once, however often this runs."""
    key = es.current().idempotency_key
    with traced(f"load:{batch.number}"), closing(sqlite3.connect(target)) as db:
        airports = [airport(record) for record, reject in judged(source, batch) if not reject]
        with db:  # one transaction: the key and the rows
            entered = db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?, ?)", (key, batch.number, len(airports)))
            if entered.rowcount == 0:
                trace(f"already load:{batch.number}")
                return Loaded(batch.number, len(airports), already=True)
            rows = [(batch.number, *astuple(row)) for row in airports]
            db.executemany(f"INSERT INTO airports VALUES ({', '.join('?' * len(rows[0]))})", rows)
            pause(pace_ms // 2)
        pause(pace_ms // 2)  # committed in the target, not yet in the journal: a kill here shows what the key is for
        return Loaded(batch.number, len(airports), already=False)


@es.step
def report(target: str, rejects: tuple[Reject, ...]) -> Report:
    """Count what the target holds, most airports first."""
    with traced("report"), closing(sqlite3.connect(target)) as db:
        counts = db.execute("SELECT country, count(*) FROM airports GROUP BY country ORDER BY 2 DESC, 1").fetchall()
        return Report(sum(rows for _, rows in counts), rejects, tuple(counts))


# Helpers of the steps.


@cache
def read_source() -> tuple[list[dict[str, str]], str]:
    """The records of the file that ships in the ``airportsdata`` package, and its SHA-256. Read once per process."""
    data = files("airportsdata").joinpath("airports.csv").read_bytes()
    return list(csv.DictReader(data.decode().splitlines())), hashlib.sha256(data).hexdigest()


def judged(source: Source, batch: Batch) -> Iterator[tuple[dict[str, str], Reject | None]]:
    """The records of a batch, each with the reason for which it is refused, if any."""
    records, sha256 = read_source()
    if sha256 != source.sha256:
        raise ValueError("airports.csv is not the file that this import began with; nothing more was loaded. Use a new run id.")
    for index, record in enumerate(records[batch.first : batch.end], start=batch.first):
        reasons = faults(record)
        yield record, Reject(index + 2, record["icao"], reasons) if reasons else None


def pause(ms: int) -> None:
    """Take as long as a slower target would. The demo asks for it, to have something to kill."""
    time.sleep(ms / 1000)


@contextmanager
def traced(body: str) -> Generator[None]:
    """Note in the trace file, if there is one, that a step body begins and ends in this process."""
    trace(f"began {body}")
    yield
    trace(f"ended {body}")


def trace(what: str) -> None:
    if path := os.environ.get(TRACE_ENV):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {time.monotonic():.6f} {what}\n")


# The program.


def main() -> None:
    parser = argparse.ArgumentParser(prog="examples.airports.job", description="Import airports; safe to kill and to repeat.")
    parser.add_argument("target", help="SQLite database to load into")
    parser.add_argument("--id", default="import-airports", help="run id: the same id goes on where that run stopped")
    parser.add_argument("--limit", type=int, help="stop after so many records")
    parser.add_argument("--pace-ms", type=int, default=0, help="make each batch take longer, to have time to kill it")
    asked = parser.parse_args()

    target = str(Path(asked.target).resolve())
    done = es.run(import_airports(target, asked.limit, pace_ms=asked.pace_ms), id=asked.id)

    print(f"{done.rows} airports in {len(done.countries)} countries; {len(done.rejects)} records refused")
    print("  most:    " + ", ".join(f"{country} {rows}" for country, rows in done.countries[:8]))
    for reject in done.rejects:
        print(f"  refused: line {reject.line} {reject.icao}: {'; '.join(reject.reasons)}")


if __name__ == "__main__":
    main()
