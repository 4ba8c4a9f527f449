"""
Large payloads beside the journal: the entry holds a keyed hash and the size, the bytes stand in a table of their own. Pure.

    entry as made ──detach──▶ entry with references + blobs ──store──▶ the same ──attach──▶ entry as made

A value that a run passes from step to step, or publishes as its state too, is stored once: results, arguments (each by itself),
signals, notes and states of one run share their blobs. The chain covers the hash, the hash covers the bytes, so a blob that is
missing or was altered is found before it is trusted, and concerns its run only.

The hash is keyed with the run's key. Two runs never share a blob: one of them may be pruned at any time, with all that it has,
and equal values in two runs leave no equal hashes for a reader of the journal to notice. A blob is written in the transaction
of an entry that refers to it and goes with its run, so none can be left behind, and nothing has to be collected.

What is *not* taken out: the arguments of a run and its result. They are read with the run's row alone, without its journal.

A reference stands in the event itself, under ``$blobs``: field, member (of arguments), hash, size; ``null`` stands in its
place. Nothing that users write can be mistaken for one: values are inside fields, and ``$blobs`` is none of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from everstep.events import (
    NO_PAYLOAD,
    BlobRef,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    Event,
    NoteRecorded,
    RequestAnswered,
    RequestReceived,
    RunContinued,
    SignalReceived,
    StatePublished,
    StepCompleted,
    StepScheduled,
    decode_events,
    encode_events,
)
from everstep.records import RunKey

BLOB_BYTES_MIN: Final = 32 << 10
"""Smaller values stay in their entry. See ARCHITECTURE.md for what was measured."""
MARK: Final = b'"$blobs":'
HASH_BYTES: Final = 32
# The fields of events that may hold much.
FIELDS: Final[Mapping[type[Any], str]] = {
    StepScheduled: "args",
    StepCompleted: "result",
    ChildStarted: "args",
    ChildSignalled: "value",
    ChildSucceeded: "result",
    SignalReceived: "value",
    StatePublished: "value",
    NoteRecorded: "value",
    RequestReceived: "value",
    RequestAnswered: "result",
    RunContinued: "states",
}
_read_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


class BadBlob(ValueError):
    """A blob is missing, or is not what the entry refers to."""


class Blob(NamedTuple):
    """Bytes, and what they are found by."""

    hash: bytes
    data: bytes


def blob_hash(run_key: RunKey, data: bytes) -> bytes:
    """What bytes are found by, in one run."""
    key = run_key.to_bytes(8, "big", signed=True)
    return blake2b(data, key=key, digest_size=HASH_BYTES, person=b"everstep blob").digest()


def detach(events: bytes, run_key: RunKey) -> tuple[bytes, tuple[Blob, ...]]:
    """The bytes of an entry without its large values, and those."""
    if len(events) < BLOB_BYTES_MIN:
        return events, ()
    blobs: dict[bytes, Blob] = {}
    parted = [_detached(event, run_key, blobs) for event in decode_events(events)]
    return (encode_events(parted), tuple(blobs.values())) if blobs else (events, ())


def attach(events: bytes, blobs: Iterable[Blob], run_key: RunKey) -> bytes:
    """The bytes of an entry with its large values in their places again.

    Raises:
        BadBlob: One is missing, or was altered.
        msgspec.MsgspecError: The bytes are no events.
    """
    if MARK not in events:
        return events
    found = {blob.hash: blob.data for blob in blobs}
    return encode_events([_attached(event, run_key, found) for event in decode_events(events)])


def hashes_in(events: bytes) -> list[bytes]:
    """The blobs that an entry refers to: what a store has to read along with it. Empty if it cannot be read."""
    if MARK not in events:
        return []
    try:
        refs = [ref for event in decode_events(events) for ref in event.blobs]
        return list(dict.fromkeys(bytes.fromhex(ref.hash) for ref in refs))
    except (msgspec.MsgspecError, ValueError):
        return []  # Whoever verifies the entry says so.


def _detached(event: Event, run_key: RunKey, blobs: dict[bytes, Blob]) -> Event:
    field = FIELDS.get(type(event))
    if field is None:
        return event
    held = getattr(event, field)
    value = _encode(held) if isinstance(held, dict) else bytes(held)
    if len(value) < BLOB_BYTES_MIN:
        return event
    refs: list[BlobRef] = []

    def take_out(member: str, data: bytes) -> Raw:
        blob = Blob(blob_hash(run_key, data), data)
        blobs[blob.hash] = blob
        refs.append(BlobRef(field, member, blob.hash.hex(), len(data)))
        return NO_PAYLOAD

    left = _without_large_members(value, take_out) if field in ("args", "states") else None
    if isinstance(held, dict):
        return event if left is None else replace(event, **{field: _read_members(left), "blobs": tuple(refs)})
    left = take_out("", value) if left is None else left
    return replace(event, **{field: left, "blobs": tuple(refs)})


def _without_large_members(value: bytes, take_out: Any) -> Raw | None:
    """Each by itself: an argument may be the result of a step. None if it is their number that makes them large."""
    if value[:1] != b"{":
        return None
    members = _read_members(value)
    large = {name: bytes(part) for name, part in members.items() if len(memoryview(part)) >= BLOB_BYTES_MIN}
    if not large:
        return None
    return Raw(_encode({**members, **{name: take_out(name, part) for name, part in large.items()}}))


def _attached(event: Event, run_key: RunKey, found: Mapping[bytes, bytes]) -> Event:
    for ref in event.blobs:
        data = _checked(ref, run_key, found)
        if FIELDS.get(type(event)) != ref.field:
            raise BadBlob(f"{type(event).__name__} has no field {ref.field!a} that stands elsewhere")
        event = _with_member(event, ref, data) if ref.member else replace(event, **{ref.field: Raw(data)})
    return replace(event, blobs=()) if event.blobs else event


def _with_member(event: Event, ref: BlobRef, data: bytes) -> Event:
    held: dict[str, Raw] | Raw = getattr(event, ref.field)
    members = held if isinstance(held, dict) else _read_members(bytes(held))
    if ref.member not in members:
        raise BadBlob(f"there is no argument {ref.member!a}")
    whole = {**members, ref.member: Raw(data)}
    return replace(event, **{ref.field: whole if isinstance(held, dict) else Raw(_encode(whole))})


def _checked(ref: BlobRef, run_key: RunKey, found: Mapping[bytes, bytes]) -> bytes:
    try:
        digest = bytes.fromhex(ref.hash)
    except ValueError:
        raise BadBlob(f"{ref.hash[:80]!a} is no hash") from None
    data = found.get(digest)
    if data is None:
        raise BadBlob(f"the blob {ref.hash[:16]}… of {ref.size:,} bytes is missing")
    if len(data) != ref.size or blob_hash(run_key, data) != digest:
        raise BadBlob(f"the blob {ref.hash[:16]}… was altered")
    return data
