"""What the bodies of transactions may do to an SQLite store, what they may not, and who waits for them."""

# pyright: reportPrivateUsage=false
# A test may look inside; threads of bodies are held up on purpose.

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from everstep.errors import StoreFull, StoreUnavailable, UsageError
from everstep.records import RunRecord
from everstep.stores.base import Append, Fenced, Landed, Outcome, Refused, RolledBack, Slot
from everstep.stores.sqlite import SQLiteStore, schema
from everstep.stores.sqlite.ask import asking
from everstep.stores.sqlite.user_tx import GuardedTx, denial
from everstep.testing.scene import Clocks, Scene, new_run
from everstep.transactions import SQLiteTx


class Users:
    """A store with one run that is owned, and transactions in its name."""

    def __init__(self, store: SQLiteStore, scene: Scene) -> None:
        self.store = store
        self.scene = scene

    async def run(self, body: Callable[[Any], Any]) -> Outcome | RolledBack:
        """Run a body that lands an entry when it returns."""
        run = await self.scene.run()

        async def whole(tx: GuardedTx) -> Append:
            answer = body(tx)
            if asyncio.iscoroutine(answer):
                await answer
            return self.scene.append(run)

        return await self.store.transact(slot_of(run), whole)

    async def ask(self, statement: str) -> list[Any]:
        """Rows, as a body sees them."""
        found: list[Any] = []
        assert Landed() == await self.run(lambda tx: found.extend(tx.execute(statement)))
        return found


def slot_of(run: RunRecord) -> Slot:
    return Slot(run_key=run.run_key, version=run.version + 1, epoch=run.epoch, worker_key=run.worker_key or 0)


@pytest.fixture
async def users(tmp_path: Path) -> AsyncIterator[Users]:
    clocks = Clocks()
    store = SQLiteStore(tmp_path / "state.db", now=clocks.now, monotonic=clocks.monotonic, patience_seconds=5)
    await store.open()
    scene = Scene(store, clocks)
    await scene.owned(await scene.worker())
    users = Users(store, scene)
    await users.run(lambda tx: tx.execute("CREATE TABLE accounts(name TEXT PRIMARY KEY, cents INTEGER)"))
    yield users
    await scene.verify()
    await store.close()


# --- what a statement comes to --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["everstep", "sqlite3"])
async def test_statements_answer_as_those_of_the_standard_library_do(users: Users, kind: str) -> None:
    """So a body can be tested with a connection of sqlite3."""

    def body(tx: SQLiteTx) -> None:
        assert 1 == tx.execute("INSERT INTO accounts VALUES (?, ?)", ("ann", 5)).rowcount
        assert 2 == tx.executemany("INSERT INTO accounts VALUES (?, ?)", [("bob", 7), ("cy", 9)]).rowcount
        assert 0 == tx.execute("UPDATE accounts SET cents = 0 WHERE name = 'nobody'").rowcount
        assert 2 == tx.execute("UPDATE accounts SET cents = cents + :more WHERE cents > 5", {"more": 1}).rowcount
        found = tx.execute("SELECT name, cents FROM accounts ORDER BY name")
        assert -1 == found.rowcount
        assert ("ann", 5) == found.fetchone()
        assert [("bob", 8)] == [found.fetchone()]
        assert [("cy", 10)] == list(found.fetchall())
        assert None is found.fetchone()
        assert [("ann",)] == list(tx.execute("DELETE FROM accounts WHERE cents < ? RETURNING name", (6,)))
        assert 3 == tx.execute("SELECT 1").lastrowid

    if kind == "sqlite3":
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE accounts(name TEXT PRIMARY KEY, cents INTEGER)")
        body(connection)
        connection.close()
    else:
        assert Landed() == await users.run(body)


