"""
A strict Env: what replay cannot repeat is refused where workflow code does it, and nowhere else.
"""

# ruff: noqa: PLW0108  # the call has to stand on a line of this file
from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import randint
from time import time as now
from types import FrameType

import pytest

import everstep as es
from everstep.core.loop import DeterministicLoop
from everstep.testing import Env, crash_everywhere, run
from everstep.testing.strict import Unrepeatable

doing: Callable[[], object] = lambda: None  # noqa: E731
drain = DeterministicLoop.drain


@es.step
def step(what: str) -> str:
    """Steps may do what they like."""
    doing()
    return what


@es.step
async def step_in_the_loop() -> None:
    doing()


@es.workflow
async def does_it() -> str:
    doing()
    return "done"


@es.workflow
async def does_it_in_steps() -> str:
    await step_in_the_loop()
    return await step("done")


@es.workflow
async def does_it_late() -> None:
    await asyncio.sleep(60)
    doing()


@es.workflow
async def hides_it() -> str:
    """As bad code does."""
    try:
        doing()
    except BaseException as error:  # noqa: BLE001
        return type(error).__name__
    return "done"


@es.workflow
async def does_it_in_a_group() -> None:
    async def member() -> None:
        doing()

    async with asyncio.TaskGroup() as group:
        group.create_task(member())


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "time": (lambda: time.time(), r"time\.time\(\) in workflow code reads the clock.*Use es\.now\(\)"),
    "time under a name of one's own": (lambda: now(), r"time\.time\(\) .* reads the clock"),
    "monotonic": (lambda: time.monotonic(), r"time\.monotonic\(\)"),
    "datetime.now": (lambda: datetime.now(UTC), r"datetime\.now\(\) .* reads the clock"),
    "date.today": (lambda: date.today(), r"date\.today\(\) .* reads the clock"),  # noqa: DTZ011
    "random": (lambda: random.random(), r"module random in workflow code is random.*es\.random\(\)"),
    "randint": (lambda: randint(1, 6), r"module random"),
    "shuffle": (lambda: random.shuffle([1, 2]), r"module random"),
    "Random without a seed": (lambda: random.Random(), r"random\.Random\(\) without a seed"),
    "SystemRandom": (lambda: random.SystemRandom().random(), r"os\.urandom\(\)"),
    "secrets": (lambda: secrets.token_hex(), r"os\.urandom\(\)"),
    "uuid1": (lambda: uuid.uuid1(), r"in workflow code (is random|reads the clock)"),
    "uuid4": (lambda: uuid.uuid4(), r"os\.urandom\(\)"),
    "sleep": (lambda: time.sleep(0), r"time\.sleep\(\) in workflow code blocks every run.*es\.sleep"),
    "thread": (lambda: threading.Thread(target=int).start(), r"threading\.Thread\.start\(\) .* leaves the workflow's loop"),
    "process id": (lambda: os.getpid(), r"os\.getpid\(\) .* depends on the process"),
    "open": (lambda: open(__file__), r"open\('.*test_strict\.py'\) in workflow code touches the file"),  # noqa: PTH123, SIM115
    "pathlib": (lambda: Path(__file__).read_text(), r"open\(.*Do it in a step"),
    "listdir": (lambda: os.listdir(), r"os\.listdir"),  # noqa: PTH208
    "tempfile": (lambda: tempfile.mkdtemp(), r"(tempfile|os)\.\w+\("),
    "socket": (lambda: socket.socket(), r"socket\.__new__\(\) .* another system"),
    "subprocess": (lambda: subprocess.run(["true"], check=False), r"subprocess\.Popen\('true'\)"),
}

ALLOWED: dict[str, Callable[[], object]] = {
    "es.now": lambda: es.now(),
    "es.random": lambda: es.random(),
    "es.uuid4": lambda: es.uuid4(),
    "es.log": lambda: es.log.warning("told"),
    "logging": lambda: logging.getLogger("elsewhere").warning("it reads the clock for itself"),
    "seeded": lambda: random.Random(es.random()).random(),
    "shuffle by a seed": lambda: random.Random(7).shuffle([1, 2]),
    "an instant": lambda: datetime.fromtimestamp(5, UTC),
    "a time zone": lambda: es.now().astimezone(zoneinfo.ZoneInfo("Pacific/Chatham")),
    "an import": lambda: __import__("colorsys"),
    "a warning": lambda: warnings.warn("it looks for the line of the source", DeprecationWarning, stacklevel=1),
}


def set_doing(what: Callable[[], object]) -> None:
    globals()["doing"] = what


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_a_workflow_with_the_line_and_what_to_use(name: str) -> None:
    what, told = REFUSED[name]
    set_doing(what)

    with pytest.raises(AssertionError, match=rf"test_strict\.py:\d+ \(.*\): .*{told}") as failure:
        run(does_it())

    assert "It was not done." in str(failure.value)
    assert isinstance(failure.value.__context__, es.RunFailed)


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_is_allowed_in_steps(name: str) -> None:
    done: list[object] = []
    if name in {"open", "socket"}:
        pytest.skip("would leave something open")
    set_doing(lambda: done.append(REFUSED[name][0]()))

    assert "done" == run(does_it_in_steps())
    assert 2 == len(done)


