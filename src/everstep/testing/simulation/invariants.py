"""
The invariants I1 … I22 of the design, each as a question to one change of one run. Pure: they give what is wrong, in words.

A change is judged before the story takes note of it, so each knows what was, what was done, and what is now.

What is asked here is asked after every operation of the store. What can only be asked of a whole (that all runs end, that what
was acknowledged is there, what the world outside has seen) is in ``reckoning``. Two have no subject yet: I12 (schedules) and
I18 (publishing); I16 waits for queues; I19 (namespaces) has no code that it could be asked of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from everstep.core.transitions import NEXT_STATUS
from everstep.errors import CorruptJournal
from everstep.events import (
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    CompensationEnded,
    Drained,
    RunClaimed,
    RunDied,
    RunDiscarded,
    RunResumed,
    RunRetried,
    RunSucceeded,
    SignalReceived,
    StepCompleted,
    StepOverridden,
    StepScheduled,
    TimerFired,
    TimerStarted,
    decode_event,
)
from everstep.journal import GENESIS, verify_chain
from everstep.records import Status
from everstep.testing.simulation.story import Change, Story

Question: TypeAlias = Callable[[Change, Story], Iterator[str]]

_AFTER: Mapping[Status, frozenset[Status]] = {
    status: frozenset({after for (before, _), after in NEXT_STATUS.items() if before is status} | {status}) for status in Status
}


def _reachable(before: Status) -> frozenset[Status]:
    """In one entry a run may take several steps of the table: undone, and failed."""
    found, left = {before}, [before]
    while left:
        for status in _AFTER[left.pop()] - found:
            found.add(status)
            left.append(status)
    return frozenset(found)


_REACHABLE = {status: _reachable(status) for status in Status if not status.is_at_rest}


def i1(change: Change, story: Story) -> Iterator[str]:
    """The journal is without gaps, each entry follows the one before, and the chain verifies up to the run's row."""
    before, after = change.before, change.after
    version, previous = (before.version, before.hash) if before else (0, GENESIS)
    if after.version != version + len(change.added) or [each.version for each in change.added] != list(
        range(version + 1, after.version + 1)
    ):
        yield f"versions {[each.version for each in change.added]} follow {version}, and the run says {after.version}"
        return
    try:
        verify_chain(change.added, run_key=after.run_key, run_id=after.run_id, head=after.hash, previous=previous)
    except CorruptJournal as error:
        yield str(error)


def i2(change: Change, story: Story) -> Iterator[str]:
    """One writer: entries are made by the owner under its epoch, or under the next one by whoever takes or settles the run."""
    before, after = change.before, change.after
    if before is None:
        return
    for entry in change.added:
        if change.by is not None and (before.worker_key, before.epoch) != (change.by, entry.epoch):
            yield f"worker {change.by} wrote under epoch {entry.epoch}: owner {before.worker_key}, epoch {before.epoch}"
        if change.by is None and entry.epoch <= before.epoch:
            yield f"entry {entry.version} by somebody else than the owner has epoch {entry.epoch}, as the owner has"
    is_own = change.by is not None
    if not change.added and after.epoch != before.epoch:
        yield f"the epoch went from {before.epoch} to {after.epoch} without an entry"
    if not is_own and not change.added and (after.worker_key, after.status) != (before.worker_key, before.status):
        yield f"owner or status changed without an entry: {before.worker_key} {before.status} {after.worker_key} {after.status}"
    if after.epoch < before.epoch:
        yield f"the epoch went back from {before.epoch} to {after.epoch}"


def i2_rows(change: Change, story: Story) -> Iterator[str]:
    """No row of attempts outlives its step: told after the story has heard of the change."""
    # One of a step that nobody has asked for yet is right: in a stretch that is written behind, rows are ahead of the journal.
    stray = change.rows & (story.asked.keys() - story.open_steps)
    if stray or (change.rows and change.after.status.is_at_rest):
        yield f"rows of attempts without an open step: {sorted(stray or change.rows)}"


def i3(change: Change, story: Story) -> Iterator[str]:
    """A step is completed once, and by the name under which it was asked for."""
    asked = dict(story.asked)
    done = set(story.completed)
    names, ahead = dict(story.every_step), set(story.ahead)
    for event in change.all_events:
        match event:
            case StepScheduled(key=key, step=step, digest=digest):
                asked[key] = (step, digest)
                if names.setdefault((key, digest), step) != step:
                    yield f"step {key} was {names[key, digest]}, and is {step}"
            case StepCompleted(key=key):
                if key not in asked:
                    if key in ahead:
                        yield f"step {key} was completed twice before anybody asked for it"
                    ahead.add(key)
                    continue
                place = (key, asked[key][1])
                if place in done:
                    yield f"step {asked[key][0]} {key} was completed twice"
                done.add(place)
            case _:
                pass


def i7(change: Change, story: Story) -> Iterator[str]:
    """What is over stays so; failed and dead runs are reopened by an entry that says so; other moves are in the table."""
    before, after = change.before, change.after
    if before is None:
        return
    if before.status.is_at_rest:
        opened = any(isinstance(event, RunRetried | RunDiscarded) for event in change.all_events)
        if before.status.is_final and (after.version, after.status) != (before.version, before.status):
            yield f"the run was {before.status}, and is {after.status} at version {after.version}"
        elif not opened and (after.version, after.status) != (before.version, before.status):
            yield f"the run was {before.status}, and nobody reopened it; it is {after.status} at version {after.version}"
    elif after.status not in _REACHABLE[before.status]:
        yield f"{before.status} became {after.status}, which is no move of the table"


