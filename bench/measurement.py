"""
What a row reports, and the arithmetic that it needs. Pure: no clock, no disk.

Means are never used: one stall of a shared disk would drown a thousand good commits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Better = Literal["more", "less"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the table.

    Attributes:
        name: What was measured, in a few words.
        value: everstep's figure; None if it could not be had.
        unit: Of ``value``, ``floor`` and ``peers`` alike.
        better: Whether more or less of it is good.
        floor: What the disk or the interpreter alone needs; None if nothing corresponds.
        peers: The same work done by other libraries in the same run, by name.
        bar: What the design asks for, in words; empty if nothing.
        met: Whether it holds; None if there is no bar, or it cannot be told from this run.
        note: What a reader must know to trust the figure.
        error: Why there is no figure.
    """

    name: str
    value: float | None = None
    unit: str = ""
    better: Better = "more"
    floor: float | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    bar: str = ""
    met: bool | None = None
    note: str = ""
    error: str = ""

    @property
    def of_floor(self) -> float | None:
        """Its share of what the floor does: 1 is all of it."""
        return advantage(self.value, self.floor, self.better)

    def ahead_of(self, peer: str) -> float | None:
        """How many times better than that peer it is."""
        return advantage(self.value, self.peers.get(peer), self.better)


def advantage(mine: float | None, other: float | None, better: Better) -> float | None:
    """How many times better ``mine`` is than ``other``; above 1 is good whichever way the unit points."""
    if mine is None or other is None:
        return None
    upper, lower = (mine, other) if better == "more" else (other, mine)
    return upper / lower if lower > 0 else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all values do not exceed (nearest rank, so always one that really occurred)."""
    if not values:
        raise ValueError("no values: nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def paired_difference(values: Sequence[float], floors: Sequence[float]) -> float:
    """The median of what each round took over the floor *of the same round*: the drift of the machine cancels out."""
    return median(value - floor for value, floor in zip(values, floors, strict=True))


def at_most(value: float | None, limit: float) -> bool | None:
    """Whether a bar of the form ``≤ limit`` is met; None without a value."""
    return None if value is None else value <= limit


def at_least(value: float | None, limit: float) -> bool | None:
    """Whether a bar of the form ``≥ limit`` is met; None without a value."""
    return None if value is None else value >= limit
