"""Every coordination primitive of asyncio works under the loop, and replays from every prefix of its journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import everstep as es
from everstep.events import ChildStarted, RunFailed, StepCancelled, StepScheduled, TimerCancelled, TimerStarted
from tests.core.driver import START, Run, chooser, commands_of, drive
from tests.core.steps import add, charge, child, decline, note, ship


def test_steps_one_after_the_other() -> None:
    @es.workflow
    async def checkout(order_id: str) -> list[str]:
        return [await charge(order_id, 1999), await ship(order_id)]

    run = drive(checkout("42"))

    assert ["receipt 42 1999", "shipped 42"] == run.result
    assert 3 == len(run.entries), "result of step N and intent of step N+1 share an entry"


def test_sleep_is_a_timer() -> None:
    @es.workflow
    async def nap() -> str:
        before = es.now()
        await asyncio.sleep(86_400 * 30)
        return str(es.now() - before)

    run = drive(nap())

    [timer] = commands_of(run.entries[0])
    assert isinstance(timer, TimerStarted)
    assert (30 * 86_400_000_000, START + 30 * 86_400_000_000) == (timer.delay, timer.due_at)
    assert "30 days, 0:00:00" == run.result


def test_es_sleep_takes_a_timedelta_and_sleep_until_an_instant() -> None:
    @es.workflow
    async def nap() -> float:
        begin = es.now()
        await es.sleep(timedelta(minutes=1))
        await es.sleep_until(begin + timedelta(hours=1))
        await es.sleep_until(begin)
        return (es.now() - begin).total_seconds()

    assert 3600.0 == drive(nap()).result


def test_a_timer_that_fired_dates_its_entry() -> None:
    """The store refuses the entry before that instant: no timer is early by its clock (I9)."""

    @es.workflow
    async def nap() -> None:
        await asyncio.gather(asyncio.sleep(5), asyncio.sleep(7))

    run = Run(nap())
    run.begin()
    first, second = run.timers
    run.feed(run.fired(first), run.fired(second))

    assert START + 7_000_000 == run.not_before


def test_a_timer_that_rings_after_it_was_cancelled_is_ignored() -> None:
    """Its alarm may go off while the entry that cancels it is being committed."""

    @es.workflow
    async def race() -> str:
        async with asyncio.timeout(5):
            await note("quick")
        return await ship("42")

    run = Run(race())
    run.begin()
    [key] = run.timers
    late = run.fired(key)
    run.feed(run.done("note"))
    run.feed(late)

    assert run.not_before is None
    assert "shipped 42" == run.finish().check_replays().result


def test_timeout_in_time() -> None:
    @es.workflow
    async def bounded() -> str:
        async with asyncio.timeout(5):
            return await note("in time")

    run = drive(bounded())

    assert "in time" == run.result
    assert [TimerCancelled] == [type(command) for command in commands_of(run.entries[1])]


def test_timeout_that_passes_cancels_the_step() -> None:
    @es.workflow
    async def bounded() -> str:
        try:
            async with asyncio.timeout(5):
                return await note("too late")
        except TimeoutError:
            return "timed out"

    run = Run(bounded())
    run.begin()
    commands = run.feed(run.fired())

    assert [StepCancelled("0:2")] == commands
    assert "timed out" == run.check_replays().result


def test_timeout_at_and_reschedule() -> None:
    @es.workflow
    async def bounded() -> float:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(loop.time() + 5) as limit:
                await asyncio.sleep(3)
                limit.reschedule(loop.time() + 10)
                await asyncio.sleep(60)
        except TimeoutError:
            return loop.time()
        return -1

    assert 13.0 == drive(bounded()).result


def test_timeouts_nest() -> None:
    @es.workflow
    async def bounded() -> str:
        try:
            async with asyncio.timeout(10):
                try:
                    async with asyncio.timeout(5):
                        await asyncio.sleep(60)
                except TimeoutError:
                    await asyncio.sleep(60)
        except TimeoutError:
            return "outer"
        return "none"

    run = drive(bounded())

    assert "outer" == run.result
    assert START + 10_000_000 == run.now


def test_wait_for() -> None:
    @es.workflow
    async def bounded() -> list[str]:
        got = [await asyncio.wait_for(note("in time"), 5), await asyncio.wait_for(note("no limit"), None)]
        try:
            await asyncio.wait_for(asyncio.sleep(60), 5)
        except TimeoutError:
            got.append("late")
        return got

    assert ["in time", "no limit", "late"] == drive(bounded()).result


def test_gather_keeps_its_order_whatever_the_order_of_results() -> None:
    @es.workflow
    async def many() -> list[str]:
        return list(await asyncio.gather(note("a"), note("b"), child("42")))

    for order in ([0, 2], [0, 1], [0, 0], [2, 2, 1, 0]):
        assert ["a", "b", "shipped 42"] == drive(many(), choose=chooser(order)).result


def test_gather_raises_the_first_failure_and_leaves_the_others_running() -> None:
    """As under asyncio; a TaskGroup cancels its members."""

    @es.workflow
    async def many() -> str:
        slow = asyncio.gather(decline("no"), note("still runs"))
        try:
            await slow
        except es.StepFailed as error:
            return str(error.__cause__)
        return ""

    run = Run(many())
    run.begin()
    commands = run.feed(run.done("decline"))

    assert [] == commands
    assert "no" == run.check_replays().result


def test_gather_returns_exceptions_if_asked() -> None:
    @es.workflow
    async def many() -> list[str]:
        results = await asyncio.gather(decline("no"), note("yes"), return_exceptions=True)
        return [type(result).__name__ for result in results]

    assert ["StepFailed", "str"] == drive(many()).result


def test_wait_first_completed() -> None:
    @es.workflow
    async def race() -> list[str]:
        names = {asyncio.create_task(note(text)): text for text in ("a", "b", "c")}
        done, pending = await asyncio.wait(names, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return [names[task] for task in done]

    run = Run(race())
    run.begin()
    keys = list(run.open)
    commands = run.feed(run.answer(keys[1]))

    assert [StepCancelled(keys[0]), StepCancelled(keys[2])] == commands
    assert ["b"] == run.finish().check_replays().result


def test_wait_all_completed_and_first_exception_and_timeout() -> None:
    @es.workflow
    async def waits() -> list[int]:
        counts: list[int] = []
        options: dict[str, Any]
        for options in ({}, {"return_when": asyncio.FIRST_EXCEPTION}, {"timeout": 3}):
            made = [asyncio.create_task(work) for work in (note("a"), decline("no"), asyncio.sleep(5))]
            done, pending = await asyncio.wait(made, **options)
            counts.append(len(done))
            for task in pending:
                task.cancel()
            await asyncio.gather(*made, return_exceptions=True)
        return counts

    run = Run(waits()).finish().check_replays()

    assert [3, 2, 2] == run.result
    run.evict()


def test_as_completed_yields_in_the_order_of_completion() -> None:
    @es.workflow
    async def race() -> list[str]:
        return [await each for each in asyncio.as_completed([note("a"), note("b"), note("c")])]

    run = Run(race())
    run.begin()
    a, b, c = run.open
    run.feed(run.answer(c))
    run.feed(run.answer(a))
    run.feed(run.answer(b))

    assert ["c", "a", "b"] == run.check_replays().result


def test_as_completed_starts_coroutines_in_the_order_given() -> None:
    """asyncio takes them out of a set: by address, so in another order in each process."""

    async def named(text: str) -> str:
        return await note(text)

    @es.workflow
    async def race() -> list[str]:
        texts = [f"{number:02}" for number in range(20)]
        return [await each for each in asyncio.as_completed([named(text) for text in texts])]

    run = Run(race())
    commands = run.begin()

    assert [f'{{"text":"{number:02}"}}'.encode() for number in range(20)] == [
        bytes(command.args) for command in commands if isinstance(command, StepScheduled)
    ]
    assert 20 == len(run.finish().check_replays().result)


def test_as_completed_times_out() -> None:
    @es.workflow
    async def race() -> list[str]:
        got: list[str] = []
        try:
            for each in asyncio.as_completed([note("a"), asyncio.sleep(60, "b")], timeout=5):
                got.append(await each)  # noqa: PERF401  # what came in time is kept
        except TimeoutError:
            got.append("late")
        return got

    assert ["a", "late"] == drive(race()).result


def test_a_task_group_cancels_its_members_when_one_fails() -> None:
    @es.workflow
    async def group() -> list[str]:
        causes: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(decline("no"))
                tasks.create_task(note("cancelled"))
                tasks.create_task(asyncio.sleep(60))
        except* es.StepFailed as failed:
            causes.extend(str(error.__cause__) for error in failed.exceptions)
        return causes

    run = Run(group())
    run.begin()
    commands = run.feed(run.done("decline"))

    assert [StepCancelled, TimerCancelled] == [type(command) for command in commands]
    assert ["no"] == run.check_replays().result


def test_shield_lets_the_step_finish() -> None:
    @es.workflow
    async def careful() -> str:
        inner = asyncio.create_task(note("kept"))
        try:
            async with asyncio.timeout(5):
                await asyncio.shield(inner)
        except TimeoutError:
            return await inner
        return "?"

    run = Run(careful())
    run.begin()
    commands = run.feed(run.fired())

    assert [] == commands
    assert "kept" == run.finish().check_replays().result


def test_lock_semaphore_event_condition_barrier_queue() -> None:
    @es.workflow
    async def coordinate() -> list[str]:
        lock, slots, go, changed = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event(), asyncio.Condition()
        meet: asyncio.Barrier = asyncio.Barrier(3)
        queue: asyncio.Queue[str] = asyncio.Queue(1)
        log: list[str] = []

        async def worker(name: str) -> None:
            async with slots:
                log.append(await note(f"{name} in"))
            await go.wait()
            async with lock:
                log.append(await note(f"{name} locked"))
            await meet.wait()
            await queue.put(name)
            async with changed:
                changed.notify_all()

        async with asyncio.TaskGroup() as group:
            for name in ("a", "b", "c"):
                group.create_task(worker(name))
            await asyncio.sleep(1)
            go.set()
            async with changed:
                await changed.wait()
            log.extend([await queue.get() for _ in range(3)])
        return log

    run = drive(coordinate())

    assert ["a in", "b in", "c in", "a locked", "b locked", "c locked"] == run.result[:6]
    assert {"a", "b", "c"} == set(run.result[6:])


def test_an_async_generator_dropped_half_way_is_closed_by_the_loop() -> None:
    @es.workflow
    async def partial() -> list[str]:
        log: list[str] = []

        async def pages() -> AsyncIterator[str]:
            try:
                for text in ("a", "b", "c"):
                    yield await note(text)
            finally:
                log.append(await note("closed"))

        async for text in pages():
            log.append(text)
            if text == "b":
                break
        await asyncio.sleep(1)
        return log

    assert ["a", "b", "closed"] == drive(partial()).result


def test_context_variables_belong_to_tasks_and_nothing_of_the_host_leaks_in() -> None:
    name: ContextVar[str] = ContextVar("name", default="unset")

    @es.workflow
    async def tell() -> list[str]:
        async def inner() -> str:
            before = name.get()
            name.set("inner")
            await note("suspend")
            return before + name.get()

        at_first = name.get()
        name.set("outer")
        got = await asyncio.create_task(inner())
        return [at_first, got, name.get()]

    name.set("host")

    assert ["unset", "outerinner", "outer"] == drive(tell()).result


def test_two_timers_of_one_callback_are_two_timers() -> None:
    """asyncio's timer handles are equal if their time, callback and arguments are."""

    @es.workflow
    async def ticks() -> int:
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        loop = asyncio.get_running_loop()
        loop.call_later(5, tick)
        loop.call_later(5, tick)
        unwanted = loop.call_later(5, tick)
        unwanted.cancel()
        await asyncio.sleep(10)
        return count

    run = Run(ticks())
    run.begin()
    first, second, third = run.timers
    run.feed(run.fired(first), run.fired(second))
    run.feed(run.fired(third))

    assert 2 == run.check_replays().result


