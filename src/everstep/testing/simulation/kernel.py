"""
The clockwork: whose turn it is, what time it is, and what happens next. It knows nothing of workflows.

Everything is decided by dice that are drawn from the seed, each purpose with dice of its own: so leaving one thing out (a
misfortune, while a failure is made smaller) does not change the others more than it must.
"""

from __future__ import annotations

import heapq
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import blake2b
from random import Random

from everstep.records import Micros
from everstep.testing.simulation.process import NEVER, Process

STARTED_AT: Micros = 1_800_000_000_000_000
"""What the store's clock says at first."""
STEPS_MAX = 200_000
"""Turns of processes; a hundred times what a simulation takes. More is an endless loop."""


class Failed(AssertionError):
    """Something that must hold does not: the simulation has found a fault."""


class Trace:
    """What happened, as a hash; line by line if somebody wants to see it."""

    def __init__(self, *, keeps_lines: bool) -> None:
        self.lines: list[str] | None = [] if keeps_lines else None
        self._hash = blake2b(digest_size=16)

    def note(self, line: str) -> None:
        """Something happened."""
        self._hash.update(line.encode() + b"\n")
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Of all that was noted."""
        return self._hash.hexdigest()


class Kernel:
    """See the module.

    Attributes:
        seed: What decides.
        now: Microseconds since the beginning.
        processes: Those that exist or existed.
        running: The one whose turn it is.
        trace: What happened.
        seen: What happened, counted: the "sometimes" of the proof.
        problems: What must not happen, and did.
    """

    def __init__(self, seed: int, *, keeps_lines: bool = False) -> None:
        self.seed = seed
        self.now: Micros = 0
        self.processes: list[Process] = []
        self.running: Process | None = None
        self.trace = Trace(keeps_lines=keeps_lines)
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self._events: list[tuple[Micros, int, Callable[[], object]]] = []
        self._event_count = 0
        self._order = self.dice("order")
        self._bytes = self.dice("bytes")

    def dice(self, purpose: str) -> Random:
        """Dice for one purpose."""
        return Random(f"{self.seed}/{purpose}")

    def note(self, what: str) -> None:
        """Put something into the trace."""
        self.trace.note(f"{self.now / 1e6:.6f} {what}")

    def blame(self, problem: str, error: BaseException | None = None) -> None:
        """Something is wrong; the simulation ends as soon as it can."""
        if not self.problems and error is not None and error.__traceback__ is not None:
            self.error = error
        self.note(f"WRONG {problem}")
        self.problems.append(problem)

    error: BaseException | None = None

    # --- time ---------------------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How much time has passed."""
        return self.now / 1e6

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Let something happen later."""
        self._event_count += 1
        heapq.heappush(self._events, (self.now + round(seconds * 1e6), self._event_count, what))

    def run(self, until: Callable[[], bool], seconds_max: float) -> bool:
        """Let time pass until something holds. False if it does not within so many seconds, or nothing happens any more."""
        limit = self.now + round(seconds_max * 1e6)
        for _ in range(STEPS_MAX):
            if self.problems or until():
                return not self.problems
            if not self._step(limit):
                return False
        self.blame(f"{STEPS_MAX} turns of processes, and no end (I20)")
        return False

    def _step(self, limit: Micros) -> bool:
        dues = [(process.due_at(), process) for process in self.processes if not process.is_dead]
        first = min((due for due, _ in dues), default=NEVER)
        event_at = self._events[0][0] if self._events else NEVER
        at = min(first, event_at)
        if at > limit:
            self.now = max(self.now, limit)
            return False
        self.now = max(self.now, at)
        ready = [process for due, process in dues if due <= self.now]
        choice = self._order.randrange(len(ready) + (event_at <= self.now)) if ready else 0
        if choice < len(ready):
            self.running = ready[choice]
            try:
                self.running.turn()
            finally:
                self.running = None
        else:
            heapq.heappop(self._events)[2]()
        return True

    # --- chance and identity, as the code under test sees them ------------------------------------------------------------

    @contextmanager
    def deterministic(self) -> Generator[None, None, None]:
        """Meanwhile what the operating system tells comes from the seed, too."""
        # Replaced in their modules, as long as nothing but the simulation runs: the code under test has no hook for it.
        replaced = [
            (os, "urandom", self._bytes.randbytes),
            (os, "getpid", lambda: self.running.pid if self.running is not None else 1),
            (socket, "gethostname", lambda: "simulated"),
            (time, "time_ns", lambda: (STARTED_AT + self.now) * 1000),
            (time, "time", lambda: (STARTED_AT + self.now) / 1e6),
        ]
        originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
        state = random.getstate()
        random.seed(self.seed)
        for module, name, value in replaced:
            setattr(module, name, value)
        try:
            yield
        finally:
            for module, name, value in originals:
                setattr(module, name, value)
            random.setstate(state)
