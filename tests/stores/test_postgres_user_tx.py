"""What the bodies of transactions may do to a PostgreSQL store, what they may not, and whom they meet: with every driver."""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from everstep.blobs import MARK
from everstep.errors import StoreUnavailable, UsageError
from everstep.events import TimerFired
from everstep.records import BodyKind, RunRecord
from everstep.stores.base import ANY_BODY, Append, Fenced, Landed, Outcome, Refused, RolledBack, Slot
from everstep.testing.scene import Clocks, Scene, message, new_run
from tests.postgres_server import Server
from tests.stores.postgres_kinds import KINDS, SYNC, ask, kind_of, need, run_plainly
from tests.stores.postgres_roles import EngineRole

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link, user_tx
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link

LEASE = 30.0
Ask = Callable[[str], Any]


class Users:
    """A store with one run that is owned, a table of the user's, and transactions in the run's name.

    Attributes:
        table: Its name. It has one row, with a 0 in it.
    """

    def __init__(self, store: PostgresStore, scene: Scene, admin: Link, table: str) -> None:
        self.store = store
        self.scene = scene
        self.admin = admin
        self.table = table
        self.schema = store._address.schema

    async def run(self, name: str, body: Callable[[Ask], Any], run_id: str = "order-1", **more: Any) -> Outcome | RolledBack:
        """Run a body of this kind that lands an entry when it returns. It is given what asks the database."""
        run = await self.scene.run(run_id)
        kind = kind_of(name, isolation=more.pop("isolation", "read committed"))
        slot = more.pop("slot", None) or slot_of(run)

        async def whole(tx: Any) -> Append:
            if name in SYNC:
                await asyncio.to_thread(body, lambda statement: run_plainly(ask(name, tx, self._named(statement))))
            else:
                await body(lambda statement: ask(name, tx, self._named(statement)))
            return self.scene.append(run, **more)

        return await self.store.transact(slot, whole, kind)

    def _named(self, statement: str) -> str:
        return statement.replace("mine", self.table).replace("everstep.", f"{self.schema}.")

    async def number(self) -> int:
        """What the table holds."""
        ((number,),) = await self.admin.fetch(f"SELECT n FROM {self.table}")
        return int(number)

    async def guards(self) -> int:
        """Rows of guards that were left behind."""
        ((count,),) = await self.admin.fetch(f"SELECT count(*) FROM {self.schema}.guards")
        return int(count)

    async def in_transactions(self) -> int:
        """Sessions of ours that are in the middle of a transaction."""
        ((count,),) = await self.admin.fetch(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'everstep' AND state LIKE '%in transaction%'"
        )
        return int(count)


def slot_of(run: RunRecord) -> Slot:
    return Slot(run_key=run.run_key, version=run.version + 1, epoch=run.epoch, worker_key=run.worker_key or 0)


def both(name: str, sync: Callable[[Ask], None], suspending: Callable[[Ask], Awaitable[None]]) -> Callable[[Ask], Any]:
    """The body for this kind of connection."""
    return sync if name in SYNC else suspending


