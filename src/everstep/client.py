"""
Start, ask and tell: everything a program does with runs that it does not drive.

A client reads and writes the store; it runs no workflow code and owns no run. What it starts is driven by whatever engine has
that workflow, in this process or another. An engine offers the same surface and only answers faster, because it sees its own
runs end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, get_args, overload

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from everstep import repair
from everstep.ambient import transaction_scope
from everstep.asking import Question
from everstep.codec import rebuild_error
from everstep.core.diff import Change, changes
from everstep.core.payloads import read_events
from everstep.core.progress import Progress, progress
from everstep.core.reuse import Ledger
from everstep.core.snapshots import Snapshot, fold, instant
from everstep.core.starting import describe_start, first_event, refuse_conflict
from everstep.core.undelivered import untaken
from everstep.definitions import Call, Workflow, declared_errors, require_call
from everstep.errors import (
    IllegalState,
    InvalidStoreURL,
    RequestFailed,
    RequestRefused,
    RequestTimeout,
    RunCancelled,
    RunConflict,
    RunDead,
    RunEnded,
    RunFailed,
    RunNotFound,
    RunPaused,
    RunTimeout,
    UsageError,
)
from everstep.events import (
    CancelRequested,
    Event,
    RequestAnswered,
    RequestReceived,
    RunCreated,
    RunDied,
    RunDiscarded,
    RunSucceeded,
    SignalReceived,
)
from everstep.events import (
    RequestFailed as RequestFailedEvent,
)
from everstep.events import (
    RequestRefused as RequestRefusedEvent,
)
from everstep.events import (
    RunCancelled as RunCancelledEvent,
)
from everstep.events import (
    RunFailed as RunFailedEvent,
)
from everstep.events import (
    RunPaused as RunPausedEvent,
)
from everstep.forks import shared_history
from everstep.ids import check_run_id, new_run_id, request_dedupe
from everstep.journal import Entry, decode_verified, verify_chain
from everstep.payloads import PLAIN, Payloads
from everstep.records import ErrorRecord, Message, Micros, RunKey, RunRecord, Status, WorkerRecord
from everstep.secret import masked
from everstep.stores.base import Created, NewRun, RunFilter, Store, joining
from everstep.stores.pruning import Pruned, PruneRequest, joined
from everstep.stores.urls import open_store
from everstep.talk import Signal, SignalMessage

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
OnConflict = Literal["join", "raise"]

DEAD_PER_PAGE = 200
POLL_SECONDS_MAX = 1.0
"""A store tells when something changed; this bounds the wait if it could not."""


class HistoryEntry(Struct, frozen=True):
    """One entry of a journal, for reading.

    Attributes:
        version: Its number.
        at: When it was made, an aware datetime.
        epoch: Under which claim.
        hash: Hex.
        events: What happened.
    """

    version: int
    at: Any
    epoch: int
    hash: str
    events: tuple[Event, ...]


class DeadLetter(Struct, frozen=True):
    """A run that the engine gave up on.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        step: The step that it last asked for.
        reason: Why it was given up.
        died_at: When, an aware datetime.
    """

    run_id: str
    workflow: str
    step: str
    reason: str
    died_at: datetime


def dead_letter(run: RunRecord, payloads: Payloads = PLAIN) -> DeadLetter:
    """What is told of a dead run."""
    last = _last_event(run, payloads)
    reason = last.reason if isinstance(last, RunDied) else "its last entry cannot be read"
    return DeadLetter(run.run_id, run.workflow, run.step, reason, instant(run.updated_at))


class UndeliveredSignal(Struct, frozen=True):
    """A signal that a run accepted and has not taken.

    Attributes:
        name: Of the signal.
        value: As plain JSON values.
        key: What it was deduplicated by; empty for nothing.
    """

    name: str
    value: Any
    key: str


class Ending(Protocol):
    """How a run came to rest, as far as its result is concerned: a RunRecord has it, and so does what a driver remembers."""

    @property
    def run_id(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def step(self) -> str: ...
    @property
    def outcome(self) -> bytes | None: ...


class _Paused(Struct, frozen=True):
    run_id: str
    status: Status
    step: str
    outcome: bytes | None


class Handle(Generic[R_co]):
    """One run, from outside. Made by ``start`` and ``handle``; awaiting it gives the result."""

    def __init__(self, client: Client, run_id: str, workflow: Workflow[..., Any] | None) -> None:
        self._client = client
        self._workflow = workflow
        self.run_id = run_id

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<run {self.run_id}>"

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait for the run's result.

        Args:
            timeout: Seconds to wait; None for as long as it takes, 0 to look once.

        Raises:
            RunFailed: The workflow raised; ``__cause__`` is what.
            RunCancelled: It was cancelled.
            RunDead: It was given up.
            RunPaused: It is paused and cannot go on by itself.
            RunTimeout: It has no result yet. The run goes on.
            RunNotFound: There is no such run.
            PayloadKeyMissing: It is encrypted with a key that this client was not given.
        """
        run = await self._client.wait_until_rest(self.run_id, timeout)
        value: R_co = _result_of(run, self._workflow, self._client.payloads)
        return value

    async def status(self) -> Status:
        """Where the run stands now."""
        return (await self._client.get(self.run_id)).status

    async def snapshot(self, version: int | None = None) -> Snapshot:
        """The state envelope after a version; None for the newest. Reads only; the hash chain is verified first.

        Raises:
            CorruptJournal: The journal was altered.
            PayloadKeyMissing: It is encrypted with a key that this client was not given.
            UsageError: There is no such version.
        """
        run, entries = await self._client.load_journal(self.run_id)
        reader = self._client.payloads.viewer(self.run_id)
        return fold(entries, run, version, shared=await self._client.shared_history(run), reader=reader)

    async def diff(self, v1: int, v2: int | None = None) -> list[Change]:
        """What changed in the run's state from one version to another: a place, what it was, what it became.

        Args:
            v1: The version to compare with. It may be the newer one.
            v2: The version to describe; None for the newest.

        Returns:
            One change per place, in the order of the state at ``v2``; empty if there is no difference.

        Raises:
            CorruptJournal: The journal was altered.
            UsageError: There is no such version.
        """
        run, entries = await self._client.load_journal(self.run_id)
        shared, reader = await self._client.shared_history(run), self._client.payloads.viewer(self.run_id)
        before, after = (fold(entries, run, version, shared=shared, reader=reader).payload for version in (v1, v2))
        return changes(before, after)

    async def progress(self) -> Progress:
        """What the run is doing: open steps since when, the attempt that is next, why the last one failed. Reads only.

        Raises:
            CorruptJournal: The journal was altered.
            RunNotFound: There is no such run.
        """
        run, entries = await self._client.load_journal(self.run_id)
        # Lenient: all but the text of the last failure can be told without any key.
        reader = self._client.payloads.viewer(self.run_id, lenient=True)
        rows = reader.open_rows(await self._client.store.attempts(run.run_key))
        return progress(run, entries, rows, self._client.store.now())

    async def history(self) -> list[HistoryEntry]:
        """Every entry of the journal, verified, oldest first. Secrets and redacted fields are stars."""
        run, entries = await self._client.load_journal(self.run_id)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        reader = self._client.payloads.viewer(self.run_id)
        read = zip(entries, read_events(entries, self.run_id, reader=reader), strict=True)
        return [
            HistoryEntry(entry.version, instant(entry.at), entry.epoch, entry.hash.hex(), tuple(map(reader.shown_event, each)))
            for entry, each in read
        ]

    async def send(self, signal: Signal[T], value: T, *, key: str = "", tx: Any = None) -> None:
        """Send a signal. Once this returns it is consumed exactly once, or waits in the inbox for as long as the run lives.

        Args:
            signal: Which.
            value: Of the signal's type.
            key: A second one with the same key is ignored: with it, sending is safe to repeat.
            tx: A connection to the store's own database in a transaction of yours: it is sent iff that commits. See ``start``.

        Raises:
            Unencodable: The value cannot be stored.
            RunEnded: The run is at rest. Nothing was sent.
            RunNotFound: There is no such run.
            StoreUnavailable: Unknown whether it was sent; repeat it with the same key.
        """
        await self._client.send(self.run_id, signal.message(value, key=key), tx=tx)

    async def undelivered(self) -> list[UndeliveredSignal]:
        """Signals that were accepted and not taken by the code, in order. Of a run at rest: that nobody will take."""
        return await self._client.undelivered(self.run_id)

    async def ask(self, request: Question[A, B], value: A, *, key: str = "", timeout: float | None = None) -> B:
        """Send a request and wait for its answer. The run accepts it at most once and answers it at most once.

        Args:
            request: Which.
            value: Of the request's type.
            key: Names the request for ever: asking again with it (from anywhere, also after the run has ended) gives the one
                answer that there is, whatever ``value`` is then. Without one this is a new request each time.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            RequestRefused: The run does not answer it; ``reason`` says why.
            RequestFailed: What was to answer it raised; ``__cause__`` is what.
            RequestTimeout: There is no answer yet. The request stays; ask again with its key.
            RunEnded: The run came to rest without answering.
            RunPaused: It is paused and cannot go on by itself. The request stays.
            RunNotFound: There is no such run.
            Unencodable: The value cannot be stored. Nothing was sent.
            StoreUnavailable: Unknown whether it was sent; repeat it with the same key.
        """
        answer = await self._client.ask(self.run_id, request.name, request.encode_ask(value), key, timeout)
        return request.decode_answer(answer)

    async def journal(self) -> list[Entry]:
        """The entries as they are stored, verified, oldest first: what ``everstep.testing.replay`` takes."""
        run, entries = await self._client.load_journal(self.run_id)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        return entries

    async def cancel(self, reason: str = "", *, actor: str = "") -> bool:
        """Ask the run to stop: it gets a CancelledError at its next await, and may clean up. Safe to repeat.

        Returns:
            False if it had come to rest already: nothing was asked.

        Raises:
            RunNotFound: There is no such run.
        """
        run = await self._client.post(self.run_id, CancelRequested(reason, actor))
        if run.status is Status.PAUSED:
            await self.resume(reason, actor=actor)  # Only a run that goes on can clean up.
        return not run.status.is_at_rest

    # --- repair -----------------------------------------------------------------------------------------------------------

    async def pause(self, reason: str = "", *, actor: str = "") -> None:
        """Let the run stop where it is, soon: bodies that are being executed finish first. Safe to repeat.

        A paused run takes no step and no signal, and costs no memory; its timers keep their due time.

        Raises:
            IllegalState: It is at rest.
            RunNotFound: There is no such run.
        """
        await repair.pause(self._client, self.run_id, repair.check_by(reason, actor))

    async def resume(self, reason: str = "", *, actor: str = "") -> None:
        """Let a paused run go on, whatever paused it; code that refused it is tried again. Safe to repeat.

        Raises:
            IllegalState: It is at rest.
            RunNotFound: There is no such run.
        """
        await repair.resume(self._client, self.run_id, repair.check_by(reason, actor))

    async def retry(self, reason: str = "", *, actor: str = "") -> None:
        """Reopen a failed or dead run: its code begins again, and nothing that it finished is executed again.

        Finished steps and children are found by their place in the code, name and arguments, so corrected code gets the results
        of all that it still asks for. Timers keep their due time, signals are there again. What failed is done again, with the
        same idempotency key; an at-most-once step is not. A run that died while it undid its steps goes on undoing.

        Raises:
            IllegalState: The run has not failed; or its parent has been told of its failure (retry that one); or its steps have
                been undone.
            RunNotFound: There is no such run.
        """
        await repair.retry(self._client, self.run_id, repair.check_by(reason, actor))

    async def discard(self, reason: str = "", *, actor: str = "") -> None:
        """Give a failed, dead or paused run up for good: it ends as cancelled, and no more of its code is run.

        Raises:
            IllegalState: It is none of these.
            RunNotFound: There is no such run.
        """
        await repair.discard(self._client, self.run_id, repair.check_by(reason, actor))

    async def complete_step(self, step: str, result: object, reason: str = "", *, actor: str = "") -> None:
        """Say what a step came to that is unfinished or has failed. A failed run is retried with it.

        Args:
            step: Its name (the last one of that name) or its key, as the history shows it.
            result: Of the type that the step returns.
            reason: Recorded with it.
            actor: Who says so; recorded with it.

        Raises:
            IllegalState: The run is over, or has no such step.
            Unencodable: The result cannot be stored.
            RunNotFound: There is no such run.
        """
        by = repair.check_by(reason, actor)
        await repair.override(self._client, self.run_id, step, result, by, skip=False)

    async def skip_step(self, step: str, reason: str = "", *, actor: str = "") -> None:
        """Let the run go on without a step that is unfinished or has failed: the code gets None. See ``complete_step``."""
        by = repair.check_by(reason, actor)
        await repair.override(self._client, self.run_id, step, None, by, skip=True)

    async def fork(
        self,
        *,
        at: int | str | None = None,
        edit: Mapping[str, object] | None = None,
        id: str | None = None,  # noqa: A002  # the API's word
        reason: str = "",
        actor: str = "",
    ) -> Handle[R_co]:
        """Start a new run that shares this one's history up to a version. This run is left as it is.

        The fork's code runs from the start and finds done what was done by then; what was pending is done again under the
        fork's own ids. Making one costs one entry, however long the history is.

        Args:
            at: A version, or the name of a step: up to just before that was finished. None for now, or for where the edits are.
            edit: New values for results of steps and published states, by name. What came after them is not shared.
            id: The fork's id; None for a fresh one.
            reason: Recorded with it.
            actor: Who does it; recorded with it.

        Raises:
            IllegalState: The id is taken, or there is no such version, step or state.
            Unencodable: An edited value cannot be stored.
            RunNotFound: There is no such run.
        """
        request = repair.Fork(at=at, edits=edit or {}, run_id=id)
        forked = await repair.fork(self._client, self.run_id, request, repair.check_by(reason, actor))
        return Handle(self._client, forked, self._workflow)


