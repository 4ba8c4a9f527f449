"""
Taking a file from one version of its tables to the next: what ``stores.migrations`` plans, one stage in one transaction.

Several processes may do so at once: each looks again under the lock for writing, so every stage is taken by one of them. A
process that is killed leaves the stage untaken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import apsw

from everstep.stores import rules
from everstep.stores.migrations import Migration, Old, SchemaState, Stage, after, plan, refuse_to_wait, waits_for_workers
from everstep.stores.sqlite import schema, workers
from everstep.stores.sqlite.oslock import WorkerLocks
from everstep.stores.sqlite.transaction import Tx

_OLDER: Final = """
SELECT worker_key, boot_id, heartbeat, lease_seconds, gone, name, schema_version FROM workers
WHERE gone = '' AND schema_version < ?
"""
_RETIRE: Final = "UPDATE workers SET gone = ?2 WHERE gone = '' AND schema_version < ?1"
_SET: Final = "INSERT INTO meta(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = excluded.value"


def migrate(
    connection: apsw.Connection,
    path: Path,
    known: Sequence[Migration],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    finish: bool = False,
    force: bool = False,
) -> list[Stage]:
    """Bring a file up to date. Safe to repeat, and from several processes at once.

    Args:
        connection: To the file.
        path: The file.
        known: All migrations, in order.
        monotonic: The clock of leases.
        finish: Also take the newest migration's ``post``.
        force: Take their runs from workers that would have to be waited for.

    Returns:
        The stages that were taken here.

    Raises:
        SchemaMismatch: Older workers are alive. What was taken before stays.
    """
    taken: list[Stage] = []
    while True:
        with locked(connection) as tx:
            state = schema.look(tx.ask, path)
            stages = plan(state, known, finish=finish)
            if not stages:
                return taken
            # A new file gets everything at once, so that nobody sees half a store.
            for stage in stages if not state.version else stages[:1]:
                if waits_for_workers(stage) and state.version:
                    _see_off(tx, stage, path, monotonic(), force=force)
                _take(connection, tx, stage)
                taken.append(stage)


def seen_alive(tx: Tx, path: Path, older_than: int, monotonic: float) -> list[Old]:
    """The workers of older versions that are alive. Those that turn out to be dead are marked so."""
    alive: list[Old] = []
    with _locks(path) as locks:
        for *row, name, schema_version in tx.ask(_OLDER, (older_than,)).fetchall():
            worker = workers.Worker(*row)
            why = workers.proof_of_death(worker, locks, monotonic)
            if why:
                workers.bury(tx, worker, why)
            else:
                alive.append(Old(name, schema_version))
    return alive


def _see_off(tx: Tx, stage: Stage, path: Path, monotonic: float, *, force: bool) -> None:
    old = seen_alive(tx, path, stage.migration.number, monotonic)
    if old and not force:
        raise refuse_to_wait(stage, old, str(path))
    if old:
        tx.execute(_RETIRE, (stage.migration.number, rules.RETIRED))


def _take(connection: apsw.Connection, tx: Tx, stage: Stage) -> None:
    for statement in stage.actions:
        assert isinstance(statement, str), "SQLite builds indexes at once"
        tx.execute(statement)
    _note(connection, tx, after(stage))


def _note(connection: apsw.Connection, tx: Tx, state: SchemaState) -> None:
    cast(Any, connection).pragma("user_version", state.version)
    tx.execute(_SET, ("phase", state.phase))
    tx.execute(_SET, ("min_version", state.min_version))


@contextmanager
def locked(connection: apsw.Connection) -> Generator[Tx]:
    """A transaction that holds the lock for writing from its beginning."""
    tx = Tx(connection, lambda: 0)
    tx.begin()
    try:
        yield tx
        tx.execute("COMMIT")
    finally:
        tx.roll_back()


@contextmanager
def _locks(path: Path) -> Generator[WorkerLocks]:
    locks = WorkerLocks(path)
    try:
        yield locks
    finally:
        locks.close()
