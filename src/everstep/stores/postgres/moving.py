"""
A schema as the source or the target of a copy (``stores.moving``).

That nobody writes to a source is seen to by triggers, which wait for whoever is just writing; who comes later meets them. What
the newest entry of a run says stands in that entry here, so it is put there; of the entries before it nobody asks this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from everstep.journal import Entry
from everstep.records import RunKey
from everstep.stores import rules
from everstep.stores.moving import COMMON, ENTRY, HEAD, IN_LINE, RUN, SIDES
from everstep.stores.postgres import migrate, rows
from everstep.stores.postgres.link import Row
from everstep.stores.postgres.pool import Tx
from everstep.stores.upkeep import Bundle, Counters, Line, Value

BOOLS: Final = frozenset({"admitted", "is_paused"})
"""Columns of RUN, SIDES and COMMON that hold true or false here, and 1 or 0 in SQLite."""
_OF_HEAD: Final = {
    "status": "CASE WHEN runs.worker_key IS NULL THEN runs.status ELSE head.status END",
    "version": "head.version",
    "hash": "head.hash",
    "updated_at": "head.at",
    "step": "head.step",
    "cursor": "head.cursor",
    "line": IN_LINE,
    "deaths": "CASE WHEN head.version > runs.claimed_version THEN 0 ELSE runs.deaths END",
}
_RUNS: Final = f"""
SELECT {", ".join(_OF_HEAD.get(name, f"runs.{name}") for name in (*RUN, *HEAD))}
FROM everstep.runs LEFT JOIN LATERAL (SELECT version, hash, at, status, step, cursor FROM everstep.journal
                                      WHERE journal.run_key = runs.run_key ORDER BY version DESC LIMIT 1) AS head ON true
WHERE runs.run_key > $1 ORDER BY runs.run_key LIMIT $2
"""  # noqa: S608
_JOURNALS: Final = f"""
SELECT {rows.ENTRY} FROM everstep.journal WHERE run_key = ANY($1::int8[]) ORDER BY run_key, version
"""  # noqa: S608
_SIDES: Final = {
    table: f"SELECT run_key, {', '.join(columns)} FROM everstep.{table} WHERE run_key = ANY($1::int8[]) ORDER BY 1, 2"  # noqa: S608
    for table, columns in SIDES.items()
}
_COMMON: Final = {
    table: f"SELECT {', '.join(columns)} FROM everstep.{table} ORDER BY 1"  # noqa: S608
    for table, columns in COMMON.items()
}
_OWNERS: Final = """
SELECT worker_key, name, gone, was_alone, enlisted_at, profile FROM everstep.workers
WHERE EXISTS (SELECT FROM everstep.runs WHERE runs.worker_key = workers.worker_key) ORDER BY worker_key
"""
_COUNTERS: Final = """
SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM everstep.run_keys),
       (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM everstep.worker_keys)
"""

_SET: Final = "INSERT INTO everstep.meta VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_UNSET: Final = "DELETE FROM everstep.meta WHERE key = $1"
_META: Final = "SELECT value FROM everstep.meta WHERE key = $1"
_HOLD_WORKERS: Final = "LOCK TABLE everstep.workers IN SHARE ROW EXCLUSIVE MODE"
_GUARDED: Final = ("runs", "journal", "inbox", "workers", "queues")
_HOLD: Final = "".join(
    f"""
DROP TRIGGER IF EXISTS everstep_moved ON everstep.{table};
CREATE TRIGGER everstep_moved BEFORE INSERT OR UPDATE OR DELETE ON everstep.{table}
FOR EACH STATEMENT EXECUTE FUNCTION everstep.everstep_moved();
"""
    for table in _GUARDED
)
_SAY_MOVED: Final = """
CREATE OR REPLACE FUNCTION everstep.everstep_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'its runs were moved to %', (SELECT value FROM everstep.meta WHERE key = 'moved_to')
    USING ERRCODE = 'EV001';
