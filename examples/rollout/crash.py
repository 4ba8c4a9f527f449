"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.rollout.patched import checkout
from examples.rollout.steps import picked_up


def call(folder: Path) -> es.Call[str]:
    return checkout(str(folder / "book.txt"), "order-1")


def effects(folder: Path) -> str:
    """Checked once and charged once."""
    return (folder / "book.txt").read_text(encoding="utf-8")


async def drive(handle: es.Handle[str]) -> None:
    """Somebody picks the order up."""
    await handle.send(picked_up, "ann", key="counter")