@pytest.mark.filterwarnings("ignore:it looks for:DeprecationWarning")
@pytest.mark.parametrize("name", ALLOWED)
def test_what_repeats_is_allowed(name: str) -> None:
    sys.modules.pop("colorsys", None)
    zoneinfo.ZoneInfo.clear_cache()
    set_doing(ALLOWED[name])

    assert "done" == run(does_it())


async def test_it_is_told_even_if_the_code_hides_it() -> None:
    set_doing(time.time)
    async with Env() as env:
        handle = await env.start(hides_it())
        assert Unrepeatable.__name__ == await handle
        with pytest.raises(AssertionError, match=r"time\.time\(\)"):
            env.check()
        env.check()


async def test_the_end_of_the_env_tells_what_nobody_has_been_told() -> None:
    set_doing(time.time)
    with pytest.raises(AssertionError, match=r"time\.time\(\)"):
        async with Env() as env:
            await (await env.start(hides_it()))


async def test_skip_tells_it_too() -> None:
    set_doing(time.time)
    async with Env() as env:
        await env.start(does_it_late())
        with pytest.raises(AssertionError, match=r"time\.time\(\)"):
            await env.skip(timedelta(minutes=1))


async def test_in_a_group_the_line_is_told_as_well() -> None:
    """Its members' errors come as a group, which would hide the message."""
    set_doing(time.time)
    async with Env() as env:
        with pytest.raises(AssertionError, match=r"test_strict\.py:\d+ .*time\.time\(\)"):
            await env.run(does_it_in_a_group())


class Leftover:
    """What a library may leave to be collected at any time."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        finalized.append(time.time())


finalized: list[float] = []


def measure(phase: str, info: dict[str, int]) -> None:
    """As hypothesis measures the collector."""
    finalized.append(time.perf_counter())


def collect() -> None:
    Leftover()
    gc.callbacks.append(measure)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(measure)


def test_the_collector_of_garbage_may_look_at_clocks() -> None:
    """It runs in whatever frame there is."""
    set_doing(collect)

    assert "done" == run(does_it())
    assert len(finalized) >= 3


async def test_it_can_be_turned_off() -> None:
    set_doing(time.time)
    async with Env(strict=False) as env:
        assert "done" == await env.run(does_it())


async def test_a_comment_allows_it_for_a_reason() -> None:
    """The same as for ``everstep check``; one of another rule, or without a reason, does not."""
    async with Env() as env:
        set_doing(lambda: time.time())  # everstep: ignore[E01] nobody sees it
        assert "done" == await env.run(does_it())
        set_doing(lambda: time.time())  # everstep: ignore[E02] nobody sees it
        with pytest.raises(AssertionError, match="reads the clock"):
            await env.run(does_it())
        set_doing(lambda: time.time())  # everstep: ignore[E01]
        with pytest.raises(AssertionError, match="reads the clock"):
            await env.run(does_it())


def test_crash_everywhere_is_strict() -> None:
    set_doing(time.time)
    with pytest.raises(AssertionError, match=r"does_it, uninterrupted: test_strict\.py.*time\.time\(\)"):
        crash_everywhere(does_it())


async def test_nothing_is_left_behind() -> None:
    """Neither a profile function nor a changed loop; the audit hook sleeps."""
    async with Env() as env:
        assert drain is not DeterministicLoop.drain
        set_doing(lambda: None)
        await env.run(does_it())
        assert None is sys.getprofile()

    assert drain is DeterministicLoop.drain
    for what, _ in (REFUSED["time"], REFUSED["pathlib"]):
        assert what()


def profile(frame: FrameType, event: str, what: object) -> None:
    """A profiler of the user's."""


async def test_beside_a_profiler_files_are_still_refused() -> None:
    """There is room for one profile function, and it is the user's."""
    set_doing(REFUSED["pathlib"][0])
    async with Env() as env:
        sys.setprofile(profile)
        try:
            with pytest.raises(AssertionError, match=r"open\("):
                await env.run(does_it())
            set_doing(time.time)
            assert "done" == await env.run(does_it())
            assert profile is sys.getprofile()
        finally:
            sys.setprofile(None)


async def test_another_engine_beside_it_is_not_watched() -> None:
    """The engine of another thread, on a loop of its own."""
    set_doing(time.time)
    done: list[str] = []

    async def elsewhere() -> None:
        async with es.Engine("memory://", [does_it]) as engine:
            done.append(await (await engine.start(does_it())))

    async with Env():
        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        thread.join()

    assert ["done"] == done
