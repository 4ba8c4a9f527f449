"""
Operations of random programs that coordinate tasks: locks, semaphores, events, conditions, barriers, queues and generators,
with waiters that are timed out and cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import everstep as es
from tests.core.program_nodes import Program, inner, op, outcome_of, perform, start, work

approval = es.signal("approval", str)


@op
async def _lock(parts: Program, log: list[str]) -> Any:
    lock, gate = asyncio.Lock(), asyncio.Semaphore(2)

    async def guarded(part: Program) -> Any:
        async with gate, lock:
            return await perform(part, log)

    return len(await asyncio.gather(*map(guarded, parts), return_exceptions=True))


@op
async def _queue(parts: Program, log: list[str]) -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def produce() -> None:
        # Each in a task of its own: on Python 3.11 a group that fails leaves its task counted as cancelled, which would end the
        # producer, and the consumer counts on one item for each part.
        for part in parts:
            await queue.put(await outcome_of(start(perform(part, log))))

    producer = asyncio.create_task(produce())
    try:
        got = [await queue.get() for _ in parts]
    finally:
        producer.cancel()
    await asyncio.wait([producer])
    return got


@op
async def _condition(parts: Program, log: list[str]) -> Any:
    condition, event, barrier = asyncio.Condition(), asyncio.Event(), asyncio.Barrier(2)
    ready: list[Any] = []

    async def waiter() -> Any:
        await event.wait()
        async with condition:
            await condition.wait_for(lambda: len(ready) == len(parts))
        await barrier.wait()
        return list(ready)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waiter())
        for part in parts:
            value = await perform(part, log)
            event.set()
            async with condition:
                ready.append(value)
                condition.notify_all()
        await barrier.wait()
    return await waiting


@op
async def _generator(parts: Program, log: list[str]) -> Any:
    async def each() -> AsyncGenerator[Any, None]:
        try:
            for part in parts:
                yield await perform(part, log)
        finally:
            log.append(f"closed {await work(11)}")

    async for value in each():
        if value is None or value == 1:
            return value  # drops the generator half-way: the loop closes it
    return "all"


@op
async def _held_lock(parts: Program, log: list[str]) -> Any:
    """Whoever waits for a lock is timed out, cancelled, and served in turn."""
    lock = asyncio.Lock()

    async def guarded(part: Program) -> Any:
        async with lock:
            return await perform(part, log)

    await lock.acquire()
    waiting = [start(guarded(part)) for part in parts[1:]]
    log.append(str(await outcome_of(asyncio.wait_for(lock.acquire(), parts[0]))))
    waiting[0].cancel()
    lock.release()
    ended = [await outcome_of(task) for task in waiting]
    return [*ended, lock.locked()]


@op
async def _semaphore(parts: Program, log: list[str]) -> Any:
    """Three want one of two places, and one of them is sent away."""
    places = asyncio.BoundedSemaphore(2)

    async def guest(part: Program) -> Any:
        async with places:
            log.append(f"in, {places.locked()}")
            return await perform(part, log)

    guests = [start(guest(part)) for part in (*parts, ["work", 15], ["work", 16])]
    await asyncio.sleep(0)
    guests[-1].cancel()
    ended = [await outcome_of(task) for task in guests]
    return [*ended, places.locked()]


@op
async def _event(parts: Program, log: list[str]) -> Any:
    """One waits for good, one for a time, one is cancelled."""
    event = asyncio.Event()
    patient, hurried, sent_away = (start(event.wait()) for _ in range(3))
    in_time = start(asyncio.wait_for(hurried, parts[0]))
    result = await outcome_of(perform(parts[1], log))
    sent_away.cancel()
    event.set()
    ended = [await outcome_of(task) for task in (patient, in_time, sent_away)]
    event.clear()
    return [result, *ended, event.is_set()]


@op
async def _notified(parts: Program, log: list[str]) -> Any:
    """Waiters of a condition: notified one by one, timed out, cancelled. All of them hold the lock again when they leave."""
    condition = asyncio.Condition()

    async def waiter(seconds: float | None) -> str:
        async with condition:
            try:
                await asyncio.wait_for(condition.wait(), seconds)
            except TimeoutError:
                return f"late {condition.locked()}"
            return f"notified {condition.locked()}"

    waiters = [start(waiter(seconds)) for seconds in (None, parts[0], None, None)]
    result = await outcome_of(perform(parts[1], log))
    waiters[2].cancel()
    for _ in range(2):
        async with condition:
            condition.notify()
        await work(17)
    async with condition:
        condition.notify_all()
    return [result, *[await outcome_of(task) for task in waiters], condition.locked()]


@op
async def _barrier(parts: Program, log: list[str]) -> Any:
    """One party leaves early, another one takes its place; then the barrier is broken and made whole."""
    barrier = asyncio.Barrier(3)
    left_early = start(barrier.wait())
    await asyncio.sleep(0)
    left_early.cancel()

    async def party(part: Program) -> Any:
        # In a task of its own, for the reason given in _queue: the others would wait at the barrier for good.
        await outcome_of(start(perform(part, log)))
        return await barrier.wait()

    parties = [start(party(part)) for part in (*parts[:1], ["work", 18], ["sleep", 1])]
    met = [await outcome_of(task) for task in (left_early, *parties)]
    last = start(barrier.wait())
    await asyncio.sleep(0)
    await barrier.abort()
    met.append(await outcome_of(last))
    await barrier.reset()
    return [*met, barrier.n_waiting, barrier.broken]


@op
async def _workers(parts: Program, log: list[str]) -> Any:
    """Two workers take jobs off a queue by priority, until it is joined; then they are cancelled."""
    queue: asyncio.PriorityQueue[tuple[int, Program]] = asyncio.PriorityQueue()
    done: list[Any] = []
    for number, part in enumerate(parts):
        queue.put_nowait((-number, part))

    async def worker() -> None:
        while True:
            _, part = await queue.get()
            try:
                done.append(await outcome_of(inner(part, log)))
            finally:
                queue.task_done()

    workers = [start(worker()) for _ in range(2)]
    try:
        await queue.join()
    finally:
        for each in workers:
            each.cancel()
    return [*done, *[await outcome_of(each) for each in workers]]


@op
async def _stack(parts: Program, log: list[str]) -> Any:
    """A full stack: who cannot put in time goes away, who cannot get is cancelled."""
    stack: asyncio.LifoQueue[int] = asyncio.LifoQueue(1)
    await stack.put(0)
    late = await outcome_of(asyncio.wait_for(stack.put(1), parts[0]))
    result = await outcome_of(perform(parts[1], log))
    got = [stack.get_nowait()]
    getter = start(stack.get())
    await work(19)
    getter.cancel()
    return [late, result, *got, await outcome_of(getter), stack.empty()]


@op
async def _told(parts: Program, log: list[str]) -> Any:
    """A signal that comes or does not, while something else is done."""
    waiting = start(approval.wait(timeout=parts[0], default="nothing"))
    result = await outcome_of(perform(parts[1], log))
    return [result, await outcome_of(waiting)]


@op
async def _until(parts: Program, log: list[str]) -> Any:
    """Wait until the code itself has made something true, or the time is over."""
    done: list[Any] = []
    waiting = start(es.condition(lambda: len(done) == len(parts) - 1, timeout=parts[0]))
    for part in parts[1:]:
        result = await outcome_of(perform(part, log))
        done.append(result)
    return [*done, await outcome_of(waiting)]
