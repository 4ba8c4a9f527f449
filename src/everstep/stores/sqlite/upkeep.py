"""
A file as a whole: its schema, its size, its runs in order, and what belongs to none of them.

Everything is read on one connection, each page in a transaction, so that a run and its journal are of the same moment while
engines go on. Nothing is written but by ``migrate`` and by a copy (``moving``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from everstep.errors import StoreUnavailable
from everstep.records import RunKey
from everstep.stores.migrations import Migration, SchemaState, Stage, plan
from everstep.stores.sqlite import connection, faults, moving, read, schema
from everstep.stores.sqlite.ask import Ask, asking, only
from everstep.stores.sqlite.clock import wall_clock
from everstep.stores.sqlite.migrate import locked, migrate
from everstep.stores.sqlite.oslock import WorkerLocks
from everstep.stores.sqlite.transaction import Tx
from everstep.stores.upkeep import Bundle, Census, Counters, Line, Stray, TableSize

BUSY_MILLISECONDS: Final = 30_000

_TABLES: Final = """
SELECT objects.tbl_name,
       sum(CASE WHEN pages.name = objects.tbl_name AND (pagetype = 'leaf' OR tables.wr) THEN ncell ELSE 0 END), sum(pgsize)
FROM dbstat AS pages JOIN sqlite_schema AS objects USING (name)
     JOIN pragma_table_list AS tables ON tables.name = objects.tbl_name
WHERE tables.schema = 'main' GROUP BY objects.tbl_name ORDER BY sum(pgsize) DESC
"""
_INCARNATION: Final = "SELECT value FROM meta WHERE key = 'incarnation'"
_SIZE: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_STATUSES: Final = "SELECT status, count(*) FROM runs GROUP BY status ORDER BY status"
_OLDEST_DUE: Final = "SELECT min(wake_at) FROM runs WHERE worker_key IS NULL AND wake_at IS NOT NULL AND wake_at <= ?"

_INTEGRITY: Final = "PRAGMA integrity_check(20)"
_FOREIGN_KEYS: Final = 'SELECT "table", count(*) FROM pragma_foreign_key_check GROUP BY "table"'
_LOST_ENTRIES: Final = """
SELECT run_key, count(*) FROM journal WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = journal.run_key)
GROUP BY run_key
"""
_UNREACHABLE: Final = """
SELECT run_key, version, counted
FROM runs JOIN (SELECT run_key, count(*) AS counted FROM journal GROUP BY run_key) USING (run_key) WHERE counted > version
"""
_MISPLACED: Final = """
SELECT runs.run_key, head, first, outcome_entry, heads.run_key = runs.run_key AND heads.version = runs.version,
       firsts.run_key = runs.run_key AND firsts.version = 1,
       CASE WHEN status IN ('succeeded', 'cancelled', 'failed', 'dead') THEN outcome_entry IS head ELSE 1 END
