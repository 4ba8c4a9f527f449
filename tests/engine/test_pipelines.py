"""
Pipelines under an engine: resumed at their cursor, claimed with a short journal, forked with another payload.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import everstep as es
from tests.engine.support import World, kill, until

calls: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


@es.step
async def validate(rows: list[str]) -> list[str]:
    calls["validate"] += 1
    return [*rows, "valid"]


@es.step
async def transform(rows: list[str]) -> list[str]:
    calls["transform"] += 1
    if "poison" in rows:
        raise ValueError("poison")
    return [row.upper() for row in rows]


@es.step
async def load(rows: list[str]) -> list[str]:
    calls["load"] += 1
    return [*rows, "loaded"]


etl = es.pipeline("etl", list[str], [validate, transform, load])


@es.step
async def add(rows: list[str]) -> list[str]:
    calls["add"] += 1
    return [*rows, f"{len(rows)}" + "x" * 100]


long = es.pipeline("long", list[str], [add] * 100)


async def test_a_pipeline_goes_on_at_its_cursor_after_its_worker_died(world: World) -> None:
    engine = await world.engine(long)
    await engine.start(long([]), id="p")
    await until(lambda: calls["add"] >= 50)
    kill(engine)

    other = await world.engine(long)
    result = await other.handle("p", long).result()

    assert 100 == len(result)
    assert calls["add"] <= 101
    run = await world.record("p")
    assert 1 < run.base
    assert sum(len(entry.events) for entry in await world.entries("p")) < 3 * len(str(result)) + 100 * 600


async def test_a_failed_pipeline_is_retried_at_its_cursor(world: World) -> None:
    engine = await world.engine(etl)
    handle = await engine.start(etl(["poison"]), id="p")
    with pytest.raises(es.RunFailed):
        await handle.result()

    await handle.complete_step("transform", ["cured"])

    assert ["cured", "loaded"] == await handle.result()
    assert {"validate": 1, "transform": 1, "load": 1} == dict(calls)


async def test_a_pipeline_is_forked_with_another_payload(world: World) -> None:
    engine = await world.engine(etl)
    handle = await engine.start(etl(["a"]), id="p")
    assert ["A", "VALID", "loaded"] == await handle.result()

    fork = await handle.fork(edit={"transform": ["B"]}, id="again")

    assert ["B", "loaded"] == await fork.result()
    assert {"validate": 1, "transform": 1, "load": 2} == dict(calls)
    assert {"payload": ["B", "loaded"]} == (await fork.snapshot()).payload


async def test_a_pipeline_that_was_repaired_is_forked_with_another_payload_and_taken_over(world: World) -> None:
    """The payload that it goes on with is nowhere in its own journal but where it begins anew."""
    engine = await world.engine(etl)
    handle = await engine.start(etl(["poison"]), id="p")
    with pytest.raises(es.RunFailed):
        await handle.result()
    await handle.complete_step("transform", ["cured"])
    await handle.result()

    fork = await handle.fork(edit={"transform": ["better" * 200]}, id="again")
    await until(lambda: 2 == calls["load"])
    kill(engine)
    other = await world.engine(etl)

    assert ["better" * 200, "loaded"] == await other.handle("again", etl).result()
    assert {"payload": ["better" * 200, "loaded"]} == (await other.handle("again").snapshot()).payload
    assert "again" == fork.run_id


def test_a_pipeline_runs_on_a_file_and_is_typed(tmp_path: Path) -> None:
    rows: list[str] = es.run(etl(["a"]), id="p", store=f"sqlite:///{tmp_path}/p.db")

    assert ["A", "VALID", "loaded"] == rows
