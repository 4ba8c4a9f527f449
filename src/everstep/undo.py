"""
Sagas: steps that are undone, in reverse order, if what follows them does not work out.

    async with es.saga() as saga:
        flight = await saga.do(book_flight(trip), undo=cancel_flight)          # called with the step's result
        await saga.do(charge(trip), undo=refund(trip))                         # covers a charge that may have happened, too
        await confirm(trip)

The saga is ordinary code of the workflow: nothing of it is in the journal but the steps that it asks for, so a saga that works
out costs nothing. What it refuses, and why:

* To forget. A step's undo is kept from the moment in which the step is asked for, whoever is cancelled meanwhile; on the way
  out the saga waits until the outcome of every step is known, and only then undoes. (Undoing at once, a refund could overtake
  its charge.) A step that nobody waits for any more is told to stop, so the wait is short.
* To undo out of order. What was asked for last is undone first; a compensation that fails for good stops all that follow.
* To let that be handled away. A saga that cannot undo stays where it is, inside its ``async with``, and the run is dead.

Whether a step that raised needs to be undone:

    it returned                                               yes
    it raised                                                 no: a step that fails says that it did nothing
    it raised, after an attempt was lost with its worker      as ``maybe``, if the undo is a call: it can look
    it timed out, it is at-most-once and its worker died,     yes, as ``maybe``
    its result could not be stored, the child run is dead

The last kind has no result, so an undo that needs it cannot be made: then the saga has something that it cannot undo.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from itertools import count
from types import TracebackType
from typing import Any, NoReturn, Self, TypeGuard, TypeVar

from everstep.ambient import Asked, Said, UndoScope, WorkflowScope, step_scope, workflow_scope
from everstep.definitions import Call, Definition, Step, Workflow
from everstep.errors import (
    Evicted,
    NondeterminismError,
    PayloadTooLarge,
    RunDead,
    StepError,
    StepFailed,
    StepOutcomeUnknown,
    Unencodable,
    UsageError,
)
from everstep.records import UndoRecord

R = TypeVar("R")


class Saga:
    """A scope whose steps are undone if it is left with an exception. Made by ``es.saga()``; used once, with ``async with``."""

    def __init__(self) -> None:
        self._scope: WorkflowScope | None = None
        self._undoing: UndoScope = _nowhere
        self._undos: list[_Undo] = []
        self._outer: Saga | None = None
        self._before: Saga | None = None
        self._inner: list[Saga] = []
        self._is_open = False
        self._was_entered = False
        self._has_failed = False
        self._undone: asyncio.Future[None] | None = None

    async def do(self, call: Call[R], undo: Call[Any] | Callable[[R], Call[Any]]) -> R:
        """Await a step (or a child run), and see to it that it is undone if the saga does not work out.

        Args:
            call: The step. It runs as if it were awaited; a cancel lets it come to an end before anything is undone.
            undo: Its compensation, a step or a child run with retries of its own. As a call, it is fixed now, and covers a step
                whose outcome is unknown: its body then sees ``es.current().maybe``. As a function of the step's result (the
                step ``refund`` itself is one), it is called as soon as the result is there.

        Returns:
            What the step returned.

        Raises:
            UsageError: The saga is over, or ``undo`` is neither a call nor a function that returns one.
            Unencodable: The arguments of the undo cannot be stored. If they are fixed now, the step was not executed.
            StepFailed, StepTimeout, StepOutcomeUnknown, RunFailed, …: As awaiting the call would.
        """
        made = self._checked(call, undo)
        call.take()
        asked = self._issue(call)
        made.follow(call, asked)
        self._undos.append(made)
        try:
            result: R = await asyncio.shield(asked)
        except asyncio.CancelledError:
            made.stop()  # But go on waiting for its outcome: at the end of the scope.
            raise
        finally:
            if asked.done():
                made.settle()
        if made.why_not is not None:
            raise made.why_not
        return result

    def undo(self, call: Call[Any]) -> None:
        """Register a compensation by hand. Before a plain ``await`` of a step, it also covers one that fails.

        Raises:
            UsageError: The saga is over, or this is no call.
        """
        if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
            raise UsageError(f"saga.undo({call!r}) takes the call of a step or a workflow. Nothing was registered.")
        self._check_open(call)
        self._undos.append(_Undo(self._undoing.next_place(), call))

    # --- the scope ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._was_entered:
            raise UsageError("this saga was entered before. Nothing was begun. Make another one: es.saga().")
        inside = step_scope.get()
        if inside is not None:
            raise UsageError(
                f"a saga was begun inside the step {inside.step} of run {inside.run_id}. Nothing was begun: a step is one "
                "recorded unit. Use the saga in the workflow, around its steps."
            )
        self._scope = workflow_scope()
        if self._scope is not None:
            self._undoing = self._scope.undoing
        outer = _current.get()
        self._outer = _around(outer)
        if any(each._has_failed for each in _outwards(outer)):
            raise UsageError(
                "a saga was begun in a task that the saga around it left behind when it failed. Nothing was begun: what it did "
                "would not be undone. Wait inside a saga for every task that uses it; a TaskGroup does."
            )
        if self._outer is not None:
            self._outer._inner.append(self)
        self._before = _current.get()
        _current.set(self)
        self._is_open = self._was_entered = True
        self._undoing.opened(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.set(self._before)
        if isinstance(error, (Evicted, GeneratorExit, NondeterminismError)):
            self._is_open = False  # The run leaves memory, or cannot be driven by this code: nothing has been decided.
            return
        if self._is_open:  # Else the saga around it has failed and has taken over what this one did.
            self._is_open = False
            await (self._work_out() if error is None else self._take_back())
        self._undoing.closed(self)
        if self._outer is not None and self in self._outer._inner:
            self._outer._inner.remove(self)

    async def _work_out(self) -> None:
        """It was left without an exception: what it did is now the business of the saga around it, if there is one."""
        await self._wait()
        outer = _around(self._outer)
        for inner in self._inner:
            inner._outer = outer  # It lives on in a task of its own.
        if outer is not None:
            outer._undos += self._undos
            outer._inner += self._inner
        self._undos = []

    async def _take_back(self) -> None:
        """It was left with an exception: undo everything, also that of sagas inside that are still open in other tasks."""
        self._undone = self._undoing.new_future()
        self._has_failed = True
        for inner in _within(self):
            if inner._undone is None:
                inner._is_open, inner._has_failed = False, True
                self._undos += inner._undos
                inner._undos = []
        for undo in self._undos:
            undo.stop()
        await self._wait()
        self._undos = sorted((undo for undo in self._undos if undo.is_due), key=_Undo.place_of)
        if self._undos:
            key = self._undoing.began([undo.record() for undo in reversed(self._undos)])
            while self._undos:
                if await self._is_undone(self._undos[-1]):
                    self._undos.pop()
            self._undoing.ended(key)
        self._undone.set_result(None)

    async def _wait(self) -> None:
        """Until the outcome of every step is known, and sagas inside that undo already are done with it."""
        # No cancel cuts this short: one that comes now is delivered at the next await after the scope.
        while waiting := [*_running(self._undos), *_undoing(_within(self))]:
            await self._undoing.hold(waiting)
        for undo in self._undos:
            undo.settle()

    async def _is_undone(self, undo: _Undo) -> bool:
        """Undo it. False: a person wants it tried again, perhaps with what the step came to."""
        key, error = await self._try_to(undo)
        if error is None:
            return True
        said = await self._undoing.give_up(undo.record(), key, error)
        return said is not None and undo.is_settled_by(said)

    async def _try_to(self, undo: _Undo) -> tuple[str, BaseException | None]:
        """Undo it. Returns the key of what was tried, and why it failed for good, or None."""
        if undo.call is None:
            return undo.key, undo.why_not
        try:
            asked = self._issue(undo.call, undoes=undo.key, maybe=undo.is_maybe)
        except NondeterminismError:
            raise
        except Exception as error:  # noqa: BLE001  # the store's limits, say: it cannot be undone
            return undo.key, error
        await self._undoing.hold([asked])
        return asked.key, _error_of(asked)

    # --- for the run ----------------------------------------------------------------------------------------------------------

    def left(self) -> list[tuple[int, UndoRecord]]:
        """What it has still to undo, should it have to: each with its place."""
        return [(undo.place, undo.record()) for undo in self._undos if undo.is_due]

    # --- asking ---------------------------------------------------------------------------------------------------------------

    def _checked(self, call: Any, undo: Any) -> _Undo:
        if not _is_call(call):
            _close(undo)
            raise UsageError(
                f"saga.do({call!r}) takes the call of a step or a workflow. Nothing was executed. Call it: "
                "saga.do(charge(…), …)."
            )
        self._check_open(call, undo)
        if not _is_undo(undo):
            call.close()
            raise UsageError(
                f"saga.do({call!r}, undo={undo!r}): an undo is the call of a step, or a function that makes one of the step's "
                "result. Nothing was executed."
            )
        try:
            return _Undo(self._undoing.next_place(), undo)
        except BaseException:
            call.close()
            raise

    def _check_open(self, *calls: object) -> None:
        if not self._is_open:
            for call in calls:
                _close(call)
            raise UsageError(
                f"{calls[0]!r} was given to a saga that is not open: it was never entered, or is over. Nothing was executed or "
                "registered. Use the saga inside its `async with`, and wait there for every task that uses it."
            )

    def _issue(self, call: Call[Any], *, undoes: str | None = None, maybe: bool = False) -> Asked:
        if self._scope is None:
            return _Plain(_call_plainly(call))
        return self._scope.issue(call, undoes=undoes, maybe=maybe)


_current: ContextVar[Saga | None] = ContextVar("everstep_saga", default=None)


def saga() -> Saga:
    """A scope whose steps are undone in reverse order if it is left with an exception: ``async with es.saga() as saga``.

    While it undoes, the run's status is ``compensating``, and no cancel or time limit cuts that short; then the exception goes
    on. A compensation that fails for good ends the run as ``dead``, with a list of what is left to undo; no ``except`` around
    the saga gets to handle that. A saga inside another one hands what it did over to it when it has worked out.

    Outside a run nothing is recorded, and a compensation that fails simply raises.
    """
    return Saga()


class _Undo:
    """What is to be done about one step, as far as that is known."""

    def __init__(self, place: int, undo: Any) -> None:
        self.place = place
        self.step = ""
        self.key = ""
        self.source = ""
        self.asked: Asked | None = None
        self.call: Call[Any] | None = None
        self.is_maybe = False
        self.why_not: Exception | None = None
        self._make: Callable[[Any], Call[Any]] | None = None
        self._definition: Definition | None = None
        self._is_dropped = False
        if _is_call(undo):
            self.call = _Fixed(undo, undo.source)
        else:
            self._make = undo

    def follow(self, call: Call[Any], asked: Asked) -> None:
        """It is the undo of this step, which has just been asked for."""
        self._definition = call.definition
        self.step, self.source, self.key, self.asked = call.definition.name, call.source, asked.key, asked

    def place_of(self) -> int:
        """Where it stands in the order of asking."""
        return self.place

    @property
    def is_due(self) -> bool:
        """As far as is known, it has to be undone should the saga fail."""
        return not self._is_dropped

    def stop(self) -> None:
        """The saga has failed: what it still does may come to an end."""
        if self.asked is not None:
            # Whoever needs the result lets the body come to its end; the other undo works without.
            self.asked.stop(cut_off=self._make is None)

    def settle(self) -> None:
        """The step has its outcome: decide. Safe to repeat."""
        asked, self.asked = self.asked, None
        if asked is None:
            return
        error = _error_of(asked)
        if error is None:
            self._make_call(asked.result())
        elif not (_is_maybe(error) if self._make is None else _is_in_doubt(error)):
            self._is_dropped = True
        else:
            self.is_maybe = True
            if self._make is not None:
                self.why_not = StepOutcomeUnknown(
                    f"step {self.step} may have had its effect, and its undo needs its result, which is not known. It was not "
                    "undone. Find out and undo it by hand; for the next time, give saga.do an undo that works without the "
                    "result, such as undo=refund(order_id).",
                    step=self.step,
                    maybe=True,
                )

    def is_settled_by(self, said: Said) -> bool:
        """A person decided: that it is undone already, or what the step came to (then its undo can be made at last)."""
        if self.call is None and not said.skipped and self._definition is not None:
            self._make_call(self._definition.result.decode(bytes(said.result)))
            return False
        return True

    def _make_call(self, result: Any) -> None:
        # At once, not when it is needed: what a lambda refers to may have another value by then.
        if self._make is None:
            return
        try:
            call = self._make(result)
            if not _is_call(call):
                _not_a_call(self.step, call)
            # A step given as the function is called from here, which is no line of the user's.
            self.call = _Fixed(call, self.source if isinstance(self._make, Step | Workflow) else call.source)
        except Exception as error:  # noqa: BLE001  # code of the user's; the step has happened, so this is not to be lost
            self.why_not = error

    def record(self) -> UndoRecord:
        """For the journal."""
        return UndoRecord(
            undo="" if self.call is None else self.call.definition.name,
            step=self.step,
            key=self.key,
            maybe=self.is_maybe or self.asked is not None,
        )


class _Fixed(Call[Any]):
    """A call whose arguments are what they were when it was registered: a list that has grown since changes no undo."""

    __slots__ = ("_args",)

    def __init__(self, call: Call[Any], source: str) -> None:
        call.take()
        super().__init__(call.definition, call.args, call.kwargs, source)
        self.take()
        self._args = call.encoded()  # What cannot be stored is refused here, not when it is needed.

    def encoded(self) -> bytes:
        """The arguments."""
        return self._args


def _is_maybe(error: BaseException) -> bool:
    """Whether a step that raised this may have had its effect."""
    return isinstance(error, RunDead | asyncio.CancelledError) or (isinstance(error, StepError) and error.maybe)


def _is_in_doubt(error: BaseException) -> bool:
    """The same, if its last attempt did not say that it did nothing.

    After an attempt that was lost with its worker, the next one has the same idempotency key: what it says counts. Without this
    a crash before a refusal would end every such run dead, where an undo that needs no result simply looks.
    """
    if isinstance(error, StepFailed):
        return isinstance(error.__cause__, Unencodable | PayloadTooLarge)
    return _is_maybe(error)


def _error_of(asked: Asked) -> BaseException | None:
    return asyncio.CancelledError() if asked.cancelled() else asked.exception()


def _running(undos: Iterable[_Undo]) -> list[Asked]:
    return [undo.asked for undo in undos if undo.asked is not None and not undo.asked.done()]


def _within(saga: Saga) -> list[Saga]:
    """The sagas in it that are not over, and those in them."""
    inner = saga._inner  # pyright: ignore[reportPrivateUsage]
    return [each for one in inner for each in (one, *_within(one))]


def _undoing(sagas: Iterable[Saga]) -> list[asyncio.Future[None]]:
    """What to wait for where sagas undo already."""
    futures = [each._undone for each in sagas]  # pyright: ignore[reportPrivateUsage]
    return [future for future in futures if future is not None and not future.done()]


def _outwards(saga: Saga | None) -> Iterator[Saga]:
    """The saga, and those around it."""
    while saga is not None:
        yield saga
        saga = saga._outer  # pyright: ignore[reportPrivateUsage]


def _around(saga: Saga | None) -> Saga | None:
    """The innermost saga that is still open, from this one outwards."""
    return next((each for each in _outwards(saga) if each._is_open), None)  # pyright: ignore[reportPrivateUsage]


def _is_call(value: object) -> TypeGuard[Call[Any]]:
    return isinstance(value, Call)


def _is_undo(value: object) -> bool:
    return isinstance(value, Call) or callable(value)


def _close(call: object) -> None:
    """It will not be awaited, and needs no warning."""
    if isinstance(call, Call):
        call.close()


def _not_a_call(step: str, made: object) -> NoReturn:
    if asyncio.iscoroutine(made):
        made.close()
    raise UsageError(
        f"the undo of {step} returned {made!r}, which is not the call of a step or a workflow, so {step} cannot be undone. Let "
        "it return one: undo=lambda receipt: refund(receipt)."
    )


# --- outside a run: business code stays testable --------------------------------------------------------------------------


class _Plain(asyncio.Task[Any]):
    """A step that is simply called."""

    key = ""

    def stop(self, *, cut_off: bool) -> None:
        """Nobody waits for it any more."""
        if cut_off:
            self.cancel()


async def _call_plainly(call: Call[Any]) -> Any:
    result = call.definition.function(*call.args, **call.kwargs)
    return await result if inspect.isawaitable(result) else result


class _Nowhere:
    """What sagas need of a run, where there is none: nothing is recorded, and nothing held up."""

    def __init__(self) -> None:
        self._places = count(1)

    def opened(self, saga: Saga) -> None: ...
    def closed(self, saga: Saga) -> None: ...
    def ended(self, key: str) -> None: ...

    def next_place(self) -> int:
        return next(self._places)

    def began(self, plan: Sequence[UndoRecord]) -> str:
        return ""

    @property
    def has_open(self) -> bool:
        return False

    async def give_up(self, undo: UndoRecord, key: str, error: BaseException) -> Said | None:
        raise error

    async def hold(self, futures: Iterable[Any]) -> None:
        await asyncio.wait(list(futures))

    def new_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


_nowhere = _Nowhere()
