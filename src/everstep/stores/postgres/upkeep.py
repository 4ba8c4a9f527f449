"""
A schema as a whole: its version, its size, its runs in order, and what belongs to none of them.

On one connection of its own, with the planner as the server has it: here whole tables are read. Each page is read in one
transaction that sees one moment, so that a run and its journal agree while engines go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from everstep.errors import StoreUnavailable
from everstep.records import RunKey
from everstep.stores.migrations import Migration, SchemaState, Stage
from everstep.stores.postgres import faults, moving, read, schema
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.clock import NOW
from everstep.stores.postgres.link import Link
from everstep.stores.postgres.migrate import ACTION_SECONDS, Request, migrate
from everstep.stores.postgres.pool import Names, Tx
from everstep.stores.postgres.reach import reach
from everstep.stores.postgres.watch import is_direct
from everstep.stores.upkeep import Bundle, Census, Counters, Line, Stray, TableSize

_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = 10000"

_INCARNATION: Final = "SELECT value FROM everstep.meta WHERE key = 'incarnation'"
_TABLES: Final = """
SELECT relname, greatest(reltuples, 0)::int8, pg_total_relation_size(pg_class.oid)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relkind = 'r' ORDER BY 3 DESC, 1
"""
# What a run that is owned stands at, its newest entry says.
_STATUSES: Final = """
SELECT status, sum(number)::int8 FROM (
    SELECT status, count(*) AS number FROM everstep.runs WHERE worker_key IS NULL GROUP BY status
    UNION ALL
    SELECT (SELECT status FROM everstep.journal WHERE journal.run_key = runs.run_key ORDER BY version DESC LIMIT 1), 1
    FROM everstep.runs WHERE worker_key IS NOT NULL
) AS standing GROUP BY status ORDER BY status
"""
_DUE: Final = f"""
SELECT {NOW}, (SELECT min(wake_at) FROM everstep.runs WHERE worker_key IS NULL AND wake_at <= {NOW})
"""  # noqa: S608
_LOST_ENTRIES: Final = """
SELECT run_key, count(*) FROM everstep.journal
WHERE NOT EXISTS (SELECT FROM everstep.runs WHERE runs.run_key = journal.run_key) GROUP BY run_key ORDER BY run_key
"""
_BROKEN_INDEXES: Final = """
SELECT pg_class.relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND NOT (indisvalid AND indisready) ORDER BY 1
"""
_NO_PARENT: Final = """
SELECT run_key, parent_key FROM everstep.runs AS children WHERE parent_key IS NOT NULL
AND NOT EXISTS (SELECT FROM everstep.runs WHERE runs.run_key = children.parent_key) ORDER BY 1
"""
_NO_OWNER: Final = """
SELECT run_key, worker_key FROM everstep.runs WHERE worker_key IS NOT NULL
AND NOT EXISTS (SELECT FROM everstep.workers WHERE workers.worker_key = runs.worker_key) ORDER BY 1
"""
_KEYS: Final = """
SELECT coalesce(max(run_key) FILTER (WHERE run_key < 4294967296), 0), coalesce(max(run_key >> 32), 0) FROM everstep.runs
"""


class PostgresUpkeep:
    """See ``everstep.stores.upkeep``.

    Args:
        address: Where the store is.
        known: All migrations, in order.
        lease_now: Instead of the server's clock, for leases. For tests.
    """

    backend = "postgresql"

    def __init__(
        self,
        address: Address,
        *,
        known: Sequence[Migration] = schema.MIGRATIONS,
        lease_now: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.url = address.shown
        self.known = known
        self._address = address
        self._lease_now = lease_now
        self._link: Link | None = None

    async def open(self, *, create: bool = False) -> None:
        """See Upkeep."""
        del create  # Making the tables is for ``migrate``.
        self._link = await reach(self._address)
        async with self._asking() as tx:
            await schema.check_server(tx, self._address)

    async def close(self) -> None:
        """See Upkeep."""
        if self._link is not None:
            with suppress(Exception):
                await self._link.close(timeout=2)
            self._link = None

    async def state(self) -> SchemaState:
        """See Upkeep."""
        async with self._asking() as tx:
            return await schema.look(tx, self._address)

    async def migrate(self, *, finish: bool = False, force: bool = False) -> list[Stage]:
        """See Upkeep."""
        pooler = self._address.pooler
        is_pooled = pooler == "yes" or (pooler == "auto" and not await is_direct(self._opened(), self._address))
        request = Request(self.known, finish=finish, force=force, is_pooled=is_pooled, lease_now=self._lease_now())
        return await migrate(self._address, request)

    async def census(self) -> Census:
        """See Upkeep."""
        async with self._transaction(_READ) as tx:
            (incarnation,) = await tx.one(_INCARNATION)
            now, oldest_due_at = await tx.one(_DUE, None)
            tables = [TableSize(*row) for row in await tx.fetch(_TABLES, self._address.schema)]
            return Census(
                now=now,
                incarnation=incarnation,
                tables=tables,
                bytes=sum(each.bytes for each in tables),
                runs={str(row[0]): int(row[1]) for row in await tx.fetch(_STATUSES)},
                oldest_due_at=oldest_due_at,
                workers=await read.workers(tx, self._lease_now()),
            )

    async def page(self, after: RunKey, run_max: int, entry_max: int) -> list[Bundle]:
        """See Upkeep."""
        async with self._transaction(_READ) as tx:
            return await moving.page(tx, after, run_max, entry_max)

    async def strays(self) -> list[Stray]:
        """See Upkeep."""
        async with self._transaction(_READ) as tx:
            lost = await tx.fetch(_LOST_ENTRIES)
            broken = await tx.fetch(_BROKEN_INDEXES, self._address.schema)
            orphans, unowned = await tx.fetch(_NO_PARENT), await tx.fetch(_NO_OWNER)
            small, upper = await tx.one(_KEYS)
            given = await moving.counters(tx)
        found = [Stray(key, "entries of a run that is not there", "0", str(number)) for key, number in lost]
        found += [Stray(0, f"the index {name}", "built", "half built") for (name,) in broken]
        found += [Stray(key, "the run that started it", f"run key {parent}", "none") for key, parent in orphans]
        found += [Stray(key, "its owner", f"worker {worker}", "none") for key, worker in unowned]
        if given.run_key < small:
            found.append(Stray(0, "the counter of run keys", f"at least {small}", str(given.run_key)))
        if given.worker_key < upper:
            found.append(Stray(0, "the counter of worker keys", f"at least {upper}", str(given.worker_key)))
        return found

    async def common(self) -> Mapping[str, Sequence[Line]]:
        """See Upkeep."""
        async with self._asking() as tx:
            return await moving.common(tx)

    async def counters(self) -> Counters:
        """See Upkeep."""
        async with self._asking() as tx:
            return await moving.counters(tx)

    async def hold(self, target: str, move: str) -> list[str]:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            return await moving.hold(tx, target, move, self._lease_now())

    async def owners(self) -> list[Line]:
        """See Upkeep."""
        async with self._asking() as tx:
            return await moving.owners(tx)

    async def let_go(self, *, moved: bool) -> None:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            await moving.let_go(tx, moved=moved)

    async def move_id(self) -> str:
        """See Upkeep."""
        async with self._asking() as tx:
            return await moving.move_id(tx)

    async def begin_filling(self, move: str, source: str) -> RunKey | None:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            return await moving.begin_filling(tx, move, source)

    async def put(self, bundles: Sequence[Bundle]) -> None:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            await moving.put(tx, bundles)

    async def settle(
        self,
        forks: Sequence[tuple[RunKey, RunKey]],
        owners: Sequence[Line],
        common: Mapping[str, Sequence[Line]],
        counters: Counters,
    ) -> None:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            await moving.settle(tx, forks, owners, common, counters)

    async def end_filling(self) -> None:
        """See Upkeep."""
        async with self._transaction(_WRITE) as tx:
            await moving.end_filling(tx)

    def _opened(self) -> Link:
        if self._link is None:
            raise StoreUnavailable(f"the store {self.url} is not open. Nothing was read or written. Call open() first.")
        return self._link

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[Tx]:
        try:
            yield Tx(self._opened(), Names(self._address.schema), ACTION_SECONDS)
        except faults.OF_DRIVER as error:
            raise faults.translated(error, self._address) from error

    @asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncGenerator[Tx]:
        async with self._asking() as tx:
            await self._opened().execute(begin)
            try:
                yield tx
            except BaseException:
                with suppress(*faults.OF_DRIVER):
                    await self._opened().execute("ROLLBACK")
                raise
            await self._opened().execute("COMMIT")
