"""
Decisions that every store makes alike, so that no two of them can disagree. Pure: values in, values out.

A store reads its rows, asks here what is to become of them, and writes that. What the promises of ``base`` leave open is
settled here and nowhere else:

- A write may be answered in several ways at once. The order is: ``Landed`` (it is there already), ``Exists``, ``Fenced``,
  ``Refused``, ``TooEarly``, ``Behind``.
- ``Behind`` guards against a lost wake-up and nothing else. A verdict of the engine (paused, dead) is not held up by messages
  that nobody can consume, and a run that is given back due at once loses no wake-up.
- A run remembers every code that refused it until it comes to rest: two wrong versions would otherwise hand it to each other
  for ever.
- Orphans are claimed before runs that are due, and those in the order of their due times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from msgspec import MsgspecError, Struct
from msgspec.structs import replace

from everstep.errors import IllegalState, UsageError
from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildFailed,
    ChildRefused,
    ChildSucceeded,
    Event,
    RunCancelled,
    RunClaimed,
    RunDied,
    RunDiscarded,
    RunFailed,
    RunResumed,
    RunSucceeded,
    decode_events,
    encode_event,
)
from everstep.records import ErrorRecord, Message, Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores.base import (
    RUN_KEYS_PER_WORKER,
    Append,
    Behind,
    ClaimRequest,
    Created,
    Exists,
    Fenced,
    Keep,
    Landed,
    NewRun,
    Post,
    Refused,
    RunFilter,
    Slot,
    TooEarly,
    Write,
    judge_recovery,
)

ENTRY_BYTES_MAX = 256 << 20
"""Far above any limit on payloads, and below what a database takes in one value (SQLite: 1e9 bytes)."""
LIST_LIMIT_MAX = 1000

Why: TypeAlias = str
_OWNERLESS = frozenset(status for status in Status if status is Status.PAUSED or status.is_at_rest)
KILLED: Why = "killed"
LEASE_EXPIRED: Why = "lease expired"
REBOOTED: Why = "rebooted"
RETIRED: Why = "retired"


# --- a write lands --------------------------------------------------------------------------------------------------------


def frees(write: Write) -> bool:
    """Nobody owns the run once this write has landed."""
    return write.release or (write.status in _OWNERLESS and isinstance(write, Append))


def wake_after(write: Write, now: Micros) -> Micros | None:
    """When a run that is given back is due. Refused by some code, it is due at once for any other."""
    if isinstance(write, Append):
        if write.status.is_at_rest:
            return None
        if write.status is Status.PAUSED:
            return now if write.refused_by else None
    return write.wake_at


def must_be_consumed(write: Write, now: Micros) -> bool:
    """Messages that have not been consumed make this write ``Behind``."""
    if not frees(write) or write.status in (Status.PAUSED, Status.DEAD):
        return False
    return write.wake_at is None or write.wake_at > now or write.status.is_at_rest


def refused_after(refused_by: str, write: Write) -> str:
    """Fingerprints of all code that refused the run, separated by blanks, after a write that gives it back."""
    if not isinstance(write, Append):
        return refused_by
    if write.status is Status.PAUSED and write.refused_by:
        return " ".join(sorted({*refused_by.split(), write.refused_by}))
    return "" if write.status is Status.PAUSED or write.status.is_at_rest else refused_by


def is_news(write: Write) -> bool:
    """Others may have something to do once this write has landed."""
    return frees(write) or bool(write.replies) or (isinstance(write, Append) and bool(write.children or write.posts))


def objection(write: Write) -> str:
    """Why no store can take this write, or nothing. Sees only what is wrong with the write itself."""
    texts = [reply.event for reply in write.replies]
    if isinstance(write, Append):
        entry, new = write.entry, write.create
        if new is not None and entry.run_key // RUN_KEYS_PER_WORKER != write.worker_key:
            return f"run key {entry.run_key} of run {new.run_id} was not handed out by worker {write.worker_key}"
        if new is not None and new.queue:
            return f"run {new.run_id} is for queue {new.queue}, which has to admit it first"
        texts += [entry.events, *(child.created for child in write.children), *(post.message.event for post in write.posts)]
        texts += [message.event for message in new.messages] if new is not None else []
    reasons = [_objection_to_text(text) for text in texts]
    return next((reason for reason in reasons if reason), "")


def check_new(new: NewRun) -> None:
    """Raise UsageError if no store can take this run."""
    check_text(new.created, f"run {new.run_id}")
    for message in new.messages:
        check_text(message.event, f"the message to run {new.run_id}")


def check_fork(new: NewRun, trimmed_to: int | None) -> None:
    """Return if what a run forks is there.

    Args:
        new: The fork.
        trimmed_to: The last entry of the run that it forks that was trimmed, 0 for none; None if there is no such run.

    Raises:
        IllegalState: It is not.
    """
    if trimmed_to is None or 1 != new.forked_at <= trimmed_to:
        what = "the run that it forks" if trimmed_to is None else f"version {new.forked_at} of the run that it forks"
        raise IllegalState(
            f"run {new.run_id} cannot begin: {what} has been pruned. Nothing was created. Fork a version that is there, or "
            "start the run anew.",
            run_id=new.run_id,
        )


def check_text(data: bytes, what: str) -> None:
    """Raise UsageError if no store can take these bytes."""
    reason = _objection_to_text(data)
    if reason:
        raise UsageError(f"{what} cannot be stored: {reason}. Nothing was stored. Encode it with everstep.events.")


def _objection_to_text(data: bytes) -> str:
    if len(data) > ENTRY_BYTES_MAX:
        return f"{len(data):,} bytes at once, and the limit is {ENTRY_BYTES_MAX:,}"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"events are JSON in UTF-8, and byte {error.start} is not"
    # JSON writes it as \u0000. PostgreSQL takes no text with the bare character in it, so no store does.
    return "events are JSON, and a bare NUL character is not" if b"\0" in data else ""


class Standing(Struct, frozen=True):
    """What decides whether a write lands: how the run stands that it is for."""

    version: int
    epoch: int
    worker_key: WorkerKey | None
    inbox_seq: int
    inbox_done: int


def why_not(write: Write, run: Standing | None, now: Micros) -> Fenced | Refused | TooEarly | Behind | None:
    """Why a write that has not landed before does not land now; None if it does. ``run`` is None if there is no such run."""
    if run is None or run.worker_key != write.worker_key or not _is_next(write, run):
        return Fenced()
    reason = objection(write)
    if reason:
        return Refused(reason)
    if isinstance(write, Append) and write.not_before is not None and write.not_before > now:
        return TooEarly()
    unread = run.inbox_seq > max(run.inbox_done, known(write))
    return Behind() if unread and must_be_consumed(write, now) else None


def known(write: Write) -> int:
    """Up to which message the writer may ignore what is in the inbox."""
    return max(write.consumed, write.seen) if isinstance(write, Append) and write.status.is_at_rest else write.consumed


def _is_next(write: Write, run: Standing) -> bool:
    if isinstance(write, Keep):
        return write.epoch == run.epoch
    return write.entry.epoch == run.epoch and write.entry.version == run.version + 1


def before_transaction(slot: Slot, run: Standing | None, stored: bytes) -> Landed | Fenced | None:
    """Whether the body of a transaction may run: None if it may.

    Args:
        slot: Where its entry is to land.
        run: How the run stands, in the transaction.
        stored: Hash of the entry that is stored at the slot's version; empty if there is none.
    """
    if slot.doubtful and stored == slot.doubtful:
        return Landed()
    if run is None or (run.version, run.epoch, run.worker_key) != (slot.version - 1, slot.epoch, slot.worker_key):
        return Fenced()
    return None


def unborn(write: Append) -> Standing:
    """How a run stands that this write is about to create."""
    inbox_seq = 0 if write.create is None else len(first_messages(write.create, 0))
    return Standing(0, write.entry.epoch, write.worker_key, inbox_seq, 0)


def first_messages(new: NewRun, now: Micros) -> list[Message]:
    """What the inbox of a new run holds: as if they had been posted one after the other (P10, P20)."""
    kept: list[Message] = []
    for message in new.messages:
        if not message.dedupe or all(each.dedupe != message.dedupe for each in kept):
            kept.append(replace(message, seq=len(kept) + 1, at=now))
    return kept


def as_child(child: NewRun, parent_key: RunKey) -> NewRun:
    """A child belongs to the run whose entry starts it, whatever it says, and no other run stands in for it (P28)."""
    is_so = child.parent_key == parent_key and not child.dedupes
    return child if is_so else replace(child, parent_key=parent_key, dedupes=False)


def is_child(run: RunRecord, child: NewRun) -> bool:
    """The run that has the child's id was started by the very command that starts the child."""
    return run.parent_key == child.parent_key and run.parent_command == child.parent_command


