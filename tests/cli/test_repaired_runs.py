"""What the command line shows of runs that were retried, forked or paused, or were sent what nobody took, line by line."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

import everstep as es
from everstep.cli.look import take_picture
from everstep.cli.picture import as_json, lines
from everstep.client import Client

word = es.signal("word", str)
other = es.signal("other", str)
broken: set[str] = set()


@es.step
async def book(what: str) -> str:
    if what in broken:
        raise ConnectionError(f"{what} is down")
    return f"{what} booked"


@es.workflow
async def trip() -> list[str]:
    return [await book("flight"), await book("hotel")]


@es.workflow
async def listening() -> str:
    await book("flight")
    return await word.wait()


@pytest.fixture(autouse=True)
def fresh() -> None:
    broken.clear()


async def shown(client: Client, run_id: str) -> list[str]:
    """The picture without what differs from run to run."""
    told = lines(await take_picture(client, run_id))[:-1]
    changing = [
        (r"@[0-9a-f]{12}", "@code"),
        (r" +\d[\d.]* ?m?s\b", " T"),
        (r"\(test_repaired_runs.py:\d+\)", "(here)"),
        (r"  on \S+", ""),
    ]
    for pattern, instead in changing:
        told = [re.sub(pattern, instead, line) for line in told]
    return told


async def until(handle: es.Handle[Any], status: es.Status) -> None:
    while await handle.status() is not status:  # noqa: ASYNC110  # another task drives it
        await asyncio.sleep(0.001)


def test_a_run_that_was_retried_says_so_and_what_it_found_done() -> None:
    async def main() -> list[str]:
        async with es.Engine("memory://") as engine:
            broken.add("hotel")
            handle = await engine.start(trip(), id="trip-1")
            with pytest.raises(es.RunFailed):
                await handle.result()
            assert " Fix the cause, then: everstep retry trip-1" in (await shown(engine, "trip-1"))[1]
            broken.clear()
            await handle.retry("it answers again", actor="ann")
            await handle.result()
            return await shown(engine, "trip-1")

    assert asyncio.run(main()) == [
        "trip-1  trip@code  ✓ succeeded  (retried once)",
        "Succeeded in T with 3 steps.",
        "",
        " ✓ book T",
        " ✕ book T  ConnectionError: hotel is down",
        " ✓ book T  found done",
        " ✓ book T",
        "",
    ]


def test_a_fork_says_what_it_found_done() -> None:
    async def main() -> list[str]:
        async with es.Engine("memory://") as engine:
            handle = await engine.start(trip(), id="trip-1")
            await handle.result()
            fork = await handle.fork(edit={"book": "another hotel"}, id="what-if", reason="what if", actor="ann")
            assert ["flight booked", "another hotel"] == await fork.result()
            return await shown(engine, "what-if")

    assert asyncio.run(main()) == [
        "what-if  trip@code  ✓ succeeded",
        "Succeeded in T with 2 steps.",
        "",
        " ✓ book T  found done",
        " ✓ book T  found done",
        "",
    ]


def test_signals_that_nobody_took_are_listed_and_a_pause_says_who_and_what_waits() -> None:
    async def main() -> tuple[list[str], list[str], Any]:
        async with es.Engine("memory://") as engine:
            handle = await engine.start(listening(), id="wait-1")
            await handle.send(other, "for nobody", key="click-1")
            await until(handle, es.Status.WAITING)
            waiting = await shown(engine, "wait-1")
            await handle.pause("lunch", actor="bob")
            await until(handle, es.Status.PAUSED)
            await handle.send(word, "hello")
            paused = await shown(engine, "wait-1")
            return waiting, paused, as_json(await take_picture(engine, "wait-1"))

    waiting, paused, told = asyncio.run(main())

    assert [" signals that nobody has taken:", "   · other click-1", ""] == waiting[-3:]
    assert "Waiting for the signal word." == waiting[1]
    assert "Paused by bob: lunch. 1 message waits for it. To let it go on: everstep resume wait-1" == paused[1]
    assert [{"name": "other", "key": "click-1"}] == told["undelivered"]
