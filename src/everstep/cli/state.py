"""``everstep state``: what a run had at any version, and what changed between two."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from everstep.cli.changes import change_json, change_lines
from everstep.cli.inert import json_text
from everstep.cli.options import json_option, run_argument, store_option
from everstep.cli.session import connected, reader_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.core.diff import Change, Kind, diff
from everstep.core.snapshots import Snapshot, fold


@click.command(name="state")
@run_argument
@click.option(
    "--at", type=click.IntRange(min=1), metavar="VERSION", help="After this entry of its journal. Default: the newest."
)
@click.option(
    "--diff", "other", type=click.IntRange(min=1), metavar="VERSION", help="Print what changed since this version instead."
)
@json_option
@store_option
def command(run: str, at: int | None, other: int | None, as_json: bool, url: str) -> None:
    """Print the state of a run as JSON, at any version of its journal; or what changed between two.

    everstep state order-7 --at 9 --diff 6     what changed from version 6 to version 9
    """
    asyncio.run(_state(current_terminal(), url, run, at, other, as_json=as_json))


async def _state(terminal: Terminal, url: str, run_id: str, at: int | None, other: int | None, *, as_json: bool) -> None:
    async with connected(url) as client:
        run, entries = await client.load_journal(run_id)
        shared = await client.shared_history(run, lenient=True)
        reader = reader_of(client, run_id)
    now = fold(entries, run, at, shared=shared, reader=reader)
    if other is None:
        _print_state(terminal, now)
    else:
        changes = diff(_plain(fold(entries, run, other, shared=shared, reader=reader)), _plain(now))
        _print_changes(terminal, changes, as_json=as_json)
        terminal.hint(f"{run_id}: from version {other} to version {now.version}, {now.status}")


def _print_state(terminal: Terminal, snapshot: Snapshot) -> None:
    terminal.data(json_text(_plain(snapshot), indent=2, ascii_only=not terminal.has_unicode))
    terminal.hint(f"{snapshot.run_id}: version {snapshot.version}, {snapshot.status}")


def _print_changes(terminal: Terminal, changes: list[Change], *, as_json: bool) -> None:
    if as_json:
        shown = [change_json(change) for change in changes if change.kind is not Kind.UNCHANGED]
        terminal.data(json_text(shown, indent=2, ascii_only=not terminal.has_unicode))
        return
    for line in change_lines(changes, shorten=terminal.out_is_tty):
        terminal.data(line)


def _plain(snapshot: Snapshot) -> Any:
    return msgspec.to_builtins(snapshot.payload)
