"""
Play many seeds, make a failure smaller, and say how to see it again.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from everstep.testing.simulation.acts.act import Act
from everstep.testing.simulation.acts.choice import ALL, all_acts
from everstep.testing.simulation.simulation import Simulation

Acts = Callable[[Random], Sequence[Act]]

SEEDS_PER_BATCH = 50
SHRINKS_MAX = 60


@dataclass(frozen=True)
class Found:
    """What one seed came to.

    Attributes:
        seed: The seed.
        problems: What is wrong; empty if nothing is.
        digest: Of all that happened: the same whenever and wherever the seed is played with the same code.
        without: What was left out and is not needed for the failure.
    """

    seed: int
    problems: tuple[str, ...]
    digest: str
    without: tuple[str, ...] = ()


@dataclass
class Report:
    """What many seeds came to.

    Attributes:
        seeds: How many were played.
        operations: How many operations of the store were looked at.
        seen: What happened in them, counted.
        failures: Those with problems.
    """

    seeds: int = 0
    operations: int = 0
    seen: Counter[str] = field(default_factory=Counter[str])
    failures: list[Found] = field(default_factory=list[Found])

    def add(self, other: Report) -> None:
        """More of them."""
        self.seeds += other.seeds
        self.operations += other.operations
        self.seen.update(other.seen)
        self.failures += other.failures


def acts_named(names: Iterable[str]) -> Acts:
    """All of these acts, in every seed."""
    kinds = [next(kind for kind in ALL if kind.__name__ == name) for name in names]
    return lambda dice: [kind(f"{kind.__name__.lower()}{number}", dice) for number, kind in enumerate(kinds)]


def play(seed: int, acts: Acts = all_acts, *, keeps_lines: bool = False, without: Iterable[str] = ()) -> Simulation:
    """Play one seed. What is wrong is in its ``problems``."""
    simulation = Simulation(seed, acts, keeps_lines=keeps_lines, without=frozenset(without))
    simulation.play()
    return simulation


def play_all(seeds: Iterable[int], acts: Acts = all_acts) -> Report:
    """Play them one after the other, in this process."""
    report = Report()
    with _without_collector():
        for seed in seeds:
            simulation = play(seed, acts)
            report.seeds += 1
            report.operations += simulation.database.operation_count
            report.seen.update(simulation.seen)
            if simulation.problems:
                report.failures.append(Found(seed, tuple(simulation.problems), simulation.trace.digest))
            del simulation
            if report.seeds % 5 == 0:
                gc.collect()
    return report


def play_in_processes(seeds: Sequence[int], names: Sequence[str] = (), jobs: int | None = None) -> Iterator[Report]:
    """Play them on all cores. Gives a report for each batch, in their order."""
    batches = [seeds[first : first + SEEDS_PER_BATCH] for first in range(0, len(seeds), SEEDS_PER_BATCH)]
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        yield from pool.map(_play_batch, batches, [tuple(names)] * len(batches))


def _play_batch(seeds: Sequence[int], names: Sequence[str]) -> Report:
    return play_all(seeds, acts_named(names) if names else all_acts)


def shrink(found: Found, acts: Acts = all_acts) -> Found:
    """Leave out misfortunes and acts as long as the first problem is the same, by its name."""
    kind = found.problems[0].partition(":")[0]
    simulation = Simulation(found.seed, acts)
    candidates = ["faults", *(act.name for act in simulation.acts), *(str(each) for each in simulation.misfortunes)]
    without: list[str] = []
    best = found
    for candidate in candidates[:SHRINKS_MAX]:
        if len(simulation.acts) == sum(act.name in without for act in simulation.acts) + 1 and candidate in {
            act.name for act in simulation.acts
        }:
            continue  # The last act is what it is about.
        tried = play(found.seed, acts, without=[*without, candidate])
        if tried.problems and tried.problems[0].partition(":")[0] == kind:
            without.append(candidate)
            best = Found(found.seed, tuple(tried.problems), tried.trace.digest, tuple(without))
    return best


def describe(found: Found, names: Sequence[str] = ()) -> str:
    """A failure in words, with how to see it again."""
    given = f" --acts {','.join(names)}" if names else ""
    problems = "\n".join(f"  {problem}" for problem in found.problems[:5])
    left_out = f"\nNot needed for it: {'; '.join(found.without)}" if found.without else ""
    return (
        f"seed {found.seed}: something that must hold does not.\n{problems}{left_out}\n"
        f"To see it happen: python -m everstep.testing.simulate --seed {found.seed}{given} --trace"
    )


@contextmanager
def _without_collector() -> Generator[None, None, None]:
    """The cyclic collector would unwind crashed processes in the middle of a simulation, and look through all modules."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
        gc.collect()
