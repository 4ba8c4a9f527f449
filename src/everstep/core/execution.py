"""
One run in memory, at the level of its journal: entries are replayed, then new ones are made.

    entries ──replay──▶ [ program ] ──activate──▶ next entry (sealed) + what to do once it has landed

The execution never writes. It hands out a sealed entry and assumes nothing: the driver commits it and only then obeys its
commands. If the entry is fenced, or its fate cannot be found out, the execution is evicted and made anew from the journal; it
never takes an entry back, and never makes two for one version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from everstep.core.holding import may_hold
from everstep.core.patches import patches_by_segment
from everstep.core.payloads import Payload, read_events
from everstep.core.program import Program
from everstep.core.reuse import Ledger, Start
from everstep.definitions import Workflow
from everstep.errors import CorruptJournal
from everstep.events import (
    COMMANDS,
    ENDINGS,
    OUTCOMES,
    VERDICTS,
    CommandEvent,
    Drained,
    Ending,
    Event,
    Input,
    RunClaimed,
    RunContinued,
    RunCreated,
    RunDied,
    RunEnding,
    RunForked,
    RunResumed,
    RunRetried,
    RunUnpaused,
    TimerFired,
)
from everstep.journal import GENESIS, Entry, seal_bytes, verify_chain
from everstep.payloads import PLAIN, Payloads
from everstep.records import Micros, RunKey

AUDIT = (RunCreated, RunForked, RunClaimed, RunResumed, RunRetried, RunUnpaused)
"""Inputs that record what happened to the run and tell its code nothing."""
CUTS_PER_ENTRY = 2
"""How many segments may end in one entry: code that only ever continues as new must not hold the host's thread for good."""


class Closed(Struct, frozen=True, gc=False):
    """A segment that ended in an activation, and what its code asked for last."""

    program: Program
    commands: Sequence[CommandEvent]


class Activation(Struct, frozen=True, gc=False):
    """What one pass over the workflow's code came to.

    Attributes:
        entry: To be landed; nothing below may be done before it has.
        commands: What the code asked for, in order.
        ending: How the run ended, if it did.
        not_before: The latest due time among the timers that fired in it; the store refuses the entry before that instant.
        closed: Segments that ended in it; the commands above are those of the newest one.
        is_base: The newest segment can be replayed from this entry on.
    """

    entry: Entry
    commands: Sequence[CommandEvent]
    ending: RunEnding | None
    not_before: Micros | None
    closed: Sequence[Closed] = ()
    is_base: bool = False


class Held(Struct, frozen=True, gc=False):
    """What an activation asked for whose entry is written later."""

    commands: Sequence[CommandEvent]


class _Part(Struct, frozen=True, gc=False):
    """What is to be sealed, as in Activation."""

    at: Micros
    events: list[Event]
    commands: Sequence[CommandEvent]
    ending: RunEnding | RunDied | None
    not_before: Micros | None
    closed: Sequence[Closed]
    is_base: bool


