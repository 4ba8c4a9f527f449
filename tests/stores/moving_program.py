"""
Runs in every state that a run can be in, for the tests of copies. Not a test itself.

    moving_program.py URL EFFECTS      begin them all, say "ready" when each is where it should be, and wait to be killed

A body that is ``stuck`` hangs in its first attempt and comes to its end in the next. Each body leaves a line in EFFECTS.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import everstep as es
from everstep.records import Status

KEY = bytes(range(32))
LARGE = "x" * 50_000
effects = Path(os.devnull)
go = es.signal("go", str)
stage = es.state("stage", str)


def affect(what: str) -> None:
    with effects.open("a") as file:
        file.write(f"{what} {es.current().attempt}\n")


@es.step
async def work(what: str) -> str:
    affect(what)
    return f"{what} done"


@es.step
async def stuck(what: str) -> str:
    affect(what)
    if es.current().attempt == 1:
        await asyncio.Event().wait()
    return f"{what} in attempt {es.current().attempt}"


@es.step(at_most_once=True)
async def once(what: str) -> str:
    affect(what)
    await asyncio.Event().wait()
    return "never"


@es.step
async def fails(what: str) -> str:
    affect(what)
    raise ValueError(f"{what} cannot be had")


@es.step
async def large() -> str:
    affect("large")
    return LARGE


@es.workflow
async def sleeper(seconds: float) -> str:
    first = await work("before sleep")
    await es.sleep(seconds)
    return f"{first}, {await work('after sleep')}"


@es.workflow
async def midway() -> str:
    stage.set("midway")
    first = await work("first")
    return f"{first}, {await stuck('second')}"


@es.workflow
async def only_once() -> str:
    try:
        return await once("payment")
    except es.StepOutcomeUnknown:
        return "nobody knows"


@es.workflow
async def trip() -> str:
    async with es.saga() as saga:
        await saga.do(work("flight"), undo=work("flight back"))
        await saga.do(work("hotel"), undo=stuck("hotel back"))
        await fails("car")
    return "never"


@es.workflow
async def child() -> str:
    return await go.wait()


@es.workflow
async def parent() -> str:
    return f"my child says {await child()}"


@es.workflow
async def unread() -> str:
    await stuck("reader")
    return f"{await go.wait()} {await go.wait()}"


@es.workflow
async def roomy() -> int:
    return len(await large())


@es.workflow
async def ticker(n: int) -> str:
    if n < 3:
        await work("tick")
        es.continue_as_new(ticker(n + 1))
    return await go.wait()


@es.workflow
async def broken() -> str:
    return await fails("part")


WORKFLOWS: list[es.Workflow[..., Any]] = [sleeper, midway, only_once, trip, child, parent, unread, roomy, ticker, broken]
PAYLOADS = es.Payloads(encryption=es.Encryption({"one": KEY}, "one")) if find_spec("cryptography") else es.Payloads()


def engine_on(url: Any) -> es.Engine:
    return es.Engine(url, workflows=WORKFLOWS, payloads=PAYLOADS, lease=2)


async def until(engine: es.Engine, run_id: str, *wanted: Status) -> None:
    while await engine.handle(run_id).status() not in wanted:  # noqa: ASYNC110  # another task drives it
        await asyncio.sleep(0.005)


async def until_affected(*what: str) -> None:
    while not {f"{each} 1" for each in what} <= set(effects.read_text().splitlines()):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def begin(url: str) -> es.Engine:
    """All of them, on an engine that is open."""
    engine = engine_on(url)
    await engine.open()
    await (await engine.start(roomy(), id="roomy")).result()
    fork = await engine.handle("roomy").fork(id="roomy-fork")
    await fork.result()
    await engine.start(broken(), id="broken")
    await until(engine, "broken", Status.FAILED)
    await engine.start(sleeper(0.2), id="sleeper")
    await engine.start(sleeper(86400), id="long-sleeper")
    await engine.start(parent(), id="parent")
    await engine.start(ticker(0), id="ticker")
    for run_id in ("sleeper", "long-sleeper", "ticker", "parent", "parent/0:1"):
        await until(engine, run_id, Status.WAITING, Status.SUCCEEDED)
    await engine.start(midway(), id="midway")
    await engine.start(only_once(), id="only-once")
    await engine.start(trip(), id="trip")
    await engine.start(unread(), id="unread")
    await until_affected("second", "payment", "hotel back", "reader")
    return engine


async def leave_more(url: str) -> None:
    """What nobody takes up, since nobody drives the store any more."""
    async with es.Client(url, payloads=PAYLOADS) as client:
        await client.start(sleeper(0), id="queued")
        assert (await client.prune_segments(timedelta(0))).run_count == 1
        for word in ("one", "two"):
            await client.handle("unread").send(go, word, key=word)


async def main() -> None:
    await begin(sys.argv[1])
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    effects = Path(sys.argv[2])
    effects.touch()
    asyncio.run(main())
