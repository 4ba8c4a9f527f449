"""Questions. Each is one statement, takes no lock, and sees what is committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from everstep.blobs import MARK, Blob, hashes_in
from everstep.journal import GENESIS, Entry
from everstep.records import AttemptRecord, Message, RunKey, RunRecord, Status, WorkerKey, WorkerRecord
from everstep.stores import profiles, rules
from everstep.stores.base import RunFilter
from everstep.stores.postgres import rows
from everstep.stores.postgres.clock import LEASE_NOW
from everstep.stores.postgres.link import Row
from everstep.stores.postgres.pool import Tx
from everstep.stores.postgres.workers import SEATS

_RUN: Final = f"""
SELECT {rows.RUN}, {rows.CREATED_AND_OUTCOME} FROM everstep.runs {rows.HEAD} WHERE runs.run_id = $1
"""  # noqa: S608  # names of columns
_RUNS_BY_ID: Final = f"""
SELECT {rows.RUN}, {rows.CREATED_AND_OUTCOME} FROM everstep.runs {rows.HEAD} WHERE runs.run_id = ANY($1::text[])
"""  # noqa: S608
_RUNS_BY_KEY: Final = f"""
SELECT {rows.RUN}, {rows.CREATED_AND_OUTCOME} FROM everstep.runs {rows.HEAD} WHERE runs.run_key = ANY($1::int8[])
"""  # noqa: S608

_JOURNAL: Final = f"""
SELECT {rows.ENTRY} FROM everstep.journal WHERE run_key = $1 AND version <= $2 ORDER BY version
"""  # noqa: S608
_SEGMENTS: Final = f"""
SELECT {rows.ENTRY} FROM unnest($1::int8[], $2::int8[]) AS asked(key, base)
JOIN everstep.journal ON journal.run_key = asked.key AND journal.version >= asked.base - 1 ORDER BY run_key, version
"""  # noqa: S608
_ANCHORS: Final = "SELECT run_key, version, hash FROM everstep.anchors WHERE run_key = ANY($1::int8[])"
_BLOBS: Final = "SELECT hash, data FROM everstep.blobs WHERE run_key = $1 AND hash = ANY($2::bytea[])"
_UNREAD: Final = """
SELECT inbox.seq, inbox.at, inbox.dedupe, inbox.event, inbox.reply, inbox.run_key
FROM everstep.runs JOIN everstep.inbox ON inbox.run_key = runs.run_key AND inbox.seq > runs.inbox_done
WHERE runs.run_key = ANY($1::int8[]) AND runs.inbox_seq > runs.inbox_done ORDER BY inbox.run_key, inbox.seq
"""
_UNREAD_BY_OWNER: Final = """
SELECT inbox.seq, inbox.at, inbox.dedupe, inbox.event, inbox.reply, inbox.run_key
FROM everstep.runs JOIN everstep.inbox ON inbox.run_key = runs.run_key AND inbox.seq > runs.inbox_done
WHERE runs.worker_key = $1 AND runs.worker_key IS NOT NULL AND runs.inbox_seq > runs.inbox_done
ORDER BY inbox.run_key, inbox.seq
"""
_MAIL: Final = """
SELECT seq, at, dedupe, event, reply FROM everstep.inbox WHERE run_key = $1 AND seq > $2 ORDER BY seq
"""
_LETTER: Final = """
SELECT seq, at, dedupe, event, reply FROM everstep.inbox WHERE run_key = $1 AND dedupe = $3 AND dedupe <> '' AND seq > $2
"""
_ATTEMPTS: Final = f"""
SELECT {rows.ATTEMPT} FROM everstep.attempts WHERE run_key = ANY($1::int8[]) ORDER BY run_key, key
"""  # noqa: S608
# Here a seat is only looked at: whoever tries for one keeps its owner from taking it for a moment.
_WORKERS: Final = f"""
SELECT worker_key, name, gone = '', lease_seconds, owned.count, enlisted_at, {LEASE_NOW} - heartbeat, draining, profile,
       CASE WHEN seat IS DISTINCT FROM pg_postmaster_start_time() THEN 'unknown'
            WHEN worker_key = ANY(ARRAY(SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND classid = $2::int8::oid
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))) THEN 'held'
            ELSE 'free' END
