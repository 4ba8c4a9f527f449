"""
One simulation: what a seed decides on, let happen, and then reckoned up.

    storm: people, workers and misfortune ──▶ calm: no misfortune any more ──▶ all is at rest ──▶ reckoning
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from everstep.client import Client
from everstep.definitions import Workflow
from everstep.engine.engine import Engine
from everstep.errors import EngineClosed, StoreUnavailable
from everstep.testing.simulation import reckoning
from everstep.testing.simulation.acts.act import Act, Script
from everstep.testing.simulation.database import Database
from everstep.testing.simulation.kernel import Kernel
from everstep.testing.simulation.link import Link, Weather
from everstep.testing.simulation.outside import Outside, enter, leave
from everstep.testing.simulation.process import Process, run_now

LEASE_SECONDS = 6.0
END_SECONDS = 600.0
"""What everything gets to come to its end once it is calm. Nothing in it takes longer than some tens."""
SETTLE_SECONDS = 8.0
"""What workers get afterwards to notice that nothing is left."""


@dataclass(frozen=True)
class Misfortune:
    """Something that befalls a process, or all of them.

    Attributes:
        at: When, seconds.
        kind: What.
        role: Whom.
        amount: How long, or how much.
    """

    at: float
    kind: str
    role: int
    amount: float

    def __str__(self) -> str:
        return f"{self.at:.3f} {self.kind} role {self.role} {self.amount:g}"


class SimulatedEngine(Engine):
    """The engine, with the seed's dice."""

    def __init__(self, link: Link, workflows: Iterable[Workflow[..., Any]], dice: Random, **options: Any) -> None:
        super().__init__(link, workflows, **options)
        self._random = dice
        self._workers: set[Any] = set()

    async def open(self) -> None:
        await super().open()
        self._workers.add(self._worker)

    def remains(self) -> list[str]:
        """What it still holds in memory, though nothing is left to do."""
        worker: Any = self._worker
        if worker is None:
            return []
        held = {
            "runs": len(worker.active),
            "names of runs": len(worker._by_id),
            "watchers": worker.watchers.count,
            "writes": len(worker.committer._pending),
        }
        return [f"{count} {what}" for what, count in held.items() if count]

    def die(self) -> None:
        """Let go of everything, when all is over: also of what it had when it crashed while it closed."""
        for worker in self._workers:
            worker.die()


@dataclass
class Role:
    """What processes are booted for, one after the other.

    Attributes:
        number: Which.
        has_engine: It drives runs; else it only asks and tells.
        is_inline: Its link is a file.
        scripts: What people do in it.
        boots: How often it was booted.
        process: The one that lives.
        link: Its connection.
        engine: What it drives runs with.
        closing: Resolved when it is told to end in good order.
    """

    number: int
    has_engine: bool
    is_inline: bool
    scripts: list[int] = field(default_factory=list[int])
    boots: int = 0
    process: Process | None = None
    link: Link | None = None
    engine: SimulatedEngine | None = None
    closing: asyncio.Future[None] | None = None


