"""
Pipelines: a declared list of steps over one typed payload, as ``validate → transform → load``.

A pipeline is a workflow whose code is written already: it awaits one step, and begins the next segment with what that returned.
So it resumes at its cursor from the last snapshot of the payload, without replaying what came before, and a long one costs no
more per step than a short one. Everything else (retry, fork, pause, history) is as for any workflow.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

from everstep.definitions import Durability, Step, Workflow
from everstep.errors import UsageError
from everstep.generations import continue_as_new

T = TypeVar("T")


class Pipeline(Workflow[[T], T]):
    """A list of steps over one payload. Made by ``es.pipeline``; its call takes the payload and is started as any other.

    Attributes:
        kind: The payload's type.
        steps: In order.
    """

    is_pipeline = True

    def __init__(self, name: str, kind: type[T], steps: Sequence[Step[[T], T]], module: str, **options: Any) -> None:
        self.kind = kind
        self.steps = tuple(steps)
        super().__init__(self._code(module), name=name, **options)

    def __repr__(self) -> str:
        return f"<pipeline {self.name}: {' → '.join(step.name for step in self.steps)}>"

    @cached_property
    def fingerprint(self) -> str:
        """What tells one code from another: the code of its steps, and their order."""
        codes = [f"{step.name} {step.fingerprint}" for step in self.steps]
        return sha256("\x00".join(codes).encode()).hexdigest()[:12]

    def _code(self, module: str) -> Any:
        async def pipeline(payload: T, cursor: int = 0) -> T:
            payload = await self.steps[cursor](payload)
            if cursor + 1 < len(self.steps):
                again: Any = self
                continue_as_new(again(payload, cursor + 1))
            return payload

        pipeline.__module__ = module  # Where the user's line is: messages name it, and processes find it there.
        pipeline.__annotations__ = {"payload": self.kind, "cursor": int, "return": self.kind}
        return pipeline


def pipeline(
    name: str,
    kind: type[T],
    steps: Sequence[Step[[T], T]],
    *,
    version: str | None = None,
    timeout: float | None = None,
    max_recoveries: int = 20,
    durability: Durability = "durable",
    tags: Mapping[str, str] | None = None,
) -> Pipeline[T]:
    """Define a pipeline: steps that each take the payload and return the next one.

    Args:
        name: What the journal calls it.
        kind: The payload's type. What a pipeline is started with is checked against it before the first step.
        steps: At least one. Each takes the payload alone, and returns the next one, of the same type.
        version: A name for this version of the steps; default a fingerprint of them.
        timeout: Seconds that a run may take in all.
        max_recoveries: As for ``workflow``.
        durability: As for ``workflow``.
        tags: Put on every run.

    Raises:
        UsageError: There is no step, or one does not fit.
    """
    if not steps:
        raise UsageError(f"pipeline {name}: it has no steps. Give at least one.")
    for step in steps:
        _check(name, kind, step)
    options = {"version": version, "timeout": timeout, "max_recoveries": max_recoveries, "durability": durability, "tags": tags}
    module = str(sys._getframe(1).f_globals.get("__name__", "__main__"))  # pyright: ignore[reportPrivateUsage]
    return Pipeline(name, kind, steps, module, **options)


def _check(name: str, kind: object, step: object) -> None:
    if not isinstance(step, Step):
        raise UsageError(f"pipeline {name}: {step!r} is no step. Decorate the function with @es.step.")
    taken, returned = step.types
    if len(taken) != 1 or next(iter(taken.values())) != kind:
        shown = ", ".join(f"{parameter}: {_shown(hint)}" for parameter, hint in taken.items())
        raise UsageError(
            f"pipeline {name}: step {step.name} takes ({shown}). It must take one {_shown(kind)}, and nothing else."
        )
    if returned != kind:
        raise UsageError(f"pipeline {name}: step {step.name} returns {_shown(returned)}. It must return {_shown(kind)}.")


def _shown(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
