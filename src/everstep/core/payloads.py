"""
The payload of a pipeline as its journal records it: once per step, and mostly as what the step changed. Pure.

A step of a pipeline takes the payload and returns the next one, which is the argument of the next segment and of its step. Told
in full, an entry would hold it three times. So the result is recorded as a delta against the payload before (or whole, when the
deltas since the last whole one outweigh it), and the other two places say that it is that.

``shortened`` is applied before an entry is sealed, ``lengthened`` after one was decoded: nothing else knows of this. The
journal of any other workflow passes through both as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from everstep.core.deltas import BadDelta, Chain
from everstep.errors import CorruptJournal
from everstep.events import NO_PAYLOAD, Event, RunContinued, RunCreated, StepCompleted, StepOverridden, StepScheduled
from everstep.journal import Entry, Reader, decode_verified


class PipelineArgs(Struct, frozen=True):
    """The arguments of a pipeline's code."""

    payload: Raw
    cursor: int = 0


class Payload:
    """The payload while a journal is read or written, in order."""

    __slots__ = ("_chain", "_has_result", "_last")

    def __init__(self) -> None:
        self._chain: Chain | None = None
        self._last: Raw = NO_PAYLOAD
        self._has_result = False

    def shortened(self, events: Sequence[Event]) -> tuple[list[Event], bool]:
        """What is recorded of these; and whether they can be read without any entry before theirs."""
        is_whole = True
        recorded: list[Event] = []
        for event in events:
            match event:
                case StepCompleted() if self._chain is not None:
                    data, is_delta = self._chain.write(bytes(event.result))
                    is_whole, self._has_result = not is_delta, True
                    recorded.append(replace(event, result=Raw(data), is_delta=is_delta))
                case RunContinued() if self._chain is not None and self._has_result:
                    is_whole = is_whole and any(isinstance(each, StepCompleted) for each in recorded)
                    self._has_result = False
                    recorded.append(replace(event, args=NO_PAYLOAD, of_result=True))
                case StepScheduled() if self._chain is not None:
                    recorded.append(replace(event, args=NO_PAYLOAD, of_payload=True))
                case _:
                    self._follow(event)
                    recorded.append(event)
        return recorded, is_whole

    def lengthened(self, events: Iterable[Event]) -> list[Event]:
        """The events of an entry with everything in its place.

        Raises:
            BadDelta: What was recorded does not fit together.
        """
        return [self._lengthen(event) for event in events]

    def _lengthen(self, event: Event) -> Event:
        match event:
            case StepCompleted(result=result, is_delta=is_delta):
                self._has_result = True
                if self._chain is None:
                    if is_delta:
                        raise BadDelta("a result was recorded as what it changed of a payload, and there is none")
                    self._last = result  # Perhaps what the segment begins with in which we begin to read.
                    return event
                self._chain.read(bytes(result), is_delta=is_delta)
                return replace(event, result=Raw(self._chain.value()), is_delta=False)
            case RunContinued(of_result=True, segment=segment):
                if self._chain is None:
                    self.begin(bytes(self._last))
                self._has_result = False
                args = PipelineArgs(Raw(self._value()), segment)
                return replace(event, args=Raw(msgspec.json.encode(args)), of_result=False)
            case StepScheduled(of_payload=True):
                return replace(event, args=Raw(msgspec.json.encode({"payload": Raw(self._value())})), of_payload=False)
            case _:
                self._follow(event)
                return event

    def begin(self, payload: bytes) -> None:
        """A pipeline begins with this payload."""
        self._chain = Chain()
        self._chain.read(payload, is_delta=False)

    def _follow(self, event: Event) -> None:
        match event:
            case RunCreated(is_pipeline=True, args=args):
                self.begin(bytes(msgspec.json.decode(args, type=PipelineArgs).payload))
            case RunContinued(args=args) if self._chain is not None:
                # Of a fork, or after a retry: the result that it begins with is not in this journal, or not in this form.
                self.begin(bytes(msgspec.json.decode(args, type=PipelineArgs).payload))
                self._has_result = False
            case StepOverridden(result=result):
                self._last, self._has_result = result, True
                if self._chain is not None:
                    self._chain.read(bytes(result), is_delta=False)
            case _:
                pass

    def _value(self) -> bytes:
        if self._chain is None:
            raise BadDelta("an entry refers to a payload, and there is none")
        return self._chain.value()


def read_events(
    entries: Iterable[Entry], run_id: str, payload: Payload | None = None, *, reader: Reader | None = None
) -> list[list[Event]]:
    """The events of verified entries, each list in full.

    Args:
        entries: From the run's first, or from its base.
        run_id: For errors.
        payload: To be left as it is after the last of them.
        reader: Opens what is compressed or encrypted; without one it is left as it is stored.

    Raises:
        CorruptJournal: An entry cannot be read.
    """
    payload = payload or Payload()
    return [_read(entry, run_id, payload, reader) for entry in entries]


def _read(entry: Entry, run_id: str, payload: Payload, reader: Reader | None) -> list[Event]:
    events = decode_verified(entry, run_id, reader)
    try:
        return payload.lengthened(events)
    except (BadDelta, msgspec.MsgspecError) as error:
        raise CorruptJournal(
            f"run {run_id}: the payload in entry {entry.version} cannot be put together: {error}. Nothing was executed; other "
            "runs are not concerned. Compare with a backup: everstep verify lists every damaged run.",
            run_id=run_id,
            version=entry.version,
        ) from error
