"""
The child's side of `bench.contender`: open one contender and do what standard input asks, line by line.

Standard output belongs to the answers; what the contender itself prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

Verb: TypeAlias = Callable[..., Any] | Callable[..., Awaitable[Any]]
Opened: TypeAlias = AbstractAsyncContextManager[Mapping[str, Verb]]


async def serve(module: str, directory: Path, answers: int) -> None:
    try:
        opening: Opened = importlib.import_module(module).opened(directory)
        async with opening as verbs:
            while line := await asyncio.to_thread(sys.stdin.readline):
                _write(answers, await _do(verbs, *json.loads(line)))
    except Exception as error:
        _write(answers, {"error": f"could not open: {_told(error)}"})
        raise


async def until(holds: Callable[[], bool], every_s: float = 0.001) -> None:
    """Look until it holds. What is waited for happens inside the contender, which knows nothing of the bench."""
    while not holds():  # so there is nobody who could set an event
        await asyncio.sleep(every_s)


async def _do(verbs: Mapping[str, Verb], verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = verbs[verb](**arguments)
        return {"ok": await answer if inspect.isawaitable(answer) else answer}
    except Exception as error:  # noqa: BLE001  # the bench decides what becomes of it
        sys.excepthook(type(error), error, error.__traceback__)
        return {"error": _told(error)}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _write(answers: int, answer: dict[str, Any]) -> None:
    os.write(answers, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    channel = os.dup(1)
    os.dup2(2, 1)
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), channel))
