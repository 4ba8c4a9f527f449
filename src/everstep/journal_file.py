"""
A journal as a file: what leaves one store to be replayed, looked at or kept elsewhere.

    {"journal":1,"run_id":"order-42","run_key":7}
    {"version":1,"epoch":1,"at":1800000000000000,"drained":true,"hash":"9f2c…","events":[{"event":"RunCreated",…},…]}
    {"version":2,…}

One line of JSON for each entry, oldest first, so that a person can read it and ``diff`` it. The events stand in it byte by byte
as they were hashed: whoever formats the file anew breaks the chain, and is told so. Large payloads follow them in ``blobs``, by
their hashes; ``anchor`` is the hash of the entry before, where that one was pruned. The number after ``journal`` is the version
of this format. A file may hold several journals, one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from everstep.blobs import Blob
from everstep.errors import CorruptJournal, UsageError
from everstep.events import RunCreated, decode_events
from everstep.journal import Entry, verify_chain
from everstep.records import Micros, RunKey

FORMAT = 1
SUFFIXES = (".ndjson", ".jsonl")


class _Head(Struct, frozen=True):
    journal: int
    run_id: str
    run_key: RunKey


class _Line(Struct, frozen=True, omit_defaults=True):
    version: int
    epoch: int
    at: Micros
    drained: bool
    hash: str
    events: Raw
    blobs: dict[str, Raw] = {}
    anchor: str = ""


def save_journal(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write a journal to a file, in place of what it holds. Safe to repeat.

    Args:
        path: By custom it ends in ``.ndjson``.
        entries: All entries of a run from its first: what ``await handle.journal()`` gives.

    Raises:
        CorruptJournal: The entries were altered, or are not from the first. Nothing was written.
        OSError: It cannot be written.
    """
    Path(path).write_bytes(b"".join(dump_journal(list(entries))))


def load_journal(path: str | os.PathLike[str]) -> list[Entry]:
    """Read the journal that a file holds, verified: what ``everstep.testing.replay`` takes.

    Raises:
        UsageError: It holds no journal, several, or one of a later format.
        CorruptJournal: It was altered.
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        journals = list(parse_journals(file, str(path)))
    if len(journals) != 1:
        raise UsageError(
            f"{path} holds {len(journals)} journals. Nothing was read. Give a file with one: save_journal writes it."
        )
    return journals[0]


def dump_journal(entries: list[Entry]) -> Iterator[bytes]:
    """The lines of a journal, each with its end.

    Raises:
        CorruptJournal: Before the first line.
    """
    run_id = _run_id(entries)
    if entries:
        verify_chain(entries, run_key=entries[0].run_key, run_id=run_id)
        yield msgspec.json.encode(_Head(FORMAT, run_id, entries[0].run_key)) + b"\n"
    for entry in entries:
        blobs = {blob.hash.hex(): Raw(blob.data) for blob in entry.blobs}
        hashes, events = (entry.hash.hex(), entry.anchor.hex()), Raw(entry.events)
        line = _Line(entry.version, entry.epoch, entry.at, entry.drained, hashes[0], events, blobs, hashes[1])
        yield msgspec.json.encode(line) + b"\n"


def parse_journals(lines: Iterable[bytes], name: str) -> Iterator[list[Entry]]:
    """The journals of a file, each verified.

    Args:
        lines: Of the file.
        name: Its name, for errors.

    Raises:
        UsageError: A line is none of a journal, or of a later format.
        CorruptJournal: A journal was altered.
    """
    head: _Head | None = None
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(b'{"journal":'):
            if head is not None:
                yield _verified(head, entries)
            head, entries = _head(line, name, number), []
        elif head is None:
            raise UsageError(f"{name} begins with no journal. Nothing was read. Write it with save_journal.")
        elif line.strip():
            entries.append(_entry(head, line, name, number))
    if head is not None:
        yield _verified(head, entries)


def _head(line: bytes, name: str, number: int) -> _Head:
    try:
        head = msgspec.json.decode(line, type=_Head)
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors too
        raise _unreadable(name, number, error) from error
    if head.journal != FORMAT:
        raise UsageError(
            f"{name}:{number}: a journal in format {head.journal}; this everstep reads {FORMAT}. Nothing was read. Use the "
            "everstep that wrote it, or a later one."
        )
    return head


def _entry(head: _Head, line: bytes, name: str, number: int) -> Entry:
    try:
        read = msgspec.json.decode(line, type=_Line)
        digest, anchor = bytes.fromhex(read.hash), bytes.fromhex(read.anchor)
        blobs = tuple(Blob(bytes.fromhex(each), bytes(data)) for each, data in read.blobs.items())
    except (ValueError, RecursionError) as error:
        raise _unreadable(name, number, error) from error
    return Entry(head.run_key, read.version, read.epoch, read.at, read.drained, bytes(read.events), digest, blobs, anchor)


def _unreadable(name: str, number: int, error: Exception) -> UsageError:
    return UsageError(f"{name}:{number}: no line of a journal: {error}. Nothing was read. Write it with save_journal.")


def _verified(head: _Head, entries: list[Entry]) -> list[Entry]:
    verify_chain(entries, run_key=head.run_key, run_id=head.run_id)
    return entries


def _run_id(entries: list[Entry]) -> str:
    try:
        first = decode_events(entries[0].events)[0] if entries else None
    except (msgspec.MsgspecError, IndexError):
        first = None
    if not isinstance(first, RunCreated):
        raise CorruptJournal(
            "a journal begins with RunCreated, and this one does not. Nothing was written. Give all entries of a run from its "
            "first: await handle.journal().",
            run_id="",
            version=1,
        )
    return first.run_id
