"""Runs and signals that exist iff a transaction of the caller's commits, on connections of every kind."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import everstep as es
from everstep.stores.sqlite import callers
from everstep.stores.sqlite.ask import asking

approval = es.signal("approval", str)


@es.workflow
async def greet(name: str) -> str:
    return f"hello {name}"


@es.workflow
async def wait_for_it() -> str:
    return await approval.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that is there, with a table of the user's, and that nobody has open."""

    async def make() -> None:
        async with es.Client(f"sqlite:///{tmp_path}/state.db") as client:
            await client.start(wait_for_it(), id="w")

    asyncio.run(make())
    path = tmp_path / "state.db"
    with closing(apsw.Connection(str(path))) as connection:
        asking(connection)("CREATE TABLE orders(id TEXT)")
    return path


class Mine:
    """A connection of the caller's, of some kind.

    Attributes:
        tx: What is passed.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self._engine: Any = None
        match kind:
            case "apsw":
                self.tx: Any = apsw.Connection(str(path))
            case "sqlite3":
                self.tx = sqlite3.connect(path)
            case "sqlite3, by hand":
                self.tx = sqlite3.connect(path, isolation_level=None)
            case _:
                alchemy: Any = pytest.importorskip("sqlalchemy")
                self._engine = alchemy.create_engine(f"sqlite:///{path}", poolclass=alchemy.NullPool)
                self.tx = self._engine.connect()
        self._kind = kind

    def order(self, name: str) -> None:
        """Something of the caller's own, in the transaction."""
        if self._kind in ("apsw", "sqlite3, by hand"):
            self.tx.execute("BEGIN IMMEDIATE")
        if self._engine is not None:
            self.tx.exec_driver_sql("INSERT INTO orders VALUES (?)", (name,))
        else:
            self.tx.execute("INSERT INTO orders VALUES (?)", (name,))

    def end(self, how: str) -> None:
        if self._kind == "apsw":
            self.tx.execute(how)
        else:
            getattr(self.tx, how.lower())()
        self.close()

    def close(self) -> None:
        self.tx.close()
        if self._engine is not None:
            self._engine.dispose()


@pytest.fixture(params=["apsw", "sqlite3", "sqlite3, by hand", "sqlalchemy"])
def mine(request: pytest.FixtureRequest, path: Path) -> Iterator[Mine]:
    mine = Mine(request.param, path)
    yield mine
    mine.close()


async def result_of(path: Path, run_id: str, workflow: Any = greet) -> Any:
    async with es.Engine(f"sqlite:///{path}", [greet, wait_for_it]) as engine:
        return await engine.handle(run_id, workflow).result(timeout=20)


async def test_a_run_that_is_started_in_a_transaction_exists_once_that_commits(path: Path, mine: Mine) -> None:
    client = es.Client(f"sqlite:///{path}")
    mine.order("1")
    handle = await client.start(greet("ann"), id="a", tx=mine.tx)
    mine.end("COMMIT")

    assert "a" == handle.run_id
    assert "hello ann" == await result_of(path, "a")


async def test_a_run_that_is_started_in_a_transaction_is_gone_with_it(path: Path, mine: Mine) -> None:
    client = es.Client(f"sqlite:///{path}")
    mine.order("1")
    await client.start(greet("ann"), id="a", tx=mine.tx)
    mine.end("ROLLBACK")

    with pytest.raises(es.RunNotFound):
        await client.get("a")
    assert ["w"] == [run.run_id for run in await client.list()]
    await client.close()


async def test_a_signal_that_is_sent_in_a_transaction_arrives_iff_that_commits(path: Path, mine: Mine) -> None:
    client = es.Client(f"sqlite:///{path}")
    mine.order("1")
    await client.handle("w").send(approval, "yes", tx=mine.tx)
    mine.end("COMMIT")

    assert "yes" == await result_of(path, "w", wait_for_it)


async def test_starting_twice_in_a_transaction_joins_and_another_start_conflicts(path: Path, mine: Mine) -> None:
    """What the transaction has written itself counts, and a refused start leaves nothing of its own in it."""
    client = es.Client(f"sqlite:///{path}")
    mine.order("1")
    await client.start(greet("ann"), id="a", tx=mine.tx)
    await client.start(greet("ann"), id="a", tx=mine.tx)
    with pytest.raises(es.RunConflict):
        await client.start(greet("bob"), id="a", tx=mine.tx)
    with pytest.raises(es.RunNotFound):
        await client.handle("nobody").send(approval, "yes", tx=mine.tx)
    mine.end("COMMIT")

    assert "hello ann" == await result_of(path, "a")