END $$;
"""
_RELEASE: Final = "DROP FUNCTION IF EXISTS everstep.everstep_moved() CASCADE"

_HAS_RUNS: Final = "SELECT EXISTS (SELECT FROM everstep.runs)"
_CLEAR: Final = """
DELETE FROM everstep.journal; UPDATE everstep.runs SET forked_from = NULL; DELETE FROM everstep.runs;
DELETE FROM everstep.workers; DELETE FROM everstep.queues; DELETE FROM everstep.admissions
"""
_PUT_RUN: Final = f"""
INSERT INTO everstep.runs({", ".join(RUN)}, status, claimed_version)
VALUES ({", ".join(f"${number}" for number in range(1, len(RUN) + 3))})
"""  # noqa: S608
_PUT_ENTRY: Final = f"""
INSERT INTO everstep.journal(run_key, status, step, cursor, {", ".join(ENTRY)})
VALUES ({", ".join(f"${number}" for number in range(1, len(ENTRY) + 5))})
"""  # noqa: S608
_PUT_SIDES: Final = {
    table: f"""
INSERT INTO everstep.{table}(run_key, {", ".join(columns)})
VALUES ({", ".join(f"${number}" for number in range(1, len(columns) + 2))})
"""  # noqa: S608
    for table, columns in SIDES.items()
}
_PUT_COMMON: Final = {
    table: f"""
