"""
The store contract. A store keeps runs, journals, attempts, inboxes and workers; it never runs a user's code.

Every backend keeps these promises; ``everstep.testing.StoreSuite`` checks each by its number:

    P1   What was acknowledged is durable. What raised has either happened whole or not at all; repeating the same write tells.
    P2   A run's versions are gapless from 1 and each entry is chained to the one before by its hash. The hash of an owner's
         entry is taken as it comes: who reads a journal verifies it.
    P3   An entry lands only at exactly the next version, and only with the epoch of the run's current owner.
    P4   Landing is idempotent: an entry whose hash is already stored at its version answers ``Landed`` and changes nothing.
    P5   Side effects of a write (children, messages, replies, consumption, attempts, release, outcome) happen iff it lands, in
         the same transaction. One fenced or refused write of a batch leaves the others alone. A message to a child of a command
         reaches that child or nobody.
    P6   One run per run_id. Creating it again answers with the run that exists, whatever its arguments: the caller compares.
    P7   Any change of owner, epoch or status by somebody else than the owner appends an entry in the same transaction.
    P8   A claim takes a run that nobody owns and that is due, or whose owner is proved dead; epoch + 1; two claims never get
         the same run. A run of an unknown workflow, or refused by exactly this code, is never handed out; one that is pinned
         to a version only to a worker that has that version.
    P9   A worker proved dead is marked dead before any of its runs is claimed, and a dead token never renews.
    P10  Messages are numbered per run without gaps, in order; a dedupe key is accepted once; posting to an unowned run makes it
         due, unless it is paused. A run at rest accepts none.
    P11  Release (parking) and ending succeed only if the inbox is consumed to its end; else ``Behind`` and nothing has changed.
         An ending may leave messages that it has ``seen``: they stay unconsumed for good.
         Verdicts (paused, dead) and a release that is due at once lose no wake-up and are not held up.
    P12  A write whose ``not_before`` lies in the future of the store's clock is refused with ``TooEarly``, and changes nothing.
    P13  A run that comes to rest posts its outcome to its parent's inbox in the same transaction. A child that is at rest
         already when the command that started it is issued again tells its outcome again. A child that is announced tells that
         it exists. One whose id belongs to another run is refused.
    P14  A run whose workers keep dying without progress is first claimed alone, then ends dead (``judge_recovery``). Children
         that are to be cancelled with a run, and are not at rest, are asked to stop when it is ended by anybody but its owner,
         in the same transaction.
    P15  Somebody who does not own a run may write an entry to it (``settle``) only if nobody owns it and its journal ends where
         the writer believes.
    P16  A claim hands out the journal from the run's base on, and the hash of the entry before it.
    P17  Reading never blocks writing, takes no lock that a writer waits for, and verifies nothing: callers verify the chain.
    P18  ``transact``, where a store has it: what the body does with its connection and the entry that it returns are one
         commit. The body is begun only while the slot is the owner's next entry, and never again once its entry has landed. If
         the slot is lost meanwhile, or the body ends in any other way (None, an error, a cancellation), nothing of it remains.
    P19  A reply stays on the message that it answers, from the write that gives it on, and can be read for as long as the run
         is there, at rest too. The first one stays; one to a message that is not there is dropped.
    P20  Messages that come with a new run are in its inbox iff that write creates it, numbered from 1.
    P21  A run is pruned whole or not at all, only at rest, only if nothing refers to it. Its id may come back, its key never.
    P22  The blobs of an entry are stored iff it lands, once per run, and come back with it. Who reads an entry verifies them.
    P23  A run of a queue is created in line; no write creates one that is owned. A claim admits it. From then on it is in
         progress and needs no admission, until it comes to rest. One that is reopened is in line again.
    P24  No claim brings more runs of a queue in progress than its concurrency, more of one key than ``per_key``, or more within
         the window of its rate than that allows; nor does it give a worker more runs of it than ``per_worker``.
    P25  A queue admits by priority, then by due time, then by age. Runs whose key has no room hold up no other, and are
         admitted in that order once it has.
    P26  A claim takes from the queues that it serves in turn; the runs that have no queue count as one.
    P27  What code declares of a queue counts until somebody changes it, and that until code declares something else. A queue
         that is paused admits nothing; its runs in progress go on.
    P28  While a run with a dedupe key is not at rest, creating another in its queue with that key answers with it, as P6 does.
    P33  ``transact``: a body neither ends its transaction nor changes what is everstep's own. If it tries, that is an error,
         and nothing remains of it.
    P34  ``transact``: a transaction that the database ends for the sake of another has left nothing, and is told apart by
         ``gave_way``: the body may be run again.
    P35  ``create_in`` and ``post_in``, where a store has them: what they write is there iff the caller's transaction commits,
         and nobody is told before. If they raise, nothing of them is in it.
    P36  A run is trimmed whole or not at all, never at or beyond its base, and not while a fork exists of it: its journal is
         then entry 1 and what is left, the first of which has the hash of the one before (``Entry.anchor``). Whoever drives it
         notices nothing. Blobs that nothing left refers to go too. A fork of a run, or of a version of it, that is not there
         any more is refused.
    P38  A worker that was asked to drain is given no run any more, and hears of it with its next heartbeat.
    P39  ``wake`` is ``post``; and in the same transaction a claim of that run and no other (P7, P8), if the message made it
         due, it is no suspect (P14) and in no queue, and the worker may drive it. What is not claimed is posted all the same.

Times: ``now()`` is the store's clock. Leases count on a clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, cast

from msgspec import Struct

from everstep.errors import UsageError
from everstep.events import Event, RunDied
from everstep.journal import GENESIS, Entry
from everstep.limits import QueueChange, QueueRecord
from everstep.records import (
    NO_PROFILE,
    AttemptRecord,
    BodyKind,
    Message,
    Micros,
    Pulse,
    RunKey,
    RunRecord,
    Status,
    WorkerKey,
    WorkerProfile,
    WorkerRecord,
)
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest

LEASE_SECONDS_DEFAULT = 15.0
RUN_KEYS_PER_WORKER = 1 << 32
"""A worker hands out run keys ``worker_key << 32 | n`` itself: a local start needs its key, for the hash, before it commits."""
SUSPECT_DEATHS = 3
"""A run that saw this many workers die in a row, without progress, is claimed alone: bystanders progressed and were cleared."""


# --- what is asked ---------------------------------------------------------------------------------------------------------


class NewRun(Struct, frozen=True, kw_only=True, gc=False):
    """A run to create.

    Attributes:
        run_id: Its name.
        workflow: Its workflow.
        code_version: Version of the code that starts it.
        created: JSON list with its ``RunCreated`` event: what entry 1 holds, unless the write that creates it brings its own.
        wake_at: When it is due; None for at once.
        max_recoveries: See RunRecord.
        parent_key: Run that starts it, if any. Its outcome goes there.
        parent_command: Key of the command that starts it.
        forked_from: Run whose history it shares, if any ...
        forked_at: ... up to this version.
        messages: What is in its inbox from the beginning (P20).
        on_parent_close: See RunRecord.
        announced: Its parent is told when it exists (``ChildAccepted``).
        family: See RunRecord.
        pinned: See RunRecord.
        queue: See RunRecord. The queue is created with it if need be.
        queue_key: See RunRecord.
        priority: See RunRecord.
        dedupes: Its ``queue_key`` is a dedupe key (P28).
    """

    run_id: str
    workflow: str
    code_version: str
    created: bytes
    wake_at: Micros | None = None
    max_recoveries: int = 20
    parent_key: RunKey | None = None
    parent_command: str = ""
    forked_from: RunKey | None = None
    forked_at: int = 0
    messages: tuple[Message, ...] = ()
    on_parent_close: str = ""
    announced: bool = False
    family: str = ""
    pinned: str = ""
    queue: str = ""
    queue_key: str = ""
    priority: int = 0
    dedupes: bool = False


class Reply(Struct, frozen=True, gc=False):
    """The answer to a message of the run that is written to.

    Attributes:
        dedupe: The message's dedupe key.
        event: JSON of the event that answers it.
    """

    dedupe: str
    event: bytes


class Post(Struct, frozen=True, kw_only=True, gc=False):
    """A message to another run, by its id, sent as a side effect of an entry. To an unknown or resting run it is dropped.

    Attributes:
        run_id: To whom.
        message: What.
        parent_key: If given, it is dropped too unless a command of this run started the addressee ...
        parent_command: ... namely this one.
    """

    run_id: str
    message: Message
    parent_key: RunKey | None = None
    parent_command: str = ""


class Append(Struct, frozen=True, kw_only=True, gc=False):
    """One entry to land, with everything that depends on it.

    Attributes:
        entry: Sealed; at the run's version + 1.
        status: The run's status after it.
        step: See RunRecord.
        cursor: See RunRecord.
        consumed: The inbox is consumed up to this seq.
        create: The run itself, if this is its first entry; it is then created owned by ``worker_key``.
        worker_key: The owner that writes.
        release: Give the run back: nobody owns it afterwards. Implied when ``status`` is at rest or paused.
        wake_at: With ``release``: when it is due; None if only a message can wake it.
        children: Runs that exist iff the entry landed. One whose id is taken by another parent posts ``ChildRefused``.
        posts: Messages to other runs.
        attempts: Rows to write, for steps that are still unfinished.
        settled: Keys of steps whose attempt rows (if any) are no longer needed.
        not_before: Refused unless the store's clock has reached this.
        refused_by: With status paused: fingerprint of the code that could not replay it.
        begins_segment: The run's newest segment begins in this entry: it becomes the run's base.
        replies: Answers to messages of its inbox.
        seen: With a status at rest: messages up to here are known to be left unconsumed.
    """

    entry: Entry
    worker_key: WorkerKey
    status: Status
    step: str = ""
    cursor: int = 0
    consumed: int = 0
    create: NewRun | None = None
    release: bool = False
    wake_at: Micros | None = None
    children: tuple[NewRun, ...] = ()
    posts: tuple[Post, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    settled: tuple[str, ...] = ()
    not_before: Micros | None = None
    refused_by: str = ""
    begins_segment: bool = False
    replies: tuple[Reply, ...] = ()
    seen: int = 0


class Keep(Struct, frozen=True, kw_only=True, gc=False):
    """A write of the owner without an entry: rows of attempts, replies, and possibly giving the run back as it stands.

    Attributes:
        run_key: The run.
        worker_key: Its owner.
        epoch: The owner's epoch.
        consumed: The inbox is consumed up to this seq.
        attempts: Rows to write.
        replies: Answers to messages that led to no entry.
        release: Give the run back. ``status`` says as what (queued when work is left to do, waiting otherwise).
        wake_at: With ``release``: when it is due; None if only a message can wake it.
    """

    run_key: RunKey
    worker_key: WorkerKey
    epoch: int
    consumed: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    replies: tuple[Reply, ...] = ()
    release: bool = False
    status: Status = Status.WAITING
    wake_at: Micros | None = None


Write: TypeAlias = Append | Keep


class Settlement(Struct, frozen=True, kw_only=True, gc=False):
    """An entry that somebody who does not own the run writes to it: an operator's decision.

    Attributes:
        run_key: The run.
        version: Its newest entry, as far as the writer knows.
        events: JSON list of what the entry holds.
        status: The run's status after it.
        wake_at: When it is due; None if only a message can wake it.
    """

    run_key: RunKey
    version: int
    events: bytes
    status: Status
    wake_at: Micros | None = None


class Slot(Struct, frozen=True, kw_only=True, gc=False):
    """The place for a run's next entry, which its owner keeps for a transaction.

    Attributes:
        run_key: The run.
        version: Number of the entry that is going to be made.
        epoch: The owner's epoch.
        worker_key: The owner.
        doubtful: Hash of the entry of an earlier try of which nobody knows whether it landed; empty if there is none.
    """

    run_key: RunKey
    version: int
    epoch: int
    worker_key: WorkerKey
    doubtful: bytes = b""


class ClaimRequest(Struct, frozen=True, kw_only=True, gc=False):
    """What a worker is able to drive.

    Attributes:
        worker_key: Who asks.
        workflows: Fingerprint of its code, by the name of the workflow: for runs that are not pinned. Of several codes of one
            name all fingerprints, sorted, separated by blanks.
        versions: Fingerprint of its code, by name and version of the workflow: for runs that are pinned to that version.
        run_max: At most this many runs.
        alone: The worker drives nothing now, so it may be given one suspect (and then only that one).
        family: If given, only the run of this id and its descendants.
        queues: Only runs of these queues; None for all runs, those without a queue too.
        turn: Where to begin among the queues (P26). Whoever adds one each time serves all alike.
    """

    worker_key: WorkerKey
    workflows: Mapping[str, str]
    run_max: int
    alone: bool = False
    family: str = ""
    versions: Mapping[tuple[str, str], str] = {}
    queues: tuple[str, ...] | None = None
    turn: int = 0


class RunFilter(Struct, frozen=True, kw_only=True, gc=False):
    """Which runs to list: newest first.

    Attributes:
        statuses: Any of these; empty for all.
        workflow: Exactly this name; empty for all.
        id_prefix: Ids that begin so.
        created_from: Not before this instant.
        before: Only runs older than the one with this run key: the cursor for paging.
        limit: At most this many, 1 to 1,000.
        queue: Exactly this queue; empty for all.
        queue_key: Exactly this key; empty for all.
        is_admitted: Only runs that are in progress in their queue.
    """

    statuses: tuple[Status, ...] = ()
    workflow: str = ""
    id_prefix: str = ""
    created_from: Micros | None = None
    before: RunKey | None = None
    limit: int = 50
    queue: str = ""
    queue_key: str = ""
    is_admitted: bool = False


# --- what is answered ------------------------------------------------------------------------------------------------------


class Created(Struct, frozen=True, gc=False):
    """The run now exists."""

    run: RunRecord


class Exists(Struct, frozen=True, gc=False):
    """The id was taken: by this run. Nothing was created."""

    run: RunRecord


class Landed(Struct, frozen=True, gc=False):
    """The write is durable."""


class Fenced(Struct, frozen=True, gc=False):
    """Somebody else owns the run, or its journal went on without this writer. Nothing was written."""


class Behind(Struct, frozen=True, gc=False):
    """Messages arrived that the run has not consumed; it may not be released or ended. Nothing was written."""


class TooEarly(Struct, frozen=True, gc=False):
    """Not now: by the store's clock a timer of this entry is not due, or a user's transaction holds a row that it needs.

    Nothing was written. The same write may be tried again in a moment.
    """


class Refused(Struct, frozen=True, gc=False):
    """The store cannot take this write, whatever is tried (too large, for instance). Nothing was written."""

    reason: str


Outcome: TypeAlias = Landed | Fenced | Behind | TooEarly | Exists | Refused


class RolledBack(Struct, frozen=True, gc=False):
    """The body of a transaction wanted nothing of it to remain, and nothing does."""


TransactionBody: TypeAlias = Callable[[Any], Awaitable[Append | None]]
"""Gets the connection that this kind of store gives to bodies. Returns the entry with its result, or None to roll back."""


class Claimed(Struct, frozen=True, gc=False):
    """A run that now belongs to the worker, with all that is needed to go on.

    Attributes:
        run: The run, after the claim entry.
        entries: Its journal from its base on, the claim entry last.
        attempts: Rows of unfinished steps.
        inbox: Messages not yet consumed, in order.
        alone: It is a suspect: drive nothing else until it makes progress.
        previous: Hash of the entry before the first of these; that of nothing if there is none.
    """

    run: RunRecord
    entries: Sequence[Entry]
    attempts: Sequence[AttemptRecord]
    inbox: Sequence[Message]
    alone: bool = False
    previous: bytes = GENESIS


class Woken(Struct, frozen=True, gc=False):
    """Answer to ``wake``.

    Attributes:
        run: As ``post`` answers; None if there is no such run.
        claimed: The run, if it now belongs to the worker.
    """

    run: RunRecord | None
    claimed: Claimed | None = None


class Claims(Struct, frozen=True, gc=False):
    """Answer to a claim.

    Attributes:
        runs: What was claimed.
        next_due_at: When the earliest run that this worker could claim becomes due, as far as is known now; None for none.
        next_expiry_at: When the first lease of another worker runs out unless it is renewed; None if there is no other. Asking
            again then is how a frozen worker is noticed: nobody need ask in between.
        suspects_wait: A suspect is due that may only be claimed by a worker that drives nothing else.
        died: Runs (id, status) that the claim ended as dead.
    """

    runs: Sequence[Claimed]
    next_due_at: Micros | None = None
    suspects_wait: bool = False
    died: Sequence[str] = ()
    next_expiry_at: Micros | None = None


# --- the contract ------------------------------------------------------------------------------------------------------------


class Store(Protocol):
    """See the promises at the head of this module. Every verb may raise StoreUnavailable; then nothing is known but P1."""

    url: str

    @property
    def commits_inline(self) -> bool:
        """``commit`` may be begun outside a task now: it needs none before it suspends, if it does at all."""
        ...

    def now(self) -> Micros:
        """The store's clock, calibrated; does no I/O. Microseconds since the Unix epoch."""
        ...

    async def open(self) -> None:
        """Connect, create or check the schema. Safe to repeat.

        Raises:
            SchemaMismatch: Newer than this code, or no store of everstep.
            StoreUnavailable: It cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Let go of everything. Safe to repeat. Workers enlisted through this object are retired."""
        ...

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        """Register a worker and return its token."""
        ...

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        """Renew the lease of everything that the worker owns. ``GONE``: it was declared dead, and must enlist anew (P9)."""
        ...

    async def drain(self, worker_key: WorkerKey) -> bool:
        """Ask a worker to take nothing new and to leave (P38). False if there is no such worker. Safe to repeat."""
        ...

    async def retire(self, worker_key: WorkerKey) -> None:
        """The worker leaves in good order; whatever it still owns may be claimed at once. Safe to repeat."""
        ...

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """Create queued runs, each with its first entry (epoch 0, not drained). One answer per run, in order (P6).

        Raises:
            IllegalState: What one of them forks has been pruned (P36). None was created.
        """
        ...

    async def claim(self, request: ClaimRequest) -> Claims:
        """Take over runs that are due or orphaned (P7, P8, P9, P14)."""
        ...

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """The one write of progress: all of the batch in one transaction, each with its own fate (P3, P4, P5, P11, P12).

        At most one write per run in a batch. One outcome per write, in order.
        """
        ...

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        """Write an entry to a run that nobody owns (P15): not drained, under the next epoch (P7).

        A run that leaves its rest or pause loses what had refused it and its attempts; one that comes to rest tells its parent.

        Returns:
            The run as it now is; None if somebody owns it, or its journal went on: nothing was written. Look again.
        """
        ...

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """Put a message into a run's inbox (P10). Returns the run as it now is; None if there is no such run.

        If the returned run is at rest the message was *not* accepted.
        """
        ...

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        """``post`` for a worker that has room for the run: a run that was parked then costs one commit less (P39).

        ``request`` says who asks and what it may drive; its ``run_max`` is not looked at.
        """
        ...

    async def pull(self, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
        """Messages that wait, unconsumed, for runs that the worker owns. Consumes nothing."""
        ...

    async def mail(self, run_key: RunKey, after: int = 0, dedupe: str = "") -> list[Message]:
        """Messages of a run's inbox in order, with their replies, consumed ones too: those numbered above ``after``.

        With ``dedupe`` only the one that has this key. Needs no claim.
        """
        ...

    async def prune(self, request: PruneRequest) -> Pruned:
        """Forget runs at rest: one batch, in one transaction (P21). Safe to repeat; go on where the answer says."""
        ...

    async def trim(self, request: TrimRequest) -> int | Kept:
        """Forget entries of closed segments of a run, live or not, in one transaction (P36). Safe to repeat.

        Returns:
            How many went; or why none did.
        """
        ...

    async def get(self, run_id: str) -> RunRecord | None:
        """One run, with its ``created`` and ``outcome`` bytes."""
        ...

    async def load(self, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
        """The journal in order, to its end or up to a version, without what was trimmed (P36). Needs no claim.

        Empty if there is no such run.
        """
        ...

    async def attempts(self, run_key: RunKey) -> list[AttemptRecord]:
        """Rows of a run's unfinished steps, by their keys. Empty if there is no such run. Needs no claim."""
        ...

    async def configure(self, change: QueueChange) -> QueueRecord:
        """Change what a queue allows, or whether it admits runs (P27). Safe to repeat. Returns it as it then is, uncounted."""
        ...

    async def queues(self) -> list[QueueRecord]:
        """Every queue that was declared, changed, or ever had a run, by name, and how it stands."""
        ...

    async def workers(self) -> list[WorkerRecord]:
        """Every worker that is alive or still owns runs."""
        ...

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """Wait until something may have changed in the store through others, or until ``timeout`` seconds have passed.

        Costs no statement while nothing changes. True if something may have changed. A client without a worker passes None.
        """
        ...

    async def list(self, query: RunFilter) -> list[RunRecord]:
        """Runs, newest first, without ``created`` and ``outcome``."""
        ...


ANY_BODY = BodyKind()
"""An async body that takes whatever connection the store has."""


class TransactingStore(Store, Protocol):
    """A store whose database takes the SQL of transactional steps. An option of the contract: see ``transacting``."""

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        """Run a body and land its entry in one transaction (P18, P33). Other verbs may wait for its end.

        ``kind`` says what connection the body asks for.

        Returns:
            ``Landed``, also if the doubtful entry was found: then the body was not run. ``Fenced``: the slot is somebody
            else's. ``RolledBack``: the body said so. ``Refused``: the entry cannot be stored.

        Raises:
            StoreUnavailable: The store failed, before or after the body: unknown whether the entry landed. Call again with it
                as ``doubtful``.
            UsageError: This store has no such connection (the body was not run), or the body did what only the store may.
            Exception: What the body raised, or what the database says of its SQL only at the commit. Nothing remains of it.
        """
        ...

    def gave_way(self, error: BaseException) -> bool:
        """Whether an error, of a body or of ``transact``, says that its transaction was ended for the sake of another (P34)."""
        ...


class JoiningStore(Store, Protocol):
    """A store that can write in a transaction of the caller's, on a connection of his to the same database. An option."""

    joins_unopened: bool
    """It does so without being open, and had better not be."""

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """``create`` on that connection (P35).

        Raises:
            UsageError: It is no connection of a kind that is known here, or not to this store, or has no transaction. Nothing
                was written, and the caller's transaction is as it was.
            StoreUnavailable: The database refused. The caller should roll back, and may repeat.
        """
        ...

    async def post_in(self, connection: Any, run_id: str, message: Message) -> RunRecord | None:
        """``post`` on that connection; raises as ``create_in`` does."""
        ...


def joining(store: Store, connection: Any) -> JoiningStore:
    """The store as one that writes in transactions of callers.

    Raises:
        UsageError: It cannot.
    """
    if getattr(store, "create_in", None) is None:
        raise UsageError(
            f"tx={type(connection).__name__}: the store {store.url} does not write in transactions of its callers. Nothing was "
            "written. That needs a store in a database of yours, such as sqlite:///orders.db or postgresql://…."
        )
    return cast(JoiningStore, store)


def transacting(store: Store) -> TransactingStore | None:
    """The store as one that has the verb ``transact``, or None."""
    return cast(TransactingStore, store) if getattr(store, "transact", None) is not None else None


# --- decisions that every store makes alike ----------------------------------------------------------------------------------

Judgement: TypeAlias = Literal["claim", "alone", "dead"]


def judge_recovery(deaths: int, max_recoveries: int, *, was_alone: bool) -> Judgement:
    """Decide what becomes of a run that was due, or whose owner died. Pure: the caller applies it.

    Args:
        deaths: Workers that died with it in a row without progress, the one that just died included.
        max_recoveries: The run's limit.
        was_alone: The worker that just died drove only this run, so nothing else can be the cause.
    """
    if deaths > max_recoveries and was_alone:
        return "dead"
    return "alone" if deaths >= min(SUSPECT_DEATHS, max_recoveries + 1) else "claim"


def death_of(deaths: int) -> Event:
    """The verdict that ends a poisoned run."""
    return RunDied(
        f"{deaths} workers in a row died while driving this run, the last one driving nothing else. Nothing more was executed. "
        "Find out what kills the process (the last step scheduled is in its history), then retry the run."
    )
