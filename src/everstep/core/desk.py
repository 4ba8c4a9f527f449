"""
Requests that a run has accepted: who answers them, and which nobody has answered yet. Pure.

A name has a handler, or the code takes its requests one by one, or neither yet: then they wait. A handler runs as a task of the
workflow's loop, one for each request. Its objections are asked for *before* a request becomes an input, so that what is refused
leaves no trace in the journal; only those that were accepted before there was a handler are judged when it is set.

Whoever judges looks at the live program, between two activations, and replay will not do it again. So it must leave nothing
behind: while it looks, asyncio and everstep refuse it everything (``Bystander``), and what it manages to do all the same, by
way of objects that it reached, is noticed. A program that was disturbed so is good for nothing; the journal makes it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol
from weakref import proxy

from everstep.codec import describe_error
from everstep.core.loop import DeterministicLoop, ReplayFuture
from everstep.core.place import user_line
from everstep.errors import UsageError
from everstep.events import (
    RequestAwaited,
    RequestFailed,
    RequestHandlerSet,
    RequestReceived,
    RequestRefused,
    RequestSettled,
    RequestWaitCancelled,
)


class Teller(Protocol):
    """The program, as its desk sees it."""

    @property
    def run_id(self) -> str: ...
    @property
    def workflow_name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def loop(self) -> DeterministicLoop: ...

    def now(self) -> datetime: ...
    def published(self, name: str) -> bytes | None: ...
    def record(self, event: Any) -> Any:
        """Issue a command."""
        ...

    def is_shut(self) -> bool:
        """Nothing may start any more."""
        ...

    def traces(self) -> tuple[object, ...]:
        """Whatever shows that the program was touched."""
        ...


@dataclass(slots=True)
class Handler:
    """What answers the requests of a name.

    Attributes:
        serve: Answers one.
        judge: Raises if there is an objection; it may only look.
        path: Of its tasks, each with a number of its own.
        context: Of the code that set it.
        served: How many tasks it has had.
    """

    serve: Callable[[RequestReceived], Coroutine[Any, Any, None]]
    judge: Callable[[RequestReceived], None]
    path: str
    context: Context
    served: int = 0


class RequestWait(ReplayFuture[RequestReceived]):
    """The code waits for the next request of a name."""

    carries_result = True

    def __init__(self, desk: Desk, loop: DeterministicLoop, event: RequestAwaited) -> None:
        super().__init__(loop=loop)
        self._desk = desk
        self.event = event

    def cancel(self, msg: Any = None) -> bool:
        """Wait no longer: what arrives goes to the next wait."""
        if self.done():
            return False
        self._desk.stop_waiting(self)
        return super().cancel(msg)


class Desk:
    """See the module.

    Attributes:
        was_disturbed: A validator changed what it should only look at: the program must be dropped.
        has_received: There has been a request at all.
    """

    __slots__ = ("_handlers", "_open", "_program", "_waiting", "_waits", "has_received", "was_disturbed")

    def __init__(self, program: Teller) -> None:
        self._program: Teller = proxy(program)  # It knows this object.
        self._handlers: dict[str, Handler] = {}
        self._waiting: dict[str, deque[RequestReceived]] = {}
        self._waits: dict[str, deque[RequestWait]] = {}
        self._open: dict[tuple[str, str], RequestReceived] = {}
        self.was_disturbed = False
        self.has_received = False

    def close(self) -> None:
        """Nobody waits any more: waits refer to this object."""
        self._waits.clear()

    # --- what the engine asks -----------------------------------------------------------------------------------------------

    def has_handler(self, name: str) -> bool:
        """Requests of that name are judged before they are accepted."""
        return name in self._handlers

    def judge(self, request: RequestReceived) -> RequestReceived | RequestSettled:
        """Decide about a request that wants to become an input: the input, or why it becomes none."""
        handler = self._handlers.get(request.name)
        if handler is None:
            return request
        before = self._program.traces()
        objection = self._objection(handler, request)
        if self._program.traces() != before:
            self.was_disturbed = True
            return RequestFailed("", request.name, request.id, describe_error(_trespass(self._program.run_id, request.name)))
        return RequestReceived(request.name, request.value, request.id, True) if objection is None else objection("")

    def unanswered(self) -> list[RequestReceived]:
        """What was accepted and has no answer, in the order in which it arrived."""
        return list(self._open.values())

    # --- inputs -------------------------------------------------------------------------------------------------------------

    def receive(self, request: RequestReceived) -> None:
        """A request was accepted."""
        self.has_received = True
        self._open[request.name, request.id] = request
        handler, waits = self._handlers.get(request.name), self._waits.get(request.name)
        if handler is not None:
            self._serve(handler, request)
        elif waits:
            waits.popleft().set_result(request)
        else:
            self._waiting.setdefault(request.name, deque()).append(request)

    # --- called by user code ------------------------------------------------------------------------------------------------

    def handle(
        self,
        name: str,
        serve: Callable[[RequestReceived], Coroutine[Any, Any, None]],
        judge: Callable[[RequestReceived], None],
    ) -> None:
        """From here on requests of that name are answered by ``serve``. Those that wait already are judged now."""
        program = self._program
        if program.is_shut():
            return
        if self._waits.get(name):
            raise UsageError(
                f"request {name} is awaited by code that answers it itself. No handler was set. Do one or the other at a time."
            )
        program.record(RequestHandlerSet(program.loop.next_key(), name, user_line()))
        handler = self._handlers[name] = Handler(serve, judge, program.loop.reserve_path(), copy_context())
        for request in self._waiting.pop(name, ()):
            objection = None if request.judged else self._objection(handler, request)
            if objection is None:
                self._serve(handler, request)
            else:
                self._settle(objection(program.loop.next_key()))

    def next(self, name: str) -> RequestWait | ReplayFuture[Any]:
        """The next request of that name, or a wait for it."""
        program = self._program
        if program.is_shut():
            return program.loop.create_future()
        if name in self._handlers:
            raise UsageError(
                f"request {name} has a handler, which gets what arrives. Nothing was awaited. Do one or the other."
            )
        wait = RequestWait(self, program.loop, program.record(RequestAwaited(program.loop.next_key(), name, user_line())))
        waiting = self._waiting.get(name)
        if waiting:
            wait.set_result(waiting.popleft())
        else:
            self._waits.setdefault(name, deque()).append(wait)
        return wait

    def stop_waiting(self, wait: RequestWait) -> None:
        """The code no longer waits."""
        if not self._program.loop.is_closing:
            self._waits[wait.event.name].remove(wait)
            self._program.record(RequestWaitCancelled(wait.event.key))

    def settle(self, request: RequestReceived, outcome: Callable[[str], RequestSettled]) -> None:
        """Answer a request, for good. ``outcome`` makes the event from its key."""
        if self._program.is_shut():
            return
        if (request.name, request.id) not in self._open:
            raise UsageError(
                f"request {request.name} {request.id} was answered before. Nothing was changed: the first answer stays."
            )
        self._settle(outcome(self._program.loop.next_key()))

    def pending(self, name: str) -> int:
        """How many requests of that name were accepted and have no answer yet."""
        return sum(each == name for each, _ in self._open)

    # --- inside ---------------------------------------------------------------------------------------------------------------

    def _settle(self, event: RequestSettled) -> None:
        self._program.record(event)
        del self._open[event.name, event.id]

    def _serve(self, handler: Handler, request: RequestReceived) -> None:
        handler.served += 1
        self._program.loop.start_at(f"{handler.path}.{handler.served}", handler.serve(request), handler.context.copy())

    def _objection(self, handler: Handler, request: RequestReceived) -> Callable[[str], RequestSettled] | None:
        """Why a request is not accepted, as a function of the key under which that is recorded; None if it is."""
        bystander = Bystander(self._program, self, request.name)
        error: BaseException | None = None
        try:
            self._program.loop.look(bystander, lambda: handler.context.copy().run(handler.judge, request))
        except (Exception, SystemExit) as raised:  # noqa: BLE001  # whatever it raises is an objection
            error = raised
        if bystander.trespassed:
            record = describe_error(_trespass(self._program.run_id, request.name, bystander.trespassed))
            return lambda key: RequestFailed(key, request.name, request.id, record)
        if error is None:
            return None
        described = describe_error(error)
        reason = described.message or described.type.removeprefix("builtins.")
        return lambda key: RequestRefused(key, request.name, request.id, reason)


class Bystander:
    """The loop, and the scope, of code that may look at a run and touch nothing."""

    is_replaying = False
    maybe = False

    def __init__(self, program: Teller, desk: Desk, request: str) -> None:
        self._program = program
        self._desk = desk
        self._request = request
        self.trespassed = ""
        self.scope = self.requests = self
        self.run_id = program.run_id
        self.workflow_name = program.workflow_name
        self.version = program.version

    def now(self) -> datetime:
        """The instant of the newest activation."""
        return self._program.now()

    def published(self, name: str) -> bytes | None:
        """The state that was published last."""
        return self._program.published(name)

    def pending(self, name: str) -> int:
        """How many requests of that name wait for an answer."""
        return self._desk.pending(name)

    def __getattr__(self, name: str) -> NoReturn:
        self.trespassed = name
        raise _trespass(self._program.run_id, self._request, name)


def _trespass(run_id: str, request: str, what: str = "") -> UsageError:
    did = f" (it asked for {what})" if what else ""
    return UsageError(
        f"run {run_id}: the validator of request {request} did more than look{did}. The request was not accepted. Let it read "
        "the workflow's variables and raise to refuse; what changes something belongs into the handler."
    )
