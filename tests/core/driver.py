"""
Drive one run by hand: inputs in, entries out, no store, no clock, no waiting.

A ``Run`` plays the engine. A test feeds it inputs one activation at a time, or lets ``finish`` answer every step by calling
its body and fire every timer when nothing else is left. Then ``check_replays`` proves invariant I6: the journal replays, and
*every* prefix of it, continued live with the recorded inputs, makes the same entries down to the hash.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from everstep.codec import describe_error
from everstep.core.execution import Activation, Execution, Held, drains_of
from everstep.core.payloads import read_events
from everstep.core.reuse import Ledger
from everstep.core.starting import describe_start
from everstep.core.waits import Operation
from everstep.definitions import Call, Step, Workflow
from everstep.events import (
    COMMANDS,
    ENDINGS,
    VERDICTS,
    ChildFailed,
    ChildSucceeded,
    CommandEvent,
    Ending,
    Event,
    Input,
    RunClaimed,
    RunContinued,
    RunCreated,
    RunForked,
    RunResumed,
    RunRetried,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    TimerFired,
    encode_event,
)
from everstep.journal import GENESIS, Entry, seal
from everstep.records import Micros

RUN_KEY = 7
SALT = bytes(range(16))
START: Micros = 1_800_000_000_000_000
"""Some instant of 2027: nothing may depend on what the clock of the machine says."""
ACTIVATIONS_MAX = 2_000


@dataclass(frozen=True)
class Waiting:
    """What a run has open after an entry."""

    operations: tuple[str, ...]
    timers: tuple[str, ...]
    step: str
    cursor: int

    @classmethod
    def of(cls, execution: Execution) -> Waiting:
        program = execution.program
        return cls(tuple(program.operations), tuple(program.timers), program.step, program.cursor)


_in_memory: list[Execution] = []


def new_execution(workflow: Workflow[..., Any], run_id: str = "run-1") -> Execution:
    """An execution that the test need not evict."""
    execution = Execution(workflow, RUN_KEY, run_id)
    _in_memory.append(execution)
    return execution


def evict_all() -> None:
    """Evict whatever a test has left in memory; the fixture in ``conftest`` calls it after each."""
    for execution in _in_memory:
        execution.program.evict()
    _in_memory.clear()


class Run:
    """One run and its journal. ``answers`` give the outcome of a step or child by name, where its body should not."""

    def __init__(
        self, call: Call[Any], *, run_id: str = "run-1", answers: Mapping[str, Any] | None = None, epoch: int = 1
    ) -> None:
        definition = call.definition
        assert isinstance(definition, Workflow)
        self.workflow: Workflow[..., Any] = definition
        self.run_id = run_id
        self.now: Micros = START
        self.entries: list[Entry] = []
        self.waiting: list[Waiting] = []
        self.ending: Ending | None = None
        self.not_before: Micros | None = None
        self._answers = dict(answers or {})
        self._of_other_code = 0
        self._shared: Ledger | None = None
        self._created = describe_start(call, run_id, SALT, START, {}, None)
        self.execution = new_execution(definition, run_id)
        self.execution.epoch = epoch

    # --- by hand ----------------------------------------------------------------------------------------------------------

    def begin(self, *more: Input) -> list[CommandEvent]:
        """The first entry: created, claimed, and whatever came with it."""
        return self.feed(self._created, RunClaimed("worker-1"), *more)

    def feed(self, *inputs: Input, seconds: float = 0.0) -> list[CommandEvent]:
        """One activation, some time later: what the code asks for."""
        self.now += round(seconds * 1e6)
        activation = self.execution.activate(inputs, self.now)
        self.keep(activation)
        return list(activation.commands)

    def claim_after_death(self) -> None:
        """The worker died; another one replays the journal and claims the run in an entry that is not drained."""
        self.execution.program.evict()
        last = self.entries[-1] if self.entries else None
        event = RunResumed("worker-2", "worker-1")
        version, previous = (last.version, last.hash) if last else (0, GENESIS)
        epoch = (last.epoch if last else 0) + 1
        self.entries.append(seal(previous, RUN_KEY, version + 1, epoch, self.now, False, [event]))
        self.execution = replayed(self.workflow, self.entries, self.run_id, shared=self._shared)
        self.waiting.append(Waiting.of(self.execution))

    def retry(self, *first: Event, workflow: Workflow[..., Any] | None = None, goes_on: bool = False) -> None:
        """It failed, and an operator reopens it, perhaps with corrected code; another worker takes it."""
        self.execution.program.evict()
        if workflow is not None:
            self.workflow, self._of_other_code = workflow, len(self.entries) + 1
        for events in ([*first, RunRetried("once more", "ops", goes_on=goes_on)], [RunClaimed("worker-3")]):
            last = self.entries[-1]
            self.entries.append(seal(last.hash, RUN_KEY, last.version + 1, last.epoch + 1, self.now, False, events))
            self.execution = replayed(self.workflow, self.entries, self.run_id, shared=self._shared)
            self.waiting.append(Waiting.of(self.execution))
        self.ending = None

    def fork(self, run_id: str, entries: Sequence[Entry], edits: Mapping[str, Raw] | None = None) -> None:
        """It is a fork of the run with these entries, and begins with what that had finished."""
        source = entries[0].decoded()[0]
        assert isinstance(source, RunCreated)
        last = entries[-1]
        event = RunForked(
            run_id=run_id, run_key=RUN_KEY, version=last.version, hash=last.hash.hex(), edits=dict(edits or {}), actor="ann"
        )
        self._shared = Ledger()
        for entry in entries:
            self._shared.note_all(entry.decoded(), entry.at)
        start = self._shared.start
        assert start is not None
        created = replace(self._created, args=start.args, salt=start.salt.hex(), segment=start.segment)
        self._shared.adopt(event, created, self.now)
        self.entries.append(seal(GENESIS, RUN_KEY, 1, 0, self.now, False, [created, event]))
        self.execution = replayed(self.workflow, self.entries, self.run_id, shared=self._shared)
        self.waiting.append(Waiting.of(self.execution))
        self.feed(RunClaimed("worker-1"))

    def evict(self) -> None:
        """Free its memory."""
        self.execution.program.evict()

    # --- what it waits for ------------------------------------------------------------------------------------------------

    @property
    def open(self) -> dict[str, Operation]:
        """Steps and children that have no outcome, by key."""
        return self.execution.program.operations

    @property
    def timers(self) -> list[str]:
        """Keys of the timers that have not fired, the next due first."""
        timers = self.execution.program.timers
        return sorted(timers, key=lambda key: timers[key].event.due_at)

    def key_of(self, name: str) -> str:
        """Key of the oldest open operation of that name."""
        return next(key for key, operation in self.open.items() if operation.definition.name == name)

    def answer(self, key: str) -> Input:
        """The outcome of an open operation: what ``answers`` says, else what its body does."""
        operation = self.open[key]
        name = operation.definition.name
        given = self._answers.get(name, None)
        try:
            if name not in self._answers:
                given = outcome_of(operation)
            elif callable(given):
                given = given()
            if isinstance(given, BaseException):
                raise given
        except Exception as error:  # noqa: BLE001  # what a body raises is the step's outcome
            record = describe_error(error, traceback=False)
            return StepFailed(key, record) if is_step(operation) else ChildFailed(key, "failed", record)
        result = Raw(operation.definition.result.encode(given))
        return StepCompleted(key, result) if is_step(operation) else ChildSucceeded(key, result)

    def done(self, name: str) -> Input:
        """The outcome of the oldest open operation of that name."""
        return self.answer(self.key_of(name))

    def fired(self, key: str | None = None) -> TimerFired:
        """A timer, by default the next one, comes due: time moves there."""
        key = key or self.timers[0]
        self.now = max(self.now, self.execution.program.timers[key].event.due_at)
        return TimerFired(key)

    # --- by itself --------------------------------------------------------------------------------------------------------

    def finish(self, choose: Callable[[int], int] | None = None) -> Run:
        """Answer and fire until the run ends.

        By default steps are answered one at a time, the oldest first, and a timer fires when no step is open. With ``choose``
        (a number below its argument) what arrives, in which order and how much of it at once is up to it.
        """
        if not self.entries:
            self.begin()
        for _ in range(ACTIVATIONS_MAX):
            if self.ending is not None:
                return self
            inputs = self.next_inputs(choose)
            assert inputs or self.execution.must_activate, (
                f"stuck: nothing is open, and it has not ended (version {self.execution.version})"
            )
            self.feed(*inputs)
        raise AssertionError("it does not end")

    def next_inputs(self, choose: Callable[[int], int] | None = None) -> list[Input]:
        """What arrives next; see ``finish``."""
        if choose is None:
            possible = [*self.open, *self.timers][:1]
            return [self._arrived(key) for key in possible]
        possible = [*self.open, *self.timers]
        count = 1 + choose(min(3, len(possible))) if possible else 0
        return [self._arrived(key) for key in [possible.pop(choose(len(possible))) for _ in range(count)]]

    def _arrived(self, key: str) -> Input:
        return self.answer(key) if key in self.open else self.fired(key)

    @property
    def result(self) -> Any:
        """What the run returned."""
        assert isinstance(self.ending, RunSucceeded), self.ending
        return self.workflow.result.decode(self.ending.result)

    def keep(self, activation: Activation) -> None:
        """It is in the journal."""
        self.entries.append(activation.entry)
        self.waiting.append(Waiting.of(self.execution))
        self.not_before = activation.not_before
        self.ending = self.ending or activation.ending

    # --- proof ------------------------------------------------------------------------------------------------------------

    def check_replays(self) -> Run:
        """Assert I6: every prefix replays to the same state, and goes on from there to the same entries."""
        events = read_events(self.entries, self.run_id)
        for version in range(self._of_other_code, len(self.entries) + 1):
            self._check_prefix(version, events)
        return self

    def _check_prefix(self, version: int, events: Sequence[Sequence[Event]]) -> None:
        execution = replayed(self.workflow, self.entries[:version], self.run_id, shared=self._shared)
        execution.epoch = execution.epoch or self.entries[0].epoch
        if version:
            assert self.waiting[version - 1] == Waiting.of(execution)
            quickly = new_execution(self.workflow, self.run_id)
            quickly.replay(self.entries[:version], shared=deepcopy(self._shared))
            assert self.waiting[version - 1] == Waiting.of(quickly)
            quickly.program.evict()
        for entry in self.entries[version:]:
            if not entry.drained:
                break  # An entry of somebody else's: what follows it is checked from the next prefix on.
            activation = made_again(execution, events[entry.version - 1], entry.at)
            assert readable(entry) == readable(activation.entry), f"entry {entry.version} after a replay of {version}"
            assert entry == activation.entry
            assert self.waiting[entry.version - 1] == Waiting.of(execution)
        execution.program.evict()


def drive(call: Call[Any], *, choose: Callable[[int], int] | None = None, **answers: Any) -> Run:
    """Run a workflow to its end and prove that it replays."""
    run = Run(call, answers=answers).finish(choose).check_replays()
    run.evict()
    return run


def chooser(numbers: Sequence[int]) -> Callable[[int], int]:
    """Choices from a list of numbers; 0 when it is used up, so that a shorter list is a simpler run."""
    left = list(reversed(numbers))
    return lambda below: left.pop() % below if left else 0


def random_chooser(seed: int) -> Callable[[int], int]:
    """Choices from a seed."""
    return random.Random(seed).randrange


def replayed(
    workflow: Workflow[..., Any], entries: Sequence[Entry], run_id: str = "run-1", *, shared: Ledger | None = None
) -> Execution:
    """A fresh execution that has replayed a journal; of a fork with what it takes over."""
    execution = new_execution(workflow, run_id)
    execution.replay(entries, shared=deepcopy(shared), thoroughly=True)  # A ledger remembers what was asked of it.
    return execution


def commands_of(entry: Entry) -> list[CommandEvent]:
    """What the code asked for in an entry."""
    return [event for event in entry.decoded() if isinstance(event, COMMANDS)]


def made_again(execution: Execution, events: Sequence[Event], at: Micros) -> Activation:
    """What an entry comes to if the inputs of its drains arrive again."""
    made: Activation | Held | None = None
    for instant, part in drains_of(events, at):
        made = execution.activate_or_hold(inputs_of(part), instant)
    return made if isinstance(made, Activation) else execution.flush()


def inputs_of(events: Iterable[Event]) -> list[Input]:
    """What arrived in an entry. What stands after a cut was carried over by the code itself."""
    before = takewhile(lambda event: not isinstance(event, RunContinued), events)
    return [event for event in before if not isinstance(event, (*COMMANDS, *ENDINGS, *VERDICTS))]


def sealed(entries: Iterable[tuple[Sequence[Event], bool]], *, at: Micros = START) -> list[Entry]:
    """A journal of given events, correctly chained."""
    journal: list[Entry] = []
    previous = GENESIS
    for version, (events, drained) in enumerate(entries, 1):
        journal.append(seal(previous, RUN_KEY, version, 1, at + version, drained, events))
        previous = journal[-1].hash
    return journal


def readable(entry: Entry) -> list[str]:
    """The events of an entry one by one, for the difference that pytest shows."""
    return [encode_event(event).decode() for event in entry.decoded()]


def is_step(operation: Operation) -> bool:
    """Whether it is a step; else a child."""
    return isinstance(operation.definition, Step)


def outcome_of(operation: Operation) -> Any:
    """What the body of a step returns for its recorded arguments; a child is run to its end."""
    definition = operation.definition
    args, kwargs = definition.arguments.decode(operation.event.args)
    if isinstance(definition, Step):
        return definition.function(*args, **kwargs)
    child = Run(definition(*args, **kwargs), run_id="child").finish()
    child.evict()
    return child.result


def created(run: Run) -> RunCreated:
    """The first event of its journal."""
    event = run.entries[0].decoded()[0]
    assert isinstance(event, RunCreated)
    return event