def saying(name: str, *statements: str) -> Callable[[Ask], Any]:
    """A body that gives these statements."""

    def sync(say: Ask) -> None:
        for each in statements:
            say(each)

    async def suspending(say: Ask) -> None:
        for each in statements:
            await say(each)

    return both(name, sync, suspending)


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Each kind of connection."""
    need(request.param)
    return str(request.param)


@pytest.fixture
async def users(postgres_url: str, engine_role: EngineRole) -> AsyncIterator[Users]:
    address = Address(postgres_url)
    clocks = Clocks()
    store = PostgresStore(await engine_role.url(postgres_url), now=clocks.now, monotonic=clocks.monotonic, empty_seconds=0)
    await store.open()
    admin = await link.connect(address, is_pooled=True)
    table = f"{address.schema}_users.mine"
    await admin.execute(f"""
        CREATE SCHEMA {address.schema}_users; CREATE TABLE {table}(n int8); INSERT INTO {table} VALUES (0);
        GRANT USAGE ON SCHEMA {address.schema}_users TO {engine_role.name}; GRANT ALL ON {table} TO {engine_role.name};
    """)
    scene = Scene(store, clocks)
    await scene.owned(await scene.worker("me", LEASE))
    users = Users(store, scene, admin, table)
    yield users
    assert 0 == await users.guards()
    await scene.verify()
    await store.close()
    assert 0 == await users.in_transactions()
    await admin.close()


ADD = "UPDATE mine SET n = n + 1"


# --- one commit -------------------------------------------------------------------------------------------------------------


async def test_the_effect_and_the_entry_are_one_commit_with_every_driver(users: Users, name: str) -> None:
    """Both are seen, or neither is."""
    before = await users.scene.run()
    seen: list[Any] = []

    def sync(say: Ask) -> None:
        say(ADD)
        seen.extend(say("SELECT n FROM mine"))

    async def suspending(say: Ask) -> None:
        await say(ADD)
        assert 0 == await users.number(), "others see it only with the entry"
        seen.extend(await say("SELECT n FROM mine"))

    assert Landed() == await users.run(name, both(name, sync, suspending))
    assert Landed() == await users.run(name, saying(name, ADD))
    assert 2 == await users.number()
    assert [(1,)] == seen
    assert before.version + 2 == (await users.scene.run()).version


async def test_a_body_that_raises_leaves_nothing_with_every_driver(users: Users, name: str) -> None:
    def sync(say: Ask) -> None:
        say(ADD)
        raise ZeroDivisionError

    async def suspending(say: Ask) -> None:
        await say(ADD)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await users.run(name, both(name, sync, suspending))
    assert 0 == await users.number()
    assert Landed() == await users.run(name, saying(name, ADD))
    assert 1 == await users.number()


async def test_what_a_session_of_an_orm_still_holds_is_written_with_the_entry(users: Users) -> None:
    """Its own commit() commits nothing, and its rollback() undoes what it did itself."""
    sqlalchemy: Any = pytest.importorskip("sqlalchemy")
    from sqlalchemy.orm import Session

    run = await users.scene.run()

    def work(session: Session, fails: bool) -> None:
        session.execute(sqlalchemy.text(users._named(ADD)))
        session.commit()
        session.execute(sqlalchemy.text(users._named(ADD)))
        session.rollback()
        session.execute(sqlalchemy.text(users._named(ADD)))
        if fails:
            raise ZeroDivisionError

    async def body(session: Any, *, fails: bool = False) -> Append:
        await asyncio.to_thread(work, session, fails)
        return users.scene.append(run)

    with pytest.raises(ZeroDivisionError):
        await users.store.transact(slot_of(run), lambda session: body(session, fails=True), kind_of("sqlalchemy session"))
    assert 0 == await users.number()
    assert Landed() == await users.store.transact(slot_of(run), body, kind_of("sqlalchemy session"))
    assert 2 == await users.number()


@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "async psycopg"], indirect=True)
async def test_an_entry_brings_its_blobs_and_settles_its_attempts(users: Users, name: str) -> None:
    """A result that is large, of a step that had failed before."""
    from everstep.blobs import Blob

    run = await users.scene.run()
    append = users.scene.append(run, settled=("0:1",))
    entry = replace(append.entry, blobs=(Blob(b"h" * 32, b"large"),))

    async def body(tx: Any) -> Append:
        return replace(append, entry=entry)

    async def sync(tx: Any) -> Append:
        return await body(tx)

    assert Landed() == await users.store.transact(slot_of(run), sync if name in SYNC else body, kind_of(name))
    assert [(b"h" * 32, b"large")] == [
        tuple(row) for row in await users.admin.fetch(f"SELECT hash, data FROM {users.schema}.blobs")
    ]
    assert MARK not in entry.events


async def test_an_entry_with_more_than_a_result_lands_with_all_of_it(users: Users) -> None:
    """The contract does not say that there is only a result."""
    child = new_run("order-1/child", parent_command="0:1")

    assert Landed() == await users.run("asyncpg", saying("asyncpg", ADD), children=(child,))
    assert "order-1/child" == (await users.scene.run("order-1/child")).run_id
    assert 1 == await users.number()


async def test_an_entry_that_no_store_can_take_takes_the_effect_with_it(users: Users) -> None:
    run = await users.scene.run()

    async def body(tx: Any) -> Append:
        await tx.execute(users._named(ADD))
        append = users.scene.append(run)
        return replace(append, entry=replace(append.entry, events=b"\xff"))

    async def far(tx: Any) -> Append:
        await tx.execute(users._named(ADD))
        return replace(users.scene.append(run), cursor=1 << 70)

    assert isinstance(await users.store.transact(slot_of(run), body), Refused)
    assert isinstance(await users.store.transact(slot_of(run), far), Refused)
    assert 0 == await users.number()


# --- what a body may not do -------------------------------------------------------------------------------------------------


async def test_a_body_that_commits_commits_nothing_with_every_driver(users: Users, name: str) -> None:
    """P33: the server refuses, whatever is said in which way; else the effect would be there without its record."""
    for end in ("COMMIT", "END", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"):
        with pytest.raises(Exception, match="may not commit"):
            await users.run(name, saying(name, ADD, end))
    assert 0 == await users.number()


async def test_a_body_that_ends_its_transaction_and_hides_it_is_found_out(users: Users) -> None:
    """P33: what it does afterwards is in no transaction of ours, and no entry lands."""
    for statements in (("COMMIT",), ("ROLLBACK",), ("ROLLBACK", "BEGIN"), ("COMMIT", "BEGIN")):

        async def body(say: Ask, statements: tuple[str, ...] = statements) -> None:
            await say(ADD)
            for each in statements:
                with suppress(Exception):
                    await say(each)

        with pytest.raises(UsageError, match="ended it by itself"):
            await users.run("asyncpg", body)
    assert 0 == await users.number()
    assert 2 == (await users.scene.run()).version


async def test_psycopg_and_sqlalchemy_refuse_a_commit_of_their_own(users: Users) -> None:
    """P33: before the server is asked, or by its answer."""
    run = await users.scene.run()

    async def body(tx: Any) -> Append:
        await asyncio.to_thread(tx.commit)
        return users.scene.append(run)

    for name in ("psycopg", "sqlalchemy"):
        need(name)
        with pytest.raises(Exception, match=r"commit\(\) forbidden|may not commit"):
            await users.store.transact(slot_of(run), body, kind_of(name))


OURS = (
    "UPDATE everstep.runs SET status = 'succeeded'",
    "INSERT INTO everstep.inbox VALUES (1, 1, 1, '', '{}')",
    "DELETE FROM everstep.attempts; UPDATE everstep.workers SET heartbeat = 0",
    "UPDATE everstep.runs SET status = 'succeeded' WHERE false; UPDATE everstep.runs SET deaths = 9",
)


async def test_a_body_that_changes_tables_of_ours_is_rolled_back(users: Users) -> None:
    """P33: the role may do it, since the engine has to."""
    await users.store.create([new_run("other")])

    for statement in OURS:
        with pytest.raises((UsageError, link.Error), match=r"everstep's own|violates foreign key"):
            await users.run("asyncpg", saying("asyncpg", ADD, *statement.split("; ")))
    assert 0 == await users.number()
    assert "running" == (await users.scene.run()).status


async def test_a_body_may_read_what_is_ours(users: Users) -> None:
    """And its session has changed tables of ours in the transactions before."""
    for _ in range(3):
        assert Landed() == await users.run("asyncpg", saying("asyncpg", ADD, "SELECT * FROM everstep.overview"))


async def test_every_table_of_ours_is_protected(users: Users) -> None:
    """Asked of the server, so that a new one cannot be forgotten."""
    found = await users.admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", users.schema)

    assert {"guards"} == {name for (name,) in found if f"everstep.{name}'" not in user_tx._CHANGED}


@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "async sqlalchemy", "sqlalchemy session"], indirect=True)
async def test_a_body_that_goes_on_after_an_error_is_told_that_nothing_was_kept(users: Users, name: str) -> None:
    """PostgreSQL gives the whole transaction up with the first error."""

    def sync(say: Ask) -> None:
        say(ADD)
        with pytest.raises(Exception, match="division by zero"):
            say("SELECT 1 / 0")

    async def suspending(say: Ask) -> None:
        await say(ADD)
        with pytest.raises(Exception, match="division by zero"):
            await say("SELECT 1 / 0")

    with pytest.raises(Exception, match=r"the body went on|aborted|rolled back|closed"):
        await users.run(name, both(name, sync, suspending))
    assert 0 == await users.number()


@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "async psycopg"], indirect=True)
async def test_a_savepoint_of_the_bodys_undoes_a_part(users: Users, name: str) -> None:
    statements = ("SAVEPOINT here", ADD, "ROLLBACK TO here", "RELEASE here", ADD)

    assert Landed() == await users.run(name, saying(name, ADD, *statements))
    assert 2 == await users.number()


async def test_a_connection_of_asyncpg_is_of_no_use_after_its_body(users: Users) -> None:
    """It is in the pool again, and the next body's."""
    kept: list[Any] = []
    run = await users.scene.run()

    async def body(tx: Any) -> Append:
        async with tx.transaction():
            await tx.execute(users._named(ADD))
        kept.append(tx)
        return users.scene.append(run)

    assert Landed() == await users.store.transact(slot_of(run), body)
    with pytest.raises(Exception, match="released back to the pool"):
        await kept[0].execute(users._named(ADD))
    assert 1 == await users.number()


