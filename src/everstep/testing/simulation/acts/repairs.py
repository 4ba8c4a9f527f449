"""
What people do to runs: they retry failed ones, pause and resume, cancel, say what a step came to, and fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random

from everstep.client import Client, Handle
from everstep.definitions import step, workflow
from everstep.errors import IllegalState, RunCancelled, RunFailed, RunNotFound, RunPaused
from everstep.records import Status
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, insist, result, start
from everstep.testing.simulation.outside import outside


@step(retry=Retry(attempts=2, delay=0.3))
async def fragile(run: str, number: int) -> int:
    """Fails for good until somebody mends it."""
    await outside().perform(0.05)
    if number == 1 and run not in outside().facts.setdefault("mended", set()):
        raise ValueError("broken")
    return number


@step(retry=Retry(attempts=None, delay=0.2))
async def sturdy(number: int, seconds: float) -> int:
    """Does not fail."""
    await outside().perform(seconds)
    return number


@workflow(max_recoveries=10_000)
async def mendable(run: str) -> list[int]:
    """Fails in the middle."""
    return [await sturdy(0, 0.1), await fragile(run, 1), await sturdy(2, 0.1)]


@workflow(max_recoveries=10_000)
async def patient(count: int, seconds: float) -> list[int]:
    """Takes long enough to be interfered with."""
    done: list[int] = []
    for number in range(count):
        done.append(await sturdy(number, seconds))
        await asyncio.sleep(seconds)
    return done


@workflow(max_recoveries=10_000)
async def endless(seconds: float) -> str:
    """Ends only if somebody cancels it."""
    await sturdy(0, seconds)
    await asyncio.sleep(1e6)
    return "never"


class Mending(Act):
    """A run fails, somebody mends the cause and retries it, or says what the step came to; and perhaps forks it in the end."""

    workflows = (mendable,)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.by_hand = dice.random() < 0.4
        self.forks = dice.random() < 0.5
        self.results: dict[str, list[int]] = {}

    def scripts(self) -> Sequence[Script]:
        return [self._mend]

    async def _mend(self, client: Client) -> None:
        handle = await start(client, lambda: mendable(self.name), self.name)
        try:
            self.results[self.name] = await result(handle)
        except RunFailed:
            await self._repair(handle)
            self.results[self.name] = await result(handle)
        if self.forks:
            fork = await self._fork(client, handle)
            outside().facts["mended"].add(self.name)
            self.results["fork"] = await result(fork)

    async def _repair(self, handle: Handle[list[int]]) -> None:
        try:
            if self.by_hand:
                await insist(lambda: handle.complete_step("fragile", 1, "looked it up"))
            else:
                outside().facts["mended"].add(self.name)
                await insist(lambda: handle.retry("mended"))
        except IllegalState:
            pass  # An earlier try was heard after all.

    async def _fork(self, client: Client, handle: Handle[list[int]]) -> Handle[list[int]]:
        run_id = f"{self.name}-fork"
        try:
            return await insist(lambda: handle.fork(edit={"sturdy": 20}, id=run_id))
        except IllegalState:
            return client.handle(run_id, mendable)

    def check(self) -> Iterator[str]:
        if self.results.get(self.name) != [0, 1, 2]:
            yield f"{self.name} came to {self.results}"
        if self.forks and self.results.get("fork") not in ([0, 1, 20], [20, 1, 2]):
            yield f"the fork of {self.name} came to {self.results}"


class Meddling(Act):
    """Somebody pauses and resumes a run, in the end resumes it; it comes to what it would have come to."""

    workflows = (patient,)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.count, self.seconds = dice.randint(2, 4), dice.choice([0.05, 0.6, 1.5])
        self.pauses = [(dice.uniform(0, 3), dice.uniform(0, 3)) for _ in range(dice.randint(1, 3))]
        self.result: list[int] = []

    def scripts(self) -> Sequence[Script]:
        return [self._run, self._meddle]

    async def _run(self, client: Client) -> None:
        handle = await start(client, lambda: patient(self.count, self.seconds), self.name)
        while True:
            try:
                self.result = await result(handle)
                return
            except RunPaused:
                await asyncio.sleep(0.5)

    async def _meddle(self, client: Client) -> None:
        handle = await start(client, lambda: patient(self.count, self.seconds), self.name)
        try:
            for before, after in self.pauses:
                await asyncio.sleep(before)
                await insist(lambda: handle.pause("wait"))
                await asyncio.sleep(after)
                await insist(lambda: handle.resume("go on"))
            # What was asked of a worker may be heard late: until the run is over somebody looks after it.
            while not (await insist(handle.status)).is_at_rest:
                if await insist(handle.status) is Status.PAUSED:
                    await insist(lambda: handle.resume("go on, really"))
                await asyncio.sleep(1)
        except IllegalState:
            pass  # It is over.

    def check(self) -> Iterator[str]:
        if self.result != list(range(self.count)):
            yield f"{self.name} came to {self.result}"


class Cancelling(Act):
    """A run that would never end is cancelled, and ends: a cancel that was acknowledged is not lost."""

    workflows = (endless,)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.seconds = dice.choice([0.0, 0.5, 2.0])
        self.after = dice.choice([0.0, dice.uniform(0, 5)])
        self.ended = ""

    def scripts(self) -> Sequence[Script]:
        return [self._run, self._cancel]

    async def _run(self, client: Client) -> None:
        handle = await start(client, lambda: endless(self.seconds), self.name)
        try:
            self.ended = await result(handle)
        except RunCancelled:
            self.ended = "cancelled"

    async def _cancel(self, client: Client) -> None:
        await asyncio.sleep(self.after)
        while True:
            try:
                await insist(lambda: client.handle(self.name).cancel("enough"))
                return
            except RunNotFound:
                await asyncio.sleep(0.3)

    def check(self) -> Iterator[str]:
        if self.ended != "cancelled":
            yield f"{self.name} was cancelled, and ended as {self.ended!r}"
