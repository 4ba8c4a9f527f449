"""
Group commit: what the activations of one turn of the event loop produced is written together.

Writes share a transaction, not a fate: each gets its own outcome. Nothing waits for a timer; a lone run's entry is committed in
the next turn, a thousand runs' entries share a few commits. When the store is away, the same writes are repeated until it is back
(the store tells whether they had landed); nobody re-reads a version and tries again with other content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from everstep.engine.eager import begin
from everstep.errors import StoreUnavailable
from everstep.records import RunKey
from everstep.stores.base import Append, Outcome, Store, Write

logger = logging.getLogger("everstep")

GROUP_MAX = 128
"""Writes per transaction, and so runs that go on in one turn: a sync shared by so many costs each a microsecond, and more of them
would only hold up the host's loop (128 runs take some 8 ms, 512 took 30)."""
BACKOFF_SECONDS = 0.05
BACKOFF_SECONDS_MAX = 5.0

Done = Callable[[Outcome], None]


class Committer:
    """See the module. One per worker."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._pending: list[tuple[Write, Done]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_flushing = False
        self._is_away = False

    def submit(self, write: Write, done: Done, *, at_once: bool = False) -> None:
        """Write this with the rest of the turn; ``done`` is called with its outcome. An owner submits one entry at a time.

        Args:
            write: What to write.
            done: Called once, possibly before this returns.
            at_once: Nothing else of this turn can be expected to join, so do not wait for its end.
        """
        self._pending.append((write, done))
        if not self._is_flushing and at_once:
            self._begin_flush()
        elif not self._is_flushing and len(self._pending) == 1:
            asyncio.get_running_loop().call_soon(self._begin_flush)

    async def settle(self) -> None:
        """Wait until nothing is left to write."""
        while self._pending or self._is_flushing:
            await (asyncio.sleep(0) if self._task is None else asyncio.wait([self._task]))

    def close(self) -> None:
        """Stop trying. Whoever submitted what is left hears no more of it."""
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()

    def _begin_flush(self) -> None:
        if self._pending and not self._is_flushing:
            self._is_flushing = True
            if self._store.commits_inline:
                self._task = begin(self._flush())
            else:
                self._task = asyncio.get_running_loop().create_task(self._flush(), name="everstep committer")

    async def _flush(self) -> None:
        try:
            while self._pending:
                batch, self._pending = take_group(self._pending)
                outcomes = await self._commit([write for write, _ in batch])
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    done(outcome)
                if self._pending:
                    await asyncio.sleep(0)
        finally:
            self._is_flushing = False
            self._task = None

    async def _commit(self, writes: list[Write]) -> list[Outcome]:
        delay = BACKOFF_SECONDS
        while True:
            try:
                outcomes = await self._store.commit(writes)
            except Exception as error:  # noqa: BLE001  # a fault of the store must not lose what others wait for: repeat it, visibly
                self._note_away(error)
                await asyncio.sleep(delay * (0.5 + self._random.random()))
                delay = min(delay * 2, BACKOFF_SECONDS_MAX)
            else:
                if self._is_away:
                    self._is_away = False
                    logger.warning("the store %s is back; runs go on", self._store.url)
                return outcomes

    def _note_away(self, error: Exception) -> None:
        """One line per change of state, however long it lasts."""
        if not self._is_away:
            self._is_away = True
            unexpected = None if isinstance(error, StoreUnavailable) else error
            logger.warning("the store cannot be written, runs wait for it: %s", error, exc_info=unexpected)


def take_group(pending: list[tuple[Write, Done]]) -> tuple[list[tuple[Write, Done]], list[tuple[Write, Done]]]:
    """Split what is pending into the next group and the rest: at most GROUP_MAX, and one write per run. Pure."""
    group: list[tuple[Write, Done]] = []
    later: list[tuple[Write, Done]] = []
    runs: set[RunKey] = set()
    for seen, item in enumerate(pending):
        if len(group) == GROUP_MAX:
            return group, later + pending[seen:]
        # A later write of a run never overtakes an earlier one.
        run_key = run_key_of(item[0])
        (later if run_key in runs else group).append(item)
        runs.add(run_key)
    return group, later


def run_key_of(write: Write) -> RunKey:
    """The run that a write is for."""
    return write.entry.run_key if isinstance(write, Append) else write.run_key
