"""
Which runs of its queues a claim takes: what every store must decide alike. Pure, but for reading rows as they are needed.

    orphans ▸ then one run from each queue in turn, the runs without a queue being one of them ▸ what is due later

A queue first hands out runs in progress that are due again, then it admits runs in line, by priority, due time and age. A run
whose key has no room is passed over and kept in mind as ``blocked``: a store may put such runs aside, so that nobody comes
across them again until one of their key is over. No claim passes over more than so many; the next one goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from everstep.limits import Limits, QueueRecord
from everstep.records import Micros
from everstep.stores import rules

NO_LIMIT: Final = 1 << 62
COUNT_MAX: Final = 10_000
"""Nobody reads the exact length of a longer line, and counting it takes time."""
PASSED_OVER_MAX: Final = 200
"""Runs of full keys that one claim looks at in one queue: a millisecond or so, however many there are."""


class Room(Struct):
    """What a queue has left for a worker, in the course of one claim.

    Attributes:
        queue: Its name; empty for runs without one.
        limits: What it allows.
        places: Runs that it may still admit, by its concurrency; 0 if it is paused.
        drives: Runs of it that the worker may still take.
        recent: When runs were admitted within the window of its rate, oldest first.
    """

    queue: str = ""
    limits: Limits = Limits()
    places: int = NO_LIMIT
    drives: int = NO_LIMIT
    recent: list[Micros] = []

    @property
    def admits(self) -> bool:
        """Another run may be admitted."""
        return self.places > 0 and self.drives > 0 and self.passes > 0

    @property
    def passes(self) -> int:
        """How many more its rate lets in now."""
        return NO_LIMIT if self.limits.rate is None else self.limits.rate[0] - len(self.recent)

    @property
    def opens_at(self) -> Micros | None:
        """When its rate lets the next run in, if that is what keeps it out."""
        if self.passes > 0 or self.places <= 0 or self.drives <= 0:
            return None
        return self.recent[-self.passes] + self.limits.window

    def admit(self, now: Micros) -> None:
        """One more."""
        self.places -= 1
        self.drives -= 1
        if self.limits.rate is not None:
            self.recent.append(now)


def room_of(queue: QueueRecord, admitted: int, driven: int, recent: Sequence[Micros]) -> Room:
    """What a queue has left.

    Args:
        queue: Its settings.
        admitted: Its runs in progress; needed only if it limits them.
        driven: Those that the worker drives; needed only if it limits them.
        recent: When runs were admitted within the window of its rate, oldest first.
    """
    limits = queue.limits
    places = NO_LIMIT if limits.concurrency is None else max(0, limits.concurrency - admitted)
    drives = NO_LIMIT if limits.per_worker is None else max(0, limits.per_worker - driven)
    return Room(queue.name, limits, 0 if queue.is_paused else places, drives, list(recent))


def counted(queue: QueueRecord, waiting: int, admitted: int, recent: Sequence[Micros]) -> QueueRecord:
    """A queue as it is told to those who ask."""
    opens_at = room_of(queue, 0, 0, recent).opens_at
    return replace(queue, waiting_count=min(waiting, COUNT_MAX), admitted_count=min(admitted, COUNT_MAX), opens_at=opens_at)


class Source(Struct):
    """The runs of one queue that a worker could drive, as a store finds them.

    Attributes:
        room: What the queue has left.
        awake: Runs that are due and need no admission, by due time and age.
        line: Runs in line that are due, by priority, due time and age.
        held: How many runs of a key are in progress.
        awake_at: When the first run that needs no admission is due, of those after an instant.
        line_at: When the first run in line is due, of those after an instant.
    """

    room: Room
    awake: Iterable[rules.Candidate]
    line: Iterable[rules.Candidate]
    held: Callable[[str], int]
    awake_at: Callable[[Micros], Micros | None]
    line_at: Callable[[Micros], Micros | None]
    keys: Counter[str] = field(default_factory=Counter[str])
    blocked: list[rules.Candidate] = []
    has_more: bool = False

    def due(self, now: Micros) -> Iterator[rules.Candidate]:
        """What the queue hands out now."""
        room = self.room
        for each in self.awake:
            if room.drives <= 0:
                return
            room.drives -= 1
            yield each
        for each in self.line:
            if not room.admits:
                return
            if self._is_full(each.queue_key):
                self.blocked.append(each)
                if len(self.blocked) >= PASSED_OVER_MAX:
                    self.has_more = True
                    return
                continue
            room.admit(now)
            self.keys[each.queue_key] += 1
            yield each

    def _is_full(self, key: str) -> bool:
        per_key = self.room.limits.per_key
        if not key or per_key is None:
            return False
        if key not in self.keys:
            self.keys[key] = self.held(key)
        return self.keys[key] >= per_key

    def next_at(self, now: Micros) -> Micros | None:
        """When it may have more to hand out, apart from what others make room for."""
        if self.has_more:
            return now
        found = self.awake_at(now) if self.room.drives > 0 else None
        return _earliest(found, self._line_opens_at(now))

    def first_at(self) -> Micros | None:
        """When it may have anything to hand out."""
        found = self.awake_at(-1) if self.room.drives > 0 else None
        return _earliest(found, self._line_opens_at(-1))

    def _line_opens_at(self, after: Micros) -> Micros | None:
        if self.room.admits:
            return self.line_at(after)
        opens_at, first = self.room.opens_at, self.line_at(-1)
        return None if opens_at is None or first is None else max(opens_at, first)

    def still_blocked(self, taken: Iterable[rules.Candidate]) -> list[rules.Candidate]:
        """Those that were passed over and have no room for their key, now that these have been taken."""
        per_key = self.room.limits.per_key
        admitted = Counter(each.queue_key for each in taken if each.is_in_line and each.queue == self.room.queue)
        full = {each.queue_key for each in self.blocked}
        full = {key for key in full if per_key is not None and self.held(key) + admitted[key] >= per_key}
        return [each for each in self.blocked if each.queue_key in full]


def candidates(
    orphans: Iterable[rules.Candidate], sources: Sequence[Source], turn: int, now: Micros
) -> Iterator[rules.Candidate]:
    """What a claim may take, in order; then the first that is due later. Read lazily.

    Args:
        orphans: Runs whose owners are gone.
        sources: One for each queue that the worker serves, by name.
        turn: Where to begin among them.
        now: The store's clock.
    """
    rooms = {source.room.queue: source.room for source in sources}
    for orphan in orphans:
        room = rooms.get(orphan.queue)
        if room is not None and orphan.queue:
            if room.drives <= 0:
                continue
            room.drives -= 1
        yield orphan
    first = turn % len(sources) if sources else 0
    yield from _in_turn([source.due(now) for source in (*sources[first:], *sources[:first])])
    later = min((at for source in sources if (at := source.next_at(now)) is not None), default=None)
    if later is not None:
        yield rules.Candidate(run_key=0, wake_at=later, deaths=0, max_recoveries=0, is_later=True)


def _in_turn(sources: Sequence[Iterator[rules.Candidate]]) -> Iterator[rules.Candidate]:
    while sources:
        left: list[Iterator[rules.Candidate]] = []
        for source in sources:
            for each in islice(source, 1):
                left.append(source)
                yield each
        sources = left


def _earliest(one: Micros | None, other: Micros | None) -> Micros | None:
    return min((at for at in (one, other) if at is not None), default=None)
