"""
The worker, as the drivers of its runs and their parts see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from everstep.definitions import Workflow
from everstep.engine.committer import Committer
from everstep.engine.steps import Tools
from everstep.payloads import Payloads
from everstep.records import Micros, WorkerKey

if TYPE_CHECKING:
    from everstep.engine.driver import Driver  # it is driven by a host


class Host(Protocol):
    """What the parts of a driver need of the worker.

    Attributes:
        worker_key: The token under which it owns runs.
        tools: What executing needs from outside.
        committer: Writes.
        payloads: How payloads are stored.
    """

    worker_key: WorkerKey
    tools: Tools
    committer: Committer
    payloads: Payloads

    def learn(self, workflow: Workflow[..., object]) -> None:
        """A child of this workflow will exist."""
        ...


class DriverHost(Host, Protocol):
    """What a driver tells the worker."""

    @property
    def is_lone(self) -> bool:
        """No other run is driven here."""
        ...

    def left(self, driver: Driver, wake_at: Micros | None) -> None:
        """The driver is done with its run: ended, parked, or lost."""
        ...

    def progressed(self, driver: Driver) -> None:
        """An entry landed."""
        ...

    def look(self) -> None:
        """Other runs have become due."""
        ...

    def replied(self, driver: Driver) -> None:
        """A request to the run has its reply."""
        ...
