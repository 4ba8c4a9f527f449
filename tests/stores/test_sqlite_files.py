"""What the SQLite store makes of files: bad ones, full ones, locked ones, damaged ones."""

# pyright: reportPrivateUsage=false
# ruff: noqa: ASYNC240
# A test may look inside, and the loop has nothing else to do while it looks at files.

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from everstep.errors import CorruptJournal, InvalidStoreURL, SchemaMismatch, StoreFull, StoreUnavailable, UsageError
from everstep.events import CancelRequested, RunResumed
from everstep.journal import verify_chain
from everstep.records import Status
from everstep.stores.base import ClaimRequest, Landed, Refused, RunFilter
from everstep.stores.memory import MemoryStore
from everstep.stores.migrations import Migration
from everstep.stores.sqlite import SQLiteStore, claim, schema
from everstep.stores.sqlite.ask import Row, asking, only
from everstep.stores.sqlite.clock import check_sqlite_clock
from everstep.stores.sqlite.connection import network_file_system
from everstep.stores.sqlite.migrate import migrate
from everstep.stores.urls import open_store
from everstep.testing.scene import CODE, WORKFLOW, Clocks, Scene, message, new_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def scene(path: Path) -> AsyncIterator[Scene]:
    clocks = Clocks()
    store = SQLiteStore(path, now=clocks.now, monotonic=clocks.monotonic, patience_seconds=0.05)
    await store.open()
    yield Scene(store, clocks)
    await store.close()


def sql(path: Path, statements: str) -> list[Row]:
    connection = apsw.Connection(str(path))
    try:
        return asking(connection)(statements).fetchall()
    finally:
        connection.close()


def whole(error: BaseException) -> bool:
    """It says what happened, what did not, and what to do: at least three sentences, and the path."""
    return len(re.findall(r"[.:;)] [A-Z]", str(error))) >= 2 and "state.db" in str(error)


# --- files that are no store --------------------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    """Somebody's text may have the name."""
    path.write_text("my shopping list, long enough to be taken for a header\n" * 100)
    before = path.read_bytes()

    with pytest.raises(SchemaMismatch, match="no SQLite database") as caught:
        await SQLiteStore(path).open()

    assert whole(caught.value)
    assert before == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


async def test_a_database_of_another_application_is_refused_untouched(path: Path) -> None:
    """Even the journal mode stays as it was."""
    sql(path, "CREATE TABLE customers(name)")
    before = path.read_bytes()

    with pytest.raises(SchemaMismatch, match="another application"):
        await SQLiteStore(path).open()

    assert before == path.read_bytes()


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """A downgrade must not write what the newer version would misread."""
    store = SQLiteStore(path)
    await store.open()
    await store.close()
    sql(path, "PRAGMA user_version = 99")
    before = path.read_bytes()

    with pytest.raises(SchemaMismatch, match="schema version 99") as caught:
        await SQLiteStore(path).open()

    assert whole(caught.value)
    assert before == path.read_bytes()


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """``mktemp`` and a crash at the first open both leave one."""
    path.touch()
    store = SQLiteStore(path)

    await store.open()
    await store.close()

    assert [(schema.APPLICATION_ID,)] == sql(path, "PRAGMA application_id")
    assert [(len(schema.MIGRATIONS),)] == sql(path, "PRAGMA user_version")
    assert [("wal",)] == sql(path, "PRAGMA journal_mode")
    assert 32 == len(sql(path, "SELECT value FROM meta WHERE key = 'incarnation'")[0][0])


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    """A new store is one transaction."""
    fails = Migration(2, "Fails in the middle.", ("CREATE TABLE half(x)", "CREATE TABLE half(x)"))
    connection = apsw.Connection(str(path))

    with pytest.raises(apsw.SQLError):
        migrate(connection, path, (*schema.MIGRATIONS, fails))

    assert (0,) == only(asking(connection)("SELECT count(*) FROM sqlite_schema"))
    connection.close()


async def test_many_may_create_the_store_at_once(path: Path) -> None:
    """They wait for one another."""
    stores = [SQLiteStore(path) for _ in range(5)]

    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].create([new_run()])

    assert await stores[4].get("order-1") is not None
    for store in stores:
        await store.close()


# --- places that are no place for a store -------------------------------------------------------------------------------------


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """A mistyped path must not become a directory."""
    with pytest.raises(StoreUnavailable, match=r"mkdir -p .*missing"):
        await SQLiteStore(tmp_path / "missing" / "state.db").open()

    assert [] == list(tmp_path.iterdir())


