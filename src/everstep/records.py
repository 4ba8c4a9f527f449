"""
The values that the parts hand to one another: what a run is, what a store is asked to keep. No behaviour, no I/O.

Instants are integers: microseconds since the Unix epoch by the *store's* clock (the type alias ``Micros``). Only the public
surface turns them into aware datetimes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct

Micros: TypeAlias = int
RunKey: TypeAlias = int
WorkerKey: TypeAlias = int
OnParentClose: TypeAlias = Literal["cancel", "abandon", "wait"]
"""What becomes of a child that is still running when its parent's code is finished, however that ended."""
AT_ONCE: Micros = 0
"""Due whatever the time is: by a clock that is ahead of the store's, "now" would still lie in the future there."""
Cancellation: TypeAlias = Literal["request", "wait", "abandon"]
"""What the cancel of an await does to the child that is awaited."""
Isolation: TypeAlias = Literal["read committed", "repeatable read", "serializable"]
"""What a transaction sees of others, where the database gives a choice."""


class Status(StrEnum):
    """Where a run stands. The legal moves between these are the table in ``core/transitions.py``."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DEAD = "dead"

    @property
    def is_final(self) -> bool:
        """Nothing will ever change this run again."""
        return self in _FINAL

    @property
    def is_at_rest(self) -> bool:
        """The run has an outcome; only an audited action may reopen a failed or dead one."""
        return self in _AT_REST


_FINAL = frozenset({Status.SUCCEEDED, Status.CANCELLED})
_AT_REST = _FINAL | {Status.FAILED, Status.DEAD}


class ErrorRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """An exception as data.

    Attributes:
        type: Qualified name: ``ValueError``, ``shop.errors.Declined``. Never imported: looked up among declared types.
        message: Its ``str()``, at most 8 KiB.
        traceback: The frames of the user's code, at most 16 KiB; the middle is cut out. Empty if not kept.
        cause: What it was raised from, or None. At most 8 in a chain.
    """

    type: str
    message: str
    traceback: str = ""
    cause: ErrorRecord | None = None


class Relaxed(Struct, frozen=True, gc=False):
    """A durability that writes behind: a process that is killed loses at most so much, always the newest, and does it again.

    Attributes:
        seconds: What was done within so many seconds.
        steps: What came of so many steps, whichever is less.
    """

    seconds: float = 1.0
    steps: int = 100


class UndoRecord(Struct, frozen=True, omit_defaults=True, gc=False):
    """One thing that a saga has to undo.

    Attributes:
        undo: Name of the compensation: a step or a workflow. Empty if there is none, because the step's result is not known.
        step: Name of the step (or child's workflow) that it undoes. Empty if it was registered by hand.
        key: Command key of that step. Empty if it was registered by hand.
        maybe: Nobody knows whether the step has had its effect.
    """

    undo: str
    step: str = ""
    key: str = ""
    maybe: bool = False


class RunRecord(Struct, frozen=True, kw_only=True, gc=False):
    """A run as its store sees it: the row, not the journal.

    Attributes:
        run_key: Internal number, never reused.
        run_id: The caller's name for it.
        workflow: Name of the workflow.
        code_version: Version (or fingerprint) of the code that it started on.
        status: Where it stands.
        version: Number of its newest entry.
        base: Number of the entry in which its newest segment begins: replaying it needs nothing before.
        hash: Hash of its newest entry.
        epoch: Fencing token: how often it was claimed.
        worker_key: Its owner, or None.
        wake_at: When a worker should look at it again; None if only a message can wake it.
        created_at: When it was started.
        updated_at: ``at`` of its newest entry.
        step: Name of the step it last asked for; empty before the first.
        cursor: How many steps it has asked for.
        deaths: Workers that died with it since it last made progress.
        max_recoveries: More deaths than this and it is given up.
        inbox_seq: Number of the last message posted to it.
        inbox_done: Number of the last message it consumed.
        parent_key: The run that started it, or None.
        parent_command: Key of the parent's command that started it.
        on_parent_close: What becomes of it if its parent is given up as dead; empty if it has none.
        family: Id of the run at the top of its family; empty if that is this one.
        pinned: The version of its workflow that alone may drive it; empty if any code of that name may try.
        queue: The queue that it was started in; empty for none.
        queue_key: Its key there; empty for none.
        priority: Lower ones are admitted first.
        is_admitted: It has its place in the queue: it is in progress. Until then it waits in line.
        refused_by: Fingerprints of all code that could not replay it, separated by blanks; empty if none.
        created: Bytes of its first event list (who, what, with which arguments).
        outcome: Bytes of the event list that brought it to rest, or None.
    """

    run_key: RunKey
    run_id: str
    workflow: str
    code_version: str
    status: Status
    version: int
    hash: bytes
    epoch: int
    worker_key: WorkerKey | None
    wake_at: Micros | None
    created_at: Micros
    updated_at: Micros
    step: str
    cursor: int
    deaths: int
    max_recoveries: int
    inbox_seq: int
    inbox_done: int
    parent_key: RunKey | None
    parent_command: str
    refused_by: str
    base: int = 1
    on_parent_close: str = ""
    family: str = ""
    pinned: str = ""
    queue: str = ""
    queue_key: str = ""
    priority: int = 0
    is_admitted: bool = False
    created: bytes = b""
    outcome: bytes | None = None

    @property
    def is_in_line(self) -> bool:
        """It waits to be admitted by its queue."""
        return bool(self.queue) and not self.is_admitted and not self.status.is_at_rest


class Place(Struct, frozen=True, kw_only=True, gc=False):
    """Where a run waits before it begins.

    Attributes:
        queue: Name of the queue; empty for none.
        key: Its key there; empty for none.
        priority: Lower ones go first.
        dedupes: The key has one run that is not at rest.
    """

    queue: str = ""
    key: str = ""
    priority: int = 0
    dedupes: bool = False


class ChildOptions(Struct, frozen=True, kw_only=True, gc=False):
    """How a child is started; see ``es.start``.

    Attributes:
        run_id: Its id; empty for one that is derived from its parent's.
        tags: Added to the workflow's own.
        timeout: Seconds that it may take in all; None for the workflow's own limit.
        on_parent_close: What becomes of it when its parent's code is finished first.
        cancellation: What the cancel of an await of it does to it.
        place: Where it waits before it begins.
        delay: Seconds before it may begin.
    """

    run_id: str = ""
    tags: Mapping[str, str] = {}
    timeout: float | None = None
    on_parent_close: OnParentClose = "cancel"
    cancellation: Cancellation = "request"
    place: Place = Place()
    delay: float = 0.0


class AttemptRecord(Struct, frozen=True, kw_only=True, gc=False):
    """How far the attempts of one unfinished step have come: the only thing about a step that is not in the journal.

    Attributes:
        run_key: The run.
        key: Command key of the step.
        attempt: The attempt that runs, or (if ``due_at`` is set) that is due next.
        failures: How many attempts have raised.
        due_at: When that attempt may start; None if it has started.
        recoveries: The run's count of recoveries when this was written: each later one cost an attempt.
        details: JSON of the last heartbeat's details, or None.
        error: JSON of the ErrorRecord of the last failure, or None.
        failures_max: So many failures end the step; None for no limit.
    """

    run_key: RunKey
    key: str
    attempt: int
    failures: int = 0
    due_at: Micros | None = None
    recoveries: int = 0
    details: bytes | None = None
    error: bytes | None = None
    failures_max: int | None = None


class BodyKind(Struct, frozen=True, gc=False):
    """What the body of a transaction asks of the store.

    Attributes:
        package: The package that the type of its connection parameter comes from; empty if the parameter says nothing.
        type: The name of that type.
        is_async: It is an async function.
        isolation: What its transaction sees of others.
    """

    package: str = ""
    type: str = ""
    is_async: bool = True
    isolation: Isolation = "read committed"

    def __str__(self) -> str:
        return f"{self.package}.{self.type}"


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """One thing in a run's inbox: it arrives as an input, in order, once.

    Attributes:
        seq: Its place in the inbox, given by the store; 0 before it is posted.
        event: JSON of the event that it becomes.
        dedupe: A second message with the same non-empty dedupe key is ignored.
        at: When it was posted.
        reply: JSON of the event that answers it, once there is one.
    """

    event: bytes
    dedupe: str = ""
    seq: int = 0
    at: Micros = 0
    reply: bytes | None = None


class Pulse(StrEnum):
    """What a worker is told when it renews its lease. False only if it is gone.

    ``MOVED``, once: the store was failed over to another server, which may not have all that was acknowledged.
    """

    GONE = ""
    ALIVE = "alive"
    DRAINING = "draining"
    MOVED = "moved"


class WorkerProfile(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a worker says of itself when it enlists. For people; nothing is decided by it.

    Attributes:
        host: Name of its machine.
        pid: Number of its process there; 0 if it does not say.
        everstep: Version of everstep.
        python: Version of Python, such as ``3.11.9``.
        workflows: What it can drive: name, version (None if it has none), fingerprint of the code; of each.
        run_max: How many runs it drives at once; 0 if it does not say.
        queues: The queues that it serves; None for all runs.
    """

    host: str = ""
    pid: int = 0
    everstep: str = ""
    python: str = ""
    workflows: tuple[tuple[str, str | None, str], ...] = ()
    run_max: int = 0
    queues: tuple[str, ...] | None = None


NO_PROFILE = WorkerProfile()
WorkerLock: TypeAlias = Literal["held", "free", "unknown"]
"""What the system says of a worker's lock or seat: its process is there, or is gone, or there is no telling."""


class WorkerRecord(Struct, frozen=True, kw_only=True, gc=False):
    """A process (more exactly: one engine in it) that drives runs.

    Attributes:
        worker_key: Its token, never reused; also the upper 31 bits of the run keys that it may hand out.
        name: Host and pid, for people.
        alive: False once anybody proved it dead. A dead token never renews.
        lease_seconds: How long it is trusted after a heartbeat.
        run_count: Runs it owns.
        enlisted_at: When it got its token.
        silent_seconds: How long ago it renewed its lease; None if that was before the machine was booted.
        draining: It was asked to take nothing new and to leave.
        lock: Whether its process is there, as far as the system tells.
        profile: What it says of itself.
    """

    worker_key: WorkerKey
    name: str
    alive: bool
    lease_seconds: float
    run_count: int = 0
    enlisted_at: Micros = 0
    silent_seconds: float | None = 0.0
    draining: bool = False
    lock: WorkerLock = "unknown"
    profile: WorkerProfile = NO_PROFILE

    @property
    def expires_seconds(self) -> float:
        """How long its lease still lasts unless it is renewed; negative if it has run out."""
        return float("-inf") if self.silent_seconds is None else self.lease_seconds - self.silent_seconds
