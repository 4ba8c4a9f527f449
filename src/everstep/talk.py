"""
How a run talks with the outside: signals in, state and notes out, and waiting for what its own code brings about.

Each is a value defined once, at module level, and named; the type says what may pass. What arrives is queued per name and
taken in order, once; what is published belongs to the journal entry in which it was published, so it can be read at any
version.

    approval = es.signal("approval", Decision)        progress = es.state("progress", Progress)

    decision = await approval.wait(timeout=3600)      progress.set(Progress(done=3, of=7))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar, overload

from everstep.ambient import WorkflowScope, workflow_scope
from everstep.codec import ValueCodec, codec_for
from everstep.errors import UsageError
from everstep.ids import check_name

T = TypeVar("T")
D = TypeVar("D")


class _Missing:
    """No default was given: ``None`` is one that may be."""


_MISSING = _Missing()


class Signal(Generic[T]):
    """A typed message to a run. Made by ``es.signal``; sent with ``handle.send``.

    Attributes:
        name: What the journal calls it.
    """

    def __init__(self, name: str, kind: type[T]) -> None:
        self.name = check_name(name, "signal")
        self._kind = kind

    @cached_property
    def codec(self) -> ValueCodec[T]:
        """Values to bytes and back."""
        return codec_for(self._kind, root=self.name)

    @overload
    async def wait(self, *, timeout: float | None = None) -> T: ...
    @overload
    async def wait(self, *, timeout: float | None = None, default: D) -> T | D: ...
    async def wait(self, *, timeout: float | None = None, default: Any = _MISSING) -> Any:
        """Take the next one; wait for it if there is none. In order, each once. Only in workflow code.

        Args:
            timeout: Seconds to wait, durably; None for as long as it takes.
            default: What to return after the timeout; without it a TimeoutError is raised.

        Raises:
            TimeoutError: None came in time, and there is no default. One that comes later is still there for the next wait.
        """
        scope = _scope(f"signal {self.name} was awaited")
        try:
            async with asyncio.timeout(timeout):
                return self.codec.decode(await scope.next_signal(self.name))
        except TimeoutError:
            if isinstance(default, _Missing):
                raise
            return default

    def message(self, value: T, *, key: str = "") -> SignalMessage:
        """The signal with a value, to be sent by whoever starts the run.

        Args:
            value: Of the signal's type.
            key: A second one with the same key is ignored: give one if the start may be repeated.

        Raises:
            Unencodable: The value cannot be stored.
        """
        return SignalMessage(self.name, self.codec.encode(value), key)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Take one after the other, for as long as the run lives."""
        while True:
            yield await self.wait()

    def __repr__(self) -> str:
        return f"<signal {self.name}>"


@dataclass(frozen=True, slots=True)
class SignalMessage:
    """A signal with its value, to be sent. Made by ``Signal.message``, for ``start(…, send=…)``.

    Attributes:
        name: Of the signal.
        value: As JSON.
        key: A second one with the same key is ignored; empty for none.
    """

    name: str
    value: bytes
    key: str = ""


class State(Generic[T]):
    """A value that a run publishes about itself. Made by ``es.state``; read with ``handle.snapshot``.

    Attributes:
        name: Its name in the snapshot's payload.
    """

    def __init__(self, name: str, kind: type[T]) -> None:
        self.name = check_name(name, "state")
        self._kind = kind

    @cached_property
    def codec(self) -> ValueCodec[T]:
        """Values to bytes and back."""
        return codec_for(self._kind, root=self.name)

    def set(self, value: T) -> None:
        """Publish a value; it becomes visible with the next entry of the journal. Only in workflow code.

        Raises:
            Unencodable: It cannot be stored.
        """
        _scope(f"state {self.name} was set").publish(self.name, self.codec.encode(value))

    def get(self) -> T | None:
        """The value that this run published last (a copy), or None."""
        published = _scope(f"state {self.name} was read").published(self.name)
        return None if published is None else self.codec.decode(published)

    def __repr__(self) -> str:
        return f"<state {self.name}>"


def signal(name: str, kind: type[T]) -> Signal[T]:
    """Define a signal.

    Args:
        name: What the journal calls it.
        kind: The type of what is sent.
    """
    return Signal(name, kind)


def state(name: str, kind: type[T]) -> State[T]:
    """Define a state that runs publish.

    Args:
        name: Its name in the snapshot's payload.
        kind: The type of its values.
    """
    return State(name, kind)


def note(name: str, value: object = None) -> None:
    """Record why: a decision worth auditing, kept in the journal. Only in workflow code.

    Args:
        name: What was decided.
        value: JSON-like, or of a type that encodes by itself.

    Raises:
        Unencodable: The value cannot be stored.
    """
    scope = _scope(f"note {name} was made")
    encoded = b"null" if value is None else codec_for(type(value), root=name).encode(value)
    scope.note(check_name(name, "note"), encoded)


async def condition(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
    """Wait until something holds that the workflow's own code brings about. Only in workflow code.

    Args:
        predicate: Looked at whenever the code has gone as far as it can; it must be quick and change nothing.
        timeout: Seconds to wait, durably; None for as long as it takes.

    Returns:
        Whether it came to hold: False after the timeout.
    """
    scope = _scope("a condition was awaited")
    if predicate():
        return True
    try:
        async with asyncio.timeout(timeout):
            await scope.wait_until(predicate)
    except TimeoutError:
        return False
    return True


def _scope(what: str) -> WorkflowScope:
    scope = workflow_scope()
    if scope is None:
        raise UsageError(f"{what} outside a workflow. Nothing was recorded. Do it in the workflow's code, not in a step.")
    return scope
