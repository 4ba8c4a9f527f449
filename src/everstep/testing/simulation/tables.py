"""
The tables of users in a simulation: SQLite in memory, one transaction at a time, by processes that may die in the middle.

What a crashed process had begun is rolled back as soon as the database notices, as it does when a connection breaks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from everstep.errors import StoreUnavailable
from everstep.stores.base import Append, Landed, Outcome, RolledBack, TransactionBody
from everstep.stores.sqlite.ask import asking
from everstep.stores.sqlite.transaction import Tx
from everstep.stores.sqlite.user_tx import run_guarded
from everstep.testing.simulation.kernel import Kernel
from everstep.testing.simulation.process import Process


class Tables:
    """See the module. Opened when somebody first needs it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._connection: apsw.Connection | None = None
        self._holder: object | None = None
        self._holding: Process | None = None
        self._waiting: deque[tuple[Process, asyncio.Future[None]]] = deque()

    @property
    def connection(self) -> apsw.Connection:
        """The database."""
        if self._connection is None:
            self._connection = apsw.Connection(":memory:")
        return self._connection

    def _run(self, statement: str, bindings: Sequence[Any] = ()) -> list[Any]:
        return asking(self.connection)(statement, bindings).fetchall()

    def ask(self, statement: str) -> list[Any]:
        """What is in the tables now: for whoever reckons at the end."""
        return self._run(statement)

    async def transact(
        self,
        body: TransactionBody,
        look: Callable[[], Outcome | None],
        answer: Callable[[Append], Outcome | None],
        land: Callable[[Append], None],
    ) -> Outcome | RolledBack:
        """See ``stores.memory.Tables``."""
        process = self._kernel.running
        assert process is not None
        me = object()
        await self._take(process, me)
        tx = Tx(self.connection, lambda: 0)
        try:
            decided = look()
            if decided is not None:
                return decided
            tx.begin()
            append, failure = await run_guarded(self.connection, body)
            if failure is not None:
                raise StoreUnavailable(f"the tables failed: {failure}. Nothing was written.")
            if append is None:
                return RolledBack()
            decided = answer(append)
            if decided is not None:
                return decided
            tx.execute("COMMIT")
            land(append)
            return Landed()
        finally:
            if self._holder is me:
                tx.roll_back()
                self._pass_on()

    def forsake(self, process: Process) -> None:
        """A process has crashed."""
        if self._holding is process:
            self.connection.authorizer = None
            if self.connection.in_transaction:
                self._run("ROLLBACK")
                self._kernel.seen["transactions rolled back by a crash"] += 1
            self._pass_on()

    async def _take(self, process: Process, me: object) -> None:
        if self._holding is not None:
            turn: asyncio.Future[None] = process.loop.create_future()
            self._waiting.append((process, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled() and self._holding is process:
                    self._pass_on()
                raise
        self._holder, self._holding = me, process

    def _pass_on(self) -> None:
        self._holder = self._holding = None
        while self._waiting:
            process, turn = self._waiting.popleft()
            if not process.is_dead and not turn.done():
                self._holding = process  # Until it has heard of it, nobody else may begin.
                turn.set_result(None)
                return

    def open_accounts(self, count: int, cents: int) -> None:
        """Tables for the act of that name. Safe to repeat."""
        if self._connection is None:
            self._run("CREATE TABLE accounts(name INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
            self._run("CREATE TABLE effects(key TEXT NOT NULL)")
            for name in range(count):
                self._run("INSERT INTO accounts VALUES (?, ?)", (name, cents))
