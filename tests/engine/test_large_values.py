"""Runs that pass large values around, on a real file: stored once, read back, and found out when they are damaged (I17)."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.events import StepCompleted
from everstep.stores.sqlite.store import SQLiteStore
from tests.engine.support import World, kill, turns

MEGABYTE = 1_000_000
picture = es.state("picture", str)
go_on = es.signal("go_on", str)
asked: list[str] = []


@es.step
async def draw(letter: str) -> str:
    asked.append(letter)
    return letter * MEGABYTE


@es.step
async def publish(data: str, to: str) -> int:
    return len(data)


@es.workflow
async def drawing(letter: str) -> int:
    data = await draw(letter)
    picture.set(data)
    sizes = [await publish(data, to) for to in ("web", "mail", "print")]
    await go_on.wait()
    return sum(sizes) + await publish(data, "archive")


@pytest.fixture(autouse=True)
def forget() -> None:
    asked.clear()


async def test_a_large_value_is_stored_once(tmp_path: Path) -> None:
    """As a result, as a state, and as the argument of three steps."""
    async with es.Engine(SQLiteStore(tmp_path / "state.db"), workflows=[drawing]) as engine:
        handle = await engine.start(drawing("x"), id="a")
        await handle.send(go_on, "yes")
        assert 4 * MEGABYTE == await handle.result()
        assert "x" * MEGABYTE == (await handle.snapshot()).payload["picture"]

    rows = ask(tmp_path / "state.db", "SELECT length(data) FROM blobs")
    assert [(MEGABYTE + 2,)] == rows
    assert ask(tmp_path / "state.db", "SELECT max(length(events)) < 2000 FROM journal") == [(1,)]


async def test_a_run_is_taken_over_with_its_large_values(world: World) -> None:
    first = await world.engine(drawing)
    await first.start(drawing("x"), id="a")
    await turns(100)
    kill(first)
    second = await world.engine(drawing)
    handle = second.handle("a", drawing)
    await handle.send(go_on, "y" * MEGABYTE)

    assert 4 * MEGABYTE == await handle.result()
    assert ["x"] == asked
    [result, *_] = [event for event in await world.events("a") if isinstance(event, StepCompleted)]
    assert MEGABYTE + 2 == len(bytes(result.result))


async def test_a_large_value_is_encrypted_like_any_other(tmp_path: Path) -> None:
    """It is sealed first and taken out then; what was read back with the key is what was written."""
    pytest.importorskip("cryptography")
    payloads = es.Payloads(encryption=es.Encryption({"one": bytes(32)}, "one"))
    path = tmp_path / "state.db"
    async with es.Engine(SQLiteStore(path), workflows=[drawing], payloads=payloads) as engine:
        handle = await engine.start(drawing("x"), id="a")
        await asyncio.sleep(1)
    async with es.Engine(SQLiteStore(path), workflows=[drawing], payloads=payloads) as engine:
        handle = engine.handle("a", drawing)
        await handle.send(go_on, "yes")
        assert 4 * MEGABYTE == await handle.result()
        assert "x" * MEGABYTE == (await handle.snapshot()).payload["picture"]

    assert ask(path, "SELECT count(*) > 0, sum(instr(data, CAST('xxxxxxxxxxxxxxxx' AS BLOB))) FROM blobs") == [(1, 0)]
    assert ["x"] == asked


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM blobs WHERE run_key = {key}", "is missing"),
        ("UPDATE blobs SET data = CAST(replace(data, 'xx', 'xy') AS BLOB) WHERE run_key = {key}", "was altered"),
    ],
)
async def test_a_damaged_blob_quarantines_its_run_and_no_other(damage: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with es.Engine(SQLiteStore(path), workflows=[drawing]) as engine:
        for run_id in ("a", "b"):
            await engine.start(drawing("x"), id=run_id)
        await asyncio.sleep(1)  # Both are parked: time is virtual, and jumps when nothing is left to do.
        key = (await engine.get("a")).run_key
    ask(path, damage.format(key=key))

    async with es.Engine(SQLiteStore(path), workflows=[drawing]) as engine:
        for run_id in ("a", "b"):
            await engine.handle(run_id).send(go_on, "yes")
        with pytest.raises(es.RunPaused, match=f"corrupt: run a: entry 2 cannot be read: .*{said}"):
            await engine.handle("a").result()
        with pytest.raises(es.CorruptJournal, match=said):
            await engine.handle("a").snapshot()
        assert 4 * MEGABYTE == await engine.handle("b", drawing).result()


async def test_pruning_forgets_large_values_too(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with es.Engine(SQLiteStore(path), workflows=[drawing]) as engine:
        handle = await engine.start(drawing("x"), id="a")
        await handle.send(go_on, "yes")
        await handle.result()
        await asyncio.sleep(0.001)
        await engine.prune(timedelta(0))

    assert [(0, 0)] == ask(path, "SELECT (SELECT count(*) FROM blobs), (SELECT count(*) FROM journal)")


def ask(path: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()
