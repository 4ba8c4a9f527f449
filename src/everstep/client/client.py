"""Start runs, find them and look after them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, get_args, overload

from msgspec.structs import replace

from everstep.client.connection import Connection
from everstep.client.handle import Handle
from everstep.client.starting import OnConflict, check_joinable, closing_if_refused, due_at, new_run, signals_of, workflow_of
from everstep.client.views import DeadLetter, dead_letter
from everstep.core.starting import describe_start
from everstep.core.trimming import trims
from everstep.definitions import Call, Workflow, require_call
from everstep.errors import IllegalState, UsageError
from everstep.events import RunCreated
from everstep.ids import check_name, check_run_id, new_run_id
from everstep.journal import verify_chain
from everstep.limits import Limits, QueueChange, QueueRecord, check_limits
from everstep.queues import Queue, place_in
from everstep.records import Micros, RunKey, RunRecord, Status, WorkerRecord
from everstep.repair import check_by
from everstep.stores.base import Created, NewRun, RunFilter
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest, joined
from everstep.talk import SignalMessage

R = TypeVar("R")

DEAD_PER_PAGE = 200
RUNS_PER_PAGE = 500
TRIMMED_PER_STEP = 5_000
"""Entries that go in one transaction: others write between two of them."""


_ON_CONFLICT: Final = get_args(OnConflict)


class Client(Connection):
    """A connection to a store, for programs that start and watch runs. Opens itself at first use.

    Args:
        store: A URL (``sqlite:///orders.db``) or an open store.
        payloads: How payloads are stored; the same for every client and engine of a store. None for nothing special.

    Raises:
        InvalidStoreURL: The URL names no store.
    """

    async def start(
        self,
        call: Call[R],
        *,
        id: str | None = None,  # noqa: A002  # the API's word
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        queue: Queue | None = None,
        key: str | None = None,
        priority: int | None = None,
        delay: float = 0.0,
        at: datetime | None = None,
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
            queue: Where it waits until there is room for it: see ``es.queue``. None to begin as soon as a worker is free.
            key: Its key in the queue: what ``per_key`` and ``dedupe`` go by.
            priority: Lower ones go first; for a queue that has ``priority=True``.
            delay: Seconds before it may begin.
            at: An aware datetime before which it does not begin, instead of a delay. In the past: at once.
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
            workflow = workflow_of(call)
            place, wake_at = place_in(queue, key, priority), due_at(self.store.now(), delay, at)
            new = new_run(created, workflow, self.payloads, wake_at=wake_at, send=send, place=place)
        if queue is not None and tx is None:
            await self._declare([queue])
        run_id = await self._create(new, created, on_conflict, send, tx)
        return Handle(self, run_id, workflow)

    @overload
    def handle(self, run_id: str) -> Handle[Any]: ...
    @overload
    def handle(self, run_id: str, workflow: Workflow[..., R]) -> Handle[R]: ...
    def handle(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Handle[Any]:
        """A handle of a run by its id. Without the workflow, its result comes as plain JSON values."""
        return Handle(self, run_id, workflow)

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

    async def prune_segments(self, older_than: timedelta, *, dry_run: bool = False) -> Pruned:
        """Forget what runs did before they last continued as new, live ones too. It cannot be undone.

        Of each run the first entry stays, and everything from some beginning of a segment on; what its states were by then is
        told there. So it goes on, can be retried, and is looked at as before, but for versions that are gone. A run whose
        journal a fork reads stays whole. It takes no key. Safe to repeat, and while the runs are driven.

        Args:
            older_than: Only segments that ended longer ago than this.
            dry_run: Change nothing, and say what would go.

        Returns:
            How many runs lost how many entries.

        Raises:
            UsageError: ``older_than`` is negative.
            CorruptJournal: A journal was altered. It was not touched; runs that are newer may have been pruned.
            StoreUnavailable: Unknown how much is gone; repeat it.
        """
        if older_than < timedelta(0):
            raise UsageError(f"cannot prune segments of {older_than}. Nothing was pruned. Name an age of 0 or more.")
        await self.open()
        closed_before = self.store.now() - older_than // timedelta(microseconds=1)
        answer, before = Pruned(), None
        while page := await self.list(before=before, limit=RUNS_PER_PAGE):
            for run in page:
                if run.base > 1 and run.created_at < closed_before:
                    answer = joined(answer, await self._trim(run, closed_before, dry_run=dry_run))
            before = page[-1].run_key
        return answer

    async def _trim(self, run: RunRecord, closed_before: Micros, *, dry_run: bool) -> Pruned:
        entries = await self.store.load(run.run_key)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        steps = trims(entries, run.run_id, run.base, closed_before, TRIMMED_PER_STEP)
        gone = 0
        for version in steps[-1:] if dry_run else steps:
            answer = await self.store.trim(TrimRequest(run_key=run.run_key, before=version, dry_run=dry_run))
            if isinstance(answer, Kept):
                return Pruned(kept={answer: 1})
            gone += answer
            await asyncio.sleep(0)  # A store may answer without ever waiting.
        return Pruned(run_count=int(gone > 0), entry_count=gone)

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

    def _describe(
        self,
        call: Call[Any],
        run_id: str | None,
        tags: Mapping[str, str] | None,
        timeout: float | None,
        on_conflict: OnConflict,
    ) -> RunCreated:
        if on_conflict not in _ON_CONFLICT:
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
    ) -> str:
        """Create a run, or see whether the one that is there already may be joined. Returns the id of the run there is."""
        if tx is None:
            [answer] = await self.store.create([new])
        else:
            [answer] = await (await self.joined(tx)).create_in(tx, [new])
        if not isinstance(answer, Created):
            # With a dedupe key that may be a run of another id.
            await self._join(answer.run, replace(created, run_id=answer.run.run_id), on_conflict, send, tx)
        return answer.run.run_id

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

    # --- queues -----------------------------------------------------------------------------------------------------------

    async def queues(self) -> list[QueueRecord]:
        """Every queue that code has declared, somebody has changed, or that ever had a run; by name, and how it stands."""
        await self.open()
        return await self.store.queues()

    async def set_queue(self, queue: Queue | str, limits: Limits, reason: str = "", *, actor: str = "") -> QueueRecord:
        """Change what a queue allows, while everything runs. It counts until code declares something else. Safe to repeat.

        A limit that is lowered takes nothing back: what is in progress goes on, and nothing is admitted until there is room.

        Args:
            queue: Which.
            limits: All of them: what is None there has no limit any more.
            reason: Recorded with it.
            actor: Who does it; recorded with it.

        Raises:
            UsageError: A name or a number is not allowed. Nothing was changed.
        """
        name = _name_of(queue)
        return await self._configure(
            QueueChange(name=name, changed=check_limits(name, limits), actor=actor, why=reason), reason, actor
        )

    async def pause_queue(self, queue: Queue | str, reason: str = "", *, actor: str = "") -> QueueRecord:
        """Let a queue admit nothing more. Its runs in progress go on. Safe to repeat."""
        change = QueueChange(name=_name_of(queue), paused=True, actor=actor, why=reason)
        return await self._configure(change, reason, actor)

    async def resume_queue(self, queue: Queue | str, reason: str = "", *, actor: str = "") -> QueueRecord:
        """Let a queue admit runs again. Safe to repeat."""
        change = QueueChange(name=_name_of(queue), paused=False, actor=actor, why=reason)
        return await self._configure(change, reason, actor)

    async def _configure(self, change: QueueChange, reason: str, actor: str) -> QueueRecord:
        check_by(reason, actor)
        await self.open()
        return await self.store.configure(change)

    async def _declare(self, queues: Iterable[Queue]) -> None:
        """Tell the store what code says of these queues, once."""
        for each in queues:
            if self._declared.get(each.name) != each.limits:
                await self.store.configure(QueueChange(name=each.name, declared=each.limits))
                self._declared[each.name] = each.limits

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
        queue: str = "",
        key: str = "",
    ) -> list[RunRecord]:
        """Runs, newest first.

        Args:
            status: Any of these; empty for all.
            workflow: Exactly this name; empty for all.
            id_prefix: Ids that begin so.
            created_from: Not older than this.
            before: Only runs older than the one with this key: for the next page.
            limit: 1 to 1,000.
            queue: Exactly this queue; empty for all.
            key: Exactly this key in its queue; empty for all.
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
                queue=queue,
                queue_key=key,
            )
        )


def _name_of(queue: Queue | str) -> str:
    return check_name(queue, "queue") if isinstance(queue, str) else queue.name


async def _each(run_ids: Sequence[str]) -> AsyncIterator[str]:
    for run_id in run_ids:
        yield run_id
