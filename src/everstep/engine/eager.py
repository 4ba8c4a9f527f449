"""
Begin a coroutine in a plain callback, and give it a task only if it has to wait.

A commit to an embedded store finishes without suspending nearly always; a task for each would cost more than the rest of the
turn. (Python 3.12 has eager tasks; this works on 3.11 as well and makes no task at all if none is needed.) Until it suspends
for the first time the coroutine runs without a current task of its own, so it must not use ``asyncio.timeout`` before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def begin(coro: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run it up to its first suspension. None if it is finished, else the task that goes on with it."""
    try:
        waits_for = coro.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_go_on(coro, waits_for))


async def _go_on(coro: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _rest(coro, waits_for)


@coroutine
def _rest(coro: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    # What the coroutine yielded before it had a task is yielded again, to the task; then everything is handed through.
    sent: Any = None
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001  # a cancel of the task belongs to the coroutine
            failure: BaseException | None = error
        else:
            failure = None
        try:
            waits_for = coro.send(sent) if failure is None else coro.throw(failure)
        except StopIteration:
            return