async def test_our_own_directory_is_created(tmp_path: Path) -> None:
    """``.everstep`` is where the embedded store lives."""
    store = SQLiteStore(tmp_path / ".everstep" / "state.db")

    await store.open()
    await store.close()

    assert (tmp_path / ".everstep" / "state.db").is_file()


async def test_a_directory_is_no_file(path: Path) -> None:
    """SQLite cannot open it."""
    path.mkdir()

    with pytest.raises(StoreUnavailable, match="cannot be opened") as caught:
        await SQLiteStore(path).open()

    assert whole(caught.value)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
@pytest.mark.parametrize("what", ["file", "directory"])
async def test_what_may_only_be_read_is_refused(path: Path, what: str) -> None:
    """Found out at open, not at the first commit."""
    store = SQLiteStore(path)
    await store.open()
    await store.close()
    for place in (path, path.parent):
        place.chmod(0o555 if place.is_dir() else 0o444)
    if what == "file":
        path.parent.chmod(0o777)
    else:
        path.chmod(0o666)
    was_root = os.geteuid() == 0
    for parent in path.parent.parents:
        if was_root and parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreUnavailable, match=r"cannot be (written|opened)") as caught:
            await SQLiteStore(path).open()
    finally:
        if was_root:
            os.seteuid(0)
        path.parent.chmod(0o777)

    assert whole(caught.value)


