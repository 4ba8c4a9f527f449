"""L1 to L3 on PostgreSQL: with roles, and with indexes that are built outside of transactions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

import everstep as es
from everstep.errors import SchemaMismatch, StoreUnavailable
from everstep.stores.migrations import Migration, SchemaState
from everstep.stores.urls import open_store
from everstep.testing.scene import Clocks, Scene
from tests.stores.later import POSTGRES_2, POSTGRES_3
from tests.stores.postgres_roles import EngineRole
from tests.stores.test_migrations import sums

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link, schema
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link
from everstep.stores.postgres.migrate import Request, migrate
from everstep.stores.postgres.pool import Names, Tx

V1 = schema.MIGRATIONS
V2 = (*V1, POSTGRES_2)
V3 = (*V2, POSTGRES_3)

# Migrates, and is killed before it sends so many-th message that is not only a question.
VICTIM = """
import asyncio, os, signal, sys
from everstep.stores.postgres import link, migrate
from everstep.stores.postgres.address import Address
from tests.stores.test_postgres_migrations import V2

left = int(sys.argv[2])

class Watched:
    def __init__(self, inner):
        self.inner = inner
        self.fetch, self.is_closed, self.terminate = inner.fetch, inner.is_closed, inner.terminate

    async def execute(self, *args, **more):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return await self.inner.execute(*args, **more)

real = link.connect

async def connect(*args, **more):
    return Watched(await real(*args, **more))

link.connect = connect
asyncio.run(migrate.migrate(Address(sys.argv[1]), migrate.Request(V2, finish=True)))
"""
RACER = """
import asyncio, sys
from everstep.stores.postgres import migrate
from everstep.stores.postgres.address import Address
from tests.stores.test_postgres_migrations import V3

