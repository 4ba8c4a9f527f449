"""
The tables, and where a database stands among their versions.

They live in a schema of their own. ``meta`` says that it is ours, which version it has, and which incarnation of the store it
is (a restored backup keeps it, a store that was made anew has another). A schema of somebody else is refused before anything
in it is changed.

The journal is only ever inserted into: an update would leave a dead row behind at every step. So what changes with every entry
(version, hash, status, step) stands in the entry, and ``runs`` has only what changes with the owner: it is as old as the last
claim, release or message. The view ``overview`` puts the two together; ``history`` has one row per event, ``states`` one per
state that a run has published, as it is now. The columns that are
compared as text have the collation "C": byte by byte, the same on every server, and usable for prefixes. Events are ``text``,
exactly as they were hashed; views read them as ``json``.
"""

from __future__ import annotations

from typing import Final

from everstep.errors import SchemaMismatch, StoreUnavailable
from everstep.stores.migrations import Migration, SchemaState
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.pool import Tx

SERVER_VERSION_MIN: Final = 13_00_00
"""The oldest that is still tested by its makers or was until a year ago."""

_FIRST: Final = r"""
CREATE TABLE everstep.meta(
    key text PRIMARY KEY,
    value text NOT NULL
);

CREATE SEQUENCE everstep.run_keys;
CREATE SEQUENCE everstep.worker_keys;

CREATE TABLE everstep.workers(
    worker_key int8 PRIMARY KEY,
    name text NOT NULL,
    heartbeat float8 NOT NULL,
    lease_seconds float8 NOT NULL,
    gone text NOT NULL DEFAULT '',
    gone_at float8,
    was_alone bool NOT NULL DEFAULT false,
    seat timestamptz,
    schema_version int4 NOT NULL DEFAULT 1,
    draining bool NOT NULL DEFAULT false,
    enlisted_at int8 NOT NULL,
    profile text NOT NULL
);

CREATE TABLE everstep.runs(
    run_key int8 PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL UNIQUE,
    workflow text COLLATE "C" NOT NULL,
    code_version text NOT NULL,
    status text COLLATE "C" NOT NULL,
    epoch int8 NOT NULL,
    worker_key int8,
    wake_at int8,
    claimed_version int8 NOT NULL,
    created_at int8 NOT NULL,
    deaths int4 NOT NULL DEFAULT 0,
    max_recoveries int8 NOT NULL,
    inbox_seq int8 NOT NULL DEFAULT 0,
    inbox_done int8 NOT NULL DEFAULT 0,
    parent_key int8,
    parent_command text NOT NULL,
    refused_by text COLLATE "C" NOT NULL DEFAULT '',
    base int8 NOT NULL DEFAULT 1,
    on_parent_close text COLLATE "C" NOT NULL DEFAULT '',
    family text COLLATE "C" NOT NULL DEFAULT '',
    pinned text COLLATE "C" NOT NULL DEFAULT '',
    queue text COLLATE "C" NOT NULL DEFAULT '',
    queue_key text COLLATE "C" NOT NULL DEFAULT '',
    priority int4 NOT NULL DEFAULT 0,
    line int2 NOT NULL DEFAULT 0,
    admitted bool NOT NULL DEFAULT false,
    dedupe text COLLATE "C",
    forked_from int8 REFERENCES everstep.runs
) WITH (fillfactor = 80);

CREATE INDEX runs_due ON everstep.runs(queue, workflow, pinned, refused_by, wake_at, run_key)
    WHERE worker_key IS NULL AND wake_at IS NOT NULL AND line = 0;
CREATE INDEX runs_in_line ON everstep.runs(queue, workflow, pinned, priority, wake_at, run_key) WHERE line = 1;
CREATE INDEX runs_behind ON everstep.runs(queue, queue_key, priority, wake_at, run_key) WHERE line = 2;
CREATE INDEX runs_admitted ON everstep.runs(queue, queue_key) WHERE admitted;
CREATE UNIQUE INDEX runs_deduped ON everstep.runs(queue, dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX runs_owned ON everstep.runs(worker_key, run_key) WHERE worker_key IS NOT NULL;
CREATE INDEX runs_unread ON everstep.runs(worker_key, run_key) WHERE worker_key IS NOT NULL AND inbox_seq > inbox_done;
CREATE INDEX runs_children ON everstep.runs(parent_key, run_key) WHERE parent_key IS NOT NULL;
CREATE INDEX runs_forks ON everstep.runs(forked_from) WHERE forked_from IS NOT NULL;
CREATE INDEX runs_newest ON everstep.runs(created_at, run_key);
CREATE INDEX runs_in_trouble ON everstep.runs(created_at, run_key) WHERE status IN ('paused', 'failed', 'dead');

CREATE TABLE everstep.queues(
    name text COLLATE "C" PRIMARY KEY,
    declared text,
    changed text,
    changed_by text NOT NULL DEFAULT '',
    changed_why text NOT NULL DEFAULT '',
    is_paused bool NOT NULL DEFAULT false,
    paused_by text NOT NULL DEFAULT '',
    paused_why text NOT NULL DEFAULT ''
);

CREATE TABLE everstep.admissions(
    queue text COLLATE "C" NOT NULL,
    at int8 NOT NULL,
    run_key int8 NOT NULL,
    PRIMARY KEY (queue, at, run_key)
);

CREATE TABLE everstep.passed(
    queue text COLLATE "C" NOT NULL,
    queue_key text COLLATE "C" NOT NULL
);
CREATE INDEX passed_queue ON everstep.passed(queue, queue_key);

CREATE TABLE everstep.journal(
    run_key int8 NOT NULL,
    version int8 NOT NULL,
    epoch int8 NOT NULL,
    at int8 NOT NULL,
    cursor int8 NOT NULL,
    drained bool NOT NULL,
    status text COLLATE "C" NOT NULL,
    step text NOT NULL,
    hash bytea NOT NULL,
    events text NOT NULL,
    PRIMARY KEY (run_key, version)
);

-- Of runs whose closed segments were pruned: the last entry that is gone.
CREATE TABLE everstep.anchors(
    run_key int8 PRIMARY KEY REFERENCES everstep.runs ON DELETE CASCADE,
    version int8 NOT NULL,
    hash bytea NOT NULL
);

CREATE TABLE everstep.blobs(
    run_key int8 NOT NULL REFERENCES everstep.runs ON DELETE CASCADE,
    hash bytea NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (run_key, hash)
);

CREATE TABLE everstep.inbox(
    run_key int8 NOT NULL REFERENCES everstep.runs ON DELETE CASCADE,
    seq int8 NOT NULL,
    at int8 NOT NULL,
    dedupe text COLLATE "C" NOT NULL,
    event text NOT NULL,
    reply text,
    PRIMARY KEY (run_key, seq)
);
CREATE UNIQUE INDEX inbox_dedupe ON everstep.inbox(run_key, dedupe) WHERE dedupe <> '';

CREATE TABLE everstep.attempts(
    run_key int8 NOT NULL REFERENCES everstep.runs ON DELETE CASCADE,
    key text COLLATE "C" NOT NULL,
    attempt int8 NOT NULL,
    failures int8 NOT NULL,
    due_at int8,
    recoveries int8 NOT NULL,
    details bytea,
    error bytea,
    failures_max int8,
    PRIMARY KEY (run_key, key)
);

-- Has a row for as long as the body of a transaction of users is at work. Whoever commits before the entry of its result is
-- there (``everstep_tx.landed`` says so) commits nothing.
CREATE UNLOGGED TABLE everstep.guards(run_key int8 NOT NULL);
CREATE FUNCTION everstep.refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('everstep_tx.landed', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'the body of a transaction may not commit: everstep does, together with the record of its result'
            USING ERRCODE = 'invalid_transaction_termination';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON everstep.guards DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION everstep.refuse_commit();

-- JSON may have an escaped NUL in it, which PostgreSQL does not take apart. People see its picture instead.
CREATE FUNCTION everstep.shown(events text) RETURNS json LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (CASE WHEN strpos(events, '\u0000') = 0 THEN events
            ELSE regexp_replace(events, '(?<!\\)((?:\\\\)*)\\u0000', '\1\u2400', 'g') END)::json
$$;

CREATE VIEW everstep.history AS
    SELECT runs.run_id, journal.version, each.place - 1 AS place,
           to_timestamp(journal.at / 1e6) AS at, journal.epoch, each.facts ->> 'event' AS event, each.facts
    FROM everstep.journal JOIN everstep.runs USING (run_key)
         CROSS JOIN LATERAL json_array_elements(everstep.shown(journal.events)) WITH ORDINALITY AS each(facts, place);

CREATE VIEW everstep.overview AS
    SELECT runs.run_id, runs.workflow, CASE WHEN runs.worker_key IS NULL THEN runs.status ELSE head.status END AS status,
           head.version, head.step, head.cursor, to_timestamp(runs.created_at / 1e6) AS created_at,
           to_timestamp(head.at / 1e6) AS updated_at, to_timestamp(runs.wake_at / 1e6) AS wake_at,
           workers.name AS worker, parents.run_id AS parent, runs.inbox_seq - runs.inbox_done AS unread
    FROM everstep.runs
         CROSS JOIN LATERAL (SELECT version, at, status, step, cursor FROM everstep.journal
                             WHERE journal.run_key = runs.run_key ORDER BY version DESC LIMIT 1) AS head
         LEFT JOIN everstep.workers USING (worker_key) LEFT JOIN everstep.runs AS parents ON parents.run_key = runs.parent_key;
"""

