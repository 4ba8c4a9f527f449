"""``everstep fork``: a new run that shares the history of another up to a version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from everstep.cli.each import actor
from everstep.cli.inert import inert, json_text
from everstep.cli.options import json_option, run_argument, store_option
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.errors import UsageError


@click.command(name="fork")
@run_argument
@click.option("--at", metavar="VERSION|STEP", help="A version, or a step: up to just before it was finished. Default: now.")
@click.option("--set", "edits", multiple=True, metavar="NAME=JSON", help="Another result of a step, or value of a state.")
@click.option("--id", "new_id", metavar="ID", help="Of the fork. Default: a fresh one.")
@click.option("--reason", default="", help="Recorded in the fork's history.")
@json_option
@store_option
def command(run: str, at: str | None, edits: Sequence[str], new_id: str | None, reason: str, as_json: bool, url: str) -> None:
    """Start a new run that finds done what another had done by then. The other run stays as it is.

    everstep fork order-7 --at charge --set 'reserve={"shelf": 4}' --id order-7-again
    """
    place = int(at) if at is not None and at.isdecimal() else at
    values = dict(map(edit, edits))
    asyncio.run(_fork(current_terminal(), url, run, place, values, new_id, reason, as_json=as_json))


def edit(text: str) -> tuple[str, Any]:
    """One ``NAME=JSON``. Pure.

    Raises:
        UsageError: It is none.
    """
    name, equals, value = text.partition("=")
    try:
        decoded: Any = msgspec.json.decode(value)
    except msgspec.DecodeError:
        equals = ""
        decoded = None
    if not (name and equals):
        raise UsageError(f"--set {text!a}: give a name and JSON, as in --set 'charge=\"ch_8\"'. Nothing was forked.")
    return name, decoded


async def _fork(
    terminal: Terminal,
    url: str,
    run_id: str,
    at: int | str | None,
    edits: dict[str, Any],
    new_id: str | None,
    reason: str,
    *,
    as_json: bool,
) -> None:
    async with connected(url) as client:
        forked = await client.handle(run_id).fork(at=at, edit=edits, id=new_id, reason=reason, actor=actor())
    terminal.data(json_text({"run_id": forked.run_id, "forks": run_id}) if as_json else inert(forked.run_id))
    terminal.hint(f"compare them: everstep compare {inert(run_id)} {inert(forked.run_id)}")
