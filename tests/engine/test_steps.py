"""
Executing steps: attempts, limits, what a body may do to the rest.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from typing import Any

import pytest

import everstep as es
from everstep.events import StepCompleted, StepFailed, StepOutcomeUnknown
from tests.engine.support import World, kill, turns, until, worker_of

NO_JITTER = es.Retry(attempts=3, delay=10, factor=2, jitter=0)


async def run(world: World, body: Any, *arguments: Any, engine: es.Engine | None = None) -> Any:
    """Run one step in a run called ``a``, and return its result."""

    @es.workflow
    async def only() -> Any:
        return await body(*arguments)

    engine = engine or await world.engine()
    return await (await engine.start(only(), id="a")).result()


async def test_a_plain_function_runs_in_a_thread(world: World) -> None:
    @es.step
    def where() -> str:
        return threading.current_thread().name

    assert (await run(world, where)).startswith("everstep-step")
    assert threading.current_thread() is threading.main_thread()


async def test_attempts_are_made_when_due_and_numbered(world: World) -> None:
    seen: list[tuple[int, float]] = []

    @es.step(retry=NO_JITTER)
    async def flaky() -> str:
        seen.append((es.current().attempt, world.seconds))
        if len(seen) < 3:
            raise OSError("not yet")
        return "at last"

    assert "at last" == await run(world, flaky)
    assert [1, 2, 3] == [attempt for attempt, _ in seen]
    assert [0, 10, 30] == [round(at, 1) for _, at in seen]
    [done] = [e for e in await world.events("a") if isinstance(e, StepCompleted)]
    assert 3 == done.attempt


async def test_a_step_without_attempts_left_fails_with_its_cause(world: World) -> None:
    @es.step(retry=NO_JITTER)
    async def hopeless() -> None:
        raise OSError("no")

    with pytest.raises(es.RunFailed, match="failed after 3 attempts") as raised:
        await run(world, hopeless)
    assert isinstance(raised.value.__cause__, es.StepFailed)
    assert 30 <= world.seconds < 30.1


async def test_a_body_may_say_when_to_try_again(world: World) -> None:
    @es.step(retry=2)
    async def limited() -> float:
        if es.current().attempt == 1:
            raise es.RetryAfter(77)
        return world.seconds

    assert 77 == round(await run(world, limited))


async def test_what_is_given_up_on_is_not_tried_again(world: World) -> None:
    attempts: list[int] = []

    @es.step(retry=es.Retry(attempts=5, give_up_on=(ValueError,)))
    async def picky() -> None:
        attempts.append(es.current().attempt)
        raise OSError if len(attempts) == 1 else ValueError("bad")

    with pytest.raises(es.RunFailed, match="bad"):
        await run(world, picky)
    assert [1, 2] == attempts


async def test_attempts_none_is_for_ever(world: World) -> None:
    @es.step(retry=es.Retry(attempts=None, delay=1, factor=1, jitter=0))
    async def stubborn() -> int:
        if es.current().attempt <= 100:
            raise OSError("no")
        return es.current().attempt

    assert 101 == await run(world, stubborn)


async def test_an_attempt_that_takes_too_long_times_out(world: World) -> None:
    stopped: list[int] = []

    @es.step(timeout=5)
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            stopped.append(es.current().attempt)

    @es.workflow
    async def careful() -> str:
        try:
            await slow()
        except es.StepTimeout as error:
            return f"attempt {error.attempt}: {TimeoutError in type(error).__mro__}"
        return "?"

    engine = await world.engine(careful)

    assert "attempt 1: True" == await (await engine.start(careful(), id="a")).result()
    assert 5 <= world.seconds < 5.1
    assert [1] == stopped


async def test_a_timeout_counts_as_a_failed_attempt(world: World) -> None:
    @es.step(timeout=5, retry=es.Retry(attempts=2, delay=10, jitter=0))
    async def slow_once() -> int:
        await asyncio.sleep(100 if es.current().attempt == 1 else 1)
        return es.current().attempt

    assert 2 == await run(world, slow_once)
    assert 16 <= world.seconds < 16.1


async def test_a_body_that_gives_no_heartbeat_times_out(world: World) -> None:
    @es.step(heartbeat_timeout=5)
    async def beats_thrice() -> None:
        for _ in range(3):
            await asyncio.sleep(4)
            es.heartbeat()
        await asyncio.sleep(100)

    with pytest.raises(es.RunFailed, match="gave no heartbeat for 5 s"):
        await run(world, beats_thrice)
    assert 17 <= world.seconds < 17.1


async def test_details_of_a_heartbeat_reach_the_next_attempt(world: World) -> None:
    @es.step(retry=es.Retry(attempts=2, delay=1))
    async def resumable() -> list[int | None]:
        before = es.last_heartbeat(int)
        es.heartbeat((before or 0) + 7)
        if es.current().attempt == 1:
            raise OSError("again")
        return [before, es.last_heartbeat(int)]

    assert [7, 7] == await run(world, resumable)


async def test_details_of_a_heartbeat_survive_a_killed_worker(world: World) -> None:
    seen: list[tuple[int, int | None]] = []

    @es.step
    async def resumable() -> str:
        seen.append((es.current().attempt, es.last_heartbeat(int)))
        if len(seen) == 1:
            es.heartbeat(7)
            await asyncio.sleep(1000)
        return "done"

    @es.workflow
    async def only() -> str:
        return await resumable()

    first = await world.engine(only)
    await first.start(only(), id="a")
    await asyncio.sleep(6)  # details are written with the renewal of the lease
    kill(first)
    second = await world.engine(only)

    assert "done" == await second.handle("a", only).result()
    assert [(1, None), (2, 7)] == seen
    assert {} == world.attempts("a")


async def test_a_result_that_cannot_be_stored_is_a_failure_and_not_tried_again(world: World) -> None:
    """H5: the effect has happened."""
    attempts: list[int] = []

    @es.step(retry=5)
    async def odd() -> Any:
        attempts.append(es.current().attempt)
        return object()

    with pytest.raises(es.RunFailed, match="Unencodable"):
        await run(world, odd)
    assert [1] == attempts


async def test_an_at_most_once_step_is_not_executed_again_after_a_kill(world: World) -> None:
    executed: list[int] = []

    @es.step(at_most_once=True)
    async def once() -> str:
        executed.append(es.current().attempt)
        await asyncio.sleep(100)
        return "never"

    @es.workflow
    async def careful() -> str:
        try:
            return await once()
        except es.StepOutcomeUnknown as error:
            return f"unknown: {error.step}"

    first = await world.engine(careful)
    await first.start(careful(), id="a")
    await turns()
    kill(first)
    second = await world.engine(careful)

    assert (await second.handle("a", careful).result()).startswith("unknown: ")
    assert [1] == executed
    assert 1 == len([e for e in await world.events("a") if isinstance(e, StepOutcomeUnknown)])


async def test_an_at_most_once_step_is_not_executed_again_after_a_hand_back(world: World) -> None:
    executed: list[int] = []

    @es.step(at_most_once=True)
    async def once() -> str:
        executed.append(es.current().attempt)
        await asyncio.sleep(100)
        return "never"

    @es.workflow
    async def careful() -> str:
        try:
            return await once()
        except es.StepOutcomeUnknown:
            return "unknown"

    first = await world.engine(careful, grace=1)
    await first.start(careful(), id="a")
    await turns()
    await first.close()
    second = await world.engine(careful)

    assert "unknown" == await second.handle("a", careful).result()
    assert [1] == executed


async def test_every_attempt_has_the_same_key_and_no_other_step_has_it(world: World) -> None:
    keys: list[str] = []

    @es.step(retry=es.Retry(attempts=2, delay=1))
    async def charge(n: int) -> None:
        keys.append(es.current().idempotency_key)
        if es.current().attempt == 1:
            raise OSError("again")

    @es.workflow
    async def shop() -> None:
        await charge(1)
        await charge(1)
        await asyncio.gather(charge(1), charge(1))

    engine = await world.engine(shop)
    await (await engine.start(shop(), id="a")).result()
    await (await engine.start(shop(), id="b")).result()

    assert 16 == len(keys)
    assert 8 == len(set(keys))


async def test_an_attempt_lost_with_its_worker_counts(world: World) -> None:
    """A2."""
    seen: list[tuple[int, str, int]] = []

    @es.step
    async def work() -> int:
        where = es.current()
        seen.append((where.attempt, where.idempotency_key, where.epoch))
        if where.attempt < 3:
            await asyncio.sleep(100)
        return where.attempt

    @es.workflow
    async def only() -> int:
        return await work()

    engine = await world.engine(only)
    await engine.start(only(), id="a")
    for _ in range(2):
        await turns()
        kill(engine)
        engine = await world.engine(only)

    assert 3 == await engine.handle("a", only).result()
    assert [1, 2, 3] == [attempt for attempt, _, _ in seen]
    assert 1 == len({key for _, key, _ in seen})
    epochs = [epoch for _, _, epoch in seen]
    assert sorted(set(epochs)) == epochs


async def test_a_body_gets_copies_of_its_arguments(world: World) -> None:
    @es.step
    async def spoil(things: list[int]) -> int:
        things.append(4)
        return len(things)

    @es.workflow
    async def careful() -> list[int]:
        things = [1, 2, 3]
        await spoil(things)
        await spoil(things)
        return things

    engine = await world.engine(careful)

    assert [1, 2, 3] == await (await engine.start(careful())).result()


async def test_what_a_body_sets_in_its_context_does_not_reach_the_next(world: World) -> None:
    variable = contextvars.ContextVar("variable", default="clean")

    @es.step
    async def dirty() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    @es.step
    def dirty_thread() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    @es.workflow
    async def both() -> list[str]:
        return [await dirty(), await dirty(), await dirty_thread(), await dirty_thread(), variable.get()]

    engine = await world.engine(both)

    assert ["clean"] * 5 == await (await engine.start(both())).result()
    assert "clean" == variable.get()


class Abort(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [SystemExit(3), Abort("stop"), StopIteration("end"), asyncio.CancelledError("mine")])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_body_raises_is_the_steps_failure(world: World, error: BaseException, in_thread: bool) -> None:
    """Else the run would wait for ever, or the worker would go."""

    @es.step
    async def raises() -> None:
        raise error

    @es.step
    def raises_in_thread() -> None:
        raise error

    with pytest.raises(es.RunFailed):
        await asyncio.wait_for(run(world, raises_in_thread if in_thread else raises), 60)
    [failed] = [e for e in await world.events("a") if isinstance(e, StepFailed)]
    assert not failed.timed_out


async def test_a_body_that_swallows_its_cancellation_cannot_hold_up_the_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    free = asyncio.Event()

    @es.step(timeout=5, retry=es.Retry(attempts=2, delay=1, jitter=0))
    async def stubborn() -> int:
        attempt = es.current().attempt
        while attempt == 1 and not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        es.heartbeat("late" if attempt == 1 else None)
        return attempt

    assert 2 == await asyncio.wait_for(run(world, stubborn), 60)
    free.set()
    await turns()
    [done] = [e for e in await world.events("a") if isinstance(e, StepCompleted)]
    assert 2 == done.attempt
    assert 1 == caplog.text.count("stubborn")


async def test_a_body_that_finishes_on_its_cancellation_keeps_its_result(world: World) -> None:
    """It was told to stop and came back with a result: its effect has happened."""

    @es.step(timeout=5)
    async def quick() -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "partial"
        return "?"

    assert "partial" == await run(world, quick)


async def test_a_thread_that_outlives_its_attempt_is_counted_until_it_ends(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    @es.step(timeout=5, retry=es.Retry(attempts=2, delay=1, jitter=0))
    def stuck() -> int:
        attempt = es.current().attempt
        if attempt == 1:
            loop.call_soon_threadsafe(begun.set)
            gate.wait(10)
            es.heartbeat("from the dead")
        return attempt

    @es.workflow
    async def only() -> int:
        return await stuck()

    engine = await world.engine(only, threads=2)
    handle = await engine.start(only(), id="a")
    await begun.wait()
    world.loop.jumps_over_threads = True
    await asyncio.sleep(5.5)
    threads = worker_of(engine).tools.threads
    assert 1 == threads.lost_count
    world.loop.threads_at_work.clear()
    world.loop.jumps_over_threads = False

    assert 2 == await handle.result()
    gate.set()
    await until(lambda: threads.lost_count == 0)
    assert 1 == caplog.text.count("cannot be stopped")


async def test_a_worker_without_threads_claims_nothing_until_one_comes_back(world: World) -> None:
    """J5, K1."""
    gate = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    @es.step(timeout=5)
    def stuck() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(10)

    @es.workflow
    async def hangs() -> None:
        await stuck()

    @es.workflow
    async def healthy() -> str:
        return "healthy"

    engine = await world.engine(hangs, healthy, threads=1)
    handle = await engine.start(hangs(), id="a")
    await begun.wait()
    world.loop.jumps_over_threads = True
    with pytest.raises(es.RunFailed):
        await handle.result()

    await (await world.client()).start(healthy(), id="b")
    await asyncio.sleep(30)
    assert "queued" == await engine.handle("b").status()
    gate.set()
    await until(lambda: worker_of(engine).tools.threads.lost_count == 0)
    assert "healthy" == await asyncio.wait_for(engine.handle("b").result(), 30)


async def test_time_spent_waiting_for_a_thread_is_not_the_attempts(world: World) -> None:
    """Else a queue in front of the pool would fail steps that never began."""
    gate = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    @es.step
    def holds() -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(10)

    @es.step(timeout=5)
    def quick() -> str:
        return "quick"

    @es.workflow
    async def first() -> None:
        await holds()

    @es.workflow
    async def second() -> str:
        return await quick()

    engine = await world.engine(first, second, threads=1)
    await engine.start(first(), id="a")
    await begun.wait()
    world.loop.jumps_over_threads = True
    handle = await engine.start(second(), id="b")
    await asyncio.sleep(30)
    world.loop.jumps_over_threads = False
    gate.set()

    assert "quick" == await handle.result()


async def test_a_heartbeat_of_an_earlier_attempt_is_not_taken_for_the_next_ones(world: World) -> None:
    """A thread that was given up still beats. (The wait is short, so that the run stays in memory.)"""
    scopes: list[Any] = []

    @es.step(retry=es.Retry(attempts=2, delay=0.5, jitter=0), heartbeat_timeout=5)
    async def work() -> str:
        from everstep.ambient import step_scope

        scopes.append(step_scope.get())
        if len(scopes) == 1:
            raise OSError("again")
        assert 1 == scopes[0].attempt
        assert 2 == scopes[1].attempt
        for _ in range(10):
            await asyncio.sleep(1)
            scopes[0].beat(b'"from the dead"')
        return "?"

    with pytest.raises(es.RunFailed, match="gave no heartbeat"):
        await run(world, work)


async def test_a_step_inside_a_step_is_refused(world: World) -> None:
    @es.step
    async def inner() -> int:
        return 1

    @es.step
    async def outer() -> int:
        return await inner()

    @es.step
    def outer_thread() -> int:
        result: int = asyncio.run(_await(inner()))
        return result

    with pytest.raises(es.RunFailed, match="inside the step") as raised:
        await run(world, outer)
    assert "UsageError" in str(raised.value)
    second = await world.engine()

    @es.workflow
    async def only() -> Any:
        return await outer_thread()

    with pytest.raises(es.RunFailed, match="inside the step"):
        await (await second.start(only())).result()


async def _await(call: Any) -> Any:
    return await call


async def test_a_forgotten_await_is_told(world: World) -> None:
    @es.step
    async def is_valid() -> bool:
        return False

    @es.workflow
    async def forgetful() -> str:
        return "yes" if is_valid() else "no"

    engine = await world.engine(forgetful)
    with pytest.warns(RuntimeWarning, match="never awaited"):  # noqa: PT031  # the call goes when its traceback does
        with pytest.raises(es.RunFailed, match="Did you forget await"):
            await (await engine.start(forgetful())).result()
        gc.collect()


async def test_a_step_that_was_given_up_is_not_tried_again_whatever_it_raises(world: World) -> None:
    """A body that turns its cancellation into an ordinary error must not get its retries."""
    attempts: list[int] = []

    @es.step(retry=es.Retry(attempts=5, delay=1))
    async def sulky() -> None:
        attempts.append(es.current().attempt)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise OSError("I was busy") from None

    @es.workflow
    async def impatient() -> str:
        try:
            await asyncio.wait_for(sulky(), 5)
        except TimeoutError:
            await asyncio.sleep(50)
        return "gave up"

    engine = await world.engine(impatient)

    assert "gave up" == await (await engine.start(impatient(), id="a")).result()
    assert [1] == attempts
