"""
``python -m everstep.testing.simulate``: play seeds of the deterministic simulation. Nothing imports this module.

    python -m everstep.testing.simulate --seeds 1000               seeds 0 … 999, on all cores
    python -m everstep.testing.simulate --seeds 5000-6000
    python -m everstep.testing.simulate --seed 42 --trace          one of them, with everything that happens
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from everstep.testing.simulation.acts.choice import ALL, all_acts
from everstep.testing.simulation.kernel import STARTED_AT
from everstep.testing.simulation.runner import Found, Report, acts_named, describe, play, play_in_processes, shrink
from everstep.testing.simulation.simulation import Simulation

TOLD_MAX = 10
"""Failures that are told in full: many seeds mostly fail for one reason."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; 1 if something that must hold does not."""
    options = _parser().parse_args(arguments)
    names: list[str] = options.acts.split(",") if options.acts else []
    if options.seed is not None:
        return _one(options.seed, names, trace=options.trace)
    return _many(_seeds(options.seeds), names, options.jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m everstep.testing.simulate", description="Play seeds of the simulation.")
    parser.add_argument("--seeds", default="500", help="how many from 0, or a range: 500-600 (the last one is not played)")
    parser.add_argument("--seed", type=int, help="only this one; on failure it is made smaller")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell everything that happens")
    parser.add_argument("--acts", default="", help=f"only these, all of them: {','.join(kind.__name__ for kind in ALL)}")
    parser.add_argument("--jobs", type=int, help="processes; as many as there are cores unless told")
    return parser


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last)) if last else range(int(first))


def _one(seed: int, names: Sequence[str], *, trace: bool) -> int:
    acts = acts_named(names) if names else all_acts
    simulation = play(seed, acts, keeps_lines=trace)
    if trace:
        _tell(simulation)
    print(f"seed {seed}: {simulation.database.operation_count} operations, trace {simulation.trace.digest}")  # noqa: T201
    if not simulation.problems:
        return 0
    found = Found(seed, tuple(simulation.problems), simulation.trace.digest)
    print(describe(found if trace else shrink(found, acts), names))  # noqa: T201
    return 1


def _tell(simulation: Simulation) -> None:
    for line in simulation.trace.lines or ():
        print(line)  # noqa: T201
    for run in simulation.database.all_runs():
        print(f"\n{run.run_id} is {run.status}")  # noqa: T201
        for entry in simulation.database.journal_of(run.run_key):
            events = ", ".join(f"{type(event).__name__} {getattr(event, 'key', '')}".strip() for event in entry.decoded())
            drained = "" if entry.drained else " (not drained)"
            at = (entry.at - STARTED_AT) / 1e6
            print(f"  {entry.version:3} epoch {entry.epoch} at {at:.6f}{drained}: {events}")  # noqa: T201


def _many(seeds: Sequence[int], names: Sequence[str], jobs: int | None) -> int:
    total, began = Report(), time.perf_counter()
    for report in play_in_processes(seeds, names, jobs):
        total.add(report)
        for found in report.failures[: max(0, TOLD_MAX - len(total.failures) + len(report.failures))]:
            print(f"\n{describe(found, names)}")  # noqa: T201
        if sys.stderr.isatty():
            print(f"\r{total.seeds} of {len(seeds)} seeds, {len(total.failures)} failed ", end="", file=sys.stderr)  # noqa: T201
    seconds = time.perf_counter() - began
    for what, count in sorted(total.seen.items()):
        print(f"{count:9,} {what}")  # noqa: T201
    print(  # noqa: T201
        f"{total.seeds:,} seeds, {total.operations:,} operations of the store with every invariant asked, in {seconds:.1f} s "
        f"({total.seeds / seconds:.1f} seeds/s); {len(total.failures)} failed"
    )
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