async def test_a_deferred_constraint_undoes_everything_at_the_commit(users: Users, name: str) -> None:
    """The error is the body's, so it comes out as the driver's."""
    await users.admin.execute(f"""
        ALTER TABLE {users.table} ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED;
    """)

    with pytest.raises(Exception, match="duplicate key"):
        await users.run(name, saying(name, "INSERT INTO mine SELECT n FROM mine"))
    assert 0 == await users.number()
    assert Landed() == await users.run(name, saying(name, ADD))


async def test_a_connection_that_is_none_of_postgresql_is_refused(users: Users) -> None:
    slot = slot_of(await users.scene.run())
    none = [("everstep", "SQLiteTx", True), ("psycopg", "Connection", True), ("asyncpg", "Connection", False)]

    for each in (*none, ("sqlite3", "Connection", False)):
        with pytest.raises(UsageError, match="there is none such") as refused:
            await users.store.transact(slot, lambda _: pytest.fail("it ran"), BodyKind(*each))
        assert "It was not run" in str(refused.value)


async def test_a_driver_that_is_not_installed_is_told(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "everstep.stores.postgres.of_psycopg", None)
    run = await users.scene.run()

    with pytest.raises(UsageError, match="pip install"):
        await users.store.transact(slot_of(run), lambda _: pytest.fail("it ran"), BodyKind(is_async=False))


