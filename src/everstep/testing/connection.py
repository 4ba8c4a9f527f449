"""
One engine's connection to a store that it shares with others: every verb goes through one place, where a test can interfere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from everstep.journal import Entry
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
    WorkerKey,
    WorkerProfile,
    WorkerRecord,
)
from everstep.stores.base import (
    ANY_BODY,
    ClaimRequest,
    Claims,
    Created,
    Exists,
    NewRun,
    Outcome,
    RolledBack,
    RunFilter,
    Settlement,
    Slot,
    Store,
    TransactionBody,
    Woken,
    Write,
    transacting,
)
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest

T = TypeVar("T")


class Transact(Protocol):
    """The verb ``transact`` of a store that has it."""

    def __call__(
        self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY
    ) -> Coroutine[Any, Any, Outcome | RolledBack]: ...


class Connection:
    """See the module. It does nothing of its own; subclasses override ``ask``.

    Attributes:
        inner: The store.
        is_dead: The process at this end is no more: nothing it asks has an effect, and nobody hears an answer.
        worker_keys: What was enlisted through it.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.commits_inline = inner.commits_inline
        self.is_dead = False
        self.worker_keys: list[WorkerKey] = []

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        """Every verb but ``now`` and ``close``: ``act`` is what asks the store."""
        if self.is_dead:
            await asyncio.Event().wait()
        return await act()

    def now(self) -> Micros:
        """See Store."""
        return self.inner.now()

    async def open(self) -> None:
        """See Store."""
        await self.ask("open", (), self.inner.open)

    async def close(self) -> None:
        """Retires what was enlisted here. The store itself stays open for the others."""
        if not self.is_dead:
            for worker_key in self.worker_keys:
                await self.inner.retire(worker_key)

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        """See Store."""
        worker_key = await self.ask("enlist", (name,), lambda: self.inner.enlist(name, lease_seconds, profile))
        self.worker_keys.append(worker_key)
        return worker_key

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        """See Store."""
        return await self.ask("heartbeat", (worker_key,), lambda: self.inner.heartbeat(worker_key))

    async def drain(self, worker_key: WorkerKey) -> bool:
        """See Store."""
        return await self.ask("drain", (worker_key,), lambda: self.inner.drain(worker_key))

    async def retire(self, worker_key: WorkerKey) -> None:
        """See Store."""
        await self.ask("retire", (worker_key,), lambda: self.inner.retire(worker_key))

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        """See Store."""
        return await self.ask("create", (runs,), lambda: self.inner.create(runs))

    async def claim(self, request: ClaimRequest) -> Claims:
        """See Store."""
        return await self.ask("claim", (request,), lambda: self.inner.claim(request))

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """See Store."""
        return await self.ask("commit", (batch,), lambda: self.inner.commit(batch))

    @property
    def transact(self) -> Transact | None:
        """See TransactingStore; None if the store has no such verb."""
        return None if transacting(self.inner) is None else self._transact

    async def _transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        inner = transacting(self.inner)
        assert inner is not None
        return await self.ask("transact", (slot,), lambda: inner.transact(slot, body, kind))

    def gave_way(self, error: BaseException) -> bool:
        """See TransactingStore."""
        inner = transacting(self.inner)
        return inner is not None and inner.gave_way(error)

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """See Store."""
        return await self.ask("post", (run_id, message), lambda: self.inner.post(run_id, message))

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        """See Store."""
        return await self.ask("wake", (run_id, message, request), lambda: self.inner.wake(run_id, message, request))

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        """See Store."""
        return await self.ask("settle", (settlement,), lambda: self.inner.settle(settlement))

    async def pull(self, worker_key: WorkerKey) -> list[tuple[RunKey, list[Message]]]:
        """See Store."""
        return await self.ask("pull", (worker_key,), lambda: self.inner.pull(worker_key))

    async def mail(self, run_key: RunKey, after: int = 0, dedupe: str = "") -> list[Message]:
        """See Store."""
        return await self.ask("mail", (run_key, after, dedupe), lambda: self.inner.mail(run_key, after, dedupe))

    async def get(self, run_id: str) -> RunRecord | None:
        """See Store."""
        return await self.ask("get", (run_id,), lambda: self.inner.get(run_id))

    async def load(self, run_key: RunKey, up_to: int | None = None) -> list[Entry]:
        """See Store."""
        return await self.ask("load", (run_key,), lambda: self.inner.load(run_key, up_to))

    async def workers(self) -> list[WorkerRecord]:
        """See Store."""
        return await self.ask("workers", (), self.inner.workers)

    async def attempts(self, run_key: RunKey) -> list[AttemptRecord]:
        """See Store."""
        return await self.ask("attempts", (run_key,), lambda: self.inner.attempts(run_key))

    async def configure(self, change: QueueChange) -> QueueRecord:
        """See Store."""
        return await self.ask("configure", (change,), lambda: self.inner.configure(change))

    async def queues(self) -> list[QueueRecord]:
        """See Store."""
        return await self.ask("queues", (), self.inner.queues)

    async def prune(self, request: PruneRequest) -> Pruned:
        """See Store."""
        return await self.ask("prune", (request,), lambda: self.inner.prune(request))

    async def trim(self, request: TrimRequest) -> int | Kept:
        """See Store."""
        return await self.ask("trim", (request,), lambda: self.inner.trim(request))

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        """See Store."""
        return await self.ask("wait_for_work", (worker_key,), lambda: self.inner.wait_for_work(worker_key, timeout))

    # Last: below it, ``list`` means this method.

    async def list(self, query: RunFilter) -> list[RunRecord]:
        """See Store."""
        return await self.ask("list", (query,), lambda: self.inner.list(query))