class Execution:
    """See the module.

    Attributes:
        program: The workflow's code.
        keeper: Seals and opens the payloads of its journal.
        version: Number of the newest entry that is replayed or made.
        epoch: The epoch under which new entries are made.
        recoveries: How often the run was taken over from a worker that died.
        held_count: Outcomes of steps that are held and written later.
    """

    __slots__ = (
        "_at",
        "_hash",
        "_held",
        "_patches",
        "_payload",
        "_undrained",
        "_workflow",
        "epoch",
        "held_count",
        "keeper",
        "program",
        "recoveries",
        "run_id",
        "run_key",
        "version",
    )

    def __init__(self, workflow: Workflow[..., Any], run_key: RunKey, run_id: str, payloads: Payloads = PLAIN) -> None:
        self.run_key = run_key
        self.run_id = run_id
        self._workflow = workflow
        self.keeper = payloads.keeper(run_id)
        self.program = self._new_program()
        self.version = 0
        self.epoch = 0
        self.recoveries = 0
        self._hash = GENESIS
        self._at: Micros = 0
        self._undrained: list[Input] = []
        self.held_count = 0
        self._held: _Part | None = None
        self._patches: Iterator[set[str]] = iter(())
        self._payload = Payload()

    @property
    def is_holding(self) -> bool:
        """There is something to flush."""
        return self._held is not None

    @property
    def must_activate(self) -> bool:
        """The code has something to do although nothing new arrived: it has not begun, or an entry left it inputs."""
        program = self.program
        # Of a run that was given up and is here all the same, a saga has to be told that it may go on.
        if program.ending is not None or not program.has_begun:
            return True
        return bool(self._undrained) and any(not isinstance(event, AUDIT) for event in self._undrained)

    @property
    def deadline_at(self) -> Micros | None:
        """The run's own time limit."""
        for event in reversed(self._undrained):
            if isinstance(event, RunRetried):
                return event.deadline_at
        if self.program.start is not None:
            return self.program.start.deadline_at
        # Nothing of it has run yet: it waits in the store since somebody started it.
        return next((event.deadline_at for event in self._undrained if isinstance(event, RunCreated)), None)

    # --- what was -----------------------------------------------------------------------------------------------------------

    def replay(
        self,
        entries: Iterable[Entry],
        head: bytes | None = None,
        *,
        previous: bytes = GENESIS,
        shared: Ledger | None = None,
        thoroughly: bool = False,
    ) -> None:
        """Verify a journal and go through it, as far as its code is still in memory: from the newest segment or retry on.

        Args:
            entries: From the first, or from the one in which the newest segment begins.
            head: Hash of the newest entry as the run itself records it.
            previous: Hash of the entry before the first of these.
            shared: Of a fork: what the run that it shares its history with had finished.
            thoroughly: Go through the segments before as well, to see whether this code would have done all that.

        Raises:
            CorruptJournal: Before anything of the journal was trusted, or a payload of it.
            PayloadKeyMissing: Payloads are encrypted with a key that is not here.
            NondeterminismError: The code asks for something else. The execution must then be evicted.
        """
        entries = list(entries)
        verify_chain(entries, run_key=self.run_key, run_id=self.run_id, head=head, previous=previous)
        events = read_events(entries, self.run_id, self._payload, reader=self.keeper)
        self._check_beginning(entries, events)
        begin, is_partial = self._take_over(entries, events, shared, thoroughly=thoroughly)
        self._patches = iter(patches_by_segment(events[begin:]))
        self.program.patches.learn(next(self._patches))
        for entry, each in zip(entries[begin:], events[begin:], strict=True):
            self._replay_entry(entry, each, is_partial=is_partial)
            is_partial = False

    def _check_beginning(self, entries: Sequence[Entry], events: Sequence[Sequence[Event]]) -> None:
        if not entries or _has(events[0], RunCreated if entries[0].version == 1 else RunContinued):
            return
        begins = "the run does not begin" if entries[0].version == 1 else "no segment begins"
        raise CorruptJournal(
            f"run {self.run_id}: {begins} in entry {entries[0].version}, as the store says it does. Nothing was executed; "
            "other runs are not concerned. Compare with a backup: everstep verify lists every damaged run.",
            run_id=self.run_id,
            version=entries[0].version,
        )

    def _take_over(
        self, entries: Sequence[Entry], events: Sequence[Sequence[Event]], shared: Ledger | None, *, thoroughly: bool
    ) -> tuple[int, bool]:
        """Take note of what lies before the newest segment or retry, without running any code.

        Returns:
            How many entries that is, and whether of the next one only what follows its cut is to be replayed.
        """
        retried = max((n for n, each in enumerate(events, 1) if any(map(_begins_again, each))), default=0)
        cut = max((n for n, each in enumerate(events) if _has(each, RunContinued)), default=0)
        kept = next((n for n, entry in enumerate(entries) if entry.anchor), 0)  # What comes after the first was pruned.
        begin = max(retried, kept) if thoroughly or retried > cut else cut
        ledger = shared
        if begin == retried:
            for entry, each in zip(entries[:begin], events[:begin], strict=True):
                ledger = ledger or Ledger()
                ledger.note_all(each, entry.at)
        if ledger is not None:
            self.program = self._new_program(ledger=ledger)
        for each in events[:begin]:
            self._count_recoveries(each)
        if begin:
            self._stand_after(entries[begin - 1])
        is_based = begin == 0 and bool(entries) and entries[0].version > 1
        return begin, is_based or begin not in (retried, 0)

    def _replay_entry(self, entry: Entry, events: Sequence[Event], *, is_partial: bool) -> None:
        self._stand_after(entry)
        self._count_recoveries(events)
        before, *after = _segments(events)
        if after and is_partial:  # Nobody has, or needs, the segment before the cut.
            self._at = drains_of(before, self._at)[-1][0]
        else:
            self._replay_part(entry, before, ending=after[0][0] if after else None)
        for number, (cut, part) in enumerate(after, 1):
            self._begin_segment(cut)
            self.program.patches.learn(next(self._patches))
            if number == CUTS_PER_ENTRY:
                self._undrained.extend(_inputs(part))
            else:
                self._replay_part(entry, part, ending=after[number][0] if number < len(after) else None)

    def _replay_part(self, entry: Entry, events: Sequence[Event], ending: Ending | None) -> None:
        """Go through the drains of one segment in an entry: more than one if they were held."""
        *held, (_, last) = drains = drains_of(events, self._at)
        for at, each in held:
            self._replay_drain(entry, each, at, None)
        self._at = drains[-1][0]
        self._replay_drain(entry, last, self._at, ending)

    def _replay_drain(self, entry: Entry, events: Sequence[Event], at: Micros, ending: Ending | None) -> None:
        commands = [event for event in events if isinstance(event, COMMANDS)]
        self._undrained.extend(_inputs(events))
        if entry.drained:
            self.program.recoveries = self.recoveries
            inputs, self._undrained = self._undrained, []
            ending = ending or next((event for event in events if isinstance(event, ENDINGS)), None)
            self.program.replay(inputs, commands, at, entry.version, ending)

    # --- what comes -----------------------------------------------------------------------------------------------------------

    def activate(self, inputs: Sequence[Input], now: Micros) -> Activation:
        """Apply inputs, run the code as far as it goes, and seal what came of it as the next entry.

        Args:
            inputs: In the order in which they arrived.
            now: The store's clock. The entry's ``at`` is never before that of the entry before.

        Raises:
            NondeterminismError: An input cannot be read by this code. Nothing was sealed; the execution must be evicted.
        """
        return self._sealed(self._advance(inputs, now))

    def activate_or_hold(self, inputs: Sequence[Input], now: Micros) -> Activation | Held:
        """The same; but make no entry yet if the run and what came of it allow: what follows joins it."""
        part = self._advance(inputs, now)
        if part.closed or not may_hold(self.program, part.commands, part.ending):
            return self._sealed(part)
        self._hold(part)
        self.held_count += sum(isinstance(event, OUTCOMES) for event in inputs)
        return Held(part.commands)

    def flush(self) -> Activation:
        """Seal what is held; there is something. What it asked for has been told already."""
        held, self._held = self._held, None
        assert held is not None, "only what is held can be flushed"
        return self._sealed(replace(held, commands=()))

    def _hold(self, part: _Part) -> None:
        self.keeper.learn(part.events)  # The steps in it begin before it is sealed.
        held = self._held
        if held is None:
            self._held = part
        else:
            events = [*held.events, Drained(part.at), *part.events]
            not_before = max((due for due in (held.not_before, part.not_before) if due is not None), default=None)
            self._held = replace(part, at=held.at, events=events, not_before=not_before)
        self._at = part.at

    def _sealed(self, part: _Part) -> Activation:
        last_at = part.at
        if self._held is not None:
            self._hold(part)
            # A base whose payload is not in its last part could not be read by itself.
            part, self._held = replace(self._held, is_base=part.is_base and not self._workflow.is_pipeline), None
        entry = self._entry_of(part.events, part.at, drained=True)
        self._stand_after(entry)
        self._at, self.held_count = max(last_at, self._at), 0
        return Activation(entry, part.commands, part.ending, part.not_before, part.closed, part.is_base)

    def _advance(self, inputs: Sequence[Input], now: Micros) -> _Part:
        not_before = self._due_of(inputs) if self.program.timers else None
        at = max(self._at, now)
        if not_before is not None and not_before > at:
            at = not_before  # This clock was set back since the alarm; by the store's the entry lands no sooner anyway.
        commands, ending = self._run_program([*self._undrained, *inputs], at)
        self._undrained.clear()
        events: list[Event] = [*inputs, *commands]
        closed: list[Closed] = []
        while isinstance(ending, RunContinued):
            events.append(ending)
            closed.append(Closed(self.program, commands))
            left_over = self.program.left_over()
            self.program.evict()
            self._begin_segment(ending, at)
            if len(closed) == CUTS_PER_ENTRY:
                self._undrained, commands, ending = left_over, (), None
                events += left_over
                break
            commands, ending = self._run_program(left_over, at)
            events += [*left_over, *commands]
        if ending is not None:
            events.append(ending)
        is_base = bool(closed)
        if self._workflow.is_pipeline:
            events, is_whole = self._payload.shortened(events)
            is_base = is_base and is_whole
        return _Part(at, events, commands, ending, not_before, closed, is_base)

    def _run_program(self, inputs: Sequence[Input], at: Micros) -> tuple[Sequence[CommandEvent], Ending | None]:
        self.program.recoveries = self.recoveries
        commands = self.program.activate(inputs, at, self.version + 1)
        if self.program.divergence is not None:
            raise self.program.divergence
        return commands, self.program.ending

    def _begin_segment(self, cut: RunContinued, at: Micros | None = None) -> None:
        start = Start.of(cut, self._at if at is None else at)
        self.program = self._new_program(start)

    def _new_program(self, start: Start | None = None, ledger: Ledger | None = None) -> Program:
        program = Program(self._workflow, self.run_id, start, ledger)
        program.is_discreet, program.logged = self.keeper.is_discreet, self.keeper.logged
        return program

    def record(self, inputs: Sequence[Input], now: Micros) -> Entry:
        """Seal the next entry with inputs that no code runs on: they join the one that is drained next.

        Changes nothing: the entry counts only once it is handed to ``adopt``.
        """
        return self._entry_of(inputs, max(self._at, now), drained=False)

    def adopt(self, entry: Entry, inputs: Sequence[Input]) -> None:
        """An entry that ``record`` sealed has landed."""
        self._stand_after(entry)
        self._undrained.extend(inputs)

    def _due_of(self, inputs: Sequence[Input]) -> Micros | None:
        timers = self.program.timers
        fired = [event.key for event in inputs if isinstance(event, TimerFired)]
        return max((timers[key].event.due_at for key in fired if key in timers), default=None)

    def _entry_of(self, events: Sequence[Event], at: Micros, *, drained: bool) -> Entry:
        version = self.version + 1
        data = self.keeper.encode(events, version)
        return seal_bytes(self._hash, self.run_key, version, self.epoch, at, drained, data)

    def _stand_after(self, entry: Entry) -> None:
        self.version, self.epoch, self._hash, self._at = entry.version, entry.epoch, entry.hash, entry.at

    def _count_recoveries(self, events: Iterable[Event]) -> None:
        self.recoveries += sum(isinstance(event, RunResumed) for event in events)


