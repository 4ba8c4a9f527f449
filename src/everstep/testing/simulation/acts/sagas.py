"""
Sagas: whatever happens, a journey ends completed, or with everything undone, in order.

The outside is a provider who keeps books: what is reserved, what was released. A frozen worker's late call is refused there by
its epoch, as a receiver should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.errors import RunCancelled, RunFailed, RunNotFound
from everstep.events import ChildStarted, ChildSucceeded, RunSucceeded, StepCompleted, StepScheduled
from everstep.inside import current
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, insist, result, start
from everstep.testing.simulation.outside import outside
from everstep.undo import Saga, saga

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation


class Books:
    """The provider's: who holds what, and the newest epoch of each run."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.refused = 0
        self._epochs: dict[str, int] = {}

    def admit(self) -> None:
        """Refuse a worker that has lost the run."""
        where = current()
        if where.epoch < self._epochs.get(where.run_id, 0):
            self.refused += 1
            raise PermissionError("a newer worker has been here")
        self._epochs[where.run_id] = where.epoch


def books() -> Books:
    """Those of the simulation that is running."""
    found: Books = outside().facts.setdefault("books", Books())
    return found


async def _reserve(name: str, seconds: float, failures: int) -> str:
    books().admit()
    await outside().perform(seconds, failures)
    books().admit()
    books().held.add(name)
    return name


@step(retry=Retry(attempts=None, delay=0.5, factor=3, jitter=0.1, give_up_on=(PermissionError,)))
async def reserve(name: str, seconds: float, failures: int) -> str:
    """May be done again."""
    return await _reserve(name, seconds, failures)


@step(at_most_once=True)
async def pay(name: str, seconds: float) -> str:
    """May not."""
    return await _reserve(name, seconds, 0)


@step(retry=Retry(attempts=None, delay=0.5, factor=3, jitter=0.1))
async def release(name: str, seconds: float, failures: int) -> None:
    """Undoes both."""
    books().admit()
    await outside().perform(seconds, failures)
    books().admit()
    books().held.discard(name)


@step
async def refuse(why: str) -> None:
    """Makes a saga fail."""
    outside().begin()
    raise ValueError(why)


@workflow(max_recoveries=10_000)
async def reserve_child(name: str, seconds: float) -> str:
    """A saga of its own."""
    async with saga() as own:
        await own.do(reserve(f"{name} of the child", seconds, 0), undo=lambda held: release(held, 0, 0))
        await asyncio.sleep(seconds)
    return name


@workflow(max_recoveries=10_000)
async def release_child(name: str) -> None:
    """Undoes it."""
    await release(f"{name} of the child", 0, 1)


@workflow(max_recoveries=10_000)
async def journey(plan: list[Any]) -> str:
    """Does what its plan says."""
    async with saga() as whole:
        await follow(plan, whole)
    return "arrived"


async def follow(plan: list[Any], around: Saga) -> None:
    """One node of a plan."""
    match plan:
        case ["reserve", name, seconds, failures, "function", back]:
            await around.do(reserve(name, seconds, failures), undo=lambda held: release(held, *back))
        case ["reserve", name, seconds, failures, "call", back]:
            await around.do(reserve(name, seconds, failures), undo=release(name, *back))
        case ["pay", name, seconds]:
            await around.do(pay(name, seconds), undo=release(name, 0, 0))
        case ["child", name, seconds]:
            await around.do(reserve_child(name, seconds), undo=release_child)
        case ["sleep", seconds]:
            await asyncio.sleep(seconds)
        case ["refuse"]:
            await refuse("not today")
        case ["in turn", parts]:
            for part in parts:
                await follow(part, around)
        case ["together", "gather", parts]:
            await asyncio.gather(*(follow(part, around) for part in parts))
        case ["together", _, parts]:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(follow(part, around))
        case ["attempt", part]:
            with suppress(Exception, BaseExceptionGroup):  # whatever it was, it has been undone
                async with saga() as inner:
                    await follow(part, inner)
        case ["give up", seconds, part]:
            try:
                async with saga() as inner:
                    await asyncio.wait_for(follow(part, inner), seconds)
            except TimeoutError:
                pass
        case _:
            raise AssertionError(plan)


class Sagas(Act):
    """See the module."""

    workflows = (journey, reserve_child, release_child)
    weight = 2

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self._count = 0
        self.plan = ["in turn", [self._grow(2) for _ in range(2)]]
        self.cancel_after = dice.choice([None, None, dice.uniform(0.01, 6)])
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def _grow(self, depth: int) -> list[Any]:
        dice = self.dice
        leaves = ["reserve", "reserve", "reserve", "pay", "child", "sleep", "refuse"]
        kind = dice.choice(leaves if depth == 0 else [*leaves[:5], "in turn", "in turn", "together", "attempt", "give up"])
        self._count += 1
        name = f"{self.name} {self._count}"
        match kind:
            case "reserve":
                back = [dice.choice([0, 0, 2]), dice.choice([0, 0, 1])]
                return [kind, name, dice.choice([0, 0.3, 4]), dice.choice([0, 0, 2]), dice.choice(["function", "call"]), back]
            case "pay" | "child":
                return [kind, name, dice.choice([0, 0.3, 2])]
            case "sleep":
                return [kind, dice.choice([0, 0.5, 1.5, 6])]
            case "refuse":
                return [kind]
            case "together":
                return [kind, dice.choice(["gather", "group"]), [self._grow(depth - 1) for _ in range(dice.randint(2, 3))]]
            case "in turn":
                return [kind, [self._grow(depth - 1) for _ in range(dice.randint(2, 3))]]
            case "give up":
                return [kind, dice.choice([0.4, 3.0]), self._grow(depth - 1)]
            case _:
                return [kind, self._grow(depth - 1)]

    def scripts(self) -> Sequence[Script]:
        return [self._travel, *([self._cancel] if self.cancel_after is not None else [])]

    async def _travel(self, client: Client) -> None:
        with suppress(RunFailed, RunCancelled):  # That is for the books to say.
            await result(await start(client, lambda: journey(self.plan), self.name))

    async def _cancel(self, client: Client) -> None:
        await asyncio.sleep(self.cancel_after or 0)
        try:
            await insist(lambda: client.handle(self.name).cancel("enough"))
        except RunNotFound:
            await asyncio.sleep(0)

    def check(self) -> Iterator[str]:
        assert self._simulation is not None
        database = self._simulation.database
        run = database.run_of(self.name)
        if run is None:
            yield f"I10: {self.name} is not there"
            return
        events = [event for entry in database.journal_of(run.run_key) for event in entry.decoded()]
        held = {name for name in books().held if name.startswith(f"{self.name} ")}
        done = {event.key for event in events if isinstance(event, StepCompleted | ChildSucceeded)}
        asked = [event for event in events if isinstance(event, StepScheduled | ChildStarted)]
        undone = {event.undoes for event in asked if event.undoes is not None}
        if run.status == "dead":
            yield f"I14: {self.name} is dead, and every undo works in the end"
        elif isinstance(events[-1], RunSucceeded):
            forward = {event.key for event in asked if event.undoes is None} & done
            if len(forward - undone) != len(held):
                yield f"I14: {self.name} succeeded with {sorted(forward - undone)} done, and {sorted(held)} is held"
        elif held:
            yield f"I14: {self.name} is {run.status}, and {sorted(held)} is still held"