# --- messages that a store writes by itself ---------------------------------------------------------------------------------


def ending_of(events: bytes) -> Event | None:
    """The last event of an entry that brings its run to rest. None if it cannot be read."""
    try:
        decoded = decode_events(events)
    except MsgspecError:
        return None
    return decoded[-1] if decoded else None


def outcome_message(ending: Event, parent_command: str, run_id: str, version: int) -> Message | None:
    """What a parent is told when its child comes to rest (P13). None if the event is no ending.

    The version is that of the child: one that is reopened and ends again has something new to tell.
    """
    outcome = _outcome_for_parent(ending, parent_command)
    return None if outcome is None else Message(event=encode_event(outcome), dedupe=f"child:{run_id}:{version}")


def child_of(dedupe: str) -> str:
    """The child whose outcome a message is, by its dedupe key; nothing for any other message."""
    return dedupe.removeprefix("child:").rpartition(":")[0] if dedupe.startswith("child:") else ""


def answers(child: NewRun, answer: Created | Exists, version: int) -> tuple[Message, ...]:
    """What a parent is told at once about a child that its entry starts (P13).

    Args:
        child: What was to be created.
        answer: What became of that.
        version: Of the parent's entry. Every entry that starts the child is answered, whatever an earlier one was told.
    """
    key, run = child.parent_command, answer.run
    about = f"{key}:{version}"
    if isinstance(answer, Exists) and not is_child(run, child):
        reason = f"the id {child.run_id} belongs to a run that was not started by this command"
        return (Message(event=encode_event(ChildRefused(key, reason)), dedupe=f"refused:{about}"),)
    told = [Message(event=encode_event(ChildAccepted(key)), dedupe=f"accepted:{about}")] if child.announced else []
    ending = ending_of(run.outcome) if run.status.is_at_rest and run.outcome else None
    outcome = None if ending is None else outcome_message(ending, key, run.run_id, run.version)
    return (*told, replace(outcome, dedupe=f"again:{about}")) if outcome else tuple(told)