# What is published is mostly what changed (``core/deltas.py``), so it is put together here, from the newest whole value on,
# when somebody asks: it is as new as the journal, and costs those who write nothing. A value that jsonb does not take, or that
# is sealed and would have to be opened to be changed, is NULL; it must not keep anybody from the others.
_STATES: Final = r"""
CREATE FUNCTION everstep.as_jsonb(value json) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN value::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;

CREATE FUNCTION everstep.changed(old jsonb, delta jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    new jsonb := old;
    part record;
BEGIN
    IF old IS NULL OR delta IS NULL OR delta ? '$sealed' OR old ? '$sealed' THEN
        RETURN NULL;
    END IF;
    IF delta ? 'text' THEN
        RETURN to_jsonb(left(old #>> '{}', (delta -> 'text' ->> 0)::int) || (delta -> 'text' ->> 2)
                        || substr(old #>> '{}', (delta -> 'text' ->> 0)::int + (delta -> 'text' ->> 1)::int + 1));
    END IF;
    FOR part IN SELECT key, value FROM jsonb_each(delta -> 'set') LOOP
        new := jsonb_set(new, ARRAY[part.key], part.value);
    END LOOP;
    FOR part IN SELECT key, value FROM jsonb_each(delta -> 'within') LOOP
        new := jsonb_set(new, ARRAY[part.key], everstep.changed(new #> ARRAY[part.key], part.value));
    END LOOP;
    IF delta ? 'drop' THEN
        new := new - ARRAY(SELECT jsonb_array_elements_text(delta -> 'drop'));
    END IF;
    FOR part IN SELECT value FROM jsonb_array_elements(delta -> 'add') LOOP
        new := new || jsonb_build_object(part.value ->> 1, part.value -> 2);
    END LOOP;
    FOR part IN SELECT (value ->> 0)::int AS start, (value ->> 1)::int AS gone, value -> 2 AS items
                FROM jsonb_array_elements(delta -> 'splice') WITH ORDINALITY AS each(value, place) ORDER BY place DESC LOOP
        SELECT coalesce(jsonb_agg(item ORDER BY third, place), '[]') INTO new FROM (
            SELECT CASE WHEN place <= part.start THEN 1 ELSE 3 END AS third, place, item
            FROM jsonb_array_elements(new) WITH ORDINALITY AS kept(item, place)
            WHERE place <= part.start OR place > part.start + part.gone
            UNION ALL
            SELECT 2, place, item FROM jsonb_array_elements(part.items) WITH ORDINALITY AS come(item, place)
        ) AS items;
    END LOOP;
    RETURN new;
END $$;

CREATE FUNCTION everstep.followed(old jsonb, value jsonb, is_delta bool) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN is_delta THEN everstep.changed(old, value) ELSE value END
$$;
CREATE AGGREGATE everstep.newest(jsonb, bool) (SFUNC = everstep.followed, STYPE = jsonb);

CREATE VIEW everstep.states AS
    SELECT runs.run_id, newest.name, newest.version, to_timestamp(newest.at / 1e6) AS at, newest.value
    FROM everstep.runs CROSS JOIN LATERAL (
        SELECT name, max(version) AS version, max(at) AS at,
               everstep.newest(everstep.as_jsonb(value), is_delta ORDER BY version, place) AS value
        FROM (
            SELECT *, count(*) FILTER (WHERE NOT is_delta) OVER (PARTITION BY name ORDER BY version, place) AS chain,
                   count(*) FILTER (WHERE NOT is_delta) OVER (PARTITION BY name) AS chains
            FROM (
                SELECT published.name, published.is_delta, journal.version, journal.at, each.place,
                       coalesce((SELECT everstep.shown(convert_from(blobs.data, 'UTF8'))
                                 FROM json_array_elements(each.facts -> '$blobs') AS ref
                                      JOIN everstep.blobs ON blobs.hash = decode(ref ->> 2, 'hex')
                                 WHERE blobs.run_key = runs.run_key AND ref ->> 1 = published.member),
                                published.value) AS value
                FROM everstep.journal
                     CROSS JOIN LATERAL json_array_elements(everstep.shown(journal.events))
                                        WITH ORDINALITY AS each(facts, place)
                     CROSS JOIN LATERAL (
                         SELECT each.facts ->> 'name', '', coalesce((each.facts ->> 'is_delta')::bool, false),
                                each.facts -> 'value'
                         WHERE each.facts ->> 'event' = 'StatePublished'
                         UNION ALL
                         SELECT key, key, false, value FROM json_each(each.facts -> 'states')
                         WHERE each.facts ->> 'event' = 'RunContinued'
                     ) AS published(name, member, is_delta, value)
                WHERE journal.run_key = runs.run_key
                  AND (strpos(journal.events, '"StatePublished"') > 0 OR strpos(journal.events, '"RunContinued"') > 0)
            ) AS told
        ) AS chained
        WHERE chain = chains GROUP BY name
    ) AS newest;
"""

