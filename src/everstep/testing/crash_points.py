"""
Durable points: where a kill makes a difference, and the connection that notices them and kills.

A durable point is a write to the store: a commit, a transaction, the creation of a run, a message, a claim. Between two of
them a crash makes no other difference than at one of them, as far as the store can tell. A point has two sides. *Before* it the
step whose outcome would be recorded has had its effect; *after* it the outcome is recorded and nothing that follows from it has
begun.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from everstep.errors import UsageError
from everstep.events import Event, StepScheduled, decode_events
from everstep.stores.base import Append, Claims, Store, Write
from everstep.testing.connection import Connection

T = TypeVar("T")

BEFORE, AFTER = "before", "after"
NO_POINTS = frozenset({"open", "enlist", "heartbeat", "retire", "pull", "get", "load", "list", "workers", "wait_for_work"})
"""Verbs that write nothing about a run. Whatever is not listed here counts as a durable point."""
_KILL = re.compile(r"(before|after) ([1-9][0-9]{0,5})")


@dataclass(frozen=True)
class Kill:
    """When to kill: at which durable point of one life, counted from 1, and on which side of it."""

    number: int
    side: str

    def __str__(self) -> str:
        return f"{self.side} {self.number}"


@dataclass(frozen=True)
class Target:
    """A kill, and what was known of its point when it was chosen: what is written there, and how many points there were."""

    kill: Kill
    what: str = ""
    count: int = 0

    def __str__(self) -> str:
        known = f" of {self.count} ({self.what})" if self.what else ""
        return f"{self.kill.side} durable point {self.kill.number}{known}"


Plan = tuple[Target, ...]
"""A kill for the first life, one for the life that recovers from it, and so on. The last life is left to live."""


def plan_text(plan: Plan) -> str:
    """The plan as ``only=`` takes it: ``before 5, after 2``."""
    return ", ".join(str(target.kill) for target in plan)


def describe_plan(plan: Plan) -> str:
    """The plan for a message."""
    return "killed " + ", then ".join(map(str, plan)) if plan else "uninterrupted"


def parse_plan(text: str) -> Plan:
    """Read what ``plan_text`` wrote.

    Raises:
        UsageError: It is no such text.
    """
    found = [_KILL.fullmatch(part.strip()) for part in text.split(",")]
    kills = [Kill(int(match[2]), match[1]) for match in found if match is not None]
    if len(kills) < len(found):
        raise UsageError(
            f"only={text!r} names no point. Nothing was run. Copy it from a failure: 'before 5', or 'before 5, after 2'."
        )
    return tuple(Target(kill) for kill in kills)


def targets_of(points: Sequence[str]) -> list[Target]:
    """Both sides of every durable point. Pure."""
    sides = [(number, what, side) for number, what in enumerate(points, 1) for side in (BEFORE, AFTER)]
    # A claim that was never made is no event: before it is the same as after the point that it follows.
    return [Target(Kill(number, side), what, len(points)) for number, what, side in sides if (what, side) != ("claim", BEFORE)]


def sampled(plans: Sequence[Plan], count_max: int | None, seed: int) -> list[Plan]:
    """At most so many of them, drawn by the seed, in their order. Pure."""
    if count_max is None or len(plans) <= count_max:
        return list(plans)
    drawn = random.Random(seed).sample(range(len(plans)), count_max)
    return [plans[index] for index in sorted(drawn)]


class Deadly(Connection):
    """A connection that counts the durable points of one life, and whose process dies at one of them.

    Args:
        inner: The store.
        kill: Where to die; None to live.
        die: Ends this life; need not return.
        passed: Told what each point was, before anything else happens.

    Attributes:
        points: What the points so far were.
    """

    def __init__(self, inner: Store, kill: Kill | None, die: Callable[[], object], passed: Callable[[str], object]) -> None:
        super().__init__(inner)
        self.points: list[str] = []
        self._kill = kill
        self._die = die
        self._passed = passed

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        if self.is_dead or verb in NO_POINTS:
            return await super().ask(verb, arguments, act)
        if verb != "claim" and self.comes_to(BEFORE):
            await _for_ever()
        answer = await act()
        if not isinstance(answer, Claims) or answer.runs or answer.died:
            self.points.append(describe(verb, arguments))
            self._passed(self.points[-1])
            if self.comes_to(AFTER):
                await _for_ever()
        return answer

    def comes_to(self, side: str) -> bool:
        """Die, if that is where. ``BEFORE`` is asked before the point is counted. Whether this life ended here."""
        number = len(self.points) + (side == BEFORE)
        if self.is_dead or self._kill != Kill(number, side):
            return False
        self.is_dead = True
        self._die()
        return True


async def _for_ever() -> None:
    """The process is no more: nobody hears of the answer."""
    await asyncio.Event().wait()


def describe(verb: str, arguments: tuple[Any, ...]) -> str:
    """What a durable point writes, for a message. Pure."""
    if verb != "commit":
        return verb
    batch: Sequence[Write] = arguments[0]
    return "commit of " + "; ".join(_describe(write) for write in batch)


def _describe(write: Write) -> str:
    if not isinstance(write, Append):
        return "attempts"
    events = ", ".join(_named(event) for event in decode_events(write.entry.events))
    return f"entry {write.entry.version}: {events}"


def _named(event: Event) -> str:
    name = f" {event.step}" if isinstance(event, StepScheduled) else ""
    return f"{type(event).__name__}{name}"