class Client:
    """A connection to a store, for programs that start and watch runs. Opens itself at first use.

    Args:
        store: A URL (``sqlite:///orders.db``) or an open store.
        payloads: How payloads are stored; the same for every client and engine of a store. None for nothing special.

    Raises:
        InvalidStoreURL: The URL names no store.
    """

    def __init__(self, store: str | Store, *, payloads: Payloads | None = None) -> None:
        if not isinstance(store, str) and not hasattr(store, "commits_inline"):
            raise InvalidStoreURL(f"{store!r} is no store. Nothing was opened. Give a URL such as 'sqlite:///orders.db'.")
        self.store = open_store(store) if isinstance(store, str) else store
        self.payloads = payloads or PLAIN
        self._opened = False
        self._opening = asyncio.Lock()
        self._poll_seconds_max = POLL_SECONDS_MAX

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect. Safe to repeat; every method does it by itself.

        Raises:
            UsageError: Called in the body of a transaction.
        """
        refuse_in_transaction()
        async with self._opening:
            if not self._opened:
                await self.store.open()
                self._opened = True

    async def close(self) -> None:
        """Let go of the store. Safe to repeat."""
        async with self._opening:
            if self._opened:
                self._opened = False
                await self.store.close()

    async def start(
        self,
        call: Call[R],
        *,
        id: str | None = None,  # noqa: A002  # the API's word
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float = 0.0,
        on_conflict: OnConflict = "join",
        send: SignalMessage | Sequence[SignalMessage] = (),
        tx: Any = None,
    ) -> Handle[R]:
        """Start a run, or join the one that has this id. Once this returns, the run will happen. Safe to repeat with an id.

        Args:
            call: A call of a workflow; it is used up.
            id: The run's id; None for a fresh one.
            tags: Put on the run.
            timeout: Seconds that it may take in all.
            delay: Seconds before it starts.
            on_conflict: What to do if the id is taken by the same start: ``join`` it, or ``raise``.
            send: Signals (``approval.message(…)``) that are in its inbox from the beginning, in the same transaction. A run
                that is joined is sent them, but for those whose key it has seen.
            tx: A connection to the store's own database, in a transaction of yours: the run exists iff that commits, and nobody
                hears of it before. For a store in SQLite: one of apsw; or of sqlite3 or SQLAlchemy, in a program that has not
                opened the store otherwise (two copies of SQLite in one process do not see each other's locks).

        Raises:
            RunConflict: The id is taken by another workflow or other arguments (or, with ``raise``, at all).
            RunEnded: The run that was joined is at rest and has not seen what was to be sent.
            Unencodable: An argument cannot be stored.
            UsageError: The call or an option is wrong.
            StoreUnavailable: Unknown whether it was started; start it again with the same id.
        """
        require_call(call, "start")
        with closing_if_refused(call):
            if tx is None:
                await self.open()
            created = self._describe(call, id, tags, timeout, on_conflict)
            workflow = _workflow_of(call)
            wake_at = self._due(delay)
            new = new_run(created, workflow, self.payloads, wake_at=wake_at, send=send)
        await self._create(new, created, on_conflict, send, tx)
        return Handle(self, created.run_id, workflow)

    @overload
    def handle(self, run_id: str) -> Handle[Any]: ...
    @overload
    def handle(self, run_id: str, workflow: Workflow[..., R]) -> Handle[R]: ...
    def handle(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Handle[Any]:
        """A handle of a run by its id. Without the workflow, its result comes as plain JSON values."""
        return Handle(self, run_id, workflow)

    async def get(self, run_id: str) -> RunRecord:
        """The run as the store sees it. Raises RunNotFound."""
        await self.open()
        run = await self.store.get(run_id)
        if run is None:
            raise self._not_found(run_id)
        return run

    def _not_found(self, run_id: str) -> RunNotFound:
        return RunNotFound(
            f"there is no run {ascii(run_id)[1:-1][:200]} in {self.store.url}. Nothing was changed. "
            "List what there is: everstep runs",
            run_id=run_id,
        )

    async def dead(self, *, limit: int = 50, before: RunKey | None = None) -> list[DeadLetter]:
        """The runs that the engine gave up on, newest first. Act on one with ``handle(…).retry()`` or ``.discard()``.

        Args:
            limit: 1 to 1,000.
            before: Only runs older than the one with this key: for the next page.
        """
        runs = await self.list(status=[Status.DEAD], limit=limit, before=before)
        return [dead_letter(await self.get(run.run_id), self.payloads) for run in runs]

    async def requeue(self, *run_ids: str, reason: str = "", actor: str = "") -> Sequence[str]:
        """Retry dead runs: these, or all there are. Returns the ids of those that were: others were dealt with meanwhile."""
        return await self._with_dead(run_ids, lambda handle: handle.retry(reason, actor=actor))

    async def discard(self, *run_ids: str, reason: str = "", actor: str = "") -> Sequence[str]:
        """Give dead runs up for good: these, or all there are. Returns the ids of those that were."""
        return await self._with_dead(run_ids, lambda handle: handle.discard(reason, actor=actor))

    async def _with_dead(self, run_ids: Sequence[str], act: Callable[[Handle[Any]], Awaitable[None]]) -> Sequence[str]:
        done: list[str] = []
        async for run_id in self._each_dead() if not run_ids else _each(run_ids):
            with suppress(IllegalState):
                await act(self.handle(run_id))
                done.append(run_id)
        return done

    async def _each_dead(self) -> AsyncIterator[str]:
        before: RunKey | None = None
        while page := await self.list(status=[Status.DEAD], limit=DEAD_PER_PAGE, before=before):
            for run in page:
                yield run.run_id
            before = page[-1].run_key

    async def workers(self) -> list[WorkerRecord]:
        """Every worker that is alive or still owns runs."""
        await self.open()
        return await self.store.workers()

    async def prune(
        self,
        older_than: timedelta,
        *,
        statuses: Sequence[Status | str] = (Status.SUCCEEDED, Status.CANCELLED),
        dry_run: bool = False,
    ) -> Pruned:
        """Forget runs that came to rest long ago, with everything that is kept of them. It cannot be undone.

        A run stays while its parent is at work, while a child of it stays, or while a fork reads its journal. Each goes whole
        or not at all; a prune that is broken off has forgotten some runs and may be repeated. The ids become free.

        Args:
            older_than: Only runs that came to rest longer ago than this.
            statuses: Which; failed and dead runs wait for somebody to look at them, and go only if you name them.
            dry_run: Change nothing, and say what would go.

        Raises:
            UsageError: A status is not at rest, or ``older_than`` is negative.
            StoreUnavailable: Unknown how many runs are gone; repeat it.
        """
        wanted = tuple(Status(one) for one in statuses)
        moving = [status for status in wanted if not status.is_at_rest]
        if moving or older_than < timedelta(0):
            what = f"runs that are {moving[0]}" if moving else f"runs of {older_than}"
            raise UsageError(f"cannot prune {what}. Nothing was pruned. Name statuses at rest, and an age of 0 or more.")
        await self.open()
        ended_before = self.store.now() - older_than // timedelta(microseconds=1)
        request = PruneRequest(ended_before=ended_before, statuses=wanted, dry_run=dry_run)
        answer = await self.store.prune(request)
        while answer.next is not None:
            await asyncio.sleep(0)  # A store may answer without ever waiting.
            answer = joined(answer, await self.store.prune(replace(request, after=answer.next)))
        return answer

    # --- what handles are made of -----------------------------------------------------------------------------------------

    async def load_journal(self, run_id: str) -> tuple[RunRecord, list[Entry]]:
        """A run and its journal, consistent with each other; not verified."""
        run = await self.get(run_id)
        return run, await self.store.load(run.run_key, run.version)

    async def shared_history(self, run: RunRecord, *, lenient: bool = False) -> Ledger | None:
        """What a fork found done in the run whose history it shares, as people see it; None if it is no fork.

        With ``lenient`` it says so where a key is missing, instead of raising PayloadKeyMissing.
        """
        return await shared_history(self.store, run, partial(self.payloads.viewer, lenient=lenient))

    async def post(
        self, run_id: str, event: CancelRequested | SignalReceived | RequestReceived, dedupe: str = "", *, tx: Any = None
    ) -> RunRecord:
        """Put an input into a run's inbox. If the run that is returned is at rest, it was not accepted."""
        message = Message(event=self.payloads.keeper(run_id).encode_message(event), dedupe=dedupe)
        if tx is not None:
            refuse_in_transaction()
            run = await joining(self.store, tx).post_in(tx, run_id, message)
            if run is None:
                raise self._not_found(run_id)
            return run
        await self.open()
        run = await self.store.post(run_id, message)
        if run is None:
            return await self.get(run_id)  # Raises with the right words.
        self.posted(run)
        return run

    async def send(self, run_id: str, signal: SignalMessage, *, tx: Any = None) -> None:
        """Send a signal: see ``Handle.send``."""
        event, dedupe = event_of(signal), dedupe_of(signal)
        run = await self.post(run_id, event, dedupe, tx=tx)
        if run.status.is_at_rest and not (dedupe and await self.store.mail(run.run_key, 0, dedupe)):
            raise RunEnded(
                f"run {run_id} is {run.status}, so signal {signal.name} was not sent. Nothing was changed.", run_id=run_id
            )

    async def undelivered(self, run_id: str) -> list[UndeliveredSignal]:
        """Signals that were accepted and not taken: see ``Handle.undelivered``."""
        run, entries = await self.load_journal(run_id)
        verify_chain(entries, run_key=run.run_key, run_id=run_id)
        reader = self.payloads.viewer(run_id)
        taken = untaken(event for entry in entries for event in decode_verified(entry, run_id, reader))
        keeper = self.payloads.keeper(run_id)
        unread = [keeper.decode_message(each.event) for each in await self.store.mail(run.run_key, run.inbox_done)]
        left = [*taken, *(event for event in unread if isinstance(event, SignalReceived))]
        return [UndeliveredSignal(each.name, msgspec.json.decode(each.value), each.id) for each in left]

    async def ask(self, run_id: str, name: str, value: bytes, key: str = "", timeout: float | None = None) -> bytes:
        """Send a request and wait for its answer, both as JSON: see ``Handle.ask``."""
        event = RequestReceived(name, Raw(value), key or new_run_id())
        dedupe = request_dedupe(name, event.id)
        run = await self.post(run_id, event, dedupe)
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while True:
            left = self._poll_seconds_max
            if deadline is not None:
                left = min(left, deadline - asyncio.get_running_loop().time())
            # Begun before we look: where looking takes a while, what changes meanwhile is not missed.
            changed = asyncio.ensure_future(self._wait_for_reply(run_id, max(left, 0)))
            try:
                run = await self.get(run_id)
                reply = await self._reply_to(run, dedupe)
                if reply is not None:
                    return result_of_request(run_id, reply)
                self._refuse_to_wait(run, event, left)
                await changed
            finally:
                changed.cancel()

    async def _reply_to(self, run: RunRecord, dedupe: str) -> Event | None:
        [*messages] = await self.store.mail(run.run_key, 0, dedupe)
        reply = messages[0].reply if messages else None
        return None if reply is None else self.payloads.keeper(run.run_id).decode_message(reply)

    def _refuse_to_wait(self, run: RunRecord, event: RequestReceived, left: float) -> None:
        about = f"request {event.name} {event.id} of run {run.run_id}"
        if run.status.is_at_rest:
            raise RunEnded(f"{about} has no answer, and gets none: the run is {run.status}.", run_id=run.run_id)
        if run.status is Status.PAUSED:
            raise RunPaused(
                f"{about} has no answer yet: the run is paused and will not go on by itself. The request stays; once the run "
                f"goes on, ask again with key={event.id!r}. To see why: everstep show {run.run_id}",
                run_id=run.run_id,
            )
        if left <= 0:
            raise RequestTimeout(
                f"{about} has no answer in time; the run is {run.status}. The request stays: ask again with key={event.id!r}.",
                run_id=run.run_id,
                request=event.name,
                key=event.id,
            )

    async def wait_until_rest(self, run_id: str, timeout: float | None) -> Ending:
        """Wait until a run has an outcome, or cannot get one by itself."""
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while True:
            run = await self.get(run_id)
            if run.status.is_at_rest:
                return run
            if run.status is Status.PAUSED:
                return await self._pause_of(run)
            left = self._poll_seconds_max
            if deadline is not None:
                left = min(left, deadline - asyncio.get_running_loop().time())
            if left <= 0:
                raise RunTimeout(
                    f"run {run_id} has no result after {timeout:g} s; it is {run.status} at {run.step or 'its beginning'}. "
                    "It goes on; ask again, or cancel it.",
                    run_id=run_id,
                )
            await self._wait_for_change(run_id, left)

    async def _pause_of(self, run: RunRecord) -> Ending:
        """A paused run with the entry that paused it."""
        entries = await self.store.load(run.run_key, run.version)
        return _Paused(run.run_id, run.status, run.step, entries[-1].events if entries else None)

    async def _wait_for_change(self, run_id: str, timeout: float) -> None:
        """Wait until the run may have changed. Engines override this: they know more."""
        await self.store.wait_for_work(None, timeout)

    async def _wait_for_reply(self, run_id: str, timeout: float) -> None:
        """Wait until a request to the run may have its reply. Engines override this: they know more."""
        await self.store.wait_for_work(None, timeout)

    def posted(self, run: RunRecord) -> None:
        """Somebody here wrote to a run. Engines override this."""

    def _describe(
        self,
        call: Call[Any],
        run_id: str | None,
        tags: Mapping[str, str] | None,
        timeout: float | None,
        on_conflict: OnConflict,
    ) -> RunCreated:
        if on_conflict not in get_args(OnConflict):
            raise UsageError(f"on_conflict={on_conflict!r} is not known. Nothing was started. Give 'join' or 'raise'.")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise UsageError(
                f"timeout={timeout!r}: give a positive number of seconds, or None for no limit. Nothing was started."
            )
        checked = new_run_id() if run_id is None else check_run_id(run_id)
        return describe_start(call, checked, os.urandom(16), self.store.now(), tags or {}, timeout)

    async def _create(
        self,
        new: NewRun,
        created: RunCreated,
        on_conflict: OnConflict,
        send: SignalMessage | Sequence[SignalMessage] = (),
        tx: Any = None,
    ) -> None:
        """Queue a run, or see whether the one that has its id may be joined."""
        if tx is None:
            [answer] = await self.store.create([new])
        else:
            refuse_in_transaction()
            [answer] = await joining(self.store, tx).create_in(tx, [new])
        if not isinstance(answer, Created):
            await self._join(answer.run, created, on_conflict, send, tx)

    async def _join(
        self,
        existing: RunRecord,
        created: RunCreated,
        on_conflict: OnConflict,
        send: SignalMessage | Sequence[SignalMessage],
        tx: Any = None,
    ) -> None:
        check_joinable(existing, created, on_conflict, self.payloads)
        for signal in signals_of(send):
            await self.send(existing.run_id, signal, tx=tx)

    def _due(self, delay: float) -> Micros | None:
        if not 0 <= delay < float("inf"):
            raise UsageError(f"delay={delay!r}: give a finite number of seconds, at least 0.")
        return self.store.now() + round(delay * 1e6) if delay else None

    # Last in the class: below it, ``list`` would mean this method.

    async def list(
        self,
        *,
        status: Sequence[Status | str] = (),
        workflow: str = "",
        id_prefix: str = "",
        created_from: Micros | None = None,
        before: RunKey | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """Runs, newest first.

        Args:
            status: Any of these; empty for all.
            workflow: Exactly this name; empty for all.
            id_prefix: Ids that begin so.
            created_from: Not older than this.
            before: Only runs older than the one with this key: for the next page.
            limit: 1 to 1,000.
        """
        if not 1 <= limit <= 1000:
            raise UsageError(f"limit={limit}: ask for 1 to 1,000 runs at a time, and page with before=.")
        await self.open()
        statuses = tuple(Status(one) for one in status)
        return await self.store.list(
            RunFilter(
                statuses=statuses,
                workflow=workflow,
                id_prefix=id_prefix,
                created_from=created_from,
                before=before,
                limit=limit,
            )
        )


def refuse_in_transaction() -> None:
    """Return unless the body of a transactional step asks.

    Raises:
        UsageError: It does.
    """
    name = transaction_scope.get()
    if name:
        raise UsageError(
            f"the body of transaction {name} asked everstep for something. It was not done: the store waits for that body, so "
            "each would wait for the other, and it would not be undone with it. Do it in the workflow, before or after it."
        )


def new_run(
    created: RunCreated,
    workflow: Workflow[..., Any],
    payloads: Payloads = PLAIN,
    *,
    wake_at: Micros | None = None,
    send: SignalMessage | Sequence[SignalMessage] = (),
) -> NewRun:
    """What the store is asked to create. Raises Unencodable for a Secret, if there is no encryption."""
    keeper = payloads.keeper(created.run_id)
    mail = [Message(event=keeper.encode_message(event_of(each)), dedupe=dedupe_of(each)) for each in signals_of(send)]
    return NewRun(
        run_id=created.run_id,
        workflow=created.workflow,
        code_version=created.code_version,
        created=keeper.encode([created], 1),
        wake_at=wake_at,
        max_recoveries=workflow.max_recoveries,
        pinned=workflow.version or "",
        messages=tuple(mail),
    )


def signals_of(send: SignalMessage | Sequence[SignalMessage]) -> Sequence[SignalMessage]:
    """What a start is to send."""
    signals = (send,) if isinstance(send, SignalMessage) else send
    for each in signals:
        if not isinstance(each, SignalMessage):  # pyright: ignore[reportUnnecessaryIsInstance]  # not everybody has a checker
            raise UsageError(f"send={each!r} is no signal with a value. Nothing was started. Write: send=approval.message(…)")
    return signals


def event_of(signal: SignalMessage) -> SignalReceived:
    """What the signal becomes."""
    return SignalReceived(signal.name, Raw(signal.value), signal.key)


def dedupe_of(signal: SignalMessage) -> str:
    """What names it in its run's inbox; nothing without a key."""
    return f"signal:{signal.name}:{signal.key}" if signal.key else ""


async def _each(run_ids: Sequence[str]) -> AsyncIterator[str]:
    for run_id in run_ids:
        yield run_id


@contextmanager
def closing_if_refused(call: Call[Any]) -> Generator[None, None, None]:
    """A call that is refused with an error needs no warning that it was never started."""
    try:
        yield
    except BaseException:
        call.close()
        raise


def check_joinable(existing: RunRecord, requested: RunCreated, on_conflict: OnConflict, payloads: Payloads = PLAIN) -> None:
    """Return if a start may join an existing run, else raise RunConflict."""
    refuse_conflict(first_event(existing.created, payloads.keeper(existing.run_id)), requested)
    if on_conflict == "raise":
        raise RunConflict(
            f"run {existing.run_id} exists already ({existing.status}), started with the same arguments. Nothing was started. "
            "Leave out on_conflict='raise' to join it.",
            run_id=existing.run_id,
        )


def result_of_request(run_id: str, reply: Event) -> bytes:
    """The answer, as JSON, or the error that says why there is none."""
    match reply:
        case RequestAnswered(result=result):
            return bytes(result)
        case RequestRefusedEvent(name=name, id=key, reason=reason):
            raise RequestRefused(
                f"run {run_id} refused request {name} {key}: {reason.rstrip('. ')}. Nothing was done.",
                run_id=run_id,
                request=name,
                key=key,
                reason=reason,
            )
        case RequestFailedEvent(name=name, id=key, error=record):
            raise RequestFailed(
                f"request {name} {key} failed in run {run_id}: {record.type}: {record.message.rstrip('. ')}. The run goes on. "
                f"What it did for the request is in its history: everstep show {run_id}",
                run_id=run_id,
                request=name,
                key=key,
            ) from rebuild_error(record, {})
        case _:
            raise AssertionError(f"the reply to a request of run {run_id} is a {type(reply).__name__}")


def _workflow_of(call: Call[Any]) -> Workflow[..., Any]:
    assert isinstance(call.definition, Workflow), "describe_start refuses calls of steps"
    return call.definition


def _result_of(run: Ending, workflow: Workflow[..., Any] | None, payloads: Payloads = PLAIN) -> Any:
    """The result of a run that cannot go further by itself, or the error that says why there is none."""
    last = _last_event(run, payloads)
    match last:
        case RunSucceeded(result=result):
            return workflow.result.decode(result) if workflow else msgspec.json.decode(masked(bytes(result)))
        case RunFailedEvent(error=record):
            raise _failure(run, record) from rebuild_error(record, declared_errors(workflow) if workflow else {})
        case RunCancelledEvent(reason=reason):
            because = f": {reason}" if reason else ""
            raise RunCancelled(f"run {run.run_id} was cancelled{because}. It has no result.", run_id=run.run_id)
        case RunDiscarded(reason=reason):
            because = f": {reason}" if reason else ""
            raise RunCancelled(f"run {run.run_id} was given up by a person{because}. It has no result.", run_id=run.run_id)
        case RunDied(reason=reason, error=record):
            cause = None if record is None else rebuild_error(record, declared_errors(workflow) if workflow else {})
            raise RunDead(f"run {run.run_id} was given up: {reason}", run_id=run.run_id) from cause
        case RunPausedEvent(reason=reason):
            raise RunPaused(
                f"run {run.run_id} is paused: {reason}\nWhat it did so far is kept: everstep show {run.run_id}",
                run_id=run.run_id,
            )
        case _:
            raise RunPaused(
                f"run {run.run_id} is paused and will not go on by itself; its last entry cannot be read. What it did is "
                f"kept. See its history: everstep show {run.run_id}",
                run_id=run.run_id,
            )


def _last_event(run: Ending, payloads: Payloads) -> Event | None:
    try:
        return payloads.keeper(run.run_id).decode_ending(run.outcome) if run.outcome else None
    except (msgspec.MsgspecError, IndexError):
        return None


def _failure(run: Ending, record: ErrorRecord) -> RunFailed | RunTimeout:
    kind = RunTimeout if record.type == "everstep.errors.RunTimeout" else RunFailed
    at = f" at {run.step}" if run.step else ""
    return kind(
        f"run {run.run_id} failed{at}: {record.type}: {record.message.rstrip('. ')}. What it finished is kept in its history: "
        f"everstep show {run.run_id}",
        run_id=run.run_id,
    )
