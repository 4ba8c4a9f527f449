"""
Landing under locks: the way of every write that the one statement of ``fast`` does not take, or did not.

All rows that the writes may touch are locked in run order and read; then each write is decided in its turn, exactly as
``stores/memory.py`` does it and by the same ``rules``; then everything is written at once.

A row may be held by somebody for as long as a user's transaction takes (a message that is sent in one). The others of the batch
do not wait for that: ``land_free`` leaves out who needs such a row, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from everstep.journal import Entry
from everstep.records import Message, Micros, RunKey, RunRecord, WorkerKey
from everstep.stores import rules
from everstep.stores.base import Append, Created, Exists, Keep, Landed, NewRun, Outcome, Write
from everstep.stores.postgres.book import Book, Page, Wanted, lock, lock_free, new_record
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.pool import Tx

# After the locks: no timer can be early by a clock that was read before somebody else's transaction ended.
_NOW_AND_ALIVE: Final = f"""
SELECT {NOW}, ARRAY(SELECT worker_key FROM everstep.workers WHERE worker_key = ANY($2::int8[]) AND gone = '' FOR SHARE)
"""  # noqa: S608
_PARENTS: Final = "SELECT run_key, run_id, parent_key FROM everstep.runs WHERE run_key = ANY($1::int8[])"
_HASHES: Final = """
SELECT run_key, version, hash FROM everstep.journal
WHERE (run_key, version) IN (SELECT * FROM unnest($1::int8[], $2::int8[]))
"""
_VERSION_MAX: Final = (1 << 63) - 1


async def land(tx: Tx, batch: Sequence[Write], given: Micros | None) -> list[Outcome]:
    """Let a batch land, in order, in this transaction."""
    return await _Landing(tx, batch, given).land(await lock(tx, wanted(batch)))


async def land_free(tx: Tx, batch: Sequence[Write], given: Micros | None) -> list[Outcome | None]:
    """The same for those whose rows nobody else holds; None for the others."""
    locked, held = await lock_free(tx, wanted(batch))
    names = {name for run_key, run_id, _ in held for name in (run_key, run_id)}
    parents = {row[0]: row[2] for row in await tx.fetch(_PARENTS, wanted(batch).children)}
    is_free = [names.isdisjoint((_run_key(each), *_ids(each), parents.get(_run_key(each)))) for each in batch]
    free = [each for each, may in zip(batch, is_free, strict=True) if may]
    answers = iter(await _Landing(tx, free, given).land(locked) if free else [])
    return [next(answers) if may else None for may in is_free]


def wanted(batch: Sequence[Write]) -> Wanted:
    """All runs that a batch may touch."""
    keys = sorted({key for key in map(_run_key, batch) if 0 <= key <= _VERSION_MAX})
    ids = {run_id for write in batch for run_id in _ids(write) if rules.is_text(run_id)}
    return Wanted(keys, sorted(ids), [_run_key(write) for write in batch if _rests(write)])


class _Landing:
    def __init__(self, tx: Tx, batch: Sequence[Write], given: Micros | None) -> None:
        self._tx = tx
        self._batch = batch
        self._given = given
        self._hashes: dict[tuple[RunKey, int], bytes] = {}
        self._alive: set[WorkerKey] = set()
        self._book: Book

    async def land(self, locked: Sequence[RunKey]) -> list[Outcome]:
        await self._look(locked)
        outcomes = [self._land(each) for each in self._batch]
        await self._book.write()
        return outcomes

    # --- looking ------------------------------------------------------------------------------------------------------------

    async def _look(self, locked: Sequence[RunKey]) -> None:
        owners = sorted({write.worker_key for write in self._batch if isinstance(write, Append) and write.create is not None})
        now, alive = await self._tx.one(_NOW_AND_ALIVE, self._given, owners)
        self._alive = set(alive)
        self._book = Book(self._tx, now)
        await self._book.read(locked)
        await self._look_for_entries()
        await self._book.read_dedupes(self._pairs())

    async def _look_for_entries(self) -> None:
        entries = [write.entry for write in self._batch if isinstance(write, Append)]
        if entries:
            keys, versions = [entry.run_key for entry in entries], [entry.version for entry in entries]
            found = await self._tx.fetch(_HASHES, keys, versions)
            self._hashes = {(run_key, version): digest for run_key, version, digest in found}

    def _pairs(self) -> list[tuple[RunKey, str]]:
        """Runs and the dedupe keys of messages that they may get. What a parent is told of its children it is told anew."""
        pairs: list[tuple[RunKey, str]] = []
        for write in self._batch:
            if not isinstance(write, Append):
                continue
            for post in write.posts:
                addressee = self._book.by_id(post.run_id)
                if addressee is not None:
                    pairs.append((addressee.record.run_key, post.message.dedupe))
        return pairs

    # --- deciding -----------------------------------------------------------------------------------------------------------

    def _land(self, write: Write) -> Outcome:
        outcome = self._answer(write)
        if outcome is not None:
            return outcome
        page = self._land_keep(write) if isinstance(write, Keep) else self._land_entry(write)
        page.attempts.update({each.key: each for each in write.attempts})
        for reply in write.replies:
            page.replies.setdefault(reply.dedupe, reply.event)
        if rules.frees(write):
            page.change(
                replace(
                    page.record,
                    status=write.status,
                    worker_key=None,
                    wake_at=rules.wake_after(write, self._book.now),
                    refused_by=rules.refused_after(page.record.refused_by, write),
                )
            )
        if isinstance(write, Append):
            self._have_effects(page, write)
        return Landed()

    def _answer(self, write: Write) -> Outcome | None:
        """What becomes of the write. None: it lands now."""
        if isinstance(write, Append) and write.create is not None:
            return self._answer_first(write, write.create)
        if isinstance(write, Append) and self._has(write.entry):
            return Landed()
        page = self._book.by_key(_run_key(write))
        return rules.why_not(write, None if page is None else _standing(page.record), self._book.now)

    def _answer_first(self, write: Append, new: NewRun) -> Outcome | None:
        existing = self._book.by_id(new.run_id)
        if existing is not None:
            is_mine = existing.record.run_key == write.entry.run_key and self._has(write.entry)
            return Landed() if is_mine else Exists(existing.record)
        if self._book.by_key(write.entry.run_key) is not None or write.worker_key not in self._alive:
            return rules.why_not(write, None, self._book.now)
        return rules.why_not(write, rules.unborn(write), self._book.now)

    def _has(self, entry: Entry) -> bool:
        return self._hashes.get((entry.run_key, entry.version)) == entry.hash

    def _land_keep(self, write: Keep) -> Page:
        page = self._book.by_key(write.run_key)
        assert page is not None, "the rules said that it lands"
        if write.consumed > page.record.inbox_done:
            page.change(replace(page.record, inbox_done=write.consumed))
        return page

    def _land_entry(self, write: Append) -> Page:
        entry = write.entry
        self._hashes[entry.run_key, entry.version] = entry.hash
        if write.create is not None:
            born = new_record(write.create, entry.at, write.status, worker_key=write.worker_key)
            born = replace(born, run_key=entry.run_key, epoch=entry.epoch, created=entry.events)
            page = self._book.add(_after(born, write), entry, write.create.forked_from)
            page.messages = rules.first_messages(write.create, self._book.now)
        else:
            found = self._book.by_key(entry.run_key)
            assert found is not None, "the rules said that it lands"
            page = found
            page.append(entry, _after(page.record, write))
        page.attempts.update(dict.fromkeys(write.settled))
        return page

    def _have_effects(self, page: Page, write: Append) -> None:
        answers = [self._start_child(child, write.entry) for child in write.children]
        for post in write.posts:
            addressee = self._book.by_id(post.run_id)
            if addressee is not None and rules.is_for(post, addressee.record.parent_key, addressee.record.parent_command):
                self._book.deliver(addressee, post.message)
        for message in (message for each in answers for message in each):
            self._book.deliver(page, message)
        if write.status.is_at_rest:
            page.rest()
            tell_parent(self._book, page, write.entry)

    def _start_child(self, child: NewRun, entry: Entry) -> Sequence[Message]:
        child = rules.as_child(child, entry.run_key)
        existing = self._book.by_id(child.run_id)
        answer = Created(self._book.queue(child).record) if existing is None else Exists(existing.record)
        return rules.answers(child, answer, entry.version)


def tell_parent(book: Book, page: Page, ending: Entry) -> None:
    """Post the outcome of a run that came to rest with this entry to its parent, if it has one (P13)."""
    parent = book.by_key(page.record.parent_key)
    event = None if parent is None else rules.ending_of(ending.events)
    about = (page.record.parent_command, page.record.run_id, ending.version)
    message = None if event is None else rules.outcome_message(event, *about)
    if parent is not None and message is not None:
        book.deliver(parent, message)


def close_family(book: Book, page: Page) -> None:
    """Ask the children of a run that was given up to stop, those that are to be cancelled with it (P14)."""
    run = page.record
    for child in book.children_of(run.run_key):
        if rules.is_closed_with_parent(child.record):
            book.deliver(child, rules.cancel_message(run.run_key, f"its parent {run.run_id} was given up"))


def _after(record: RunRecord, write: Append) -> RunRecord:
    entry = write.entry
    return replace(
        record,
        status=write.status,
        version=entry.version,
        hash=entry.hash,
        updated_at=entry.at,
        step=write.step,
        cursor=write.cursor,
        deaths=0,
        inbox_done=max(record.inbox_done, write.consumed),
        base=entry.version if write.begins_segment else record.base,
        outcome=entry.events if write.status.is_at_rest else None,
    )


def _standing(record: RunRecord) -> rules.Standing:
    return rules.Standing(record.version, record.epoch, record.worker_key, record.inbox_seq, record.inbox_done)


def _run_key(write: Write) -> RunKey:
    return write.entry.run_key if isinstance(write, Append) else write.run_key


def _rests(write: Write) -> bool:
    return isinstance(write, Append) and write.status.is_at_rest


def _ids(write: Write) -> list[str]:
    """Ids of runs that the write may touch or create."""
    if not isinstance(write, Append):
        return []
    created = [write.create.run_id] if write.create is not None else []
    return [*created, *(child.run_id for child in write.children), *(post.run_id for post in write.posts)]
