"""
The engine: a client that also drives runs. What programs hold on to.

Everything a client offers works the same; starts begin in this process at once if there is room, and results are known here
without asking the store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar

from everstep.client import (
    Client,
    Ending,
    Handle,
    OnConflict,
    closing_if_refused,
    new_run,
    refuse_in_transaction,
)
from everstep.definitions import Call, Registry, Workflow, queues_of, require_call, with_children
from everstep.engine.driver import Driver
from everstep.engine.facts import Ended
from everstep.engine.worker import IDLE_SECONDS_MAX, Worker
from everstep.errors import EngineClosed, PayloadTooLarge, UsageError
from everstep.ids import check_name
from everstep.payloads import Payloads
from everstep.queues import Queue, place_in
from everstep.records import Message, RunRecord
from everstep.stores.base import LEASE_SECONDS_DEFAULT, Exists, Fenced, Refused, Store
from everstep.talk import SignalMessage

R = TypeVar("R")

GRACE_SECONDS_DEFAULT = 5.0


class Engine(Client):
    """Drives the runs of some workflows, in this process.

    Args:
        store: A URL (``sqlite:///orders.db``) or a store.
        workflows: What it is able to drive; children that their code awaits by name are known without being listed. Several
            versions of one workflow may be listed, each as its own function with the same name.
        concurrency: How many runs it drives at once; more wait in the store.
        threads: How many plain-function steps run at once.
        lease: Seconds after which a worker that gives no sign is taken to be dead. (A killed one on the same machine is noticed
            at once.)
        grace: Seconds that running steps get to finish when the engine closes; no new ones are begun meanwhile.
        only: Drive the run of this id and its children, and nothing else that the store holds. Empty for all.
        queues: Drive only runs of these queues; None for all runs. (Runs that are started here without a queue begin here.)
            Queues that the code of workflows names are declared in the store either way.
        payloads: How payloads are stored; the same for every engine and client of a store. None for nothing special.

    Raises:
        InvalidStoreURL: The URL names no store.
        UsageError: Two workflows have the same name and version, or a number makes no sense.
    """

    def __init__(
        self,
        store: str | Store,
        workflows: Iterable[Workflow[..., Any]] = (),
        *,
        concurrency: int = 1000,
        threads: int = 32,
        lease: float = LEASE_SECONDS_DEFAULT,
        grace: float = GRACE_SECONDS_DEFAULT,
        only: str = "",
        queues: Iterable[Queue | str] | None = None,
        payloads: Payloads | None = None,
    ) -> None:
        super().__init__(store, payloads=payloads)
        if concurrency < 1 or threads < 1 or not 0.1 <= lease < float("inf") or not 0 <= grace < float("inf"):
            raise UsageError("concurrency and threads are at least 1, lease at least 0.1 s, grace at least 0 s and finite.")
        self.registry = Registry(workflows)
        for child in with_children(self.registry):
            if self.registry.find(child.name, child.version) is None:
                self.registry.add(child)
        self._concurrency = concurrency
        self._threads = threads
        self._lease_seconds = lease
        self._grace = grace
        self._only = only
        served = None if queues is None else list(queues)
        self._serves = None if served is None else tuple(sorted(check_name(_name_of(each), "queue") for each in served))
        self._own_queues = {each.name: each for each in (*queues_of(self.registry), *(served or ())) if isinstance(each, Queue)}
        self._worker: Worker | None = None
        self._is_closed = False
        self._random = random.Random()
        self._idle_seconds_max = IDLE_SECONDS_MAX
        self._drained: asyncio.Event | None = None
        self._life = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self) -> None:
        """Connect, enlist as a worker and begin to drive. Safe to repeat.

        Raises:
            EngineClosed: It was closed. Make a new one.
            StoreUnavailable, SchemaMismatch: The store cannot be used.
        """
        self._check_not_closed()
        refuse_in_transaction()
        if self._worker is not None:
            return
        async with self._life:
            self._check_not_closed()
            if self._is_driving():  # Somebody else opened it while this waited.
                return
            await super().open()
            await self._declare(self._own_queues.values())
            worker = Worker(
                self.store,
                self.registry,
                run_max=self._concurrency,
                thread_max=self._threads,
                lease_seconds=self._lease_seconds,
                random=self._random,
                idle_seconds_max=self._idle_seconds_max,
                family=self._only,
                queues=self._serves,
                payloads=self.payloads,
                on_drain=self.drain,
            )
            await worker.start()
            self._worker = worker

    async def close(self) -> None:
        """Stop driving: running steps get a moment to finish, then every run is handed back as it stands. Safe to repeat."""
        self._is_closed = True
        async with self._life:
            worker, self._worker = self._worker, None
            if worker is not None:
                await worker.stop(self._grace)
            await super().close()

    async def serve(self) -> None:
        """Drive runs until ``drain`` is called."""
        await self.open()
        self._drained = asyncio.Event()
        await self._drained.wait()

    def drain(self) -> None:
        """Take no more work, and let ``serve`` return. What is being driven is handed back by ``close``. Safe to repeat."""
        if self._worker is not None:
            self._worker.drain()
        if self._drained is not None:
            self._drained.set()

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
        """Start a run, or join the one that has this id: see ``Client.start``. It begins here at once if there is room.

        With ``tx`` it begins once that is committed; in a queue, once it has been admitted.
        """
        require_call(call, "engine.start")
        elsewhere = partial(
            super().start,
            call,
            id=id,
            tags=tags,
            timeout=timeout,
            queue=queue,
            key=key,
            priority=priority,
            delay=delay,
            at=at,
            on_conflict=on_conflict,
            send=send,
            tx=tx,
        )
        if tx is not None:
            return await elsewhere()
        with closing_if_refused(call):
            worker = await self._opened_worker()
            await worker.turn.wait()
            if isinstance(call.definition, Workflow):
                self.registry.add(call.definition)
            is_later = queue is not None or at is not None or bool(delay)
            place_in(queue, key, priority)
            if is_later or not worker.can_start_here or worker.driver_of(id or "") is not None:
                handle = await elsewhere()
                worker.nudge()
                return handle
            created = self._describe(call, id, tags, timeout, on_conflict)
            assert isinstance(call.definition, Workflow)
            new = new_run(created, call.definition, self.payloads, send=send)
            driver = worker.begin(created, call.definition, new)
        match await worker.outcome_of_start(driver):
            case Exists(run=run):
                await self._join(run, created, on_conflict, send)
                worker.nudge()
            case Refused(reason=reason):
                raise PayloadTooLarge(reason, size=0, limit=0)
            case Fenced():
                # This worker had been declared dead, so its entry was refused: nothing is stored yet.
                self._check_not_closed()
                await self._create(new, created, on_conflict, send)
                worker.nudge()
            case _:
                pass
        return Handle(self, created.run_id, call.definition)

    def _is_driving(self) -> bool:
        return self._worker is not None

    def _check_not_closed(self) -> None:
        if self._is_closed:
            raise EngineClosed("this engine was closed. Nothing was done, or it is unknown. Make a new Engine.")

    async def wait_until_rest(self, run_id: str, timeout: float | None) -> Ending:
        """See ``Client``; a run that is driven here is not asked about in the store."""
        worker = await self._opened_worker()
        driver = worker.driver_of(run_id)
        if driver is not None and timeout is None:
            ended = await _end_of(driver)
            if ended is not None:
                return ended
        return await super().wait_until_rest(run_id, timeout)

    async def _wait_for_change(self, run_id: str, timeout: float) -> None:
        worker = await self._opened_worker()
        driver = worker.driver_of(run_id)
        if driver is not None:
            await asyncio.wait([driver.ended], timeout=timeout)
        else:
            await worker.wait_for(run_id, timeout)

    async def _wait_for_reply(self, run_id: str, timeout: float) -> None:
        worker = await self._opened_worker()
        await worker.wait_for(run_id, timeout)

    async def put(self, run_id: str, message: Message) -> RunRecord | None:
        """See ``Client``; a run that was parked goes on here if there is room, which saves a commit."""
        return await super().put(run_id, message) if self._worker is None else await self._worker.post(run_id, message)

    def posted(self, run: RunRecord) -> None:
        if self._worker is not None:
            self._worker.nudge()

    async def _opened_worker(self) -> Worker:
        await self.open()
        assert self._worker is not None
        return self._worker


def _name_of(queue: Queue | str) -> str:
    return queue.name if isinstance(queue, Queue) else queue


async def _end_of(driver: Driver) -> Ended | None:
    return await asyncio.shield(driver.ended)  # A waiter that is cancelled must not cancel what others wait for.
