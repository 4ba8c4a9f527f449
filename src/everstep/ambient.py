"""
What running code can find out about where it runs.

Workflow code runs under a loop that carries a ``WorkflowScope``; a step's body runs with a ``StepScope`` in a context variable.
Outside both there is neither, and business code behaves as plain Python. Nothing here decides anything: the core and the
engine fill the scopes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime
from random import Random
from typing import Any, Protocol

from msgspec import Raw

from everstep.events import RequestReceived, RequestSettled
from everstep.records import ChildOptions, UndoRecord


class Asked(Protocol):
    """A step or child run that was asked for: a future with a name in the journal."""

    @property
    def key(self) -> str: ...
    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def result(self) -> Any: ...
    def exception(self) -> BaseException | None: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...
    def stop(self, *, cut_off: bool) -> None:
        """Ask that it come to an end, and go on waiting for its outcome. See ``StopRequested``. Safe to repeat."""
        ...


class Said(Protocol):
    """What a person decided about a step."""

    @property
    def result(self) -> Raw: ...
    @property
    def skipped(self) -> bool: ...


class UndoScope(Protocol):
    """What the run's sagas need (see ``everstep.core.undoing``)."""

    def opened(self, saga: Any) -> None:
        """A saga begins in this task."""
        ...

    def closed(self, saga: Any) -> None:
        """It is over."""
        ...

    def next_place(self) -> int:
        """The place of what is registered next."""
        ...

    def began(self, plan: Sequence[UndoRecord]) -> str:
        """A saga begins to undo."""
        ...

    def ended(self, key: str) -> None:
        """It has undone all."""
        ...

    @property
    def has_open(self) -> bool:
        """A saga is open."""
        ...

    def give_up(self, undo: UndoRecord, key: str, error: BaseException) -> Awaitable[Said | None]:
        """A compensation failed for good: the run is dead, and goes on from here when it is retried."""
        ...

    def hold(self, futures: Iterable[Any]) -> Awaitable[None]:
        """Wait until all of them are done; no cancel cuts that short."""
        ...

    def new_future(self) -> asyncio.Future[Any]:
        """A future of this run."""
        ...


class ChildScope(Protocol):
    """A child run, as the code that started it sees it."""

    @property
    def run_id(self) -> str: ...
    def wait(self) -> asyncio.Future[Any]:
        """Its outcome; may be asked for more than once."""
        ...

    def begun(self) -> asyncio.Future[None]:
        """Resolved once it exists; failed if its id belongs to another run."""
        ...

    def ask_to_stop(self, reason: str = "") -> None:
        """Ask it to stop."""
        ...

    def send(self, name: str, value: bytes, message_id: str) -> None:
        """Send it a signal, as JSON."""
        ...


class WorkflowScope(Protocol):
    """A run in memory, as its own code sees it."""

    @property
    def run_id(self) -> str: ...
    @property
    def workflow_name(self) -> str: ...
    @property
    def version(self) -> int:
        """Number of the entry that is being made or replayed."""
        ...

    @property
    def is_replaying(self) -> bool: ...
    @property
    def logged(self) -> Callable[[Any], Any]:
        """What of a value may go into logs."""
        ...

    @property
    def random(self) -> Random:
        """Seeded by the run: the same numbers on every replay."""
        ...

    def now(self) -> datetime:
        """The instant of this activation: the same on every replay."""
        ...

    @property
    def maybe(self) -> bool:
        """The run undoes something that may not have happened."""
        ...

    @property
    def undoing(self) -> UndoScope:
        """What sagas need."""
        ...

    def issue(self, call: Any, *, undoes: str | None = None, maybe: bool = False) -> Asked:
        """Ask for a step or a child run; as a compensation, with the key of what it undoes."""
        ...

    def start_child(self, call: Any, options: ChildOptions) -> ChildScope:
        """Ask for a child run that goes on by itself."""
        ...

    def next_signal(self, name: str) -> asyncio.Future[bytes]:
        """Ask for the next signal of that name, as JSON."""
        ...

    def publish(self, name: str, value: bytes) -> None:
        """Publish a state, as JSON."""
        ...

    def published(self, name: str) -> bytes | None:
        """The state that was published last, as JSON."""
        ...

    def milestone_began(self) -> None:
        """Enter a milestone."""
        ...

    def milestone_left(self, name: str) -> None:
        """Leave one; nameless if it was not reached."""
        ...

    def note(self, name: str, value: bytes) -> None:
        """Record a note, as JSON."""
        ...

    def patched(self, patch_id: str) -> bool:
        """Whether the run takes a change of its code."""
        ...

    def deprecate_patch(self, patch_id: str) -> None:
        """Mark the run as one that takes the change, without asking."""
        ...

    @property
    def requests(self) -> RequestScope:
        """What it has been asked."""
        ...

    def wait_until(self, predicate: Callable[[], bool]) -> asyncio.Future[None]:
        """Wait until the code itself has made this true."""
        ...