# --- whom it meets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "async psycopg"], indirect=True)
async def test_a_run_that_is_taken_over_while_its_body_works_rolls_that_back(users: Users, name: str) -> None:
    """I2, I4: nothing of the run is locked meanwhile; the zombie's entry has no place, so its SQL has none."""
    inside, gate, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def sync(say: Ask) -> None:
        say(ADD)
        loop.call_soon_threadsafe(inside.set)
        gate.wait(10)

    async def suspending(say: Ask) -> None:
        await say(ADD)
        inside.set()
        await asyncio.to_thread(gate.wait, 10)

    zombie = asyncio.create_task(users.run(name, both(name, sync, suspending)))
    await inside.wait()
    heir = await users.scene.worker("heir", LEASE)
    users.scene.clocks.advance(LEASE + 1)
    claimed = await users.scene.claim_one(heir)
    gate.set()

    assert Fenced() == await zombie
    assert 0 == await users.number()
    assert Landed() == await users.run(name, saying(name, ADD))
    assert claimed.run.version + 1 == (await users.scene.run()).version
    assert 1 == await users.number()


async def test_messages_arrive_while_a_body_works(users: Users) -> None:
    """It locks nothing of the run."""

    async def body(say: Ask) -> None:
        await say(ADD)
        assert await users.store.post("order-1", message(TimerFired("0:9"))) is not None

    assert Landed() == await users.run("asyncpg", body)
    assert 1 == len(await users.store.mail((await users.scene.run()).run_key))