@pytest.mark.parametrize(("mount", "kind"), [("/", ""), ("/mnt/nfs share/deep", "nfs4"), ("/mnt/nfs share/local", "")])
def test_a_network_file_system_is_recognised(tmp_path: Path, mount: str, kind: str) -> None:
    """By the deepest mount point above the file."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "22 21 0:40 / /mnt/nfs\\040share rw - nfs4 server:/export rw\n"
        "23 22 8:2 / /mnt/nfs\\040share/local rw - xfs /dev/sdb1 rw\n"
    )

    assert kind == network_file_system(Path(mount), mountinfo)


def test_a_clock_that_sqlite_cannot_tell_is_refused() -> None:
    """Before 3.42 it is NULL, without an error."""
    connection = apsw.Connection(":memory:")

    def nothing(*_: object) -> None:
        return None

    create_function: Any = getattr(connection, "create_scalar_function")  # noqa: B009  # its type names what Python 3.11 has not
    create_function("unixepoch", nothing, 1)

    with pytest.raises(StoreUnavailable, match="tells the time as None"):
        check_sqlite_clock(asking(connection))


# --- disks and locks ----------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_a_typed_error_and_passes(scene: Scene) -> None:
    """B5: nothing acknowledged is lost, and the store goes on when there is space."""
    run = await scene.owned(await scene.worker())
    assert isinstance(scene.store, SQLiteStore)
    ask = scene.store._state().writer.tx.ask
    (pages,) = only(ask("PRAGMA page_count"))
    ask(f"PRAGMA max_page_count = {pages}")
    big = "x" * 100_000

    with pytest.raises(StoreFull) as caught:
        await scene.commit(scene.append(run, CancelRequested(big)))
    assert whole(caught.value)
    assert run == await scene.run()

    ask("PRAGMA max_page_count = 1073741823")
    assert [Landed()] == await scene.commit(scene.append(run, CancelRequested(big)))
    await scene.verify()


async def test_a_store_locked_for_too_long_is_unavailable_and_then_goes_on(scene: Scene, path: Path) -> None:
    """Reading goes on all the while, and the event loop too."""
    run = await scene.owned(await scene.worker())
    other = apsw.Connection(str(path))
    asking(other)("BEGIN IMMEDIATE")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
        await scene.commit(scene.append(run))
    counting.cancel()

    assert whole(caught.value)
    assert turns > 5
    assert run == await scene.run()
    other.close()
    assert [Landed()] == await scene.commit(scene.append(run))


async def test_a_lock_that_passes_is_waited_for(path: Path) -> None:
    """Nobody sees an error because two processes commit at once."""
    store = SQLiteStore(path)
    await store.open()
    other = apsw.Connection(str(path))
    asking(other)("BEGIN IMMEDIATE")

    creating = asyncio.ensure_future(store.create([new_run()]))
    await asyncio.sleep(0.02)
    other.close()

    assert 1 == len(await creating)
    await store.close()


async def test_a_writer_that_is_cancelled_leaves_the_store_usable(path: Path) -> None:
    """The write is finished nevertheless: ambiguous for who was cancelled, clear for everybody else."""
    store = SQLiteStore(path)
    await store.open()
    other = apsw.Connection(str(path))
    asking(other)("BEGIN IMMEDIATE")
    creating = asyncio.ensure_future(store.create([new_run("first")]))
    await asyncio.sleep(0.01)
    creating.cancel()
    await asyncio.wait([creating])
    other.close()

    await store.create([new_run("second")])
    await asyncio.gather(*store._state().writer._unattended)

    assert {"first", "second"} == {run.run_id for run in await store.list(RunFilter())}
    await store.close()


async def test_slow_commits_leave_the_event_loop_free(scene: Scene) -> None:
    """Only COMMIT goes to a thread, and it comes back when the disk is fast again."""
    run = await scene.owned(await scene.worker())
    assert isinstance(scene.store, SQLiteStore)
    writer = scene.store._state().writer
    writer._commit_seconds, writer._is_slow = 1.0, True

    for _ in range(5):
        assert [Landed()] == await scene.commit(scene.append(run))
        run = await scene.run()
    assert any(thread.name.startswith("everstep-commit") for thread in threading.enumerate())
    writer._commit_seconds = 0.0
    await scene.commit(scene.append(run))

    assert not writer._is_slow
    await scene.verify()


async def test_values_that_sqlite_cannot_hold_are_refused_alone(scene: Scene) -> None:
    """A number beyond 64 bits, or half a character, takes no other write of its batch with it."""
    worker = await scene.worker()
    first, second, third = [await scene.owned(worker, f"order-{number}") for number in range(3)]

    too_big, half, landed = await scene.commit(
        scene.append(first, cursor=1 << 63), scene.append(second, step="\ud800"), scene.append(third)
    )

    assert isinstance(too_big, Refused)
    assert isinstance(half, Refused)
    assert Landed() == landed
    assert [first, second] == [await scene.run("order-0"), await scene.run("order-1")]


async def test_a_closed_store_says_so(path: Path) -> None:
    """Before ``open`` and after ``close``."""
    store = SQLiteStore(path)

    with pytest.raises(StoreUnavailable, match=r"not open.*Call open\(\)"):
        await store.get("order-1")


async def test_a_flipped_bit_is_found_by_the_chain(scene: Scene, path: Path) -> None:
    """B7: the store hands out what it finds, and whoever reads verifies it."""
    run = await scene.owned(await scene.worker())
    await scene.commit(scene.append(run))
    sql(path, "UPDATE journal SET events = replace(events, 'RunClaimed', 'RunClaimee')")

    with pytest.raises(CorruptJournal) as caught:
        verify_chain(await scene.store.load(run.run_key), run_key=run.run_key, run_id=run.run_id)

    assert 2 == caught.value.version


async def test_a_chain_bent_into_a_ring_is_read_to_an_end(scene: Scene, path: Path) -> None:
    """B7: damage must not become an endless loop."""
    run = await scene.owned(await scene.worker())
    sql(path, "UPDATE journal SET prev = (SELECT max(id) FROM journal)")

    assert len(await scene.store.load(run.run_key)) <= 2


# --- claims -------------------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_between_looking_and_claiming_saves_the_worker(scene: Scene) -> None:
    """P9: a lease that ran out is no proof, if its owner renewed it before it was marked dead."""
    late, heir = await scene.worker("host:1"), await scene.worker("host:2")
    await scene.owned(late)
    scene.clocks.advance(100)
    assert isinstance(scene.store, SQLiteStore)
    state = scene.store._state()
    request = ClaimRequest(worker_key=heir, workflows={WORKFLOW: CODE}, run_max=9)
    seen = claim.look(state.ask, request, state.locks, scene.clocks.now(), scene.clocks.monotonic())
    assert [late] == [each.worker_key for each, _ in seen.died]

    assert await scene.store.heartbeat(late)
    claims, _ = await state.writer.run(lambda tx: claim.claim(tx, request, seen.died))

    assert [] == claims.runs
    assert await scene.store.heartbeat(late)


async def test_a_worker_of_another_boot_is_dead(scene: Scene, path: Path) -> None:
    """Its lease counts on a clock that began anew."""
    await scene.owned(await scene.worker("host:1"))
    heir = await scene.worker("host:2")
    sql(path, "UPDATE workers SET boot_id = 'before', heartbeat = 1e9 WHERE name = 'host:1'")

    claimed = await scene.claim_one(heir)

    assert [RunResumed("host:2", "host:1", "rebooted")] == claimed.entries[-1].decoded()


async def test_a_worker_whose_lock_file_is_missing_lives_by_its_lease(scene: Scene, path: Path) -> None:
    """Somebody tidied up; that proves nothing."""
    await scene.owned(await scene.worker("host:1"))
    heir = await scene.worker("host:2")
    for lock in path.with_name("state.db.workers").iterdir():
        lock.unlink()

    assert [] == (await scene.claim(heir)).runs


# --- plans --------------------------------------------------------------------------------------------------------------------


def plan_of(path: Path, statement: str, bindings: tuple[str | int, ...]) -> str:
    connection = apsw.Connection(str(path))
    rows = asking(connection)("EXPLAIN QUERY PLAN " + statement, bindings).fetchall()
    connection.close()
    return "\n".join(str(row[3]) for row in rows)


async def test_claiming_uses_the_partial_indexes(scene: Scene, path: Path) -> None:
    """K2: a queue of a million runs is claimed from as fast as one of ten."""
    await scene.create()

    due: tuple[str | int, ...] = ("mail", "checkout", "2", -1)
    for statement, bindings in ((claim.DUE, due), (claim.REFUSED_BY_OTHERS, (*due, "code"))):
        assert "USING INDEX runs_due" in plan_of(path, statement, bindings)
        assert "SCAN runs" not in plan_of(path, statement, bindings)
    assert "TEMP B-TREE" not in plan_of(path, claim.DUE, due)
    assert 3 == plan_of(path, claim.EARLIEST, ('[["checkout","2","code"]]', "")).count("USING INDEX runs_due")
    assert "USING INDEX runs_owned" in plan_of(path, claim.ORPHANS, ())


async def test_the_view_shows_one_row_per_event(scene: Scene, path: Path) -> None:
    """The journal is readable by a person with a shell."""
    run = await scene.owned(await scene.worker())
    await scene.commit(scene.append(run))

    rows = sql(path, "SELECT run_id, version, event FROM history ORDER BY version")

    assert [("order-1", 1, "RunCreated"), ("order-1", 2, "RunClaimed"), ("order-1", 3, "StepCompleted")] == rows


# --- what is asked wrongly ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 1001, 10**9])
async def test_a_list_has_a_limit(scene: Scene, limit: int) -> None:
    """J2: work is bounded, and nobody is given less than asked for without a word."""
    with pytest.raises(UsageError, match="Ask for 1 to 1,000"):
        await scene.store.list(RunFilter(limit=limit))


async def test_a_message_that_is_no_text_is_refused(scene: Scene) -> None:
    """Nothing is stored."""
    await scene.create()
    broken = message(CancelRequested())

    with pytest.raises(UsageError, match="UTF-8"):
        await scene.store.post("order-1", type(broken)(event=b"\xff"))

    assert 0 == (await scene.run()).inbox_seq


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///orders.db", "orders.db"), ("sqlite:///a/b%20c.db", "a/b c.db"), ("sqlite:////var/x.db", "/var/x.db")],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    """Three slashes are relative, four absolute."""
    store = open_store(url)

    assert isinstance(store, SQLiteStore)
    assert Path(path).absolute() == store.path


def test_each_memory_url_is_a_store_of_its_own() -> None:
    """There is no registry to share one through."""
    first, second = open_store("memory://"), open_store("memory://")

    assert isinstance(first, MemoryStore)
    assert first is not second


@pytest.mark.parametrize(
    "url",
    ["", "orders.db", "sqlite://", "sqlite:///", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "sqlite:///dir/", "redis://h"],
)
def test_a_url_that_names_no_store_is_refused_with_the_forms_that_do(url: str) -> None:
    """The caller corrects it."""
    with pytest.raises(InvalidStoreURL, match=r"sqlite:////absolute/path\.db"):
        open_store(url)


def test_passwords_are_not_repeated() -> None:
    """An error message ends in logs."""
    with pytest.raises(InvalidStoreURL, match="cannot be read"):
        open_store("http://[::1")
    with pytest.raises(InvalidStoreURL) as caught:
        open_store("mysql://me:secret@host/db")

    assert "secret" not in str(caught.value)


def test_statuses_are_what_the_indexes_say() -> None:
    """The partial index of runs in trouble is written out in SQL."""
    assert all(
        f"status = '{status}'" in str(schema.MIGRATIONS[0].pre) for status in (Status.PAUSED, Status.FAILED, Status.DEAD)
    )
