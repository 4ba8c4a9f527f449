"""
Queues: lines in which runs wait until there is room for them. ``mail = es.queue("mail", concurrency=10, per_key=1)``

A ``Queue`` is a value: a name, and what code says that the queue allows. Limits live in the store, hold across all workers, and
may be changed there while everything runs (``everstep queues set mail concurrency=50``).
"""

from __future__ import annotations

from everstep.errors import UsageError
from everstep.ids import check_name
from everstep.limits import Limits, check_key, check_limits, check_priority
from everstep.records import Place


class Queue:
    """A queue as code declares it. Made by ``es.queue``.

    Attributes:
        name: Its name in the store.
        limits: What it allows, unless somebody has set something else there.
        has_priorities: Runs may be started with a priority.
        dedupes: A key has one run that is not at rest; starting another joins that one.
    """

    def __init__(self, name: str, limits: Limits, *, has_priorities: bool, dedupes: bool) -> None:
        self.name = check_name(name, "queue")
        self.limits = check_limits(self.name, limits)
        self.has_priorities = has_priorities
        self.dedupes = dedupes

    def __repr__(self) -> str:
        return f"<queue {self.name}>"


def queue(
    name: str,
    *,
    concurrency: int | None = None,
    per_worker: int | None = None,
    per_key: int | None = None,
    rate: tuple[int, float] | None = None,
    priority: bool = False,
    dedupe: bool = False,
) -> Queue:
    """Declare a queue: ``engine.start(call, queue=mail, key="cust-7")``.

    A run is *in progress* from when it is first taken from the line until it is at rest, also while it sleeps or is paused. So
    a run that wakes up never waits for its queue; and a run that waits for a child in the same queue holds a place that the
    child may need: give children a queue of their own.

    Args:
        name: Letters, digits and ``_ . : -``. Two declarations of one name in one store should be the same: the newest counts.
        concurrency: So many runs in progress, in all workers together.
        per_worker: So many runs driven by one worker at once.
        per_key: So many runs in progress with the same key; 1 for one after the other, in the order of their start.
        rate: ``(100, 60)``: at most 100 runs begin in any 60 seconds.
        priority: Runs may be started with a priority; lower ones go first, 0 is normal.
        dedupe: While a run with a key is in line or in progress, starting another with that key joins it.

    Raises:
        UsageError: The name or a number is not allowed.
    """
    limits = Limits(concurrency=concurrency, per_worker=per_worker, per_key=per_key, rate=rate)
    return Queue(name, limits, has_priorities=priority, dedupes=dedupe)


def place_in(queue: Queue | None, key: str | None, priority: int | None) -> Place:
    """Where a run is to wait, checked.

    Raises:
        UsageError: The queue does not take such a run.
    """
    if queue is None:
        if key is not None or priority is not None:
            raise UsageError("key= and priority= are of a queue, and no queue= was given. Nothing was started.")
        return Place()
    if not isinstance(queue, Queue):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody has a checker
        raise UsageError(f"queue={queue!r} is no queue. Nothing was started. Make one: mail = es.queue('mail', concurrency=10)")
    if priority is not None and not queue.has_priorities:
        raise UsageError(
            f"priority={priority!r}: queue {queue.name} has no priorities. Nothing was started. Declare it with priority=True."
        )
    if queue.dedupes and key is None:
        raise UsageError(f"queue {queue.name} has one run per key (dedupe=True), and no key= was given. Nothing was started.")
    return Place(
        queue=queue.name,
        key="" if key is None else check_key(key),
        priority=0 if priority is None else check_priority(priority),
        dedupes=queue.dedupes,
    )