def test_now_random_and_uuid_are_the_same_on_every_replay_and_differ_between_instants() -> None:
    @es.workflow
    async def ask() -> list[str]:
        values = [str(es.uuid4()), str(es.random()), str(es.now())]
        await asyncio.sleep(1)
        return [*values, str(es.uuid4()), str(es.random()), str(es.now())]

    run = drive(ask())

    assert 6 == len(set(run.result))


def test_current_names_the_run_and_the_entry() -> None:
    @es.workflow
    async def ask() -> list[str | int]:
        await note("first")
        where = es.current()
        return [where.run_id, where.idempotency_key, where.version, where.step]

    assert ["run-1", "run-1", 2, ""] == drive(ask()).result


def test_a_child_is_awaited_like_a_step() -> None:
    @es.workflow
    async def parent() -> str:
        return await child("42")

    run = drive(parent())

    assert "shipped 42" == run.result
    assert ["run-1/0:1"] == [command.run_id for command in commands_of(run.entries[0]) if isinstance(command, ChildStarted)]


def test_the_step_that_fails_raises_its_cause_at_the_await() -> None:
    @es.workflow
    async def careful() -> str:
        try:
            return await decline("no funds")
        except es.StepFailed as error:
            return f"{error.step} {error.attempt} {error.__cause__!r}"

    assert "decline 1 ValueError('no funds')" == drive(careful()).result


def test_sys_exit_in_a_task_fails_the_run_and_nothing_hangs() -> None:
    """asyncio stops its loop at SystemExit; here it is one workflow's failure, and the rest of the activation goes on."""

    @es.workflow
    async def leaves() -> int:
        async def exits() -> int:
            raise SystemExit(3)

        return sum(await asyncio.gather(exits(), add(1)))

    run = Run(leaves())
    run.begin()

    assert isinstance(run.ending, RunFailed)
    assert "SystemExit" == run.ending.error.type
    run.check_replays().evict()


def test_a_crash_between_entries_changes_nothing() -> None:
    """The claim that follows a crash is an entry in which no code runs; what it says joins the next."""

    @es.workflow
    async def three() -> int:
        return await add(await add(await add(0)))

    run = Run(three())
    run.begin()
    run.claim_after_death()
    run.feed(run.done("add"))
    run.claim_after_death()
    run.claim_after_death()
    run.finish().check_replays()

    assert 3 == run.result
    assert 3 == run.execution.recoveries
    run.evict()
