"""
Some runs, locked and in memory: what is decided about them is written down here, and then written to the database all at once.

    lock the rows in run order ▸ read them ▸ decide (pure: ``rules``) ▸ a few statements ▸ commit

Everything that needs more than the one statement of ``write`` goes this way, whatever number of runs it concerns. A live owner
appends without any lock, so a run's newest entry may change until our own entry is there: then ours does not land, and the
transaction begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from everstep.journal import GENESIS, Entry, entry_hash
from everstep.records import AttemptRecord, Message, Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import NewRun
from everstep.stores.postgres import queues, read, rows
from everstep.stores.postgres.link import Row
from everstep.stores.postgres.pool import Again, Tx

# ``UNION``, not OR: each part is answered by its own index.
_LOCK: Final = """
SELECT run_key, run_id, parent_key FROM everstep.runs WHERE run_key IN (
    SELECT unnest($1::int8[])
    UNION SELECT run_key FROM everstep.runs WHERE run_id = ANY($2::text[])
    UNION SELECT parent_key FROM everstep.runs WHERE run_key = ANY($3::int8[]) AND parent_key IS NOT NULL
    UNION SELECT run_key FROM everstep.runs WHERE parent_key = ANY($4::int8[]) AND parent_key IS NOT NULL
          AND on_parent_close = 'cancel'
) ORDER BY run_key FOR NO KEY UPDATE
"""
_LOCK_FREE: Final = f"{_LOCK.rstrip()} SKIP LOCKED"
_SEE: Final = _LOCK.replace("FOR NO KEY UPDATE", "")
_CLAIMED: Final = "SELECT run_key, claimed_version FROM everstep.runs WHERE run_key = ANY($1::int8[])"
_KNOWN: Final = """
SELECT run_key, dedupe FROM everstep.inbox
WHERE (run_key, dedupe) IN (SELECT * FROM unnest($1::int8[], $2::text[])) AND dedupe <> ''
"""
_NEXT_KEYS: Final = "SELECT nextval('everstep.run_keys') FROM generate_series(1, $1)"

_INSERT_ENTRIES: Final = """
INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::int8[], $6::bool[], $7::text[], $8::text[],
                     $9::bytea[], $10::text[])
ON CONFLICT DO NOTHING RETURNING run_key
"""
_INSERT_RUNS: Final = """
INSERT INTO everstep.runs(run_key, run_id, workflow, code_version, status, epoch, worker_key, wake_at, claimed_version,
                          created_at, deaths, max_recoveries, inbox_seq, inbox_done, parent_key, parent_command, refused_by,
                          base, forked_from, on_parent_close, family, pinned, queue, queue_key, priority, line, dedupe)
SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[], $8::int8[],
                     $9::int8[], $10::int8[], $11::int4[], $12::int8[], $13::int8[], $14::int8[], $15::int8[], $16::text[],
                     $17::text[], $18::int8[], $19::int8[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[],
                     $25::int4[], $26::int2[], $27::text[])
ON CONFLICT DO NOTHING RETURNING run_key
"""
_UPDATE_RUNS: Final = """
UPDATE everstep.runs SET status = it.status, epoch = it.epoch, worker_key = it.worker_key, wake_at = it.wake_at,
                         claimed_version = it.claimed_version, deaths = it.deaths, inbox_seq = it.inbox_seq,
                         inbox_done = it.inbox_done, refused_by = it.refused_by, base = it.base
FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int4[], $8::int8[], $9::int8[],
            $10::text[], $11::int8[])
     AS it(run_key, status, epoch, worker_key, wake_at, claimed_version, deaths, inbox_seq, inbox_done, refused_by, base)
