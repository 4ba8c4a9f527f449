"""Questions. Each is one statement (two for messages), asked on the reader's connection or inside a transaction."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from everstep.blobs import MARK, Blob, hashes_in
from everstep.journal import GENESIS, Entry
from everstep.records import AttemptRecord, Message, RunKey, RunRecord, Status, WorkerKey, WorkerRecord
from everstep.stores import profiles, rules
from everstep.stores.base import RunFilter
from everstep.stores.sqlite import rows
from everstep.stores.sqlite.ask import Ask
from everstep.stores.sqlite.clock import boot_id
from everstep.stores.sqlite.oslock import WorkerLocks

_RUN: Final = f"SELECT {rows.RUN}, {rows.CREATED_AND_OUTCOME} FROM runs WHERE run_id = ?"  # noqa: S608  # names of columns
_RUN_BY_KEY: Final = f"SELECT {rows.RUN} FROM runs WHERE run_key = ?"  # noqa: S608

# Newest first along ``prev``. Ids only ever grow, so ``id < newer.id`` ends the walk whatever a damaged row says.
CHAIN: Final = """
WITH RECURSIVE chain(id, prev) AS (
    SELECT journal.id, journal.prev FROM runs JOIN journal ON journal.id = runs.head WHERE runs.run_key = ?1
    UNION ALL
    SELECT journal.id, journal.prev FROM chain JOIN journal ON journal.id = chain.prev AND journal.id < chain.id
)
"""
_JOURNAL: Final = f"{CHAIN} SELECT {rows.ENTRY} FROM chain CROSS JOIN journal USING (id)"  # noqa: S608
_JOURNAL_FROM: Final = _JOURNAL.replace("journal.id < chain.id", "journal.id < chain.id AND journal.version >= ?2")
_CREATED: Final = "SELECT events FROM runs JOIN journal ON id = first WHERE runs.run_key = ?"
_FIRST: Final = f"SELECT {rows.ENTRY} FROM journal WHERE id = (SELECT first FROM runs WHERE runs.run_key = ?)"  # noqa: S608
_ANCHOR: Final = "SELECT version, hash FROM anchors WHERE run_key = ?"

_MAIL: Final = "SELECT seq, at, dedupe, event, reply FROM inbox WHERE run_key = ?1 AND seq > ?2 ORDER BY seq"
_LETTER: Final = """
SELECT seq, at, dedupe, event, reply FROM inbox WHERE run_key = ?1 AND dedupe = ?2 AND dedupe <> '' AND seq > ?3
"""
_BLOB: Final = "SELECT data FROM blobs WHERE run_key = ? AND hash = ?"
_UNREAD_RUNS: Final = (
    "SELECT run_key, inbox_done FROM runs INDEXED BY runs_unread "
    "WHERE worker_key = ? AND worker_key IS NOT NULL AND inbox_seq > inbox_done ORDER BY run_key"
)
_ATTEMPTS: Final = f"SELECT {rows.ATTEMPT} FROM attempts WHERE run_key = ? ORDER BY key"  # noqa: S608  # names of columns
_WORKERS: Final = """
SELECT worker_key, name, gone = '', lease_seconds, (SELECT count(*) FROM runs WHERE runs.worker_key = workers.worker_key),
       enlisted_at, heartbeat, draining, profile, boot_id FROM workers
WHERE gone = '' OR EXISTS (SELECT 1 FROM runs WHERE runs.worker_key = workers.worker_key) ORDER BY worker_key
"""

_LIST: Final = f"""
SELECT {rows.RUN} FROM runs
WHERE (?1 IS NULL OR status IN (SELECT value FROM json_each(?1)))
  AND (?2 = '' OR workflow = ?2)
  AND substr(run_id, 1, length(?3)) = ?3
  AND created_at >= ?4
  AND (?5 IS NULL OR (created_at, run_key) < (SELECT created_at, run_key FROM runs WHERE run_key = ?5))
  AND (?7 = '' OR queue = ?7) AND (?8 = '' OR queue_key = ?8)