async def test_tables_can_be_made_searched_and_dropped_in_a_body(users: Users) -> None:
    """What SQL can do to the user's own tables is allowed, full-text search included, and undone with the rest."""

    def body(tx: GuardedTx) -> None:
        tx.execute("CREATE TABLE parts(id INTEGER PRIMARY KEY, account REFERENCES accounts)")
        tx.execute("CREATE INDEX parts_account ON parts(account)")
        tx.execute("ALTER TABLE parts ADD COLUMN note")
        tx.execute("CREATE VIEW noted AS SELECT * FROM parts WHERE note IS NOT NULL")
        tx.execute("CREATE VIRTUAL TABLE words USING fts5(word)")
        tx.execute("INSERT INTO words VALUES ('hello world')")
        tx.execute("SAVEPOINT here")
        tx.execute("INSERT INTO words VALUES ('undone')")
        tx.execute("ROLLBACK TO here; RELEASE here")
        assert [("hello world",)] == tx.execute("SELECT word FROM words WHERE words MATCH 'world'").fetchall()
        assert 3 == len(tx.execute("SELECT name FROM pragma_table_info('parts')").fetchall())
        assert [("order-1",)] == tx.execute("SELECT run_id FROM runs").fetchall()

    assert Landed() == await users.run(body)
    assert [(1,)] == await users.ask("SELECT count(*) FROM words")
    assert [] == await users.ask("DROP TABLE words")


async def test_foreign_keys_hold_and_a_deferred_one_undoes_everything_at_the_commit(users: Users) -> None:
    """The error is the body's, so it comes out as it is."""
    await users.run(
        lambda tx: tx.execute("CREATE TABLE parts(account TEXT REFERENCES accounts(name) DEFERRABLE INITIALLY DEFERRED)")
    )

    with pytest.raises(apsw.ConstraintError, match="FOREIGN KEY"):
        await users.run(lambda tx: tx.execute("INSERT INTO parts VALUES ('nobody')"))
    assert [(0,)] == await users.ask("SELECT count(*) FROM parts")


# --- what a body may not do -------------------------------------------------------------------------------------------

REFUSED = [
    "COMMIT",
    "ROLLBACK",
    "BEGIN",
    "end",
    "/* not */ commit",
    "SELECT 1; COMMIT",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "PRAGMA synchronous = off",
    "PRAGMA writable_schema = on",
    "PRAGMA wal_checkpoint",
    "PRAGMA user_version = 99",
    "CREATE TEMP TABLE runs(x)",
    "CREATE TEMP VIEW journal AS SELECT 1",
    "CREATE TEMP TRIGGER t AFTER INSERT ON accounts BEGIN SELECT 1; END",
    "UPDATE runs SET status = 'succeeded'",
    "UPDATE main.RUNS SET epoch = 99",
    "DELETE FROM journal",
    "INSERT INTO inbox VALUES (1, 1, 1, '', '{}')",
    "REPLACE INTO meta VALUES ('incarnation', 'x')",
    "DROP TABLE attempts",
    "DROP VIEW history",
    "DROP INDEX runs_due",
    "ALTER TABLE workers ADD COLUMN x",
    "CREATE INDEX mine ON journal(at)",
    "CREATE TRIGGER mine AFTER INSERT ON journal BEGIN DELETE FROM accounts; END",
    "CREATE TABLE everstep_blobs(x)",
    "CREATE TABLE Everstep_Blobs AS SELECT 1",
    "WITH one AS (SELECT 1) DELETE FROM workers WHERE 1",
]


@pytest.mark.parametrize("statement", REFUSED)
async def test_a_statement_that_is_not_the_bodys_to_give_is_refused(users: Users, statement: str) -> None:
    """It says why and what to do, the statement has no effect, and the transaction goes on."""

    def body(tx: GuardedTx) -> None:
        tx.execute("INSERT INTO accounts VALUES ('ann', 5)")
        with pytest.raises((UsageError, apsw.SQLError)) as refused:
            tx.execute(statement)
        if statement != "VACUUM":  # SQLite refuses that by itself.
            assert "may not" in str(refused.value)
            assert "was not run" in str(refused.value)

    before = await users.ask("SELECT type, name, sql FROM sqlite_schema")

    assert Landed() == await users.run(body)
    assert before == await users.ask("SELECT type, name, sql FROM sqlite_schema")
    assert [("ann", 5)] == await users.ask("SELECT * FROM accounts")


def test_everything_that_the_schema_makes_is_protected() -> None:
    """Read from the migrations themselves, so that a new table cannot be forgotten."""
    assert {"meta", "workers", "runs", "journal", "inbox", "attempts", "history", "runs_due"} <= schema.own_names()
    assert denial(apsw.SQLITE_DROP_TABLE, "runs", None)
    assert not denial(apsw.SQLITE_DROP_TABLE, "running", None)