MIGRATIONS: Final[tuple[Migration, ...]] = (Migration(1, "Makes the tables.", (_FIRST, _STATES)),)
"""Only ever appended to."""

_SERVER: Final = """
SELECT current_setting('server_version_num')::int, pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
       current_setting('server_encoding')
"""
_IS_THERE: Final = """
SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1),
       EXISTS (SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1),
       EXISTS (SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
               WHERE nspname = $1 AND relname = 'meta' AND relkind = 'r')
"""
_META: Final = "SELECT key, value FROM everstep.meta"


async def check_server(tx: Tx, address: Address) -> None:
    """Make sure that the server can keep the promises.

    Raises:
        StoreUnavailable: It cannot.
    """
    version, may_only_read, encoding = await tx.one(_SERVER)
    if version < SERVER_VERSION_MIN:
        raise StoreUnavailable(
            f"the store {address.shown} is on PostgreSQL {version // 10_000}, and everstep needs "
            f"{SERVER_VERSION_MIN // 10_000} or later. Nothing was stored. Upgrade the server."
        )
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"the database of the store {address.shown} is encoded in {encoding}, and journals are UTF-8. Nothing was stored. "
            "Create one for everstep: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )
    if may_only_read:
        raise StoreUnavailable(
            f"the store {address.shown} may only be read: it is a standby, or set to read only. Nothing was read or written. "
            "Point the URL at the primary (several hosts and target_session_attrs=read-write find it)."
        )


async def look(tx: Tx, address: Address) -> SchemaState:
    """Where the schema stands; version 0 if there is nothing yet. Changes nothing.

    Raises:
        SchemaMismatch: The schema is not ours.
    """
    _, is_used, has_meta = await tx.one(_IS_THERE, address.schema)
    if not is_used:
        return SchemaState()
    meta: dict[str, str] = {row[0]: row[1] for row in await tx.fetch(_META)} if has_meta else {}
    version = str(meta.get("version", ""))
    if meta.get("application") != "everstep" or not version.isdigit():
        raise SchemaMismatch(
            f"the schema {address.schema} of {address.shown} has tables of another application. It was not touched. "
            "Give everstep a schema of its own, with schema=… in the URL; it will be created."
        )
    return SchemaState(
        int(version),
        "pre" if meta.get("phase") == "pre" else "done",
        int(meta.get("min_version", version)),
        meta.get("under_way", ""),
        moved_to=meta.get("moved_to", ""),
        is_moving="moving" in meta,
        is_filling="filling" in meta,
    )


async def has_schema(tx: Tx, address: Address) -> bool:
    """The schema is there, if only empty."""
    is_there, _, _ = await tx.one(_IS_THERE, address.schema)
    return bool(is_there)
