"""
What should not happen to a run, and does: it kills its worker, its journal is damaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.errors import RunDead, RunPaused
from everstep.inside import current
from everstep.records import Status
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, insist, result, start
from everstep.testing.simulation.outside import outside

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation


@step
async def deadly(times: int) -> int:
    """Kills its process so many times."""
    outside().begin()
    here = current()
    if outside().executed[here.idempotency_key] <= times:
        outside().crash_here()
        await asyncio.sleep(1e9)
    return times


@workflow(max_recoveries=2)
async def poisoned(times: int) -> int:
    """Three deaths in a row are too many."""
    return await deadly(times)


@step(retry=Retry(attempts=None, delay=0.2))
async def look(number: int) -> int:
    """Harmless."""
    await outside().perform()
    return number


@workflow(max_recoveries=10_000)
async def sleeper(seconds: float) -> int:
    """Leaves memory, and comes back."""
    await look(1)
    await asyncio.sleep(seconds)
    return await look(2)


class Poison(Act):
    """A run that kills its worker each time is given up; one that stops doing so is not; others do not suffer."""

    workflows = (poisoned,)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.times = dice.choice([1, 100])
        self.ended = ""

    def scripts(self) -> Sequence[Script]:
        return [self._run]

    async def _run(self, client: Client) -> None:
        try:
            await result(await start(client, lambda: poisoned(self.times), self.name))
            self.ended = "succeeded"
        except RunDead:
            self.ended = "dead"

    def check(self) -> Iterator[str]:
        deaths = sum(key.startswith(f"{self.name}/") for key in (each.key for each in outside().executions))
        if self.times == 100 and self.ended != "dead":
            yield f"I21: {self.name} kills every worker, and is {self.ended!r} after {deaths} deaths"


class Damage(Act):
    """A bit of a stored journal flips: that run is quarantined with a reason, and nothing of it is executed any more."""

    workflows = (sleeper,)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.seconds = dice.choice([3.0, 6.0])
        self.place = dice.random()
        self.damaged = False
        self.ended = ""
        self.epoch = 0
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def scripts(self) -> Sequence[Script]:
        return [self._run]

    async def _run(self, client: Client) -> None:
        assert self._simulation is not None
        handle = await start(client, lambda: sleeper(self.seconds), self.name)
        while not self.damaged and not (await insist(handle.status)).is_at_rest:
            await asyncio.sleep(0.3)
            if self._simulation.database.damage(self.name, self.place):
                self.damaged = True
                run = self._simulation.database.run_of(self.name)
                self.epoch = run.epoch if run is not None else 0
        try:
            await result(handle)
            self.ended = "succeeded"
        except RunPaused as paused:
            self.ended = str(paused)

    def check(self) -> Iterator[str]:
        assert self._simulation is not None
        if not self.damaged:
            return
        run = self._simulation.database.run_of(self.name)
        if run is None or run.status is not Status.PAUSED or "corrupt" not in self.ended:
            yield f"I21: the journal of {self.name} was damaged, and it ended as {self.ended!r}"
        if any(each.run_id == self.name and each.epoch > self.epoch for each in outside().executions):
            yield f"I21: the journal of {self.name} was damaged, and more of it was executed"
