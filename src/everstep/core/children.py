"""
A child that was started by itself: it goes on whether or not anybody awaits it, and may be awaited any number of times. Pure.

    es.start ──▶ StartedChild ──── outcome ───▶ ChildWait, ChildWait, …     one for each await that is under way

What cancelling an await does to the child was said when it was started: ask it to stop and go on (``request``), ask it and wait
until it has ended (``wait``), or nothing (``abandon``). Each is what the *await* does: the child's outcome is kept either way,
and a later await gets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everstep.core.loop import ReplayFuture
from everstep.core.waits import Operation
from everstep.definitions import Call
from everstep.errors import RunConflict
from everstep.events import ChildStarted
from everstep.ids import is_derived

if TYPE_CHECKING:
    from everstep.core.program import Program


class StartedChild(Operation):
    """See the module. A future of the outcome that nobody awaits itself."""

    event: ChildStarted

    def __init__(self, program: Program, event: ChildStarted, call: Call[Any], args: bytes = b"") -> None:
        super().__init__(program, event, call, args)
        self._waits: list[ChildWait] = []
        self._beginnings: list[ReplayFuture[None]] = []
        self._has_begun = is_derived(event.run_id)  # It exists because the journal says so.

    # --- what the code asks -----------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.event.run_id

    def wait(self) -> ReplayFuture[Any]:
        """Its outcome."""
        wait = ChildWait(self)
        self._waits.append(wait)
        if self.done():
            self._tell()
        return wait

    def begun(self) -> ReplayFuture[None]:
        """Whether it exists: resolved if it does, failed if its id belongs to another run."""
        beginning: ReplayFuture[None] = self._program.loop.create_future()
        self._beginnings.append(beginning)
        if self._has_begun or self.done():
            self.begin()
        return beginning

    def ask_to_stop(self, reason: str = "") -> None:
        """Ask it to stop, once. One that has ended is asked nothing."""
        if not self.done():
            self._program.stop_child(self.event, reason)

    def send(self, name: str, value: bytes, message_id: str) -> None:
        """Send it a message. One that has ended takes none."""
        self._program.signal_child(self.event, name, value, message_id)

    # --- what it is told --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It exists; or it has ended, and then its outcome says whether it ever did."""
        self._has_begun = True
        refusal = self.exception() if self.done() else None
        for beginning in self._beginnings:
            if beginning.done():
                continue
            if isinstance(refusal, RunConflict):
                beginning.set_exception(refusal)
            else:
                beginning.set_result(None)
        self._beginnings.clear()

    def set_result(self, result: Any, /) -> None:
        super().set_result(result)
        self._tell()

    def set_exception(self, exception: Any, /) -> None:
        super().set_exception(exception)
        self.exception()  # Nobody need look at it: its own run has recorded it.
        self._tell()

    def _tell(self) -> None:
        for wait in self._waits:
            wait.follow()
        self._waits.clear()
        self.begin()

    def forget(self, wait: ChildWait) -> None:
        """This await is over."""
        self._waits.remove(wait)


class ChildWait(ReplayFuture[Any]):
    """One await of a child."""

    carries_result = True

    def __init__(self, child: StartedChild) -> None:
        super().__init__(loop=child.get_loop())  # type: ignore[arg-type]  # a child of this loop
        self._child = child
        self._stops = False

    def follow(self) -> None:
        """The child has its outcome."""
        error = self._child.exception()
        if self._stops:
            super().cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self.set_result(self._child.result())

    def cancel(self, msg: Any = None) -> bool:
        """Stop waiting, as was said when the child was started."""
        if self.done():
            return False
        mode = self._child.event.cancellation
        if self._loop.is_closing or mode == "abandon":
            return self._end(msg)
        self._child.ask_to_stop()
        if mode == "request":
            return self._end(msg)
        self._stops = True
        return True  # Taken care of: whoever awaits this is cancelled when the child has ended.

    def _end(self, msg: Any) -> bool:
        self._child.forget(self)
        return super().cancel(msg)
