"""
How many Python functions are called for one step, layer by layer: a figure that no load of the machine changes.

Timings of a shared machine wander by a third, so a step that grew by two calls is not seen in them, and ten such steps are. A
call costs 0.1 to 0.3 µs with what it does, so the sum follows the CPU time closely; what is done *in* a call (a long statement
of SQL, say) it does not show.

Two runs of different length are counted and subtracted: what is left is what a step costs, without start and end. The profiler
sees this thread only, and SQLite's commits are kept in it however slow the disk is.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor, inf
from pathlib import Path
from types import FrameType
from typing import Any

import everstep as es
from bench.ours import Ours, chain, url
from everstep.stores.sqlite import transaction

RUNS = 100
NEARLY = 0.02
SHOWN_MIN = 0.05
"""What is called less often than once in twenty steps belongs to something else than steps."""

# By the beginning of the module's path below everstep; the first that fits.
LAYERS = ("core", "engine", "stores", "codec", "payloads", "everstep", "asyncio", "other")
_PACKAGE = Path(es.__file__).parent
_STANDARD = Path(asyncio.__file__).parent


@dataclass(frozen=True)
class Function:
    """One function, as the profiler names it."""

    layer: str
    place: str

    @property
    def is_ours(self) -> bool:
        """It is everstep's own: Python's differ from version to version."""
        return self.layer not in ("asyncio", "other")


Calls = dict[Function, float]


def lone() -> Calls:
    """Calls per step of one run, one step after the other."""
    return asyncio.run(_per_step(1, steps=50))


def many() -> Calls:
    """Calls per step of a hundred runs at once."""
    return asyncio.run(_per_step(RUNS, steps=10))


def total(calls: Calls) -> float:
    """All of them."""
    return sum(calls.values())


def of_every_step(calls: Calls) -> int:
    """Everstep's own, as often as *every* step makes them: what a worker does now and then beside steps is not in it."""
    return sum(floor(count + NEARLY) for function, count in calls.items() if function.is_ours)


def listed(calls: Calls, *, ours: bool = False) -> str:
    """Functions by how often they are called."""
    found = sorted(((count, each.place) for each, count in calls.items() if each.is_ours or not ours), reverse=True)
    return "\n".join(f"{count:6.2f} {place}" for count, place in found if count >= SHOWN_MIN)


def report() -> str:
    """Both, as a table by layer and one by function."""
    alone, together = lone(), many()
    layers = [_line(layer, _of_layer(alone, layer), _of_layer(together, layer)) for layer in LAYERS]
    functions = sorted(alone.keys() | together.keys(), key=lambda each: (-alone.get(each, 0.0), each.place))
    rows = [(each.place, alone.get(each, 0.0), together.get(each, 0.0)) for each in functions]
    shown = [_line(*row) for row in rows if max(row[1], row[2]) >= SHOWN_MIN]
    heading = f"{'Python calls per step':60}{'one run':>10}{f'{RUNS} runs':>10}"
    return "\n".join([heading, *layers, _line("all", total(alone), total(together)), "", *shown])


def _of_layer(calls: Calls, layer: str) -> float:
    return sum(count for function, count in calls.items() if function.layer == layer)


def _line(name: str, one: float, several: float) -> str:
    return f"{name:60}{one:10.2f}{several:10.2f}"


async def _per_step(runs: int, steps: int) -> Calls:
    with tempfile.TemporaryDirectory() as directory, _commits_stay_inline():
        async with es.Engine(url(Path(directory)), workflows=[chain], concurrency=RUNS) as engine:
            ours = Ours(engine, 0.0)
            await ours.runs(runs, 3)  # Whatever is made at first use exists.
            short = await _counted(lambda: ours.runs(runs, steps))
            long = await _counted(lambda: ours.runs(runs, 2 * steps))
    return {each: (count - short[each]) / (runs * steps) for each, count in long.items()}


async def _counted(work: Callable[[], Awaitable[object]]) -> Counter[Function]:
    seen: Counter[Any] = Counter()

    def note(frame: FrameType, what: str, _: object) -> None:
        if what == "call":
            seen[frame.f_code] += 1

    gc.collect()
    gc.disable()  # Its callbacks come when they come.
    sys.setprofile(note)
    try:
        await work()
    finally:
        sys.setprofile(None)
        gc.enable()
    functions: Counter[Function] = Counter()
    for code, count in seen.items():
        functions[_function(Path(code.co_filename), code.co_qualname)] += count
    return functions


def _function(file: Path, name: str) -> Function:
    if file.is_relative_to(_PACKAGE):
        inside = file.relative_to(_PACKAGE)
        layer = inside.parts[0] if inside.parts[0] in LAYERS else "everstep"
        return Function(layer, f"{inside} {name}")
    if file.is_relative_to(_STANDARD):
        return Function("asyncio", f"asyncio/{file.name} {name}")
    return Function("other", f"{file.name} {name}")


@contextmanager
def _commits_stay_inline() -> Iterator[None]:
    kept = transaction.SLOW_COMMIT_SECONDS
    transaction.SLOW_COMMIT_SECONDS = inf
    try:
        yield
    finally:
        transaction.SLOW_COMMIT_SECONDS = kept