def cancel_message(parent_key: RunKey, reason: str) -> Message:
    """A parent asks its child to stop: once, however often and for whatever reason it does."""
    return Message(event=encode_event(CancelRequested(reason)), dedupe=f"cancel by {parent_key}")


def is_for(post: Post, parent_key: RunKey | None, parent_command: str) -> bool:
    """Whether a post is meant for a run that this command started (P5)."""
    return post.parent_key is None or (post.parent_key, post.parent_command) == (parent_key, parent_command)


def is_closed_with_parent(child: RunRecord) -> bool:
    """Whether a child is asked to stop when its parent is given up (P14)."""
    return child.on_parent_close == "cancel" and not child.status.is_at_rest


def _outcome_for_parent(event: Event, key: str) -> Event | None:
    match event:
        case RunSucceeded(result):
            return ChildSucceeded(key, result)
        case RunFailed(error):
            return ChildFailed(key, "failed", error)
        case RunCancelled(reason):
            return ChildFailed(key, "cancelled", ErrorRecord("everstep.errors.RunCancelled", reason))
        case RunDiscarded(reason):
            return ChildFailed(key, "cancelled", ErrorRecord("everstep.errors.RunCancelled", reason))
        case RunDied(reason=reason, error=error):
            return ChildFailed(key, "dead", ErrorRecord("everstep.errors.RunDead", reason, cause=error))
        case _:
            return None


def wake_by_message(status: Status, worker_key: WorkerKey | None, wake_at: Micros | None, now: Micros) -> Micros | None:
    """When a run is due after a message was posted to it: at once, unless somebody drives it or it is paused."""
    if worker_key is not None or status is Status.PAUSED:
        return wake_at
    return now if wake_at is None else min(wake_at, now)


# --- claiming -------------------------------------------------------------------------------------------------------------


class Candidate(Struct, frozen=True, kw_only=True):
    """A run that might be claimed.

    Attributes:
        run_key: The run.
        wake_at: When it is due; None for an orphan.
        deaths: Workers that died with it without progress, the one that owned it last included.
        max_recoveries: See RunRecord.
        was_alone: The worker that just died drove only this run.
        queue: See RunRecord.
        queue_key: See RunRecord.
        is_in_line: Its queue has to admit it.
        is_later: No run, but the instant at which there may be one.
    """

    run_key: RunKey
    wake_at: Micros | None
    deaths: int
    max_recoveries: int
    was_alone: bool = False
    queue: str = ""
    queue_key: str = ""
    is_in_line: bool = False
    is_later: bool = False


class Choice(Struct, frozen=True):
    """What a claim does: runs to take, runs to give up, and what is left for later (as in ``Claims``)."""

    taken: list[Candidate]
    dead: list[Candidate]
    alone: bool = False
    suspects_wait: bool = False
    next_due_at: Micros | None = None


def orphan(run_key: RunKey, deaths: int, max_recoveries: int, why: Why, *, was_alone: bool, queue: str = "") -> Candidate:
    """A run whose owner is gone: one death more, unless the owner left in good order."""
    if why == RETIRED:
        deaths, was_alone = deaths - 1, False
    return Candidate(
        run_key=run_key, wake_at=None, deaths=deaths + 1, max_recoveries=max_recoveries, was_alone=was_alone, queue=queue
    )


