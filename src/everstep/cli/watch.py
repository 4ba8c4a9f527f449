"""
``everstep watch``: a run until it comes to rest. The exit code is its outcome.

The store says when something changed, so nothing is asked meanwhile. A journal is read whole each time it grew; the pause
between two reads grows with the time that one takes, so that a long journal is not read ten times a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import click
import msgspec

from everstep.cli.faults import OK, UNSUCCESSFUL
from everstep.cli.inert import json_text
from everstep.cli.layout import tsv
from everstep.cli.look import picture_from
from everstep.cli.options import run_argument, store_option, timeout_option
from everstep.cli.picture import Picture, event_line, lines, operation_name
from everstep.cli.session import connected, reader_of
from everstep.cli.show import print_picture
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import iso
from everstep.client import Client
from everstep.core.payloads import read_events
from everstep.errors import RunTimeout
from everstep.events import encode_event
from everstep.journal import Entry
from everstep.payloads import Keeper
from everstep.records import RunRecord, Status

PAUSE_SECONDS_MIN = 0.05
REDRAW_SECONDS = 1.0
READ_SHARE = 3
"""Read for at most a fourth of the time."""


@click.command(name="watch")
@run_argument
@click.option("--jsonl", is_flag=True, help="Print one JSON object per event.")
@timeout_option
@store_option
def command(run: str, jsonl: bool, timeout: float | None, url: str) -> int:
    """Follow a run until it comes to rest (or is paused): exit code 0 if it succeeded, else 1.

    On a terminal a live view; on a pipe one line per event: version, instant, event, name, detail.
    """
    return asyncio.run(_watch(current_terminal(), url, run, timeout, jsonl=jsonl))


async def _watch(terminal: Terminal, url: str, run_id: str, timeout: float | None, *, jsonl: bool) -> int:
    async with connected(url) as client:
        status = await follow(client, _view_for(terminal, jsonl=jsonl), run_id, timeout)
    return OK if status is Status.SUCCEEDED else UNSUCCESSFUL


class View(Protocol):
    """What is told about changes."""

    def open(self) -> AbstractContextManager[Any]: ...
    def changed(self, run: RunRecord, entries: list[Entry], picture: Picture, reader: Keeper) -> None: ...
    def ended(self, picture: Picture) -> None: ...


async def follow(client: Client, view: View, run_id: str, timeout: float | None) -> Status:
    """Tell a view of every change of a run until it is at rest or paused.

    Raises:
        RunNotFound: There is no such run.
        RunTimeout: It did not come to rest in time.
        CorruptJournal: Its journal was altered.
    """
    picture: Picture | None = None
    reader = reader_of(client, run_id)
    with view.open():
        async for run, entries in _changes(client, run_id, timeout):
            picture = await picture_from(client, run, entries)
            view.changed(run, entries, picture, reader)
    assert picture is not None
    view.ended(picture)
    return picture.snapshot.status


async def _changes(client: Client, run_id: str, timeout: float | None) -> AsyncIterator[tuple[RunRecord, list[Entry]]]:
    """The run and its journal, now and after every change, or after a second in which the view may have aged."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        began = time.monotonic()
        run, entries = await client.load_journal(run_id)
        yield run, entries
        if run.status.is_at_rest or run.status is Status.PAUSED:
            return
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise RunTimeout(
                f"run {run_id} is still {run.status} after {timeout:g} s. It goes on. "
                f"Watch it again, or see why: everstep show {run_id}",
                run_id=run_id,
            )
        left = REDRAW_SECONDS if deadline is None else min(REDRAW_SECONDS, deadline - now)
        await asyncio.sleep(min(left, max(PAUSE_SECONDS_MIN, READ_SHARE * (now - began))))
        await client.store.wait_for_work(None, left)


def _view_for(terminal: Terminal, *, jsonl: bool) -> View:
    if jsonl:
        return JsonLines(terminal)
    console = terminal.rich_console()
    return Lines(terminal) if console is None else Live(terminal, console)


class Lines:
    """One line per event: for pipes, and terminals without rich."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._told = 0
        self._names: dict[str, str] = {}

    def open(self) -> AbstractContextManager[Any]:
        """Nothing to prepare."""
        return nullcontext()

    def changed(self, run: RunRecord, entries: list[Entry], picture: Picture, reader: Keeper) -> None:
        """Print what is new. The picture was made of the same entries, so they are verified."""
        self._names = {operation.key: operation_name(operation) for operation in picture.story.operations}
        read = list(zip(entries, read_events(entries, run.run_id, reader=reader), strict=True))
        for entry, events in read:
            for event in events if entry.version > self._told else ():
                self.tell(entry, msgspec.json.decode(encode_event(reader.shown_event(event))))
        self._told = run.version
        self.terminal.flush()

    def tell(self, entry: Entry, event: dict[str, Any]) -> None:
        """Print one event."""
        self.terminal.data(tsv(event_line(entry.version, entry.at, event, self._names)))

    def ended(self, picture: Picture) -> None:
        """Say how it ended, for whoever reads stderr."""
        self.terminal.hint(lines(picture)[1])


class JsonLines(Lines):
    """One JSON object per event."""

    def tell(self, entry: Entry, event: dict[str, Any]) -> None:
        """Print one event."""
        shown = {"version": entry.version, "at": iso(entry.at), **event}
        self.terminal.data(json_text(shown, ascii_only=not self.terminal.has_unicode))


class Live:
    """A view that is redrawn in place."""

    def __init__(self, terminal: Terminal, console: Any) -> None:
        from rich.live import Live as RichLive

        self.terminal = terminal
        self._live = RichLive(console=console, auto_refresh=False, transient=True)
        self._steps_max = max(5, console.size.height - 8)

    def open(self) -> AbstractContextManager[Any]:
        """Take the screen's lines."""
        return self._live

    def changed(self, run: RunRecord, entries: list[Entry], picture: Picture, reader: Keeper) -> None:
        """Redraw."""
        del run, entries, reader
        from rich.text import Text

        drawn = "\n".join(lines(picture, steps_max=self._steps_max))
        self._live.update(Text(drawn, no_wrap=True, overflow="ellipsis"), refresh=True)

    def ended(self, picture: Picture) -> None:
        """Leave the last view standing."""
        print_picture(self.terminal, picture)
