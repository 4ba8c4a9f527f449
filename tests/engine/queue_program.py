"""The program of ``test_queue_processes``: workers that note when the body of a run begins and ends."""

from __future__ import annotations

import asyncio
import os
import sys

import everstep as es

CONCURRENCY = 3
crowd = es.queue("crowd", concurrency=CONCURRENCY, per_key=1)


@es.step
async def work(what: str, key: str, log: str) -> str:
    """Takes a moment, in which a process may die."""
    note(log, f"begin {what} {key}")
    await asyncio.sleep(0.02)
    note(log, f"end {what} {key}")
    return what


@es.workflow
async def job(what: str, key: str, log: str) -> str:
    """Goes to sleep in the middle, and holds its place meanwhile."""
    await asyncio.sleep(0.02)
    return await work(what, key, log)


def note(log: str, line: str) -> None:
    """One write to the end of a file is one line, whoever else writes."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


async def drive(url: str, ready: str) -> None:
    """Until somebody kills this."""
    async with es.Engine(url, [job]):
        note(ready, "ready")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(drive(*sys.argv[1:3]))
