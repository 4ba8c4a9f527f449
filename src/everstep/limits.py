"""
What a queue allows, and how it stands: values, and the few decisions about them that need nothing else.

A run of a queue waits in line until a claim *admits* it. From then on it is in progress, and holds its place in the queue until
it is at rest, whoever drives it and however long it sleeps. So ``concurrency=10`` means ten runs in progress, and one that
wakes up never waits for its own queue.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from everstep.errors import UsageError
from everstep.records import Micros

NUMBER_MAX: Final = 1_000_000
RATE_SECONDS_MAX: Final = 7 * 86_400.0
"""The instants of a window are rows; a week of them is a report, not a limit."""
PRIORITY_MAX: Final = 1000
KEY_CHARS_MAX: Final = 200


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a queue allows; None where it sets no limit.

    Attributes:
        concurrency: Runs in progress, in all workers together.
        per_worker: Runs that one worker drives at once.
        per_key: Runs in progress that have the same key. Runs without a key are not counted.
        rate: So many runs may begin within so many seconds, whichever seconds these are.
    """

    concurrency: int | None = None
    per_worker: int | None = None
    per_key: int | None = None
    rate: tuple[int, float] | None = None

    @property
    def is_shared(self) -> bool:
        """Workers must agree on who admits the next run."""
        return self.concurrency is not None or self.per_key is not None or self.rate is not None

    @property
    def window(self) -> Micros:
        """The length of the rate's window, in microseconds; 0 without a rate."""
        return 0 if self.rate is None else round(self.rate[1] * 1e6)


UNLIMITED: Final = Limits()


class QueueRecord(Struct, frozen=True, kw_only=True, gc=False):
    """A queue as its store sees it.

    Attributes:
        name: Its name.
        declared: What code says that it allows; None if no code has declared it.
        changed: What somebody set instead at run time; None if nobody has.
        changed_by: Who.
        changed_why: The reason given.
        is_paused: It admits no run. Runs in progress go on.
        paused_by: Who paused it, or let it go on.
        paused_why: The reason given.
        waiting_count: Runs in line, due or not. Counted up to 10,000.
        admitted_count: Runs in progress. Counted up to 10,000.
        opens_at: When its rate lets the next run in; None for at once.
    """

    name: str
    declared: Limits | None = None
    changed: Limits | None = None
    changed_by: str = ""
    changed_why: str = ""
    is_paused: bool = False
    paused_by: str = ""
    paused_why: str = ""
    waiting_count: int = 0
    admitted_count: int = 0
    opens_at: Micros | None = None

    @property
    def limits(self) -> Limits:
        """What counts."""
        return self.changed or self.declared or UNLIMITED


class QueueChange(Struct, frozen=True, kw_only=True, gc=False):
    """What is to become of a queue. What is None stays as it is.

    Attributes:
        name: Its name; it is created if need be.
        declared: What code says. If that is new, it takes the place of what somebody had set.
        changed: What somebody sets.
        paused: Whether it admits runs.
        actor: Who says so.
        why: The reason given.
    """

    name: str
    declared: Limits | None = None
    changed: Limits | None = None
    paused: bool | None = None
    actor: str = ""
    why: str = ""


def changed(queue: QueueRecord, change: QueueChange) -> QueueRecord:
    """The queue after a change."""
    if change.declared is not None and change.declared != queue.declared:
        queue = replace(queue, declared=change.declared, changed=None, changed_by="", changed_why="")
    if change.changed is not None:
        queue = replace(queue, changed=change.changed, changed_by=change.actor, changed_why=change.why)
    if change.paused is not None and change.paused != queue.is_paused:
        queue = replace(queue, is_paused=change.paused, paused_by=change.actor, paused_why=change.why)
    return queue


def check_limits(name: str, limits: Limits) -> Limits:
    """Return limits that make sense.

    Raises:
        UsageError: A number is out of its range.
    """
    for what in ("concurrency", "per_worker", "per_key"):
        _check_number(name, what, getattr(limits, what))
    if limits.rate is None:
        return limits
    count, seconds = _pair(name, limits.rate)
    _check_number(name, "rate", count)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0.001 <= seconds <= RATE_SECONDS_MAX:
        raise UsageError(
            f"queue {name}: rate={limits.rate!r}: the seconds of a rate are 0.001 to {RATE_SECONDS_MAX:,.0f}. "
            "Nothing was changed."
        )
    return replace(limits, rate=(count, float(seconds)))


def check_priority(priority: object) -> int:
    """Return a priority that is one, else raise UsageError."""
    if type(priority) is int and abs(priority) <= PRIORITY_MAX:
        return priority
    raise UsageError(
        f"priority={priority!r}: give a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}; lower ones go first. Nothing was "
        "started."
    )


def check_key(key: object) -> str:
    """Return the key of a run in its queue if it is allowed, else raise UsageError."""
    if isinstance(key, str) and 0 < len(key) <= KEY_CHARS_MAX and key.isprintable():
        return key
    raise UsageError(f"key={ascii(key)[:80]}: give 1 to {KEY_CHARS_MAX} printable characters. Nothing was started.")


def _pair(name: str, rate: object) -> tuple[object, object]:
    if isinstance(rate, tuple) and len(rate) == 2:  # pyright: ignore[reportUnknownArgumentType]  # not everybody has a checker
        return rate  # pyright: ignore[reportUnknownVariableType]
    raise UsageError(f"queue {name}: rate={rate!r}: give a number of runs and of seconds: rate=(100, 60). Nothing was changed.")


def _check_number(name: str, what: str, number: object) -> None:
    if number is not None and not (type(number) is int and 1 <= number <= NUMBER_MAX):
        raise UsageError(
            f"queue {name}: {what}={number!r}: give a whole number from 1 to {NUMBER_MAX:,}, or None for no limit. (To admit "
            "nothing for a while, pause the queue.) Nothing was changed."
        )
