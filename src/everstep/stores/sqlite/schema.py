"""
The tables, and where a file stands among their versions.

``application_id`` says that the file is ours, ``user_version`` which migrations it has had, ``meta`` the rest of what
``SchemaState`` tells. A file of somebody else is refused before anything in it is changed.

The journal is a log in the order of commits, without an index: writing to a clustered table costs four times the WAL. A run's
entries are a chain through ``prev``, newest first, that begins at ``runs.head``. The columns that every commit updates stand in
no index; the partial indexes hold only runs that somebody may look for.
"""

from __future__ import annotations

import functools
import os
from contextlib import closing
from typing import Any, Final

import apsw

from everstep.errors import SchemaMismatch
from everstep.stores.migrations import Migration, SchemaState
from everstep.stores.sqlite.ask import Ask, asking, only

APPLICATION_ID: Final = 0x45565354
"""``EVST`` in ASCII: shown by ``file(1)``."""

_FIRST = """
CREATE TABLE meta(
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workers(
    worker_key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    heartbeat REAL NOT NULL,
    lease_seconds REAL NOT NULL,
    gone TEXT NOT NULL DEFAULT '',
    was_alone INTEGER NOT NULL DEFAULT 0,
    schema_version INTEGER NOT NULL DEFAULT 1,
    draining INTEGER NOT NULL DEFAULT 0,
    enlisted_at INTEGER NOT NULL,
    profile TEXT NOT NULL
) STRICT;

CREATE TABLE runs(
    run_key INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    code_version TEXT NOT NULL,
    status TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    worker_key INTEGER,
    wake_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    step TEXT NOT NULL DEFAULT '',
    cursor INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    max_recoveries INTEGER NOT NULL,
    inbox_seq INTEGER NOT NULL DEFAULT 0,
    inbox_done INTEGER NOT NULL DEFAULT 0,
    parent_key INTEGER,
    parent_command TEXT NOT NULL,
    on_parent_close TEXT NOT NULL,
    family TEXT NOT NULL,
    pinned TEXT NOT NULL,
    queue TEXT NOT NULL,
    queue_key TEXT NOT NULL,
    priority INTEGER NOT NULL,
    line INTEGER NOT NULL,
    admitted INTEGER NOT NULL DEFAULT 0,
    dedupe TEXT,
    refused_by TEXT NOT NULL DEFAULT '',
    base INTEGER NOT NULL DEFAULT 1,
    forked_from INTEGER REFERENCES runs(run_key),
    head INTEGER NOT NULL,
    first INTEGER NOT NULL,
    outcome_entry INTEGER
) STRICT;

CREATE INDEX runs_due ON runs(queue, workflow, pinned, refused_by, wake_at)
    WHERE worker_key IS NULL AND wake_at IS NOT NULL AND line = 0;
CREATE INDEX runs_in_line ON runs(queue, workflow, pinned, priority, wake_at) WHERE line = 1;
CREATE INDEX runs_behind ON runs(queue, queue_key, priority, wake_at) WHERE line = 2;
CREATE INDEX runs_admitted ON runs(queue, queue_key) WHERE admitted = 1;
CREATE UNIQUE INDEX runs_deduped ON runs(queue, dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX runs_owned ON runs(worker_key) WHERE worker_key IS NOT NULL;
CREATE INDEX runs_unread ON runs(worker_key) WHERE worker_key IS NOT NULL AND inbox_seq > inbox_done;
CREATE INDEX runs_children ON runs(parent_key) WHERE parent_key IS NOT NULL;
CREATE INDEX runs_forks ON runs(forked_from) WHERE forked_from IS NOT NULL;
CREATE INDEX runs_newest ON runs(created_at);
-- Not IN (…): it would build a table of its three values at every update of any run (measured: 35 µs).
CREATE INDEX runs_in_trouble ON runs(created_at) WHERE status = 'paused' OR status = 'failed' OR status = 'dead';

CREATE TABLE queues(
    name TEXT PRIMARY KEY,
    declared TEXT,
    changed TEXT,
    changed_by TEXT NOT NULL DEFAULT '',
    changed_why TEXT NOT NULL DEFAULT '',
    is_paused INTEGER NOT NULL DEFAULT 0,
    paused_by TEXT NOT NULL DEFAULT '',
    paused_why TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE TABLE admissions(
    queue TEXT NOT NULL,
    at INTEGER NOT NULL,
    run_key INTEGER NOT NULL,
    PRIMARY KEY(queue, at, run_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE journal(
    id INTEGER PRIMARY KEY,
    run_key INTEGER NOT NULL,
    version INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    drained INTEGER NOT NULL,
    events TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Of runs whose closed segments were pruned: the last entry that is gone.
CREATE TABLE anchors(
    run_key INTEGER PRIMARY KEY REFERENCES runs(run_key) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE blobs(
    run_key INTEGER NOT NULL REFERENCES runs(run_key) ON DELETE CASCADE,
    hash BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY(run_key, hash)
) STRICT;

CREATE TABLE inbox(
    run_key INTEGER NOT NULL REFERENCES runs(run_key) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    dedupe TEXT NOT NULL,
    event TEXT NOT NULL,
    reply TEXT,
    PRIMARY KEY(run_key, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX inbox_dedupe ON inbox(run_key, dedupe) WHERE dedupe <> '';

CREATE TABLE attempts(
    run_key INTEGER NOT NULL REFERENCES runs(run_key) ON DELETE CASCADE,
    key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    due_at INTEGER,
    recoveries INTEGER NOT NULL,
    details BLOB,
    error BLOB,
    failures_max INTEGER,
    PRIMARY KEY(run_key, key)
) STRICT, WITHOUT ROWID;

CREATE VIEW history AS
    SELECT runs.run_id, journal.version, each.key AS place, journal.at, journal.epoch,
           each.value ->> 'event' AS event, each.value AS facts
    FROM runs JOIN journal USING (run_key), json_each(journal.events) AS each;

INSERT INTO meta VALUES ('incarnation', lower(hex(randomblob(16)))), ('run_key', 0);
PRAGMA application_id = 0x45565354;
"""

