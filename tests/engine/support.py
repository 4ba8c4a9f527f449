"""
What the tests of the engine are made of: time that jumps, a store that fails on request, engines that die and freeze.

Nothing here sleeps. The loop's clock moves only when nothing is left to do, and then straight to the next timer; the memory
store reads the same clock, so a lease of 15 seconds runs out and a sleep of an hour is over in no time. A test that waits for
something that can never happen is told so, instead of hanging.

    loop ── idle ──▶ clock jumps ──▶ timers ring
                       │
    MemoryStore ◀──────┘ now, monotonic
        ▲
    FaultyStore (one per engine: its connection) ◀── kill, freeze, faults
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from everstep.client import Client
from everstep.definitions import Workflow
from everstep.engine.engine import Engine
from everstep.errors import StoreUnavailable
from everstep.events import Event, StepCompleted, StepScheduled, TimerFired, TimerStarted
from everstep.journal import Entry, verify_chain
from everstep.records import Micros, RunRecord
from everstep.stores.base import Store
from everstep.stores.memory import MemoryStore
from everstep.testing.connection import Connection
from everstep.testing.virtual import Stuck, VirtualTime

T = TypeVar("T")


# --- time -----------------------------------------------------------------------------------------------------------


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that is on virtual time from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.virtual = VirtualTime(self)
        self.virtual.install()


def virtual() -> VirtualTime:
    """The time of the loop that the test runs on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.virtual


async def turns(count: int = 20) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], *, every: float = 0.001, at_most: float = 3600.0) -> None:
    """Let virtual time pass until something holds."""
    limit = asyncio.get_running_loop().time() + at_most
    while not condition():
        if asyncio.get_running_loop().time() > limit:
            raise Stuck(f"it did not happen within {at_most:g} s")
        await asyncio.sleep(every)


# --- a connection that fails ----------------------------------------------------------------------------------------


@dataclass
class Fault:
    """One thing that goes wrong with one verb.

    Attributes:
        verb: Which.
        after: It takes effect, and the answer is lost; else it fails before it has any.
        delay: Seconds that it takes on top.
        error: What it raises; None for nothing.
        skip: So many calls go well before.
        when: Only calls with such arguments count.
    """

    verb: str
    after: bool = False
    delay: float = 0.0
    error: type[BaseException] | None = StoreUnavailable
    skip: int = 0
    when: Callable[..., bool] = lambda *_: True


