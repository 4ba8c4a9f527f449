"""
One transaction at a time on the connection that writes.

Normally a transaction runs inline, in the caller's thread, and ``await`` does not even suspend: a commit takes 0.1 ms, a trip
to a thread costs half of that, and a thread starves beside a busy loop. Two things must not hold up the loop for long:

- *The lock belongs to another process.* SQLite waits a few milliseconds; then the transaction is tried again later.
- *The disk is slow.* When commits take more than a millisecond, COMMIT (and only that: one call, which lets go of the GIL for
  the whole of its sync) runs in a thread of its own until they are fast again. Everything before it touches memory only.

Whoever awaits may be cancelled meanwhile. The transaction goes on regardless and is finished before the next one begins; its
outcome is then unknown to the caller, who may repeat the same write (P4).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import apsw

from everstep.stores.sqlite.ask import asking, asking_once
from everstep.stores.sqlite.faults import is_locked, translated

SLOW_COMMIT_SECONDS = 0.001
FAST_COMMIT_SECONDS = 0.0005
"""Below half of what is slow we return to committing inline, so that we do not change sides at every commit."""
_WEIGHT = 0.1
"""Of the newest commit in the average. One that checkpoints (some ms, one in hundreds) does not make a disk slow."""
_BACKOFF_SECONDS = 0.001
_BACKOFF_SECONDS_MAX = 0.02

T = TypeVar("T")


class Tx:
    """What a transaction works with.

    Attributes:
        execute: Run a statement that is finished before the next one begins.
        ask: Run a statement whose rows are read one by one.
        changes: How many rows the last statement changed.
        last_id: The id of the row inserted last.
        now: The store's clock.
    """

    __slots__ = ("_connection", "ask", "changes", "execute", "last_id", "now")

    def __init__(self, connection: apsw.Connection, now: Callable[[], int]) -> None:
        self._connection = connection
        self.execute = asking_once(connection)
        self.ask = asking(connection)
        self.changes = connection.changes
        self.last_id = connection.last_insert_rowid
        self.now = now

    def begin(self) -> None:
        """Take the lock for writing."""
        if self._connection.in_transaction:  # an earlier rollback failed
            self.execute("ROLLBACK")
        self.execute("BEGIN IMMEDIATE")

    def roll_back(self) -> None:
        """Undo whatever was begun. Some errors do so by themselves. If this fails too, the next ``begin`` tries again."""
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self.execute("ROLLBACK")


class Writer:
    """Runs transactions, one after the other.

    Args:
        connection: Used by nobody else (but see ``is_idle``).
        path: For errors.
        now: The store's clock.
        patience_seconds: How long another process may hold the lock before we give up.
    """

    def __init__(self, connection: apsw.Connection, path: Path, now: Callable[[], int], patience_seconds: float) -> None:
        self.tx = Tx(connection, now)
        self._connection = connection
        self._path = path
        self._patience_seconds = patience_seconds
        self._commit_seconds = 0.0
        self._is_slow = False
        self._lock = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._unattended: set[asyncio.Task[object]] = set()

    async def run_open(self, tx: Tx, work: Callable[[], Awaitable[T]], keep: Callable[[T], bool]) -> T:
        """Run a transaction that suspends in the middle, on a connection of its own. Whoever else writes waits for its end.

        Args:
            tx: The other connection.
            work: What to do in it. It is begun once at most.
            keep: Whether to commit, by what ``work`` returned; if not, everything is rolled back.

        Raises:
            StoreUnavailable: SQLite failed. Unless ``work`` has returned, nothing was written.
            apsw.ConstraintError: The commit broke a deferred constraint. Nothing was written.
            Exception: What ``work`` raised. Nothing was written.
        """
        async with AsyncExitStack() as turn:
            await self._begin_in_turn(tx, turn)
            try:
                answer = await work()
                if keep(answer):
                    await self._commit_open(tx)
            finally:
                tx.roll_back()
            return answer

    @property
    def is_idle(self) -> bool:
        """Nobody uses the connection now."""
        return not self._lock.locked()

    async def run(self, work: Callable[[Tx], T]) -> T:
        """Run ``work`` in a transaction and commit it. It may be run more than once; only the last time counts.

        Raises:
            StoreUnavailable: SQLite failed. P1 holds.
        """
        if not self._is_slow and not self._lock.locked():
            try:
                return self._run_inline(work)
            except apsw.Error as error:
                if not is_locked(error):
                    raise translated(error, self._path) from error
        task = asyncio.create_task(self._run_in_turn(work))
        self._unattended.add(task)
        task.add_done_callback(self._attend)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        async with self._lock:
            if self._thread is not None:
                self._thread.shutdown()
            self._connection.close()

    async def _begin_in_turn(self, tx: Tx, turn: AsyncExitStack) -> None:
        deadline = time.monotonic() + self._patience_seconds
        backoff = _BACKOFF_SECONDS
        while True:
            async with AsyncExitStack() as attempt:
                await attempt.enter_async_context(self._lock)
                try:
                    tx.begin()
                except apsw.Error as error:
                    if not is_locked(error) or time.monotonic() > deadline:
                        raise translated(error, self._path) from error
                else:
                    turn.push_async_exit(attempt.pop_all())
                    return
            backoff = await _pause(backoff)

    async def _commit_open(self, tx: Tx) -> None:
        try:
            if self._is_slow:
                await _to_the_end(asyncio.get_running_loop().run_in_executor(self._committing(), self._commit, tx))
            else:
                self._commit(tx)
        except apsw.ConstraintError:
            raise
        except apsw.Error as error:
            raise translated(error, self._path) from error

    def _run_inline(self, work: Callable[[Tx], T]) -> T:
        self.tx.begin()
        try:
            answer = work(self.tx)
            self._commit(self.tx)
        except BaseException:
            self.tx.roll_back()
            raise
        return answer

    async def _run_in_turn(self, work: Callable[[Tx], T]) -> T:
        deadline = time.monotonic() + self._patience_seconds
        backoff = _BACKOFF_SECONDS
        while True:
            try:
                async with self._lock:
                    return await self._run_elsewhere(work) if self._is_slow else self._run_inline(work)
            except apsw.Error as error:
                if not is_locked(error) or time.monotonic() > deadline:
                    raise translated(error, self._path) from error
            backoff = await _pause(backoff)

    async def _run_elsewhere(self, work: Callable[[Tx], T]) -> T:
        self.tx.begin()
        try:
            answer = work(self.tx)
            await _to_the_end(asyncio.get_running_loop().run_in_executor(self._committing(), self._commit, self.tx))
        except BaseException:
            self.tx.roll_back()
            raise
        return answer

    def _committing(self) -> ThreadPoolExecutor:
        """The thread for COMMIT."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="everstep-commit")
        return self._thread

    def _commit(self, tx: Tx) -> None:
        started = time.perf_counter()
        tx.execute("COMMIT")
        self._commit_seconds += _WEIGHT * (time.perf_counter() - started - self._commit_seconds)
        self._is_slow = self._commit_seconds > (FAST_COMMIT_SECONDS if self._is_slow else SLOW_COMMIT_SECONDS)

    def _attend(self, task: asyncio.Task[object]) -> None:
        self._unattended.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, or is gone


async def _pause(seconds: float) -> float:
    """Let whoever holds the lock go on; how long to do so the next time."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
    return min(seconds * 2, _BACKOFF_SECONDS_MAX)


async def _to_the_end(commit: asyncio.Future[None]) -> None:
    """Wait for a commit in its thread even if we are cancelled meanwhile: nobody may touch the connection before it is over."""
    cancelled = False
    while not commit.done():
        try:
            await asyncio.wait([commit])
        except asyncio.CancelledError:
            cancelled = True
    commit.result()
    if cancelled:
        raise asyncio.CancelledError
