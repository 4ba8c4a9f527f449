"""
What the journal of one run says, as a fold over its entries: what the invariants are asked about. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from everstep.events import (
    ChildAccepted,
    ChildFailed,
    ChildRefused,
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    CompensationEnded,
    Event,
    RequestAnswered,
    RequestAwaited,
    RequestFailed,
    RequestHandlerSet,
    RequestReceived,
    RequestRefused,
    RequestWaitCancelled,
    RunContinued,
    RunRetried,
    SignalAwaited,
    SignalReceived,
    SignalWaitCancelled,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
    SuffixLost,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everstep.journal import Entry
from everstep.records import Message, Micros, RunRecord, UndoRecord, WorkerKey


@dataclass(frozen=True)
class Change:
    """What one operation of the store did to one run.

    Attributes:
        verb: The operation.
        before: The run before it; None if it did not exist.
        after: The run.
        added: Entries that it appended.
        events: Theirs.
        by: The worker that wrote them as the run's owner; None for anybody else.
        inbox: The run's inbox now.
        rows: Keys of its rows of attempts now.
        now: The store's clock.
    """

    verb: str
    before: RunRecord | None
    after: RunRecord
    added: Sequence[Entry]
    events: Sequence[Sequence[Event]]
    by: WorkerKey | None
    inbox: Sequence[Message]
    rows: frozenset[str]
    now: Micros

    @property
    def all_events(self) -> list[Event]:
        """Of all entries that were appended."""
        return [event for each in self.events for event in each]


@dataclass
class Story:
    """See the module. Keys are those of commands.

    Attributes:
        run_id: The run.
        asked: Steps of the code that runs now: name and digest by key.
        every_step: All steps that were ever asked for: names by (key, digest).
        completed: How often each was completed.
        ahead: Steps whose outcome is there before the entry that asks for them, and whether it is a result.
        open_steps: Those without an outcome.
        open_timers: Due times.
        open_children: Runs, by key.
        children: All children that were ever started: (key, run id).
        heard: How often the outcome of a child came, since its command was last issued.
        received: Names and ids of all signals and requests that came out of the inbox.
        waits: Signals and requests that the code waits for now.
        handlers: Names of requests that it answers.
        plans: What sagas have still to undo, by the key of their beginning.
        asked_undos: Commands that undo something: name, key of what they undo, maybe.
        undone: Keys of what was undone, in order.
        answered: Ids of requests that were answered.
        lost: How often a suffix may have been lost.
    """

    run_id: str
    asked: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    every_step: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    completed: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    ahead: dict[str, bool] = field(default_factory=dict[str, bool])
    open_steps: set[str] = field(default_factory=set[str])
    open_timers: dict[str, Micros] = field(default_factory=dict[str, Micros])
    open_children: dict[str, str] = field(default_factory=dict[str, str])
    children: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    heard: Counter[str] = field(default_factory=Counter[str])
    received: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    waits: dict[str, str] = field(default_factory=dict[str, str])
    handlers: set[str] = field(default_factory=set[str])
    plans: dict[str, list[UndoRecord]] = field(default_factory=dict[str, list[UndoRecord]])
    asked_undos: dict[str, tuple[str, str, bool]] = field(default_factory=dict[str, tuple[str, str, bool]])
    undone: list[str] = field(default_factory=list[str])
    answered: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0

    def tell(self, events: Sequence[Event]) -> None:
        """One more entry."""
        is_cut = False
        for event in events:
            self._tell(event, is_cut=is_cut)
            is_cut = is_cut or isinstance(event, RunContinued)

    def _tell(self, event: Event, *, is_cut: bool) -> None:
        match event:
            case StepScheduled(key=key, step=step, digest=digest):
                self.asked[key] = (step, digest)
                self.every_step.setdefault((key, digest), step)
                if key not in self.ahead:
                    self.open_steps.add(key)
                elif self.ahead.pop(key):
                    self.completed[key, digest] += 1
                if event.undoes is not None:
                    self.asked_undos[key] = (step, event.undoes, event.maybe)
            case StepCompleted(key=key) | StepFailed(key=key) | StepOutcomeUnknown(key=key) if key not in self.asked:
                self.ahead[key] = isinstance(event, StepCompleted)
            case StepCompleted(key=key):
                self.completed[key, self.asked[key][1]] += 1
                self.open_steps.discard(key)
                self._undid(key)
            case StepFailed(key=key) | StepOutcomeUnknown(key=key) | StepCancelled(key=key):
                self.open_steps.discard(key)
            case StepOverridden(key=key):
                self.open_steps.discard(key)
                self._undid(key)
            case TimerStarted(key=key, due_at=due_at):
                self.open_timers[key] = due_at
            case TimerFired(key=key) | TimerCancelled(key=key):
                self.open_timers.pop(key, None)
            case ChildStarted(key=key, run_id=run_id, workflow=workflow):
                self.open_children[key] = run_id
                self.children.add((key, run_id))
                self.heard[key] = 0
                if event.undoes is not None:
                    self.asked_undos[key] = (workflow, event.undoes, event.maybe)
            case ChildSucceeded(key=key):
                self.open_children.pop(key, None)
                self.heard[key] += 1
                self._undid(key)
            case ChildFailed(key=key) | ChildRefused(key=key):
                self.open_children.pop(key, None)
                self.heard[key] += 1
            case SignalReceived(name=name, id=key) | RequestReceived(name=name, id=key):
                if not is_cut:
                    self.received.append((name, key))
            case SignalAwaited(key=key, name=name) | RequestAwaited(key=key, name=name):
                self.waits[key] = name
            case SignalWaitCancelled(key=key) | RequestWaitCancelled(key=key):
                self.waits.pop(key, None)
            case RequestHandlerSet(name=name):
                self.handlers.add(name)
            case RequestAnswered(id=key) | RequestRefused(id=key) | RequestFailed(id=key):
                self.answered[key] += 1
            case CompensationBegan(key=key, plan=plan):
                self.plans[key] = list(plan)
            case CompensationEnded(key=key):
                self.plans.pop(key, None)
            case RunContinued():
                self._begin_again()
            case RunRetried(goes_on=False):
                self._begin_again()
            case SuffixLost():
                self.lost += 1
            case ChildAccepted() | _:
                pass

    def _begin_again(self) -> None:
        for each in (
            self.asked,
            self.ahead,
            self.open_steps,
            self.open_timers,
            self.open_children,
            self.waits,
            self.handlers,
            self.plans,
        ):
            each.clear()
        self.heard.clear()

    def _undid(self, key: str) -> None:
        if key in self.asked_undos:
            _, undoes, _ = self.asked_undos[key]
            self.undone.append(undoes)
            for plan in self.plans.values():
                if plan and plan[0].key == undoes:
                    plan.pop(0)
