"""
Whoever can write to the database can put anything into a journal, and seal it. Whatever that is: it is refused by name, or read
as the data that it is; nothing is imported, and no other exception comes out.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from everstep.cli.story import tell
from everstep.codec import Undecodable
from everstep.core.payloads import read_events
from everstep.core.snapshots import fold
from everstep.errors import CorruptJournal, NondeterminismError, UsageError
from everstep.journal import Entry
from everstep.journal_file import dump_journal, parse_journals
from tests import evidence
from tests.core.driver import evict_all, replayed
from tests.core.golden_runs import FOLDER, read, shared_by
from tests.core.records import record_of
from tests.fuzz.forge import forged

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SEEDS_PER_NAME = evidence.amount(40, 2000)
BAD_EVENTS = {"import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "marshal.loads"}
seen: list[str] = []
is_watching = [False]


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook cannot be removed; this one is inert unless asked."""
    if is_watching[0] and event in BAD_EVENTS:
        seen.append(f"{event} {args[:1]}")


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:  # pyright: ignore[reportUnusedFunction]
    sys.addaudithook(watch)


@contextmanager
def nothing_imported() -> Generator[None]:
    """Fails if anything in the block imports, compiles or starts something."""
    seen.clear()
    is_watching[0] = True
    try:
        yield
    finally:
        is_watching[0] = False
    assert [] == seen


def told(entries: list[Entry]) -> None:
    """What the command line makes of it."""
    lists = read_events(entries, "run-1")
    tell([(entry.at, event) for entry, events in zip(entries, lists, strict=True) for event in events])


def folded(entries: list[Entry]) -> None:
    """What snapshots make of it."""
    fold(entries, record_of(entries))


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_journal_is_refused_by_name_or_read_as_data(name: str) -> None:
    """By the core that would go on with it, by snapshots, and by the command line."""
    workflow, entries = read(name)
    readers: tuple[Callable[[list[Entry]], object], ...] = (
        lambda made: replayed(workflow, made, shared=shared_by(entries)),
        folded,
        told,
    )
    for reader in readers:
        reader(entries)  # The annotations of the workflow's own code are read when they are needed first.
    refused = 0
    for seed in range(SEEDS_PER_NAME):
        made = forged(entries, random.Random(f"{name} {seed}"))
        for reader in readers:
            try:
                with nothing_imported():
                    reader(made)
            except (CorruptJournal, NondeterminismError, Undecodable):
                refused += 1
        evict_all()
        evidence.note("forged journals, with chains sealed anew")

    assert refused > SEEDS_PER_NAME // 4


def test_a_journal_file_of_any_bytes_is_refused_by_name() -> None:
    """Lines that were cut, doubled, exchanged, and bytes that were flipped."""
    files = [b"".join(dump_journal(read(name)[1])) for name in NAMES]
    chance = random.Random(1)
    for _ in range(evidence.amount(400, 20_000)):
        data = bytearray(chance.choice(files))
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[place] ^= 1 << chance.randrange(8)
                case 1:
                    del data[place : place + chance.randrange(200)]
                case 2:
                    data[place:place] = data[chance.randrange(len(data)) :][: chance.randrange(200)]
                case _:
                    data[place:place] = chance.randbytes(chance.randrange(20))
            data = data or bytearray(b"\0")
        try:
            with nothing_imported():
                list(parse_journals(bytes(data).splitlines(keepends=True), "it"))
        except (UsageError, CorruptJournal):
            pass
        evidence.note("damaged journal files")


def test_events_nested_without_end_are_refused_in_no_time() -> None:
    """Deeper than any reader goes: no RecursionError, no memory to speak of (H2)."""
    _, (entry, *_) = read("order")
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opening * 200_000 + b"1" + closing * 200_000
        events = b'[{"event":"RunSucceeded","result":' + deep + b"}]"
        with pytest.raises(CorruptJournal):
            told([replace(entry, events=events)])