print("ready", flush=True)
sys.stdin.readline()
stages = asyncio.run(migrate.migrate(Address(sys.argv[1]), migrate.Request(V3, finish=True)))
print(" ".join(stage.name.replace(" ", "-") for stage in stages))
"""

WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = $1::regclass"


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Link]:
    connection = await link.connect(Address(postgres_url), is_pooled=True)
    yield connection
    await connection.close()


async def made(url: str, known: Sequence[Migration] = V1) -> None:
    store = PostgresStore(url, migrations=known)
    await store.open()
    await store.close()


async def state_of(admin: Link, url: str) -> SchemaState:
    address = Address(url)
    return await schema.look(Tx(admin, Names(address.schema)), address)


async def finish(url: str, known: Sequence[Migration], **more: bool) -> list[str]:
    return [stage.name for stage in await migrate(Address(url), Request(known, **{"finish": True, **more}))]


async def columns(admin: Link, url: str) -> list[tuple[str, ...]]:
    """The whole schema, as far as it matters."""
    name = Address(url).schema
    found = await admin.fetch(
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = $1", name
    )
    indexes = await admin.fetch("SELECT tablename, indexname, '', '' FROM pg_indexes WHERE schemaname = $1", name)
    return sorted(tuple(row) for row in (*found, *indexes))


def process(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_opening_a_store_never_changes_tables_that_are_there(postgres_url: str, admin: Link) -> None:
    """Many workers begin at once and should not find out by it that they hold up each other; somebody decides when."""
    await made(postgres_url)

    with pytest.raises(SchemaMismatch, match=r"has schema version 1, and this everstep needs 2\. .* everstep db migrate"):
        await made(postgres_url, V2)

    assert SchemaState(1, "done", 1) == await state_of(admin, postgres_url)
    assert [] == [stage.name for stage in await migrate(Address(postgres_url), Request(V1))]
    assert ["2 pre"] == [stage.name for stage in await migrate(Address(postgres_url), Request(V2))]
    await made(postgres_url, V2)
    await made(postgres_url, V1)


async def test_a_schema_of_any_version_ends_like_a_new_one(
    postgres_url: str, admin: Link, request: pytest.FixtureRequest
) -> None:
    other = postgres_url + "_new"
    await made(postgres_url)
    assert ["2 pre", "2 post", "3 pre", "3 post"] == await finish(postgres_url, V3)
    await made(other, V3)

    assert SchemaState(3, "done", 3) == await state_of(admin, postgres_url) == await state_of(admin, other)
    assert await columns(admin, other) == await columns(admin, postgres_url)


@pytest.mark.skipif("sys.platform == 'win32'", reason="there is no SIGKILL")
async def test_a_migration_that_is_killed_anywhere_goes_on(postgres_url: str, admin: Link) -> None:
    """Before every message that does something. Whoever comes next ends it, and an engine never takes half for whole."""
    killed, halves = 0, 0
    while True:
        url = f"{postgres_url}_{killed}"
        await made(url)
        victim = process(VICTIM, url, str(killed))
        await asyncio.to_thread(victim.communicate)
        if not victim.returncode:
            break
        assert -signal.SIGKILL == victim.returncode
        killed += 1
        state = await state_of(admin, url)
        halves += bool(state.under_way)
        await made(url, V2[: state.version])
        if state.version < 2:
            with pytest.raises(SchemaMismatch, match="was begun" if state.under_way else "needs 2"):
                await made(url, V2)
        await finish(url, V2)
        assert SchemaState(2, "done", 2) == await state_of(admin, url)

    assert killed >= 12
    assert halves >= 3


async def test_of_two_migrators_one_takes_each_stage(postgres_url: str, admin: Link) -> None:
    await made(postgres_url)
    racers = [process(RACER, postgres_url) for _ in range(2)]
    for each in racers:
        assert each.stdout is not None
        assert "ready\n" == await asyncio.to_thread(each.stdout.readline)

    told = await asyncio.gather(*(asyncio.to_thread(each.communicate, "go\n") for each in racers))

    assert [0, 0] == [each.returncode for each in racers]
    assert ["2-post", "2-pre", "3-post", "3-pre"] == sorted(name for out, _ in told for name in out.split())
    assert SchemaState(3, "done", 3) == await state_of(admin, postgres_url)


async def test_an_index_that_was_left_half_built_is_built_anew(postgres_url: str, admin: Link) -> None:
    """As a server that was stopped in the middle leaves it: it is kept up to date, and of no use."""
    name = Address(postgres_url).schema
    await made(postgres_url)
    await admin.execute(f"""
        ALTER TABLE {name}.runs ADD COLUMN asked_by text NOT NULL DEFAULT 'nobody';
        CREATE INDEX runs_asked ON {name}.runs(asked_by);
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}.runs_asked'::regclass;
        INSERT INTO {name}.meta VALUES ('under_way', '2 pre 1')
    """)

    await finish(postgres_url, V2)

    assert [(True,)] == [
        tuple(row)
        for row in await admin.fetch(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{name}.runs_asked'::regclass")
    ]


async def test_a_migrator_waits_for_a_table_that_somebody_holds(postgres_url: str, admin: Link) -> None:
    """But never so that all the others wait behind it: for a moment only, again and again."""
    name = Address(postgres_url).schema
    await made(postgres_url)
    await admin.execute(f"BEGIN; LOCK TABLE {name}.runs IN ACCESS SHARE MODE")
    other = await link.connect(Address(postgres_url), is_pooled=True)
    migrating = asyncio.ensure_future(finish(postgres_url, V2))
    for is_waiting in (True, False):
        while is_waiting is not bool(await other.fetch(WAITING, f"{name}.runs")):
            pass

    assert not migrating.done()
    await admin.execute("COMMIT")
    assert ["2 pre", "2 post"] == await migrating
    await other.close()


async def test_an_index_is_not_built_through_a_pooler(postgres_url: str) -> None:
    """Its lock might stay on a connection of the pooler's for ever."""
    await made(postgres_url)

    with pytest.raises(StoreUnavailable, match="cannot be built through a pooler"):
        await migrate(Address(postgres_url), Request(V2, is_pooled=True))

    assert ["2 pre", "2 post"] == await finish(postgres_url, V2)


