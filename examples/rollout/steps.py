"""The steps of the shop. Their bodies may change at any time: only the order in which they are asked for is recorded."""

from __future__ import annotations

from pathlib import Path

import everstep as es

picked_up = es.signal("picked-up", str)


def write(book: str, line: str) -> None:
    """Safe to repeat: a line is written once per key."""
    path, line = Path(book), f"{es.current().idempotency_key}  {line}"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in known:
        path.write_text("\n".join([*known, line, ""]), encoding="utf-8")


@es.step
def check_fraud(book: str, order_id: str) -> None:
    write(book, f"{order_id} checked")


@es.step
def charge(book: str, order_id: str) -> None:
    write(book, f"{order_id} charged")
