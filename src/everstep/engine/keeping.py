"""
Write what is no entry: rows of attempts, replies to requests that led to nothing, and that a run which waits is given back.

Such a write is fenced like an entry, but takes no version. One that gives the run back takes the append slot all the same:
nothing may follow it.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from everstep.core.transitions import Happened
from everstep.engine.host import Host
from everstep.engine.leaving import Leaving
from everstep.engine.parts import Flow, Parts
from everstep.records import AttemptRecord, Micros
from everstep.stores.base import Behind, Fenced, Keep, Landed, Outcome, Reply


class Keeping:
    """See the module."""

    __slots__ = ("_host", "_leaving", "_parts")

    def __init__(self, host: Host, parts: Parts, leaving: Leaving) -> None:
        self._host = host
        self._parts = parts
        self._leaving = leaving

    def keep(self, rows: Sequence[AttemptRecord]) -> None:
        """Write rows of attempts."""
        if rows and not self._leaving.is_over:
            self._parts.drafts.kept.update(row.key for row in rows)
            self._host.committer.submit(self._parts.drafts.keep(tuple(rows)), self._kept)

    def waits(self, row: AttemptRecord) -> None:
        """A step failed and will be tried again: its row is written before the wait, and the run may leave memory for it."""
        parts = self._parts
        if self._leaving.is_over:
            return
        parts.drafts.kept.add(row.key)
        is_held_up = parts.slot.is_taken or parts.intake or parts.execution.is_holding
        wake_at = None if is_held_up else parts.underway.wake_at_if_parked()
        if wake_at is not None:
            self.release(Happened.PARKED, wake_at, (row,))
        else:
            self._host.committer.submit(parts.drafts.keep((row,)), self._kept)

    def reply_and_park(self) -> bool:
        """Write refusals of requests that lead to no entry; whether the run leaves with them, since nothing is left to do."""
        replies = self._parts.intake.due_replies()
        if not replies:
            return False
        wake_at = self._parts.underway.wake_at_if_parked()
        if wake_at is not None:
            self.release(Happened.PARKED, wake_at, (), replies)
            return True
        self._submit(self._parts.drafts.keep((), replies))
        return False

    def park_if_waiting(self) -> None:
        """Give the run back if nothing of it is being executed and it waits for long."""
        parts = self._parts
        if self._leaving.is_over or parts.slot.is_taken or parts.intake:
            return
        wake_at = parts.underway.wake_at_if_parked()
        if wake_at is not None and parts.execution.is_holding:
            self._leaving.flow.flush()
        elif wake_at is not None:
            self.release(Happened.PARKED, wake_at, ())

    def release(self, why: Happened, wake_at: Micros, rows: tuple[AttemptRecord, ...], replies: tuple[Reply, ...] = ()) -> None:
        """Give the run back as it stands."""
        self._parts.slot.is_taken = True
        keep = self._parts.drafts.release(why, wake_at, rows, replies)
        self._host.committer.submit(keep, lambda outcome: self._released(keep, outcome))

    def _released(self, keep: Keep, outcome: Outcome) -> None:
        self._parts.slot.is_taken = False
        if self._leaving.is_over:
            return
        match outcome:
            case Landed():
                if keep.replies:
                    self._leaving.flow.replied()
                self._leaving.leave(None, keep.wake_at)
            case Behind():
                self._parts.drafts.kept.update(row.key for row in keep.attempts)
                if keep.attempts or keep.replies:  # Without anything to write it would only ask to be parked again, and again.
                    self._submit(replace(keep, release=False))
                self._leaving.flow.go()
            case _:
                self._leaving.abandon()

    def _submit(self, keep: Keep) -> None:
        flow = self._leaving.flow  # Whoever asked is told even if the run has left by then.
        self._host.committer.submit(keep, lambda outcome: self._replied(flow, keep, outcome))

    def _replied(self, flow: Flow, keep: Keep, outcome: Outcome) -> None:
        if isinstance(outcome, Landed):
            drafts = self._parts.drafts
            drafts.consumed = max(drafts.consumed, keep.consumed)
            flow.replied()
        self._kept(outcome)

    def _kept(self, outcome: Outcome) -> None:
        if isinstance(outcome, Fenced):
            self._leaving.abandon()
        else:
            # A retry that began to wait while an entry was in flight could not park the run with it.
            self.park_if_waiting()
