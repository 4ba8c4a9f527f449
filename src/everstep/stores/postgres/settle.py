"""
Entries of somebody who does not own the run: claims, verdicts, and what an operator decides (P7, P15).

Each raises the epoch, so whoever was the owner is fenced.
"""

from __future__ import annotations

from msgspec.structs import replace

from everstep.journal import seal_bytes
from everstep.records import Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import Settlement
from everstep.stores.postgres import workers
from everstep.stores.postgres.book import Book, Page, Wanted, lock
from everstep.stores.postgres.careful import close_family, tell_parent
from everstep.stores.postgres.pool import Tx


async def settle(tx: Tx, settlement: Settlement, given: Micros | None) -> RunRecord | None:
    """Write an entry to a run that nobody owns; None if it is not as the writer believes."""
    keys = [settlement.run_key]
    families = keys if settlement.status.is_at_rest else []
    locked = await lock(tx, Wanted(keys, children=keys, parents=families))
    book = Book(tx, await workers.time_of(tx, given))
    await book.read(locked)
    page = book.by_key(settlement.run_key)
    if page is None or page.record.worker_key is not None or page.record.version != settlement.version:
        return None
    append_unasked(book, page, settlement.events, settlement.status)
    page.change(replace(page.record, wake_at=settlement.wake_at))
    page.stands_aside = bool(page.record.queue)
    if settlement.status.is_at_rest:
        page.rest()
        await book.read_dedupes(told_by(book, page.record.run_key))
        entry, *_ = page.entries[-1]
        tell_parent(book, page, entry)
        close_family(book, page)
    await book.write()
    return page.record


def append_unasked(
    book: Book,
    page: Page,
    events: bytes,
    status: Status,
    *,
    deaths: int = 0,
    worker_key: WorkerKey | None = None,
    refused_by: str = "",
) -> None:
    """Append an entry under the next epoch; from then on the run belongs to ``worker_key``, if to anybody."""
    run = page.record
    at = max(run.updated_at, book.now)
    entry = seal_bytes(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, events, keep_whole=True)
    page.claimed_version = entry.version
    page.append(
        entry,
        replace(
            run,
            status=status,
            version=entry.version,
            hash=entry.hash,
            epoch=entry.epoch,
            worker_key=worker_key,
            wake_at=None,
            updated_at=at,
            deaths=deaths,
            refused_by=refused_by,
            outcome=entry.events if status.is_at_rest else None,
        ),
    )


def told_by(book: Book, run_key: RunKey) -> list[tuple[RunKey, str]]:
    """The children of a run that is given up, and the dedupe key of what they are told. Its parent is told anew."""
    asked = rules.cancel_message(run_key, "")
    return [(child.record.run_key, asked.dedupe) for child in book.children_of(run_key)]
