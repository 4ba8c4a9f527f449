"""
Which runs may be forgotten for good. Pure: values in, verdicts out; stores look things up and delete.

A run that is pruned leaves nothing behind: its row, journal, inbox, attempts and blobs go in one transaction, and its key never
comes back. So whatever still names it (a message on its way, a row in another database) can never be taken for a later run of
the same id. Kept is what something else still counts on:

    its parent is at work     the parent's code would start the child anew, and its side effects with it
    a child of it is kept     a later run of the same id would find the ids of its children taken
    a fork reads its journal  the fork's history begins in it

A run that goes on for years is *trimmed* meanwhile: the entries of its closed segments go, all but the first, up to one from
which on its journal can be read (``core/trimming.py`` knows which). A fork keeps it from that, for its history may lie there.

Newest runs come first, because children and forks are younger than what they belong to: so what keeps a run is usually gone
before the run itself is looked at. Where it is not (both began in the same microsecond), descendants that may go are deleted
along with their ancestor, deepest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct

from everstep.records import Micros, RunKey, Status

Place: TypeAlias = tuple[Micros, RunKey]
"""Where a list of runs goes on: when the run before was created, and its key."""


class Kept(StrEnum):
    """Why a run that was asked for stays."""

    PARENT = "its parent is at work"
    CHILD = "a child of it is kept"
    FORK = "a fork reads its journal"


class PruneRequest(Struct, frozen=True, kw_only=True, gc=False):
    """Which runs to forget: one batch.

    Attributes:
        ended_before: Only runs whose newest entry is older than this.
        statuses: Any of these; all must be at rest.
        after: Go on after this place: the ``next`` of the answer before. None to begin with the newest.
        limit: Look at most at so many runs.
        dry_run: Change nothing, and answer what would be done.
    """

    ended_before: Micros
    statuses: tuple[Status, ...]
    after: Place | None = None
    limit: int = 100
    dry_run: bool = False


class Pruned(Struct, frozen=True, kw_only=True, gc=False):
    """What was forgotten, or with ``dry_run`` would be.

    Attributes:
        run_count: How many runs.
        entry_count: Entries of their journals.
        kept: How many of those that were asked for stay, by reason.
        next: Where the next batch goes on; None if this was the last.
    """

    run_count: int = 0
    entry_count: int = 0
    kept: Mapping[Kept, int] = {}
    next: Place | None = None


class TrimRequest(Struct, frozen=True, kw_only=True, gc=False):
    """Which entries of a run to forget.

    Attributes:
        run_key: The run.
        before: Those before this version, but for the first; not beyond the run's base.
        dry_run: Change nothing, and answer what would be done.
    """

    run_key: RunKey
    before: int
    dry_run: bool = False


class Candidate(Struct, frozen=True, kw_only=True, gc=False):
    """What decides about one run.

    Attributes:
        run_key: The run.
        status: Where it stands.
        ended_at: When its newest entry was made.
        entry_count: How many entries it has.
        parent_status: Of the run that started it; None if there is none (any more).
        children: Runs that it started and that still exist.
        forks: Runs whose journal begins in its own.
    """

    run_key: RunKey
    status: Status
    ended_at: Micros
    entry_count: int
    parent_status: Status | None = None
    children: Sequence[RunKey] = ()
    forks: Sequence[RunKey] = ()


Look: TypeAlias = Callable[[RunKey], Candidate | None]
Verdict: TypeAlias = list[Candidate] | Kept | None
"""What is to be deleted, in this order; why it stays; or None if it is not asked for (any more)."""


def judge(run_key: RunKey, request: PruneRequest, look: Look) -> Verdict:
    """Decide what becomes of one run.

    Args:
        run_key: The run.
        request: What was asked for.
        look: The run of a key as it is now.
    """
    run = look(run_key)
    if run is None or not _is_asked_for(run, request):
        return None
    if run.parent_status is not None and not run.parent_status.is_at_rest:
        return Kept.PARENT
    if _is_needed_by_forks(run, request, look):
        return Kept.FORK
    going = [run]
    for each in going:  # It grows meanwhile: generation by generation.
        children = [look(key) for key in each.children]
        for child in children:
            if child is None:
                continue
            if _is_needed_by_forks(child, request, look) or not _is_asked_for(child, request):
                return Kept.CHILD
            going.append(child)
    return going[::-1]


def tally(verdicts: Sequence[Verdict], request: PruneRequest, following: Place | None) -> Pruned:
    """The answer for a batch."""
    # Descendants are asked for as well. If nothing is deleted, each of them is met again, and counted then.
    gone = [run for each in verdicts if isinstance(each, list) for run in (each[-1:] if request.dry_run else each)]
    reasons = [verdict for verdict in verdicts if isinstance(verdict, Kept)]
    return Pruned(
        run_count=len(gone),
        entry_count=sum(each.entry_count for each in gone),
        kept={reason: reasons.count(reason) for reason in Kept if reason in reasons},
        next=following,
    )


def joined(one: Pruned, other: Pruned) -> Pruned:
    """Both answers as one; it goes on where the second does."""
    return Pruned(
        run_count=one.run_count + other.run_count,
        entry_count=one.entry_count + other.entry_count,
        kept={reason: one.kept.get(reason, 0) + other.kept.get(reason, 0) for reason in {*one.kept, *other.kept}},
        next=other.next,
    )


def _is_needed_by_forks(run: Candidate, request: PruneRequest, look: Look) -> bool:
    """Forks are younger, so those that go are gone by now; unless nothing is deleted."""
    forks = [key for key in run.forks if look(key) is not None]
    return not all(request.dry_run and isinstance(judge(key, request, look), list) for key in forks)


def _is_asked_for(run: Candidate, request: PruneRequest) -> bool:
    return run.status.is_at_rest and run.status in request.statuses and run.ended_at < request.ended_before
