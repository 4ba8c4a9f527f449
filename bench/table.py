"""
The report: one table in plain text for people, one JSON document for machines. Pure: measurements in, text out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from bench.measurement import Measurement

HEADINGS = ("", "everstep", "unit", "floor", "of floor", "bar", "met")
MET = {True: "yes", False: "NO", None: ""}


def figure(value: float | None) -> str:
    """A number with three significant digits at least, thousands separated; a dash for none."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{figure(value)}×"


def cells(measurement: Measurement, peers: Sequence[str]) -> list[str]:
    m = measurement
    beside = [cell for peer in peers for cell in (figure(m.peers.get(peer)), times(m.ahead_of(peer)))]
    met = "error" if m.error else MET[m.met]
    return [m.name, figure(m.value), m.unit, figure(m.floor), times(m.of_floor), *beside, m.bar, met]


def table(measurements: Sequence[Measurement], peers: Sequence[str]) -> str:
    """Lay out all rows; what needs a sentence (notes, errors) follows below the table, numbered by row."""
    headings = [*HEADINGS[:5], *(cell for peer in peers for cell in (peer, "ahead")), *HEADINGS[5:]]
    rows = [headings, *(cells(m, peers) for m in measurements)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    words = {0, 2, len(headings) - 2, len(headings) - 1}
    lines = [_line(row, widths, words) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *_remarks(measurements)])


def document(facts: Mapping[str, str], measurements: Iterable[Measurement]) -> str:
    """The same as JSON, with the ratios, so that two runs can be compared without this code."""
    rows = [{**asdict(m), "of_floor": m.of_floor, "ahead": {peer: m.ahead_of(peer) for peer in m.peers}} for m in measurements]
    return json.dumps({"machine": dict(facts), "rows": rows}, indent=2, ensure_ascii=False) + "\n"


def _line(row: Sequence[str], widths: Sequence[int], words: set[int]) -> str:
    columns = enumerate(zip(row, widths, strict=True))
    return "  ".join(cell.ljust(width) if i in words else cell.rjust(width) for i, (cell, width) in columns).rstrip()


def _remarks(measurements: Iterable[Measurement]) -> list[str]:
    remarks = [f"{m.name.strip()}: {text}" for m in measurements for text in (m.note, m.error and f"ERROR {m.error}") if text]
    return ["", *remarks] if remarks else []
