"""
Transactions in another database than the store: the effect is there exactly once, whatever becomes of the record.

Real databases: SQLite through ``sqlite3`` and SQLAlchemy, PostgreSQL (where it can be started) through psycopg and SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.databases import sqlite as sqlite_sessions
from everstep.databases.witness import with_percents
from everstep.stores.memory import MemoryStore
from everstep.stores.sqlite import schema
from tests.engine.support import FaultyStore, kill, link, lose_answer
from tests.postgres_server import Server

TABLES = "CREATE TABLE stock(item TEXT PRIMARY KEY, left_over INTEGER NOT NULL); INSERT INTO stock VALUES ('hat', 10)"


class Here:
    """A store in memory, in real time: other databases do not know a virtual one."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self._engines: list[es.Engine] = []

    async def engine(self, *workflows: es.Workflow[..., Any]) -> es.Engine:
        engine = es.Engine(FaultyStore(self.store), workflows)
        self._engines.append(engine)
        await engine.open()
        return engine

    async def close(self) -> None:
        for engine in self._engines:
            if not link(engine).is_dead:
                await engine.close()


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    here = Here()
    await here.store.open()
    yield here
    await here.close()


_numbers = itertools.count(1)


class Kind:
    """One driver on one database.

    Attributes:
        database: What the steps are made with.
        take: A body that takes from the stock.
    """

    def __init__(self, database: es.Database, take: Callable[..., int], rows: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self.database = database
        self.take = take
        self.rows = rows

    @property
    def left_over(self) -> int:
        [(left,)] = self.rows("SELECT left_over FROM stock")
        return int(left)

    @property
    def witnesses(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT run_id, name, step, result FROM everstep_witness ORDER BY run_id, step")


UPDATE = "UPDATE stock SET left_over = left_over - :count WHERE item = :item RETURNING left_over"


def take_sqlite3(tx: sqlite3.Connection, item: str, count: int) -> int:
    [(left,)] = tx.execute(UPDATE, {"item": item, "count": count})
    return int(left)


def take_psycopg(tx: Any, item: str, count: int) -> int:
    [(left,)] = tx.execute(with_percents(UPDATE), {"item": item, "count": count}).fetchall()
    return int(left)


async def take_async(tx: Any, item: str, count: int) -> int:
    cursor = await tx.execute(with_percents(UPDATE), {"item": item, "count": count})
    [(left,)] = await cursor.fetchall()
    return int(left)


def take_alchemy(tx: Any, item: str, count: int) -> int:
    [(left,)] = tx.execute(pytest.importorskip("sqlalchemy").text(UPDATE), {"item": item, "count": count}).all()
    return int(left)


@pytest.fixture(params=["sqlite3", "sqlalchemy", "engine", "psycopg", "async psycopg", "sqlalchemy on postgresql"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Each driver, on an empty database with some stock."""
    name: str = request.param
    alchemy: Any = pytest.importorskip("sqlalchemy") if "sqlalchemy" in name or name == "engine" else None
    take_alchemy.__annotations__["tx"] = getattr(alchemy, "Connection", Any)
    if "p" in name.partition(" ")[2] or name == "psycopg":
        psycopg: Any = pytest.importorskip("psycopg")
        take_psycopg.__annotations__["tx"] = psycopg.Connection
        take_async.__annotations__["tx"] = psycopg.AsyncConnection
        server: Server = request.getfixturevalue("postgres_server")
        schema_ = f"other_{next(_numbers)}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema_}")
        url = server.url(query=f"?options=-csearch_path%3D{schema_}")
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in TABLES.split(";"):
                connection.execute(statement)

        def rows(statement: str) -> list[tuple[Any, ...]]:
            with psycopg.connect(url) as connection:
                found: list[tuple[Any, ...]] = connection.execute(statement).fetchall()
                return found

        take: Any = {"psycopg": take_psycopg, "async psycopg": take_async}.get(name, take_alchemy)
        yield Kind(es.database(url), take, rows)
        return
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other_connection:
        other_connection.executescript(TABLES)

    def rows_here(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(statement).fetchall()

    url = f"sqlite:///{path}"
    engine: Any = alchemy.create_engine(url) if name == "engine" else None
    yield Kind(es.database(engine or url), take_sqlite3 if name == "sqlite3" else take_alchemy, rows_here)
    if engine is not None:
        engine.dispose()


def workflow_of(body: Any, *arguments: Any) -> es.Workflow[[], Any]:
    @es.workflow
    async def only() -> Any:
        return await body(*arguments)

    return only


async def test_the_effect_is_there_once_and_its_result_is_recorded(here: Here, kind: Kind) -> None:
    """The row in the witness table names the run, the step and the result."""
    take = kind.database.transaction(kind.take)
    only = workflow_of(take, "hat", 3)
    engine = await here.engine(only)

    assert 7 == await (await engine.start(only(), id="a")).result()
    assert 7 == kind.left_over
    assert [("a", take.name, "0:1", "7")] == kind.witnesses


async def test_a_later_run_of_a_pruned_id_finds_no_witness_of_the_earlier_one(here: Here, kind: Kind) -> None:
    """E4: the row of the earlier run is still there, and is not for it."""
    take = kind.database.transaction(kind.take)
    only = workflow_of(take, "hat", 3)
    engine = await here.engine(only)
    assert 7 == await (await engine.start(only(), id="a")).result()
    await asyncio.sleep(0.001)

    assert 1 == (await engine.prune(timedelta(0))).run_count
    assert 4 == await (await engine.start(only(), id="a")).result()
    assert [("a", take.name, "0:1", "7"), ("a", take.name, "0:1", "4")] == sorted(kind.witnesses, reverse=True)


async def test_the_page_says_which_witnesses_are_old(here: Here, kind: Kind) -> None:
    """Both conditions of docs/howto/exactly-once-effects.md are what their database understands, and mean what they say."""
    take = kind.database.transaction(kind.take)
    only = workflow_of(take, "hat", 3)
    await (await (await here.engine(only)).start(only(), id="a")).result()
    page = (Path(__file__).parents[2] / "docs/howto/exactly-once-effects.md").read_text(encoding="utf-8")
    conditions = re.findall(
        r"WHERE at < datetime\('now', '-90 days'\)|WHERE at <\s+CURRENT_TIMESTAMP - INTERVAL '90 days'", page
    )

    old = conditions["postgres" in repr(kind.database)]
    young = old.replace("'-90 days'", "'+1 days'").replace("'90 days'", "'-1 days'")

    assert [] == kind.rows(f"SELECT run_id FROM everstep_witness {old}")
    assert [("a",)] == kind.rows(f"SELECT run_id FROM everstep_witness {young}")


async def test_a_worker_that_dies_after_the_commit_is_followed_by_one_that_finds_the_witness(here: Here, kind: Kind) -> None:
    """The journal knows nothing of the effect; the other database does."""
    count = 0

    @es.step
    async def note() -> None:
        nonlocal count
        count += 1

    take = kind.database.transaction(kind.take)

    @es.workflow
    async def only() -> int:
        left = await take("hat", 3)
        await note()
        return left

    first = await here.engine(only)
    link(first).fail("commit", delay=1e6, when=has_result)
    await first.start(only(), id="a")
    while not kind.rows("SELECT 1 FROM stock WHERE left_over < 10"):  # noqa: ASYNC110  # another database tells nobody
        await asyncio.sleep(0.01)
    kill(first)
    second = await here.engine(only)

    assert 7 == await second.handle("a", only).result()
    assert 7 == kind.left_over
    assert 1 == count


def has_result(batch: Any) -> bool:
    return any(b"StepCompleted" in write.entry.events for write in batch if hasattr(write, "entry"))


async def test_a_run_that_gets_the_id_of_another_does_not_see_its_witness(here: Here, kind: Kind, tmp_path: Path) -> None:
    """E4: the key names the run, not its id."""
    take = kind.database.transaction(kind.take)
    only = workflow_of(take, "hat", 3)
    lefts: list[int] = []
    for _ in range(2):
        async with es.Engine("memory://", [only]) as engine:
            lefts.append(await (await engine.start(only(), id="a")).result())

    assert [7, 4] == lefts
    assert 2 == len(kind.witnesses)


async def test_a_body_that_raises_leaves_nothing(here: Here, kind: Kind) -> None:
    """Neither effect nor witness; the next attempt begins anew."""
    attempts: list[int] = []
    plain: Any = kind.take

    def failing(tx: Any, *arguments: Any) -> Any:
        left = plain(tx, *arguments)
        attempts.append(es.current().attempt)
        if len(attempts) == 1:
            raise OSError("not yet")
        return left

    async def failing_async(tx: Any, *arguments: Any) -> Any:
        return await failing(tx, *arguments) if len(attempts) else await _raise_after(plain, tx, *arguments)

    async def _raise_after(body: Any, tx: Any, *arguments: Any) -> None:
        await body(tx, *arguments)
        attempts.append(es.current().attempt)
        raise OSError("not yet")

    body: Any = failing_async if inspect.iscoroutinefunction(plain) else failing
    body.__annotations__["tx"] = plain.__annotations__["tx"]
    take: Any = kind.database.transaction(retry=es.Retry(attempts=2, delay=0.01))(body)
    only = workflow_of(take, "hat", 3)
    engine = await here.engine(only)

    assert 7 == await (await engine.start(only(), id="a")).result()
    assert 7 == kind.left_over
    assert [1, 2] == attempts


async def test_a_result_that_cannot_be_stored_takes_the_effect_with_it(here: Here, kind: Kind) -> None:
    """H5."""
    plain: Any = kind.take

    def nan(tx: Any) -> float:
        plain(tx, "hat", 3)
        return float("nan")

    async def nan_async(tx: Any) -> float:
        await plain(tx, "hat", 3)
        return float("nan")

    body: Any = nan_async if inspect.iscoroutinefunction(plain) else nan
    body.__annotations__["tx"] = plain.__annotations__["tx"]
    take: Any = kind.database.transaction(retry=5)(body)
    only = workflow_of(take)
    engine = await here.engine(only)

    with pytest.raises(es.RunFailed, match="Unencodable"):
        await (await engine.start(only(), id="a")).result()
    assert 10 == kind.left_over
    assert [] == kind.witnesses


async def test_a_body_that_commits_by_itself_is_refused_or_found_out(here: Here, kind: Kind) -> None:
    """What it commits is not taken for a result, and it is not run again on top of it."""
    plain: Any = kind.take

    def commits(tx: Any) -> int:
        left: int = plain(tx, "hat", 3)
        tx.commit()
        return left

    async def commits_async(tx: Any) -> int:
        left: int = await plain(tx, "hat", 3)
        await tx.commit()
        return left

    body: Any = commits_async if inspect.iscoroutinefunction(plain) else commits
    body.__annotations__["tx"] = plain.__annotations__["tx"]
    take: Any = kind.database.transaction(retry=es.Retry(attempts=3, delay=0.01))(body)
    only = workflow_of(take)
    engine = await here.engine(only)

    refuses = kind.take is not take_alchemy
    with pytest.raises(es.RunFailed, match="failed" if refuses else "ended its transaction by itself"):
        await (await engine.start(only(), id="a")).result()
    assert kind.left_over == (10 if refuses else 7)
    assert [] == [result for *_, result in kind.witnesses if result is not None]


async def test_of_two_workers_that_execute_the_same_step_one_has_the_effect(kind: Kind) -> None:
    """A zombie and its successor, at the same instant: the second waits at the witness, and takes its result."""
    gates, begun = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    order: list[str] = []
    plain: Any = kind.take
    if inspect.iscoroutinefunction(plain):
        pytest.skip("the same protocol; it would need two loops")

    def held(tx: Any) -> int:
        order.append("began")
        number = len(order) - 1
        left: int = plain(tx, "hat", 3)
        begun[number].set()
        gates[number].wait(5)
        return left

    held.__annotations__["tx"] = plain.__annotations__["tx"]
    take: Any = kind.database.transaction(held)

    def execute() -> int:
        with scope_of("token-1"):
            return int(take.body())

    first = asyncio.ensure_future(asyncio.to_thread(execute))
    while not (begun[0].is_set() or first.done()):
        await asyncio.to_thread(begun[0].wait, 0.05)
    second = asyncio.ensure_future(asyncio.to_thread(execute))
    await asyncio.to_thread(begun[1].wait, 0.2)
    gates[0].set()
    gates[1].set()

    assert [7, 7] == [await first, await second]
    assert 7 == kind.left_over


class scope_of:  # noqa: N801  # reads as a phrase
    """The body of a step of a run with this token."""

    run_id, step, key, attempt, epoch, is_wanted = "a", "held", "0:1", 1, 1, True

    def __init__(self, token: str) -> None:
        self.run_token = token

    def seal_witness(self, data: bytes) -> bytes:
        return data

    def open_witness(self, data: bytes) -> bytes:
        return data

    def __enter__(self) -> None:
        from everstep.ambient import step_scope

        scope: Any = self
        self._token = step_scope.set(scope)

    def __exit__(self, *_: object) -> None:
        from everstep.ambient import step_scope

        step_scope.reset(self._token)


# --- one driver will do ---------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    return path


async def test_an_answer_of_the_store_that_is_lost_does_not_repeat_the_effect(here: Here, other: Path) -> None:
    take = es.database(f"sqlite:///{other}").transaction(take_sqlite3)
    only = workflow_of(take, "hat", 3)
    engine = await here.engine(only)
    lose_answer(engine, "commit", when=has_result)

    assert 7 == await (await engine.start(only(), id="a")).result()


async def test_a_body_in_a_thread_whose_attempt_is_over_does_not_commit(here: Here, other: Path) -> None:
    """It cannot be stopped, but it is asked before the commit whether anybody still waits."""
    loop, begun, gate, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), asyncio.Event()

    def slow(tx: sqlite3.Connection) -> None:
        take_sqlite3(tx, "hat", 3)
        loop.call_soon_threadsafe(begun.set)
        gate.wait(10)
        loop.call_soon_threadsafe(ended.set)

    take: Any = es.database(f"sqlite:///{other}").transaction(timeout=0.1)(slow)
    only = workflow_of(take)
    engine = await here.engine(only)
    handle = await engine.start(only(), id="a")
    await begun.wait()
    with pytest.raises(es.RunFailed, match="took longer"):
        await handle.result()
    gate.set()
    await ended.wait()
    with closing(sqlite3.connect(other, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # Its lock is free only once it has ended.
        assert [(10,)] == connection.execute("SELECT left_over FROM stock").fetchall()


async def test_a_store_is_no_other_database(here: Here, tmp_path: Path) -> None:
    """Its file has a lock that two copies of SQLite in one process do not share."""
    async with es.Engine(f"sqlite:///{tmp_path}/state.db"):
        pass
    take = es.database(f"sqlite:///{tmp_path}/state.db").transaction(take_sqlite3)
    only = workflow_of(take, "hat", 3)
    engine = await here.engine(only)

    with pytest.raises(es.RunFailed, match="is a store of everstep"):
        await (await engine.start(only(), id="a")).result()


def test_the_mark_of_a_store_is_the_same_here_as_there() -> None:
    assert schema.APPLICATION_ID == sqlite_sessions.APPLICATION_ID


async def test_outside_a_workflow_a_connection_has_to_be_passed(other: Path) -> None:
    take = es.database(f"sqlite:///{other}").transaction(take_sqlite3)

    with pytest.raises(es.UsageError, match=r"take_sqlite3\.function"):
        await take("hat", 1)
    with closing(sqlite3.connect(other)) as connection:
        assert 9 == take.function(connection, "hat", 1)


def test_what_names_no_database_is_refused() -> None:
    for source, options in [("mysql://x", {}), ("other.db", {}), (5, {}), ("sqlite:///x.db", {"driver": "odbc"})]:
        with pytest.raises(es.UsageError):
            es.database(source, **options)  # type: ignore[arg-type]


def test_an_async_body_is_refused_where_the_driver_blocks() -> None:
    define: Any = es.database("sqlite:///x.db").transaction

    async def body(tx: sqlite3.Connection) -> None: ...

    with pytest.raises(es.UsageError, match="plain function"):
        define(body)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(es.database("postgresql://me:secret@host/db"))