WHERE runs.run_key = it.run_key
"""
_PUT_BLOBS: Final = """
INSERT INTO everstep.blobs(run_key, hash, data)
SELECT * FROM unnest($1::int8[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING
"""
_INSERT_MESSAGES: Final = """
INSERT INTO everstep.inbox(run_key, seq, at, dedupe, event)
SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::text[], $5::text[])
"""
_REPLY: Final = """
UPDATE everstep.inbox SET reply = it.reply FROM unnest($1::int8[], $2::text[], $3::text[]) AS it(run_key, dedupe, reply)
WHERE inbox.run_key = it.run_key AND inbox.dedupe = it.dedupe AND inbox.dedupe <> '' AND inbox.reply IS NULL
"""
_DROP_ATTEMPTS: Final = """
DELETE FROM everstep.attempts WHERE (run_key, key) IN (SELECT * FROM unnest($1::int8[], $2::text[]))
"""
_DROP_ALL_ATTEMPTS: Final = "DELETE FROM everstep.attempts WHERE run_key = ANY($1::int8[])"
_PUT_ATTEMPTS: Final = f"""
INSERT INTO everstep.attempts({rows.ATTEMPT})
SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::bytea[], $8::bytea[],
                     $9::int8[])
{rows.PUT_ATTEMPT}
"""  # noqa: S608  # names of columns


class Wanted(Struct, frozen=True):
    """Runs to lock: by key, by id, parents of ``children``, and those children of ``parents`` that are cancelled with them."""

    keys: Sequence[RunKey]
    ids: Sequence[str] = ()
    children: Sequence[RunKey] = ()
    parents: Sequence[RunKey] = ()

    def values(self) -> tuple[list[object], ...]:
        """As the statements take them."""
        return list(self.keys), list(self.ids), list(self.children), list(self.parents)


async def lock(tx: Tx, wanted: Wanted) -> list[RunKey]:
    """Lock runs, in run order. Returns those that exist."""
    return [row[0] for row in await tx.fetch(_LOCK, *wanted.values())]


async def lock_free(tx: Tx, wanted: Wanted) -> tuple[list[RunKey], list[Row]]:
    """Lock those that nobody else holds. Returns them, and of the others run_key, run_id and parent_key."""
    values = wanted.values()
    locked = [row[0] for row in await tx.fetch(_LOCK_FREE, *values)]
    return locked, [row for row in await tx.fetch(_SEE, *values) if row[0] not in locked]


class Page(Struct, eq=False):
    """One run: how it stands now, and what is to be written.

    Attributes:
        record: How it stands.
        claimed_version: Version of the entry that its owner's epoch began with.
        is_new: It does not exist yet. Until it is written it has no key.
        is_changed: Its row is to be written.
        forked_from: If it is new: the run whose history it shares.
        entries: To be inserted; with the status, step and cursor that the run has then.
        messages: To be inserted.
        replies: To messages that are there or to be inserted, by their dedupe keys.
        attempts: To be written, by key; None: to be removed.
        drops_attempts: All others are to be removed.
        dedupe: If it is new: its dedupe key.
        leaves: It leaves its queue.
        stands_aside: Somebody decided about it who does not own it, and it has a queue.
    """

    record: RunRecord
    claimed_version: int
    is_new: bool = False
    is_changed: bool = False
    forked_from: RunKey | None = None
    entries: list[tuple[Entry, Status, str, int]] = []
    messages: list[Message] = []
    replies: dict[str, bytes] = {}
    attempts: dict[str, AttemptRecord | None] = {}
    drops_attempts: bool = False
    dedupe: str | None = None
    leaves: bool = False
    stands_aside: bool = False

    def change(self, record: RunRecord) -> None:
        """It stands so from now on."""
        self.record, self.is_changed = record, True

    def append(self, entry: Entry, record: RunRecord) -> None:
        """Its journal goes on; ``record`` is how it stands then."""
        self.entries.append((entry, record.status, record.step, record.cursor))
        self.change(record)

    def rest(self) -> None:
        """It is at rest: it has no attempts any more, and no place in its queue."""
        self.forget_attempts()
        self.leaves = bool(self.record.queue)
        if self.leaves:
            self.change(replace(self.record, is_admitted=False))

    def forget_attempts(self) -> None:
        """Remove all rows of attempts."""
        self.attempts.clear()
        self.drops_attempts = True


class Book:
    """See the module.

    Attributes:
        now: The store's clock, after the locks were taken.
    """

    def __init__(self, tx: Tx, now: Micros) -> None:
        self.now = now
        self._tx = tx
        self._pages: dict[RunKey, Page] = {}
        self._by_id: dict[str, Page] = {}
        self._born: list[Page] = []
        self._known: set[tuple[RunKey, str]] = set()

    async def read(self, keys: Sequence[RunKey]) -> None:
        """Read runs that are locked."""
        claimed: dict[RunKey, int] = {row[0]: row[1] for row in await self._tx.fetch(_CLAIMED, keys)}
        for record in (await read.runs_by_key(self._tx, keys)).values():
            page = Page(record, claimed[record.run_key])
            self._pages[record.run_key] = page
            self._by_id[record.run_id] = page

    async def read_dedupes(self, pairs: Iterable[tuple[RunKey, str]]) -> None:
        """Learn which of these dedupe keys their runs have seen."""
        asked = [(run_key, dedupe) for run_key, dedupe in pairs if dedupe]
        if asked:
            found = await self._tx.fetch(_KNOWN, [run_key for run_key, _ in asked], [dedupe for _, dedupe in asked])
            self._known.update((run_key, dedupe) for run_key, dedupe in found)

    # --- looking ------------------------------------------------------------------------------------------------------------

    def by_key(self, run_key: RunKey | None) -> Page | None:
        """The run of this key."""
        return None if run_key is None else self._pages.get(run_key)

    def by_id(self, run_id: str) -> Page | None:
        """The run of this id."""
        return self._by_id.get(run_id)

    def children_of(self, run_key: RunKey) -> list[Page]:
        """The children of a run, as far as they have been read."""
        return [page for page in self._pages.values() if page.record.parent_key == run_key]

    # --- deciding -----------------------------------------------------------------------------------------------------------

    def add(self, record: RunRecord, entry: Entry, forked_from: RunKey | None) -> Page:
        """A run that is created with a key that it has already, and with an owner."""
        page = Page(record, claimed_version=1, is_new=True, forked_from=forked_from)
        page.append(entry, record)
        self._pages[record.run_key] = page
        self._by_id[record.run_id] = page
        return page

    def queue(self, new: NewRun) -> Page:
        """A run that is created queued; it gets its key when it is written."""
        record = new_record(new, self.now, Status.QUEUED, wake_at=self.now if new.wake_at is None else new.wake_at)
        page = Page(record, 0, is_new=True, is_changed=True, forked_from=new.forked_from)
        page.messages = rules.first_messages(new, self.now)
        page.dedupe = new.queue_key or None if new.dedupes and new.queue else None
        self._born.append(page)
        self._by_id[new.run_id] = page
        return page

    def deliver(self, page: Page, message: Message) -> None:
        """Put a message into a run's inbox, if it takes one (P10)."""
        record = page.record
        known = (record.run_key, message.dedupe)
        is_known = bool(message.dedupe) and (
            known in self._known or any(message.dedupe == each.dedupe for each in page.messages)
        )
        if record.status.is_at_rest or is_known:
            return
        seq = record.inbox_seq + 1
        page.messages.append(replace(message, seq=seq, at=self.now))
        wake_at = rules.wake_by_message(record.status, record.worker_key, record.wake_at, self.now)
        page.change(replace(record, inbox_seq=seq, wake_at=wake_at))

    # --- writing ------------------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write everything. Raises ``Again`` if somebody was faster."""
        await self._give_keys()
        named = {page.record.queue for page in self._born if page.record.queue}
        if named:
            await queues.know(self._tx, named)
        pages = sorted([*self._pages.values(), *self._born], key=lambda page: page.record.run_key)
        await self._insert_runs([page for page in pages if page.is_new])
        await self._insert_entries(pages)
        await self._insert_blobs(pages)
        await self._update_runs([page for page in pages if page.is_changed and not page.is_new])
        await self._insert_messages(pages)
        await self._write_replies(pages)
        await self._write_attempts(pages)
        await self._move_in_queues(pages)

    async def _move_in_queues(self, pages: Sequence[Page]) -> None:
        leaving = [page.record.run_key for page in pages if page.leaves]
        if leaving:
            await queues.leave(self._tx, leaving)
        aside = [page.record.run_key for page in pages if page.stands_aside and not page.leaves]
        if aside:
            await queues.stand_aside(self._tx, aside)

    async def _give_keys(self) -> None:
        if not self._born:
            return
        for page, (key,) in zip(self._born, await self._tx.fetch(_NEXT_KEYS, len(self._born)), strict=True):
            created = page.record.created
            digest = entry_hash(GENESIS, key, 1, 0, self.now, False, created)
            page.record = replace(page.record, run_key=key, hash=digest)
            page.entries = [(Entry(key, 1, 0, self.now, False, created, digest), Status.QUEUED, "", 0)]

    async def _insert_runs(self, pages: Sequence[Page]) -> None:
        lines = [
            (
                *(run.run_key, run.run_id, run.workflow, run.code_version, run.status, run.epoch, run.worker_key),
                *(run.wake_at, page.claimed_version, run.created_at, run.deaths, run.max_recoveries, run.inbox_seq),
                *(run.inbox_done, run.parent_key, run.parent_command, run.refused_by, run.base, page.forked_from),
                *(run.on_parent_close, run.family, run.pinned, run.queue, run.queue_key, run.priority),
                *(1 if run.queue else 0, page.dedupe),
            )
            for page in pages
            for run in [page.record]
        ]
        if lines and len(await self._tx.fetch(_INSERT_RUNS, *columns(lines))) != len(lines):
            raise Again

    async def _insert_entries(self, pages: Iterable[Page]) -> None:
        lines = [
            (
                *(entry.run_key, entry.version, entry.epoch, entry.at, cursor, entry.drained, status, step, entry.hash),
                entry.events.decode(),
            )
            for page in pages
            for entry, status, step, cursor in page.entries
        ]
        if lines and len(await self._tx.fetch(_INSERT_ENTRIES, *columns(lines))) != len(lines):
            raise Again

    async def _insert_blobs(self, pages: Iterable[Page]) -> None:
        found = {(entry.run_key, blob.hash): blob.data for page in pages for entry, *_ in page.entries for blob in entry.blobs}
        if found:
            await self._tx.fetch(_PUT_BLOBS, *columns([(*key, data) for key, data in found.items()]))

    async def _update_runs(self, pages: Sequence[Page]) -> None:
        lines = [
            (
                *(run.run_key, run.status, run.epoch, run.worker_key, run.wake_at, page.claimed_version, run.deaths),
                *(run.inbox_seq, run.inbox_done, run.refused_by, run.base),
            )
            for page in pages
            for run in [page.record]
        ]
        if lines:
            await self._tx.fetch(_UPDATE_RUNS, *columns(lines))

    async def _insert_messages(self, pages: Iterable[Page]) -> None:
        lines = [
            (page.record.run_key, each.seq, each.at, each.dedupe, each.event.decode())
            for page in pages
            for each in page.messages
        ]
        if lines:
            await self._tx.fetch(_INSERT_MESSAGES, *columns(lines))

    async def _write_replies(self, pages: Iterable[Page]) -> None:
        lines = [(page.record.run_key, key, event.decode()) for page in pages for key, event in page.replies.items()]
        if lines:
            await self._tx.fetch(_REPLY, *columns(lines))

    async def _write_attempts(self, pages: Sequence[Page]) -> None:
        dropping = [page.record.run_key for page in pages if page.drops_attempts]
        if dropping:
            await self._tx.fetch(_DROP_ALL_ATTEMPTS, dropping)
        each_key = [(page.record.run_key, key, row) for page in pages for key, row in page.attempts.items()]
        settled = [(run_key, key) for run_key, key, row in each_key if row is None]
        if settled:
            await self._tx.fetch(_DROP_ATTEMPTS, *columns(settled))
        kept = [rows.attempt_values(run_key, row) for run_key, _, row in each_key if row is not None]
        if kept:
            await self._tx.fetch(_PUT_ATTEMPTS, *columns(kept))


def new_record(
    new: NewRun, at: Micros, status: Status, *, wake_at: Micros | None = None, worker_key: WorkerKey | None = None
) -> RunRecord:
    """How a run stands that is about to be created."""
    return RunRecord(
        run_key=0,
        run_id=new.run_id,
        workflow=new.workflow,
        code_version=new.code_version,
        status=status,
        version=1,
        hash=b"",
        epoch=0,
        worker_key=worker_key,
        wake_at=wake_at,
        created_at=at,
        updated_at=at,
        step="",
        cursor=0,
        deaths=0,
        max_recoveries=new.max_recoveries,
        inbox_seq=len(rules.first_messages(new, at)),
        inbox_done=0,
        parent_key=new.parent_key,
        parent_command=new.parent_command,
        refused_by="",
        on_parent_close=new.on_parent_close,
        family=new.family,
        pinned=new.pinned,
        queue=new.queue,
        queue_key=new.queue_key,
        priority=new.priority,
        created=new.created,
    )


def columns(lines: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Rows as the arrays that ``unnest`` takes."""
    return [list(column) for column in zip(*lines, strict=True)]