def is_expired(heartbeat: float, lease_seconds: float, monotonic: float) -> bool:
    """The lease that began at ``heartbeat`` has run out."""
    return monotonic - heartbeat > lease_seconds


def expiry_at(leases: Iterable[tuple[float, float]], monotonic: float, now: Micros) -> Micros | None:
    """When the first of some leases (heartbeat, length) runs out, by the store's clock. A microsecond later, to be past it."""
    left = min((heartbeat + seconds - monotonic for heartbeat, seconds in leases), default=None)
    return None if left is None else now + round(left * 1e6) + 1


def may_drive(
    request: ClaimRequest, run_id: str, workflow: str, refused_by: str, pinned: str = "", family: str = "", queue: str = ""
) -> bool:
    """The worker has the workflow, in the run's version; not all of that code has refused the run; it asked for such runs."""
    if request.queues is not None and queue not in request.queues:
        return False
    is_family = run_id == request.family or run_id.startswith(f"{request.family}/") or family == request.family
    if request.family and not is_family:
        return False
    codes = request.versions.get((workflow, pinned)) if pinned else request.workflows.get(workflow)
    return codes is not None and not {*codes.split()} <= {*refused_by.split()}


def may_wake(request: ClaimRequest, run: RunRecord) -> bool:
    """Whether a worker may take the run that its message has just made due (P39).

    Suspects and runs of queues are left to claims, which know who drives nothing else, and what a queue has room for.
    """
    is_suspect = judge_recovery(run.deaths, run.max_recoveries, was_alone=False) != "claim"
    is_plain = not (is_suspect or run.queue)
    return is_plain and may_drive(request, run.run_id, run.workflow, run.refused_by, run.pinned, run.family)


def woken(run: RunRecord) -> Candidate:
    """The run as what is to be claimed."""
    return Candidate(run_key=run.run_key, wake_at=run.wake_at, deaths=run.deaths, max_recoveries=run.max_recoveries)


def drivable(request: ClaimRequest) -> list[tuple[str, str, str]]:
    """What a worker has: name, version (empty for runs that are not pinned), and the fingerprints of its code for it."""
    pinned = [(name, version, codes) for (name, version), codes in request.versions.items()]
    return [*((name, "", codes) for name, codes in request.workflows.items()), *pinned]


def choose(candidates: Iterable[Candidate], request: ClaimRequest, now: Micros) -> Choice:
    """Decide what a claim takes.

    Args:
        candidates: Orphans, then unowned runs in order, then the first that is due later. Consumed only as far as needed.
        request: The claim.
        now: The store's clock.
    """
    normal: list[Candidate] = []
    suspects: list[Candidate] = []
    dead: list[Candidate] = []
    next_due_at: Micros | None = None
    for each in candidates:
        if len(normal) >= request.run_max or each.is_later or (each.wake_at is not None and each.wake_at > now):
            next_due_at = _due_at(each, now)
            break
        match judge_recovery(each.deaths, each.max_recoveries, was_alone=each.was_alone):
            case "claim":
                normal.append(each)
            case "alone":
                suspects.append(each)
            case "dead":
                dead.append(each)
    if suspects and request.alone and request.run_max > 0:
        left = _due_at(normal[0], now) if normal else next_due_at
        return Choice(suspects[:1], dead, alone=True, suspects_wait=len(suspects) > 1, next_due_at=left)
    return Choice(normal, dead, suspects_wait=bool(suspects), next_due_at=next_due_at)


def _due_at(candidate: Candidate, now: Micros) -> Micros:
    return now if candidate.wake_at is None else candidate.wake_at


def status_after_claim(status: Status) -> Status:
    """A run that undoes its steps goes on undoing them; any other runs."""
    return Status.COMPENSATING if status is Status.COMPENSATING else Status.RUNNING


def claim_event(worker: str, previous: str = "", why: Why = "") -> Event:
    """The fact that a claim records. ``previous`` and ``why`` are given iff the run had an owner."""
    return RunResumed(worker, previous, why) if why else RunClaimed(worker)


# --- questions ------------------------------------------------------------------------------------------------------------


def is_text(*texts: str) -> bool:
    """Whether these can be stored at all: a lone surrogate and NUL cannot, so nothing that is named with one exists."""
    text = "".join(texts)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def check_filter(query: RunFilter) -> RunFilter:
    """Return the filter if it can be answered, else raise UsageError."""
    if 1 <= query.limit <= LIST_LIMIT_MAX:
        return query
    raise UsageError(
        f"cannot list {query.limit:,} runs at once. Nothing was read. Ask for 1 to {LIST_LIMIT_MAX:,}, and for the next page "
        "with before= the run key of the last one."
    )
