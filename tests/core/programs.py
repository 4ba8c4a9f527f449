"""
Random workflows: a small language of asyncio's primitives, its interpreter (a workflow), and a generator.

The language is in ``program_nodes``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Any

import everstep as es
from tests.core import program_sync, program_tasks
from tests.core.program_nodes import LEAVES, OPS, Program, perform, work

__all__ = ["Program", "generate", "play", "program_sync", "program_tasks", "random_program"]


@es.workflow
async def play(program: list[Any]) -> list[str]:
    """Run a program; return everything that happened, in order."""
    log: list[str] = []
    try:
        await perform(program, log)
    except asyncio.CancelledError:
        log.append("cancelled")
        await work(-1)  # clean up after a cancel, as a workflow would
    except Exception as error:  # noqa: BLE001  # a group too: what happened is the result
        log.append(f"raised {error!r}")
    log.append(f"{es.now().isoformat()} {es.random()} {es.uuid4()}")
    return log


_SECONDS = (0, 0, 1, 5, 60, 0.25)
_TIMED = ("timeout", "wait_for", "as_completed_in_time", "held_lock", "event", "notified", "stack", "told", "until")
_OF_TWO = ("try", "cancel_one", "take_back", "delivered")
_OF_ONE = ("shield", "timeout", "wait_for", "event", "notified", "stack", "told", "barrier")


def generate(choose: Callable[[int], int], depth: int = 3, without: Collection[str] = ()) -> Program:
    """A program from choices: 0 is always the simplest."""
    if depth == 0 or choose(4) == 0:
        leaf = LEAVES[choose(len(LEAVES))]
        return [leaf, _SECONDS[choose(len(_SECONDS))] if leaf == "sleep" else choose(5)]
    names = [name for name in OPS if name not in LEAVES and name not in without]
    name = names[choose(len(names))]
    head: list[Any] = [name]
    if name in _TIMED or name == "deadline":
        head.append(_SECONDS[choose(len(_SECONDS))])
    if name == "gather":
        head.append(bool(choose(2)))
    count = 2 if name in (*_OF_TWO, "deadline") else 1 if name in _OF_ONE else 1 + choose(3)
    if name == "cancel_group":
        count += 1
    return [*head, *(generate(choose, depth - 1, without) for _ in range(count))]


def random_program(seed: int) -> Program:
    """A program from a seed."""
    return generate(random.Random(seed).randrange)
