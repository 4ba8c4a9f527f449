"""A run leaves memory in order: its finally blocks run, nothing is recorded, hangs, stays or is warned of."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

import everstep as es
from everstep.core.loop import REFUSALS_MAX
from everstep.definitions import Call
from tests.core.driver import Run
from tests.core.steps import add, charge, note, ship

told: list[str] = []
"""What the code said while it was unwound; a local list would be part of what is freed."""


@pytest.fixture(autouse=True)
def _silence() -> None:
    told.clear()


def begun(call: Call[object]) -> Run:
    """A run that waits for what it asked for first."""
    run = Run(call)
    run.begin()
    return run


def test_finally_blocks_run_inside_out_and_the_last_task_first() -> None:
    @es.workflow
    async def nested() -> None:
        async def member(name: str) -> None:
            try:
                await note(name)
            finally:
                told.append(name)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(member("a"))
                group.create_task(member("b"))
        finally:
            told.append("outer")

    begun(nested()).evict()

    assert ["b", "a", "outer"] == told


@pytest.mark.parametrize(
    "again",
    [
        lambda: ship("42"),
        lambda: asyncio.sleep(5),
        lambda: es.sleep(5),
        lambda: asyncio.create_task(ship("42")),
        lambda: asyncio.gather(ship("42"), ship("43")),
        lambda: asyncio.wait_for(ship("42"), 5),
        lambda: asyncio.Event().wait(),
        lambda: asyncio.Queue[int]().get(),
    ],
)
def test_what_a_finally_starts_is_refused(again: Callable[[], object]) -> None:
    """It would be work of a run that this process may no longer own."""

    @es.workflow
    async def careless() -> None:
        try:
            await charge("42", 1)
        finally:
            try:
                await again()  # type: ignore[misc]
            except BaseException as error:
                told.append(type(error).__name__)
                raise

    run = begun(careless())
    version = run.execution.version
    issued = list(run.execution.program.issued)
    run.evict()

    assert ["Evicted"] == told
    assert (version, issued) == (run.execution.version, run.execution.program.issued)


def test_evicted_is_not_an_exception_that_code_swallows() -> None:
    @es.workflow
    async def careful() -> None:
        try:
            await charge("42", 1)
        except Exception:  # noqa: BLE001
            told.append("swallowed")
        told.append("went on")

    begun(careful()).evict()

    assert [] == told


def test_code_that_swallows_everything_for_ever_is_left_behind() -> None:
    """Neither this nor a later garbage collection may hang, or execute the step as if it stood outside a workflow."""
    bodies: list[str] = []

    @es.step
    def forbidden() -> None:
        bodies.append("executed")

    @es.workflow
    async def stubborn() -> None:
        while True:
            try:
                await forbidden()
            except BaseException:  # noqa: BLE001
                told.append("no")

    run = begun(stubborn())
    run.evict()
    del run
    gc.collect()

    assert REFUSALS_MAX <= len(told) < REFUSALS_MAX + 100
    assert [] == bodies


def test_code_that_swallows_and_sleeps_for_ever_is_left_behind() -> None:
    @es.workflow
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(1)
            except BaseException:  # noqa: BLE001
                told.append("no")

    begun(stubborn()).evict()
    gc.collect()

    assert len(told) < REFUSALS_MAX + 100


def test_the_first_await_of_a_finally_ends_it() -> None:
    @es.workflow
    async def slow() -> None:
        try:
            await charge("42", 1)
        finally:
            told.append("before")
            await asyncio.sleep(0)
            told.append("after")

    begun(slow()).evict()

    assert ["before"] == told


def test_an_error_in_a_finally_concerns_nobody() -> None:
    @es.workflow
    async def broken() -> None:
        try:
            await charge("42", 1)
        finally:
            raise RuntimeError("in finally")

    begun(broken()).evict()


def test_an_async_generator_in_mid_air_is_closed() -> None:
    """``coroutine.close()`` would skip its finally on Python 3.11 and 3.12."""

    @es.workflow
    async def pages() -> None:
        async def each() -> AsyncIterator[str]:
            try:
                yield await note("a")
                yield await note("b")
            finally:
                told.append("generator")

        try:
            async for _ in each():
                pass
        finally:
            told.append("workflow")

    run = begun(pages())
    run.feed(run.done("note"))
    run.evict()

    assert ["generator", "workflow"] == told


def test_a_context_variable_is_reset_in_its_own_context() -> None:
    from contextvars import ContextVar

    name: ContextVar[str] = ContextVar("name")

    @es.workflow
    async def scoped() -> None:
        token = name.set("inside")
        try:
            await note("a")
        finally:
            name.reset(token)
            told.append("reset")

    begun(scoped()).evict()

    assert ["reset"] == told


def test_calls_that_were_not_awaited_yet_are_dropped_in_silence() -> None:
    """The run has not forgotten them: it comes back to them."""

    @es.workflow
    async def several() -> int:
        total = 0
        for call in [add(1), add(2), add(3)]:
            total += await call
        return total

    run = begun(several())
    run.evict()
    del run
    gc.collect()


def test_tasks_that_never_ran_are_dropped_in_silence() -> None:
    @es.workflow
    async def several() -> None:
        async def never() -> None:
            await note("a")

        try:
            await charge("42", 1)
        finally:
            told.append("finally")
            asyncio.create_task(never())  # noqa: RUF006

    begun(several()).evict()
    gc.collect()

    assert ["finally"] == told


def test_memory_is_freed() -> None:
    class Large:
        pass

    alive: list[weakref.ref[Large]] = []

    @es.workflow
    async def holds() -> None:
        large = Large()
        alive.append(weakref.ref(large))
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(note("a"))
            await asyncio.gather(note(str(large)), asyncio.sleep(5))

    run = begun(holds())
    assert alive[0]() is not None
    run.evict()
    del run
    from tests.core.driver import evict_all

    evict_all()
    gc.collect()

    assert alive[0]() is None


async def test_the_host_gets_its_loop_its_task_and_its_hooks_back() -> None:
    host, task, hooks = asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()
    seen: list[object] = []

    @es.workflow
    async def looks() -> None:
        try:
            seen.extend([asyncio.get_running_loop(), asyncio.current_task()])
            await note("a")
        finally:
            seen.extend([asyncio.get_running_loop(), asyncio.current_task()])

    run = begun(looks())
    between = (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks())
    run.evict()

    assert (host, task, hooks) == between
    assert (host, task, hooks) == (asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks())
    assert seen[:2] == seen[2:], "the finally sees its own loop and task"
    assert host not in seen
    assert task not in seen


async def test_a_workflow_that_raises_gives_the_host_back_as_well() -> None:
    host, task = asyncio.get_running_loop(), asyncio.current_task()

    @es.workflow
    async def exits() -> None:
        raise SystemExit(1)

    begun(exits())

    assert (host, task) == (asyncio.get_running_loop(), asyncio.current_task())


def test_eviction_may_be_repeated() -> None:
    run = begun(charge_workflow())
    run.evict()
    run.evict()

    assert not run.open


@es.workflow
async def charge_workflow() -> str:
    return await charge("42", 1)


def test_tasks_of_many_runs_do_not_collide() -> None:
    """asyncio keeps all tasks in one set: equal hashes would make ten thousand runs quadratic."""
    hashes: list[int] = []

    @es.workflow
    async def looks() -> None:
        hashes.append(hash(asyncio.current_task()))

    for number in range(100):
        Run(looks(), run_id=f"run-{number}").finish()

    assert 100 == len(set(hashes))
