"""
What a program knows of its sagas: which are open, which undo their steps now, and which cannot go on.

The sagas themselves are code of the workflow (``everstep.undo``) and decide what is to be undone. Here is what concerns the
run:

* Who waits on ``hold`` is not cancelled meanwhile: the cancel stays owed, so it never cuts an undoing short and is never lost.
* A saga whose compensation failed for good waits for ever, inside its ``async with``: no ``except`` of the user's gets to see
  it, so nothing can make a success of it. The run is dead, and lists what is left to undo.
* A run does not end while a saga is open in another task: that task is cancelled first, as asyncio does when a program ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import proxy

from everstep.codec import describe_error
from everstep.core.loop import HeldFuture, ReplayFuture
from everstep.core.undone import show_undo
from everstep.events import CompensationBegan, CompensationEnded, RunDied, StepOverridden
from everstep.records import UndoRecord

if TYPE_CHECKING:
    from everstep.core.loop import ReplayTask
    from everstep.core.program import Program


class OpenSaga(Protocol):
    """A saga, as far as its run is concerned."""

    def left(self) -> list[tuple[int, UndoRecord]]:
        """What it has still to undo, should it have to: each with its place."""
        ...


class Undoing:
    """See the module. One per program."""

    __slots__ = ("_began", "_decisions", "_given_up", "_last_place", "_open", "_program", "_told")

    def __init__(self, program: Program) -> None:
        self._program: Program = proxy(program)  # It knows this object.
        self._open: dict[OpenSaga, ReplayTask[Any] | None] = {}
        self._told: set[OpenSaga] = set()
        self._began: dict[str, str] = {}
        self._given_up: dict[str, HeldFuture[StepOverridden | None]] = {}
        self._decisions: dict[str, StepOverridden] = {}
        self._last_place = 0

    @property
    def is_compensating(self) -> bool:
        """Steps are being undone."""
        return bool(self._began)

    # --- called by sagas --------------------------------------------------------------------------------------------------

    def opened(self, saga: OpenSaga) -> None:
        """A saga begins, in the task that is running."""
        self._open[saga] = self._program.loop.running_task()

    def closed(self, saga: OpenSaga) -> None:
        """A saga is over: whatever it had to undo is undone, or another saga's now."""
        self._open.pop(saga, None)

    def next_place(self) -> int:
        """The place of what is registered next, among all sagas of the run: undone is in reverse order of these."""
        self._last_place += 1
        return self._last_place

    def began(self, plan: Sequence[UndoRecord]) -> str:
        """A saga begins to undo; returns what to call the end with."""
        if self._program.is_shut():
            return ""
        key = self._program.loop.next_key()
        self._program.record(CompensationBegan(key, tuple(plan)))
        self._began[key] = self._program.step
        return key

    def ended(self, key: str) -> None:
        """A saga has undone all."""
        # What the run was doing when it failed says more about it than what was undone last.
        self._program.step = self._began.pop(key, self._program.step)
        self._program.record(CompensationEnded(key))

    def give_up(self, undo: UndoRecord, key: str, error: BaseException) -> HeldFuture[StepOverridden | None]:
        """A compensation failed for good: the run is dead, and the saga stays where it is.

        Args:
            undo: What could not be undone.
            key: Command key of the compensation; of the step itself if there is none. What a person decides is about this.
            error: Why.

        Returns:
            Done when the run is retried: with what a person decided, or None to try again.
        """
        left = self._left()
        reason = (
            f"a saga could not undo {undo.step or 'what was registered by hand'}: "
            f"{f'{undo.undo} failed for good' if undo.undo else 'how is not known'}.\n"
            f"Left to undo, in this order: {', '.join(map(show_undo, left))}. Nothing more of that was executed, because sagas "
            "undo in reverse order. Remove the cause and retry the run: it goes on undoing where it stopped. Or undo this by "
            f"hand and say so with handle.skip_step({(undo.undo or undo.step)!r}): it goes on with the next."
        )
        self._program.ending = self._program.ending or RunDied(reason, left, describe_error(error))
        stuck: HeldFuture[StepOverridden | None] = HeldFuture(loop=self._program.loop)
        self._given_up[key] = stuck
        return stuck

    def hold(self, futures: Iterable[Any]) -> HeldFuture[None]:
        """A future that is done when all of these are, whatever they came to; see the module."""
        held: HeldFuture[None] = HeldFuture(loop=self._program.loop)
        pending = [future for future in futures if not future.done()]
        left = len(pending)

        def one_less(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                held.set_result(None)

        for future in pending:
            future.add_done_callback(one_less)
        if not pending:
            held.set_result(None)
        return held

    def new_future(self) -> ReplayFuture[Any]:
        """A future for sagas to wait for one another."""
        return self._program.loop.create_future()

    # --- called by the program ----------------------------------------------------------------------------------------------

    def decided(self, decision: StepOverridden) -> None:
        """A person said what a step came to: perhaps one that a saga is stuck at."""
        if decision.key in self._given_up:
            self._decisions[decision.key] = decision

    def go_on(self) -> None:
        """The run was reopened: sagas that could not undo try again, or do as a person decided."""
        given_up, self._given_up = self._given_up, {}
        for key, stuck in given_up.items():
            stuck.set_result(self._decisions.pop(key, None))

    def stop_stray(self) -> bool:
        """The main task is done: cancel the tasks that still hold a saga open, each once. Whether there were any."""
        stray = [saga for saga in self._open if saga not in self._told]
        self._told.update(stray)
        for saga in stray:
            task = self._open[saga]
            if task is None or task.done():
                del self._open[saga]  # It was never left, and now nobody can.
            else:
                task.cancel()
        return bool(stray)

    @property
    def has_open(self) -> bool:
        """A saga is open."""
        return bool(self._open)

    def _left(self) -> tuple[UndoRecord, ...]:
        placed = [each for saga in self._open for each in saga.left()]
        return tuple(record for _, record in sorted(placed, key=_place, reverse=True))


def _place(placed: tuple[int, UndoRecord]) -> int:
    return placed[0]
