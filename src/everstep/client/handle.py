"""One run, from outside: its result, its state and history, what it is told and asked."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Generic, TypeVar

from everstep import repair
from everstep.asking import Question
from everstep.client.connection import Connection
from everstep.client.operated import Operated
from everstep.client.outcomes import result_of
from everstep.client.views import HistoryEntry, UndeliveredSignal
from everstep.client.why import Hindrance
from everstep.core.diff import Change, changes
from everstep.core.payloads import read_events
from everstep.core.progress import Progress, progress
from everstep.core.snapshots import Snapshot, fold, instant
from everstep.definitions import Workflow
from everstep.events import CancelRequested
from everstep.journal import Entry, verify_chain
from everstep.records import Status
from everstep.talk import Signal

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Handle(Operated, Generic[R_co]):
    """One run, from outside. Made by ``start`` and ``handle``; awaiting it gives the result."""

    def __init__(self, client: Connection, run_id: str, workflow: Workflow[..., Any] | None) -> None:
        super().__init__(client, run_id)
        self._workflow = workflow

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<run {self.run_id}>"

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait for the run's result.

        Args:
            timeout: Seconds to wait; None for as long as it takes, 0 to look once.

        Raises:
            RunFailed: The workflow raised; ``__cause__`` is what.
            RunCancelled: It was cancelled.
            RunDead: It was given up.
            RunPaused: It is paused and cannot go on by itself.
            RunTimeout: It has no result yet. The run goes on.
            RunNotFound: There is no such run.
            PayloadKeyMissing: It is encrypted with a key that this client was not given.
        """
        run = await self._client.wait_until_rest(self.run_id, timeout)
        value: R_co = result_of(run, self._workflow, self._client.payloads)
        return value

    async def status(self) -> Status:
        """Where the run stands now."""
        return (await self._client.get(self.run_id)).status

    async def why(self) -> tuple[Hindrance, ...]:
        """Why the run is not running: what it waits for now, with the evidence. Empty if a worker is driving it. Reads only.

        Raises:
            RunNotFound: There is no such run.
        """
        return await self._client.why(self.run_id)

    async def snapshot(self, version: int | None = None) -> Snapshot:
        """The state envelope after a version; None for the newest. Reads only; the hash chain is verified first.

        Raises:
            CorruptJournal: The journal was altered.
            PayloadKeyMissing: It is encrypted with a key that this client was not given.
            UsageError: There is no such version.
        """
        run, entries = await self._client.load_journal(self.run_id)
        reader = self._client.payloads.viewer(self.run_id)
        return fold(entries, run, version, shared=await self._client.shared_history(run), reader=reader)

    async def diff(self, v1: int, v2: int | None = None) -> list[Change]:
        """What changed in the run's state from one version to another: a place, what it was, what it became.

        Args:
            v1: The version to compare with. It may be the newer one.
            v2: The version to describe; None for the newest.

        Returns:
            One change per place, in the order of the state at ``v2``; empty if there is no difference.

        Raises:
            CorruptJournal: The journal was altered.
            UsageError: There is no such version.
        """
        run, entries = await self._client.load_journal(self.run_id)
        shared, reader = await self._client.shared_history(run), self._client.payloads.viewer(self.run_id)
        before, after = (fold(entries, run, version, shared=shared, reader=reader).payload for version in (v1, v2))
        return changes(before, after)

    async def progress(self) -> Progress:
        """What the run is doing: open steps since when, the attempt that is next, why the last one failed. Reads only.

        Raises:
            CorruptJournal: The journal was altered.
            RunNotFound: There is no such run.
        """
        run, entries = await self._client.load_journal(self.run_id)
        # Lenient: all but the text of the last failure can be told without any key.
        reader = self._client.payloads.viewer(self.run_id, lenient=True)
        rows = reader.open_rows(await self._client.store.attempts(run.run_key))
        return progress(run, entries, rows, self._client.store.now())

    async def history(self) -> list[HistoryEntry]:
        """Every entry of the journal, verified, oldest first. Secrets and redacted fields are stars."""
        run, entries = await self._client.load_journal(self.run_id)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        reader = self._client.payloads.viewer(self.run_id)
        read = zip(entries, read_events(entries, self.run_id, reader=reader), strict=True)
        return [
            HistoryEntry(entry.version, instant(entry.at), entry.epoch, entry.hash.hex(), tuple(map(reader.shown_event, each)))
            for entry, each in read
        ]

    async def send(self, signal: Signal[T], value: T, *, key: str = "", tx: Any = None) -> None:
        """Send a signal. Once this returns it is consumed exactly once, or waits in the inbox for as long as the run lives.

        Args:
            signal: Which.
            value: Of the signal's type.
            key: A second one with the same key is ignored: with it, sending is safe to repeat.
            tx: A connection to the store's own database in a transaction of yours: it is sent iff that commits. See ``start``.

        Raises:
            Unencodable: The value cannot be stored.
            RunEnded: The run is at rest. Nothing was sent.
            RunNotFound: There is no such run.
            StoreUnavailable: Unknown whether it was sent; repeat it with the same key.
        """
        await self._client.send(self.run_id, signal.message(value, key=key), tx=tx)

    async def undelivered(self) -> list[UndeliveredSignal]:
        """Signals that were accepted and not taken by the code, in order. Of a run at rest: that nobody will take."""
        return await self._client.undelivered(self.run_id)

    async def ask(self, request: Question[A, B], value: A, *, key: str = "", timeout: float | None = None) -> B:
        """Send a request and wait for its answer. The run accepts it at most once and answers it at most once.

        Args:
            request: Which.
            value: Of the request's type.
            key: Names the request for ever: asking again with it (from anywhere, also after the run has ended) gives the one
                answer that there is, whatever ``value`` is then. Without one this is a new request each time.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            RequestRefused: The run does not answer it; ``reason`` says why.
            RequestFailed: What was to answer it raised; ``__cause__`` is what.
            RequestTimeout: There is no answer yet. The request stays; ask again with its key.
            RunEnded: The run came to rest without answering.
            RunPaused: It is paused and cannot go on by itself. The request stays.
            RunNotFound: There is no such run.
            Unencodable: The value cannot be stored. Nothing was sent.
            StoreUnavailable: Unknown whether it was sent; repeat it with the same key.
        """
        answer = await self._client.ask(self.run_id, request.name, request.encode_ask(value), key, timeout)
        return request.decode_answer(answer)

    async def journal(self) -> list[Entry]:
        """The entries as they are stored, verified, oldest first: what ``everstep.testing.replay`` takes."""
        run, entries = await self._client.load_journal(self.run_id)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id)
        return entries

    async def cancel(self, reason: str = "", *, actor: str = "") -> bool:
        """Ask the run to stop: it gets a CancelledError at its next await, and may clean up. Safe to repeat.

        Returns:
            False if it had come to rest already: nothing was asked.

        Raises:
            RunNotFound: There is no such run.
        """
        waiting = await self._client.get(self.run_id)
        if waiting.is_in_line and await repair.withdraw(self._client, waiting, reason):
            return True  # It has not begun, so there is nothing to clean up, and it need not wait for its turn to end.
        run = await self._client.post(self.run_id, CancelRequested(reason, actor))
        if run.status is Status.PAUSED:
            await self.resume(reason, actor=actor)  # Only a run that goes on can clean up.
        return not run.status.is_at_rest

    async def fork(
        self,
        *,
        at: int | str | None = None,
        edit: Mapping[str, object] | None = None,
        id: str | None = None,  # noqa: A002  # the API's word
        reason: str = "",
        actor: str = "",
    ) -> Handle[R_co]:
        """Start a new run that shares this one's history up to a version. This run is left as it is.

        The fork's code runs from the start and finds done what was done by then; what was pending is done again under the
        fork's own ids. Making one costs one entry, however long the history is.

        Args:
            at: A version, or the name of a step: up to just before that was finished. None for now, or for where the edits are.
            edit: New values for results of steps and published states, by name. What came after them is not shared.
            id: The fork's id; None for a fresh one.
            reason: Recorded with it.
            actor: Who does it; recorded with it.

        Raises:
            IllegalState: The id is taken, or there is no such version, step or state.
            Unencodable: An edited value cannot be stored.
            RunNotFound: There is no such run.
        """
        request = repair.Fork(at=at, edits=edit or {}, run_id=id)
        forked = await repair.fork(self._client, self.run_id, request, repair.check_by(reason, actor))
        return Handle(self._client, forked, self._workflow)
