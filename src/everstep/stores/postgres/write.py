"""
The one write of progress: which way each write of a batch goes, and what becomes of one that PostgreSQL does not take.

    all plain    one statement that inserts             ┐
    mostly       one statement with side rows           ├─ what did not land, or cannot go so ─▶ under locks, one transaction
    anything     (children, messages, refusals, Keep)   ┘

An error that one value may have caused halves the batch until the culprit is alone, and is refused; the others land.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from everstep.errors import StoreError
from everstep.records import Micros, RunKey
from everstep.stores import rules
from everstep.stores.base import Append, Behind, Landed, Outcome, Refused, TooEarly, Write
from everstep.stores.postgres import careful, fast, faults, link
from everstep.stores.postgres.clock import ServerClock
from everstep.stores.postgres.pool import LockHeld, Pool, Tx

_TELL: Final = "SELECT pg_notify($1, $2)"

T = TypeVar("T", bound=Outcome | None)


class Writer:
    """See the module.

    Args:
        pool: Whose connections to use.
        now: The store's clock.
        channel: Where news are told.
        sender: Our name there.
    """

    def __init__(self, pool: Pool, now: ServerClock, channel: str, sender: str) -> None:
        self._pool = pool
        self._now = now
        self._channel = channel
        self._sender = sender
        # Runs that somebody held when we last asked: there is no point in waiting for them again.
        self._held: set[RunKey] = set()

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        """See ``Store.commit``."""
        outcomes = await self._land(batch) if batch else []
        for write, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, TooEarly | Behind):
                self._held.discard(_run_key(write))
        return outcomes

    async def _land(self, batch: Sequence[Write]) -> list[Outcome]:
        try:
            return await self._land_all(batch)
        except (StoreError, *faults.OF_ONE_WRITE) as error:
            cause = error.__cause__ if isinstance(error, StoreError) else error
            if not faults.blames_one_write(cause):
                raise
            if len(batch) == 1:
                reason = rules.objection(batch[0]) or f"PostgreSQL does not take it: {link.said(cause or error)}"
                return [Refused(reason)]
        middle = len(batch) // 2
        return [*await self._land(batch[:middle]), *await self._land(batch[middle:])]

    async def _land_all(self, batch: Sequence[Write]) -> list[Outcome]:
        landed = await self._land_fast([write for write in batch if not self._is_held(write)] if self._held else batch)
        left = [write for write in batch if not (isinstance(write, Append) and write.entry.run_key in landed)]
        if not left:
            return [Landed()] * len(batch)
        answers = iter(await self._land_left(left))
        return [Landed() if isinstance(write, Append) and write.entry.run_key in landed else next(answers) for write in batch]

    def _is_held(self, write: Write) -> bool:
        """There is no point in asking, unless it needs nothing but its place in the journal."""
        return _run_key(write) in self._held and not (isinstance(write, Append) and fast.is_lean(write))

    async def _land_left(self, batch: Sequence[Write]) -> list[Outcome]:
        if self._held.isdisjoint(map(_run_key, batch)):
            with suppress(LockHeld):
                return await self._pool.transact(lambda tx: self._told(tx, batch, careful.land), is_patient=False)
        try:
            free = await self._pool.transact(lambda tx: self._told(tx, batch, careful.land_free), is_patient=False)
        except LockHeld:
            # Nothing that can be seen is held: an id, then, that an open transaction of somebody's is just taking.
            if len(batch) == 1:
                return [await self._not_now(batch[0])]
            middle = len(batch) // 2
            return [*await self._land_left(batch[:middle]), *await self._land_left(batch[middle:])]
        return [await self._not_now(write) if outcome is None else outcome for write, outcome in zip(batch, free, strict=True)]

    async def _not_now(self, write: Write) -> Outcome:
        """A row that it needs is held by a transaction that may take long; the others must not wait for that."""
        self._held.add(_run_key(write))
        if isinstance(write, Append):
            return TooEarly()
        if write.release:
            return Behind()  # Whoever holds it is most likely sending a message.
        (outcome,) = await self._pool.transact(lambda tx: self._told(tx, [write], careful.land))
        return outcome

    async def _land_fast(self, batch: Sequence[Write]) -> set[RunKey]:
        if not batch or not fast.is_for_all(batch):
            return set()

        async def land(tx: Tx) -> set[RunKey]:
            if all(map(fast.is_lean, batch)):
                return await fast.lean(tx, batch, self._now.given)
            return await fast.full(tx, batch, self._now.given, self._channel, self._sender)

        try:
            return await self._pool.ask(land, is_patient=False)
        except LockHeld:
            return set()

    async def _told(
        self,
        tx: Tx,
        batch: Sequence[Write],
        land: Callable[[Tx, Sequence[Write], Micros | None], Awaitable[list[T]]],
    ) -> list[T]:
        outcomes = await land(tx, batch, self._now.given)
        if any(rules.is_news(write) and isinstance(outcome, Landed) for write, outcome in zip(batch, outcomes, strict=True)):
            await tx.fetch(_TELL, self._channel, self._sender)
        return outcomes


def _run_key(write: Write) -> RunKey:
    return write.entry.run_key if isinstance(write, Append) else write.run_key