# --- two versions at once -----------------------------------------------------------------------------------------------------


async def test_workers_of_two_versions_share_a_store(postgres_url: str, engine_role: EngineRole, admin: Link) -> None:
    """With the rights of engines, while the owner migrates."""
    url = await engine_role.url(postgres_url)
    old = es.Engine(PostgresStore(url, migrations=V1), workflows=[sums], lease=2)
    await old.open()
    begun = [await old.start(sums(4), id=f"before-{n}") for n in range(5)]
    assert ["2 pre"] == await finish(postgres_url, V2, finish=False)
    new = es.Engine(PostgresStore(url, migrations=V2), workflows=[sums], lease=2)
    await new.open()
    begun += [await engine.start(sums(4), id=f"{name}-{n}") for n in range(5) for name, engine in (("old", old), ("new", new))]

    assert [12] * 15 == [await each.result(timeout=60) for each in begun]
    with pytest.raises(SchemaMismatch, match=r"older workers are alive: .* \(schema version 1\)"):
        await finish(postgres_url, V2)
    assert SchemaState(2, "pre", 1) == await state_of(admin, postgres_url)
    await old.close()
    assert ["2 post"] == await finish(postgres_url, V2)
    assert 12 == await (await new.start(sums(4), id="after")).result(timeout=60)
    with pytest.raises(SchemaMismatch, match=r"schema version 2 .* knows versions up to 1"):
        await PostgresStore(url, migrations=V1).open()
    await new.close()


async def test_a_worker_that_was_late_is_not_enlisted(postgres_url: str) -> None:
    late = PostgresStore(postgres_url, migrations=V1)
    await late.open()
    await finish(postgres_url, V2)

    with pytest.raises(SchemaMismatch, match="Restart it with the new version"):
        await late.enlist("late", 15)

    assert [] == await late.workers()
    await late.close()


async def test_force_takes_their_runs_from_older_workers(postgres_url: str) -> None:
    clocks = Clocks()
    old = PostgresStore(postgres_url, now=clocks.now, monotonic=clocks.monotonic, migrations=V1)
    await old.open()
    scene = Scene(old, clocks)
    worker = await scene.worker(lease_seconds=1e12)
    await scene.owned(worker)

    assert ["2 pre", "2 post"] == await finish(postgres_url, V2, force=True)

    new = PostgresStore(postgres_url, now=clocks.now, monotonic=clocks.monotonic, migrations=V2)
    await new.open()
    assert not await old.heartbeat(worker)
    heir = Scene(new, clocks)
    claimed = await heir.claim(await heir.worker())
    assert ["order-1"] == [each.run.run_id for each in claimed.runs]
    assert 0 == claimed.runs[0].run.deaths
    await old.close()
    await new.close()


async def test_older_workers_whose_lease_ran_out_are_not_waited_for(postgres_url: str) -> None:
    clocks = Clocks()
    old = PostgresStore(postgres_url, now=clocks.now, monotonic=clocks.monotonic, migrations=V1)
    await old.open()
    worker = await old.enlist("frozen", 1)

    assert ["2 pre", "2 post"] == await finish(postgres_url, V2)

    assert not await old.heartbeat(worker)
    await old.close()


async def test_the_role_of_an_engine_cannot_migrate_and_is_told_who_can(postgres_url: str, engine_role: EngineRole) -> None:
    url = await engine_role.url(postgres_url)

    with pytest.raises(StoreUnavailable, match="does not permit this"):
        await finish(url, V2)
    with pytest.raises(SchemaMismatch, match="the role that owns the tables"):
        await PostgresStore(url, migrations=V2).open()


async def test_the_first_of_many_makes_a_store_of_the_newest_version(postgres_url: str, admin: Link) -> None:
    await asyncio.gather(*(made(postgres_url, V3) for _ in range(4)))

    assert SchemaState(3, "done", 3) == await state_of(admin, postgres_url)
    store = open_store(postgres_url)
    with pytest.raises(SchemaMismatch, match="schema version 3"):
        await store.open()
