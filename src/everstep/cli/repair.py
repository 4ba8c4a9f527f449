"""``everstep pause``, ``resume``, ``retry`` and ``discard``: what an operator does to runs, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

import click

from everstep.cli.each import Verb, actor, ask_each, asker, confirm, these
from everstep.cli.faults import OK
from everstep.cli.options import json_option, read_ids, store_option, yes_option
from everstep.cli.terminal import current_terminal
from everstep.client import Handle

Act: TypeAlias = Callable[[Handle[Any], str], Awaitable[None]]


class Answer(StrEnum):
    """What became of one request."""

    DONE = "done"
    REFUSED = "refused"
    NOT_FOUND = "not found"


def _command(name: str, text: str, act: Act, *, asks: bool) -> click.Command:
    """A verb that takes runs and a reason, and does one thing to each."""

    def run(runs: Sequence[str], reason: str, as_json: bool, yes: bool, url: str) -> int:
        terminal = current_terminal()
        ids = read_ids(runs)
        if not ids:
            terminal.hint("no runs given; nothing was done")
            return OK
        if asks:
            confirm(terminal, f"{name.capitalize()} {these(ids)}?", yes=yes)
        ask = asker(Answer.DONE, Answer.REFUSED, lambda handle: act(handle, reason))
        verb = Verb(Answer, ask, Answer.NOT_FOUND, frozenset({Answer.REFUSED}))
        return asyncio.run(ask_each(terminal, url, ids, verb, as_json=as_json))

    options = (
        click.argument("runs", nargs=-1, required=True, metavar="RUN...|-"),
        click.option("--reason", default="", help="Recorded in the run's history."),
        json_option,
        yes_option,
        store_option,
    )
    function: Any = run
    for option in reversed(options):
        function = option(function)
    return click.command(name=name, help=text)(function)


pause = _command(
    "pause",
    "Let runs stop where they are. Bodies that are being executed finish first; messages wait.",
    lambda handle, reason: handle.pause(reason, actor=actor()),
    asks=False,
)
resume = _command(
    "resume",
    "Let paused runs go on, whatever paused them.",
    lambda handle, reason: handle.resume(reason, actor=actor()),
    asks=False,
)
retry = _command(
    "retry",
    "Reopen failed or dead runs: what they finished is not executed again.\n\n"
    "everstep runs -q -f 'status:failed since:1h' | everstep retry - --reason 'the bank answers again'",
    lambda handle, reason: handle.retry(reason, actor=actor()),
    asks=False,
)
discard = _command(
    "discard",
    "Give failed, dead or paused runs up for good: no more of their code is run.",
    lambda handle, reason: handle.discard(reason, actor=actor()),
    asks=True,
)
