"""
Milestones: a stretch of work whose steps may commit together, at its end.

    async with es.milestone("load"):
        for page in pages:
            await load(page)

Outside, each step costs a commit before the next one begins. Inside, the journal is written behind: a process that is killed in
the middle does the steps of the stretch again, with the same idempotency keys, and never some of them without the ones before.
So it is for many quick steps that may be repeated.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from everstep.ambient import WorkflowScope, workflow_scope
from everstep.errors import UsageError
from everstep.ids import check_name


class Milestone:
    """A scope. Made by ``es.milestone``; used once, with ``async with``, in workflow code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scope: WorkflowScope | None = None

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise UsageError(f"milestone {self.name} was entered before. Nothing was begun. Make another one: es.milestone(…).")
        scope = workflow_scope()
        if scope is None:
            raise UsageError(
                f"milestone {self.name} was begun outside a workflow. Nothing was begun. Use it in the workflow's code, around "
                "its steps."
            )
        self._scope = scope
        scope.milestone_began()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._scope is not None:
            self._scope.milestone_left(self.name if error is None else "")


def milestone(name: str) -> Milestone:
    """A stretch of work whose steps may commit together, at its end.

    What leaves the process's control does not wait for that: before a child run, a transaction, an at-most-once step, an answer
    to a request, or a longer wait, all that was done so far is committed. Reached, the milestone stands in the history.

    Args:
        name: What the history calls it.

    Raises:
        UsageError: The name is not allowed, or (on entering) it is no workflow that enters.
    """
    return Milestone(check_name(name, "milestone"))