async def test_a_trigger_of_the_users_does_not_reach_everstep_s_tables(users: Users) -> None:
    """SQLite asks for the program of a trigger as it asks for a statement."""
    await users.run(
        lambda tx: tx.execute("CREATE TRIGGER evil AFTER INSERT ON accounts BEGIN UPDATE runs SET status = 'dead'; END")
    )

    with pytest.raises(UsageError, match="change runs"):
        await users.run(lambda tx: tx.execute("INSERT INTO accounts VALUES ('ann', 5)"))


async def test_a_statement_of_the_stores_own_is_refused_although_it_was_prepared_before(users: Users) -> None:
    """The connection keeps prepared statements by their text."""
    seen: list[str] = []
    connection: Any = users.store._state().users._connection

    def note(_: object, statement: str, __: object) -> bool:
        seen.append(statement)
        return True

    connection.exec_trace = note
    await users.run(lambda _: None)
    writes = [each for each in seen if each.lstrip().startswith(("INSERT", "UPDATE"))]

    def body(tx: GuardedTx) -> None:
        for statement in writes:
            with pytest.raises(UsageError, match="everstep's own"):
                tx.execute(statement, (1, 2, 3, 4, 5, "", b"", 1)[: statement.count("?")])

    assert len(writes) >= 2
    assert Landed() == await users.run(body)


@pytest.mark.parametrize("way", ["clause", "trigger"])
async def test_a_statement_that_rolls_everything_back_leaves_nothing_even_if_its_error_is_swallowed(
    users: Users, way: str
) -> None:
    """What follows would be committed by itself, without the entry."""
    await users.run(
        lambda tx: tx.execute(
            "INSERT INTO accounts VALUES ('ann', 1); CREATE TRIGGER t BEFORE DELETE ON accounts "
            "BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
        )
    )
    refused: list[str] = []

    def body(tx: GuardedTx) -> None:
        tx.execute("INSERT INTO accounts VALUES ('bob', 2)")
        with pytest.raises(apsw.ConstraintError):
            tx.execute("INSERT OR ROLLBACK INTO accounts VALUES ('ann', 3)" if way == "clause" else "DELETE FROM accounts")
        with pytest.raises(UsageError, match="rolled it back") as error:
            tx.execute("INSERT INTO accounts VALUES ('cy', 4)")
        refused.append(str(error.value))

    with pytest.raises(UsageError, match="rolled it back"):
        await users.run(body)
    assert refused
    assert [("ann", 1)] == await users.ask("SELECT * FROM accounts")


async def test_a_connection_is_of_no_use_after_its_body(users: Users) -> None:
    """Whatever kept it: it would write into somebody else's transaction."""
    kept: list[GuardedTx] = []
    await users.run(kept.append)

    with pytest.raises(UsageError, match="is over"):
        kept[0].execute("INSERT INTO accounts VALUES ('ann', 5)")
    with pytest.raises(UsageError, match="is over"):
        kept[0].executemany("INSERT INTO accounts VALUES (?, ?)", [("ann", 5)])
    assert [] == await users.ask("SELECT * FROM accounts")


# --- who waits --------------------------------------------------------------------------------------------------------


async def test_others_of_this_process_write_after_the_body_and_read_meanwhile(users: Users) -> None:
    """The loop goes on; entries and heartbeats wait for one body at most, not for all that are waiting."""
    gate, order = asyncio.Event(), list[str]()

    async def first(tx: GuardedTx) -> None:
        tx.execute("INSERT INTO accounts VALUES ('ann', 5)")
        await gate.wait()
        order.append("first")

    async def second(_: GuardedTx) -> None:
        order.append("second")

    async def write() -> None:
        await users.store.create([new_run("other")])
        order.append("other")

    bodies = [asyncio.create_task(users.run(first)), asyncio.create_task(users.run(second))]
    await asyncio.sleep(0.05)
    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    assert (await users.scene.run()).run_id == "order-1"
    gate.set()
    outcomes = await asyncio.gather(*bodies)
    await writing

    assert [Landed(), Fenced()] == outcomes  # Both had the same slot.
    assert ["first", "other"] == order


