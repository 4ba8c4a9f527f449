"""
States do not make the journal grow quadratically, and read back as published however they are recorded.

The bars are counted in bytes of a real file, with everything that the store adds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.events import StatePublished
from everstep.stores.sqlite.store import SQLiteStore
from tests.engine.support import World, kill, turns

KB = 1000

board = es.state("board", dict[str, str])
log = es.state("log", list[str])
record = es.state("record", dict[str, Any])
go_on = es.signal("go_on", int)


@es.step
async def work(number: int) -> int:
    return number


@es.workflow
async def changing(steps: int) -> int:
    """100 fields, 10 KB; one of them changes with each step."""
    fields = {f"field {number}": "x" * 90 for number in range(100)}
    for number in range(steps):
        fields[f"field {number % 100}"] = f"{await work(number):090d}"
        board.set(fields)
    return steps


@es.workflow
async def growing(steps: int) -> int:
    """A list that is longer by 1 KB after each step."""
    lines: list[str] = []
    for number in range(steps):
        lines.append(f"{await work(number):01000d}")
        log.set(lines)
    return steps


@es.workflow
async def silent(steps: int) -> int:
    for number in range(steps):
        await work(number)
    return steps


@es.workflow(name="patient")
async def patient() -> str:
    fields = {f"field {number}": "x" * 90 for number in range(100)}
    for number in (1, 2, 3):
        fields[f"field {number}"] = "y" * 90
        record.set(fields)
        fields[f"field {number}"] += f"{await go_on.wait()}"
    record.set(fields)
    return "done"


async def run_on_file(path: Path, call: es.Call[int]) -> None:
    async with es.Engine(SQLiteStore(path), workflows=[changing, growing, silent]) as engine:
        await (await engine.start(call, id="a")).result()


@pytest.mark.parametrize(
    ("workflow", "steps", "limit"),
    [pytest.param(changing, 400, 1 * KB, id="one field in a hundred"), pytest.param(growing, 400, 3 * KB, id="a growing list")],
)
async def test_a_state_costs_what_changes(workflow: es.Workflow[[int], int], steps: int, limit: int, tmp_path: Path) -> None:
    for each in (workflow, silent):
        await run_on_file(tmp_path / f"{each.name}.db", each(steps))

    # Both are closed: the log has gone into the file.
    assert bytes_of(tmp_path / "silent.db") < bytes_of(tmp_path / f"{workflow.name}.db") <= steps * limit


def bytes_of(path: Path) -> int:
    assert not path.with_name(path.name + "-wal").exists()
    return path.stat().st_size


async def test_every_version_of_a_state_can_be_read(tmp_path: Path) -> None:
    async with es.Engine(SQLiteStore(tmp_path / "state.db"), workflows=[changing]) as engine:
        handle = await engine.start(changing(60), id="a")
        await handle.result()

        for version in range(3, 60):
            payload = (await handle.snapshot(version)).payload["board"]
            count = version - 1  # Entry 1 asks for the first step, entry 2 publishes the first change.
            assert [f"{n:090d}" if n < count else "x" * 90 for n in range(100)] == list(payload.values())


async def test_a_run_that_is_taken_over_goes_on_with_its_deltas(world: World) -> None:
    first = await world.engine(patient)
    handle = await first.start(patient(), id="a")
    await handle.send(go_on, 1)
    await turns()
    kill(first)
    second = await world.engine(patient)
    again = second.handle("a", patient)
    await again.send(go_on, 2)
    await turns()
    await again.send(go_on, 3)
    assert "done" == await again.result()

    published = [event for event in await world.events("a") if isinstance(event, StatePublished)]
    assert [False, True, True, True] == [event.is_delta for event in published]
    fields = (await again.snapshot()).payload["record"]
    assert ["x" * 90, "y" * 90 + "1", "y" * 90 + "2", "y" * 90 + "3", "x" * 90] == list(fields.values())[:5]


async def test_a_delta_is_made_against_what_the_journal_says_when_the_code_publishes_something_else(world: World) -> None:
    """A corrected text strands nobody: the code goes on with its own values, and what it publishes is what is read."""

    @es.workflow(name="patient")
    async def corrected() -> str:
        fields = {f"field {number}": "z" * 90 for number in range(100)}
        for number in (1, 2, 3):
            record.set(fields)
            fields[f"field {number}"] = f"{await go_on.wait()}"
        record.set(fields)
        return f"{(record.get() or {}).get('field 0')}"

    first = await world.engine(patient)
    handle = await first.start(patient(), id="a")
    await handle.send(go_on, 1)
    await turns()
    kill(first)
    second = await world.engine(corrected)
    again = second.handle("a", corrected)
    await again.send(go_on, 2)
    await again.send(go_on, 3)

    assert "z" * 90 == await again.result()
    fields = (await again.snapshot()).payload["record"]
    assert ["z" * 90, "1", "2", "3", "z" * 90] == list(fields.values())[:5]
