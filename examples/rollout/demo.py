"""
python -m examples.rollout.demo: four deployments of one workflow, while orders of each of them are under way.

Every deployment is a program of its own here: it opens the same store with its own code, and drives what it finds there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import everstep as es
from examples.rollout import after, before, deprecated, patched
from examples.rollout.steps import picked_up

Code = es.Workflow[[str, str], str]


async def take(folder: Path, checkout: Code, order_id: str) -> None:
    """One deployment takes an order, and goes away while it waits."""
    async with es.Engine(f"sqlite:///{folder / 'shop.db'}", workflows=[checkout]) as engine:
        handle = await engine.start(checkout(str(folder / "book.txt"), order_id), id=order_id)
        await until(handle, lambda status: status is es.Status.WAITING)


async def hand_over(folder: Path, checkout: Code, order_id: str) -> None:
    """Another one hands it over to whoever picks it up; or it cannot, and another will."""
    deployment = checkout.function.__module__.rpartition(".")[2]
    async with es.Engine(f"sqlite:///{folder / 'shop.db'}", workflows=[checkout]) as engine:
        handle = engine.handle(order_id, checkout)
        if await handle.status() is es.Status.PAUSED:  # By other code: this one is claiming it just now.
            await until(handle, lambda status: status is not es.Status.PAUSED)
        await handle.send(picked_up, "ann", key="counter")
        try:
            print(f"{deployment:10}  {await handle.result()}")
        except es.RunPaused as paused:
            print(f"{deployment:10}  {str(paused).partition(': ')[2].splitlines()[0]}")


async def until(handle: es.Handle[str], holds: Callable[[es.Status], bool]) -> None:
    """Look again and again: what a person with `everstep runs` would do."""
    while not holds(await handle.status()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def main(folder: Path) -> None:
    """Four deployments, the last of them too early."""
    await take(folder, before.checkout, "order-1")
    await take(folder, before.checkout, "order-2")
    await take(folder, patched.checkout, "order-3")
    await hand_over(folder, patched.checkout, "order-1")
    await hand_over(folder, deprecated.checkout, "order-3")
    await hand_over(folder, after.checkout, "order-2")
    await hand_over(folder, patched.checkout, "order-2")
    for line in (folder / "book.txt").read_text(encoding="utf-8").splitlines():
        print(line.partition("  ")[2])


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
