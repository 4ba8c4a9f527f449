"""
What a step costs, in Python calls of everstep's own: counted, so a busy machine makes no difference.

A change that adds calls to every step is seen here on the day it is made. If it is worth them, raise the bound and say so in
the commit. Newer Pythons make fewer (they inline comprehensions), so the bounds are those of the oldest.
"""

from __future__ import annotations

import asyncio
import gc

import everstep as es
from bench.calls import listed, lone, many, of_every_step
from bench.ours import chain

LONE_MAX = 125
MANY_MAX = 111


def test_a_step_of_a_lone_run_makes_no_more_calls_than_it_did() -> None:
    calls = lone()

    count = of_every_step(calls)
    assert count <= LONE_MAX, listed(calls, ours=True)


def test_a_step_among_many_runs_makes_no_more_calls_than_it_did() -> None:
    calls = many()

    count = of_every_step(calls)
    assert count <= MANY_MAX, listed(calls, ours=True)


def test_a_step_leaves_nothing_to_the_garbage_collector() -> None:
    """A step, its task and its context that refer to one another stay until they are found: a quarter of all time once."""
    short, long = asyncio.run(_found_after(10)), asyncio.run(_found_after(60))

    assert long - short < 50  # Less than one object for each of fifty more steps: a worker does other things as well.


async def _found_after(steps: int) -> int:
    """How many objects only the garbage collector can free after a run of so many steps."""
    async with es.Engine("memory:", workflows=[chain]) as engine:
        await (await engine.start(chain(3))).result()
        gc.collect()
        gc.disable()
        try:
            await (await engine.start(chain(steps))).result()
            return gc.collect()
        finally:
            gc.enable()
