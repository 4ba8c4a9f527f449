"""``everstep compare``: two runs side by side, from the first thing in which they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import click
import msgspec
from msgspec import Struct

from everstep.cli.changes import change_json, change_lines
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.look import take_picture
from everstep.cli.options import could_exist, json_option, store_option
from everstep.cli.picture import Picture
from everstep.cli.session import connected
from everstep.cli.story import Operation
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.core.diff import Kind, diff

HEADS = ("", "STEP", "LEFT", "RIGHT")


class Pair(Struct, frozen=True):
    """The same place in two runs: what each asked for there, and how long it took."""

    left: Operation | None
    right: Operation | None

    @property
    def is_same(self) -> bool:
        """Both asked for the same and it came to the same."""
        return self.left is not None and self.right is not None and _what(self.left) == _what(self.right)


@click.command(name="compare")
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN")
@json_option
@store_option
def command(left: str, right: str, as_json: bool, url: str) -> None:
    """Compare two runs: a fork with what it forks, a failed one with one that succeeded."""
    asyncio.run(_compare(current_terminal(), url, could_exist(left), could_exist(right), as_json=as_json))


def pairs(left: Sequence[Operation], right: Sequence[Operation]) -> list[Pair]:
    """The steps and children of two runs, in the order in which they were asked for. Pure."""
    return [Pair(one, other) for one, other in zip_longest(left, right)]


def common(aligned: Sequence[Pair]) -> int:
    """How many places at the beginning are the same. Pure."""
    return next((place for place, pair in enumerate(aligned) if not pair.is_same), len(aligned))


async def _compare(terminal: Terminal, url: str, left: str, right: str, *, as_json: bool) -> None:
    async with connected(url) as client:
        one, other = await take_picture(client, left), await take_picture(client, right)
    aligned = pairs(_work(one), _work(other))
    same = common(aligned)
    changes = diff(msgspec.to_builtins(one.snapshot.payload), msgspec.to_builtins(other.snapshot.payload))
    if as_json:
        told = [_json(pair) for pair in aligned[same:]]
        state = [change_json(change) for change in changes if change.kind is not Kind.UNCHANGED]
        shown = {"left": left, "right": right, "common_steps": same, "steps": told, "state": state}
        terminal.data(json_text(shown, indent=2, ascii_only=not terminal.has_unicode))
        return
    terminal.hint(f"{count(same, 'step')} in common; then:" if same < len(aligned) else f"all {count(same, 'step')} in common")
    rows = [_row(pair) for pair in aligned[same:]]
    if terminal.out_is_tty and rows:
        heads = ("", "STEP", inert(left), inert(right))
        rows_of_text = columns(heads, rows, terminal.width)
    else:
        rows_of_text = [tsv(row) for row in rows]
    for line in (*rows_of_text, *change_lines(changes, shorten=terminal.out_is_tty)):
        terminal.data(line)


def _work(picture: Picture) -> list[Operation]:
    """Steps and children; what a retry asked for again counts once."""
    newest = {operation.key: operation for operation in picture.story.work()}
    return list(newest.values())


def _what(operation: Operation) -> tuple[str, str, str]:
    return operation.key, operation.name, operation.how.value


def _row(pair: Pair) -> tuple[str, str, str, str]:
    names = dict.fromkeys(operation.name for operation in (pair.left, pair.right) if operation is not None)
    return " " if pair.is_same else "*", " / ".join(names), _cell(pair.left), _cell(pair.right)


def _cell(operation: Operation | None) -> str:
    if operation is None:
        return "-"
    seconds = _seconds(operation)
    took = "" if seconds is None else f" {seconds:.3f} s"
    return f"{operation.how}{' (reused)' if operation.is_reused else took}"


def _seconds(operation: Operation) -> float | None:
    return None if operation.ended_at is None else (operation.ended_at - operation.asked_at) / 1e6


def _json(pair: Pair) -> dict[str, Any]:
    return {
        side: None
        if operation is None
        else {
            "key": operation.key,
            "step": operation.name,
            "outcome": operation.how.value,
            "seconds": _seconds(operation),
            "reused": operation.is_reused,
        }
        for side, operation in (("left", pair.left), ("right", pair.right))
    }
