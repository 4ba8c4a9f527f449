"""
Operations of random programs that make tasks: gathered, grouped, raced, shielded, timed out and cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

import everstep as es
from tests.core.program_nodes import Program, fetch, inner, op, outcome_of, perform, raise_if_cancelled, start, work


@op
async def _gather(parts: Program, log: list[str]) -> Any:
    results = await asyncio.gather(*(inner(part, log) for part in parts[1:]), work(7), return_exceptions=parts[0])
    return [type(result).__name__ if isinstance(result, BaseException) else result for result in results]


@op
async def _group(parts: Program, log: list[str]) -> Any:
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(inner(part, log)) for part in parts]
        made.append(group.create_task(work(8)))
    return [task.result() for task in made]


@op
async def _race(parts: Program, log: list[str]) -> Any:
    made = {asyncio.create_task(inner(part, log)) for part in parts} | {asyncio.create_task(fetch("racer"))}
    done, pending = await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        log.append(f"cancel {task.get_name()}")
        task.cancel()
    ended = await asyncio.gather(*done, *pending, return_exceptions=True)
    return [type(result).__name__ for result in ended]


@op
async def _wait(parts: Program, log: list[str]) -> Any:
    made = [asyncio.create_task(inner(part, log)) for part in parts]
    done, pending = await asyncio.wait(made, timeout=5)
    for task in [*done, *pending]:
        log.append(f"{task.get_name()} {task.done()}")
        task.cancel()
    await asyncio.gather(*made, return_exceptions=True)
    return len(done)


@op
async def _timeout(parts: Program, log: list[str]) -> Any:
    try:
        async with asyncio.timeout(parts[0]):
            return await perform(parts[1], log)
    except TimeoutError:
        return "late"


@op
async def _wait_for(parts: Program, log: list[str]) -> Any:
    try:
        return await asyncio.wait_for(inner(parts[1], log), parts[0])
    except TimeoutError:
        return "late"


@op
async def _shield(parts: Program, log: list[str]) -> Any:
    shielded = asyncio.create_task(inner(parts[0], log))
    try:
        return await asyncio.shield(shielded)
    except asyncio.CancelledError:
        log.append("shielded")
        await asyncio.wait([shielded])
        raise


@op
async def _as_completed(parts: Program, log: list[str]) -> Any:
    made = [asyncio.create_task(inner(part, log)) for part in parts]
    order: list[Any] = []
    for next_one in asyncio.as_completed([*made, work(9), fetch("a")]):
        try:
            order.append(await next_one)
        except (es.StepFailed, TimeoutError) as error:
            order.append(type(error).__name__)
    return order


@op
async def _cancel_one(parts: Program, log: list[str]) -> Any:
    task = asyncio.create_task(inner(parts[0], log))
    await perform(parts[1], log)
    log.append(f"cancels {task.cancel()}")
    try:
        return await task
    except asyncio.CancelledError:
        raise_if_cancelled()
        return "was cancelled"


@op
async def _first_failure(parts: Program, log: list[str]) -> Any:
    made = [start(inner(part, log)) for part in parts]
    done, pending = await asyncio.wait([*made, start(work(12))], return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    return [await outcome_of(task) for task in [*made, *done]]


@op
async def _as_completed_in_time(parts: Program, log: list[str]) -> Any:
    made = [start(inner(part, log)) for part in parts[1:]]
    order = [await outcome_of(next_one) for next_one in asyncio.as_completed(made, timeout=parts[0])]
    for task in made:
        task.cancel()
    return [*order, *[await outcome_of(task) for task in made]]


@op
async def _deadline(parts: Program, log: list[str]) -> Any:
    """A deadline that is moved once the first part is through."""
    loop = asyncio.get_running_loop()
    scope = asyncio.timeout_at(loop.time() + parts[0])
    try:
        async with scope:
            first = await perform(parts[1], log)
            if not scope.expired():
                scope.reschedule(None if parts[0] == 0 else loop.time() + 2 * parts[0])
            return [first, await perform(parts[2], log)]
    except TimeoutError:
        return f"late {scope.expired()}"


@op
async def _cancel_group(parts: Program, log: list[str]) -> Any:
    """Cancel a task that waits for a group, twice, and the group's members with it."""

    async def group_of_all() -> Any:
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(inner(part, log)) for part in parts[:-1]]
        return [task.result() for task in made]

    task = start(group_of_all())
    await perform(parts[-1], log)
    log.append(f"cancels {task.cancel('once')} {task.cancel('twice')}")
    return await outcome_of(task)


@op
async def _take_back(parts: Program, log: list[str]) -> Any:
    """A task that is cancelled, takes the request back, and goes on."""

    async def stubborn() -> Any:
        try:
            return await inner(parts[0], log)
        except asyncio.CancelledError:
            this = asyncio.current_task()
            assert this is not None
            log.append(f"takes back, {this.uncancel()} left")
            return await inner(parts[1], log)

    task = start(stubborn())
    await work(13)
    log.append(f"cancels {task.cancel()}")
    return await outcome_of(task)


@op
async def _map(parts: Program, log: list[str]) -> Any:
    return await outcome_of(es.map(work, range(len(parts) + 1), limit=2))


@op
async def _all_of(parts: Program, log: list[str]) -> Any:
    return await outcome_of(es.gather(work(14), fetch("b"), *(inner(part, log) for part in parts)))


@op
async def _delivered(parts: Program, log: list[str]) -> Any:
    """A cancel of a task, whatever the task is at, is delivered at one of its awaits: here at the last one at the latest."""
    seen: list[str] = []

    async def body() -> Any:
        try:
            await inner(parts[0], log)
            await asyncio.sleep(0)
            seen.append("went on")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        except Exception as error:
            seen.append(f"failed with {type(error).__name__}")
            raise

    task = start(body())
    await perform(parts[1], log)
    was_asked = task.cancel()
    if was_asked and not seen:
        await asyncio.wait([task])
    log.append("lost a cancel" if was_asked and seen == ["went on"] else f"delivered {was_asked} {seen}")
    return await outcome_of(task)
