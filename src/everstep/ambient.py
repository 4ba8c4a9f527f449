"""
What running code can find out about where it runs.

Workflow code runs under a loop that carries a ``WorkflowScope``; a step's body runs with a ``StepScope`` in a context variable.
Outside both there is neither, and business code behaves as plain Python. Nothing here decides anything: the core and the
engine fill the scopes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Protocol


class WorkflowScope(Protocol):
    """A run in memory, as its own code sees it."""

    @property
    def run_id(self) -> str: ...
    @property
    def workflow_name(self) -> str: ...
    @property
    def version(self) -> int:
        """Number of the entry that is being made or replayed."""
        ...

    @property
    def is_replaying(self) -> bool: ...
    @property
    def random(self) -> Random:
        """Seeded by the run: the same numbers on every replay."""
        ...

    def now(self) -> datetime:
        """The instant of this activation: the same on every replay."""
        ...

    def issue(self, call: Any) -> asyncio.Future[Any]:
        """Ask for a step or a child run."""
        ...


@dataclass(slots=True)
class StepScope:
    """One attempt of one step.

    Attributes:
        run_id: Its run.
        step: Its name.
        key: Key of the command that asked for it.
        attempt: Counted from 1; executions lost to a killed worker count too.
        epoch: The run's fencing token, for receivers that can compare it.
        deadline: When the attempt times out, or None.
        last_details: JSON of the details that the last heartbeat of an earlier attempt left, or None.
        beat: Called with JSON details (or None) for each heartbeat.
    """

    run_id: str
    step: str
    key: str
    attempt: int
    epoch: int
    deadline: datetime | None
    last_details: bytes | None
    beat: Callable[[bytes | None], None] = field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, and for no other step: give it to receivers that deduplicate."""
        return f"{self.run_id}/{self.step}/{self.key}"


step_scope: ContextVar[StepScope | None] = ContextVar("everstep_step", default=None)


def workflow_scope() -> WorkflowScope | None:
    """The scope of the workflow whose code is running, or None outside."""
    # _get_running_loop is what get_running_loop calls; it returns None instead of raising, which is the common case here.
    return getattr(asyncio._get_running_loop(), "scope", None)
