"""
Signals: people send letters, some twice, and a run collects them. Each arrives once, and each person's in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.generations import continue_as_new
from everstep.retry import Retry
from everstep.talk import signal
from everstep.testing.simulation.acts.act import Act, Script, result, send, start
from everstep.testing.simulation.outside import outside

letter = signal("letter", str)


@step(retry=Retry(attempts=None, delay=0.2))
async def file(text: str, seconds: float) -> str:
    """Puts a letter away."""
    await outside().perform(seconds)
    return text


@workflow(max_recoveries=10_000)
async def collect(count: int, seconds: float, cut: int, filed: list[str]) -> list[str]:
    """Collects so many, and begins again after every ``cut``."""
    while len(filed) < count:
        text = await letter.wait(timeout=5.0, default="")
        if text:
            filed.append(await file(text, seconds))
            if cut and len(filed) % cut == 0 and len(filed) < count:
                continue_as_new(collect(count, seconds, cut, filed))
    return filed


class Letters(Act):
    """See the module."""

    workflows = (collect,)
    weight = 2

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.senders = dice.randint(1, 3)
        self.each = dice.randint(1, 4)
        self.seconds = dice.choice([0.0, 0.0, 0.4, 2.0])
        self.cut = dice.choice([0, 0, 2, 3])
        self.delays = [dice.choice([0.0, dice.uniform(0, 8)]) for _ in range(self.senders * self.each)]
        self.twice = [dice.random() < 0.4 for _ in self.delays]
        self.result: list[str] = []

    def scripts(self) -> Sequence[Script]:
        return [self._collect, *(self._sender(number) for number in range(self.senders))]

    async def _collect(self, client: Client) -> None:
        handle = await start(client, lambda: collect(self.senders * self.each, self.seconds, self.cut, []), self.name)
        self.result = await result(handle)

    def _sender(self, sender: int) -> Script:
        async def run(client: Client) -> None:
            import asyncio

            await start(client, lambda: collect(self.senders * self.each, self.seconds, self.cut, []), self.name)
            for number in range(self.each):
                place = sender * self.each + number
                await asyncio.sleep(self.delays[place])
                for _ in range(1 + self.twice[place]):
                    await self._send(client, f"{sender}.{number}")

        return run

    async def _send(self, client: Client, text: str) -> None:
        from everstep.errors import RunEnded

        try:
            await send(client, self.name, letter, text, text)
        except RunEnded:
            # Only a letter that is there already may find the run over.
            outside().facts.setdefault("late letters", []).append((self.name, text))

    def check(self) -> Iterator[str]:
        wanted = [f"{sender}.{number}" for sender in range(self.senders) for number in range(self.each)]
        if sorted(self.result) != sorted(wanted):
            yield f"{self.name} collected {self.result}, and was sent {wanted}"
        for sender in range(self.senders):
            own = [text for text in self.result if text.startswith(f"{sender}.")]
            if own != sorted(own):
                yield f"{self.name} collected the letters of {sender} out of order: {own}"
