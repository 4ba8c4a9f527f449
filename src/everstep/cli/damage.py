"""What is wrong with a journal, exactly: which entry, which hash was expected, which was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from everstep.errors import CorruptJournal
from everstep.journal import GENESIS, Entry, Reader, decode_verified, entry_hash, verify_chain
from everstep.records import RunRecord

_HASH_CHARS = 16


class Damage(Struct, frozen=True):
    """The first place of a journal that does not verify.

    Attributes:
        run_id: The run.
        version: The entry.
        what: In a few words.
        expected: What should stand there.
        found: What stands there.
    """

    run_id: str
    version: int
    what: str
    expected: str = ""
    found: str = ""

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return (self.run_id, str(self.version), self.what, self.expected, self.found)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run_id": self.run_id,
            "version": self.version,
            "what": self.what,
            "expected": self.expected,
            "found": self.found,
        }


def find_damage(run: RunRecord, entries: Sequence[Entry], reader: Reader | None = None) -> Damage | None:
    """Check a run and its journal against each other, and its payloads if there is a reader; None if all is well."""
    try:
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
    except CorruptJournal as error:
        return _broken_at(run, entries, error.version)
    if entries[-1].version != run.version:
        return Damage(run.run_id, entries[-1].version, "number of entries", str(run.version), str(entries[-1].version))
    for entry in entries:
        try:
            decode_verified(entry, run.run_id, reader)
        except CorruptJournal as error:
            return Damage(run.run_id, entry.version, f"unreadable: {error.__cause__}")
    return None


def _broken_at(run: RunRecord, entries: Sequence[Entry], version: int) -> Damage:
    pruned = entries[1].version - 2 if len(entries) > 1 and entries[1].anchor else 0
    place = version - 1 - pruned if version > 1 else version - 1
    entry = entries[place] if 0 <= place < len(entries) else None
    if entry is None:
        return Damage(run.run_id, version, "no entries", f"{run.version}", "0")
    previous = (entry.anchor or entries[place - 1].hash) if place else GENESIS
    expected = entry_hash(previous, run.run_key, version, entry.epoch, entry.at, entry.drained, entry.events)
    if entry.version != version:
        return Damage(run.run_id, version, "missing entry", str(version), str(entry.version))
    if entry.hash != expected:
        return Damage(run.run_id, version, "hash", _short(expected), _short(entry.hash))
    newest = entries[-1].version
    if newest < run.version:
        return Damage(run.run_id, newest + 1, "missing entry", f"{run.version} entries", str(newest))
    if entry.hash != run.hash and version == newest:
        return Damage(run.run_id, version, "head of the run", _short(run.hash), _short(entry.hash))
    return Damage(run.run_id, version, "time runs backwards", f"at least {entries[place - 1].at}", str(entry.at))


def _short(digest: bytes) -> str:
    return f"{digest.hex()[:_HASH_CHARS]}…"
