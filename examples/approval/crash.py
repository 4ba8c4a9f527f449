"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.approval.job import Change, Decision, approval, change, expense


def call(folder: Path) -> es.Call[str]:
    return expense(str(folder / "mail.txt"), "ann", 4200, "bob", patience=None)


def effects(folder: Path) -> str:
    """Every mail, each with its idempotency key."""
    return (folder / "mail.txt").read_text(encoding="utf-8")


async def drive(handle: es.Handle[str]) -> None:
    """Lower the sum, then approve."""
    await handle.ask(change, Change(4000), key="lower")
    await handle.send(approval, Decision(approved=True, by="bob"), key="click")
