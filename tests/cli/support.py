"""Real processes of the command line, and a store with one run of every kind."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import everstep as es
from everstep.records import Status
from tests.cli import program

SECONDS_MAX = 60
SILENCE_SECONDS = 3.0
SOURCES = str(Path(es.__file__).parents[1])


def everstep(
    *arguments: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without a terminal."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(env),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "everstep", *arguments]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what would change the outcome; the everstep under test can be imported."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EVERSTEP_", "PYTHON", "NO_COLOR"))}
    return {**inherited, "PYTHONPATH": SOURCES, "PYTHONUTF8": "1", **(more or {})}


OWN_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Make stdin the controlling terminal, so that Ctrl-C typed there is a signal."""


def on_a_terminal(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, typed: tuple[str, str] | None = None, columns: int = 100
) -> tuple[int, str]:
    """Run the command line on a terminal.

    Args:
        arguments: Of the command line.
        cwd: Where.
        env: Added to the environment.
        typed: What is typed (second) once something (first) has appeared.
        columns: Width of the terminal.

    Returns:
        The exit code, and everything that appeared.
    """
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_TERMINAL, *command(*arguments)],
        cwd=cwd,
        env=environment({"TERM": "xterm-256color", **(env or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    # Where nothing comes any more, something hangs: the test must not.
    watchdog = threading.Timer(SECONDS_MAX, process.kill)
    watchdog.start()
    try:
        seen = _converse(ours, typed)
        return process.wait(SECONDS_MAX), seen
    finally:
        watchdog.cancel()
        os.close(ours)


def _converse(terminal: int, typed: tuple[str, str] | None) -> str:
    seen = bytearray()
    while True:
        # An interrupt just before input() begins to wait is noticed only at the next one: people press again, and so do we.
        if not select.select([terminal], [], [], SILENCE_SECONDS)[0]:
            if typed is not None and typed[0].encode() in seen:
                os.write(terminal, typed[1].encode())
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            chunk = b""  # how Linux says that the other side is closed
        if not chunk:
            return seen.decode("utf-8", "replace")
        asked = typed is not None and typed[0].encode() in seen
        seen += chunk
        if typed is not None and not asked and typed[0].encode() in seen:
            os.write(terminal, typed[1].encode())


async def seed(directory: Path) -> None:
    """Fill ``.everstep/state.db`` of a directory through the real API, and put the program beside it."""
    shutil.copy(program.__file__, directory / "app.py")
    url = f"sqlite:///{(directory / '.everstep' / 'state.db').as_posix()}"
    workflows: list[es.Workflow[..., Any]] = [
        program.checkout,
        program.declined,
        program.hostile,
        program.patient,
        program.parent,
    ]
    async with es.Engine(url, workflows=workflows) as engine:
        await (await engine.start(program.checkout("1", 1999), id="order-1", tags={"tenant": "acme"}))
        await settled(engine, await engine.start(program.declined("no funds"), id="order-2"))
        await (await engine.start(program.hostile(program.HOSTILE), id="hostile-1"))
        await settled(engine, await engine.start(program.declined(program.HOSTILE), id="hostile-2"))
        await engine.start(program.patient(program.Order("3", 5)), id="order-3")
        await engine.start(program.parent("4"), id="order-4")
        stopped = await engine.start(program.patient(program.Order("5", 5)), id="order-5")
        await stopped.cancel("changed my mind", actor="ann")
        await settled(engine, stopped)
        for run_id in ("order-3", "order-4"):
            while await engine.handle(run_id).status() is not Status.WAITING:  # noqa: ASYNC110  # another loop parks them
                await asyncio.sleep(0.01)
    async with es.Client(url) as client:
        await client.start(program.checkout("6"), id="order-6")


async def settled(engine: es.Engine, handle: es.Handle[object]) -> None:
    """Wait until a run is at rest, whatever became of it."""
    await engine.wait_until_rest(handle.run_id, SECONDS_MAX)


def cells(line: str) -> Sequence[str]:
    """The cells of a line of TSV."""
    return line.split("\t")
