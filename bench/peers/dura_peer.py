"""
dura: a task is claimed by a worker thread, its steps are named checkpoints; one SQLite file in WAL with synchronous=FULL.

Its idle worker polls once a second and a dead worker's task is claimed again after a lease of 120 s. Neither would say
anything about its speed, so latency is measured with a worker that looks at once, and leases here last one second.
Its worker is one thread, the best of 1, 2, 4 and 8 here (5,080, 3,990, 3,980, 3,930 steps/s at 100 runs of 10 steps): more of
them only wait for SQLite's one write lock.

It declares Python ≥ 3.13, yet uses nothing newer than 3.11; the head of the table names both.
"""

# It ships no types, and the lint environment may not have it at all.
# mypy: disable-error-code="import-untyped, import-not-found, no-any-return, unused-ignore"

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dura import ClaimedTask, DurableEngine, process_task

from bench.serve import Verb

LEASE_S = 1


def chain(engine: DurableEngine, task: ClaimedTask) -> int:
    total = 0
    for step in range(task.params["steps"]):
        total = engine.checkpoint(task_id=task.task_id, step_name=f"tiny-{step}", fn=lambda: step + 1)  # noqa: B023
    return total


class Dura:
    """The verbs; each returns seconds."""

    def __init__(self, engine: DurableEngine) -> None:
        self._engine = engine

    def steps(self, count: int) -> float:
        self._spawn(1, count)
        return self._drain()

    def runs(self, count: int, steps: int) -> float:
        started = time.perf_counter()
        self._spawn(count, steps)
        self._drain()
        return time.perf_counter() - started

    def latency(self, count: int) -> list[float]:
        return [self.runs(1, 1) for _ in range(count)]

    def interrupt(self, count: int) -> None:
        """Claim runs of three steps, finish the first step of each, and stay there."""
        self._spawn(count, 3)
        while task := self._engine.claim_task(worker_id="to be killed", timeout_secs=LEASE_S):
            self._engine.checkpoint(task_id=task.task_id, step_name="tiny-0", fn=lambda: 1)

    def resume(self, count: int) -> float:
        """Finish what a dead worker left; its lease has run out before the clock starts."""
        time.sleep(LEASE_S + 0.1)
        seconds = self._drain()
        done = self._engine.task_counts_by_state().get("completed", 0)
        if done < count:
            raise RuntimeError(f"resumed {done} of {count} runs")
        return seconds

    def _spawn(self, count: int, steps: int) -> None:
        for _ in range(count):
            self._engine.spawn_task(name="chain", params={"steps": steps})

    def _drain(self) -> float:
        """What its own worker does, until there is nothing left to claim."""
        started = time.perf_counter()
        while task := self._engine.claim_task(worker_id="worker", timeout_secs=120):
            process_task(self._engine, handlers={"chain": chain}, task=task)
        return time.perf_counter() - started


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Mapping[str, Verb]]:
    engine = DurableEngine(directory / "dura.db")
    dura = Dura(engine)
    verbs: dict[str, Any] = {name: getattr(dura, name) for name in ("steps", "runs", "latency", "interrupt", "resume")}
    yield verbs
    engine.close()
