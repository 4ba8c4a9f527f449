"""
Many at once: ``es.map`` over items, ``es.gather`` of calls. Both are asyncio's ``TaskGroup``, and nothing is recorded for them.

They differ from ``asyncio.gather`` in what happens on failure, and from a bare ``TaskGroup`` in what is raised then:

* The first failure cancels everything else that was begun, and nothing more is begun. The others are awaited before the error
  is raised, so nothing goes on behind the back of the code that handles it.
* The first error itself is raised, not an ``ExceptionGroup``: ``except es.StepFailed`` works as it does around a single await.
  Further failures are in the run's history; a note on the error counts them.

Tasks are started in the order given, by the task that called. So what an item asks for is named by its place among the items,
and not by when another one happened to finish: the names are the same when a run is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from everstep.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
T7 = TypeVar("T7")
T8 = TypeVar("T8")


async def map(function: Callable[[T], Awaitable[R]], items: Iterable[T], *, limit: int | None = None) -> list[R]:  # noqa: A001
    """Call a step, a workflow or an async function with every item, and return the results in the order of the items.

    Args:
        function: Takes one item: ``es.map(charge, orders)``. With more arguments: ``lambda o: charge(o.id, o.cents)``.
            With several steps for each item, an ``async def`` that awaits them.
        items: Read as far as there is room for more, in the workflow's own code: they must be the same on every replay.
        limit: At most so many are under way at once; None for all of them.

    Raises:
        Exception: The first error of any of them. The others were cancelled and have ended; nothing more was begun.
        UsageError: The limit is no whole number of at least 1. Nothing was begun.
    """
    room = asyncio.Semaphore(_checked(limit)) if limit is not None else None
    tasks: list[asyncio.Task[R]] = []
    async with _FirstError() as group:
        for item in items:
            if room is not None:
                await room.acquire()
            task = group.create_task(_coroutine(function(item)))
            if room is not None:
                task.add_done_callback(lambda _: room.release())
            tasks.append(task)
    return [task.result() for task in tasks]


@overload
async def gather() -> tuple[()]: ...
@overload
async def gather(first: Awaitable[T1], /) -> tuple[T1]: ...
@overload
async def gather(first: Awaitable[T1], second: Awaitable[T2], /) -> tuple[T1, T2]: ...
@overload
async def gather(first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], /) -> tuple[T1, T2, T3]: ...
@overload
async def gather(
    first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], fourth: Awaitable[T4], /
) -> tuple[T1, T2, T3, T4]: ...
@overload
async def gather(
    first: Awaitable[T1], second: Awaitable[T2], third: Awaitable[T3], fourth: Awaitable[T4], fifth: Awaitable[T5], /
) -> tuple[T1, T2, T3, T4, T5]: ...
@overload
async def gather(
    first: Awaitable[T1],
    second: Awaitable[T2],
    third: Awaitable[T3],
    fourth: Awaitable[T4],
    fifth: Awaitable[T5],
    sixth: Awaitable[T6],
    /,
) -> tuple[T1, T2, T3, T4, T5, T6]: ...
@overload
async def gather(
    first: Awaitable[T1],
    second: Awaitable[T2],
    third: Awaitable[T3],
    fourth: Awaitable[T4],
    fifth: Awaitable[T5],
    sixth: Awaitable[T6],
    seventh: Awaitable[T7],
    /,
) -> tuple[T1, T2, T3, T4, T5, T6, T7]: ...
@overload
async def gather(
    first: Awaitable[T1],
    second: Awaitable[T2],
    third: Awaitable[T3],
    fourth: Awaitable[T4],
    fifth: Awaitable[T5],
    sixth: Awaitable[T6],
    seventh: Awaitable[T7],
    eighth: Awaitable[T8],
    /,
) -> tuple[T1, T2, T3, T4, T5, T6, T7, T8]: ...
@overload
async def gather(*awaitables: Awaitable[T]) -> tuple[T, ...]: ...
async def gather(*awaitables: Awaitable[Any]) -> tuple[Any, ...]:
    """Await several things at once, and return their results as a tuple of exactly their types.

    Args:
        awaitables: Calls of steps and workflows, coroutines, tasks, handles of children.

    Raises:
        Exception: The first error of any of them. The others were cancelled and have ended. (``asyncio.gather`` would leave
            them running behind the back of whoever handles the error.)
    """
    async with _FirstError() as group:
        tasks = [group.create_task(_coroutine(each)) for each in awaitables]
    return tuple(task.result() for task in tasks)


class _FirstError:
    """A task group whose first error is raised as it is."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> asyncio.TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None, /
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, place)
            return
        except BaseExceptionGroup as group:
            failures = group.exceptions
        # Outside the handler: raised inside it, the error would get the group as its context, and the group holds the error.
        first, *others = failures
        if others:
            first.add_note(f"{len(others)} more failed at the same time; the rest was cancelled")
        try:
            raise first
        finally:
            del failures, first, others


def _coroutine(awaitable: Awaitable[R]) -> Coroutine[Any, Any, R]:
    """What a task can be made of. A call is one as it is."""
    return cast("Coroutine[Any, Any, R]", awaitable) if asyncio.iscoroutine(awaitable) else _await(awaitable)


async def _await(awaitable: Awaitable[R]) -> R:
    return await awaitable


def _checked(limit: int) -> int:
    if type(limit) is not int or limit < 1:
        raise UsageError(f"limit={limit!r}: give a whole number, at least 1, or None for all at once. Nothing was begun.")
    return limit
