"""
Simulated processes: what freezing, suspending and crashing does to them, and what it does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from everstep.testing.simulation.kernel import Kernel
from everstep.testing.simulation.process import Process, run_now


def booted(kernel: Kernel, main: Callable[[], Coroutine[Any, Any, None]], name: str = "p", rate: float = 1.0) -> Process:
    process = Process(kernel, name, 1, rate)
    kernel.processes.append(process)
    process.boot(main)
    return process


def test_time_passes_for_whoever_sleeps() -> None:
    kernel, woke = Kernel(0), list[float]()

    async def main() -> None:
        await asyncio.sleep(5)
        woke.append(kernel.seconds)

    booted(kernel, main)
    kernel.run(lambda: bool(woke), 100)

    assert [5.0] == [round(each, 3) for each in woke]


def test_a_frozen_process_stands_still_while_others_go_on() -> None:
    kernel, told = Kernel(0), list[str]()

    def sleeper(name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def main() -> None:
            await asyncio.sleep(1)
            told.append(f"{name} {kernel.seconds:.1f}")

        return main

    frozen = booted(kernel, sleeper("frozen"))
    booted(kernel, sleeper("other"))
    kernel.after(0.5, lambda: frozen.freeze(9))
    kernel.run(lambda: len(told) == 2, 100)

    assert ["other 1.0", "frozen 9.5"] == told


def test_a_suspended_process_does_not_see_that_time_has_passed() -> None:
    kernel, told = Kernel(0), list[float]()

    async def main() -> None:
        await asyncio.sleep(1)
        told.append(asyncio.get_running_loop().time())

    process = booted(kernel, main)
    process.freeze(9, suspended=True)
    kernel.run(lambda: bool(told), 100)

    assert [1.0] == [round(each, 3) for each in told]
    assert 10.0 == round(kernel.seconds, 3)


def test_a_crashed_process_runs_no_finally() -> None:
    kernel, told = Kernel(0), list[str]()

    async def main() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            told.append("unwound")

    process = booted(kernel, main)
    kernel.after(1, process.crash)
    kernel.run(lambda: False, 100)

    assert [] == told
    process.unwind()
    assert ["unwound"] == told


def test_a_clock_may_run_at_another_rate() -> None:
    kernel, woke = Kernel(0), list[float]()

    async def main() -> None:
        await asyncio.sleep(10)
        woke.append(kernel.seconds)

    booted(kernel, main, rate=2.0)
    kernel.run(lambda: bool(woke), 100)

    assert [5.0] == [round(each, 3) for each in woke]


def test_a_thread_does_its_work_later_and_the_loop_goes_on() -> None:
    kernel, told = Kernel(0), list[str]()

    async def main() -> None:
        work = asyncio.get_running_loop().run_in_executor(None, told.append, "thread")
        told.append("loop")
        await work
        told.append("answer")

    booted(kernel, main)
    kernel.run(lambda: len(told) == 3, 100)

    assert ["loop", "thread", "answer"] == told


def test_what_a_process_raises_is_a_finding() -> None:
    kernel = Kernel(0)

    async def main() -> None:
        raise ValueError("oops")

    booted(kernel, main)

    assert not kernel.run(lambda: False, 1)
    assert ["p ended with ValueError: oops"] == kernel.problems


def test_an_endless_loop_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everstep.testing.simulation.kernel.STEPS_MAX", 1000)
    kernel = Kernel(0)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(spin)
        await asyncio.Event().wait()

    def spin() -> None:
        kernel.processes[0].loop.call_soon(spin)

    booted(kernel, main)

    assert not kernel.run(lambda: False, 1)
    assert ["1000 turns of processes, and no end (I20)"] == kernel.problems
    kernel.processes[0].unwind()


def test_a_verb_that_suspends_is_no_transaction() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="suspended"):
        run_now(suspends())
