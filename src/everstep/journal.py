"""
The hash chain: how entries are sealed, and how a journal proves that nothing in it was changed, dropped or swapped.

    hash = SHA-256(previous hash | run_key | version | epoch | at | drained | bytes of the events)

Every number is eight bytes, so no two different entries give the same input. The first entry follows 32 zero bytes. The chain
tells that history was altered by a fault or by somebody who did not recompute it; it is no signature.

Closed segments may have been pruned. Then the first entry is left, a gap, and the entries from some cut on; the first of these
brings along the hash of the one before it, its *anchor*, and the chain is verified from there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from everstep.blobs import BadBlob, Blob, attach, detach
from everstep.errors import CorruptJournal
from everstep.events import Event, decode_events, encode_events
from everstep.records import Micros, RunKey

GENESIS = bytes(32)
_NUMBERS = struct.Struct(">qqqq?")


class Entry(Struct, frozen=True, gc=False):
    """One atomic commit to a run's journal.

    Attributes:
        run_key: The run.
        version: Its number: 1, 2, 3, … without gaps.
        epoch: The fencing token it was written under.
        at: When, by the store's clock; never before the entry before it.
        drained: The workflow's code ran in it. If not, its inputs join the next entry that is drained.
        events: JSON, exactly as hashed.
        hash: 32 bytes.
        blobs: Large payloads that ``events`` refers to by their hashes.
        anchor: Hash of the entry before, if that one was pruned; else nothing.
    """

    run_key: RunKey
    version: int
    epoch: int
    at: Micros
    drained: bool
    events: bytes
    hash: bytes
    blobs: tuple[Blob, ...] = ()
    anchor: bytes = b""

    def decoded(self) -> list[Event]:
        """Its events as values."""
        return decode_events(self.whole())

    def whole(self) -> bytes:
        """Its events with every payload in its place.

        Raises:
            BadBlob: One is missing, or was altered.
        """
        return attach(self.events, self.blobs, self.run_key)


def entry_hash(previous: bytes, run_key: RunKey, version: int, epoch: int, at: Micros, drained: bool, events: bytes) -> bytes:
    """The hash that seals an entry to the one before it."""
    return sha256(previous + _NUMBERS.pack(run_key, version, epoch, at, drained) + events).digest()


def seal(
    previous: bytes, run_key: RunKey, version: int, epoch: int, at: Micros, drained: bool, events: Sequence[Event]
) -> Entry:
    """Make the entry that follows the one whose hash is ``previous``. Safe to repeat: the same input, the same entry."""
    return seal_bytes(previous, run_key, version, epoch, at, drained, encode_events(events))


def seal_bytes(
    previous: bytes,
    run_key: RunKey,
    version: int,
    epoch: int,
    at: Micros,
    drained: bool,
    events: bytes,
    *,
    keep_whole: bool = False,
) -> Entry:
    """The same for events that are encoded already. ``keep_whole``: large payloads stay in the entry."""
    events, blobs = (events, ()) if keep_whole else detach(events, run_key)
    digest = entry_hash(previous, run_key, version, epoch, at, drained, events)
    return Entry(run_key, version, epoch, at, drained, events, digest, blobs)


def verify_chain(
    entries: Iterable[Entry], *, run_key: RunKey, run_id: str, head: bytes | None = None, previous: bytes = GENESIS
) -> None:
    """Check a journal, from its first entry or from any that the hash of the one before is known of.

    Args:
        entries: In order, without gaps, but for what was pruned after the first.
        run_key: The run that they must belong to.
        run_id: Its name, for the error.
        head: The hash that the run itself records for its newest entry; None if not known.
        previous: Hash of the entry before the first of these; by default there is none, and they begin with version 1.

    Raises:
        CorruptJournal: At the first entry that is missing, out of place, or does not match its hash.
    """
    version, at = None if previous != GENESIS else 0, 0
    for entry in entries:
        if entry.anchor and version == 1 and entry.version > 2:
            previous, version = entry.anchor, entry.version - 1
        version = entry.version if version is None else version + 1
        expected = entry_hash(previous, run_key, version, entry.epoch, entry.at, entry.drained, entry.events)
        if entry.version != version or entry.run_key != run_key or entry.hash != expected or entry.at < at:
            raise _corrupt(run_id, version, expected, entry.hash)
        previous, at = entry.hash, entry.at
    if head is not None and previous != head:
        raise _corrupt(run_id, version or 0, head, previous)


def has_version(entries: Sequence[Entry], version: int) -> bool:
    """Whether the entry of this version is there: it was made, and not pruned."""
    return any(entry.version == version for entry in entries)


def up_to(entries: Sequence[Entry], version: int) -> Sequence[Entry]:
    """A journal as it was after a version, without what has been pruned."""
    return [entry for entry in entries if entry.version <= version]


def versions_of(entries: Sequence[Entry]) -> str:
    """Which versions there are, in words."""
    newest = entries[-1].version if entries else 0
    kept = entries[1].version if len(entries) > 1 else newest
    if kept > 2:
        return f"its versions are 1 and {kept} to {newest}: 2 to {kept - 1} were pruned, with the segments that they belong to"
    return f"its versions are 1 to {newest}"


class Reader(Protocol):
    """What opens the payloads of a run (see ``everstep.payloads``)."""

    def decode(self, data: bytes, version: int) -> list[Event]:
        """The events of the entry of that version."""
        ...

    def shown(self, wire: Any) -> Any:
        """A value as people see it."""
        ...


def decode_verified(entry: Entry, run_id: str, reader: Reader | None = None) -> list[Event]:
    """Events of an entry whose hash has been checked; unknown or malformed ones are corruption all the same.

    Without a reader, payloads are left as they are stored.
    """
    try:
        whole = entry.whole()
        return decode_events(whole) if reader is None else reader.decode(whole, entry.version)
    except (msgspec.MsgspecError, BadBlob) as error:
        raise CorruptJournal(
            f"run {run_id}: entry {entry.version} cannot be read: {error}. Nothing was executed and nothing was changed. "
            "It was written by a newer everstep, or damaged: compare with a backup.",
            run_id=run_id,
            version=entry.version,
        ) from error


def _corrupt(run_id: str, version: int, expected: bytes, found: bytes) -> CorruptJournal:
    return CorruptJournal(
        f"run {run_id}: entry {version} does not match the hash chain (expected {expected.hex()[:16]}…, found "
        f"{found.hex()[:16]}…). The run was not replayed over it and nothing was executed; other runs are not concerned. "
        "Compare with a backup: everstep verify lists every damaged run.",
        run_id=run_id,
        version=version,
    )