ORDER BY created_at DESC, run_key DESC LIMIT ?6
"""  # noqa: S608
# The same, where the index of the few runs that need somebody's attention will do.
_LIST_TROUBLE: Final = _LIST.replace(
    "WHERE", "INDEXED BY runs_in_trouble WHERE (status = 'paused' OR status = 'failed' OR status = 'dead') AND", 1
)
# And where the runs in progress of a queue are asked for.
_LIST_ADMITTED: Final = _LIST.replace("WHERE", "INDEXED BY runs_admitted WHERE admitted = 1 AND", 1)
_TROUBLE: Final = frozenset({Status.PAUSED, Status.FAILED, Status.DEAD})


def run(ask: Ask, run_id: str) -> RunRecord | None:
    """A run with its ``created`` and ``outcome``."""
    row = ask(_RUN, (run_id,)).fetchone()
    return None if row is None else rows.full_run_of(row)


def run_by_key(ask: Ask, run_key: RunKey) -> RunRecord | None:
    """A run without them."""
    row = ask(_RUN_BY_KEY, (run_key,)).fetchone()
    return None if row is None else rows.run_of(row)


def load(ask: Ask, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
    """The same outside a transaction: what is pruned meanwhile is there, or not there, as a whole."""
    ask("BEGIN")
    try:
        return journal(ask, run_key, up_to)
    finally:
        ask("ROLLBACK")


def journal(ask: Ask, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
    """The entries of a run from the first, to the end or up to a version, without what was trimmed."""
    entries = list(map(rows.entry_of, ask(_JOURNAL, (run_key,))))
    entries.reverse()
    if entries and entries[0].version > 1:
        entries = [*map(rows.entry_of, ask(_FIRST, (run_key,))), *_anchored(ask, entries)]
    return _with_blobs(ask, [entry for entry in entries if up_to is None or entry.version <= up_to])


def journal_from(ask: Ask, run_key: RunKey, base: int) -> tuple[list[Entry], bytes]:
    """The entries of a run from a version on, and the hash of the entry before."""
    entries = list(map(rows.entry_of, ask(_JOURNAL_FROM, (run_key, base - 1))))
    entries.reverse()
    if base > 1 and entries and entries[0].version == base - 1:
        return _with_blobs(ask, entries[1:]), entries[0].hash
    entries = _anchored(ask, entries) if base > 1 else entries
    return _with_blobs(ask, entries), (entries[0].anchor if entries else b"") or GENESIS


def _anchored(ask: Ask, entries: list[Entry]) -> list[Entry]:
    """The first of them with the hash of the one before, if that one was pruned. What else is missing is for verifiers."""
    row = ask(_ANCHOR, (entries[0].run_key,)).fetchone() if entries else None
    if row is None or row[0] + 1 != entries[0].version:
        return entries
    return [replace(entries[0], anchor=row[1]), *entries[1:]]


def _with_blobs(ask: Ask, entries: list[Entry]) -> list[Entry]:
    return [replace(each, blobs=_blobs(ask, each)) if MARK in each.events else each for each in entries]


def _blobs(ask: Ask, entry: Entry) -> tuple[Blob, ...]:
    """Those that are there: what is missing is found out by whoever verifies the entry."""
    rows = [(digest, ask(_BLOB, (entry.run_key, digest)).fetchone()) for digest in hashes_in(entry.events)]
    return tuple(Blob(digest, row[0]) for digest, row in rows if row is not None)


def created(ask: Ask, run_key: RunKey) -> bytes:
    """The events of a run's first entry."""
    row = ask(_CREATED, (run_key,)).fetchone()
    return b"" if row is None else str(row[0]).encode()


def mail(ask: Ask, run_key: RunKey, after: int, dedupe: str = "") -> list[Message]:
    """Messages after that number; with ``dedupe`` only the one that has this key."""
    found = ask(_LETTER, (run_key, dedupe, after)) if dedupe else ask(_MAIL, (run_key, after))
    return list(map(rows.message_of, found))


def unread_by_owner(ask: Ask, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
    """Unconsumed messages of all runs that a worker owns."""
    waiting = ask(_UNREAD_RUNS, (worker_key,)).fetchall()
    return [(run_key, mail(ask, run_key, done)) for run_key, done in waiting]


def attempts(ask: Ask, run_key: RunKey) -> list[AttemptRecord]:
    """Rows of unfinished steps."""
    return list(map(rows.attempt_of, ask(_ATTEMPTS, (run_key,))))


def workers(ask: Ask, locks: WorkerLocks, monotonic: float) -> list[WorkerRecord]:
    """All that are alive or still own runs; a dead one may have given back its last run itself, before anybody claimed it."""
    here = boot_id()
    return [
        WorkerRecord(
            worker_key=key,
            name=name,
            alive=bool(alive),
            lease_seconds=lease_seconds,
            run_count=count,
            enlisted_at=enlisted_at,
            silent_seconds=monotonic - heartbeat if boot == here else None,
            draining=bool(draining),
            lock=locks.state_of(key) if boot == here else "free",
            profile=profiles.decode(profile),
        )
        for key, name, alive, lease_seconds, count, enlisted_at, heartbeat, draining, profile, boot in ask(_WORKERS)
    ]


def runs(ask: Ask, query: RunFilter) -> list[RunRecord]:
    """Runs that match, newest first."""
    rules.check_filter(query)
    statement = _LIST_TROUBLE if query.statuses and _TROUBLE.issuperset(query.statuses) else _LIST
    statement = _LIST_ADMITTED if query.is_admitted else statement
    statuses = msgspec.json.encode(query.statuses).decode() if query.statuses else None
    created_from = -1 if query.created_from is None else query.created_from
    bindings = (statuses, query.workflow, query.id_prefix, created_from, query.before, query.limit)
    return list(map(rows.run_of, ask(statement, (*bindings, query.queue, query.queue_key))))
