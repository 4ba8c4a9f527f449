"""
Draft what is written of a run: entries with all that depends on them, and writes that are no entry. Nothing is submitted.

A draft is made from what the code came to and from what of the run is known to have landed. Both are kept here, and nowhere
else: what an entry says and what the store already has must not be mixed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from everstep.core.execution import Activation, Closed, Execution
from everstep.core.transitions import Happened, next_status, while_driven
from everstep.engine.facts import Facts
from everstep.engine.family import FAMILIAR, children_of, posts_of
from everstep.engine.host import Host
from everstep.engine.intake import Intake, replies_of
from everstep.engine.parking import due
from everstep.engine.verdicts import Verdict
from everstep.events import (
    CommandEvent,
    Event,
    Input,
    RunCancelled,
    RunDied,
    RunEnding,
    RunFailed,
    RunSucceeded,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
)
from everstep.journal import seal_bytes
from everstep.records import AT_ONCE, AttemptRecord, Micros, Status
from everstep.stores.base import Append, Keep, NewRun, Post, Reply

STEP_OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown)
"""Inputs that exist nowhere but in memory until an entry has them: messages stay in the inbox, alarms ring again."""

_HAPPENED = {
    RunSucceeded: Happened.SUCCEEDED,
    RunFailed: Happened.FAILED,
    RunCancelled: Happened.CANCELLED,
    RunDied: Happened.DIED,
}


class Drafts:
    """See the module.

    Attributes:
        applied: Inputs that the code was run on, and that no entry which has landed holds yet.
        obeyed: Commands that were obeyed before their entry is written.
        kept: Keys of the steps of which a row of attempts is stored.
        consumed: The inbox is consumed up to here by what has landed.
    """

    __slots__ = ("_execution", "_facts", "_host", "_intake", "applied", "consumed", "kept", "obeyed")

    def __init__(self, host: Host, execution: Execution, facts: Facts, intake: Intake) -> None:
        self.applied: Sequence[Input] = ()
        self.obeyed: list[CommandEvent] = []
        self.kept: set[str] = set()
        self.consumed = facts.consumed
        self._host = host
        self._execution = execution
        self._facts = facts
        self._intake = intake

    def standing(self) -> Status:
        """The status of the run as its code stands now."""
        return while_driven(self._facts.status, is_compensating=self._execution.program.undoing.is_compensating)

    def note_landed(self, append: Append) -> None:
        """The run now stands after this entry."""
        entry, facts = append.entry, self._facts
        facts.version, facts.hash, facts.at, facts.create = entry.version, entry.hash, entry.at, None
        facts.step, facts.cursor, facts.status = append.step, append.cursor, append.status
        self.consumed, self.applied = append.consumed, ()
        self.obeyed.clear()
        if append.settled:
            self.kept.difference_update(append.settled)

    # --- entries ----------------------------------------------------------------------------------------------------------

    def of(self, activation: Activation, park_at: Micros | None) -> Append:
        """The entry that an activation made, and all that depends on it.

        Args:
            activation: What the code came to.
            park_at: When the run is to be looked at again if it leaves memory with this entry; None if it stays, or ends.
        """
        program, commands = self._execution.program, activation.commands
        status, release, wake_at = self._after(activation.ending, park_at)
        children: tuple[NewRun, ...] = ()
        posts: tuple[Post, ...] = ()
        replies = self._intake.due_replies()
        for asked in (*activation.closed, Closed(program, commands)):
            if asked.program.family or not FAMILIAR.isdisjoint(map(type, asked.commands)):
                born, told = self._to_family(asked, is_over=asked.program is not program or activation.ending is not None)
                children, posts = (*children, *born), (*posts, *told)
            if asked.program.requests.has_received:
                replies += replies_of(asked.commands, self._execution.keeper.encode_message)
        return Append(
            entry=activation.entry,
            worker_key=self._host.worker_key,
            status=status,
            step=program.step,
            cursor=program.cursor,
            consumed=self._intake.taken,
            seen=self._intake.received,
            replies=replies,
            create=self._facts.create,
            release=release,
            wake_at=wake_at,
            children=children,
            posts=posts,
            settled=self._settled(activation) if self.kept else (),
            not_before=activation.not_before,
            begins_segment=activation.is_base,
        )

    def of_result(self, event: StepCompleted) -> Append:
        """The entry that holds the result of a transactional step and nothing else: its code goes on in the next one."""
        facts = self._facts
        return Append(
            entry=self._execution.record([event], self._host.tools.now()),
            worker_key=self._host.worker_key,
            status=self.standing(),
            step=facts.step,
            cursor=facts.cursor,
            consumed=self.consumed,
            settled=(event.key,) if event.key in self.kept else (),
        )

    def of_end(self, verdict: Verdict | None, rows: tuple[AttemptRecord, ...]) -> Append:
        """The last entry of this driver, which no code has seen: outcomes of steps that no entry has yet, and a verdict.

        Args:
            verdict: Why the run is paused; None if it may be claimed again at once.
            rows: How far its unfinished steps are.
        """
        facts, keeper = self._facts, self._execution.keeper
        # What was refused beside inputs that are lost now is judged again: nobody has heard of it.
        replies = () if self.applied else self._intake.due_replies()
        # Of a step that no entry has asked for yet the journal must not know the outcome: the code would ask for it once more,
        # and it would be done twice and recorded twice.
        held = {command.key for command in self.obeyed if isinstance(command, StepScheduled)}
        arrived = [event for event in (*self.applied, *self._intake) if isinstance(event, STEP_OUTCOMES)]
        outcomes = [event for event in arrived if event.key not in held]
        verdicts: list[Event] = [] if verdict is None else [verdict.event]
        version, at = facts.version + 1, max(facts.at, self._host.tools.now())
        clear = verdicts if verdict is not None and verdict.is_public else ()
        data = keeper.encode([*outcomes, *verdicts], version, clear=clear)
        return Append(
            entry=seal_bytes(facts.hash, facts.run_key, version, facts.epoch, at, False, data),
            worker_key=self._host.worker_key,
            status=Status.PAUSED if verdict is not None else next_status(facts.status, Happened.HANDED_BACK),
            step=facts.step,
            cursor=facts.cursor,
            consumed=self._intake.taken if replies else self.consumed,
            release=True,
            wake_at=AT_ONCE if verdict is None else None,
            replies=replies,
            attempts=keeper.seal_rows(rows),
            settled=tuple(event.key for event in outcomes),
            refused_by="" if verdict is None else verdict.event.refused_by,
        )

    # --- what is no entry -------------------------------------------------------------------------------------------------

    def keep(self, rows: tuple[AttemptRecord, ...], replies: tuple[Reply, ...] = ()) -> Keep:
        """Rows of attempts and replies, while the run goes on here."""
        return self._keep(rows, replies, release=False, status=Status.RUNNING, wake_at=None)

    def release(self, why: Happened, wake_at: Micros, rows: tuple[AttemptRecord, ...], replies: tuple[Reply, ...] = ()) -> Keep:
        """The same, and the run is given back."""
        return self._keep(rows, replies, release=True, status=next_status(self.standing(), why), wake_at=due(wake_at))

    def _keep(
        self,
        rows: tuple[AttemptRecord, ...],
        replies: tuple[Reply, ...],
        *,
        release: bool,
        status: Status,
        wake_at: Micros | None,
    ) -> Keep:
        return Keep(
            run_key=self._facts.run_key,
            worker_key=self._host.worker_key,
            epoch=self._facts.epoch,
            # Replies are only ever written alone while nothing is in flight, so everything that was taken has landed.
            consumed=self._intake.taken if replies else self.consumed,
            attempts=self._execution.keeper.seal_rows(rows),
            replies=replies,
            release=release,
            status=status,
            wake_at=wake_at,
        )

    # --- parts of an entry ------------------------------------------------------------------------------------------------

    def _after(self, ending: RunEnding | None, park_at: Micros | None) -> tuple[Status, bool, Micros | None]:
        """Status after the entry, whether the run leaves with it, and when it is then due."""
        status = self.standing()
        if ending is not None:
            return next_status(status, _HAPPENED[type(ending)]), True, None
        if park_at is None:
            return status, False, None
        return next_status(status, Happened.PARKED), True, due(park_at)

    def _to_family(self, asked: Closed, *, is_over: bool) -> tuple[Iterable[NewRun], Iterable[Post]]:
        program, facts, payloads = asked.program, self._facts, self._host.payloads
        born = children_of(program, asked.commands, facts.run_key, self._host.tools.now(), facts.family, payloads)
        for workflow, _ in born:
            self._host.learn(workflow)
        return [child for _, child in born], posts_of(program, asked.commands, facts.run_key, payloads, is_over=is_over)

    def _settled(self, activation: Activation) -> tuple[str, ...]:
        """Of which steps the rows of attempts have to go: they are over."""
        if activation.closed:
            return tuple(self.kept)
        ended = [event.key for event in self.applied if isinstance(event, (*STEP_OUTCOMES, StepOverridden))]
        ended += [command.key for command in (*self.obeyed, *activation.commands) if isinstance(command, StepCancelled)]
        return tuple(key for key in ended if key in self.kept)
