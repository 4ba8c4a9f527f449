"""
Requests: a message to a run that is answered, exactly once.

The asker waits for an answer of a declared type. The run answers with a function that it sets, or takes the requests one by
one; what it will not accept, a validator refuses before it leaves any trace in the run.

    quote = es.request("quote", Parcel, Price)

    quote.handle(price_of, validate=check)             answer: Price = await handle.ask(quote, Parcel(...), key="order-7")
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from msgspec import Raw

from everstep.ambient import RequestScope, workflow_scope
from everstep.codec import Undecodable, ValueCodec, codec_for, describe_error
from everstep.errors import ContinuedAsNew, UsageError
from everstep.events import RequestAnswered, RequestFailed, RequestReceived, RequestRefused
from everstep.ids import check_name

A = TypeVar("A")
B = TypeVar("B")
A_contra = TypeVar("A_contra", contravariant=True)
B_co = TypeVar("B_co", covariant=True)


class Question(Protocol[A_contra, B_co]):
    """A request, as its asker sees it: by its variance ``print(await handle.ask(…))`` has a type, too."""

    @property
    def name(self) -> str:
        """What the journal calls it."""
        ...

    def encode_ask(self, value: A_contra, /) -> bytes:
        """What is asked, as JSON."""
        ...

    def decode_answer(self, answer: bytes, /) -> B_co:
        """The answer of JSON."""
        ...


class Request(Generic[A, B]):
    """A typed question to a run, and its answer. Made by ``es.request``; asked with ``handle.ask``.

    Attributes:
        name: What the journal calls it.
    """

    def __init__(self, name: str, ask: type[A], answer: type[B]) -> None:
        self.name = check_name(name, "request")
        self._ask = ask
        self._answer = answer

    @cached_property
    def ask_codec(self) -> ValueCodec[A]:
        """What is asked, to bytes and back."""
        return codec_for(self._ask, root=self.name)

    @cached_property
    def answer_codec(self) -> ValueCodec[B]:
        """What is answered, to bytes and back."""
        return codec_for(self._answer, root=self.name)

    def encode_ask(self, value: A, /) -> bytes:
        """What is asked, as JSON. Raises Unencodable."""
        return self.ask_codec.encode(value)

    def decode_answer(self, answer: bytes, /) -> B:
        """The answer of JSON. Raises Undecodable."""
        return self.answer_codec.decode(answer)

    @property
    def pending(self) -> int:
        """How many requests this run has accepted and not answered. A validator may read it. Only in workflow code."""
        return self._scope("was counted").pending(self.name)

    def handle(self, handler: Callable[[A], Awaitable[B]], *, validate: Callable[[A], None] | None = None) -> None:
        """Let a function answer from here on; requests that wait already come first. Only in workflow code.

        Each request is answered by a task of its own, beside the workflow's other code: it may await steps, timers and
        signals like any other. If the function raises, the asker gets ``RequestFailed`` and the run goes on. When the run
        ends, what is not answered stays so: wait for it with ``await es.condition(lambda: quote.pending == 0)``.

        Args:
            handler: Answers; usually a coroutine function. A second call puts another in its place, for what arrives from then
                on.
            validate: Raises to refuse: then the request leaves no trace in the run, and the asker gets ``RequestRefused`` with
                the error's message. A plain function that reads the workflow's variables and changes nothing. It sees
                everything that was accepted before. (Requests that came before the workflow's code got here are in the journal
                already; they are refused just the same.)

        Raises:
            UsageError: Not in workflow code, ``validate`` is a coroutine function, or other code waits for the request.
        """
        scope = self._scope("was given a handler")
        if inspect.iscoroutinefunction(validate):
            raise UsageError(f"validate= of request {self.name} is a coroutine function: it may not wait. No handler was set.")

        async def serve(request: RequestReceived) -> None:
            try:
                asked = Asked(self, request)
                asked.answer(await handler(asked.value))
            except (Exception, asyncio.CancelledError, SystemExit, ContinuedAsNew) as error:  # noqa: BLE001  # whatever it raises is told
                described = describe_error(error)
                scope.settle(request, lambda key: RequestFailed(key, request.name, request.id, described))

        def judge(request: RequestReceived) -> None:
            value = self.ask_codec.decode(request.value)
            if validate is not None:
                validate(value)

        scope.handle(self.name, serve, judge)

    async def next(self, *, timeout: float | None = None) -> Asked[A, B]:
        """Take the next request; wait for it if there is none. In order, each once. Only in workflow code.

        One whose value is not of the declared type is refused and not taken.

        Args:
            timeout: Seconds to wait, durably; None for as long as it takes.

        Raises:
            TimeoutError: None came in time. One that comes later is still there for the next wait.
        """
        scope = self._scope("was awaited")
        async with asyncio.timeout(timeout):
            while True:
                request = await scope.next(self.name)
                try:
                    return Asked(self, request)
                except Undecodable as error:
                    reason = str(error)
                    scope.settle(request, lambda key: RequestRefused(key, request.name, request.id, reason))  # noqa: B023

    async def __aiter__(self) -> AsyncIterator[Asked[A, B]]:
        """Take one after the other, for as long as the run lives."""
        while True:
            yield await self.next()

    def __repr__(self) -> str:
        return f"<request {self.name}>"

    def _scope(self, what: str) -> RequestScope:
        scope = workflow_scope()
        if scope is None:
            raise UsageError(
                f"request {self.name} {what} outside a workflow. Nothing was recorded. Do it in the workflow's code; to ask "
                "from outside: await handle.ask(…)"
            )
        return scope.requests


class Asked(Generic[A, B]):
    """A request that the workflow's code has taken, to answer it now or later. Made by ``Request.next``.

    Attributes:
        value: What was asked.
        id: Names the request for ever: the asker's key, if there was one.
    """

    def __init__(self, request: Request[A, B], received: RequestReceived) -> None:
        self.value: A = request.ask_codec.decode(received.value)
        self.id = received.id
        self._request = request
        self._received = received

    def answer(self, value: B) -> None:
        """Answer it. The asker hears of it when this is committed, with whatever else the code did up to its next await.

        Raises:
            Unencodable: The answer cannot be stored. Nothing was answered.
            UsageError: It was answered before.
        """
        encoded = Raw(self._request.answer_codec.encode(value))
        name, id_ = self._received.name, self.id
        self._scope().settle(self._received, lambda key: RequestAnswered(key, name, id_, encoded))

    def refuse(self, reason: str) -> None:
        """Do not answer it: the asker gets ``RequestRefused``. Raises like ``answer``."""
        name, id_ = self._received.name, self.id
        self._scope().settle(self._received, lambda key: RequestRefused(key, name, id_, str(reason)))

    def _scope(self) -> RequestScope:
        return self._request._scope("was answered")  # pyright: ignore[reportPrivateUsage]

    def __repr__(self) -> str:
        return f"<request {self._received.name} {self.id}>"


def request(name: str, ask: type[A], answer: type[B]) -> Request[A, B]:
    """Define a request.

    Args:
        name: What the journal calls it.
        ask: The type of what is asked.
        answer: The type of the answer.
    """
    return Request(name, ask, answer)
