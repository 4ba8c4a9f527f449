"""
Fetch a run and make a picture of it: what ``show`` and ``watch`` share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from everstep.cli.picture import Picture
from everstep.cli.sentence import Circumstances
from everstep.cli.session import owner_name
from everstep.cli.story import Dated, tell
from everstep.core.snapshots import fold
from everstep.journal import Entry, decode_verified
from everstep.records import Micros, RunRecord, WorkerKey, WorkerRecord


def picture_of(
    run: RunRecord, entries: Sequence[Entry], workers: Mapping[WorkerKey, WorkerRecord], now: Micros, version: int | None = None
) -> Picture:
    """What a run looked like at a version; None for the newest. Pure.

    Raises:
        CorruptJournal: The journal does not verify.
        UsageError: There is no such version.
    """
    snapshot = fold(entries, run, version)
    shown = entries[: snapshot.version]
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
        unread=run.inbox_seq - run.inbox_done if newest else 0,
    )
    return Picture(snapshot=snapshot, story=tell(dated(shown, run.run_id)), facts=facts)


def dated(entries: Sequence[Entry], run_id: str) -> list[Dated]:
    """The events of entries that have been verified, each with its instant."""
    return [(entry.at, event) for entry in entries for event in decode_verified(entry, run_id)]


def widened(picture: Picture) -> Picture:
    """The same with nothing left out."""
    return replace(picture, wide=True)