class Simulation(Kernel):
    """See the module.

    Args:
        seed: Decides on everything.
        acts: Makes what goes on, from dice; None for a choice of all acts that there are.
        keeps_lines: Keep the trace, to be read.
        without: Misfortunes and acts to leave out, while a failure is made smaller.
    """

    def __init__(
        self,
        seed: int,
        acts: Callable[[Random], Sequence[Act]],
        *,
        keeps_lines: bool = False,
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(seed, keeps_lines=keeps_lines)
        self.database = Database(self)
        self.outside = Outside(self, self.database)
        self.weather = Weather()
        self.acts = [act for act in acts(self.dice("acts")) if act.name not in without]
        self.scripts: list[Script] = [script for act in self.acts for script in act.scripts()]
        self.unfinished = set(range(len(self.scripts)))
        self.engines: list[SimulatedEngine] = []
        self.is_calm = False
        self._plan(without)

    def _plan(self, without: frozenset[str]) -> None:
        dice = self.dice("world")
        kind = dice.choice(["files", "network", "network", "mixed"])
        self.roles = [
            Role(number, number < 2 or dice.random() < 0.4, kind == "files" or (kind == "mixed" and dice.random() < 0.5))
            for number in range(dice.choice([2, 3, 3, 4]))
        ]
        for number in range(len(self.scripts)):
            dice.choice(self.roles).scripts.append(number)
        self.storm_seconds = dice.choice([4.0, 10.0, 20.0])
        self.weather.fault_rate = dice.choice([0.0, 0.02, 0.05, 0.12])
        self.weather.faults_left = 40
        if "faults" in without:
            self.weather.fault_rate = 0.0
        count = dice.choice([0, 1, 3, 6, 9])
        self.misfortunes = [each for each in self._misfortunes(count) if str(each) not in without]

    def _misfortunes(self, count: int) -> list[Misfortune]:
        dice = self.dice("misfortune")
        kinds = {
            "crash": (6, (0.05, 1.0, 8.0)),
            "freeze": (4, (0.5, 5.0, 9.0, 15.0)),
            "suspend": (2, (1.0, 9.0)),
            "cut": (3, (0.3, 3.0, 12.0)),
            "close": (2, (0.05, 2.0)),
            "skew": (2, (-2.0, -0.3, 0.5, 3.0)),
            "store clock": (1, (-5.0, -0.5, 4.0)),
            "store away": (1, (0.2, 2.0, 9.0)),
        }
        bag = [kind for kind, (weight, _) in kinds.items() for _ in range(weight)]
        drawn: list[Misfortune] = []
        for _ in range(count):
            kind = dice.choice(bag)
            at = round(dice.uniform(0, self.storm_seconds), 3)
            drawn.append(Misfortune(at, kind, dice.randrange(len(self.roles)), dice.choice(kinds[kind][1])))
        return sorted(drawn, key=lambda each: each.at)

    # --- it happens ---------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Let it happen. What is wrong is in ``problems``."""
        logger = logging.getLogger("everstep")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        enter(self.outside)
        try:
            with self.deterministic():
                try:
                    self._play()
                finally:
                    self._unwind()
        finally:
            leave()
            logger.setLevel(level)

    def _play(self) -> None:
        run_now(self.database.open())
        for act in self.acts:
            act.prepare(self)
        for role in self.roles:
            self._boot(role)
        for each in self.misfortunes:
            self.after(each.at, lambda each=each: self._befall(each))  # type: ignore[misc]
        self.run(lambda: False, self.storm_seconds)
        if self.problems:
            return
        self._calm_down()
        if not self.run(self._is_over, END_SECONDS) and not self.problems:
            self.blame(f"I11: it is calm since {END_SECONDS:g} s, and not all is over: {self._what_is_left()}")
        if not self.problems:
            frozen = max(process.frozen_until for process in self.processes) - self.now
            self.run(lambda: False, max(0, frozen) / 1e6 + SETTLE_SECONDS)
        if not self.problems:
            self._reckon()

    def _reckon(self) -> None:
        try:
            for problem in reckoning.reckon(self):
                self.blame(problem)
        except Exception as error:  # noqa: BLE001  # what is stored makes no sense at all
            self.blame(f"I6: the reckoning came to nothing: {type(error).__name__}: {error}", error)

    def _is_over(self) -> bool:
        return not self.unfinished and all(
            run.status.is_at_rest or run.run_key in self.database.tampered for run in self.database.all_runs()
        )

    def _what_is_left(self) -> str:
        runs = [
            f"{run.run_id} is {run.status} (owner {run.worker_key}, due {run.wake_at})"
            for run in self.database.all_runs()
            if not run.status.is_at_rest
        ]
        return "; ".join([*runs, *(f"script {number}" for number in sorted(self.unfinished))])

    # --- processes ------------------------------------------------------------------------------------------------------------

    def _boot(self, role: Role) -> None:
        role.boots += 1
        dice = self.dice(f"process {role.number}.{role.boots}")
        rate = dice.choice([1.0, 1.0, 1.0, 0.9, 1.1]) if not self.is_calm else 1.0
        process = Process(self, f"p{role.number}.{role.boots}", 1000 * (role.number + 1) + role.boots, rate)
        role.process, role.engine = process, None
        role.link = Link(self, self.database, process, self.weather, is_inline=role.is_inline)
        role.closing = process.loop.create_future()
        role.link.skew = 0 if self.is_calm else dice.choice([0, 0, 0, 300_000, 3_000_000, -1_000_000])
        self.processes.append(process)
        self.note(f"{process} boots")
        link, closing = role.link, role.closing
        process.ended.append(lambda: self._ended(role, link))
        process.boot(lambda: self._live(role, link, closing, dice))

    def _ended(self, role: Role, link: Link) -> None:
        self.note(f"{link.process} is gone")
        dice = self.dice(f"end of {link.process}")
        if dice.random() < 0.5:
            # On one machine others find out at once; else its lease has to run out.
            for worker_key in link.worker_keys:
                self.database.kill(worker_key)
        self.after(dice.choice([0.01, 0.5, 3.0]), lambda: self._boot(role))

    async def _live(self, role: Role, link: Link, closing: asyncio.Future[None], dice: Random) -> None:
        client = self._client(role, link, dice)
        while True:
            try:
                await client.open()
                break
            except StoreUnavailable:
                await asyncio.sleep(0.2)
        acting = [asyncio.ensure_future(self._act(number, client)) for number in role.scripts if number in self.unfinished]
        await closing
        await client.close()
        for script in acting:
            script.cancel()
        await asyncio.gather(*acting, return_exceptions=True)

    def _client(self, role: Role, link: Link, dice: Random) -> Client:
        if not role.has_engine:
            return Client(link)
        known = [code for act in self.acts for code in self._codes(act, role.number, dice)]
        options = {"grace": dice.choice([0.0, 1.0]), "concurrency": dice.choice([2, 100])}
        role.engine = SimulatedEngine(link, known, Random(dice.random()), lease=LEASE_SECONDS, **options)
        self.engines.append(role.engine)
        return role.engine

    def _codes(self, act: Act, number: int, dice: Random) -> Sequence[Workflow[..., Any]]:
        return act.final_codes(number) if self.is_calm else act.codes(number, dice)

    async def _act(self, number: int, client: Client) -> None:
        try:
            await self.scripts[number](client)
        except EngineClosed:
            return  # It is begun again elsewhere.
        except Exception as error:  # noqa: BLE001  # whatever it is, a program would have been told what it did not expect
            self.blame(f"script {number} raised {type(error).__name__}: {error}", error)
        self.unfinished.discard(number)

    # --- misfortune -----------------------------------------------------------------------------------------------------------

    def _befall(self, each: Misfortune) -> None:
        role = self.roles[each.role]
        process, link = role.process, role.link
        if process is None or link is None or process.is_dead:
            return
        self.note(f"misfortune: {each}")
        self.seen[f"misfortune: {each.kind}"] += 1
        match each.kind:
            case "crash":
                process.crash()
            case "freeze" | "suspend":
                process.freeze(each.amount, suspended=each.kind == "suspend")
            case "cut":
                link.is_cut = True
                self.after(each.amount, lambda: setattr(link, "is_cut", False))
            case "close" if role.closing is not None and not role.closing.done():
                role.closing.set_result(None)
            case "skew":
                link.skew = round(each.amount * 1e6)
            case "store clock":
                self.database.shift += round(each.amount * 1e6)
            case "store away":
                self.weather.is_store_away = True
                self.after(each.amount, lambda: setattr(self.weather, "is_store_away", False))
            case _:
                pass

    def _calm_down(self) -> None:
        self.note("calm")
        self.is_calm = True
        self.weather.fault_rate = 0.0
        self.weather.is_store_away = False
        for role in self.roles:
            if role.link is not None:
                role.link.is_cut, role.link.skew = False, 0
        if any(act.has_versions for act in self.acts):
            for role in self.roles:  # Whoever has old code ends in good order, and is booted with the newest.
                if role.has_engine and role.closing is not None and not role.closing.done():
                    role.closing.set_result(None)

    def _unwind(self) -> None:
        self.is_calm = True
        problems = list(self.problems)
        for process in self.processes:
            process.ended.clear()
        for engine in self.engines:
            engine.die()
        for process in self.processes:
            process.unwind()
        self.problems = problems
