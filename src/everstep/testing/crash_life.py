"""
One execution of a workflow, with kills in it or without: what it is made of, and what must hold of it whatever happened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from everstep.client import Client, Ending, Handle
from everstep.definitions import Call, Workflow
from everstep.events import (
    RunCancelled,
    RunDied,
    RunFailed,
    RunPaused,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
    decode_events,
)
from everstep.journal import Entry, verify_chain
from everstep.stores.base import RunFilter, Store

RUN_ID = "crash-everywhere"
RUNS_MAX = 1000
ATTEMPTS = re.compile(r"after \d+ attempts?")
OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown)
LOOK_SECONDS = 1.0

Drive = Callable[[Handle[Any]], Awaitable[object]]


@dataclass(frozen=True)
class Subject:
    """What is executed.

    Attributes:
        workflow: The workflow.
        encoded: Its arguments: each life gets its own copy.
        known: What else its engine knows, and itself.
        drive: What the world outside does meanwhile.
        folder: For what it writes outside; empty at first.
    """

    workflow: Workflow[..., Any]
    encoded: bytes
    known: tuple[Workflow[..., Any], ...]
    drive: Drive | None
    folder: Path

    def call(self) -> Call[Any]:
        """The call, with arguments of its own."""
        args, kwargs = self.workflow.arguments.decode(self.encoded)
        return self.workflow(*args, **kwargs)


@dataclass(frozen=True)
class Outcome:
    """How an execution ended: what must be the same each time."""

    status: str
    value: bytes | str

    def without(self, folder: Path) -> Outcome:
        """The same with the execution's own folder left out: a result may well name it, and it differs each time."""
        own = msgspec.json.encode(str(folder))[1:-1]
        if isinstance(self.value, bytes):
            return Outcome(self.status, self.value.replace(own, b"FOLDER"))
        return Outcome(self.status, self.value.replace(str(folder), "FOLDER"))

    def __str__(self) -> str:
        return f"{self.status} {self.value.decode() if isinstance(self.value, bytes) else self.value}"


@dataclass(frozen=True)
class Execution:
    """One execution from its start to its end.

    Attributes:
        outcome: How it ended.
        journals: Of all runs in the store, by id.
        heads: The hash that each run records for its newest entry.
        points: The durable points of each life.
        kills: How many lives were ended by a kill.
    """

    outcome: Outcome
    journals: Mapping[str, Sequence[Entry]]
    heads: Mapping[str, bytes]
    points: Sequence[Sequence[str]]
    kills: int


async def gather(store: Store, ending: Ending, points: Sequence[Sequence[str]], kills: int) -> Execution:
    """What an execution that has ended left in its store."""
    runs = await store.list(RunFilter(limit=RUNS_MAX))
    journals = {run.run_id: await store.load(run.run_key) for run in runs}
    return Execution(outcome_of(ending), journals, {run.run_id: run.hash for run in runs}, points, kills)


async def converse(client: Client, subject: Subject) -> None:
    """Let the world outside begin as soon as the run exists, and go on to its end."""
    if subject.drive is not None:
        while await client.store.get(RUN_ID) is None:
            await client.store.wait_for_work(None, LOOK_SECONDS)
        await subject.drive(client.handle(RUN_ID, subject.workflow))


def outcome_of(run: Ending) -> Outcome:
    """How a run ended, without what may differ: an attempt that a kill cut short counts as one."""
    last = decode_events(run.outcome)[-1] if run.outcome else None
    match last:
        case RunSucceeded(result=result):
            return Outcome("succeeded", bytes(result))
        case RunFailed(error=error):
            return Outcome("failed", f"{error.type}: {ATTEMPTS.sub('after some attempts', error.message)}")
        case RunCancelled(reason=reason) | RunDied(reason=reason) | RunPaused(reason=reason):
            return Outcome(str(run.status), reason)
        case _:
            return Outcome(str(run.status), "")


def check_journals(execution: Execution) -> None:
    """Raise AssertionError unless every journal verifies and gives each step one outcome."""
    for run_id, entries in execution.journals.items():
        if entries:
            verify_chain(entries, run_key=entries[0].run_key, run_id=run_id, head=execution.heads[run_id])
        events = [event for entry in entries for event in entry.decoded()]
        counts = Counter(event.key for event in events if isinstance(event, OUTCOMES))
        names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
        twice = [f"{names.get(key, '?')} ({key})" for key, count in counts.items() if count > 1 or key not in names]
        if twice:
            raise AssertionError(f"run {run_id}: these steps have more than one outcome in the journal: {', '.join(twice)}")


def completed_in(journals: Mapping[str, Sequence[Entry]]) -> Mapping[str, int]:
    """How often each step completed, by name, in all runs."""
    completed: Counter[str] = Counter()
    for entries in journals.values():
        events = [event for entry in entries for event in entry.decoded()]
        names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
        completed.update(names.get(event.key, "?") for event in events if isinstance(event, StepCompleted))
    return completed


def difference(expected: object, found: object, kills: int, *, at_least_once: bool) -> str:
    """What makes two sets of effects differ; empty if nothing does. Pure.

    Args:
        expected: Those of the uninterrupted execution.
        found: Those of the other one.
        kills: How often that one was killed.
        at_least_once: Each effect may be there once more for each kill.
    """
    if not at_least_once:
        return "" if expected == found else f"  uninterrupted: {_short(expected)}\n  resumed:       {_short(found)}"
    before, after = _counted(expected), _counted(found)
    wrong = [
        f"  {_short(effect)}: {before[effect]} times uninterrupted, {after[effect]} times resumed"
        for effect in {**before, **after}
        if not before[effect] <= after[effect] <= (before[effect] + kills if before[effect] else 0)
    ]
    return "\n".join(wrong)


def _counted(effects: object) -> Counter[Any]:
    return Counter(cast(Iterable[Any], effects))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 500 else f"{text[:499]}…"
