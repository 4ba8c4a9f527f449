"""What the tests of the command line run: copied beside their store as ``app.py``."""

import asyncio
from dataclasses import dataclass

import everstep as es

HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\r\n\tdone\x9b31m"
"""Clears a screen, renames a window, turns text around, and forges a line."""


@dataclass
class Order:
    id: str
    cents: int


@es.step
async def reserve(order_id: str) -> str:
    return f"reserved {order_id}"


@es.step(retry=es.Retry(attempts=3, delay=0.001, jitter=0))
async def charge(order_id: str, cents: int) -> str:
    if es.current().attempt == 1:
        raise ConnectionError("503")
    return f"ch_{order_id}_{cents}"


@es.step(retry=es.Retry(attempts=5, delay=3600, max_delay=3600, jitter=0))
async def fetch(url: str) -> str:
    raise ConnectionError(f"503 from {url}")


@es.step
async def decline(text: str) -> None:
    raise ValueError(text)


@es.step
async def echo(text: str) -> str:
    return text


@es.workflow
async def checkout(order_id: str, cents: int = 5) -> str:
    await reserve(order_id)
    return await charge(order_id, cents)


@es.workflow
async def declined(text: str) -> None:
    await reserve("1")
    await decline(text)


@es.workflow
async def hostile(text: str) -> str:
    return await echo(text)


@es.workflow
async def patient(order: Order, seconds: float = 3600) -> str:
    await reserve(order.id)
    await asyncio.sleep(seconds)
    return order.id


@es.workflow
async def parent(order_id: str) -> str:
    return await patient(Order(order_id, 1))


approval = es.signal("approval", Order)
quote = es.request("quote", Order, int)


@es.workflow
async def office() -> str:
    def check(order: Order) -> None:
        if order.cents > 100:
            raise ValueError("too dear\x1b[2J")

    async def price(order: Order) -> int:
        if order.cents < 0:
            raise LookupError("nothing so cheap")
        return order.cents * 2

    quote.handle(price, validate=check)
    return (await approval.wait()).id


@es.workflow
async def fetching(url: str) -> str:
    return await fetch(url)
