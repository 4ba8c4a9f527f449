"""What an operator may do to one run: the methods of a handle that change what its code would have done."""

from __future__ import annotations

from everstep import repair
from everstep.client.connection import Connection


class Operated:
    """One run, as operators see it. Each of these is an entry of its journal, with the actor and the reason."""

    def __init__(self, client: Connection, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    async def pause(self, reason: str = "", *, actor: str = "") -> None:
        """Let the run stop where it is, soon: bodies that are being executed finish first. Safe to repeat.

        A paused run takes no step and no signal, and costs no memory; its timers keep their due time.

        Raises:
            IllegalState: It is at rest.
            RunNotFound: There is no such run.
        """
        await repair.pause(self._client, self.run_id, repair.check_by(reason, actor))

    async def resume(self, reason: str = "", *, actor: str = "") -> None:
        """Let a paused run go on, whatever paused it; code that refused it is tried again. Safe to repeat.

        Raises:
            IllegalState: It is at rest.
            RunNotFound: There is no such run.
        """
        await repair.resume(self._client, self.run_id, repair.check_by(reason, actor))

    async def retry(self, reason: str = "", *, actor: str = "") -> None:
        """Reopen a failed or dead run: its code begins again, and nothing that it finished is executed again.

        Finished steps and children are found by their place in the code, name and arguments, so corrected code gets the results
        of all that it still asks for. Timers keep their due time, signals are there again. What failed is done again, with the
        same idempotency key; an at-most-once step is not. A run that died while it undid its steps goes on undoing.

        Raises:
            IllegalState: The run has not failed; or its parent has been told of its failure (retry that one); or its steps have
                been undone.
            RunNotFound: There is no such run.
        """
        await repair.retry(self._client, self.run_id, repair.check_by(reason, actor))

    async def discard(self, reason: str = "", *, actor: str = "") -> None:
        """Give a failed, dead or paused run up for good: it ends as cancelled, and no more of its code is run.

        Raises:
            IllegalState: It is none of these.
            RunNotFound: There is no such run.
        """
        await repair.discard(self._client, self.run_id, repair.check_by(reason, actor))

    async def complete_step(self, step: str, result: object, reason: str = "", *, actor: str = "") -> None:
        """Say what a step came to that is unfinished or has failed. A failed run is retried with it.

        Args:
            step: Its name (the last one of that name) or its key, as the history shows it.
            result: Of the type that the step returns.
            reason: Recorded with it.
            actor: Who says so; recorded with it.

        Raises:
            IllegalState: The run is over, or has no such step.
            Unencodable: The result cannot be stored.
            RunNotFound: There is no such run.
        """
        by = repair.check_by(reason, actor)
        await repair.override(self._client, self.run_id, step, result, by, skip=False)

    async def skip_step(self, step: str, reason: str = "", *, actor: str = "") -> None:
        """Let the run go on without a step that is unfinished or has failed: the code gets None. See ``complete_step``."""
        by = repair.check_by(reason, actor)
        await repair.override(self._client, self.run_id, step, None, by, skip=True)