async def test_an_engine_starts_in_a_transaction_too_and_drives_the_run_once_it_commits(path: Path) -> None:
    """Nobody is told before; the commit is noticed as one of another process is."""
    async with es.Engine(f"sqlite:///{path}", [greet]) as engine:
        mine = Mine("apsw", path)
        mine.order("1")
        handle = await engine.start(greet("ann"), id="a", tx=mine.tx)
        with pytest.raises(es.RunNotFound):
            await handle.status()
        mine.end("COMMIT")

        assert "hello ann" == await handle.result(timeout=20)


async def test_what_fails_in_the_middle_leaves_nothing_of_itself_and_all_of_the_callers(path: Path, mine: Mine) -> None:
    mine.order("1")
    with pytest.raises(ZeroDivisionError), callers.joined(mine.tx, path, lambda: 0, 1) as tx:  # noqa: PT012
        tx.execute("UPDATE runs SET status = 'dead'")
        raise ZeroDivisionError
    mine.end("COMMIT")

    with closing(apsw.Connection(str(path))) as connection:
        assert [("1",)] == asking(connection)("SELECT id FROM orders").fetchall()
        assert [] == asking(connection)("SELECT 1 FROM runs WHERE status = 'dead'").fetchall()


# --- what is refused ------------------------------------------------------------------------------------------------


async def refused(path: Path, tx: Any, match: str, client: es.Client | None = None) -> None:
    with pytest.raises(es.UsageError, match=match):
        await (client or es.Client(f"sqlite:///{path}")).start(greet("ann"), id="a", tx=tx)


async def test_two_copies_of_sqlite_are_kept_apart(path: Path) -> None:
    """Measured: they do not see each other's locks, and lose commits."""
    async with es.Client(f"sqlite:///{path}") as client:
        with closing(sqlite3.connect(path)) as other:
            await refused(path, other, "open twice in this process", client)
            await refused(path, other, "open twice in this process")
        assert ["w"] == [run.run_id for run in await client.list()]


async def test_a_store_is_not_opened_beside_a_connection_of_sqlite3_that_is_known(path: Path) -> None:
    client = es.Client(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as other:
        await client.start(greet("ann"), id="a", tx=other)
        with pytest.raises(es.UsageError, match="open twice in this process"):
            await client.get("a")
        other.commit()
    assert "a" == (await client.get("a")).run_id
    await client.close()


async def test_a_connection_without_a_transaction_is_refused(path: Path) -> None:
    """What is written would be committed by itself."""
    with closing(apsw.Connection(str(path))) as mine:
        await refused(path, mine, "no transaction is open")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        await refused(path, other, "no transaction is open")


async def test_a_connection_to_another_file_is_refused(path: Path, tmp_path: Path) -> None:
    for name in (str(tmp_path / "other.db"), ":memory:"):
        with closing(apsw.Connection(name)) as mine:
            asking(mine)("BEGIN IMMEDIATE")
            await refused(path, mine, "the store's own file")


async def test_a_connection_that_does_not_sync_is_refused(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as mine:
        asking(mine)("PRAGMA synchronous = normal; BEGIN IMMEDIATE")
        await refused(path, mine, "does not sync")


async def test_a_store_of_another_version_is_refused(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as mine:
        asking(mine)("PRAGMA user_version = 0; BEGIN IMMEDIATE")
        await refused(path, mine, "schema version 0")


async def test_what_is_no_connection_is_refused(path: Path) -> None:
    await refused(path, object(), "no connection that a store in SQLite can write on")


async def test_a_store_that_cannot_is_told() -> None:
    with pytest.raises(es.UsageError, match="does not write in transactions of its callers"):
        await es.Client("memory://").start(greet("ann"), tx=object())


async def test_a_lock_that_is_taken_is_told(path: Path) -> None:
    """And what the caller had done is still his to roll back."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as mine:
        mine.execute("BEGIN")
        mine.execute("SELECT * FROM orders").fetchall()
        pid = os.fork()
        if pid == 0:
            other = apsw.Connection(str(path))
            asking(other)("INSERT INTO orders VALUES ('x')")
            os._exit(0)
        os.waitpid(pid, 0)  # noqa: ASYNC222  # it is quick, and nothing else happens here
        with pytest.raises(es.StoreUnavailable, match="Roll it back"):
            await es.Client(f"sqlite:///{path}").start(greet("ann"), id="a", tx=mine)
        mine.execute("ROLLBACK")
