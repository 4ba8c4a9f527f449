"""
Fetch a run and make a picture of it: what ``show`` and ``watch`` share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from everstep.cli.picture import Picture
from everstep.cli.sentence import Circumstances
from everstep.cli.session import owner_name, reader_of, worker_names
from everstep.cli.story import Dated, tell
from everstep.client import Client, Hindrance
from everstep.core.payloads import read_events
from everstep.core.progress import progress
from everstep.core.reuse import Ledger
from everstep.core.snapshots import fold
from everstep.core.undelivered import untaken
from everstep.journal import Entry, Reader, up_to
from everstep.records import AttemptRecord, Micros, RunRecord, WorkerKey, WorkerRecord


async def take_picture(client: Client, run_id: str, version: int | None = None) -> Picture:
    """What a run looked like at a version; None for the newest. Raises as ``picture_of``, and RunNotFound."""
    run, entries = await client.load_journal(run_id)
    return await picture_from(client, run, entries, version)


async def picture_from(client: Client, run: RunRecord, entries: Sequence[Entry], version: int | None = None) -> Picture:
    """The same of a journal that is loaded already."""
    rows = [] if run.status.is_at_rest else await client.store.attempts(run.run_key)
    reader = reader_of(client, run.run_id)
    shared = await client.shared_history(run, lenient=True)
    rows, workers = reader.open_rows(rows), await worker_names(client)
    is_idle = run.worker_key is None and not run.status.is_at_rest and version in (None, run.version)
    waits_for = await client.why(run.run_id) if is_idle else ()
    now = client.store.now()
    return picture_of(run, entries, rows, workers, now, version, shared=shared, reader=reader, waits_for=waits_for)


def picture_of(
    run: RunRecord,
    entries: Sequence[Entry],
    rows: Sequence[AttemptRecord],
    workers: Mapping[WorkerKey, WorkerRecord],
    now: Micros,
    version: int | None = None,
    *,
    shared: Ledger | None = None,
    reader: Reader | None = None,
    waits_for: Sequence[Hindrance] = (),
) -> Picture:
    """See above. Pure.

    Raises:
        CorruptJournal: The journal does not verify.
        UsageError: There is no such version.
    """
    snapshot = fold(entries, run, version, shared=shared, reader=reader)
    shown = up_to(entries, snapshot.version)
    newest = snapshot.version == run.version
    facts = Circumstances(
        run_id=run.run_id,
        workflow=run.workflow,
        status=snapshot.status,
        # The past is told as it was then: how long a timer had left, not how long ago it fired.
        now=now if newest else shown[-1].at,
        wake_at=run.wake_at if newest else None,
        owner=owner_name(run, workers) if newest else "",
        workers=sum(worker.alive for worker in workers.values()) if newest else None,
        pinned=run.pinned,
        unread=run.inbox_seq - run.inbox_done if newest else 0,
        open_steps={step.key: step for step in progress(run, entries, rows, now).open_steps} if newest else {},
        waits_for=waits_for,
    )
    told = dated(shown, run.run_id, reader)
    left = tuple((each.name, each.id) for each in untaken(event for _, event in told))
    return Picture(snapshot=snapshot, story=tell(told), facts=facts, untaken=left)


def dated(entries: Sequence[Entry], run_id: str, reader: Reader | None = None) -> list[Dated]:
    """The events of entries that have been verified, each with its instant."""
    told = zip(entries, read_events(entries, run_id, reader=reader), strict=True)
    return [(entry.at, event) for entry, events in told for event in events]


def widened(picture: Picture) -> Picture:
    """The same with nothing left out."""
    return replace(picture, wide=True)
