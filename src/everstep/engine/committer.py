"""
Group commit: what the activations of one turn of the event loop produced is written together.

Where a commit takes its time, more writes share one, and what an earlier one led to is done meanwhile: the disk and the loop
are then busy together rather than in turns.

Writes share a transaction, not a fate: each gets its own outcome. Nothing waits for a timer; a lone run's entry is committed in
the next turn, a thousand runs' entries share a few commits. When the store is away, the same writes are repeated until it is
back (the store tells whether they had landed); nobody re-reads a version and tries again with other content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from time import monotonic

from everstep.engine.eager import begin
from everstep.errors import StoreError, StoreUnavailable
from everstep.records import RunKey
from everstep.stores.base import Append, Outcome, Refused, Store, Write

logger = logging.getLogger("everstep")

GROUP_MAX = 128
"""Writes per transaction, and outcomes that are told in one turn, so runs that go on in it. A sync shared by so many costs each
a microsecond, so more would gain nothing; at some 50 µs of work per run, 128 hold up the host's loop for 6 ms (reckoned)."""
GROUP_MAX_SLOW = 256
"""Of a slow commit. With an fsync of 10 ms, 128 writes cost each 80 µs of it, as much as all else that a step costs."""
SLOW_SECONDS = 0.004
"""A commit that takes longer leaves the loop time to go on."""
BACKOFF_SECONDS = 0.05
BACKOFF_SECONDS_MAX = 5.0
FAULTS_MAX = 5
"""How often a write is repeated that the store fails to take, for a reason that it has no name for."""

Done = Callable[[Outcome], None]


class Committer:
    """See the module. One per worker."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._pending: list[tuple[Write, Done]] = []
        self._batch: list[tuple[Write, Done]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_flushing = False
        self._is_slow = False
        self._untold: list[tuple[Done, Outcome]] = []
        self._away: set[str] = set()

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
        """Wait until nothing is left to write or to tell."""
        while self._pending or self._is_flushing or self._untold:
            await (asyncio.sleep(0) if self._task is None else asyncio.wait([self._task]))

    async def passed(self, run_key: RunKey) -> None:
        """Wait until what was submitted for a run is written: what is written past this committer must not overtake it."""
        while any(run_key_of(write) == run_key for write, _ in (*self._batch, *self._pending)):
            await (asyncio.sleep(0) if self._task is None else asyncio.wait([self._task]))

    def close(self) -> None:
        """Stop trying. Whoever submitted what is left hears no more of it."""
        self._pending.clear()
        self._untold.clear()
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
                batch, self._pending = (self._pending, []) if len(self._pending) == 1 else self._take_group()
                self._batch = batch
                outcomes = await self._commit([write for write, _ in batch])
                self._batch = []
                if self._untold or (self._is_slow and self._pending):
                    self._tell_meanwhile([(done, outcome) for (_, done), outcome in zip(batch, outcomes, strict=True)])
                else:
                    for (_, done), outcome in zip(batch, outcomes, strict=True):
                        done(outcome)
                if self._pending:
                    await asyncio.sleep(0)
        finally:
            self._batch = []
            self._is_flushing = False
            self._task = None

    def _take_group(self) -> tuple[list[tuple[Write, Done]], list[tuple[Write, Done]]]:
        return take_group(self._pending, GROUP_MAX_SLOW if self._is_slow else GROUP_MAX)

    def _tell_meanwhile(self, told: list[tuple[Done, Outcome]]) -> None:
        """Tell these while the next group is being written, some in each turn."""
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._tell_some)
        self._untold += told

    def _tell_some(self) -> None:
        some, self._untold = self._untold[:GROUP_MAX], self._untold[GROUP_MAX:]
        if self._untold:
            asyncio.get_running_loop().call_soon(self._tell_some)
        for done, outcome in some:
            done(outcome)

    async def _commit(self, writes: list[Write]) -> list[Outcome]:
        delay, fault_count = BACKOFF_SECONDS, 0
        while True:
            started_at = monotonic()
            try:
                outcomes = await self._store.commit(writes)
            except StoreUnavailable as error:
                self.note_away("commit", error)
            except Exception as error:
                # No fault that is known. One write may be the cause, and must not hold up the others: they go without it.
                if len(writes) > 1:
                    middle = len(writes) // 2
                    return [*await self._commit(writes[:middle]), *await self._commit(writes[middle:])]
                fault_count += 1
                if fault_count == FAULTS_MAX:
                    logger.exception("run %s: the store failed %d times to write an entry", run_key_of(writes[0]), fault_count)
                    return [Refused(f"the store failed to write it: {type(error).__name__}: {error}")]
            else:
                if self._away:
                    self.note_back("commit")
                self._is_slow = monotonic() - started_at > SLOW_SECONDS
                return outcomes
            await asyncio.sleep(delay * (0.5 + self._random.random()))
            delay = min(delay * 2, BACKOFF_SECONDS_MAX)

    def note_away(self, verb: str, error: StoreError) -> None:
        """The store did not answer to this verb. One line per change of state, however long it lasts."""
        if not self._away:
            logger.warning("the store cannot be used, runs wait for it: %s", error)
        self._away.add(verb)

    def note_back(self, verb: str) -> None:
        """It did."""
        if self._away:
            self._away.discard(verb)
            if not self._away:
                logger.warning("the store %s is back; runs go on", self._store.url)


def take_group(
    pending: list[tuple[Write, Done]], count_max: int = GROUP_MAX
) -> tuple[list[tuple[Write, Done]], list[tuple[Write, Done]]]:
    """Split what is pending into the next group and the rest: at most so many, and one write per run. Pure."""
    group: list[tuple[Write, Done]] = []
    later: list[tuple[Write, Done]] = []
    runs: set[RunKey] = set()
    for seen, item in enumerate(pending):
        if len(group) == count_max:
            return group, later + pending[seen:]
        # A later write of a run never overtakes an earlier one.
        run_key = run_key_of(item[0])
        (later if run_key in runs else group).append(item)
        runs.add(run_key)
    return group, later


def run_key_of(write: Write) -> RunKey:
    """The run that a write is for."""
    return write.entry.run_key if isinstance(write, Append) else write.run_key
