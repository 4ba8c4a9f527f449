"""
Replay journals in a process of its own, whose hash seed, addresses and clocks are others.

Run as a program with a file of journals; every entry is made anew from its inputs and must come out with the same bytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from everstep.core.execution import Execution
from everstep.definitions import Call
from everstep.journal import Entry
from tests.core.driver import RUN_KEY, Run, inputs_of, readable
from tests.core.programs import play

_CLOCKS = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "localtime", "gmtime"},
    "datetime": {"now", "utcnow", "today"},
}


class Recorded(msgspec.Struct, frozen=True):
    """One journal."""

    entries: list[Entry]


def record(call: Call[Any], choose: Callable[[int], int]) -> Recorded:
    """Run to the end and keep the journal."""
    run = Run(call).finish(choose)
    run.evict()
    return Recorded(run.entries)


def remake(journal: Recorded) -> None:
    """Make the journal of ``play`` again from its inputs, and replay it."""
    replaying, again = (Execution(play, RUN_KEY, "run-1") for _ in range(2))
    replaying.replay(journal.entries)
    again.epoch = journal.entries[0].epoch
    for entry in journal.entries:
        made = again.activate(inputs_of(entry.decoded()), entry.at).entry
        assert readable(entry) == readable(made)
        assert entry == made
    replaying.program.evict()
    again.program.evict()


def clock_reads(function: Callable[[], object]) -> list[str]:
    """Names of the clocks that a function reads, by watching every call of a C function."""
    read: list[str] = []

    def watch(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            owner = getattr(what, "__self__", None)
            module = getattr(what, "__module__", None) or getattr(owner, "__module__", None)
            if what.__name__ in _CLOCKS.get(str(module), ()):
                read.append(what.__name__)

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return read


def an_hour_off(clock: Callable[[], float]) -> Callable[[], float]:
    """A clock that is wrong."""
    return lambda: clock() + 3600


def main(path: str) -> None:
    """Replay every journal of a file."""
    journals = msgspec.json.decode(Path(path).read_bytes(), type=list[Recorded])
    for clock in ("time", "monotonic", "perf_counter"):
        real: Callable[[], float] = getattr(time, clock)
        setattr(time, clock, an_hour_off(real))

    def remake_all() -> None:
        for journal in journals:
            remake(journal)

    read = clock_reads(remake_all)
    print(f"{len(journals)} replayed, clocks read: {read}")


if __name__ == "__main__":
    main(sys.argv[1])