def _has(events: Iterable[Event], kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in events)


def _inputs(events: Iterable[Event]) -> list[Input]:
    return [event for event in events if not isinstance(event, (*COMMANDS, *ENDINGS, *VERDICTS))]


def _begins_again(event: Event) -> bool:
    return isinstance(event, RunRetried) and not event.goes_on


def drains_of(events: Sequence[Event], at: Micros) -> list[tuple[Micros, Sequence[Event]]]:
    """The events between two drains of the code, each with its instant."""
    places = [place for place, event in enumerate(events) if isinstance(event, Drained)]
    if not places:
        return [(at, events)]
    ends = [*places[1:], len(events)]
    later = [(cast(Drained, events[place]).at, events[place + 1 : end]) for place, end in zip(places, ends, strict=True)]
    return [(at, events[: places[0]]), *later]


def _segments(events: Sequence[Event]) -> tuple[Sequence[Event], *tuple[tuple[RunContinued, Sequence[Event]], ...]]:
    """The events before the first cut, and for each cut those up to the next."""
    cuts = [place for place, event in enumerate(events) if isinstance(event, RunContinued)]
    if not cuts:
        return (events,)
    parts = [(events[cut], events[cut + 1 : end]) for cut, end in zip(cuts, [*cuts[1:], len(events)], strict=True)]
    return (events[: cuts[0]], *parts)  # type: ignore[return-value]  # what stands at a cut is a RunContinued