def i8(change: Change, story: Story) -> Iterator[str]:
    """Messages are numbered without gaps; what was consumed is in the journal, once and in order; nothing else is."""
    inbox, after = change.inbox, change.after
    if [each.seq for each in inbox] != list(range(1, after.inbox_seq + 1)):
        yield f"the inbox holds {[each.seq for each in inbox]}, and the run says {after.inbox_seq}"
    if change.before is not None and after.inbox_done < change.before.inbox_done:
        yield f"consumed messages came back: {change.before.inbox_done}, {after.inbox_done}"
    dedupes = [each.dedupe for each in inbox if each.dedupe]
    if len(dedupes) != len(set(dedupes)):
        yield f"a message is in the inbox twice: {dedupes}"


def i8_consumed(change: Change, story: Story) -> Iterator[str]:
    """What came out of the inbox is what went in, in order: told after the story has heard of the change."""
    taken = [decode_event(each.event) for each in change.inbox[: change.after.inbox_done]]
    asked = [(e.name, e.id) for e in taken if isinstance(e, SignalReceived)]
    told = [(name, key) for name, key in story.received if (name, key) in set(asked)]
    if asked != told:
        yield f"consumed {asked}, and the journal says {story.received}"


def i9(change: Change, story: Story) -> Iterator[str]:
    """A timer fires once, and never before it is due by the store's clock."""
    dues = dict(story.open_timers)
    for entry, events in zip(change.added, change.events, strict=True):
        at = entry.at
        for event in events:
            if isinstance(event, Drained):
                at = event.at
            elif isinstance(event, TimerStarted):
                dues[event.key] = event.due_at
            elif isinstance(event, TimerFired):
                due_at = dues.pop(event.key, None)
                if due_at is None:
                    yield f"timer {event.key} fired twice, or was never started"
                elif due_at > change.now:
                    yield f"timer {event.key} fired {(due_at - change.now) / 1e6:.6f} s too early"
                elif at < due_at:
                    yield f"timer {event.key} fired in an entry that says it was {(due_at - at) / 1e6:.6f} s earlier"


def i11(change: Change, story: Story) -> Iterator[str]:
    """Whoever nobody drives has a reason to wake: told after the story has heard of the change."""
    run = change.after
    if run.worker_key is not None or run.status.is_at_rest or run.status is Status.PAUSED:
        return
    if run.inbox_seq > run.inbox_done and (run.wake_at is None or run.wake_at > change.now):
        yield f"message {run.inbox_seq} waits, and the run is not due (consumed {run.inbox_done}, due {run.wake_at})"
    if run.wake_at is None:
        if story.open_steps:
            yield f"nobody drives the run, it is never due, and steps are open: {sorted(story.open_steps)}"
        if story.open_timers:
            yield f"the run is never due, and timers are open: {story.open_timers}"
        if not (story.waits or story.open_children or story.handlers):
            yield "the run is never due, and waits for nothing that could wake it"
    elif run.status is Status.WAITING and story.open_timers and run.wake_at > min(story.open_timers.values()):
        yield f"the run is due at {run.wake_at}, after its timer {story.open_timers}"


def i14(change: Change, story: Story) -> Iterator[str]:
    """A saga undoes in its order, and to its end, before the run ends otherwise than dead."""
    plans = {key: list(plan) for key, plan in story.plans.items()}
    asked = dict(story.asked_undos)
    for event in change.all_events:
        match event:
            case CompensationBegan(key=key, plan=plan):
                plans[key] = list(plan)
            case CompensationEnded(key=key):
                if plans.pop(key, []):
                    yield f"saga {key} ended before it had undone everything"
            case StepScheduled(undoes=str(undoes), step=name) | ChildStarted(undoes=str(undoes), workflow=name):
                asked[event.key] = (name, undoes, event.maybe)
                now = [(plan[0].undo, plan[0].key, plan[0].maybe) for plan in plans.values() if plan]
                if (name, undoes, event.maybe) not in now:
                    yield f"{event.key} undoes {undoes} out of order; next are {now}"
            case StepCompleted(key=key) | StepOverridden(key=key) | ChildSucceeded(key=key) if key in asked:
                for left in plans.values():
                    if left and left[0].key == asked[key][1]:
                        left.pop(0)
            case RunSucceeded() if any(plans.values()):
                yield f"the run succeeded with something left to undo: {plans}"
            case _:
                pass


def i22(change: Change, story: Story) -> Iterator[str]:
    """Who takes a run over says so in an entry, and nothing else is in it."""
    if change.verb != "claim":
        return
    kinds = [type(event) for event in change.all_events]
    if kinds and kinds not in ([RunClaimed], [RunResumed], [RunDied]):
        yield f"a claim wrote {[kind.__name__ for kind in kinds]}"


BEFORE: tuple[tuple[str, Question], ...] = (
    ("I1", i1),
    ("I2", i2),
    ("I3", i3),
    ("I7", i7),
    ("I8", i8),
    ("I9", i9),
    ("I14", i14),
    ("I22", i22),
)
"""Asked before the story has heard of a change."""
AFTER: tuple[tuple[str, Question], ...] = (("I2", i2_rows), ("I8", i8_consumed), ("I11", i11))
"""Asked afterwards."""