async def test_of_one_run_one_body_works_at_a_time_whoever_lost_it(users: Users) -> None:
    """The second waits before it is begun, so that it does not run out of time over the locks of the first."""
    inside, gate, order = asyncio.Event(), asyncio.Event(), list[str]()

    async def first(say: Ask) -> None:
        await say(ADD)
        inside.set()
        await gate.wait()
        order.append("first")

    async def second(say: Ask) -> None:
        order.append("second")
        await say(ADD)

    one = asyncio.create_task(users.run("asyncpg", first))
    await inside.wait()
    two = asyncio.create_task(users.run("asyncpg", second))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"
    while not await users.admin.fetch(waiting):  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0)
    gate.set()

    assert [Landed(), Fenced()] == [await one, await two]  # Both had the same slot.
    assert ["first"] == order
    assert 1 == await users.number()


async def test_a_conflict_at_a_higher_isolation_says_that_it_gave_way(users: Users, name: str) -> None:
    """P34: the same body, begun again, has its way."""
    first, isolation = True, "serializable" if name in SYNC else "repeatable read"

    async def change() -> None:
        nonlocal first
        if first:
            first = False
            await users.admin.execute(users._named(ADD))

    loop = asyncio.get_running_loop()

    def sync(say: Ask) -> None:
        say("SELECT n FROM mine")
        asyncio.run_coroutine_threadsafe(change(), loop).result()
        say(ADD)

    async def suspending(say: Ask) -> None:
        await say("SELECT n FROM mine")
        await change()
        await say(ADD)

    with pytest.raises(Exception, match="could not serialize") as lost:
        await users.run(name, both(name, sync, suspending), isolation=isolation)
    assert users.store.gave_way(lost.value)
    assert not users.store.gave_way(ValueError())
    assert Landed() == await users.run(name, both(name, sync, suspending), isolation=isolation)
    assert 2 == await users.number()


async def test_whoever_waits_too_long_for_a_row_gives_way(users: Users) -> None:
    """P34: its time is not up by then, so it is begun again and does not fail. The worker's lease says how long."""
    users.store._state().leases[(await users.scene.run()).worker_key or 0] = 0.4
    await users.admin.execute(f"BEGIN; {users._named(ADD)}")

    with pytest.raises(Exception, match="lock timeout") as lost:
        await users.run("asyncpg", saying("asyncpg", ADD))
    assert users.store.gave_way(lost.value)
    await users.admin.execute("ROLLBACK")
    assert Landed() == await users.run("asyncpg", saying("asyncpg", ADD))


async def test_a_transaction_of_a_frozen_process_is_ended_by_the_server(users: Users) -> None:
    """After half a lease in which nothing happened, so its locks are gone before its run is taken over."""
    users.store._state().leases[(await users.scene.run()).worker_key or 0] = 0.4

    async def body(say: Ask) -> None:
        await say(ADD)
        while await users.in_transactions():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    with pytest.raises(StoreUnavailable):
        await users.run("asyncpg", body)
    assert 0 == await users.number()


async def test_a_connection_that_is_lost_in_a_body_is_no_fault_of_the_body(users: Users, name: str) -> None:
    """B1: even if it swallows the error."""
    end, swallows = "SELECT pg_terminate_backend(pg_backend_pid())", "session" not in name

    def sync(say: Ask) -> None:
        say(ADD)
        try:
            say(end)
        except Exception:
            if not swallows:
                raise

    async def suspending(say: Ask) -> None:
        await say(ADD)
        try:
            await say(end)
        except Exception:
            if not swallows:
                raise

    with pytest.raises(StoreUnavailable):
        await users.run(name, both(name, sync, suspending))
    assert 0 == await users.number()
    assert Landed() == await users.run(name, saying(name, ADD))


