"""
Hold code to a journal that other code, or an older version of it, has recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from everstep.core.replaying import ledger_of, replay_journal
from everstep.core.starting import first_event
from everstep.definitions import Workflow
from everstep.errors import UsageError
from everstep.events import Ending
from everstep.journal import Entry
from everstep.payloads import PLAIN, Payloads


def replay(
    journal: Iterable[Entry],
    workflow: Workflow[..., Any],
    *,
    shared: Iterable[Iterable[Entry]] = (),
    payloads: Payloads = PLAIN,
) -> Ending | None:
    """Replay a recorded journal against code. No step is executed and nothing is written. Safe to repeat.

    Args:
        journal: All entries of a run from its first: what ``await handle.journal()`` and ``load_journal`` give.
        workflow: The code as it is now.
        shared: For a fork: the journals of the runs whose history it shares.
        payloads: How payloads are stored, in all of them.

    Returns:
        How the run ended; None if the journal does not go that far.

    Raises:
        NondeterminismError: The code asks for something else; the message shows both sides.
        CorruptJournal: The journal was altered.
        PayloadKeyMissing: It is encrypted with a key that was not given.
        UsageError: The journal is empty, of another workflow, or of a fork whose history was not given.
    """
    entries = list(journal)
    if not entries:
        raise UsageError("replay: the journal is empty. Nothing was replayed. Give all entries: await handle.journal().")
    created = first_event(entries[0].events)
    if created.workflow != workflow.name:
        raise UsageError(
            f"replay: the journal of run {created.run_id} is of workflow {created.workflow}, not {workflow.name}. Nothing was "
            f"replayed. Give the workflow that it was recorded by, under the name {created.workflow}."
        )
    ledger = ledger_of(entries, [list(other) for other in shared], payloads)
    return replay_journal(entries, workflow, ledger, thoroughly=True, payloads=payloads)
