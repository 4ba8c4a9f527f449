"""
The child process of ``crash_everywhere(kill="process")``: drives one life of the run, and kills itself where it was told to.

    python -m everstep.testing.crash_child STORE.db         what to do stands in STORE.order, see crash_process.Order
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec

from everstep.definitions import Workflow
from everstep.errors import UsageError
from everstep.records import Micros, WorkerKey
from everstep.stores.base import Store
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.crash_life import RUN_ID
from everstep.testing.crash_points import Deadly, Kill
from everstep.testing.crash_process import CANNOT_BEGIN, STUCK, Order, Passed
from everstep.testing.env import EnvEngine
from everstep.testing.virtual import Stuck, virtual_time


def kill_myself() -> NoReturn:
    """SIGKILL: no handler, no ``finally``, no flush. (On Windows TerminateProcess, which is the same.)"""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    raise AssertionError("a killed process went on")


class _Alone(Deadly):
    """The connection of the only process there is, on virtual time: what changes is what it changes itself.

    Waiting for others would look at the file every few milliseconds, for a month.
    """

    def __init__(self, inner: Store, kill: Kill | None, passed: Callable[[str], object]) -> None:
        super().__init__(inner, kill, kill_myself, self._note)
        self._told = passed
        self._changed = asyncio.Event()

    async def wait_for_work(self, worker_key: WorkerKey | None, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                return await self._changed.wait()
        except TimeoutError:
            return False

    def _note(self, what: str) -> None:
        self._told(what)
        self._changed.set()
        self._changed = asyncio.Event()


def load(name: str) -> Workflow[..., Any]:
    """Import what ``module:name`` names.

    Raises:
        UsageError: It is not there.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise UsageError(
            f"a new process cannot import {module_name}: {error}. Nothing was run. Put the workflow in a module that can be "
            "imported from where the tests run, or use kill='simulated'."
        ) from error
    if not isinstance(found, Workflow):
        raise UsageError(
            f"in a new process {module_name} has no workflow {attribute}. Nothing was run. Define it there whoever imports it, "
            "or use kill='simulated'."
        )
    return cast("Workflow[..., Any]", found)


async def live(db: Path, order: Order) -> None:
    """Start or join the run, and drive it until it is at rest or this process is dead."""
    workflow, *others = [load(name) for name in order.workflows]
    kill = None if order.kill is None else Kill(*order.kill)
    with ExitStack() as stack:
        if order.is_virtual:
            virtual = stack.enter_context(virtual_time())
            clock = virtual.clock
            clock.passed = order.passed
            log = _Log(db, lambda: clock.passed, virtual.mark)
            store = SQLiteStore(db, now=clock.now, monotonic=clock.monotonic)
            connection: Deadly = _Alone(store, kill, log.note)
        else:
            log = _Log(db, lambda: 0, lambda: None)
            store = SQLiteStore(db)
            connection = Deadly(store, kill, kill_myself, log.note)
        async with EnvEngine(connection, [workflow, *others]) as engine:
            args, kwargs = workflow.arguments.decode(order.arguments)
            await engine.start(workflow(*args, **kwargs), id=RUN_ID)
            await engine.wait_until_rest(RUN_ID, None)
        await store.close()


class _Log:
    """Leaves a line for each durable point, before anything can happen that follows from it."""

    def __init__(self, db: Path, passed: Callable[[], Micros], mark: Callable[[], object]) -> None:
        self._file = os.open(db.with_suffix(".points"), os.O_WRONLY | os.O_APPEND)
        self._passed = passed
        self._mark = mark

    def note(self, what: str) -> None:
        """One write, so that a kill cannot split it."""
        self._mark()
        os.write(self._file, msgspec.json.encode(Passed(what, self._passed())) + b"\n")


def main() -> int:
    """Do what the order says."""
    db = Path(sys.argv[1])
    order = msgspec.json.decode(db.with_suffix(".order").read_bytes(), type=Order)
    try:
        asyncio.run(live(db, order))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_BEGIN
    except Stuck as error:
        sys.stderr.write(f"{error}\n")
        return STUCK
    return 0


if __name__ == "__main__":
    sys.exit(main())
