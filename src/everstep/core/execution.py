"""
One run in memory, at the level of its journal: entries are replayed, then new ones are made.

    entries ──replay──▶ [ program ] ──activate──▶ next entry (sealed) + what to do once it has landed

The execution never writes. It hands out a sealed entry and assumes nothing: the driver commits it and only then obeys its
commands. If the entry is fenced, or its fate cannot be found out, the execution is evicted and made anew from the journal; it
never takes an entry back, and never makes two for one version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from everstep.core.patches import patches_in
from everstep.core.program import Program
from everstep.definitions import Workflow
from everstep.events import (
    COMMANDS,
    ENDINGS,
    CommandEvent,
    Ending,
    Event,
    Input,
    RunClaimed,
    RunCreated,
    RunDied,
    RunPaused,
    RunResumed,
    TimerFired,
)
from everstep.journal import GENESIS, Entry, decode_verified, seal, verify_chain
from everstep.records import Micros, RunKey

VERDICTS = (RunPaused, RunDied)
AUDIT = (RunCreated, RunClaimed, RunResumed)
"""Inputs that record what happened to the run and tell its code nothing."""


class Activation(Struct, frozen=True, gc=False):
    """What one pass over the workflow's code came to.

    Attributes:
        entry: To be landed; nothing below may be done before it has.
        commands: What the code asked for, in order.
        ending: How the run ended, if it did.
        not_before: The latest due time among the timers that fired in it; the store refuses the entry before that instant.
    """

    entry: Entry
    commands: Sequence[CommandEvent]
    ending: Ending | None
    not_before: Micros | None


class Execution:
    """See the module.

    Attributes:
        program: The workflow's code.
        version: Number of the newest entry that is replayed or made.
        epoch: The epoch under which new entries are made.
        recoveries: How often the run was taken over from a worker that died.
    """

    def __init__(self, workflow: Workflow[..., Any], run_key: RunKey, run_id: str) -> None:
        self.run_key = run_key
        self.run_id = run_id
        self.program = Program(workflow, run_id)
        self.version = 0
        self.epoch = 0
        self.recoveries = 0
        self._hash = GENESIS
        self._at: Micros = 0
        self._undrained: list[Input] = []

    @property
    def must_activate(self) -> bool:
        """The code has something to do although nothing new arrived: it has not begun, or an entry left it inputs."""
        waiting = any(not isinstance(event, AUDIT) for event in self._undrained)
        return waiting or not self.program.has_begun

    def replay(self, entries: Iterable[Entry], head: bytes | None = None) -> None:
        """Verify a journal from its first entry and go through it.

        Raises:
            CorruptJournal: Before anything of the journal was trusted.
            NondeterminismError: The code asks for something else. The execution must then be evicted.
        """
        entries = list(entries)
        verify_chain(entries, run_key=self.run_key, run_id=self.run_id, head=head)
        self.program.patches.learn(patches_in(entries, self.run_id))
        for entry in entries:
            self._replay_entry(entry)

    def activate(self, inputs: Sequence[Input], now: Micros) -> Activation:
        """Apply inputs, run the code as far as it goes, and seal what came of it as the next entry.

        Args:
            inputs: In the order in which they arrived.
            now: The store's clock. The entry's ``at`` is never before that of the entry before.

        Raises:
            NondeterminismError: An input cannot be read by this code. Nothing was sealed; the execution must be evicted.
        """
        not_before = self._due_of(inputs) if self.program.timers else None
        at = max(self._at, now)
        self.program.recoveries = self.recoveries
        commands = self.program.activate([*self._undrained, *inputs], at, self.version + 1)
        if self.program.divergence is not None:
            raise self.program.divergence
        self._undrained.clear()
        ending = self.program.ending
        events: list[Event] = [*inputs, *commands] if ending is None else [*inputs, *commands, ending]
        return Activation(self._seal(events, at, drained=True), commands, ending, not_before)

    def _due_of(self, inputs: Sequence[Input]) -> Micros | None:
        timers = self.program.timers
        fired = [event.key for event in inputs if isinstance(event, TimerFired)]
        return max((timers[key].event.due_at for key in fired if key in timers), default=None)

    def _replay_entry(self, entry: Entry) -> None:
        events = decode_verified(entry, self.run_id)
        commands = [event for event in events if isinstance(event, COMMANDS)]
        inputs = [event for event in events if not isinstance(event, (*COMMANDS, *ENDINGS, *VERDICTS))]
        self.version, self.epoch, self._hash, self._at = entry.version, entry.epoch, entry.hash, entry.at
        self._count_recoveries(inputs)
        self._undrained.extend(inputs)
        if entry.drained:
            self.program.recoveries = self.recoveries
            inputs, self._undrained = self._undrained, []
            ending = next((event for event in events if isinstance(event, ENDINGS)), None)
            self.program.replay(inputs, commands, entry.at, entry.version, ending)

    def _seal(self, events: Sequence[Event], at: Micros, *, drained: bool) -> Entry:
        entry = seal(self._hash, self.run_key, self.version + 1, self.epoch, at, drained, events)
        self.version, self._hash, self._at = entry.version, entry.hash, at
        return entry

    def _count_recoveries(self, events: Iterable[Event]) -> None:
        self.recoveries += sum(isinstance(event, RunResumed) for event in events)
