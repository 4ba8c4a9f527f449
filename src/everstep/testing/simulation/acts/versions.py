"""
Rolling code: engines with the old code, the new one (which guards its change), and one that changed without a guard.

Each run is carried on by code that fits its journal, or waits for it; in the end both kinds of code are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from everstep.client import Client
from everstep.definitions import Workflow, step, workflow
from everstep.engine.engine import Engine
from everstep.errors import RunPaused
from everstep.inside import sleep
from everstep.patches import patched
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, result, start
from everstep.testing.simulation.outside import outside


@step(retry=Retry(attempts=None, delay=0.2))
async def stage(name: str, seconds: float) -> str:
    """Something."""
    await outside().perform(seconds)
    return name


async def old(seconds: float) -> list[str]:
    """How it was."""
    done = [await stage("a", seconds)]
    await sleep(seconds)
    return [*done, await stage("b", seconds), await stage("c", seconds)]


async def new(seconds: float) -> list[str]:
    """How it is now: a stage more, for runs that have not come so far."""
    done = [await stage("a", seconds)]
    await sleep(seconds)
    if patched("extra"):
        done.append(await stage("extra", seconds))
    return [*done, await stage("b", seconds), await stage("c", seconds)]


async def careless(seconds: float) -> list[str]:
    """Somebody changed it without a thought for runs that are under way."""
    done = [await stage("a", seconds)]
    await sleep(seconds)
    return [*done, await stage("B", seconds), await stage("c", seconds)]


def _coded(function: Any) -> Workflow[[float], list[str]]:
    made: Workflow[[float], list[str]] = workflow(name="rolling", max_recoveries=10_000)(function)
    return made


OLD, NEW, CARELESS = _coded(old), _coded(new), _coded(careless)


@workflow(name="pinned", version="1", max_recoveries=10_000)
async def pinned_1(seconds: float) -> str:
    """The first version."""
    return await stage("one", seconds)


@workflow(name="pinned", version="2", max_recoveries=10_000)
async def pinned_2(seconds: float) -> str:
    """The second."""
    return await stage("two", seconds)


class Versions(Act):
    """See the module."""

    workflows = (OLD, NEW, CARELESS)
    has_versions = True

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.seconds = dice.choice([0.1, 0.7, 1.6])
        self.run_ids = [f"{name}-{number}" for number in range(dice.randint(1, 2))]
        self.results: dict[str, list[str]] = {}
        self.pinned: dict[str, str] = {}

    def codes(self, number: int, dice: Random) -> Sequence[Workflow[..., Any]]:
        return [dice.choice([OLD, OLD, NEW, NEW, CARELESS]), *dice.choice([[pinned_1], [pinned_2], [pinned_1, pinned_2]])]

    def final_codes(self, number: int) -> Sequence[Workflow[..., Any]]:
        return [NEW, pinned_1] if number == 0 else [CARELESS, pinned_2]

    def scripts(self) -> Sequence[Script]:
        return [*(self._script(run_id) for run_id in self.run_ids), self._pinned]

    def _script(self, run_id: str) -> Script:
        async def run(client: Client) -> None:
            code = NEW
            if isinstance(client, Engine):
                code = next(each for each in client.registry if each.name == "rolling")
            while True:
                try:
                    self.results[run_id] = await result(await start(client, lambda: code(self.seconds), run_id))
                    return
                except RunPaused:
                    await sleep(0.5)

        return run

    async def _pinned(self, client: Client) -> None:
        code = pinned_1
        if isinstance(client, Engine):
            code = next(each for each in client.registry if each.name == "pinned")
        run_id = f"{self.name}-v{code.version}"
        self.pinned[run_id] = await result(await start(client, lambda: code(self.seconds), run_id))

    def check(self) -> Iterator[str]:
        for run_id in self.run_ids:
            found = self.results.get(run_id)
            if found not in (["a", "b", "c"], ["a", "extra", "b", "c"], ["a", "B", "c"]):
                yield f"{run_id} came to {found}"
        for run_id, came_to in self.pinned.items():
            if came_to != {"1": "one", "2": "two"}[run_id[-1]]:
                yield f"{run_id} came to {came_to}, by code of another version"
