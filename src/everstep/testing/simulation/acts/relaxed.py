"""
Relaxed runs, pipelines, large values: what is written behind, at once, or beside the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.pipelines import pipeline
from everstep.records import Relaxed
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, result, start
from everstep.testing.simulation.outside import outside

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation

BOUND = Relaxed(seconds=0.5, steps=4)


@step(retry=Retry(attempts=None, delay=0.2))
async def add(total: int, number: int, seconds: float) -> int:
    """One more."""
    await outside().perform(seconds)
    return total + number


@workflow(max_recoveries=10_000, durability=BOUND)
async def count_up(count: int, seconds: float) -> int:
    """Many quick steps, written behind."""
    total = 0
    for number in range(count):
        total = await add(total, number, seconds)
    return total


@step(retry=Retry(attempts=None, delay=0.2))
async def load(payload: dict[str, Any]) -> dict[str, Any]:
    """Stage one."""
    await outside().perform(payload["seconds"])
    return {**payload, "rows": list(range(payload["count"]))}


@step(retry=Retry(attempts=None, delay=0.2))
async def double(payload: dict[str, Any]) -> dict[str, Any]:
    """Stage two."""
    await outside().perform(0, payload["failures"])
    return {**payload, "rows": [2 * row for row in payload["rows"]]}


@step(retry=Retry(attempts=None, delay=0.2))
def add_up(payload: dict[str, Any]) -> dict[str, Any]:
    """Stage three, in a thread."""
    outside().begin()
    return {**payload, "sum": sum(payload["rows"])}


etl = pipeline("simulated_etl", dict[str, Any], [load, double, add_up], max_recoveries=10_000)


@step(retry=Retry(attempts=None, delay=0.2))
async def pack(letter: str, size: int) -> str:
    """A large value."""
    await outside().perform()
    return letter * size


@step(retry=Retry(attempts=None, delay=0.2))
async def weigh(parcel: str) -> int:
    """What becomes of it."""
    await outside().perform(0.1)
    return len(parcel)


@workflow(max_recoveries=10_000)
async def parcels(size: int) -> list[int]:
    """Large values beside the journal."""
    return [await weigh(await pack(letter, size)) for letter in "ab"]


class Stretches(Act):
    """See the module."""

    workflows = (count_up, etl, parcels)
    weight = 2

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.count = dice.randint(3, 14)
        self.seconds = dice.choice([0.0, 0.01, 0.2])
        self.payload: dict[str, Any] = {
            "seconds": dice.choice([0.0, 0.5]),
            "count": dice.randint(0, 5),
            "failures": dice.choice([0, 0, 1]),
        }
        self.size = dice.choice([10, 40_000])
        self.kind = dice.choice(["count", "count", "etl", "etl", "parcels"])
        self.result: Any = None
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def scripts(self) -> Sequence[Script]:
        return [self._run]

    async def _run(self, client: Client) -> None:
        match self.kind:
            case "count":
                self.result = await result(await start(client, lambda: count_up(self.count, self.seconds), self.name))
            case "etl":
                self.result = await result(await start(client, lambda: etl(dict(self.payload)), self.name))
            case _:
                self.result = await result(await start(client, lambda: parcels(self.size), self.name))

    def check(self) -> Iterator[str]:
        rows = [2 * row for row in range(self.payload["count"])]
        wanted: Any = {
            "count": sum(range(self.count)),
            "etl": {**self.payload, "rows": rows, "sum": sum(rows)},
            "parcels": [self.size, self.size],
        }[self.kind]
        if self.result != wanted:
            yield f"the result of {self.name} is {self.result!r} and not {wanted!r}"
        if self.kind == "count":
            yield from self._of_loss()

    def _of_loss(self) -> Iterator[str]:
        """I10: what a crash loses of a relaxed run is bounded: executed under one epoch, and done again under the next."""
        simulation = self._simulation
        assert simulation is not None
        first: dict[str, int] = {}
        again: Counter[int] = Counter()
        for each in simulation.outside.executions:
            if each.run_id == self.name and first.setdefault(each.key, each.epoch) < each.epoch:
                again[each.epoch] += 1
        for epoch, count in again.items():
            simulation.seen["suffixes lost"] += 1
            if count > BOUND.steps + 1:
                yield f"I10: {self.name} lost {count} steps before epoch {epoch}, and its bound is {BOUND.steps}"
