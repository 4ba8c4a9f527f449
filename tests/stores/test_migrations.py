"""L1 to L3: a schema goes on while workers of two versions are at work, whoever is killed meanwhile, and never half."""

# The loop has nothing else to do while files are looked at.

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

import everstep as es
from everstep.errors import SchemaMismatch
from everstep.stores.migrations import Migration, SchemaState, plan, refuse_behind, refuse_unusable
from everstep.stores.sqlite import SQLiteStore, schema
from everstep.stores.sqlite.ask import asking
from everstep.stores.sqlite.migrate import migrate
from everstep.testing.scene import Clocks, Scene
from tests.stores.later import SQLITE, SQLITE_2

# Migrates the file, and is killed once it has run so many statements.
VICTIM = """
import os, signal, sys
from pathlib import Path
import apsw
from everstep.stores.sqlite.migrate import migrate
from tests.stores.later import SQLITE

path, left = Path(sys.argv[1]), int(sys.argv[2])
connection = apsw.Connection(str(path))

def trace(cursor, statement, bindings):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return True

connection.exec_trace = trace
migrate(connection, path, SQLITE, finish=True)
"""
RACER = """
import sys
from pathlib import Path
import apsw
from everstep.stores.sqlite.migrate import migrate
from tests.stores.later import SQLITE
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(30_000)
print("ready", flush=True)
sys.stdin.readline()
print(" ".join(stage.name.replace(" ", "-") for stage in migrate(connection, Path(sys.argv[1]), SQLITE, finish=True)))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def state_of(path: Path) -> SchemaState:
    connection = apsw.Connection(str(path))
    try:
        return schema.look(asking(connection), path)
    finally:
        connection.close()


def finish(path: Path, known: tuple[Migration, ...], *, force: bool = False) -> list[str]:
    """``everstep db migrate --post``."""
    connection = apsw.Connection(str(path))
    try:
        return [stage.name for stage in migrate(connection, path, known, finish=True, force=force)]
    finally:
        connection.close()


def tables(path: Path) -> str:
    """The whole schema, as SQLite tells it."""
    connection = apsw.Connection(str(path))
    try:
        return "\n".join(str(sql) for (sql,) in asking(connection)("SELECT sql FROM sqlite_schema ORDER BY name"))
    finally:
        connection.close()


async def made(path: Path, known: tuple[Migration, ...] = SQLITE[:1]) -> None:
    store = SQLiteStore(path, migrations=known)
    await store.open()
    await store.close()


def process(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- the plan -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "wanted", "finished"),
    [
        (SchemaState(), ["1 pre", "1 post", "2 pre", "2 post", "3 pre", "3 post"], []),
        (SchemaState(1, "done", 1), ["2 pre", "2 post", "3 pre"], ["3 post"]),
        (SchemaState(2, "pre", 1), ["2 post", "3 pre"], ["3 post"]),
        (SchemaState(2, "done", 2), ["3 pre"], ["3 post"]),
        (SchemaState(3, "pre", 2), [], ["3 post"]),
        (SchemaState(3, "pre", 3, "3 post 0"), ["3 post"], []),
        (SchemaState(3, "done", 3), [], []),
        (SchemaState(9, "pre", 8), [], []),
    ],
)
def test_a_migration_is_finished_before_the_next_begins(state: SchemaState, wanted: list[str], finished: list[str]) -> None:
    """So that never more than two versions share a schema. A new store is finished at once; what was begun is ended."""
    assert wanted == [stage.name for stage in plan(state, SQLITE)]
    assert wanted + finished == [stage.name for stage in plan(state, SQLITE, finish=True)]


@pytest.mark.parametrize(
    ("state", "known", "refused"),
    [
        (SchemaState(), 2, "needs 2"),
        (SchemaState(1, "done", 1), 2, "needs 2"),
        (SchemaState(1, "done", 1, "2 pre 1"), 2, "the step 2 pre was begun"),
        (SchemaState(1, "done", 1, "2 pre 1"), 1, ""),
        (SchemaState(2, "pre", 1), 2, ""),
        (SchemaState(2, "pre", 1), 1, ""),
        (SchemaState(2, "pre", 2), 1, "schema version 2"),
        (SchemaState(2, "pre", 2, "2 post 1"), 2, ""),
        (SchemaState(2, "done", 2), 1, "knows versions up to 1"),
        (SchemaState(3, "pre", 1), 1, "schema version 3"),
        (SchemaState(1, "done", 1, moved_to="postgresql://db/x"), 1, "were moved to postgresql://db/x"),
        (SchemaState(1, "done", 1, moved_to="postgresql://db/x", is_moving=True), 1, "are being moved to"),
        (SchemaState(1, "done", 1, is_filling=True), 1, "target of a copy"),
    ],
)
def test_who_may_use_a_schema(state: SchemaState, known: int, refused: str) -> None:
    """Code of its own version and of the one before, until the migration is finished. L2, L3."""
    told = ""
    try:
        refuse_unusable(state, known, "x.db")
        refuse_behind(state, known, "x.db")
    except SchemaMismatch as error:
        told = str(error)

    assert refused in told
    assert bool(refused) == bool(told)


def test_tables_of_later_versions_cannot_have_the_name_of_a_users_table() -> None:
    """Both stand in one file."""
    for migration in schema.MIGRATIONS[1:]:
        for statement in migration.pre:
            assert "CREATE TABLE" not in str(statement) or "CREATE TABLE everstep_" in str(statement)


# --- a file -------------------------------------------------------------------------------------------------------------------


async def test_opening_a_file_adds_what_is_new_and_takes_nothing_away(path: Path) -> None:
    """Nobody runs commands on an embedded store; and whoever is still on the version before goes on."""
    await made(path)

    await made(path, SQLITE_2)

    assert SchemaState(2, "pre", 1) == state_of(path)
    await made(path)
    assert SchemaState(2, "pre", 1) == state_of(path)


async def test_a_file_of_any_version_ends_like_a_new_one(path: Path, tmp_path: Path) -> None:
    await made(path)
    await made(path, SQLITE)
    await made(tmp_path / "new.db", SQLITE)

    assert ["3 post"] == finish(path, SQLITE)
    assert SchemaState(3, "done", 3) == state_of(path) == state_of(tmp_path / "new.db")
    assert tables(tmp_path / "new.db") == tables(path)


@pytest.mark.skipif("sys.platform == 'win32'", reason="there is no SIGKILL")
async def test_a_migration_that_is_killed_anywhere_goes_on(path: Path) -> None:
    """At every statement: the stage is then untaken, and both versions can open what is there."""
    killed = 0
    while True:
        for each in path.parent.glob("state.db*"):
            each.unlink()
        await made(path)
        victim = process(VICTIM, str(path), str(killed))
        victim.communicate()
        if not victim.returncode:
            break
        assert -signal.SIGKILL == victim.returncode
        killed += 1
        state = state_of(path)
        assert (state.version, state.phase) in {(1, "done"), (2, "pre"), (2, "done"), (3, "pre"), (3, "done")}
        store = SQLiteStore(path, migrations=SQLITE[: max(1, state.version)])
        await store.open()
        await Scene(store, Clocks()).create()
        await store.close()
        finish(path, SQLITE)
        assert SchemaState(3, "done", 3) == state_of(path)

    assert killed >= 20


def test_of_two_migrators_one_takes_each_stage(path: Path) -> None:
    """L1. In two processes, at once."""
    asyncio.run(made(path))
    racers = [process(RACER, str(path)) for _ in range(2)]
    for each in racers:
        assert each.stdout is not None
        assert "ready\n" == each.stdout.readline()

    took = [name for each in racers for name in each.communicate("go\n")[0].split()]

    assert [0, 0] == [each.returncode for each in racers]
    assert ["2-post", "2-pre", "3-post", "3-pre"] == sorted(took)
    assert SchemaState(3, "done", 3) == state_of(path)


# --- two versions at once -----------------------------------------------------------------------------------------------------


@es.step
async def double(n: int) -> int:
    return 2 * n


@es.workflow
async def sums(n: int) -> int:
    total = 0
    for each in range(n):
        total += await double(each)
        await es.sleep(0.01)
    return total


async def test_workers_of_two_versions_share_a_store(path: Path) -> None:
    """Runs begin on either, are parked, and go on wherever they are claimed, while the schema goes on under them."""
    old = es.Engine(SQLiteStore(path, migrations=SQLITE[:1]), workflows=[sums], lease=2)
    await old.open()
    begun = [await old.start(sums(4), id=f"before-{n}") for n in range(5)]
    new = es.Engine(SQLiteStore(path, migrations=SQLITE_2), workflows=[sums], lease=2)
    await new.open()
    begun += [await engine.start(sums(4), id=f"{name}-{n}") for n in range(5) for name, engine in (("old", old), ("new", new))]

    assert [12] * 15 == [await each.result(timeout=30) for each in begun]
    with pytest.raises(SchemaMismatch, match=r"older workers are alive: .* \(schema version 1\)"):
        finish(path, SQLITE_2)
    assert SchemaState(2, "pre", 1) == state_of(path)
    await old.close()
    assert ["2 post"] == finish(path, SQLITE_2)
    assert 12 == await (await new.start(sums(4), id="after")).result(timeout=30)
    with pytest.raises(SchemaMismatch, match=r"schema version 2 .* knows versions up to 1"):
        await SQLiteStore(path, migrations=SQLITE[:1]).open()
    await new.close()


async def test_a_worker_that_was_late_is_not_enlisted(path: Path) -> None:
    """Its process opened the store before, and may have been frozen since."""
    late = SQLiteStore(path, migrations=SQLITE[:1])
    await late.open()
    await made(path, SQLITE_2)
    finish(path, SQLITE_2)

    with pytest.raises(SchemaMismatch, match="Restart it with the new version"):
        await late.enlist("late", 15)

    assert [] == await late.workers()
    await late.close()


async def test_force_takes_their_runs_from_older_workers(path: Path) -> None:
    """A worker that nobody can stop must not hold up an upgrade for ever. It is dead for the store, at once."""
    clocks = Clocks()
    old = SQLiteStore(path, now=clocks.now, monotonic=clocks.monotonic, migrations=SQLITE[:1])
    await old.open()
    scene = Scene(old, clocks)
    worker = await scene.worker(lease_seconds=1e9)
    await scene.owned(worker)
    new = SQLiteStore(path, now=clocks.now, monotonic=clocks.monotonic, migrations=SQLITE_2)
    await new.open()

    assert ["2 post"] == finish(path, SQLITE_2, force=True)

    assert not await old.heartbeat(worker)
    heir = Scene(new, clocks)
    claimed = await heir.claim(await heir.worker())
    assert ["order-1"] == [each.run.run_id for each in claimed.runs]
    assert 0 == claimed.runs[0].run.deaths
    await old.close()
    await new.close()


async def test_an_engine_that_was_forced_out_says_so_and_drives_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its runs go on with whoever has the new version. It asks for a token from time to time, and can be closed."""
    old = es.Engine(SQLiteStore(path, migrations=SQLITE[:1]), workflows=[sums], lease=0.5)
    await old.open()
    finish(path, SQLITE_2, force=True)

    while "Restart it with the new version" not in caplog.text:  # noqa: ASYNC110  # a log sets no event
        await asyncio.sleep(0.01)

    new = es.Engine(SQLiteStore(path, migrations=SQLITE_2), workflows=[sums])
    async with new:
        assert 2 == await (await new.start(sums(2), id="a")).result(timeout=20)
    await asyncio.wait_for(old.close(), 20)


async def test_a_version_is_not_skipped_while_older_workers_are_alive(path: Path) -> None:
    """The version in between has a part that waits for them."""
    old = SQLiteStore(path, migrations=SQLITE[:1])
    await old.open()
    worker = await old.enlist("old", 3600)

    with pytest.raises(SchemaMismatch, match="cannot go on to step 2 post"):
        await SQLiteStore(path, migrations=SQLITE).open()

    assert SchemaState(2, "pre", 1) == state_of(path)
    assert await old.heartbeat(worker)
    await old.close()
    await made(path, SQLITE)
    assert SchemaState(3, "pre", 2) == state_of(path)


async def test_older_workers_that_are_dead_are_not_waited_for(path: Path) -> None:
    """Killed ones say nothing; and one that only seemed dead never renews."""
    old = SQLiteStore(path, migrations=SQLITE[:1])
    await old.open()
    worker = await old.enlist("killed", 3600)
    old.kill(worker)

    await made(path, SQLITE)

    assert not await old.heartbeat(worker)
    await old.close()
