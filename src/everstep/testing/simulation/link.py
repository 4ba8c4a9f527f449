"""
A process's connection to the store, and what goes wrong on the way.

Two kinds. An *inline* link is a database file: a verb has its effect at once and takes a moment in which nothing else of the
process runs. A *network* link sends a message and hears of the answer later; meanwhile others get their turn, and messages may
overtake each other. Either may refuse (nothing happened), lose the answer (it happened), take long, or be cut; and the process
may crash or freeze just before or just after. On a network a request may also arrive long after its sender has given it up, or
has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from everstep.errors import StoreUnavailable
from everstep.records import BodyKind, Micros
from everstep.stores.base import ANY_BODY, Append, Outcome, RolledBack, Slot, TransactionBody
from everstep.testing.connection import Connection
from everstep.testing.simulation.database import Database
from everstep.testing.simulation.kernel import Kernel
from everstep.testing.simulation.process import Process, run_now

T = TypeVar("T")

NO_FAULTS = frozenset({"open", "list", "workers"})
FATES = (
    *("refuse", "refuse", "lose", "lose", "lose", "late", "slow", "slow"),
    *("crash before", "crash after", "crash after", "freeze before", "freeze before", "freeze after"),
)
FREEZES_SECONDS = (0.05, 1.0, 5.0, 9.0, 20.0)


@dataclass
class Weather:
    """How bad it is.

    Attributes:
        fault_rate: How many of a hundred verbs meet with misfortune.
        faults_left: How much of it there will be.
        is_store_away: Nobody can reach the store.
    """

    fault_rate: float = 0.0
    faults_left: int = 0
    is_store_away: bool = False


class Link(Connection):
    """See the module.

    Attributes:
        process: Whose connection it is.
        is_cut: Nothing gets through.
        skew: How far this process's idea of the store's clock is off, microseconds.
    """

    inner: Database

    def __init__(self, kernel: Kernel, database: Database, process: Process, weather: Weather, *, is_inline: bool) -> None:
        super().__init__(database)
        self.commits_inline = is_inline
        self.process = process
        self.is_cut = False
        self.skew: Micros = 0
        self._kernel = kernel
        self._weather = weather
        self._hears_twice = False
        self._dice = kernel.dice(f"link of {process.name}")
        process.ended.append(lambda: database.tables.forsake(process))

    def now(self) -> Micros:
        return self.inner.now() + self.skew

    async def close(self) -> None:
        """Nothing: a worker retires by itself."""

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        process = self.process
        if process.is_dead:
            await process.never()
        if verb == "wait_for_work":
            return await self._wait(act)
        fate = self._fate(verb)
        if fate:
            self._kernel.seen[f"links: {fate}"] += 1
            self._kernel.note(f"{process} {verb}: {fate}")
        if verb == "transact":
            return await self._transaction(fate, arguments, act)
        if self.commits_inline:
            return await self._inline(verb, fate, act)
        return await self._over_network(verb, fate, act)

    def _fate(self, verb: str) -> str:
        weather, dice = self._weather, self._dice
        # Transactions are few, and what can befall them is much.
        rate = weather.fault_rate * (3 if verb == "transact" else 1)
        if verb in NO_FAULTS or weather.faults_left <= 0 or dice.random() >= rate:
            return ""
        weather.faults_left -= 1
        return dice.choice(FATES)

    def _away(self, verb: str) -> StoreUnavailable:
        return StoreUnavailable(f"the store did not answer to {verb} of {self.process}")

    @property
    def _is_closed(self) -> bool:
        return self.is_cut or self._weather.is_store_away

    # --- a file -------------------------------------------------------------------------------------------------------------

    async def _inline(self, verb: str, fate: str, act: Callable[[], Awaitable[T]]) -> T:
        process, dice = self.process, self._dice
        await self._before(fate)
        if fate in ("refuse", "late") or self._is_closed:
            raise self._away(verb)
        answer = run_now(act())
        process.spend(dice.choice((0.5, 3.0)) if fate == "slow" else dice.uniform(0.0001, 0.004))
        await self._after(fate)
        if fate == "lose":
            raise self._away(verb)
        return answer

    async def _before(self, fate: str) -> None:
        if fate == "crash before":
            self.process.crash()
            await self.process.never()
        elif fate == "freeze before":
            await self.process.frozen_here(self._dice.choice(FREEZES_SECONDS))

    async def _after(self, fate: str) -> None:
        if fate == "crash after":
            self.process.crash()
            await self.process.never()
        elif fate == "freeze after":
            await self.process.frozen_here(self._dice.choice(FREEZES_SECONDS))

    # --- a network ----------------------------------------------------------------------------------------------------------

    async def _over_network(self, verb: str, fate: str, act: Callable[[], Awaitable[T]]) -> T:
        kernel, dice, process = self._kernel, self._dice, self.process
        await self._before(fate)
        reply: asyncio.Future[T] = process.loop.create_future()
        there, back = dice.uniform(0.0001, 0.004), dice.uniform(0.0001, 0.004)
        patience = dice.choice((0.01, 0.5, 4.0))

        def give_up() -> None:
            if not process.is_dead and not reply.done():
                reply.set_exception(self._away(verb))

        def deliver(answer: T | None, error: Exception | None) -> None:
            if process.is_dead or reply.done():
                return
            if self._is_closed:
                kernel.after(patience, give_up)
            elif error is not None:
                reply.set_exception(error)
            else:
                reply.set_result(answer)  # type: ignore[arg-type]  # there is one of both

        def arrive() -> None:
            if self._is_closed or fate == "refuse":
                kernel.after(patience, give_up)
                return
            answer: T | None = None
            error: Exception | None = None
            try:
                answer = run_now(act())
            except Exception as raised:  # noqa: BLE001  # it is handed to whoever asked
                error = raised
            if fate == "crash after":
                process.crash()
            elif fate == "freeze after":
                process.freeze(dice.choice(FREEZES_SECONDS), suspended=dice.random() < 0.3)
            if fate == "lose":
                kernel.after(patience, give_up)
            else:
                kernel.after(back, lambda: deliver(answer, error))

        if fate == "late":
            kernel.after(patience, give_up)
            there += patience + dice.choice((0.001, 0.3, 6.0))
        elif fate == "slow":
            there += dice.choice((0.0, 0.5, 3.0))
            back += dice.choice((0.5, 3.0))
        kernel.after(there, arrive)
        return await reply

    # --- what takes longer ------------------------------------------------------------------------------------------------

    async def _wait(self, act: Callable[[], Awaitable[T]]) -> T:
        """A wake-up comes late, and sometimes for nothing."""
        dice, kernel = self._dice, self._kernel
        if self._is_closed:
            await asyncio.sleep(dice.uniform(0.1, 1.0))
            raise self._away("wait_for_work")
        if self._hears_twice:
            self._hears_twice = False
            kernel.seen["wake-ups that came twice"] += 1
            return True  # type: ignore[return-value]  # it is what the verb answers
        answer = await act()
        if answer and not self.commits_inline:
            await asyncio.sleep(dice.choice((0.0, 0.0005, 0.01)))
            self._hears_twice = dice.random() < 0.1
        return answer

    async def _transaction(self, fate: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        await self._before(fate)
        if fate == "refuse" or self._is_closed:
            raise self._away("transact")
        if not self.commits_inline:
            await asyncio.sleep(self._dice.uniform(0.0001, 0.004))
        if fate in ("late", "slow"):
            answer: Any = await self.inner.transact(arguments[0], self._broken(arguments[1], fate))
        else:
            answer = await act()
        await self._after(fate)
        if fate == "lose":
            raise self._away("transact")
        if not self.commits_inline:
            await asyncio.sleep(self._dice.uniform(0.0001, 0.004))
        return answer  # type: ignore[no-any-return]

    def _broken(self, body: TransactionBody, fate: str) -> TransactionBody:
        """The connection breaks after the body and before the commit, or the process stands still there."""

        async def broken(tx: Any) -> Append | None:
            append = await body(tx)
            if fate == "late":
                raise self._away("transact")
            await self.process.frozen_here(self._dice.choice(FREEZES_SECONDS))
            return append

        return broken

    async def _transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        return await self.ask("transact", (slot, body), lambda: self.inner.transact(slot, body, kind))
