"""
A file as the source or the target of a copy (``stores.moving``).

That nobody writes to a source is seen to by triggers: they cost nothing while they are not there, and programs that have the
file open meet them at their next write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from everstep.journal import Entry
from everstep.records import RunKey, Status
from everstep.stores import rules
from everstep.stores.moving import COMMON, ENTRY, HEAD, IN_LINE, RUN, SIDES
from everstep.stores.sqlite import migrate, read, rows
from everstep.stores.sqlite.ask import Ask, Row, only
from everstep.stores.sqlite.faults import MOVED
from everstep.stores.sqlite.transaction import Tx
from everstep.stores.upkeep import Bundle, Counters, Line

_GUARDED: Final = ("runs", "journal", "inbox", "workers", "queues")
_HOLD: Final = "".join(
    f"CREATE TRIGGER everstep_moved_{table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{MOVED}'); END;\n"
    for table in _GUARDED
    for verb in ("INSERT", "UPDATE", "DELETE")
)
_RELEASE: Final = "".join(
    f"DROP TRIGGER IF EXISTS everstep_moved_{table}_{verb};\n" for table in _GUARDED for verb in ("INSERT", "UPDATE", "DELETE")
)
_SET: Final = "INSERT INTO meta(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
_UNSET: Final = "DELETE FROM meta WHERE key = ?"
_META: Final = "SELECT value FROM meta WHERE key = ?"

_SHOWN: Final = [IN_LINE if name == "line" else name for name in (*RUN, *HEAD)]
_RUNS: Final = f"SELECT {', '.join(_SHOWN)} FROM runs WHERE run_key > ? ORDER BY run_key LIMIT ?"  # noqa: S608
_JOURNAL: Final = f"{read.CHAIN} SELECT {rows.ENTRY} FROM chain CROSS JOIN journal USING (id)"  # noqa: S608
_FIRST: Final = f"SELECT {rows.ENTRY} FROM journal WHERE id = (SELECT first FROM runs WHERE run_key = ?)"  # noqa: S608
_SIDES: Final = {
    table: f"SELECT {', '.join(columns)} FROM {table} WHERE run_key = ? ORDER BY 1"  # noqa: S608
    for table, columns in SIDES.items()
}
_COMMON: Final = {table: f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1" for table, columns in COMMON.items()}  # noqa: S608
_OWNERS: Final = """
SELECT worker_key, name, gone, was_alone, enlisted_at, profile FROM workers
WHERE EXISTS (SELECT 1 FROM runs WHERE runs.worker_key = workers.worker_key) ORDER BY worker_key
"""
_RUN_KEY: Final = "SELECT value FROM meta WHERE key = 'run_key'"
_WORKER_KEY: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'workers'"

_HAS_RUNS: Final = "SELECT EXISTS (SELECT 1 FROM runs)"
_CLEAR: Final = """
DELETE FROM journal; UPDATE runs SET forked_from = NULL; DELETE FROM runs; DELETE FROM workers; DELETE FROM queues;
DELETE FROM admissions
"""
_PUT_ENTRY: Final = f"""
INSERT INTO journal(run_key, prev, {", ".join(ENTRY)}) VALUES (?, ?, {", ".join("?" for _ in ENTRY)})
"""  # noqa: S608
_PUT_RUN: Final = f"""
INSERT INTO runs({", ".join((*RUN, *HEAD))}, head, first, outcome_entry)
VALUES ({", ".join("?" for _ in (*RUN, *HEAD))}, ?, ?, ?)
"""  # noqa: S608
_PUT_SIDES: Final = {
    table: f"INSERT INTO {table}(run_key, {', '.join(columns)}) VALUES (?, {', '.join('?' for _ in columns)})"  # noqa: S608
    for table, columns in SIDES.items()
}
_PUT_COMMON: Final = {
    table: f"INSERT OR REPLACE INTO {table}({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})"  # noqa: S608
    for table, columns in COMMON.items()
}
_LINK: Final = "UPDATE runs SET forked_from = ?2 WHERE run_key = ?1"
_PUT_OWNER: Final = """
INSERT OR REPLACE INTO workers(worker_key, name, gone, was_alone, enlisted_at, profile, boot_id, heartbeat, lease_seconds)
VALUES (?, ?, ?, ?, ?, ?, '', 0, 0)
"""
_COUNT_RUNS: Final = "UPDATE meta SET value = max(value, ?) WHERE key = 'run_key'"
_COUNT_WORKERS: Final = """
INSERT INTO sqlite_sequence(name, seq) SELECT 'workers', 0
WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'workers')
"""
_COUNT_WORKERS_ON: Final = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'workers'"
_ANY_VERSION: Final = 1 << 31


# --- reading ------------------------------------------------------------------------------------------------------------------


def page(ask: Ask, after: RunKey, run_max: int, entry_max: int) -> list[Bundle]:
    """See Upkeep."""
    bundles: list[Bundle] = []
    count = 0
    for row in ask(_RUNS, (after, run_max)):
        run = dict(zip((*RUN, *HEAD), row, strict=True))
        count += run["version"]
        if bundles and count > entry_max:
            break
        run_key: RunKey = run["run_key"]
        entries = [rows.entry_of(each) for each in ask(_JOURNAL, (run_key,))]
        if entries and entries[-1].version > 1:
            entries += map(rows.entry_of, ask(_FIRST, (run_key,)))  # What was between them was pruned.
        entries.reverse()
        bundles.append(Bundle(run, entries, {table: ask(_SIDES[table], (run_key,)).fetchall() for table in SIDES}))
    return bundles


def common(ask: Ask) -> Mapping[str, Sequence[Row]]:
    """See Upkeep."""
    return {table: ask(_COMMON[table]).fetchall() for table in COMMON}


def counters(ask: Ask) -> Counters:
    """See Upkeep."""
    return Counters(int(only(ask(_RUN_KEY))[0]), int(only(ask(_WORKER_KEY))[0]))


def owners(ask: Ask) -> list[Line]:
    """See Upkeep."""
    return list(ask(_OWNERS))


def move_id(ask: Ask) -> str:
    """See Upkeep."""
    row = ask(_META, ("moving",)).fetchone()
    return str(row[0]) if row else ""


# --- the source ---------------------------------------------------------------------------------------------------------------


def hold(tx: Tx, path: Path, target: str, move: str, monotonic: float) -> list[str]:
    """See Upkeep."""
    alive = migrate.seen_alive(tx, path, _ANY_VERSION, monotonic)
    if not alive:
        tx.execute(_SET, ("moved_to", target))
        tx.execute(_SET, ("moving", move))
        tx.execute(_HOLD)
    return [each.name for each in alive]


def let_go(tx: Tx, *, moved: bool) -> None:
    """See Upkeep."""
    tx.execute(_UNSET, ("moving",))
    if not moved:
        tx.execute(_UNSET, ("moved_to",))
        tx.execute(_RELEASE)


# --- the target ---------------------------------------------------------------------------------------------------------------


def begin_filling(tx: Tx, move: str, source: str) -> RunKey | None:
    """See Upkeep."""
    filling = tx.execute(_META, ("filling",)).fetchall()
    if filling == [(move,)]:
        return int(only(tx.execute(_META, ("filled_to",)))[0])
    if filling:
        tx.execute(_CLEAR)  # Of a copy that the source knows nothing of any more.
    elif only(tx.execute(_HAS_RUNS))[0]:
        return None
    tx.execute(_SET, ("filling", move))
    tx.execute(_SET, ("filled_to", 0))
    tx.execute(_SET, ("moved_from", source))
    return 0


def put(tx: Tx, bundles: Iterable[Bundle]) -> None:
    """See Upkeep."""
    for bundle in bundles:
        _put_run(tx, bundle)
        tx.execute(_SET, ("filled_to", bundle.run_key))


def _put_run(tx: Tx, bundle: Bundle) -> None:
    first = head = version = 0
    for entry in bundle.entries:
        # Where entries were pruned the chain of rows ends.
        head = _put_entry(tx, bundle.run_key, head if entry.version == version + 1 else 0, entry)
        first, version = first or head, entry.version
    # The run whose history it shares may not be here yet.
    run = {**bundle.run, "forked_from": None}
    outcome = head if Status(run["status"]).is_at_rest else None
    tx.execute(_PUT_RUN, (*(run[name] for name in (*RUN, *HEAD)), head, first, outcome))
    for table, lines in bundle.sides.items():
        for line in lines:
            tx.execute(_PUT_SIDES[table], (bundle.run_key, *line))


def _put_entry(tx: Tx, run_key: RunKey, head: int, entry: Entry) -> int:
    values = (entry.version, entry.epoch, entry.at, entry.drained, entry.events.decode(), entry.hash)
    tx.execute(_PUT_ENTRY, (run_key, head, *values))
    return tx.last_id()


def settle(
    tx: Tx,
    forks: Sequence[tuple[RunKey, RunKey]],
    owners: Sequence[Line],
    common: Mapping[str, Sequence[Line]],
    counters: Counters,
) -> None:
    """See Upkeep."""
    for fork in forks:
        tx.execute(_LINK, fork)
    for worker_key, name, gone, was_alone, enlisted_at, profile in owners:
        tx.execute(_PUT_OWNER, (worker_key, name, gone or rules.RETIRED, was_alone, enlisted_at, profile))
    for table, lines in common.items():
        for line in lines:
            tx.execute(_PUT_COMMON[table], line)
    tx.execute(_COUNT_RUNS, (counters.run_key,))
    tx.execute(_COUNT_WORKERS)
    tx.execute(_COUNT_WORKERS_ON, (counters.worker_key,))


def end_filling(tx: Tx) -> None:
    """See Upkeep."""
    tx.execute(_UNSET, ("filling",))
    tx.execute(_UNSET, ("filled_to",))
