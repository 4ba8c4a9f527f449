"""Steps and small workflows that the tests of the core share."""

from __future__ import annotations

import everstep as es


@es.step
def charge(order_id: str, cents: int) -> str:
    return f"receipt {order_id} {cents}"


@es.step
def ship(order_id: str) -> str:
    return f"shipped {order_id}"


@es.step
def add(left: int, right: int = 1) -> int:
    return left + right


@es.step
def note(text: str) -> str:
    return text


@es.step
def decline(reason: str) -> str:
    raise ValueError(reason)


@es.step
async def pick(items: list[str]) -> str:
    return items[0]


@es.workflow
async def child(order_id: str) -> str:
    return await ship(order_id)
