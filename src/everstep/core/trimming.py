"""
Where a journal may be cut off: the entries from which on it can be read without anything before them, but for the first. Pure.

A run that is continued as new for years needs only its newest segment. What closed segments leave behind for readers stands in
the cut: what the next one begins with, and every state that was published by then. Retries and forks begin at a cut anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from everstep.events import Drained, Event, RunContinued, StatePublished, StepCompleted, StepOverridden
from everstep.journal import Entry, decode_verified
from everstep.records import Micros


def cuts(entries: Iterable[Entry], run_id: str) -> list[int]:
    """Versions of the entries in which a segment begins that can be read alone, in order.

    Args:
        entries: The run's journal, verified. No key is needed: names and flags are in clear.
        run_id: For errors.

    Raises:
        CorruptJournal: An entry cannot be read.
    """
    found: list[int] = []
    published: set[str] = set()
    for entry in entries:
        events = decode_verified(entry, run_id)
        if _stands_alone(events, published):
            found.append(entry.version)
        published |= _published(events)
    return found


def trims(entries: Sequence[Entry], run_id: str, base: int, closed_before: Micros, least: int) -> list[int]:
    """Where to cut a journal off, step by step: each of these versions in turn becomes the first after entry 1.

    Args:
        entries: As in ``cuts``.
        run_id: For errors.
        base: Entry in which the run's newest segment begins: nothing from there on goes.
        closed_before: Only segments that ended before.
        least: So many entries go in one step, if there are as many: each is a transaction.
    """
    kept_from = next((entry.version for entry in entries if entry.version > 1), base)
    ended = {entry.version for entry in entries if entry.at < closed_before}
    usable = [version for version in cuts(entries, run_id) if version in ended and kept_from < version <= base]
    steps: list[int] = []
    for version in usable:
        if version - kept_from >= least or version == usable[-1]:
            steps.append(version)
            kept_from = version
    return steps


def _stands_alone(events: Sequence[Event], published: set[str]) -> bool:
    places = [place for place, event in enumerate(events) if isinstance(event, RunContinued)]
    if not places:
        return False
    last = events[places[-1]]
    assert isinstance(last, RunContinued), "it stands at such a place"
    before = events[: places[0]]
    is_pipeline = any(isinstance(event, RunContinued) and event.of_result for event in events)
    if is_pipeline and any(isinstance(event, Drained) for event in events):
        return False  # The payload may stand in another part than the cut.
    has_payload = any(isinstance(event, StepCompleted | StepOverridden) for event in before)
    is_whole = not any(isinstance(event, StepCompleted) and event.is_delta for event in events)
    has_states = published | _published(events[: places[-1]]) <= set(last.states)
    return has_states and is_whole and (has_payload or not is_pipeline)


def _published(events: Iterable[Event]) -> set[str]:
    return {event.name for event in events if isinstance(event, StatePublished)}