class RequestScope(Protocol):
    """The requests that a run has accepted, as its own code sees them."""

    def handle(
        self,
        name: str,
        serve: Callable[[RequestReceived], Coroutine[Any, Any, None]],
        judge: Callable[[RequestReceived], None],
    ) -> None:
        """Let ``serve`` answer requests of that name; ``judge`` raises if one is to be refused."""
        ...

    def next(self, name: str) -> asyncio.Future[RequestReceived]:
        """Ask for the next request of that name."""
        ...

    def settle(self, request: RequestReceived, outcome: Callable[[str], RequestSettled]) -> None:
        """Answer a request. ``outcome`` makes the event from its key."""
        ...

    def pending(self, name: str) -> int:
        """How many of that name have no answer yet."""
        ...


class StepScope(Protocol):
    """One attempt of one step, as its body sees it."""

    @property
    def run_id(self) -> str: ...
    @property
    def step(self) -> str:
        """Its name."""
        ...

    @property
    def key(self) -> str:
        """What the journal calls it; no two steps of a run have the same."""
        ...

    @property
    def run_token(self) -> str:
        """What no other run ever has: neither one that gets the same id later, nor a fork, nor one of another store."""
        ...

    def seal_witness(self, data: bytes) -> bytes:
        """Its encoded result, as it may be stored in a database of the user's."""
        ...

    def open_witness(self, data: bytes) -> bytes:
        """The opposite."""
        ...

    def logged(self, value: Any) -> Any:
        """What of a value may go into logs."""
        ...

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for the outcome of this attempt. Asked from the body's thread."""
        ...

    @property
    def attempt(self) -> int:
        """Counted from 1; executions lost to a killed worker count too."""
        ...

    @property
    def epoch(self) -> int:
        """The run's fencing token, for receivers that can compare it."""
        ...

    @property
    def deadline(self) -> datetime | None:
        """When the attempt times out."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, and for no other step: give it to receivers that deduplicate."""
        ...

    @property
    def maybe(self) -> bool:
        """It undoes a step that may not have had its effect."""
        ...

    @property
    def last_details(self) -> bytes | None:
        """JSON of the details that the last heartbeat of an earlier attempt left."""
        ...

    def beat(self, details: bytes | None) -> None:
        """Take note of a heartbeat, with JSON details or without. Called from the body's thread."""
        ...


step_scope: ContextVar[StepScope | None] = ContextVar("everstep_step", default=None)
transaction_scope: ContextVar[str] = ContextVar("everstep_transaction", default="")
"""In the body of a transactional step, its name: the store is held up by it, so it must not ask the store for anything."""


def workflow_scope() -> WorkflowScope | None:
    """The scope of the workflow whose code is running, or None outside."""
    # _get_running_loop is what get_running_loop calls; it returns None instead of raising, which is the common case here.
    return getattr(asyncio._get_running_loop(), "scope", None)
