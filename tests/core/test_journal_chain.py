"""The hash chain: nothing of a journal can be changed, dropped, swapped or taken from another run without being noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import everstep as es
from everstep.core.snapshots import fold
from everstep.errors import CorruptJournal
from everstep.events import RunClaimed, decode_events
from everstep.journal import GENESIS, Entry, decode_verified, entry_hash, seal, verify_chain
from tests.core.driver import RUN_KEY, Run, new_execution, sealed
from tests.core.records import record_of
from tests.core.steps import charge, ship


@es.workflow
async def checkout(order_id: str) -> str:
    await charge(order_id, 1999)
    await asyncio.sleep(60)
    return await ship(order_id)


def journal() -> list[Entry]:
    run = Run(checkout("42")).finish()
    run.evict()
    return run.entries


ENTRIES = journal()
NUMBERS = ("run_key", "version", "epoch", "at")


def refused_at(entries: list[Entry], head: bytes | None = None) -> int:
    """Version that the error names; every reader of a journal raises it, before anything of the journal is trusted."""
    with pytest.raises(CorruptJournal) as caught:
        verify_chain(entries, run_key=RUN_KEY, run_id="run-1", head=head)
    execution = new_execution(checkout)
    with pytest.raises(CorruptJournal):
        execution.replay(entries, head)

    assert not execution.program.has_begun
    assert "run-1" == caught.value.run_id
    assert f"run run-1: entry {caught.value.version} does not match the hash chain" in str(caught.value)
    return caught.value.version


def with_field(index: int, **fields: Any) -> list[Entry]:
    entries = list(ENTRIES)
    entries[index] = msgspec.structs.replace(entries[index], **fields)
    return entries


@pytest.mark.parametrize("index", range(len(ENTRIES)))
def test_any_flipped_byte_of_any_field_is_found_and_named(index: int) -> None:
    """B7: each bit pattern of numbers, hash and events, one at a time."""
    entry = ENTRIES[index]
    flips: list[dict[str, Any]] = [{"drained": not entry.drained}]
    for name in NUMBERS:
        flips += [{name: getattr(entry, name) ^ (1 << bit)} for bit in range(62)]
    for name in ("events", "hash"):
        data: bytes = getattr(entry, name)
        for place in range(len(data)):
            flips += [{name: data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]} for mask in (1, 0x20, 0x80)]

    for flip in flips:
        entries = with_field(index, **flip)
        with pytest.raises(CorruptJournal) as caught:
            verify_chain(entries, run_key=RUN_KEY, run_id="run-1")
        assert index + 1 == caught.value.version, flip


SPOILS: list[tuple[str, Callable[[list[Entry]], list[Entry]], int]] = [
    ("first dropped", lambda entries: entries[1:], 1),
    ("one dropped", lambda entries: [entries[0], *entries[2:]], 2),
    ("swapped", lambda entries: [entries[1], entries[0], *entries[2:]], 1),
    ("repeated", lambda entries: [entries[0], entries[0], *entries[1:]], 2),
    ("last repeated", lambda entries: [*entries, entries[-1]], len(ENTRIES) + 1),
]


@pytest.mark.parametrize(("how", "spoil", "version"), SPOILS)
def test_a_missing_swapped_or_repeated_entry_is_found(
    how: str, spoil: Callable[[list[Entry]], list[Entry]], version: int
) -> None:
    assert version == refused_at(spoil(list(ENTRIES)))


def test_a_journal_cut_short_is_found_by_the_runs_head() -> None:
    verify_chain(ENTRIES[:-1], run_key=RUN_KEY, run_id="run-1")

    assert len(ENTRIES) - 1 == refused_at(ENTRIES[:-1], ENTRIES[-1].hash)


def test_an_empty_journal_matches_only_an_empty_head() -> None:
    verify_chain([], run_key=RUN_KEY, run_id="run-1", head=GENESIS)

    assert 0 == refused_at([], ENTRIES[0].hash)


def test_entries_of_another_run_are_found_even_if_they_say_they_are_mine() -> None:
    """Ids may be reused after pruning; keys never are (E4)."""
    others = [msgspec.structs.replace(entry, run_key=RUN_KEY + 1) for entry in ENTRIES]

    with pytest.raises(CorruptJournal):
        verify_chain(others, run_key=RUN_KEY, run_id="run-1")
    with pytest.raises(CorruptJournal):
        verify_chain(ENTRIES, run_key=RUN_KEY + 1, run_id="run-1")


def test_time_that_runs_backwards_is_found_although_the_hashes_fit() -> None:
    first = seal(GENESIS, RUN_KEY, 1, 1, 1_000, False, [RunClaimed("a")])
    second = seal(first.hash, RUN_KEY, 2, 1, 999, False, [RunClaimed("b")])

    assert 2 == refused_at([first, second])


def test_a_snapshot_of_a_damaged_journal_is_not_made() -> None:
    with pytest.raises(CorruptJournal):
        fold(with_field(1, at=ENTRIES[1].at + 1), record_of(ENTRIES))

    assert 1 == fold(with_field(1, at=ENTRIES[1].at + 1), record_of(ENTRIES), version=1).version


@pytest.mark.parametrize(
    "events",
    [
        b'[{"event":"FromTheFuture"}]',
        b'[{"event":"RunClaimed"}]',
        b'[{"event":"RunClaimed","worker":3}]',
        b'{"event":"RunClaimed","worker":"w"}',
        b"[",
        b"",
        b"\xff",
    ],
)
def test_events_that_cannot_be_read_are_corruption_although_the_hash_fits(events: bytes) -> None:
    """Written by a newer everstep, or damaged before it was hashed (H3)."""
    entry = Entry(RUN_KEY, 1, 1, 5, True, events, entry_hash(GENESIS, RUN_KEY, 1, 1, 5, True, events))

    with pytest.raises(CorruptJournal, match="run run-1: entry 1 cannot be read"):
        decode_verified(entry, "run-1")
    with pytest.raises(CorruptJournal):
        new_execution(checkout).replay([entry])


def test_a_field_that_this_version_does_not_know_is_ignored() -> None:
    """A newer version may add one with a default."""
    assert [RunClaimed("w")] == decode_events(b'[{"event":"RunClaimed","worker":"w","colour":"red"}]')


@given(st.integers(0, 2**62), st.integers(1, 2**31), st.integers(0, 2**31), st.booleans(), st.binary(max_size=50))
def test_no_two_entries_share_what_is_hashed(run_key: int, version: int, epoch: int, drained: bool, events: bytes) -> None:
    """Fixed width: no digit can move from one number to the next."""
    first = entry_hash(GENESIS, run_key, version, epoch, 7, drained, events)
    others = [
        entry_hash(GENESIS, run_key + 1, version, epoch, 7, drained, events),
        entry_hash(GENESIS, run_key, version + 1, epoch, 7, drained, events),
        entry_hash(GENESIS, run_key, version, epoch + 1, 7, drained, events),
        entry_hash(GENESIS, run_key, version, epoch, 8, drained, events),
        entry_hash(GENESIS, run_key, version, epoch, 7, not drained, events),
        entry_hash(GENESIS, run_key, version, epoch, 7, drained, events + b" "),
    ]

    assert 7 == len({first, *others})


def test_sealing_twice_gives_the_same_entry() -> None:
    """A commit whose fate is unknown may be repeated with the same entry, and only with it."""
    assert sealed([([RunClaimed("w")], False)]) == sealed([([RunClaimed("w")], False)])
