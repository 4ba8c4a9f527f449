"""
Random workflows: a small language of asyncio's primitives, its interpreter (a workflow), and a generator.

A program is JSON: ``[op, …]``. Everything that happens is appended to one log in the order in which it happens, and the log is
the result: whatever the loop orders differently on replay shows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import everstep as es

Program = list[Any]
_depth: ContextVar[str] = ContextVar("depth", default="")


@es.step
def work(number: int) -> int:
    return number


@es.step
def fail(number: int) -> int:
    raise ValueError(f"no {number}")


@es.step
def fetch(tag: str) -> str:
    return tag.upper()


@es.workflow
async def small_child(number: int) -> int:
    return await work(number)


@es.workflow
async def play(program: list[Any]) -> list[str]:
    """Run a program; return everything that happened, in order."""
    log: list[str] = []
    try:
        await perform(program, log)
    except asyncio.CancelledError:
        log.append("cancelled")
        await work(-1)  # clean up after a cancel, as a workflow would
    except Exception as error:  # noqa: BLE001  # a group too: what happened is the result
        log.append(f"raised {error!r}")
    log.append(f"{es.now().isoformat()} {es.random()} {es.uuid4()}")
    return log


async def perform(program: Program, log: list[str]) -> Any:
    """Interpret one node."""
    op, *parts = program
    result = await _OPS[op](parts, log)
    log.append(f"{_depth.get()}{op} {result!r}")
    return result


async def _inner(program: Program, log: list[str]) -> Any:
    token = _depth.set(_depth.get() + ".")
    try:
        return await perform(program, log)
    finally:
        log.append("left")
        _depth.reset(token)


async def _work(parts: Program, log: list[str]) -> Any:
    return await work(parts[0])


async def _fail(parts: Program, log: list[str]) -> Any:
    return await fail(parts[0])


async def _child(parts: Program, log: list[str]) -> Any:
    return await small_child(parts[0])


async def _sleep(parts: Program, log: list[str]) -> Any:
    await asyncio.sleep(parts[0])


async def _seq(parts: Program, log: list[str]) -> Any:
    return [await perform(part, log) for part in parts]


async def _try(parts: Program, log: list[str]) -> Any:
    try:
        return await perform(parts[0], log)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # that is what the node is for
        log.append(f"caught {type(error).__name__}")
        return await perform(parts[1], log)
    finally:
        log.append("finally")


async def _gather(parts: Program, log: list[str]) -> Any:
    results = await asyncio.gather(*(_inner(part, log) for part in parts[1:]), work(7), return_exceptions=parts[0])
    return [type(result).__name__ if isinstance(result, BaseException) else result for result in results]


async def _group(parts: Program, log: list[str]) -> Any:
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(_inner(part, log)) for part in parts]
        made.append(group.create_task(work(8)))
    return [task.result() for task in made]


async def _race(parts: Program, log: list[str]) -> Any:
    made = {asyncio.create_task(_inner(part, log)) for part in parts} | {asyncio.create_task(fetch("racer"))}
    done, pending = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        log.append(f"cancel {task.get_name()}")
        task.cancel()
    ended = await asyncio.gather(*done, *pending, return_exceptions=True)
    return [type(result).__name__ for result in ended]


async def _wait_all(parts: Program, log: list[str]) -> Any:
    made = [asyncio.create_task(_inner(part, log)) for part in parts]
    done, pending = await asyncio.wait(made, timeout=5)
    for task in [*done, *pending]:
        log.append(f"{task.get_name()} {task.done()}")
        task.cancel()
    await asyncio.gather(*made, return_exceptions=True)
    return len(done)


async def _timeout(parts: Program, log: list[str]) -> Any:
    try:
        async with asyncio.timeout(parts[0]):
            return await perform(parts[1], log)
    except TimeoutError:
        return "late"


async def _wait_for(parts: Program, log: list[str]) -> Any:
    try:
        return await asyncio.wait_for(_inner(parts[1], log), parts[0])
    except TimeoutError:
        return "late"


async def _shield(parts: Program, log: list[str]) -> Any:
    inner = asyncio.create_task(_inner(parts[0], log))
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        log.append("shielded")
        await asyncio.wait([inner])
        raise


async def _as_completed(parts: Program, log: list[str]) -> Any:
    made = [asyncio.create_task(_inner(part, log)) for part in parts]
    order: list[Any] = []
    for next_one in asyncio.as_completed([*made, work(9), fetch("a")]):
        try:
            order.append(await next_one)
        except (es.StepFailed, TimeoutError) as error:
            order.append(type(error).__name__)
    return order


async def _cancel_one(parts: Program, log: list[str]) -> Any:
    task = asyncio.create_task(_inner(parts[0], log))
    await perform(parts[1], log)
    log.append(f"cancels {task.cancel()}")
    try:
        return await task
    except asyncio.CancelledError:
        return "was cancelled"


async def _lock(parts: Program, log: list[str]) -> Any:
    lock, gate = asyncio.Lock(), asyncio.Semaphore(2)

    async def guarded(part: Program) -> Any:
        async with gate, lock:
            return await perform(part, log)

    return len(await asyncio.gather(*map(guarded, parts), return_exceptions=True))


async def _queue(parts: Program, log: list[str]) -> Any:
    queue: asyncio.Queue[Any] = asyncio.Queue(1)

    async def produce() -> None:
        for part in parts:
            try:
                await queue.put(await perform(part, log))
            except Exception as error:  # noqa: BLE001  # the consumer counts on one item for each part
                await queue.put(type(error).__name__)

    producer = asyncio.create_task(produce())
    try:
        got = [await queue.get() for _ in parts]
    finally:
        producer.cancel()
    await asyncio.wait([producer])
    return got


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


_OPS: dict[str, Callable[[Program, list[str]], Awaitable[Any]]] = {
    "work": _work,
    "fail": _fail,
    "child": _child,
    "sleep": _sleep,
    "seq": _seq,
    "try": _try,
    "gather": _gather,
    "group": _group,
    "race": _race,
    "wait": _wait_all,
    "timeout": _timeout,
    "wait_for": _wait_for,
    "shield": _shield,
    "as_completed": _as_completed,
    "cancel_one": _cancel_one,
    "lock": _lock,
    "queue": _queue,
    "condition": _condition,
    "generator": _generator,
}

_SECONDS = (0, 0, 1, 5, 60, 0.25)


def generate(choose: Callable[[int], int], depth: int = 3) -> Program:
    """A program from choices: 0 is always the simplest."""
    leaf = [("work", 0), ("sleep", 0), ("fail", 0), ("child", 0)]
    if depth == 0 or choose(4) == 0:
        op, _ = leaf[choose(len(leaf))]
        return [op, _SECONDS[choose(len(_SECONDS))] if op == "sleep" else choose(5)]
    ops = [op for op in _OPS if op not in {name for name, _ in leaf}]
    op = ops[choose(len(ops))]

    def part() -> Program:
        return generate(choose, depth - 1)

    match op:
        case "try" | "cancel_one":
            return [op, part(), part()]
        case "timeout" | "wait_for":
            return [op, _SECONDS[choose(len(_SECONDS))], part()]
        case "shield":
            return [op, part()]
        case "gather":
            return [op, bool(choose(2)), *(part() for _ in range(1 + choose(2)))]
        case _:
            return [op, *(part() for _ in range(1 + choose(3)))]


def random_program(seed: int) -> Program:
    """A program from a seed."""
    return generate(random.Random(seed).randrange)