MIGRATIONS: Final[tuple[Migration, ...]] = (Migration(1, "Makes the tables.", (_FIRST,)),)
"""Only ever appended to."""
_META: Final = "SELECT key, value FROM meta WHERE key IN ('phase', 'min_version', 'moved_to', 'moving', 'filling')"
OWN_PREFIX: Final = "everstep_"
"""Users' tables stand in the same file, so a table that a later step adds must not have a name that one of theirs may have."""


@functools.cache
def own_names() -> frozenset[str]:
    """Names of everstep's tables, views and indexes, in lower case: users' SQL may read them and not change them."""
    with closing(apsw.Connection(":memory:")) as connection:
        ask = asking(connection)
        for migration in MIGRATIONS:
            for statement in migration.pre:
                assert isinstance(statement, str)
                ask(statement)
        return frozenset(name.lower() for (name,) in ask("SELECT name FROM sqlite_schema"))


def is_own(name: str | None) -> bool:
    """Whether a table of this name is everstep's, now or in a later version."""
    return name is not None and (name.lower() in own_names() or name.lower().startswith(OWN_PREFIX))


def look(ask: Ask, path: os.PathLike[str]) -> SchemaState:
    """Where the file stands; version 0 if it is empty. Changes nothing.

    Raises:
        SchemaMismatch: It is no store of everstep.
    """
    try:
        (application_id,) = only(ask("PRAGMA application_id"))
        (version,) = only(ask("PRAGMA user_version"))
        is_empty = not ask("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    except apsw.NotADBError as error:
        raise _not_ours(path, "is no SQLite database") from error
    if application_id != APPLICATION_ID and not (is_empty and not application_id and not version):
        raise _not_ours(path, "is a SQLite database of another application")
    if is_empty:
        return SchemaState(int(version), min_version=int(version))
    meta: dict[str, Any] = dict(ask(_META).fetchall())
    return SchemaState(
        int(version),
        "pre" if meta.get("phase") == "pre" else "done",
        int(meta.get("min_version") or version),
        moved_to=str(meta.get("moved_to", "")),
        is_moving="moving" in meta,
        is_filling="filling" in meta,
    )


def _not_ours(path: os.PathLike[str], what: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"the file {os.fspath(path)} {what}, not a store of everstep. It was not touched. "
        "Give the store a path of its own; it will be created."
    )
