"""
The program that the tests of real processes start, kill and stop. Not a test itself.

    program.py DB start RUN_ID                     start a run as a client and leave (nothing drives it)
    program.py DB run RUN_ID [FAILPOINT]           start or join a run, drive it, print its result
    program.py DB serve [FAILPOINT]                drive whatever there is until SIGTERM

The store is the file DB, unless DB.json says otherwise: its ``url``, the ``lease`` of workers in seconds, the ``name`` that all
workers have, and the ``skew`` of this process's clock in seconds: one after the other, a second each (not of ``serve``).

A failpoint is ``signal:where:n``: send oneself that signal the n-th time one comes by. Places: ``before-commit``,
``after-commit`` (of a batch with an entry in it), ``in-body`` (after the effect of a step, before its outcome is known).
Effects are lines appended to ``DB.effects``: step, idempotency key, attempt, epoch, pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import everstep as es
import everstep.engine.worker
from everstep.stores.base import Append, Outcome, Write
from everstep.stores.urls import open_store
from tests.engine.failpoints import Failpoint

DB = Path(sys.argv[1])
SETTINGS: dict[str, Any] = json.loads(file.read_text()) if (file := DB.with_suffix(".json")).exists() else {}
URL: str = SETTINGS.get("url", f"sqlite:///{DB}")
LEASE_SECONDS: float = SETTINGS.get("lease", 1.5)


def set_clock_wrong(seconds: Sequence[int]) -> None:
    """Let the wall clock say something else; the monotonic one goes on."""
    real, began = time.time_ns, time.monotonic()

    def wrong_ns() -> int:
        return real() + seconds[min(int(time.monotonic() - began), len(seconds) - 1)] * 1_000_000_000

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9


if "skew" in SETTINGS and "serve" not in sys.argv:
    set_clock_wrong(SETTINGS["skew"])
if "name" in SETTINGS:
    setattr(everstep.engine.worker, "own_name", lambda: str(SETTINGS["name"]))  # noqa: B010

failpoint = Failpoint(sys.argv[-1]) if sys.argv[-1].count(":") == 2 else Failpoint()


def affect(step: str) -> None:
    """Leave an effect outside, as a payment would, then pass the failpoint."""
    here = es.current()
    line = f"{step} {here.idempotency_key} {here.attempt} {here.epoch} {os.getpid()}\n"
    descriptor = os.open(f"{DB}.effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    failpoint.passes("in-body")


@es.step
async def reserve(order_id: str) -> str:
    affect("reserve")
    return f"reserved {order_id}"


@es.step
def charge(order_id: str) -> str:
    affect("charge")
    return f"charged {order_id}"


@es.step
async def ship(order_id: str, what: list[str]) -> str:
    affect("ship")
    return f"shipped {order_id}: {', '.join(what)}"


@es.step(at_most_once=True)
async def send_once(order_id: str) -> str:
    affect("send_once")
    return f"sent {order_id}"


@es.workflow
async def checkout(order_id: str) -> str:
    done = await asyncio.gather(reserve(order_id), charge(order_id))
    await asyncio.sleep(0.01)
    return await ship(order_id, list(done))


@es.workflow
async def announce(order_id: str) -> str:
    try:
        return await send_once(order_id)
    except es.StepOutcomeUnknown:
        return f"unknown {order_id}"


@es.step
async def crash(order_id: str) -> str:
    affect("crash")
    os._exit(13)


@es.workflow(max_recoveries=3)
async def poison(order_id: str) -> str:
    return await crash(order_id)


WORKFLOWS = {"checkout": checkout, "announce": announce, "poison": poison}


def open_failing_store() -> Any:
    """The store, with the failpoint around its one write of progress."""
    store: Any = open_store(URL)
    commit = store.commit

    async def failing_commit(batch: Sequence[Write]) -> list[Outcome]:
        has_entry = any(isinstance(write, Append) for write in batch)
        if has_entry:
            failpoint.passes("before-commit")
        outcomes: list[Outcome] = await commit(batch)
        if has_entry:
            failpoint.passes("after-commit")
        return outcomes

    store.commit = failing_commit
    return store


async def main() -> None:
    verb, run_id = sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""
    workflow: Any = WORKFLOWS[run_id.partition("-")[0]] if verb != "serve" else None
    if verb == "start":
        async with es.Client(URL) as client:
            await client.start(workflow(run_id), id=run_id)
        return
    async with es.Engine(open_failing_store(), WORKFLOWS.values(), lease=LEASE_SECONDS, grace=1) as engine:
        if verb == "run":
            handle = await engine.start(workflow(run_id), id=run_id)
            print(await handle.result(), flush=True)
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.drain)
            print("serving", flush=True)
            await engine.serve()


if __name__ == "__main__":
    asyncio.run(main())