async def test_a_body_waits_for_another_process_that_holds_the_lock(users: Users) -> None:
    other = apsw.Connection(str(users.store.path))
    asking(other)("BEGIN IMMEDIATE")
    begun = asyncio.Event()

    async def body(_: GuardedTx) -> None:
        begun.set()

    task = asyncio.create_task(users.run(body))
    await asyncio.sleep(0.05)
    assert not begun.is_set()
    asking(other)("ROLLBACK")

    assert Landed() == await task
    other.close()


async def test_a_lock_that_stays_taken_is_an_error_of_the_store(users: Users) -> None:
    """Nothing was begun, so nothing is in doubt."""
    users.store._state().writer._patience_seconds = 0.02
    other = apsw.Connection(str(users.store.path))
    asking(other)("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="locked"):
        await users.run(lambda _: pytest.fail("it ran"))
    asking(other)("ROLLBACK")
    other.close()
    assert Landed() == await users.run(lambda _: None)


async def test_bodies_without_a_pause_leave_the_lock_to_other_processes_in_between(users: Users) -> None:
    """Others can only look now and then; long bodies one after the other would let none of them in."""
    stop, waits = threading.Event(), list[float]()

    def other_process() -> None:
        connection = apsw.Connection(str(users.store.path))
        while not stop.is_set():
            since = time.monotonic()
            while True:
                try:
                    asking(connection)("BEGIN IMMEDIATE")
                    break
                except apsw.BusyError:
                    time.sleep(0.025)
            asking(connection)("ROLLBACK")
            waits.append(time.monotonic() - since)
        connection.close()

    thread = threading.Thread(target=other_process)
    thread.start()
    for _ in range(8):
        assert Landed() == await users.run(lambda _: asyncio.sleep(0.1))
    stop.set()
    await asyncio.to_thread(thread.join)

    assert len(waits) >= 4


# --- ends in the middle -----------------------------------------------------------------------------------------------


async def test_a_body_that_is_left_behind_in_its_thread_writes_no_more(users: Users) -> None:
    """The transaction is rolled back under it, at once, also in the middle of a long statement."""
    inside, failed = threading.Event(), list[BaseException]()

    def work(tx: GuardedTx) -> None:
        tx.execute("INSERT INTO accounts VALUES ('ann', 5)")
        inside.set()
        try:
            tx.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
        except apsw.Error as error:
            failed.append(error)
        try:
            tx.execute("INSERT INTO accounts VALUES ('bob', 5)")
        except UsageError as error:
            failed.append(error)

    task = asyncio.create_task(users.run(lambda tx: asyncio.to_thread(work, tx)))
    await asyncio.to_thread(inside.wait)
    task.cancel()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()
    assert [] == await users.ask("SELECT * FROM accounts")
    assert [apsw.InterruptError, UsageError] == [type(error) for error in failed]


async def test_closing_the_store_waits_for_a_transaction_that_is_under_way(users: Users) -> None:
    gate = asyncio.Event()
    task = asyncio.create_task(users.run(lambda _: gate.wait()))
    await asyncio.sleep(0.02)
    closing = asyncio.create_task(users.store.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    gate.set()
    assert Landed() == await task
    await closing
    await users.store.open()


# --- the disk ---------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_no_fault_of_the_body_even_if_it_swallows_the_error(users: Users) -> None:
    """B5: the store is in trouble, and nothing of the transaction remains."""
    connection: Any = users.store._state().users._connection
    asking(connection)("PRAGMA max_page_count = 1")  # SQLite makes it as small as it can.

    def body(tx: GuardedTx) -> None:
        try:
            tx.execute("INSERT INTO accounts VALUES ('ann', 5), ('bob', randomblob(1000000))")
        except apsw.FullError:
            return

    with pytest.raises(StoreFull):
        await users.run(body)
    asking(connection)("PRAGMA max_page_count = 1000000")
    assert [] == await users.ask("SELECT * FROM accounts")


async def test_an_entry_that_no_store_can_take_takes_the_effect_with_it(users: Users) -> None:
    run = await users.scene.run()

    async def body(tx: GuardedTx) -> Append:
        tx.execute("INSERT INTO accounts VALUES ('ann', 5)")
        append = users.scene.append(run)
        bad = replace(append.entry, events=b"\xff")
        return Append(entry=bad, worker_key=append.worker_key, status=append.status)

    outcome = await users.store.transact(slot_of(run), body)

    assert isinstance(outcome, Refused)
    assert [] == await users.ask("SELECT * FROM accounts")