@pytest.mark.parametrize("has_landed", [True, False])
async def test_a_commit_whose_answer_is_lost_is_looked_for(
    users: Users, monkeypatch: pytest.MonkeyPatch, has_landed: bool
) -> None:
    """P18: and is never repeated blindly."""
    from everstep.stores.postgres.of_asyncpg import LentAsyncpg

    commit = LentAsyncpg.commit

    async def lost(self: LentAsyncpg) -> None:
        if has_landed:
            await commit(self)
        raise ConnectionResetError("the answer was lost")

    run = await users.scene.run()
    append = users.scene.append(run)

    async def body(tx: Any) -> Append:
        await tx.execute(users._named(ADD))
        return append

    monkeypatch.setattr(LentAsyncpg, "commit", lost)
    with pytest.raises(StoreUnavailable):
        await users.store.transact(slot_of(run), body)
    monkeypatch.undo()

    again = replace(slot_of(run), doubtful=append.entry.hash)
    assert Landed() == await users.store.transact(again, (lambda _: pytest.fail("again")) if has_landed else body)
    assert 1 == await users.number()


async def test_in_doubt_the_server_must_have_done_with_the_earlier_try(users: Users) -> None:
    """Its COMMIT may still be on the way: whoever looks before it arrives would run the body once more."""
    run = await users.scene.run()
    await users.admin.execute("BEGIN")
    await users.admin.fetch(user_tx._WAIT, run.run_key)

    with pytest.raises(StoreUnavailable, match="not done yet"):
        await users.store.transact(replace(slot_of(run), doubtful=b"?" * 32), lambda _: pytest.fail("it ran"))
    await users.admin.execute("ROLLBACK")
    assert Landed() == await users.run("asyncpg", saying("asyncpg", ADD))


async def test_a_body_that_is_left_behind_in_its_thread_writes_no_more(users: Users) -> None:
    """The transaction is rolled back under it, at once, also in the middle of a long statement."""
    need("psycopg")
    for name in ("psycopg", "sqlalchemy"):
        inside, ended, failed = threading.Event(), threading.Event(), list[str]()

        def work(say: Ask, inside: threading.Event = inside, failed: list[str] = failed, ended: Any = ended) -> None:
            say(ADD)
            inside.set()
            for statement in ("SELECT pg_sleep(60)", ADD):
                try:
                    say(statement)
                except Exception as error:  # noqa: BLE001  # each driver has its own
                    failed.append(str(error))
            ended.set()

        task = asyncio.create_task(users.run(name, work))
        await asyncio.to_thread(inside.wait)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(ended.wait)

        assert task.cancelled()
        assert 2 == len(failed)
        assert 0 == await users.number()


@pytest.mark.parametrize("name", ["asyncpg", "async psycopg", "async sqlalchemy"], indirect=True)
async def test_a_body_that_is_cancelled_frees_its_rows_at_once(users: Users, name: str) -> None:
    """Also while a statement is under way. (A thread cannot be cancelled: see above.)"""
    inside = asyncio.Event()

    async def body(say: Ask) -> None:
        await say(ADD)
        inside.set()
        await say("SELECT pg_sleep(60)")

    task = asyncio.create_task(users.run(name, body))
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert Landed() == await users.run(name, saying(name, ADD))
    assert 1 == await users.number()


async def test_a_store_with_one_connection_runs_many_bodies_and_its_own_verbs(
    users: Users, postgres_server: Server, engine_role: EngineRole
) -> None:
    """K1: bodies have connections of their own, as many; neither waits for the other for ever."""
    url = postgres_server.url(user=engine_role.name, query=f"?schema={users.schema}&pool=1")
    store = PostgresStore(url, now=users.scene.clocks.now, monotonic=users.scene.clocks.monotonic)
    await store.open()
    mine = Users(store, Scene(store, users.scene.clocks), users.admin, users.table)
    worker = await mine.scene.worker("other", LEASE)
    for n in range(8):
        await mine.scene.owned(worker, f"run-{n}")

    async def body(say: Ask) -> None:
        await say(ADD)
        assert await store.heartbeat(worker)

    names = ("asyncpg", "async psycopg")
    outcomes = await asyncio.gather(*(mine.run(names[n % 2], body, f"run-{n}") for n in range(8)))

    assert [Landed()] * 8 == outcomes
    assert 8 == await users.number()
    await store.close()


def test_a_body_asks_for_whatever_there_is_unless_it_says_so() -> None:
    assert BodyKind("", "", True, "read committed") == ANY_BODY
