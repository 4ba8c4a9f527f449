"""Versions of the schema that nobody has released: for tests of how stores get from one to the next."""

from __future__ import annotations

from everstep.stores.migrations import Index, Migration
from everstep.stores.sqlite import schema as sqlite

SQLITE = (
    *sqlite.MIGRATIONS,
    Migration(
        2,
        "Adds who asked for a run, and whom to tell.",
        pre=(
            "ALTER TABLE runs ADD COLUMN asked_by TEXT NOT NULL DEFAULT 'nobody'",
            "CREATE TABLE everstep_listeners(run_key INTEGER NOT NULL, url TEXT NOT NULL) STRICT",
            "CREATE INDEX runs_asked ON runs(asked_by) WHERE asked_by <> 'nobody'",
        ),
        post=("UPDATE runs SET asked_by = 'somebody' WHERE asked_by = 'nobody'", "DROP VIEW history"),
    ),
    Migration(3, "Drops what nobody listened to.", pre=(), post=("DROP TABLE everstep_listeners",)),
)
SQLITE_2 = SQLITE[:2]

POSTGRES_2 = Migration(
    2,
    "Adds who asked for a run, and whom to tell.",
    pre=(
        "ALTER TABLE everstep.runs ADD COLUMN asked_by text NOT NULL DEFAULT 'nobody'",
        Index(
            "runs_asked",
            "CREATE INDEX CONCURRENTLY runs_asked ON everstep.runs(asked_by)",
            "DROP INDEX CONCURRENTLY everstep.runs_asked",
        ),
        "CREATE TABLE everstep.everstep_listeners(run_key int8 NOT NULL, url text NOT NULL)",
    ),
    post=("UPDATE everstep.runs SET asked_by = 'somebody' WHERE asked_by = 'nobody'", "DROP VIEW everstep.history"),
)
POSTGRES_3 = Migration(3, "Drops what nobody listened to.", pre=(), post=("DROP TABLE everstep.everstep_listeners",))
