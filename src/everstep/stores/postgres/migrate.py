"""
Taking a schema from one version of the tables to the next: what ``stores.migrations`` plans, a few actions at a time.

Actions that follow one another go together, in one transaction, with the note of how far the stage has come; building an index
beside work that goes on is no transaction, so it is looked at afterwards whether it came to its end. Whoever comes next begins
where the note says. Each piece begins by looking, under a lock, whether the schema stands where it believes: of several
migrators, one does each piece.

A table is locked for a moment by most changes, and everybody who comes after waits behind whoever waits for that. So we wait
for a lock for a second only, step aside, and try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct

from everstep.errors import StoreUnavailable
from everstep.stores import rules
from everstep.stores.migrations import (
    Index,
    Migration,
    Old,
    SchemaState,
    Stage,
    after,
    plan,
    refuse_to_wait,
    waits_for_workers,
)
from everstep.stores.postgres import faults, link, schema, workers
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link
from everstep.stores.postgres.pool import Names, Tx

LOCK_TRIES: Final = 60
PAUSE_SECONDS: Final = 1.0
ACTION_SECONDS: Final = 7 * 86400.0
"""An index of a large table takes its time."""

# Two migrators of whatever schema do not meet often enough to tell them apart.
_LOCK: Final = "SELECT pg_advisory_xact_lock(7311690114985456740)"
# Tried for, and not waited for: whoever waits has a snapshot, and building an index waits for all snapshots.
_TRY_LOCK_LONG: Final = "SELECT pg_try_advisory_lock(7311690114985456741)"
_UNLOCK_LONG: Final = "SELECT pg_advisory_unlock(7311690114985456741)"
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = 1000"
_CREATE_SCHEMA: Final = "CREATE SCHEMA everstep"
_BIRTH: Final = """
INSERT INTO everstep.meta VALUES ('application', 'everstep'), ('incarnation', replace(gen_random_uuid()::text, '-', ''))
"""
_SET: Final = "INSERT INTO everstep.meta VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_UNSET: Final = "DELETE FROM everstep.meta WHERE key = $1"
# No worker can enlist meanwhile; who does afterwards sees which version is wanted.
_HOLD_WORKERS: Final = "LOCK TABLE everstep.workers IN SHARE MODE"
_OLDER: Final = "SELECT worker_key, schema_version FROM everstep.workers WHERE gone = '' AND schema_version < $1"
_RETIRE: Final = "UPDATE everstep.workers SET gone = $2 WHERE gone = '' AND schema_version < $1"
_INDEX: Final = """
SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = $1 AND relname = $2
"""


class Request(Struct, frozen=True):
    """What is wanted.

    Attributes:
        known: All migrations, in order.
        finish: Also the newest one's ``post``.
        force: Take their runs from workers that would have to be waited for.
        is_pooled: A pooler in transaction mode may be in between.
        lease_now: Instead of the server's clock, for leases. For tests.
    """

    known: Sequence[Migration]
    finish: bool = False
    force: bool = False
    is_pooled: bool = False
    lease_now: float | None = None


async def migrate(address: Address, request: Request) -> list[Stage]:
    """Bring a schema up to date. Safe to repeat, and from several processes at once.

    Returns:
        The stages that came to their end here.

    Raises:
        SchemaMismatch: The schema is not ours, or older workers are alive. What was done before stays.
        StoreUnavailable: The server did not do it.
    """
    try:
        connection = await link.connect(address, is_pooled=request.is_pooled)
    except faults.OF_DRIVER as error:
        raise faults.translated(error, address) from error
    try:
        return await _Migrator(connection, address, request).run()
    except faults.OF_DRIVER as error:
        raise faults.translated(error, address) from error
    finally:
        connection.terminate()


class _Migrator:
    def __init__(self, connection: Link, address: Address, request: Request) -> None:
        self._link = connection
        self._address = address
        self._request = request
        self._tx = Tx(connection, Names(address.schema), ACTION_SECONDS)

    async def run(self) -> list[Stage]:
        taken: list[Stage] = []
        while True:
            state = await schema.look(self._tx, self._address)
            stages = plan(state, self._request.known, finish=self._request.finish)
            if not stages:
                return taken
            if not state.version:
                taken += stages if await self._in_turn(partial(self._create, stages)) else []
            elif await self._advance(stages[0], state):
                taken.append(stages[0])

    async def _create(self, stages: Sequence[Stage]) -> bool:
        """A new store gets everything at once."""
        if (await schema.look(self._tx, self._address)).version:
            return False
        if not await schema.has_schema(self._tx, self._address):
            await self._tx.execute(_CREATE_SCHEMA)
        for stage in stages:
            for each in stage.actions:
                statement = each.create.replace(" CONCURRENTLY", "", 1) if isinstance(each, Index) else each
                await self._tx.execute(statement)
        await self._tx.fetch(_BIRTH)
        await self._note(after(stages[-1]))
        return True

    async def _advance(self, stage: Stage, state: SchemaState) -> bool:
        """Do the next piece of a stage. Returns whether that was its end, and done here."""
        done = state.done_of(stage)
        if done < len(stage.actions) and isinstance(stage.actions[done], Index):
            if not state.under_way and not await self._in_turn(lambda: self._begin(stage, state)):
                return False
            return await self._build(stage, done)
        return await self._in_turn(lambda: self._do(stage, state, done))

    async def _begin(self, stage: Stage, state: SchemaState) -> bool:
        """From here on the stage is under way; who is too old for it comes no more."""
        if await schema.look(self._tx, self._address) != state:
            return False
        if waits_for_workers(stage):
            await self._see_off(stage)
        await self._tx.fetch(_SET, "min_version", str(max(state.min_version, stage.min_version)))
        await self._tx.fetch(_SET, "under_way", f"{stage.name} 0")
        return True

    async def _do(self, stage: Stage, state: SchemaState, done: int) -> bool:
        if state.under_way:
            if await schema.look(self._tx, self._address) != state:
                return False
        elif not await self._begin(stage, state):
            return False
        for statement in stage.actions[done:]:
            if isinstance(statement, Index):
                break
            await self._tx.execute(statement)
            done += 1
        return await self._note_done(stage, done)

    async def _build(self, stage: Stage, done: int) -> bool:
        """Build an index, or see that it is there already."""
        index = stage.actions[done]
        assert isinstance(index, Index)
        self._refuse_pooler(index)
        while not (await self._tx.one(_TRY_LOCK_LONG))[0]:  # noqa: ASYNC110  # the lock is the server's
            await asyncio.sleep(PAUSE_SECONDS)
        try:
            if (await schema.look(self._tx, self._address)).done_of(stage) != done:
                return False
            found = await self._tx.fetch(_INDEX, self._address.schema, index.name)
            is_valid = bool(found) and found[0][0]
            for statement in () if is_valid else (index.drop, index.create) if found else (index.create,):
                await self._tx.execute(statement)
            return await self._in_turn(lambda: self._note_done(stage, done + 1))
        finally:
            if not self._link.is_closed():
                await self._tx.one(_UNLOCK_LONG)

    async def _note_done(self, stage: Stage, done: int) -> bool:
        if done < len(stage.actions):
            await self._tx.fetch(_SET, "under_way", f"{stage.name} {done}")
            return False
        await self._note(after(stage))
        return True

    async def _note(self, state: SchemaState) -> None:
        await self._tx.fetch(_SET, "version", str(state.version))
        await self._tx.fetch(_SET, "phase", state.phase)
        await self._tx.fetch(_SET, "min_version", str(state.min_version))
        await self._tx.fetch(_UNSET, "under_way")

    async def _see_off(self, stage: Stage) -> None:
        await self._tx.execute(_HOLD_WORKERS)
        old = await seen_alive(self._tx, stage.migration.number, self._request.lease_now)
        if old and not self._request.force:
            raise refuse_to_wait(stage, old, self._address.shown)
        await self._tx.fetch(_RETIRE, stage.migration.number, rules.RETIRED)

    def _refuse_pooler(self, index: Index) -> None:
        if self._request.is_pooled:
            raise StoreUnavailable(
                f"the index {index.name} of the store {self._address.shown} cannot be built through a pooler in transaction "
                "mode. What came before it is done. Give the URL of the server itself, and repeat: everstep db migrate"
            )

    async def _in_turn(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """In a transaction under the lock of migrators; again, if somebody holds a lock of a table for long."""
        for tries in range(1, LOCK_TRIES + 1):
            try:
                return await self._once(work)
            except link.Error as error:
                if tries == LOCK_TRIES or not (faults.is_lock(error) or faults.is_transient(error)):
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    async def _once(self, work: Callable[[], Awaitable[bool]]) -> bool:
        await self._link.execute(_BEGIN)
        try:
            await self._tx.fetch(_LOCK)
            answer = await work()
        except Exception:
            with suppress(*faults.OF_DRIVER):
                await self._link.execute("ROLLBACK")
            raise
        await self._link.execute("COMMIT")
        return answer


async def seen_alive(tx: Tx, older_than: int, lease_now: float | None) -> list[Old]:
    """The workers of older versions that are alive. Those whose lease has run out are marked dead."""
    versions: dict[int, int] = {row[0]: row[1] for row in await tx.fetch(_OLDER, older_than)}
    seen = [each for each in await workers.see(tx, lease_now) if each.worker_key in versions]
    await workers.bury(tx, [(each, rules.LEASE_EXPIRED) for each in seen if each.is_expired], lease_now)
    return [Old(each.name, versions[each.worker_key]) for each in seen if not each.is_expired]
