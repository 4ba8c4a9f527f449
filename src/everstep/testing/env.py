"""
A place to run workflows in a test: a store in memory and an engine, on a clock that jumps over idle time.

    async with Env() as env:
        handle = await env.start(trial("ada"), id="trial-ada")
        await env.skip(timedelta(days=29))
        assert await handle.status() == "waiting"

Everything else is real: what runs here is replayed, parked and claimed as it is in production. Time stands still while code is
at work, and moves straight to the next timer when all of it waits. Workflow code that does what replay cannot repeat is told
so, at the line where it does it (see ``strict``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Self, TypeVar, overload

from msgspec.structs import replace

from everstep.client import Handle, OnConflict
from everstep.core.snapshots import instant
from everstep.definitions import Call, Workflow
from everstep.engine.engine import Engine
from everstep.errors import UsageError
from everstep.events import RunCreated
from everstep.payloads import Payloads
from everstep.stores.base import Store
from everstep.stores.memory import MemoryStore
from everstep.testing.connection import Connection
from everstep.testing.strict import Watch
from everstep.testing.virtual import VirtualTime, of

R = TypeVar("R")
T = TypeVar("T")

LEASE_SECONDS = 1e9
"""Thirty years. Only the test can stop this engine, and heartbeats would be most of what happens in a month of idle time."""
LOOK_SECONDS = 100 * 86_400.0
"""How often to look whether something changed, though the store would say so."""
WRITES = frozenset({"commit", "create", "post", "transact"})


class EnvEngine(Engine):
    """An engine that does the same in every execution of a test, and that can die."""

    def __init__(self, store: Store, workflows: Iterable[Workflow[..., Any]] = (), *, payloads: Payloads | None = None) -> None:
        super().__init__(store, workflows, lease=LEASE_SECONDS, payloads=payloads)
        self._random = random.Random(0)
        self._idle_seconds_max = self._poll_seconds_max = LOOK_SECONDS

    def die(self) -> None:
        """As if its process were killed: nothing of it runs or writes any more, and others can tell. Safe to repeat."""
        if isinstance(self.store, Connection):
            self.store.is_dead = True
        if self._worker is not None:
            self._worker.die()

    def _describe(
        self,
        call: Call[Any],
        run_id: str | None,
        tags: Mapping[str, str] | None,
        timeout: float | None,
        on_conflict: OnConflict,
    ) -> RunCreated:
        created = super()._describe(call, run_id, tags, timeout, on_conflict)
        # es.random() and es.uuid4() come from the salt.
        return replace(created, salt=blake2b(created.run_id.encode(), digest_size=16).hexdigest())


class _Watched(Connection):
    """Tells the clock that something happens."""

    def __init__(self, inner: Store, wrote: Callable[[], None]) -> None:
        super().__init__(inner)
        self._wrote = wrote

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        if verb in WRITES:
            self._wrote()
        return await super().ask(verb, arguments, act)


class Env:
    """See the module. It opens itself at first use; leave it with ``async with`` or ``close``.

    Args:
        workflows: What it is able to drive. Whatever is started here is known without being listed.
        strict: Refuse clocks, randomness, files, sockets, processes and threads in workflow code, with the line where it asks
            for them and what to use instead. Steps may do what they like. The run fails there, and ``run``, ``skip`` and the
            end of ``async with`` raise AssertionError.
        payloads: How payloads are stored, as for ``Engine``.

    Raises:
        UsageError: Opened on an event loop that is not asyncio's own.
    """

    def __init__(
        self, workflows: Iterable[Workflow[..., Any]] = (), *, strict: bool = True, payloads: Payloads | None = None
    ) -> None:
        self._workflows = tuple(workflows)
        self._payloads = payloads
        self._watch = Watch() if strict else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._time: VirtualTime | None = None
        self._owns_time = False
        self._engine: EnvEngine | None = None
        self._started_count = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close()
        if kind is None:
            self.check()

    async def open(self) -> None:
        """Put the running loop on virtual time and open an engine. Safe to repeat."""
        if self._engine is not None:
            return
        loop = self._loop = asyncio.get_running_loop()
        present = of(loop)
        self._time, self._owns_time = present or VirtualTime(loop), present is None
        if self._owns_time:
            self._time.install()
        clock = self._time.clock
        store = MemoryStore(now=clock.now, monotonic=clock.monotonic)
        self._engine = EnvEngine(_Watched(store, self._time.mark), self._workflows, payloads=self._payloads)
        await store.open()
        await self._engine.open()
        if self._watch is not None:
            self._watch.begin(loop)

    async def close(self) -> None:
        """Stop the engine, and put the loop back on the machine's clock. Safe to repeat."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                await engine.close()
        finally:
            self._restore()

    def abandon(self) -> None:
        """Let go of everything at once, without waiting; also when the loop is closed already. Safe to repeat."""
        engine, self._engine = self._engine, None
        if engine is not None:
            with suppress(RuntimeError):  # The loop is closed: nothing is left that could run.
                engine.die()
        self._restore()

    def check(self) -> None:
        """Raise if workflow code did what replay cannot repeat, and the test has not been told yet.

        Raises:
            AssertionError: With the line, and what to use instead.
        """
        if self._watch is not None:
            self._watch.tell()

    @property
    def engine(self) -> Engine:
        """The engine that drives its runs: for handles, signals and lists. Not before it is open.

        Raises:
            UsageError: It is not open.
        """
        if self._engine is None:
            raise UsageError("this Env is not open. Nothing was done. Use it in `async with`, or await its open() first.")
        return self._engine

    def now(self) -> datetime:
        """What time it is for workflows: aware, UTC."""
        return instant(self.engine.store.now())

    async def start(
        self,
        call: Call[R],
        *,
        id: str | None = None,  # noqa: A002  # the API's word
        tags: Mapping[str, str] | None = None,
        timeout: float | None = None,
        delay: float = 0.0,
    ) -> Handle[R]:
        """Start a run, as ``Engine.start`` does. Without an id it is called run-1, run-2, and so on."""
        await self.open()
        self._started_count += 1
        run_id = f"run-{self._started_count}" if id is None else id
        return await self.engine.start(call, id=run_id, tags=tags, timeout=timeout, delay=delay)

    async def run(self, call: Call[R], *, id: str | None = None) -> R:  # noqa: A002  # the API's word
        """Start a run and wait, in virtual time, for its result.

        Raises:
            RunFailed, RunCancelled, RunDead, RunPaused: See ``Handle.result``.
            AssertionError: It did what replay cannot repeat; see ``strict``.
            Stuck: It waits for something that nobody will do. (Raised out of the loop, past the test's own code.)
        """
        try:
            return await (await self.start(call, id=id)).result()
        finally:
            self.check()

    @overload
    def handle(self, run_id: str) -> Handle[Any]: ...
    @overload
    def handle(self, run_id: str, workflow: Workflow[..., R]) -> Handle[R]: ...
    def handle(self, run_id: str, workflow: Workflow[..., Any] | None = None) -> Handle[Any]:
        """A handle of a run by its id, as ``Client.handle`` gives it."""
        return self.engine.handle(run_id) if workflow is None else self.engine.handle(run_id, workflow)

    async def skip(self, duration: timedelta) -> None:
        """Let time pass, and everything happen that falls due meanwhile, in its order.

        Raises:
            UsageError: The duration is negative.
            AssertionError: Workflow code did what replay cannot repeat; see ``strict``.
        """
        if duration < timedelta():
            raise UsageError(f"skip({duration!r}): time does not go back. Nothing was done. Give zero or more.")
        await self.open()
        assert self._time is not None
        self._time.mark()
        await asyncio.sleep(duration.total_seconds())
        await self._time.settle()
        self.check()

    async def settle(self) -> None:
        """Let everything happen that can happen without time going on: after a signal was sent, for instance.

        Raises:
            AssertionError: Workflow code did what replay cannot repeat; see ``strict``.
        """
        await self.skip(timedelta())

    @staticmethod
    def run_sync(call: Call[R]) -> R:
        """Run a workflow from a plain test, in an Env and on a loop of its own: see ``everstep.testing.run``."""
        return run(call)

    def _restore(self) -> None:
        if self._time is not None and self._owns_time:
            self._time.remove()
        self._time = None
        if self._watch is not None and self._loop is not None:
            self._watch.end(self._loop)


def run(call: Call[R]) -> R:
    """Run a workflow from a plain test, without an event loop: its result, as soon as virtual time allows.

    Raises:
        RunFailed, RunCancelled, RunDead, RunPaused: See ``Handle.result``.
        AssertionError: It did what replay cannot repeat; see ``Env``.
        Stuck: It waits for something that nobody will do.
        UsageError: An event loop is running already.
    """
    if is_loop_running():
        call.close()
        raise UsageError(
            f"run({call!r}) was called where an event loop is running. Nothing was started. In an asynchronous test: "
            "`async with Env() as env: await env.run(...)`."
        )

    async def main() -> R:
        async with Env() as env:
            return await env.run(call)

    return on_a_loop_of_its_own(main())


def on_a_loop_of_its_own(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine where no loop is running."""
    with asyncio.Runner() as runner:
        return runner.run(main)


def is_loop_running() -> bool:
    """Whether this thread is inside an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
