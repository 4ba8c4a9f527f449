"""
Children with options, and ids: one run per id whoever asks, children of every close policy, an id that two parents want.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from everstep.children import start as start_child
from everstep.client import Client
from everstep.definitions import step, workflow
from everstep.errors import RunConflict, RunNotFound
from everstep.retry import Retry
from everstep.talk import signal
from everstep.testing.simulation.acts.act import Act, Script, insist, result, start, until
from everstep.testing.simulation.outside import outside

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation

nudge = signal("nudge", str)


@step(retry=Retry(attempts=None, delay=0.2))
async def chore(name: str, seconds: float) -> str:
    """Something to do."""
    await outside().perform(seconds)
    return name


@workflow(max_recoveries=10_000)
async def child(name: str, seconds: float) -> str:
    """Waits for a nudge."""
    said = await nudge.wait(timeout=30.0, default="nobody")
    return f"{await chore(name, seconds)} by {said}"


@workflow(max_recoveries=10_000)
async def parent(name: str, shared: str, seconds: float) -> list[str]:
    """Starts one child that waits for nobody, one whose id it may not get, and one that it gives up."""
    own = start_child(child("own", seconds), on_parent_close="wait")
    given_up = start_child(child("given up", 100.0))
    both = start_child(child("shared", seconds), id=shared, on_parent_close="abandon")
    own.send(nudge, name)
    answers: list[str] = []
    try:
        await both.started()
        both.send(nudge, name)
        answers.append(await both)
    except RunConflict:
        answers.append("taken")
    answers.append(await own)
    given_up.cancel("not needed")
    return answers


class Families(Act):
    """See the module."""

    workflows = (parent, child)

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.seconds = dice.choice([0.0, 0.3, 1.5])
        self.results: dict[str, list[str]] = {}
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def scripts(self) -> Sequence[Script]:
        return [self._script(f"{self.name}-{number}") for number in range(2)]

    def _script(self, run_id: str) -> Script:
        async def run(client: Client) -> None:
            handle = await start(client, lambda: parent(run_id, f"{self.name}-shared", self.seconds), run_id)
            self.results[run_id] = await result(handle)

        return run

    def check(self) -> Iterator[str]:
        answers = sorted(each[0] for each in self.results.values())
        if len(answers) != 2 or answers.count("taken") != 1:
            yield f"I13: of two parents who want one id, {answers} were told"
        for run_id, each in self.results.items():
            if each[1] != f"own by {run_id}":
                yield f"I13: the child of {run_id} came to {each[1]!r}"
            if each[0] not in ("taken", f"shared by {run_id}"):
                yield f"I13: the shared child of {run_id} came to {each[0]!r}"


@workflow(max_recoveries=10_000)
async def brief(number: int) -> int:
    """Soon over."""
    return int(await chore(str(number), 0.1))


class Ids(Act):
    """Many start one id at once: one run. Other arguments are refused, and shown. Once it is pruned the id is a new one."""

    workflows = (brief,)
    is_alone = True

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.starters = dice.randint(2, 5)
        self.results: list[int] = []
        self.conflicts: list[str] = []
        self.later: list[int] = []
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def scripts(self) -> Sequence[Script]:
        return [*([self._join] * self.starters), self._prune]

    async def _join(self, client: Client) -> None:
        try:
            handle = await start(client, lambda: brief(1), self.name)
            self.results.append(await result(handle))
        except (RunConflict, RunNotFound) as error:
            # Somebody was quicker and has pruned it; then another run may have the id.
            if not self._is_pruned:
                self.conflicts.append(str(error))
            self.results.append(1)

    @property
    def _is_pruned(self) -> bool:
        return bool(self._simulation and self._simulation.database.pruned)

    async def _prune(self, client: Client) -> None:
        handle = await start(client, lambda: brief(1), f"{self.name}-other")
        if await result(handle) != 1:
            self.conflicts.append("the first run of an id came to something else")
        try:
            await insist(lambda: client.start(brief(2), id=f"{self.name}-other"))
            if not self._is_pruned:
                self.conflicts.append("another start with the id of a run was not refused")
        except RunConflict as conflict:
            if "number: 1 recorded, 2 requested" not in str(conflict):
                self.conflicts.append(str(conflict))
        await until(lambda: len(self.results) >= self.starters)
        outside().facts.setdefault("pruned", set()).update({self.name, f"{self.name}-other"})
        await insist(lambda: client.prune(timedelta(0)))
        # In two halves: begun again after a crash, it must not take the new run for the old one.
        again = await start(client, lambda: brief(3), f"{self.name}-again")
        self.later.append(await result(again))

    def check(self) -> Iterator[str]:
        if set(self.results) != {1} or len(self.results) < self.starters:
            yield f"I15: {self.starters} starters of one id were told {self.results}"
        yield from (f"I15: {each}" for each in self.conflicts)
        if set(self.later) != {3}:
            yield f"I15: after pruning a new run came to {self.later}"
