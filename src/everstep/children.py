"""
Children with options: ``es.start(call, …)`` in a workflow, and the handle that it returns.

    await report(day)                                   # a child run, awaited: the plain way
    child = es.start(report(day), tags={"day": day})    # the same in the background: it goes on while this code does
    text = await child

A child without an id of its own exists iff the parent's journal says so: no crash can start it twice, or lose it. Given an id,
the store has to say whether that was free: ``await child.started()``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Generic, TypeVar, cast, get_args

from msgspec.structs import replace

from everstep.ambient import ChildScope, workflow_scope
from everstep.definitions import Call, Workflow, require_call
from everstep.errors import UsageError
from everstep.ids import check_run_id
from everstep.queues import Queue, place_in
from everstep.records import Cancellation, ChildOptions, OnParentClose, Place
from everstep.talk import Signal

R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class ChildHandle(Generic[R_co]):
    """A child run, as its parent's code sees it. Made by ``es.start``; awaiting it gives the result, as often as one likes.

    Awaiting raises what ``await workflow(…)`` raises: ``RunFailed``, ``RunCancelled``, ``RunDead``; and ``RunConflict`` if the
    child's id belongs to another run.
    """

    def __init__(self, child: ChildScope) -> None:
        self._child = child

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._child.wait().__await__()

    def __repr__(self) -> str:
        return f"<child {self.run_id}>"

    @property
    def run_id(self) -> str:
        """Its id: for ``client.handle``, the command line, another run."""
        return self._child.run_id

    async def started(self) -> None:
        """Wait until it is certain that the child exists. At once, unless it was given an id.

        Raises:
            RunConflict: The id belongs to another run. That run is untouched.
        """
        await self._child.begun()

    def cancel(self, reason: str = "") -> None:
        """Ask it to stop, with the next entry of the journal; it may clean up. Safe to repeat. Its end: await the handle."""
        self._child.ask_to_stop(reason)

    def send(self, signal: Signal[T], value: T, *, key: str = "") -> None:
        """Send it a signal, with the next entry of the journal. One that has ended by then takes none, and nobody is told.

        Args:
            signal: Which.
            value: Of the signal's type.
            key: A second one with the same key is ignored, whoever sends it.

        Raises:
            Unencodable: The value cannot be stored. Nothing was sent.
        """
        self._child.send(signal.name, signal.codec.encode(value), key)


def start(
    call: Call[R],
    *,
    id: str | None = None,  # noqa: A002  # the API's word
    tags: Mapping[str, str] | None = None,
    timeout: float | None = None,
    queue: Queue | None = None,
    key: str | None = None,
    priority: int | None = None,
    delay: float = 0.0,
    on_parent_close: OnParentClose = "cancel",
    cancellation: Cancellation = "request",
) -> ChildHandle[R]:
    """Start a child run that goes on beside this code. Only in workflow code; elsewhere it is ``engine.start``.

    Args:
        call: A call of a workflow; it is used up.
        id: The child's id; None for one derived from this run's.
        tags: Put on the child.
        timeout: Seconds that it may take in all; None for its workflow's own limit.
        queue: Where it waits until there is room for it. Not a queue in which this run holds a place that the child may need.
        key: Its key in the queue.
        priority: Lower ones go first; for a queue that has ``priority=True``.
        delay: Seconds before it may begin.
        on_parent_close: What becomes of it if it still runs when this run's code is finished, however that ended. ``cancel``:
            it is asked to stop, and the run ends. ``abandon``: it goes on by itself, and its result is for nobody. ``wait``:
            the run ends only once it has ended; a cancel of the run meanwhile asks it to stop. (A run that is given up as dead
            waits for nobody: such a child goes on.)
        cancellation: What happens when code that awaits the handle is cancelled. ``request``: the child is asked to stop, the
            await ends at once. ``wait``: it is asked to stop, the await ends when it has ended. ``abandon``: the await ends,
            the child goes on.

    Raises:
        UsageError: Not in a workflow, no call of a workflow, or an option is wrong. Nothing was started.
        Unencodable: An argument cannot be stored. Nothing was started.
        CallAlreadyUsed: The call was used before.
    """
    require_call(call, "es.start")
    try:
        options = _checked(call, id, tags, timeout, on_parent_close, cancellation)
        options = replace(options, place=_place_in(queue, key, priority), delay=_check_delay(delay))
        scope = workflow_scope()
        if scope is None:
            raise UsageError(
                f"es.start({call!r}) was called outside a workflow. Nothing was started. Programs start runs with "
                "engine.start(…), scripts with es.run(…); in a step, return to the workflow first."
            )
        call.take()
        child = scope.start_child(call, options)
    except BaseException:
        call.close()
        raise
    return ChildHandle(child)


def _place_in(queue: Queue | None, key: str | None, priority: int | None) -> Place:
    place = place_in(queue, key, priority)
    if place.dedupes:
        raise UsageError(
            f"queue {place.queue} has one run per key, and a child is its parent's own: no other run can stand in for it. "
            "Nothing was started. Use a queue without dedupe=True, or a step that starts the run."
        )
    return place


def _check_delay(delay: float) -> float:
    if 0 <= delay < float("inf"):
        return delay
    raise UsageError(f"delay={delay!r}: give a finite number of seconds, at least 0. Nothing was started.")


def _checked(
    call: Call[Any],
    run_id: str | None,
    tags: Mapping[str, str] | None,
    timeout: float | None,
    on_parent_close: OnParentClose,
    cancellation: Cancellation,
) -> ChildOptions:
    if not isinstance(call.definition, Workflow):
        raise UsageError(
            f"{call!r} is a call of a step. Only a workflow can be started as a child. Nothing was started. Await the step, or "
            "use asyncio.create_task to go on beside it."
        )
    if timeout is not None and not 0 < timeout < float("inf"):
        raise UsageError(
            f"timeout={timeout!r}: give a positive number of seconds, or None for the workflow's own. Nothing was started."
        )
    for name, given, known in (
        ("on_parent_close", on_parent_close, get_args(OnParentClose)),
        ("cancellation", cancellation, get_args(Cancellation)),
    ):
        if given not in known:
            choices = ", ".join(map(repr, cast("tuple[str, ...]", known)))
            raise UsageError(f"{name}={given!r} is not known. Nothing was started. Give one of {choices}.")
    return ChildOptions(
        run_id="" if run_id is None else check_run_id(run_id),
        tags=dict(tags or {}),
        timeout=timeout,
        on_parent_close=on_parent_close,
        cancellation=cancellation,
    )
