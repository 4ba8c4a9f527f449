"""
What a fork takes over from the run whose history it shares. Reads the other run's journal, and writes nothing.

A fork is one entry: it names the other run, a version of it, and the hash of that entry. So making one costs the same however
long the history is, and a journal that was altered since is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.errors import CorruptJournal
from everstep.events import Event, RunCreated, RunForked
from everstep.journal import Entry, Reader, has_version, verify_chain
from everstep.records import Micros, RunRecord
from everstep.stores.base import Store

ReaderOf: TypeAlias = Callable[[str], Reader]
_MARK = b'"RunForked"'


async def shared_history(store: Store, run: RunRecord, reader_of: ReaderOf) -> Ledger | None:
    """What the code of this run finds done when it begins; None if it is no fork, or has gone on to another segment.

    Args:
        store: Where both runs are.
        run: The run.
        reader_of: Opens the payloads of a run, by its id: what is shared stays sealed as the other run sealed it.

    Raises:
        PayloadKeyMissing: Payloads are encrypted with a key that is not here.
        CorruptJournal: The other run's journal was altered, or is gone.
        StoreUnavailable: It cannot be read now.
    """
    if run.base > 1 or _MARK not in run.created:
        return None
    try:
        events = reader_of(run.run_id).decode(run.created, 1)
    except msgspec.MsgspecError:
        return None  # The replay of this very entry says so better.
    return await _adopted(store, events, run.created_at, reader_of)


async def ledger_up_to(store: Store, entries: Sequence[Entry], run_id: str, reader_of: ReaderOf) -> Ledger:
    """What a run had finished after these entries, with what it took over itself. They are verified by the caller."""
    events = read_events(entries, run_id, reader=reader_of(run_id))
    ledger = await _adopted(store, events[0], entries[0].at, reader_of) or Ledger()
    for entry, each in zip(entries, events, strict=True):
        ledger.note_all(each, entry.at)
    return ledger


async def _adopted(store: Store, first: Sequence[Event], at: Micros, reader_of: ReaderOf) -> Ledger | None:
    match first:
        case [RunCreated() as created, RunForked() as fork, *_]:
            pass
        case _:
            return None
    entries = await store.load(fork.run_key, fork.version)
    if not has_version(entries, fork.version):
        raise CorruptJournal(
            f"run {created.run_id} is a fork of run {fork.run_id} at version {fork.version}, and that history is not in the "
            "store. Nothing was executed. Restore it from a backup, or start the run anew.",
            run_id=created.run_id,
            version=1,
        )
    verify_chain(entries, run_key=fork.run_key, run_id=fork.run_id, head=bytes.fromhex(fork.hash))
    ledger = await ledger_up_to(store, entries, fork.run_id, reader_of)
    ledger.adopt(fork, created, at)
    return ledger
