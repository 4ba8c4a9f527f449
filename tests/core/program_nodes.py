"""
The nodes of random programs: what a program is made of, and how one node is performed.

A program is JSON: ``[op, …]``. Everything that happens is appended to one log in the order in which it happens, and the log is
the result: whatever the loop orders differently on replay shows. The operations are in ``program_tasks`` and ``program_sync``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import everstep as es

Program = list[Any]
Perform = Callable[[Program, list[str]], Awaitable[Any]]
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


OPS: dict[str, Perform] = {}
LEAVES = ("work", "sleep", "fail", "child")


def op(perform: Perform) -> Perform:
    """Register an operation under the name of its function."""
    OPS[perform.__name__.strip("_")] = perform
    return perform


async def perform(program: Program, log: list[str]) -> Any:
    """Interpret one node."""
    name, *parts = program
    result = await OPS[name](parts, log)
    log.append(f"{_depth.get()}{name} {result!r}")
    return result


async def inner(program: Program, log: list[str]) -> Any:
    """Interpret one node as the body of a task."""
    token = _depth.set(_depth.get() + ".")
    try:
        return await perform(program, log)
    finally:
        log.append("left")
        _depth.reset(token)


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Make a task that may be left behind when its maker is cancelled: nobody then asks what became of it."""
    task = asyncio.create_task(coro)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


def raise_if_cancelled() -> None:
    """Before an error of something that was awaited is swallowed: go on only if this task itself was not cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def outcome_of(awaitable: Awaitable[Any]) -> Any:
    """What became of something that others may cancel: its result, or the name of its error."""
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise_if_cancelled()
        return "cancelled"
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
        raise_if_cancelled()  # The cancel was handed on, and what it met failed while it cleaned up.
        return type(error).__name__


@op
async def _work(parts: Program, log: list[str]) -> Any:
    return await work(parts[0])


@op
async def _fail(parts: Program, log: list[str]) -> Any:
    return await fail(parts[0])


@op
async def _child(parts: Program, log: list[str]) -> Any:
    return await small_child(parts[0])


@op
async def _sleep(parts: Program, log: list[str]) -> Any:
    await asyncio.sleep(parts[0])


@op
async def _seq(parts: Program, log: list[str]) -> Any:
    return [await perform(part, log) for part in parts]


@op
async def _try(parts: Program, log: list[str]) -> Any:
    try:
        return await perform(parts[0], log)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # that is what the node is for
        log.append(f"caught {type(error).__name__}")
        return await perform(parts[1], log)
    finally:
        log.append("finally")
