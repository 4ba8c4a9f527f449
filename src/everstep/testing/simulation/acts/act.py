"""
An act: some runs of some workflows, the people who deal with them, and what must hold of both in the end.

A *script* is what a program outside does. Its process may crash at any point, and then it is begun again from the start: so it
does what programs should do, and repeats everything under the same ids and keys until it is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from everstep.client import Client, Handle
from everstep.definitions import Call, Workflow
from everstep.errors import RequestTimeout, RunTimeout, StoreUnavailable
from everstep.talk import Signal
from everstep.testing.simulation.outside import outside

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation

T = TypeVar("T")
Script = Callable[[Client], Awaitable[None]]

PATIENCE_SECONDS = 15.0


class Act:
    """See the module. Subclasses say what happens.

    Attributes:
        name: Prefix of its run ids.
        dice: Its own.
        workflows: What engines have to know.
        has_versions: Not all engines have the same code.
        is_alone: Nothing else may go on beside it.
    """

    workflows: Sequence[Workflow[..., Any]] = ()
    weight = 1
    has_versions = False
    is_alone = False

    def __init__(self, name: str, dice: Random) -> None:
        self.name = name
        self.dice = dice

    def prepare(self, simulation: Simulation) -> None:
        """Before anything happens."""

    def codes(self, number: int, dice: Random) -> Sequence[Workflow[..., Any]]:
        """What an engine knows that is booted now, in the role of this number."""
        return self.workflows

    def final_codes(self, number: int) -> Sequence[Workflow[..., Any]]:
        """The same, once all misfortune is over. Engines have the numbers 0 and 1, and perhaps more."""
        return self.workflows

    def scripts(self) -> Sequence[Script]:
        """What people do."""
        raise NotImplementedError

    def check(self) -> Iterator[str]:
        """What is wrong in the end."""
        yield from ()


async def insist(act: Callable[[], Awaitable[T]]) -> T:
    """Do it until it is known to be done."""
    while True:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await act()
        except (StoreUnavailable, TimeoutError, RunTimeout, RequestTimeout):
            await asyncio.sleep(0.1)


async def start(client: Client, call: Callable[[], Call[T]], run_id: str, **options: Any) -> Handle[T]:
    """Start a run, as a program does: with the same id until it is acknowledged."""
    handle = await insist(lambda: client.start(call(), id=run_id, **options))
    outside().starts[run_id] = outside().starts.get(run_id, 0) + 1
    return handle


async def send(client: Client, run_id: str, signal: Signal[T], value: T, key: str) -> None:
    """Send a signal until it is acknowledged."""
    await insist(lambda: client.handle(run_id).send(signal, value, key=key))
    outside().sent.append((run_id, signal.name, key))


async def result(handle: Handle[T]) -> T:
    """Wait for a result, however long it takes."""
    return await insist(lambda: handle.result(PATIENCE_SECONDS - 1))


async def until(holds: Callable[[], bool]) -> None:
    """Look twice a second: what others know outside tells nobody."""
    while not holds():  # noqa: ASYNC110  # processes share no event
        await asyncio.sleep(0.5)
