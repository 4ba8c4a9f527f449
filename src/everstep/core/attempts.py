"""
Which attempt of a step comes next, after whatever happened to the ones before. Pure.

The journal says that a step was asked for and, once, how it ended. In between there is at most one row (``AttemptRecord``),
written before a wait and with heartbeats. Everything else follows from counting recoveries: every time the run was taken over
from a dead worker, an attempt that was running had begun and is lost, so the next one has the next number. Attempts lost that
way are no failures: they use up none of the retry policy.
"""

from __future__ import annotations

from msgspec import Struct

from everstep.records import AttemptRecord, Micros


class Plan(Struct, frozen=True, kw_only=True, gc=False):
    """The next attempt.

    Attributes:
        attempt: Its number, from 1.
        failures: How many attempts have raised before it.
        due_at: Not before this instant; None for at once.
        details: JSON that the last heartbeat left, or None.
        error: JSON of the ErrorRecord of the last failure, or None.
    """

    attempt: int = 1
    failures: int = 0
    due_at: Micros | None = None
    details: bytes | None = None
    error: bytes | None = None

    @property
    def may_have_begun(self) -> bool:
        """Whether an attempt was begun whose outcome nobody knows (failures are known)."""
        return self.attempt > 1 + self.failures


FIRST = Plan()


def plan_attempt(row: AttemptRecord | None, *, scheduled_after: int, recoveries: int, now: Micros) -> Plan:
    """Decide what to execute for a step that has not ended.

    Args:
        row: What was kept of its attempts, if anything was.
        scheduled_after: The run's count of recoveries when the step was asked for.
        recoveries: The same count now.
        now: The store's clock.
    """
    if row is None:
        return FIRST if recoveries == scheduled_after else Plan(attempt=1 + recoveries - scheduled_after)
    if row.due_at is not None and row.due_at > now:
        return Plan(attempt=row.attempt, failures=row.failures, due_at=row.due_at, details=row.details, error=row.error)
    # Its time had come (or it was running): each worker that died since may have begun it.
    lost = recoveries - row.recoveries
    return Plan(attempt=row.attempt + lost, failures=row.failures, details=row.details, error=row.error)
