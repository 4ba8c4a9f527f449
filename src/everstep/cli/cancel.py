"""``everstep cancel``: ask runs to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum

import click

from everstep.cli.each import Asked, Verb, actor, ask_each, confirm, these
from everstep.cli.faults import OK
from everstep.cli.options import json_option, read_ids, store_option, yes_option
from everstep.cli.terminal import current_terminal
from everstep.client import Client
from everstep.records import Status


class Answer(StrEnum):
    """What became of one request."""

    ASKED = "asked to stop"
    ALREADY = "was cancelled already"
    AT_REST = "has ended"
    NOT_FOUND = "not found"


@click.command(name="cancel")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...|-")
@click.option("--reason", default="", help="Recorded in the run's history.")
@json_option
@yes_option
@store_option
def command(runs: Sequence[str], reason: str, as_json: bool, yes: bool, url: str) -> int:
    """Ask runs to stop. Each gets a CancelledError at its next await, and may clean up.

    everstep runs -q -f 'status:waiting workflow:nightly' | everstep cancel - --yes
    """
    terminal = current_terminal()
    ids = read_ids(runs)
    if not ids:
        terminal.hint("no runs given; nothing was done")
        return OK
    confirm(terminal, f"Cancel {these(ids)}?", yes=yes)
    return asyncio.run(ask_each(terminal, url, ids, _verb(reason), as_json=as_json))


def _verb(reason: str) -> Verb:
    async def ask(client: Client, run_id: str) -> Asked:
        if await client.handle(run_id).cancel(reason, actor=actor()):
            return Asked(run_id, Answer.ASKED)
        status = await client.handle(run_id).status()
        if status is Status.CANCELLED:
            return Asked(run_id, Answer.ALREADY, status.value)
        return Asked(run_id, Answer.AT_REST, status.value)

    return Verb(Answer, ask, Answer.NOT_FOUND, frozenset({Answer.AT_REST}))