FROM everstep.workers
CROSS JOIN LATERAL (SELECT count(*) FROM everstep.runs WHERE runs.worker_key = workers.worker_key) AS owned
WHERE gone = '' OR owned.count > 0 ORDER BY worker_key
"""  # noqa: S608

_LIST: Final = f"""
SELECT {rows.RUN} FROM everstep.runs {rows.HEAD}
WHERE ($1::text[] IS NULL OR CASE WHEN runs.worker_key IS NULL THEN runs.status ELSE head.status END = ANY($1::text[]))
  AND ($2::text = '' OR runs.workflow = $2::text)
  AND starts_with(runs.run_id, $3::text)
  AND ($4::int8 IS NULL OR runs.created_at >= $4::int8)
  AND ($5::int8 IS NULL OR (runs.created_at, runs.run_key) <
       (SELECT older.created_at, older.run_key FROM everstep.runs AS older WHERE older.run_key = $5::int8))
  AND ($7::text = '' OR runs.queue = $7::text) AND ($8::text = '' OR runs.queue_key = $8::text)
ORDER BY runs.created_at DESC, runs.run_key DESC LIMIT $6
"""  # noqa: S608
# The same, where the index of the few runs that need somebody's attention will do. Nobody owns those.
_LIST_TROUBLE: Final = _LIST.replace(
    "WHERE ($1", "WHERE runs.status IN ('paused', 'failed', 'dead') AND runs.worker_key IS NULL AND ($1", 1
)
# And where the runs in progress of a queue are asked for: they are sorted, so that no index of all runs will do.
_LIST_ADMITTED: Final = _LIST.replace("WHERE ($1", "WHERE runs.admitted AND ($1", 1).replace(
    "ORDER BY runs.created_at DESC,", "ORDER BY runs.created_at + 0 DESC,", 1
)
_TROUBLE: Final = frozenset({Status.PAUSED, Status.FAILED, Status.DEAD})
_VERSION_MAX: Final = (1 << 63) - 1
_LOOKS: Final = 3
"""Somebody may prune between two questions about one journal: then we look again."""


async def run(tx: Tx, run_id: str) -> RunRecord | None:
    """A run with its ``created`` and ``outcome``."""
    found = await tx.fetch(_RUN, run_id)
    return rows.full_run_of(found[0]) if found else None


async def runs_by_id(tx: Tx, run_ids: Sequence[str]) -> dict[str, RunRecord]:
    """Those of these runs that exist, with their ``created`` and ``outcome``."""
    return {each.run_id: each for each in map(rows.full_run_of, await tx.fetch(_RUNS_BY_ID, run_ids))}


async def runs_by_key(tx: Tx, run_keys: Sequence[RunKey]) -> dict[RunKey, RunRecord]:
    """The same, by key."""
    return {each.run_key: each for each in map(rows.full_run_of, await tx.fetch(_RUNS_BY_KEY, run_keys))}


async def journal(tx: Tx, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
    """The entries of a run from the first, to the end or up to a version, without what was trimmed."""
    entries: list[Entry] = []
    for _ in range(_LOOKS):
        found = await tx.fetch(_JOURNAL, run_key, _VERSION_MAX if up_to is None else up_to)
        entries = await _with_blobs(tx, list(map(rows.entry_of, found)))
        if len(entries) > 1 and entries[1].version > 2:
            entries[1:] = _anchored(entries[1:], await _anchors(tx, [run_key]))
        if not _has_hole(entries):
            break
    return entries


def _has_hole(entries: list[Entry]) -> bool:
    """What should be there is not: it was damaged, or pruned just now."""
    is_gap = len(entries) > 1 and entries[1].version > 2 and not entries[1].anchor
    return is_gap or any(len(each.blobs) < len(hashes_in(each.events)) for each in entries if MARK in each.events)


async def _anchors(tx: Tx, run_keys: Sequence[RunKey]) -> dict[RunKey, tuple[int, bytes]]:
    """Of runs that were trimmed: the last entry that is gone, and its hash."""
    return {run_key: (version, digest) for run_key, version, digest in await tx.fetch(_ANCHORS, run_keys)}


def _anchored(entries: list[Entry], anchors: Mapping[RunKey, tuple[int, bytes]]) -> list[Entry]:
    version, digest = anchors.get(entries[0].run_key, (0, b""))
    return [replace(entries[0], anchor=digest), *entries[1:]] if version + 1 == entries[0].version else entries


async def segments(tx: Tx, bases: Mapping[RunKey, int]) -> dict[RunKey, tuple[list[Entry], bytes]]:
    """The entries of several runs, each from its base on, and the hash of the entry before."""
    segments: dict[RunKey, list[Entry]] = {run_key: [] for run_key in bases}
    for row in await tx.fetch(_SEGMENTS, list(bases), list(bases.values())):
        segments[row[0]].append(rows.entry_of(row))
    trimmed = [run_key for run_key, entries in segments.items() if entries and 1 < bases[run_key] == entries[0].version]
    for run_key, anchor in (await _anchors(tx, trimmed) if trimmed else {}).items():
        segments[run_key] = _anchored(segments[run_key], {run_key: anchor})
    segments = {run_key: await _with_blobs(tx, entries) for run_key, entries in segments.items()}
    return {run_key: _cut(entries, bases[run_key]) for run_key, entries in segments.items()}


async def _with_blobs(tx: Tx, entries: list[Entry]) -> list[Entry]:
    """The entries of a run with the blobs that they refer to. What is missing is found out by whoever verifies them."""
    wanted = {entry.version: hashes_in(entry.events) for entry in entries if MARK in entry.events}
    if not any(wanted.values()):
        return entries
    all_hashes = list({each for hashes in wanted.values() for each in hashes})
    found: dict[bytes, bytes] = {row[0]: row[1] for row in await tx.fetch(_BLOBS, entries[0].run_key, all_hashes)}
    return [replace(entry, blobs=_of(found, wanted.get(entry.version, ()))) for entry in entries]


def _of(found: Mapping[bytes, bytes], hashes: Iterable[bytes]) -> tuple[Blob, ...]:
    return tuple(Blob(each, found[each]) for each in hashes if each in found)


def _cut(entries: list[Entry], base: int) -> tuple[list[Entry], bytes]:
    if base > 1 and entries and entries[0].version == base - 1:
        return entries[1:], entries[0].hash
    return entries, (entries[0].anchor if entries else b"") or GENESIS


async def unread(tx: Tx, run_keys: Sequence[RunKey]) -> dict[RunKey, list[Message]]:
    """Unconsumed messages of several runs."""
    return _by_run(await tx.fetch(_UNREAD, run_keys))


async def unread_by_owner(tx: Tx, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
    """Unconsumed messages of all runs that a worker owns."""
    return list(_by_run(await tx.fetch(_UNREAD_BY_OWNER, worker_key)).items())


async def mail(tx: Tx, run_key: RunKey, after: int, dedupe: str) -> list[Message]:
    """Messages of a run after that number, with their replies; with ``dedupe`` only the one that has this key."""
    asked = tx.fetch(_LETTER, run_key, after, dedupe) if dedupe else tx.fetch(_MAIL, run_key, after)
    return list(map(rows.message_of, await asked))


def _by_run(found: Iterable[Row]) -> dict[RunKey, list[Message]]:
    messages: dict[RunKey, list[Message]] = {}
    for row in found:
        messages.setdefault(row[5], []).append(rows.message_of(row))
    return messages


async def attempts(tx: Tx, run_keys: Sequence[RunKey]) -> dict[RunKey, list[AttemptRecord]]:
    """Rows of unfinished steps of several runs."""
    found: dict[RunKey, list[AttemptRecord]] = {run_key: [] for run_key in run_keys}
    for row in await tx.fetch(_ATTEMPTS, run_keys):
        found[row[0]].append(rows.attempt_of(row))
    return found


async def workers(tx: Tx, lease_now: float | None) -> list[WorkerRecord]:
    """All that are alive or still own runs."""
    return [
        WorkerRecord(
            worker_key=key,
            name=name,
            alive=alive,
            lease_seconds=lease_seconds,
            run_count=count,
            enlisted_at=enlisted_at,
            silent_seconds=silent,
            draining=draining,
            lock=lock,
            profile=profiles.decode(profile),
        )
        for key, name, alive, lease_seconds, count, enlisted_at, silent, draining, profile, lock in await tx.fetch(
            _WORKERS, lease_now, SEATS
        )
    ]


async def runs(tx: Tx, query: RunFilter) -> list[RunRecord]:
    """Runs that match, newest first."""
    rules.check_filter(query)
    statement = _LIST_TROUBLE if query.statuses and _TROUBLE.issuperset(query.statuses) else _LIST
    statement = _LIST_ADMITTED if query.is_admitted else statement
    statuses = [each.value for each in query.statuses] or None
    values = (statuses, query.workflow, query.id_prefix, query.created_from, query.before, query.limit)
    return list(map(rows.run_of, await tx.fetch(statement, *values, query.queue, query.queue_key)))