class FaultyStore(Connection):
    """One engine's connection to a store that it shares with others.

    Attributes:
        counts: How often each verb was called.
        faults: What is to go wrong, first come first served.
        is_away: Everything raises StoreUnavailable.
        skew: How far this connection's idea of the store's clock is ahead, microseconds.
    """

    def __init__(self, inner: Store, *, inline: bool = True) -> None:
        super().__init__(inner)
        self.commits_inline = inline
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.is_away = False
        self.skew: Micros = 0
        self._thawed = asyncio.Event()
        self._thawed.set()

    def fail(self, verb: str, **more: Any) -> Fault:
        """Let a verb fail once."""
        fault = Fault(verb, **more)
        self.faults.append(fault)
        return fault

    def freeze(self) -> None:
        """Every verb waits until ``thaw``: for the others this engine gives no sign any more."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    @property
    def is_frozen(self) -> bool:
        return not self._thawed.is_set()

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        self.counts[verb] += 1
        if not self._thawed.is_set():
            await self._thawed.wait()
        if self.is_away and not self.is_dead:
            raise StoreUnavailable(f"the store is away ({verb})")
        fault = None if self.is_dead else self._fault(verb, arguments)
        if fault is None:
            return await super().ask(verb, arguments, act)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.after:
            answer = await act()
            if fault.error is None:
                return answer
        if fault.error is None:
            return await act()
        raise fault.error(f"{verb} failed on request")

    def _fault(self, verb: str, arguments: tuple[Any, ...]) -> Fault | None:
        for fault in self.faults:
            if fault.verb == verb and fault.when(*arguments):
                if fault.skip:
                    fault.skip -= 1
                    return None
                self.faults.remove(fault)
                return fault
        return None

    def now(self) -> Micros:
        return self.inner.now() + self.skew

    async def close(self) -> None:
        if not (self.is_away or self.is_frozen):
            await super().close()


# --- the world of a test --------------------------------------------------------------------------------------------


class World:
    """One memory store on virtual time, and the engines and clients that use it."""

    def __init__(self, kind: type[MemoryStore] = MemoryStore) -> None:
        self.loop = virtual()
        self.clock = self.loop.clock
        self.store = kind(now=self.clock.now, monotonic=self.clock.monotonic)
        self._engines: list[Engine] = []

    async def engine(self, *workflows: Workflow[..., Any], inline: bool = True, **options: Any) -> Engine:
        """An open engine with a connection of its own."""
        engine = self.unopened(*workflows, inline=inline, **options)
        await engine.open()
        await turns()  # It has looked, found nothing, and is asleep: whoever forgets to wake it is found out.
        return engine

    async def opened(self, engine: Engine) -> Engine:
        """Open an engine that was made by hand; its connection is one of this module's."""
        self._engines.append(engine)
        await engine.open()
        await turns()
        return engine

    def unopened(self, *workflows: Workflow[..., Any], inline: bool = True, **options: Any) -> Engine:
        engine = Engine(FaultyStore(self.store, inline=inline), workflows, **options)
        self._engines.append(engine)
        return engine

    async def client(self) -> Client:
        """A client with a connection of its own."""
        client_ = Client(FaultyStore(self.store))
        await client_.open()
        return client_

    async def close(self) -> None:
        for engine in self._engines:
            if not link(engine).is_dead:
                thaw(engine)
                link(engine).is_away = False
                link(engine).faults.clear()
                await engine.close()

    @property
    def seconds(self) -> float:
        """How much time has passed."""
        return self.clock.seconds

    async def record(self, run_id: str) -> RunRecord:
        run = await self.store.get(run_id)
        assert run is not None, f"there is no run {run_id}"
        return run

    async def entries(self, run_id: str) -> list[Entry]:
        """The journal, verified."""
        run = await self.record(run_id)
        entries = await self.store.load(run.run_key)
        verify_chain(entries, run_key=run.run_key, run_id=run_id, head=run.hash)
        return entries

    async def events(self, run_id: str) -> list[Event]:
        return [event for entry in await self.entries(run_id) for event in entry.decoded()]

    async def completed(self, run_id: str) -> Counter[str]:
        """How often the journal says that each step was completed, by name."""
        events = await self.events(run_id)
        names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
        return Counter(names[event.key] for event in events if isinstance(event, StepCompleted))

    def attempts(self, run_id: str) -> Mapping[str, Any]:
        """The rows of attempts that are stored for a run."""
        store: Any = self.store
        rows: Mapping[str, Any] = store._runs[store._keys[run_id]].attempts
        return rows


@asynccontextmanager
async def a_world(kind: type[MemoryStore] = MemoryStore) -> AsyncGenerator[World, None]:
    world = World(kind)
    await world.store.open()
    try:
        yield world
    finally:
        await world.close()


def link(engine: Client) -> FaultyStore:
    """An engine's (or client's) connection."""
    assert isinstance(engine.store, FaultyStore)
    return engine.store


def worker_of(engine: Engine) -> Any:
    """The inside of an engine."""
    inside: Any = engine
    return inside._worker


def is_in_memory(engine: Engine, run_id: str) -> bool:
    """Whether the engine holds the run in memory."""
    return worker_of(engine).driver_of(run_id) is not None


def kill(engine: Engine) -> None:
    """The engine's process dies: nothing of it runs or writes any more, and others can tell."""
    store, inside = link(engine), worker_of(engine)
    store.is_dead = True
    inside.die()
    inner: Any = store.inner
    if inside.worker_key in inner._workers:  # else it was given up long ago
        inner.kill(inside.worker_key)


def freeze(engine: Engine) -> None:
    """The engine gives no sign any more, and what it does from now on reaches the store only when it is thawed."""
    link(engine).freeze()


def thaw(engine: Engine) -> None:
    """It wakes up, and knows nothing of what happened meanwhile."""
    link(engine).thaw()


def lose_answer(engine: Client, verb: str, **more: Any) -> Fault:
    """The verb takes effect, and its answer is lost."""
    return link(engine).fail(verb, after=True, **more)


def early_timers(entries: Sequence[Entry]) -> list[str]:
    """I9: keys of timers whose entry is older than the instant at which they were due."""
    due = {e.key: e.due_at for entry in entries for e in entry.decoded() if isinstance(e, TimerStarted)}
    return [e.key for entry in entries for e in entry.decoded() if isinstance(e, TimerFired) and entry.at < due[e.key]]
