"""
Kills of real processes: each life is a child process on a real SQLite file, and ends itself with SIGKILL at its point.

The child finds the workflow by importing it, so it has to have a name in a module that a new process can import. What is
compared is read from the file when all of it is over. Without a ``drive`` the child lives on virtual time, and takes it over
from the one before it: a month of waiting costs nothing. With one, time is the machine's: the world outside lives here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from everstep.client import Client
from everstep.definitions import Workflow
from everstep.errors import UsageError
from everstep.records import Micros
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.crash_life import RUN_ID, Execution, Subject, converse, gather
from everstep.testing.crash_points import Kill, Plan

PATIENCE_SECONDS = 60.0
"""Real seconds for one life. One of some steps takes half a second on an idle machine."""
CANNOT_BEGIN = 2
STUCK = 3
KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM
_SHOWN_CHARS = 2000


class Order(msgspec.Struct, frozen=True):
    """What a child is told: a file beside the store.

    Attributes:
        workflows: Where to find them, ``module:name``; the first is the one to run.
        arguments: Encoded.
        kill: Number and side; none for a life to the end.
        is_virtual: Time jumps.
        passed: How much of it has passed before, if so.
    """

    workflows: Sequence[str]
    arguments: bytes
    kill: tuple[int, str] | None
    is_virtual: bool
    passed: Micros


class Passed(msgspec.Struct, frozen=True):
    """One line of what a child leaves: a durable point that it passed, and when."""

    what: str
    at: Micros


def name_of(workflow: Workflow[..., Any]) -> str:
    """Where a new process finds a workflow.

    Raises:
        UsageError: Nowhere.
    """
    module = sys.modules.get(workflow.function.__module__)
    names = [name for name, value in vars(module).items() if value is workflow] if module is not None else []
    if module is None or not names:
        raise UsageError(
            f"workflow {workflow.name} was made inside a function, so no other process can find it. Nothing was run. Define it "
            "at the top of a module, or use kill='simulated'."
        )
    if module.__name__ == "__main__":
        raise UsageError(
            f"workflow {workflow.name} is in the program that is running (__main__), which a new process would start again. "
            "Nothing was run. Put it in a module of its own and import it, or use kill='simulated'."
        )
    return f"{module.__name__}:{names[0]}"


async def execute(subject: Subject, plan: Plan) -> Execution:
    """Run the workflow to its end, killed and resumed as planned."""
    names = [name_of(workflow) for workflow in dict.fromkeys([subject.workflow, *subject.known])]
    db = subject.folder.with_name("state.db")
    store = SQLiteStore(db)
    client = Client(store)
    async with client:
        driving = asyncio.ensure_future(converse(client, subject))
        try:
            lives = await _live_all(subject, plan, names, db, driving)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await driving
        finally:
            driving.cancel()
            await asyncio.wait([driving])
        return await gather(store, await client.get(RUN_ID), lives, len(lives) - 1)


async def _live_all(
    subject: Subject, plan: Plan, names: Sequence[str], db: Path, driving: asyncio.Future[None]
) -> list[list[str]]:
    lives: list[list[str]] = []
    time: Micros = 0
    for kill in (*(target.kill for target in plan), None):
        order = Order(names, subject.encoded, _pair(kill), subject.drive is None, time)
        was_killed = await _live(order, db, driving)
        passed = _passed(db)
        lives.append([point.what for point in passed])
        time = passed[-1].at if passed else time
        if not was_killed:
            break
    return lives


def _pair(kill: Kill | None) -> tuple[int, str] | None:
    return None if kill is None else (kill.number, kill.side)


async def _live(order: Order, db: Path, driving: asyncio.Future[None]) -> bool:
    """One child, from its start to its end; whether it was killed."""
    db.with_suffix(".order").write_bytes(msgspec.json.encode(order))
    db.with_suffix(".points").write_bytes(b"")
    said = db.with_suffix(".said")
    with said.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "everstep.testing.crash_child", str(db)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_importable())},
        )
    try:
        code = await _ended(child, driving)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    text = said.read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN_CHARS:]
    if code == CANNOT_BEGIN:
        raise UsageError(text)
    if code == STUCK:
        raise AssertionError(text)
    if code not in (0, KILLED):
        raise AssertionError(f"the process of this life ended with {code}:\n{text}")
    return code == KILLED


async def _ended(child: asyncio.subprocess.Process, driving: asyncio.Future[None]) -> int:
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not ended.done():
                waiting: list[asyncio.Future[Any]] = [ended, *([] if driving.done() else [driving])]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if driving.done():
                    driving.result()
    except TimeoutError:
        raise AssertionError(
            f"the run came to no end within {PATIENCE_SECONDS:g} real seconds. Is it waiting to be told something? See drive="
        ) from None
    finally:
        ended.cancel()
    return ended.result()


def _passed(db: Path) -> list[Passed]:
    # A kill may cut off the last line, though one write of so few bytes never was in practice.
    lines = db.with_suffix(".points").read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Passed) for line in lines]


def _importable() -> list[str]:
    """Where this process looks for modules: in the same places a child must find them."""
    return [str(Path(entry).absolute()) for entry in sys.path]
