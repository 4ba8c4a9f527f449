"""
Kills in this process: quick, on virtual time, the same each time.

The connection to the store dies at that instant, tasks are cancelled and nothing is handed back. Unlike a real kill it lets a
body's ``finally`` run, a thread go on to its end, and globals live on: so state that a workflow keeps in a global is found out
by its being there twice. The world outside has a connection of its own and lives through everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from everstep.client import Client, Ending
from everstep.stores.base import Store
from everstep.stores.memory import MemoryStore
from everstep.testing.connection import Connection
from everstep.testing.crash_life import RUN_ID, Execution, Subject, converse, gather
from everstep.testing.crash_points import AFTER, BEFORE, NO_POINTS, Deadly, Kill, Plan
from everstep.testing.env import LOOK_SECONDS, EnvEngine
from everstep.testing.strict import Watch
from everstep.testing.virtual import VirtualTime, virtual_time

T = TypeVar("T")


async def execute(subject: Subject, plan: Plan) -> Execution:
    """Run the workflow to its end, killed and resumed as planned."""
    with Watch().on(asyncio.get_running_loop()), virtual_time() as virtual:
        store = MemoryStore(virtual.clock.now, virtual.clock.monotonic)
        await store.open()
        outside = _Outside(store)
        driving = asyncio.ensure_future(converse(_Person(outside), subject))
        lives: list[Deadly] = []
        kills: list[Kill | None] = [*(target.kill for target in plan), None]
        try:
            ending = None
            while ending is None:
                life = _Life(store, kills.pop(0), virtual)
                lives.append(life.connection)
                outside.worker = life.connection
                ending = await life.live(subject, driving)
            await driving
        finally:
            driving.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await driving
        return await gather(store, ending, [life.points for life in lives], len(lives) - 1)


class _Person(Client):
    """Somebody outside, who does not look every second for a month."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._poll_seconds_max = LOOK_SECONDS


class _Outside(Connection):
    """The connection of the world outside. What it writes is a durable point of the life that is on."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.worker: Deadly | None = None

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        worker = self.worker
        if verb in NO_POINTS or worker is None or worker.is_dead:
            return await super().ask(verb, arguments, act)
        worker.comes_to(BEFORE)
        answer = await super().ask(verb, arguments, act)
        if not worker.is_dead:
            worker.points.append(f"{verb} from outside")
            worker.comes_to(AFTER)
        return answer


class _Life:
    """One engine, from its start to the end of the run or its own."""

    def __init__(self, store: MemoryStore, kill: Kill | None, virtual: VirtualTime) -> None:
        self.connection = Deadly(store, kill, self._die, lambda _: virtual.mark())
        self._store = store
        self._virtual = virtual
        self._engine: EnvEngine | None = None
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def live(self, subject: Subject, driving: asyncio.Future[None]) -> Ending | None:
        """Drive the run until it ends, or the engine dies: then None.

        Raises:
            Exception: What the world outside raised.
        """
        self._engine = EnvEngine(self.connection, subject.known)
        attempt = asyncio.ensure_future(self._drive(self._engine, subject))
        try:
            while not attempt.done() and not self._died.done():
                waiting: list[asyncio.Future[Any]] = [attempt, self._died, *([] if driving.done() else [driving])]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if driving.done() and not attempt.done():
                    driving.result()
        finally:
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait([attempt])
        if not self._died.done():
            return attempt.result()
        await self._bury()
        return None

    async def _drive(self, engine: EnvEngine, subject: Subject) -> Ending:
        await engine.open()
        try:
            await engine.start(subject.call(), id=RUN_ID)
            return await engine.wait_until_rest(RUN_ID, None)
        finally:
            if not self.connection.is_dead:
                await engine.close()

    def _die(self) -> None:
        assert self._engine is not None
        self._engine.die()
        # A run that was just being begun is among its runs only now.
        asyncio.get_running_loop().call_soon(self._engine.die)
        if not self._died.done():
            self._died.set_result(None)

    async def _bury(self) -> None:
        """Let what was cancelled unwind and threads end, then let others notice."""
        await self._virtual.settle()
        for worker_key in self.connection.worker_keys:
            self._store.kill(worker_key)