INSERT INTO everstep.{table}({", ".join(columns)})
VALUES ({", ".join(f"${number}" for number in range(1, len(columns) + 1))}) ON CONFLICT DO NOTHING
"""  # noqa: S608
    for table, columns in COMMON.items()
}
_LINK: Final = "UPDATE everstep.runs SET forked_from = $2 WHERE run_key = $1"
_PUT_OWNER: Final = """
INSERT INTO everstep.workers(worker_key, name, gone, was_alone, enlisted_at, profile, gone_at, heartbeat, lease_seconds)
VALUES ($1, $2, $3, $4, $5, $6, extract(epoch FROM clock_timestamp()), 0, 0) ON CONFLICT (worker_key) DO NOTHING
"""
_COUNT_ON: Final = """
SELECT setval('everstep.run_keys', greatest($1, last_value)) FROM everstep.run_keys
UNION ALL SELECT setval('everstep.worker_keys', greatest($2, last_value)) FROM everstep.worker_keys
"""
_ANY_VERSION: Final = (1 << 31) - 1


# --- reading ------------------------------------------------------------------------------------------------------------------


async def page(tx: Tx, after: RunKey, run_max: int, entry_max: int) -> list[Bundle]:
    """See Upkeep."""
    runs = _as_many(await tx.fetch(_RUNS, after, run_max), entry_max)
    keys = [run["run_key"] for run in runs]
    journals: dict[RunKey, list[Entry]] = defaultdict(list)
    for row in await tx.fetch(_JOURNALS, keys):
        journals[row[0]].append(rows.entry_of(row))
    sides = {table: _by_run(await tx.fetch(_SIDES[table], keys)) for table in SIDES}
    return [
        Bundle(run, journals[key], {table: sides[table][key] for table in SIDES}) for key, run in zip(keys, runs, strict=True)
    ]


def _as_many(found: Sequence[Row], entry_max: int) -> list[dict[str, Value]]:
    runs: list[dict[str, Value]] = []
    count = 0
    for row in found:
        run = dict(zip((*RUN, *HEAD), row, strict=True))
        count += run["version"] or 0
        if runs and count > entry_max:
            break
        runs.append(run)
    return runs


def _by_run(found: Sequence[Row]) -> dict[RunKey, list[Line]]:
    lines: dict[RunKey, list[Line]] = defaultdict(list)
    for row in found:
        lines[row[0]].append(tuple(row)[1:])
    return lines


async def common(tx: Tx) -> Mapping[str, Sequence[Line]]:
    """See Upkeep."""
    return {table: [tuple(row) for row in await tx.fetch(_COMMON[table])] for table in COMMON}


async def counters(tx: Tx) -> Counters:
    """See Upkeep."""
    return Counters(*await tx.one(_COUNTERS))


async def owners(tx: Tx) -> list[Line]:
    """See Upkeep."""
    return [tuple(row) for row in await tx.fetch(_OWNERS)]


async def move_id(tx: Tx) -> str:
    """See Upkeep."""
    found = await tx.fetch(_META, "moving")
    return str(found[0][0]) if found else ""


# --- the source ---------------------------------------------------------------------------------------------------------------


async def hold(tx: Tx, target: str, move: str, lease_now: float | None) -> list[str]:
    """See Upkeep."""
    await tx.execute(_HOLD_WORKERS)
    alive = await migrate.seen_alive(tx, _ANY_VERSION, lease_now)
    if not alive:
        await tx.fetch(_SET, "moved_to", target)
        await tx.fetch(_SET, "moving", move)
        await tx.execute(_SAY_MOVED)
        await tx.execute(_HOLD)
    return [each.name for each in alive]


async def let_go(tx: Tx, *, moved: bool) -> None:
    """See Upkeep."""
    await tx.fetch(_UNSET, "moving")
    if not moved:
        await tx.fetch(_UNSET, "moved_to")
        await tx.execute(_RELEASE)


# --- the target ---------------------------------------------------------------------------------------------------------------


async def begin_filling(tx: Tx, move: str, source: str) -> RunKey | None:
    """See Upkeep."""
    filling = [row[0] for row in await tx.fetch(_META, "filling")]
    if filling == [move]:
        return int((await tx.one(_META, "filled_to"))[0])
    if filling:
        await tx.execute(_CLEAR)  # Of a copy that the source knows nothing of any more.
    elif (await tx.one(_HAS_RUNS))[0]:
        return None
    await tx.fetch(_SET, "filling", move)
    await tx.fetch(_SET, "filled_to", "0")
    await tx.fetch(_SET, "moved_from", source)
    return 0


async def put(tx: Tx, bundles: Sequence[Bundle]) -> None:
    """See Upkeep."""
    await tx.put_lines(_PUT_RUN, [_run_values(each) for each in bundles])
    await tx.put_lines(_PUT_ENTRY, [_entry_values(each, entry) for each in bundles for entry in each.entries])
    for table, columns in SIDES.items():
        lines = [(each.run_key, *_typed(columns, line)) for each in bundles for line in each.sides[table]]
        await tx.put_lines(_PUT_SIDES[table], lines)
    await tx.fetch(_SET, "filled_to", str(bundles[-1].run_key))


def _run_values(bundle: Bundle) -> Line:
    # The run whose history it shares may not be here yet.
    run = {**bundle.run, "forked_from": None}
    return (*_typed(RUN, [run[name] for name in RUN]), run["status"], run["version"])


def _entry_values(bundle: Bundle, entry: Entry) -> Line:
    run = bundle.run
    is_head = entry.version == run["version"]
    standing = (run["status"], run["step"], run["cursor"]) if is_head else ("running", "", 0)
    sealed = (entry.version, entry.epoch, entry.at, entry.drained, entry.events.decode(), entry.hash)
    return (bundle.run_key, *standing, *sealed)


def _typed(columns: Sequence[str], line: Line) -> Line:
    return [bool(value) if name in BOOLS else value for name, value in zip(columns, line, strict=True)]


async def settle(
    tx: Tx,
    forks: Sequence[tuple[RunKey, RunKey]],
    owners: Sequence[Line],
    common: Mapping[str, Sequence[Line]],
    counters: Counters,
) -> None:
    """See Upkeep."""
    await tx.put_lines(_LINK, forks)
    for worker_key, name, gone, was_alone, enlisted_at, profile in owners:
        why = gone or rules.RETIRED
        await tx.fetch(_PUT_OWNER, worker_key, name, why, bool(was_alone), enlisted_at, profile)
    for table, lines in common.items():
        await tx.put_lines(_PUT_COMMON[table], [_typed(COMMON[table], line) for line in lines])
    await tx.fetch(_COUNT_ON, max(1, counters.run_key), max(1, counters.worker_key))


async def end_filling(tx: Tx) -> None:
    """See Upkeep."""
    await tx.fetch(_UNSET, "filling")
    await tx.fetch(_UNSET, "filled_to")
