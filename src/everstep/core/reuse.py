"""
What a run had finished before its code begins again: after a retry, or in the run that a fork shares its history with. Pure.

Retry and fork do not rewind. The code runs from the start of its segment, and whatever it asks for that is in this ledger has
its outcome at the call, without a wait and without an entry of its own. So a thousand finished steps cost one entry, and code
that was corrected in between gets the results of whatever it still asks for: a command is found by its key, kind, name and the
digest of its arguments, as replay compares them.

What is kept: results of steps and children, and what a person said that a step came to. What failed is asked for again, with
one exception: a step that may be executed at most once. (A run whose saga has undone steps never begins again: see
``RunRetried``.) Timers keep their due time. Signals that had arrived are there again, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from everstep.events import (
    ChildFailed,
    ChildRefused,
    ChildStarted,
    ChildSucceeded,
    Event,
    PatchApplied,
    RequestReceived,
    ResultReused,
    RunContinued,
    RunCreated,
    RunForked,
    RunRetried,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
    TimerStarted,
)
from everstep.records import Micros, Relaxed

Good: TypeAlias = StepCompleted | ChildSucceeded | StepOverridden
Bad: TypeAlias = StepFailed | StepOutcomeUnknown | ChildFailed | ChildRefused
Identity: TypeAlias = tuple[str, str, bool, str]
"""Key, name, whether it is a child, digest."""


class Start(Struct, frozen=True, kw_only=True, gc=False):
    """What the code of a segment begins with.

    Attributes:
        args: The arguments, as JSON.
        salt: Keys the digests of arguments and seeds the random numbers.
        python: Python's minor version that the journal is recorded on.
        at: When it began.
        segment: How often the code was continued as new before; the path of its main task.
        cursor: How many steps had been asked for before.
        deadline_at: The run's time limit.
        maybe: See RunCreated.
        relaxed: What the run may lose; None if nothing.
        states: What was published in the segments before, by name.
    """

    args: Raw
    salt: bytes
    python: str
    at: Micros
    segment: int = 0
    cursor: int = 0
    deadline_at: Micros | None = None
    maybe: bool = False
    relaxed: Relaxed | None = None
    states: Mapping[str, Raw] = {}

    @classmethod
    def of(cls, event: RunCreated | RunContinued, at: Micros) -> Start:
        """What these events say."""
        return cls(
            args=event.args,
            salt=_salt_of(event.salt),
            python=event.python,
            at=at,
            segment=event.segment,
            cursor=event.cursor if isinstance(event, RunContinued) else 0,
            deadline_at=event.deadline_at,
            maybe=event.maybe,
            relaxed=event.relaxed,
            states=event.states if isinstance(event, RunContinued) else {},
        )


def _salt_of(text: str) -> bytes:
    """Ours are 16 bytes in hex. Another one was forged: then any will do, for no digest in the journal was made with it."""
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = text.encode()
    return salt[: blake2b.MAX_KEY_SIZE]


class Ledger:
    """See the module. Fed with the events of a segment in order; asked by the code that begins again.

    Attributes:
        start: What the segment began with.
        signals: All that have arrived, in order.
        patches: Marks of ``es.patched``.
        requests: All that were accepted, in order. Code that begins again answers them again; askers keep the first answer.
        retries: How often the run was retried in this segment.
        is_fork: It was taken over from another run.
    """

    def __init__(self) -> None:
        self.start: Start | None = None
        self.signals: list[SignalReceived] = []
        self.requests: list[RequestReceived] = []
        self.patches: set[str] = set()
        self.retries = 0
        self.is_fork = False
        self._asked: dict[str, Identity] = {}
        self._good: dict[Identity, Good] = {}
        self._bad: dict[Identity, Bad] = {}
        self._due: dict[tuple[str, Micros], Micros] = {}
        self._edits: Mapping[str, Raw] = {}
        self._used: set[Identity] = set()
        self._anew: dict[str, int] = {}

    def note_all(self, events: Iterable[Event], at: Micros) -> None:
        """Take note of an entry."""
        for event in events:
            self.note(event, at)

    def note(self, event: Event, at: Micros) -> None:
        """Take note of one event; ``at`` is that of its entry."""
        match event:
            case RunCreated() if self.is_fork:
                pass  # It began with what it took over.
            case RunCreated() | RunContinued():
                self.__init__()  # type: ignore[misc]  # a segment knows nothing of the ones before it
                self.start = Start.of(event, at)
            case StepScheduled(key=key, step=name, digest=digest):
                self._asked[key] = (key, name, False, digest)
            case ChildStarted(key=key, workflow=name, digest=digest):
                self._asked[key] = (key, name, True, digest)
            case ResultReused(key=key, name=name, is_child=is_child, digest=digest):
                self._asked[key] = (key, name, is_child, digest)
            case StepCompleted() | ChildSucceeded() | StepOverridden():
                if event.key in self._asked:
                    self._good[self._asked[event.key]] = event
            case StepFailed() | StepOutcomeUnknown() | ChildFailed() | ChildRefused():
                if event.key in self._asked:
                    self._bad[self._asked[event.key]] = event
            case TimerStarted(key=key, delay=delay, due_at=due_at):
                self._due[key, delay] = due_at
            case PatchApplied(id=patch_id):
                self.patches.add(patch_id)
            case SignalReceived():
                self.signals.append(event)
            case RequestReceived():
                self.requests.append(event)
            case RunRetried(deadline_at=deadline_at):
                self.retries += not event.goes_on
                self._anew.update(dict.fromkeys(event.anew, self.retries))
                if self.start is not None:
                    self.start = msgspec.structs.replace(self.start, deadline_at=deadline_at)
            case _:
                pass  # It says nothing that the code could ask for again.

    def adopt(self, fork: RunForked, created: RunCreated, at: Micros) -> None:
        """From here on it is the ledger of a fork of the run whose events it has seen."""
        assert self.start is not None, "a journal begins with RunCreated"
        self.start = msgspec.structs.replace(self.start, at=at, args=created.args, deadline_at=created.deadline_at)
        self.is_fork = True
        self._edits = fork.edits
        for key, value in fork.edits.items():
            if key in self._asked:
                self._good[self._asked[key]] = StepOverridden(key, value, reason=fork.reason, actor=fork.actor)

    # --- what the code asks -----------------------------------------------------------------------------------------------

    def outcome(self, event: StepScheduled | ChildStarted, *, even_bad: bool) -> Good | Bad | None:
        """What the command came to; with ``even_bad`` also if it failed. None: it has to be done."""
        if isinstance(event, StepScheduled):
            identity = (event.key, event.step, False, event.digest)
        else:
            identity = (event.key, event.workflow, True, event.digest)
        found = self._good.get(identity)
        self._used.add(identity)
        return found if found is not None or not even_bad else self._bad.get(identity)

    @property
    def is_exhausted(self) -> bool:
        """The code has asked for everything that it holds a result of."""
        return self._good.keys() <= self._used

    def child_id(self, run_id: str, key: str) -> str:
        """The id of a child that the code starts again: its own, unless it had to begin anew."""
        return f"{run_id}~{self._anew[key]}" if key in self._anew else run_id

    def results(self) -> dict[tuple[str, str, str], Raw]:
        """Every result, by key, name and digest."""
        return {(key, name, digest): event.result for (key, name, _, digest), event in self._good.items()}

    def due_at(self, key: str, delay: Micros) -> Micros | None:
        """When a timer that the code starts again was due."""
        return self._due.get((key, delay))

    def edited(self, key: str, value: bytes) -> bytes:
        """The value that a state has which is published under this key: another one in a fork, perhaps."""
        return bytes(self._edits[key]) if key in self._edits else value
