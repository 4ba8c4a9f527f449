"""Rows as lines of text: columns aligned, the widest ones shortened until a line fits. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence

from everstep.cli.inert import inert, tsv_cell
from everstep.cli.words import shortened

Row = Sequence[str]
COLUMN_WIDTH_MIN = 8
_GAP = "  "


def columns(heads: Row, rows: Sequence[Row], width: int, *, right: Collection[str] = ()) -> list[str]:
    """A table without lines around it.

    Args:
        heads: Names of the columns.
        rows: Their cells; made inert here.
        width: Columns of the terminal.
        right: Heads of columns that are aligned to the right.
    """
    cells = [[inert(cell) for cell in row] for row in rows]
    widths = fitted([max(map(_width, column)) for column in zip(heads, *cells, strict=True)], width)
    return [_line(row, widths, [head in right for head in heads]) for row in (heads, *cells)]


def fitted(wanted: Sequence[int], width: int) -> list[int]:
    """Widths that fit into a line: the widest column gives way first, none below a minimum."""
    widths = list(wanted)
    surplus = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while surplus > 0 and max(widths) > COLUMN_WIDTH_MIN:
        widest = widths.index(max(widths))
        widths[widest] -= 1
        surplus -= 1
    return widths


def tsv(row: Row) -> str:
    """One line of TSV, nothing shortened."""
    return "\t".join(map(tsv_cell, row))


def _line(cells: Row, widths: Sequence[int], to_right: Sequence[bool]) -> str:
    return _GAP.join(_padded(cell, width, right) for cell, width, right in zip(cells, widths, to_right, strict=True)).rstrip()


def _padded(cell: str, width: int, right: bool) -> str:
    text = shortened(cell, width) if _width(cell) > width else cell
    blanks = " " * max(0, width - _width(text))
    return blanks + text if right else text + blanks


def _width(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
