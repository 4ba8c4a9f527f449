"""
What has arrived for a run and is in no entry yet, in order; and how far its inbox is taken. Pure.

A request for which there is a handler is judged before it becomes an input, and sees everything that came before it: so it is
always the first of its entry, and what came before has to be drained first. One that is refused becomes no input; its reply is
due with the next write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from everstep.core.program import Program
from everstep.events import (
    ChildFailed,
    ChildSucceeded,
    CommandEvent,
    Input,
    RequestAnswered,
    RequestFailed,
    RequestReceived,
    RequestRefused,
    RequestSettled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    TimerFired,
)
from everstep.ids import request_dedupe
from everstep.payloads.keeper import Keeper
from everstep.stores.base import Reply

Encode: TypeAlias = Callable[[RequestSettled], bytes]


def is_wanted(program: Program, event: Input) -> bool:
    """False for what the code gave up while the event was on its way: a timer or a step that it cancelled."""
    match event:
        case TimerFired(key=key):
            return key in program.timers
        case StepCompleted() | StepFailed() | StepOutcomeUnknown() | StepOverridden():
            return event.key in program.operations
        case _:
            return True


def is_of_its_child(program: Program, event: Input, run_id: str) -> bool:
    """False for the outcome of a run in whose place another one has been started by the same command."""
    known = program.family.get(event.key) if isinstance(event, ChildSucceeded | ChildFailed) else None
    return known is None or run_id in ("", known.run_id)


class Intake:
    """See the module. Iterating gives the inputs that wait.

    Args:
        consumed: The inbox is applied up to here.
        keeper: Makes the body of a message, as it is stored.

    Attributes:
        received: Number of the last message of the inbox that is known.
        taken: Number of the last one that was taken: it is an input, or has its reply.
    """

    __slots__ = ("_keeper", "_replies", "_waiting", "received", "taken")

    def __init__(self, consumed: int, keeper: Keeper) -> None:
        self._keeper = keeper
        self.received = self.taken = consumed
        self._waiting: list[tuple[Input, int, str]] = []
        self._replies: list[Reply] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, and nobody is owed a reply."""
        return not (self._waiting or self._replies)

    def __iter__(self) -> Iterator[Input]:
        return (event for event, _, _ in self._waiting)

    def add(self, event: Input, seq: int = 0, child: str = "") -> None:
        """An input has arrived; ``seq`` is its number in the inbox, if that is where it comes from; ``child`` whose outcome."""
        self._waiting.append((event, seq, child))

    def take(self, program: Program, *, is_drained: bool) -> list[Input]:
        """Take the inputs of the next entry.

        Args:
            program: The code; its desk judges requests, and may be disturbed by that.
            is_drained: The code has gone as far as it can with what it was given before, and all of that is durable.
        """
        desk = program.requests
        inputs: list[Input] = []
        count = 0
        for event, seq, child in self._waiting:
            if isinstance(event, RequestReceived):
                if not is_drained or (inputs and desk.has_handler(event.name)):
                    break
                verdict = desk.judge(event)
                if not isinstance(verdict, RequestReceived):
                    self._replies.append(reply_of(verdict, self._keeper.encode_message))
                    count, self.taken = count + 1, max(self.taken, seq)
                    if desk.was_disturbed:
                        break
                    continue
                event = verdict  # the same request, judged
            count, self.taken = count + 1, max(self.taken, seq)
            if is_wanted(program, event) and is_of_its_child(program, event, child):
                inputs.append(event)
        del self._waiting[:count]
        return inputs

    def due_replies(self) -> tuple[Reply, ...]:
        """Replies that no entry is about. Whoever asks writes them."""
        if not self._replies:
            return ()
        due, self._replies = tuple(self._replies), []
        return due


def replies_of(commands: Sequence[CommandEvent], encode: Encode) -> tuple[Reply, ...]:
    """What an entry answers."""
    settled = (RequestAnswered, RequestRefused, RequestFailed)
    return tuple(reply_of(command, encode) for command in commands if isinstance(command, settled))


def reply_of(event: RequestSettled, encode: Encode) -> Reply:
    """How the asker is told."""
    return Reply(request_dedupe(event.name, event.id), encode(event))
