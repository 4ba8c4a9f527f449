"""
Trees of steps, timers, children and things given up: sequential, in parallel, with retries.

What a run does is in its arguments, so that one workflow can be anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.errors import StepOutcomeUnknown
from everstep.milestones import milestone
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, result, start
from everstep.testing.simulation.outside import outside

RECOVERIES_MAX = 10_000


@step(retry=Retry(attempts=None, delay=0.5, factor=3, jitter=0.1))
async def work(name: str, seconds: float, failures: int) -> str:
    """Takes some time, and fails some times."""
    await outside().perform(seconds, failures)
    return name


@step(retry=Retry(attempts=None, delay=0.3))
def plain(name: str, failures: int) -> str:
    """The same in a thread."""
    if outside().begin().attempt <= failures:
        raise OSError("not yet")
    return name


@step(at_most_once=True)
async def once(name: str, seconds: float) -> str:
    """Must not happen twice."""
    await outside().perform(seconds)
    return name


@workflow(max_recoveries=RECOVERIES_MAX)
async def tree(plan: list[Any]) -> Any:
    """Does what its plan says."""
    return await follow(plan)


async def follow(plan: list[Any]) -> Any:
    """One node of a plan."""
    match plan:
        case ["work", name, seconds, failures]:
            return await work(name, seconds, failures)
        case ["plain", name, failures]:
            return await plain(name, failures)
        case ["once", name, seconds]:
            try:
                return await once(name, seconds)
            except StepOutcomeUnknown:
                await work(f"look after {name}", 0, 0)
                return name
        case ["sleep", seconds]:
            await asyncio.sleep(seconds)
            return "slept"
        case ["in turn", parts]:
            return [await follow(part) for part in parts]
        case ["milestone", parts]:
            async with milestone("stretch"):
                return [await follow(part) for part in parts]
        case ["together", parts]:
            return list(await asyncio.gather(*(follow(part) for part in parts)))
        case ["group", parts]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(follow(part)) for part in parts]
            return [task.result() for task in tasks]
        case ["child", part]:
            return await tree(part)
        case ["give up", seconds, part]:
            try:
                return await asyncio.wait_for(follow(part), seconds)
            except TimeoutError:
                return "given up"
        case _:
            raise AssertionError(plan)


def outcome_of(plan: list[Any]) -> Any:
    """What a tree returns. Pure."""
    match plan:
        case ["work" | "once" | "plain", name, *_]:
            return name
        case ["sleep", _]:
            return "slept"
        case ["in turn" | "together" | "group" | "milestone", parts]:
            return [outcome_of(part) for part in parts]
        case ["child", part]:
            return outcome_of(part)
        case _:
            return "given up"


def grow(dice: Random, depth: int = 2) -> list[Any]:
    """A plan."""
    leaves = ["work", "work", "plain", "once", "sleep"]
    kind = dice.choice(leaves if depth == 0 else [*leaves, "in turn", "together", "group", "child", "give up", "milestone"])
    match kind:
        case "work":
            return ["work", f"w{dice.randrange(1000)}", dice.choice([0, 0, 0.3, 2, 7]), dice.choice([0, 0, 0, 1, 2])]
        case "plain":
            return ["plain", f"p{dice.randrange(1000)}", dice.choice([0, 0, 1])]
        case "once":
            return ["once", f"o{dice.randrange(1000)}", dice.choice([0, 0.3, 2])]
        case "sleep":
            return ["sleep", dice.choice([0, 0.2, 0.9, 1.5, 5])]
        case "child":
            return ["child", grow(dice, depth - 1)]
        case "give up":
            longer = dice.choice([["sleep", 1e6], ["work", "never", 1e6, 0], ["child", ["sleep", 1e6]]])
            return ["give up", dice.choice([0.4, 3.0]), dice.choice([longer, ["together", [longer, grow(dice, 0)]]])]
        case "milestone":
            return ["milestone", [grow(dice, 0) for _ in range(dice.randint(2, 4))]]
        case _:
            return [kind, [grow(dice, depth - 1) for _ in range(dice.randint(1, 3))]]


class Trees(Act):
    """Some of them; each result is as its plan says."""

    workflows = (tree,)
    weight = 3

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.plans = {
            f"{name}-{n}": ["in turn", [grow(dice) for _ in range(dice.randint(1, 3))]] for n in range(dice.randint(1, 2))
        }
        self.results: dict[str, Any] = {}

    def scripts(self) -> Sequence[Script]:
        return [self._script(run_id, plan) for run_id, plan in self.plans.items()]

    def _script(self, run_id: str, plan: list[Any]) -> Script:
        async def run(client: Client) -> None:
            self.results[run_id] = await result(await start(client, lambda: tree(plan), run_id))

        return run

    def check(self) -> Iterator[str]:
        for run_id, plan in self.plans.items():
            if self.results.get(run_id) != outcome_of(plan):
                yield f"the result of {run_id} is {self.results.get(run_id)!r} and not {outcome_of(plan)!r}"
