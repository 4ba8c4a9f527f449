"""
Why a run is not running: everything that stands in its way now, with the evidence. Pure: facts in, reasons out.

A run may have to wait for several things; each is told, the one that only somebody can change first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from everstep.core.snapshots import instant
from everstep.limits import QueueRecord
from everstep.records import Micros, RunRecord, Status, WorkerKey, WorkerRecord

Kind: TypeAlias = Literal[
    "over", "paused", "refused", "queue paused", "concurrency", "key", "rate", "line", "no worker", "worker", "due", "message"
]
"""
What a run waits for: nothing any more (it is over), somebody to resume it or to deploy other code, its queue, a place there,
one for its key, the window of a rate, those before it in line, a worker that can drive it, the one that is about to, a time, a
message.
"""
HOLDERS_MAX = 10
_NEVER = 1 << 57
"""Beyond any calendar: only a message wakes the run."""


class Hindrance(Struct, frozen=True):
    """One thing that a run waits for.

    Attributes:
        kind: What sort of thing; see ``Kind``.
        text: A sentence, with the evidence.
        until: When that is over, an aware datetime; None if nobody knows.
        runs: Ids of the runs that stand in the way, at most 10.
    """

    kind: Kind
    text: str
    until: datetime | None = None
    runs: tuple[str, ...] = ()


class Facts(Struct, frozen=True, kw_only=True):
    """What a store knows of a run's surroundings.

    Attributes:
        run: The run.
        queue: Its queue, if it waits in line there.
        holders: Some runs that are in progress in that queue.
        key_holders: Some of those that have the run's key.
        parent: The run that started it, if any.
        workers: All workers, by their tokens.
        now: The store's clock.
    """

    run: RunRecord
    queue: QueueRecord | None
    holders: Sequence[RunRecord]
    key_holders: Sequence[RunRecord]
    workers: Mapping[WorkerKey, WorkerRecord]
    now: Micros


def hindrances(facts: Facts) -> tuple[Hindrance, ...]:
    """What the run waits for; empty if a worker is driving it."""
    run, now = facts.run, facts.now
    if run.status.is_at_rest:
        return (Hindrance("over", f"it is {run.status}: nothing more happens by itself"),)
    if run.worker_key is not None:
        return tuple(_owner(facts, run.worker_key))
    if run.status is Status.PAUSED and not run.refused_by:
        return (Hindrance("paused", f"it is paused. What by, and why: everstep show {run.run_id}"),)
    if run.wake_at is None or run.wake_at >= _NEVER:
        return (Hindrance("message", "it waits for a message: a signal, a request, or the end of a child"),)
    found = [*_refusal(run)]
    if run.wake_at > now:
        found.append(Hindrance("due", f"it is due at {_shown(run.wake_at)}", instant(run.wake_at)))
    if run.is_in_line and facts.queue is not None:
        found += _line(facts, facts.queue)
    found += _workers(facts)
    return tuple(found) or (Hindrance("worker", "it is due: a worker that is alive and knows it takes it when it has room"),)


def _owner(facts: Facts, worker_key: WorkerKey) -> Iterator[Hindrance]:
    worker = facts.workers.get(worker_key)
    if worker is None or not worker.alive:
        name = "its worker" if worker is None else f"its worker {worker.name}"
        yield Hindrance("worker", f"{name} is gone: the next worker that knows {facts.run.workflow} takes it over")


def _refusal(run: RunRecord) -> Iterator[Hindrance]:
    if run.refused_by:
        yield Hindrance(
            "refused",
            f"code {', '.join(run.refused_by.split())} does not match its journal: it waits for other code, or for somebody "
            f"who resumes it. How they differ: everstep show {run.run_id}",
        )


def _line(facts: Facts, queue: QueueRecord) -> Iterator[Hindrance]:
    limits, run = queue.limits, facts.run
    ancestor = next((each for each in facts.holders if _is_ancestor(each, run)), None)
    if queue.is_paused:
        why = f" ({queue.paused_why})" if queue.paused_why else ""
        yield Hindrance("queue paused", f"queue {queue.name} is paused by {queue.paused_by or 'somebody'}{why}")
    if limits.concurrency is not None and queue.admitted_count >= limits.concurrency:
        held = f"queue {queue.name} has {queue.admitted_count} of {limits.concurrency} runs in progress"
        yield Hindrance("concurrency", f"{held}: {_some(facts.holders)}{_deadlock(ancestor)}", runs=_ids(facts.holders))
    if limits.per_key is not None and run.queue_key and len(facts.key_holders) >= min(limits.per_key, HOLDERS_MAX):
        held = f"key {run.queue_key} of queue {queue.name} is held by {_some(facts.key_holders)}"
        mine = next((each for each in facts.key_holders if _is_ancestor(each, run)), None)
        yield Hindrance("key", f"{held}{_deadlock(mine)}", runs=_ids(facts.key_holders))
    if queue.opens_at is not None and limits.rate is not None:
        rate = f"{limits.rate[0]} runs in {limits.rate[1]:g} s"
        text = f"queue {queue.name} lets in {rate}; the next one at {_shown(queue.opens_at)}"
        yield Hindrance("rate", text, instant(queue.opens_at))
    if queue.waiting_count > 1:
        yield Hindrance("line", f"{queue.waiting_count - 1} others wait in queue {queue.name}, before or behind it")


def _is_ancestor(other: RunRecord, run: RunRecord) -> bool:
    return other.run_key == run.parent_key or (bool(run.family) and other.run_id == run.family)


def _deadlock(ancestor: RunRecord | None) -> str:
    if ancestor is None:
        return ""
    return (
        f". One of them is {ancestor.run_id}, which started this run: if it waits for it, neither goes on. Give children a "
        "queue of their own, or raise the limit"
    )


def _workers(facts: Facts) -> Iterator[Hindrance]:
    run = facts.run
    alive = [each for each in facts.workers.values() if each.alive]
    code = f"version {run.pinned} of {run.workflow}" if run.pinned else run.workflow
    able = [each for each in alive if _may_drive(each, run)]
    if not alive:
        yield Hindrance("no worker", f"no worker is alive on this store. Start one that knows {code}: everstep worker MODULE")
    elif not able:
        where = f" and serves queue {run.queue}" if run.queue else ""
        yield Hindrance("no worker", f"none of the {len(alive)} workers that are alive knows {code}{where}")


def _may_drive(worker: WorkerRecord, run: RunRecord) -> bool:
    """As far as it says. One that says nothing may."""
    profile = worker.profile
    if profile.queues is not None and run.queue not in profile.queues:
        return False
    known = {(name, version or "") for name, version, _ in profile.workflows}
    return not known or (run.workflow, run.pinned) in known or (not run.pinned and run.workflow in {name for name, _ in known})


def _some(runs: Sequence[RunRecord]) -> str:
    shown = ", ".join(_ids(runs)[:3])
    return f"{shown}, …" if len(runs) > 3 else shown


def _ids(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    return tuple(each.run_id for each in runs[:HOLDERS_MAX])


def _shown(at: Micros) -> str:
    return instant(at).isoformat(timespec="seconds")
