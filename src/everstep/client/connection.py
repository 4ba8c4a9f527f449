"""A store that is opened at first use, and what handles are made of: read a run, write to its inbox, wait for it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Self

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from everstep.ambient import transaction_scope
from everstep.client.outcomes import Ending, Paused, result_of_request
from everstep.client.starting import dedupe_of, event_of
from everstep.client.views import UndeliveredSignal
from everstep.client.why import HOLDERS_MAX, Facts, Hindrance, hindrances
from everstep.core.reuse import Ledger
from everstep.core.undelivered import untaken
from everstep.errors import InvalidStoreURL, RequestTimeout, RunEnded, RunNotFound, RunPaused, RunTimeout, UsageError
from everstep.events import CancelRequested, Event, RequestReceived, SignalReceived
from everstep.forks import shared_history
from everstep.ids import new_run_id, request_dedupe
from everstep.journal import Entry, decode_verified, verify_chain
from everstep.limits import Limits, QueueRecord
from everstep.payloads import PLAIN, Payloads
from everstep.records import Message, RunRecord, Status
from everstep.stores.base import JoiningStore, RunFilter, Store, joining
from everstep.stores.urls import open_store
from everstep.talk import SignalMessage

POLL_SECONDS_MAX = 1.0
"""A store tells when something changed; this bounds the wait if it could not."""


class Connection:
    """A store and how its payloads are kept. Opens itself at first use. See ``Client``, which is what programs hold."""

    def __init__(self, store: str | Store, *, payloads: Payloads | None = None) -> None:
        if not isinstance(store, str) and not hasattr(store, "commits_inline"):
            raise InvalidStoreURL(f"{store!r} is no store. Nothing was opened. Give a URL such as 'sqlite:///orders.db'.")
        self.store = open_store(store) if isinstance(store, str) else store
        self.payloads = payloads or PLAIN
        self._declared: dict[str, Limits] = {}
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

    async def why(self, run_id: str) -> tuple[Hindrance, ...]:
        """Why a run is not running: see ``Handle.why``."""
        run = await self.get(run_id)
        queue: QueueRecord | None = None
        holders: list[RunRecord] = []
        key_holders: list[RunRecord] = []
        if run.is_in_line:
            queue = next((each for each in await self.store.queues() if each.name == run.queue), None)
            in_progress = RunFilter(queue=run.queue, is_admitted=True, limit=HOLDERS_MAX)
            holders = await self.store.list(in_progress)
            if run.queue_key:
                key_holders = await self.store.list(replace(in_progress, queue_key=run.queue_key))
        workers = {each.worker_key: each for each in await self.store.workers()}
        return hindrances(
            Facts(run=run, queue=queue, holders=holders, key_holders=key_holders, workers=workers, now=self.store.now())
        )

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
            run = await (await self.joined(tx)).post_in(tx, run_id, message)
            if run is None:
                raise self._not_found(run_id)
            return run
        await self.open()
        run = await self.put(run_id, message)
        if run is None:
            raise self._not_found(run_id)  # Asked again it may be there, and the message is not.
        return run

    async def put(self, run_id: str, message: Message) -> RunRecord | None:
        """The same with a message as it is stored; None if there is no such run. Engines override this: they may drive it."""
        run = await self.store.post(run_id, message)
        if run is not None:
            self.posted(run)
        return run

    async def joined(self, tx: Any) -> JoiningStore:
        """The store as one that writes in transactions of callers, ready to do so."""
        refuse_in_transaction()
        store = joining(self.store, tx)
        if not store.joins_unopened:
            await self.open()
        return store

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
                await asyncio.sleep(0)  # A task begins in the next turn: what the request woke may be done by then.
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
        return Paused(run.run_id, run.status, run.step, entries[-1].events if entries else None)

    async def _wait_for_change(self, run_id: str, timeout: float) -> None:
        """Wait until the run may have changed. Engines override this: they know more."""
        await self.store.wait_for_work(None, timeout)

    async def _wait_for_reply(self, run_id: str, timeout: float) -> None:
        """Wait until a request to the run may have its reply. Engines override this: they know more."""
        await self.store.wait_for_work(None, timeout)

    def posted(self, run: RunRecord) -> None:
        """Somebody here wrote to a run. Engines override this."""


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
