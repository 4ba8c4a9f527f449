"""
Let contenders take turns at the same work, round by round, each in its own process and its own directory.

Whoever fails leaves the race with its reason kept; the others go on. Each round begins with another contender, so that
none always runs in the wake (the dirty pages) of the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from bench.contender import Contender, ContenderFailed
from bench.floors import ENTRY_BYTES, average_entry_bytes

FLOOR = "floor"
OURS = "everstep"
PEERS = ("dura", "dbos")
MODULES = {FLOOR: "bench.floors", OURS: "bench.ours", "dura": "bench.peers.dura_peer", "dbos": "bench.peers.dbos_peer"}


@dataclass(frozen=True)
class Question:
    """A verb with its arguments, and how many units of work the answer is for."""

    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per: int = 1


def ask(verb: str, per: int = 1, **arguments: Any) -> Question:
    return Question(verb, arguments, per)


@dataclass
class Results:
    """Seconds per unit of work, by contender, in the order of the rounds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float | None:
        return median(self.seconds[name]) if self.seconds.get(name) else None

    def rate(self, name: str) -> float | None:
        """Units per second."""
        seconds = self.median(name)
        return 1 / seconds if seconds else None

    def peers(self, rates: bool = False, scale: float = 1.0) -> dict[str, float]:
        figures = {peer: self.rate(peer) if rates else self.median(peer) for peer in PEERS}
        return {peer: scale * figure for peer, figure in figures.items() if figure is not None}

    @property
    def note(self) -> str:
        return "; ".join(f"without {name}: {error}" for name, error in self.errors.items() if name != OURS)

    @property
    def error(self) -> str:
        return self.errors.get(OURS, "")


class Bench:
    """One run of the benchmark: where its files lie, and how long it may take.

    Args:
        directory: On the disk that is measured.
        quick: Take the small size everywhere.

    """

    def __init__(self, directory: Path, quick: bool) -> None:
        self.directory = directory
        self.quick = quick
        self._places = 0

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @cached_property
    def entry_bytes(self) -> int:
        """What a floor commits: as much as everstep does for a small step, or a guess while it cannot be asked."""
        place = self.place()
        try:
            with self.ours(place) as ours:
                ours.ask("steps", count=200)
        except ContenderFailed:
            return ENTRY_BYTES
        return average_entry_bytes(place / "everstep.db")

    def place(self) -> Path:
        """A new empty directory."""
        self._places += 1
        place = self.directory / f"{self._places:03}"
        place.mkdir()
        return place

    def say(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    @contextmanager
    def ours(self, place: Path, module: str = MODULES[OURS], **env: str) -> Iterator[Contender]:
        with Contender(module, place, env) as contender:
            yield contender

    def race(self, rounds: int, questions: Mapping[str, Question]) -> Results:
        """Have each contender answer its question once per round; a list of answers counts as so many."""
        results = Results()
        with ExitStack() as stack:
            running = {name: stack.enter_context(Contender(MODULES[name], self.place())) for name in questions}
            for turn in range(rounds):
                self.say(f"round {turn + 1} of {rounds}: {', '.join(running)}")
                for name in rotated(list(running), turn):
                    try:
                        answer = running[name].ask(questions[name].verb, **questions[name].arguments)
                    except ContenderFailed as error:
                        del running[name]
                        results.errors[name] = str(error)
                    else:
                        answers = answer if isinstance(answer, list) else [answer]
                        results.seconds.setdefault(name, []).extend(each / questions[name].per for each in answers)
        return results


def rotated(names: list[str], turn: int) -> list[str]:
    start = turn % len(names) if names else 0
    return names[start:] + names[:start]
