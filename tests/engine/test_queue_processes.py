"""I16 with real processes that are really killed: the limits of a queue hold, and all of its runs end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from everstep.client import Client
from everstep.limits import QueueRecord
from tests.engine.queue_program import CONCURRENCY, crowd, job

ROOT = Path(__file__).parents[2]
RUNS = 30
KEYS = "abcd"
SECONDS_MAX = 90


class Workers:
    """Processes of ``queue_program``."""

    def __init__(self, place: Path) -> None:
        self.url = f"sqlite:///{place / 'state.db'}"
        self.place = place
        self._count = 0
        self.running: list[subprocess.Popen[bytes]] = []

    def add(self) -> None:
        """One more, that is at work."""
        self._count += 1
        ready = self.place / f"ready-{self._count}"
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        command = [sys.executable, "-m", "tests.engine.queue_program", self.url, str(ready)]
        self.running.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}))
        wait_until(ready.exists)

    def kill(self) -> None:
        """The oldest dies."""
        process = self.running.pop(0)
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    some = Workers(tmp_path)
    yield some
    while some.running:
        some.kill()


def test_limits_hold_while_processes_are_killed(workers: Workers) -> None:
    """Whatever is at work in a process that dies keeps its place until another process has finished it."""
    log = workers.place / "log"
    for _ in range(3):
        workers.add()
    asyncio.run(start_all(workers.url, log))

    for share in (0.2, 0.5):
        wait_until(partial(has_ended, log, RUNS * share))
        workers.kill()
        workers.add()
    results, queue = asyncio.run(end_of_all(workers.url))

    assert [str(n) for n in range(RUNS)] == results
    assert (0, 0) == (queue.admitted_count, queue.waiting_count)
    assert {str(n) for n in range(RUNS)} == ended(lines(log))
    for busy in at_work(lines(log)):
        assert CONCURRENCY >= len(busy)
        assert len(busy) == len(set(busy.values()))


async def start_all(url: str, log: Path) -> None:
    async with Client(url) as client:
        for n in range(RUNS):
            key = KEYS[n % len(KEYS)]
            await client.start(job(str(n), key, str(log)), id=f"r{n}", queue=crowd, key=key)


async def end_of_all(url: str) -> tuple[list[str], QueueRecord]:
    async with Client(url) as client, asyncio.timeout(SECONDS_MAX):
        results = [await client.handle(f"r{n}", job) for n in range(RUNS)]
        [queue] = await client.queues()
        return results, queue


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)


def has_ended(log: Path, count: float) -> bool:
    return len(ended(lines(log))) >= count


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def ended(noted: list[list[str]]) -> set[str]:
    return {what for event, what, _ in noted if event == "end"}


def at_work(noted: list[list[str]]) -> Iterator[dict[str, str]]:
    """After each line the runs that have begun and not ended, with their keys."""
    busy: dict[str, str] = {}
    over: set[str] = set()
    for event, what, key in noted:
        if event == "end":
            busy.pop(what, None)
            over.add(what)
        elif what not in over:
            busy[what] = key
        # else: its result was lost with its process, so its body began again; its place was never given away.
        yield dict(busy)
