"""
The world outside: what the bodies of steps did, and what people were told. Nothing of it is undone by a crash.

A body calls ``perform``; whoever was told something by the store notes it here once he has heard of it. In the end the journals
have to agree with both.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from everstep.inside import current
from everstep.records import Micros
from everstep.testing.simulation.database import Database
from everstep.testing.simulation.kernel import Kernel


@dataclass(frozen=True)
class Execution:
    """One execution of a body.

    Attributes:
        run_id: Of the run.
        key: Its idempotency key.
        attempt: Its number.
        epoch: The fencing token under which it was begun.
        process: In which process.
        at: When.
    """

    run_id: str
    key: str
    attempt: int
    epoch: int
    process: str
    at: Micros


class Outside:
    """See the module.

    Attributes:
        executions: All that were begun.
        executed: How often each step was, by idempotency key.
        starts: Runs whose start was acknowledged.
        sent: Signals that were acknowledged, in the order of acknowledgement: (run, name, key).
        answers: What was answered to requests: (run, key) to answers.
        facts: Whatever an act wants to remember.
    """

    def __init__(self, kernel: Kernel, database: Database) -> None:
        self.executions: list[Execution] = []
        self.executed: Counter[str] = Counter()
        self.starts: dict[str, int] = {}
        self.sent: list[tuple[str, str, str]] = []
        self.answers: dict[tuple[str, str], list[Any]] = {}
        self.facts: dict[str, Any] = {}
        self._kernel = kernel
        self._database = database

    def begin(self) -> Execution:
        """A body begins."""
        where, kernel = current(), self._kernel
        process = kernel.running.name if kernel.running is not None else "nobody"
        execution = Execution(where.run_id, where.idempotency_key, where.attempt, where.epoch, process, kernel.now)
        self.executions.append(execution)
        self.executed[where.idempotency_key] += 1
        kernel.note(f"{process} executes {where.idempotency_key} attempt {where.attempt} epoch {where.epoch}")
        self._ask(execution, where.step)
        return execution

    async def perform(self, seconds: float = 0.0, failures: int = 0) -> None:
        """A body that takes so long, and fails so often."""
        execution = self.begin()
        if seconds:
            await asyncio.sleep(seconds)
        if execution.attempt <= failures:
            raise OSError("not yet")

    def crash_here(self) -> None:
        """A body kills its own process."""
        if self._kernel.running is not None:
            self._kernel.seen["bodies that killed their process"] += 1
            self._kernel.running.crash()

    def _ask(self, execution: Execution, step: str) -> None:
        """I3: nobody who still has the run executes what was recorded."""
        run = self._database.run_of(execution.run_id)
        if run is None:
            return
        self._kernel.seen["executed by a zombie"] += execution.epoch < run.epoch
        story = self._database.stories[run.run_key]
        key = execution.key.rpartition("/")[2]
        name, digest = story.asked.get(key, ("", ""))
        if name == step and story.completed[key, digest] and execution.epoch >= run.epoch and run.worker_key is not None:
            self._kernel.blame(f"I3: {execution.key} is executed again under epoch {execution.epoch}, after it was recorded")


_present: list[Outside] = []


def outside() -> Outside:
    """The world outside of the simulation that is running."""
    return _present[-1]


def enter(world: Outside) -> None:
    """From now on this is the world."""
    _present.append(world)


def leave() -> None:
    """No longer."""
    _present.pop()
