"""The workflows that are killed with SIGKILL: a child process imports them from here. Not a test itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import everstep as es

approval = es.signal("approval", str)
progress = es.state("progress", str)


def leave(folder: str, what: str) -> None:
    """Leave an effect outside, as a payment would: one line, in one write."""
    descriptor = os.open(Path(folder) / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {es.current().idempotency_key}\n".encode())
    os.close(descriptor)


def left(folder: Path) -> list[str]:
    """Every effect, as often as it happened."""
    path = folder / "effects"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def left_once(folder: Path) -> list[str]:
    """What a receiver has that takes each idempotency key once."""
    return sorted(set(left(folder)))


@es.step
async def charge(folder: str, cents: int) -> int:
    leave(folder, f"charge {cents}")
    return cents


@es.step
def ship(folder: str, what: str) -> str:
    leave(folder, f"ship {what}")
    return f"shipped {what}"


@es.workflow
async def part(folder: str, cents: int) -> int:
    await asyncio.sleep(60)
    return await charge(folder, cents)


@es.workflow
async def order(folder: str) -> str:
    """Steps in the loop and in threads, a month, branches and a child."""
    await charge(folder, 1)
    await asyncio.sleep(30 * 86_400)
    two, three = await asyncio.gather(charge(folder, 2), part(folder, 3))
    return await ship(folder, f"{two + three} at {es.random()}")


@es.workflow
async def sequence(folder: str) -> int:
    return sum([await charge(folder, cents) for cents in range(3)])


@es.workflow
async def conversation(folder: str) -> list[str]:
    """Waits to be told three things, and says how far it has got."""
    told: list[str] = []
    for number in range(3):
        progress.set(f"waiting for {number}")
        told.append(await approval.wait(timeout=3600, default="nothing"))
        await charge(folder, number)
    return told


_memory: dict[str, int] = {}


@es.step
async def remember(cents: int) -> None:
    _memory["cents"] = cents


@es.step
async def recall(folder: str) -> int:
    leave(folder, "recall")
    return _memory.get("cents", 0)


@es.workflow
async def remembering(folder: str) -> int:
    """Keeps in a global what a step did: gone with the process."""
    await remember(5)
    return await recall(folder)


@es.workflow
async def never(folder: str) -> str:
    return await approval.wait()


quote = es.request("quote", int, str)
close = es.signal("close", str)


@es.workflow
async def office(folder: str) -> str:
    """Answers requests, each by a step, until it is closed."""

    async def answer(cents: int) -> str:
        return f"{await charge(folder, cents)} cents"

    quote.handle(answer)
    told = await close.wait()
    await es.condition(lambda: quote.pending == 0)
    return told


@es.transaction
def enter(tx: es.SQLiteTx, cents: int) -> int:
    """Leave a row in the store itself. Not idempotent, on purpose."""
    tx.execute("CREATE TABLE IF NOT EXISTS entered(cents INTEGER)")
    tx.execute("INSERT INTO entered VALUES (?)", (cents,))
    return cents


@es.workflow
async def entering() -> int:
    return sum([await enter(cents) for cents in range(3)])


def entered(folder: Path) -> list[int]:
    """The rows, out of the store beside the folder."""
    with closing(sqlite3.connect(folder.parent / "state.db")) as db:
        return [cents for (cents,) in db.execute("SELECT cents FROM entered ORDER BY cents")]
