"""
What a fork takes over from the run whose history it shares. Reads the other run's journal, and writes nothing.

A fork is one entry: it names the other run, a version of it, and the hash of that entry. So making one costs the same however
long the history is, and a journal that was altered since is found.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.errors import CorruptJournal
from everstep.events import Event, RunCreated, RunForked, decode_events
from everstep.journal import Entry, verify_chain
from everstep.records import Micros, RunRecord
from everstep.stores.base import Store

_MARK = b'"RunForked"'


async def shared_history(store: Store, run: RunRecord) -> Ledger | None:
    """What the code of this run finds done when it begins; None if it is no fork, or has gone on to another segment.

    Raises:
        CorruptJournal: The other run's journal was altered, or is gone.
        StoreUnavailable: It cannot be read now.
    """
    if run.base > 1 or _MARK not in run.created:
        return None
    try:
        events = decode_events(run.created)
    except msgspec.MsgspecError:
        return None  # The replay of this very entry says so better.
    return await _adopted(store, events, run.created_at)


async def ledger_up_to(store: Store, entries: Sequence[Entry], run_id: str) -> Ledger:
    """What a run had finished after these entries, with what it took over itself. They are verified by the caller."""
    events = read_events(entries, run_id)
    ledger = await _adopted(store, events[0], entries[0].at) or Ledger()
    for entry, each in zip(entries, events, strict=True):
        ledger.note_all(each, entry.at)
    return ledger


async def _adopted(store: Store, first: Sequence[Event], at: Micros) -> Ledger | None:
    match first:
        case [RunCreated() as created, RunForked() as fork, *_]:
            pass
        case _:
            return None
    entries = await store.load(fork.run_key, fork.version)
    if len(entries) != fork.version:
        raise CorruptJournal(
            f"run {created.run_id} is a fork of run {fork.run_id} at version {fork.version}, and that history is not in the "
            "store. Nothing was executed. Restore it from a backup, or start the run anew.",
            run_id=created.run_id,
            version=1,
        )
    verify_chain(entries, run_key=fork.run_key, run_id=fork.run_id, head=bytes.fromhex(fork.hash))
    ledger = await ledger_up_to(store, entries, fork.run_id)
    ledger.adopt(fork, created, at)
    return ledger
