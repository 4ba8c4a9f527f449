"""L3, L4: a store of the first version is opened by every later one, and its runs go on. (``tests/golden/record.py``)"""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import everstep as es
from everstep.journal import verify_chain
from everstep.records import Status
from everstep.stores.sqlite import SQLiteStore, schema
from everstep.stores.sqlite.ask import asking
from tests.golden import record
from tests.stores import moving_program as program

AGAIN = "before the first release: python -m tests.golden.record; after it, write a migration instead"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The store as it was recorded."""
    place = tmp_path / "golden.db"
    connection = apsw.Connection(str(place))
    asking(connection)(record.SQLITE.read_text(encoding="utf-8"))
    connection.close()
    return place


def tables(path: Path) -> list[str]:
    connection = apsw.Connection(str(path))
    try:
        query = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name"
        return [str(sql) for (sql,) in asking(connection)(query)]
    finally:
        connection.close()


async def test_version_1_is_what_was_recorded(path: Path, tmp_path: Path) -> None:
    """Whoever has such a store has these tables, whatever the code says today."""
    store = SQLiteStore(tmp_path / "new.db", migrations=schema.MIGRATIONS[:1])
    await store.open()
    await store.close()

    assert tables(path) == tables(tmp_path / "new.db"), AGAIN


def test_version_1_is_what_was_recorded_for_postgresql() -> None:
    pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

    assert record.POSTGRES.read_text(encoding="utf-8") == record.postgres_schema(), AGAIN


async def test_runs_of_the_first_version_go_on(path: Path) -> None:
    """Opened, migrated if need be, verified, and driven to their ends."""
    async with es.Engine(f"sqlite:///{path}", workflows=program.WORKFLOWS) as engine:
        await engine.handle("parent/0:1").send(program.go, "hello")
        await engine.handle("ticker").send(program.go, "enough")
        ended = {
            run_id: await engine.handle(run_id).result(timeout=30)
            for run_id in ("roomy", "roomy-fork", "parent", "ticker", "queued")
        }
        for run in await engine.list(limit=100):
            _, entries = await engine.load_journal(run.run_id)
            verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        assert Status.WAITING is await engine.handle("sleeper").status()
        assert Status.FAILED is await engine.handle("broken").status()

    assert {
        "roomy": 50_000,
        "roomy-fork": 50_000,
        "parent": "my child says hello",
        "ticker": "enough",
        "queued": "early",
    } == ended