FROM runs LEFT JOIN journal AS heads ON heads.id = head LEFT JOIN journal AS firsts ON firsts.id = first
"""
_NO_PARENT: Final = """
SELECT run_key, parent_key FROM runs AS children WHERE parent_key IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_key = children.parent_key)
"""
_NO_OWNER: Final = """
SELECT run_key, worker_key FROM runs WHERE worker_key IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.worker_key = runs.worker_key)
"""
_UPPER_KEYS: Final = "SELECT coalesce(max(run_key >> 32), 0) FROM runs"
_SMALL_KEYS: Final = "SELECT coalesce(max(run_key), 0) FROM runs WHERE run_key < 4294967296"


class SQLiteUpkeep:
    """See ``everstep.stores.upkeep``.

    Args:
        path: The file.
        known: All migrations, in order.
        monotonic: The clock of leases.
    """

    backend = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        known: Sequence[Migration] = schema.MIGRATIONS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = f"sqlite:///{path}"
        self.known = known
        self._path = path
        self._monotonic = monotonic
        self._connection: apsw.Connection | None = None

    async def open(self, *, create: bool = False) -> None:
        """See Upkeep."""
        connection.check_place(self._path)
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        with faults.translating(self._path):
            opened = apsw.Connection(str(self._path), flags=flags)
            opened.set_busy_timeout(BUSY_MILLISECONDS)
            asking(opened)("PRAGMA foreign_keys = on")
        self._connection = opened

    async def close(self) -> None:
        """See Upkeep."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def state(self) -> SchemaState:
        """See Upkeep."""
        with self._asking() as ask:
            return schema.look(ask, self._path)

    async def migrate(self, *, finish: bool = False, force: bool = False) -> list[Stage]:
        """See Upkeep."""
        state = await self.state()
        with faults.translating(self._path):
            if not state.version:
                connection.open_for_writing(self._path, self.known, self._monotonic).close()
                return plan(state, self.known)
            return migrate(self._opened(), self._path, self.known, monotonic=self._monotonic, finish=finish, force=force)

    async def census(self) -> Census:
        """See Upkeep."""
        now = wall_clock()
        with self._asking() as ask:
            return Census(
                now=now,
                incarnation=str(only(ask(_INCARNATION))[0]),
                tables=[TableSize(*row) for row in ask(_TABLES) if schema.is_own(row[0])],
                bytes=int(only(ask(_SIZE))[0]),
                runs=dict(ask(_STATUSES).fetchall()),
                oldest_due_at=only(ask(_OLDEST_DUE, (now,)))[0],
                workers=read.workers(ask, WorkerLocks(self._path), self._monotonic()),
            )

    async def page(self, after: RunKey, run_max: int, entry_max: int) -> list[Bundle]:
        """See Upkeep."""
        await asyncio.sleep(0)
        with self._reading() as ask:
            return moving.page(ask, after, run_max, entry_max)

    async def strays(self) -> list[Stray]:
        """See Upkeep."""
        with self._reading() as ask:
            return [*_damaged_file(ask), *_lost(ask), *_misplaced(ask), *_counters_behind(ask)]

    async def common(self) -> Mapping[str, Sequence[Line]]:
        """See Upkeep."""
        with self._asking() as ask:
            return moving.common(ask)

    async def counters(self) -> Counters:
        """See Upkeep."""
        with self._asking() as ask:
            return moving.counters(ask)

    async def hold(self, target: str, move: str) -> list[str]:
        """See Upkeep."""
        with self._writing() as tx:
            return moving.hold(tx, self._path, target, move, self._monotonic())

    async def owners(self) -> list[Line]:
        """See Upkeep."""
        with self._asking() as ask:
            return moving.owners(ask)

    async def let_go(self, *, moved: bool) -> None:
        """See Upkeep."""
        with self._writing() as tx:
            moving.let_go(tx, moved=moved)

    async def move_id(self) -> str:
        """See Upkeep."""
        with self._asking() as ask:
            return moving.move_id(ask)

    async def begin_filling(self, move: str, source: str) -> RunKey | None:
        """See Upkeep."""
        with self._writing() as tx:
            return moving.begin_filling(tx, move, source)

    async def put(self, bundles: Sequence[Bundle]) -> None:
        """See Upkeep."""
        with self._writing() as tx:
            moving.put(tx, bundles)

    async def settle(
        self,
        forks: Sequence[tuple[RunKey, RunKey]],
        owners: Sequence[Line],
        common: Mapping[str, Sequence[Line]],
        counters: Counters,
    ) -> None:
        """See Upkeep."""
        with self._writing() as tx:
            moving.settle(tx, forks, owners, common, counters)

    async def end_filling(self) -> None:
        """See Upkeep."""
        with self._writing() as tx:
            moving.end_filling(tx)

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreUnavailable(f"the store {self._path} is not open. Nothing was read or written. Call open() first.")
        return self._connection

    @contextmanager
    def _asking(self) -> Generator[Ask, None, None]:
        with faults.translating(self._path):
            yield asking(self._opened())

    @contextmanager
    def _reading(self) -> Generator[Ask, None, None]:
        """One moment of the store."""
        with self._asking() as ask:
            ask("BEGIN")
            try:
                yield ask
            finally:
                ask("ROLLBACK")

    @contextmanager
    def _writing(self) -> Generator[Tx, None, None]:
        with faults.translating(self._path), locked(self._opened()) as tx:
            yield tx


def _damaged_file(ask: Ask) -> list[Stray]:
    told = [text for (text,) in ask(_INTEGRITY) if text != "ok"]
    broken = [Stray(0, f"rows of {table} that refer to nothing", "0", str(number)) for table, number in ask(_FOREIGN_KEYS)]
    return [*(Stray(0, "the file is damaged", "ok", text) for text in told), *broken]


def _lost(ask: Ask) -> list[Stray]:
    return [
        *(Stray(key, "entries of a run that is not there", "0", str(number)) for key, number in ask(_LOST_ENTRIES)),
        *(Stray(key, "the run that started it", f"run key {parent}", "none") for key, parent in ask(_NO_PARENT)),
        *(Stray(key, "its owner", f"worker {worker}", "none") for key, worker in ask(_NO_OWNER)),
        *(Stray(key, "entries outside of the chain", str(version), str(number)) for key, version, number in ask(_UNREACHABLE)),
    ]


def _misplaced(ask: Ask) -> Generator[Stray, None, None]:
    for key, head, first, outcome, is_head, is_first, is_outcome in ask(_MISPLACED):
        if not is_head:
            yield Stray(key, "the run's newest entry", "the run's, at its version", f"row {head}")
        if not is_first:
            yield Stray(key, "the run's first entry", "version 1 of the run", f"row {first}")
        if not is_outcome:
            yield Stray(key, "the entry with its outcome", f"row {head}", f"row {outcome}")


def _counters_behind(ask: Ask) -> Generator[Stray, None, None]:
    given = moving.counters(ask)
    (small,), (upper,) = only(ask(_SMALL_KEYS)), only(ask(_UPPER_KEYS))
    if given.run_key < small:
        yield Stray(0, "the counter of run keys", f"at least {small}", str(given.run_key))
    if given.worker_key < upper:
        yield Stray(0, "the counter of worker keys", f"at least {upper}", str(given.worker_key))
