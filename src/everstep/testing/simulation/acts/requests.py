"""
Requests: a hall sells its seats. Every asker gets the one answer of his key, and the journal says the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random

from everstep.asking import request
from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.errors import RequestRefused
from everstep.inside import sleep
from everstep.retry import Retry
from everstep.talk import condition, signal
from everstep.testing.simulation.acts.act import PATIENCE_SECONDS, Act, Script, insist, result, send, start, until
from everstep.testing.simulation.outside import outside

seat = request("seat", str, int)
closing = signal("closing", str)


@step(retry=Retry(attempts=None, delay=0.2))
async def print_ticket(name: str, seconds: float) -> str:
    """Takes its time."""
    await outside().perform(seconds)
    return name


@workflow(max_recoveries=10_000)
async def hall(seats: int, seconds: float) -> list[str]:
    """Sells seats until it is closed."""
    sold: list[str] = []

    def check(name: str) -> None:
        if len(sold) == seats:
            raise ValueError("sold out")

    async def sell(name: str) -> int:
        sold.append(name)
        number = len(sold)
        await print_ticket(name, seconds)
        await sleep(seconds / 2)
        return number

    seat.handle(sell, validate=check)
    await closing.wait()
    await condition(lambda: not seat.pending)
    return sold


class Requests(Act):
    """See the module."""

    workflows = (hall,)
    weight = 2

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.seats = dice.randint(1, 4)
        self.seconds = dice.choice([0.0, 0.3, 2.0])
        self.askers = dice.randint(2, 6)
        self.delays = [dice.choice([0.0, dice.uniform(0, 8)]) for _ in range(2 * self.askers)]
        self.told: dict[str, list[int | str]] = {}
        self.served: set[int] = set()
        self.sold: list[str] = []

    def scripts(self) -> Sequence[Script]:
        count = self.askers + self.dice.randint(0, self.askers)
        return [self._close(count), *(self._asker(number) for number in range(count))]

    def _asker(self, number: int) -> Script:
        async def run(client: Client) -> None:
            await asyncio.sleep(self.delays[number])
            handle = await start(client, lambda: hall(self.seats, self.seconds), self.name)
            key = f"k{number % self.askers}"
            answer: int | str
            try:
                answer = await insist(lambda: handle.ask(seat, key, key=key, timeout=PATIENCE_SECONDS - 1))
            except RequestRefused as refused:
                answer = refused.reason
            self.told.setdefault(key, []).append(answer)
            self.served.add(number)

        return run

    def _close(self, count: int) -> Script:
        async def run(client: Client) -> None:
            handle = await start(client, lambda: hall(self.seats, self.seconds), self.name)
            await until(lambda: len(self.served) >= count)
            await send(client, self.name, closing, "time", "time")
            self.sold = await result(handle)

        return run

    def check(self) -> Iterator[str]:
        for key, answers in self.told.items():
            if len(set(answers)) != 1:
                yield f"{self.name}: askers with the key {key} were told {answers}"
        by_key = {key: answers[0] for key, answers in self.told.items() if answers}
        numbers = {key: answer for key, answer in by_key.items() if isinstance(answer, int)}
        if numbers != {key: number for number, key in enumerate(self.sold, 1)}:
            yield f"{self.name} sold {self.sold}, and told {by_key}"
        if len(self.sold) != min(self.seats, self.askers):
            yield f"{self.name} sold {len(self.sold)} of {self.seats} seats to {self.askers}"
