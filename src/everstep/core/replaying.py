"""
Hold code to a journal, without a store: nothing is claimed, executed or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from everstep.core.execution import Execution
from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.core.starting import first_event
from everstep.definitions import Workflow
from everstep.errors import UsageError
from everstep.events import Ending, RunCreated, RunForked
from everstep.journal import Entry, decode_verified, has_version, up_to, verify_chain
from everstep.payloads import PLAIN, Payloads
from everstep.records import RunKey


def replay_journal(
    entries: Sequence[Entry],
    workflow: Workflow[..., Any],
    shared: Ledger | None = None,
    *,
    thoroughly: bool = False,
    payloads: Payloads = PLAIN,
) -> Ending | None:
    """Verify a journal and go through it with this code; how it ended, or None if the journal does not go that far.

    Args:
        entries: All of the run, from the first.
        workflow: The code as it is now.
        shared: Of a fork: what the run that it shares its history with had finished.
        thoroughly: Go through all segments of the run, not only through what a worker would go on with.
        payloads: How payloads are stored.

    Raises:
        NondeterminismError: The code asks for something else.
        CorruptJournal: The journal was altered.
        PayloadKeyMissing: It is encrypted with a key that was not given.
    """
    execution = Execution(workflow, entries[0].run_key, first_event(entries[0].events).run_id, payloads)
    try:
        execution.replay(entries, shared=shared, thoroughly=thoroughly)
        return execution.program.ending
    finally:
        execution.program.evict()


def ledger_of(entries: Sequence[Entry], others: Iterable[Sequence[Entry]], payloads: Payloads = PLAIN) -> Ledger | None:
    """What a fork takes over from the runs whose journals these are; None if it is no fork.

    Raises:
        UsageError: The journal that it shares is not among them.
        CorruptJournal: It was altered.
    """
    return _ledger_of(entries, {other[0].run_key: other for other in others if other}, payloads)


def _ledger_of(entries: Sequence[Entry], others: Mapping[RunKey, Sequence[Entry]], payloads: Payloads) -> Ledger | None:
    run_id = first_event(entries[0].events).run_id
    match decode_verified(entries[0], run_id, payloads.keeper(run_id)):
        case [RunCreated() as created, RunForked() as fork, *_]:
            pass
        case _:
            return None
    history = up_to(others.get(fork.run_key, ()), fork.version)
    if not has_version(history, fork.version):
        raise UsageError(
            f"run {created.run_id} is a fork of run {fork.run_id} at version {fork.version}, whose journal was not given. "
            "Nothing was replayed. Give it as well: shared=[await client.handle(...).journal()]."
        )
    verify_chain(history, run_key=fork.run_key, run_id=fork.run_id, head=bytes.fromhex(fork.hash))
    ledger = _ledger_of(history, others, payloads) or Ledger()
    reader = payloads.keeper(fork.run_id)
    for entry, events in zip(history, read_events(history, fork.run_id, reader=reader), strict=True):
        ledger.note_all(events, entry.at)
    ledger.adopt(fork, created, entries[0].at)
    return ledger
