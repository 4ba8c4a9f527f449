"""
How a run leaves this worker before its time: lost to somebody else, paused with a verdict, or to be begun anew.

    abandon ─────▶ write nothing: another owner's word counts, or nobody knows
    pause ───────▶ a last entry with the verdict ─▶ landed: paused · anything else: abandoned
    start_over ──▶ a last entry with the outcomes that only memory has ─▶ due at once, for anybody

From the moment it leaves, nothing of the run is executed here and no input reaches its code.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from everstep.engine.facts import Ended
from everstep.engine.host import Host
from everstep.engine.parts import NOWHERE, Flow, Parts
from everstep.engine.verdicts import Verdict, of_code
from everstep.errors import EverstepError
from everstep.records import Micros, Status
from everstep.stores.base import Append, Landed, Outcome

logger = logging.getLogger("everstep")


class Leaving:
    """See the module.

    Attributes:
        flow: The driver, until the run has left.
        is_over: The driver is done with its run, or only waits for its last entry to land.
        is_in_doubt: It left without knowing whether the run is still this worker's.
        ended: Resolved when it has left: with how the run ended, or None if it goes on elsewhere or later.
    """

    __slots__ = ("_host", "_parts", "ended", "flow", "is_in_doubt", "is_over")

    def __init__(self, flow: Flow, host: Host, parts: Parts) -> None:
        self.flow = flow
        self.is_over = False
        self.is_in_doubt = False
        self.ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self._host = host
        self._parts = parts

    @property
    def fingerprint(self) -> str:
        """Of the code that drives the run, and of the keys it has: another worker may have others, with the same code."""
        return f"{self._parts.execution.program.workflow.fingerprint}{self._host.payloads.fingerprint}"

    def leave(self, ended: Ended | None, wake_at: Micros | None) -> None:
        """It is no longer driven here."""
        if self.is_over:
            return
        self.is_over = True
        self._parts.drop()
        flow, self.flow = self.flow, NOWHERE
        flow.left(wake_at)
        if not self.ended.done():
            self.ended.set_result(ended)

    def abandon(self) -> None:
        """Somebody else owns the run, or may: stop everything, write nothing."""
        self.is_in_doubt = True
        self.leave(None, None)

    def pause_for_other_code(self, error: Exception) -> None:
        """This code cannot drive the run: other code may."""
        if not isinstance(error, EverstepError):
            self.log(error, "cannot be driven")
        self.pause(of_code(error, self.fingerprint))

    def pause(self, verdict: Verdict) -> None:
        """Append the verdict after the newest entry that has landed."""
        run_id = self._parts.facts.run_id

        def answered(append: Append, outcome: Outcome) -> None:
            if isinstance(outcome, Landed):
                level = logging.INFO if verdict.is_expected else logging.ERROR
                said = verdict.said(run_id, is_discreet=self._parts.execution.keeper.is_discreet)
                logger.log(level, "run %s is paused: %s", run_id, said)
                self.leave(Ended(run_id, Status.PAUSED, append.step, append.entry.events), None)
            else:
                self.abandon()

        self._end_with(verdict, answered)

    def start_over(self) -> None:
        """Drop this memory, and let the run be claimed and replayed anew, by anybody."""

        def answered(append: Append, outcome: Outcome) -> None:
            if append.replies and isinstance(outcome, Landed):
                self.flow.replied()
            self.leave(None, append.wake_at)

        self._end_with(None, answered)

    def log(self, error: Exception, what: str) -> None:
        """Tell whoever operates this worker of a fault; with its message and traceback unless these are not to be seen."""
        seen = None if self._parts.execution.keeper.is_discreet else error
        logger.error("run %s %s: %s", self._parts.facts.run_id, what, type(error).__name__, exc_info=seen)

    def _end_with(self, verdict: Verdict | None, done: Callable[[Append, Outcome], None]) -> None:
        append = self._parts.drafts.of_end(verdict, self._parts.underway.rows())
        self._parts.drop()
        self.is_over = True

        def answered(outcome: Outcome) -> None:
            self.is_over = False
            done(append, outcome)

        self._host.committer.submit(append, answered)
