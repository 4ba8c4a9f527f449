"""
``everstep cancel``: ask runs to stop.

Each run is asked by itself and one that cannot be stopped holds up none of the others. What was asked is durable at once, so
an interruption in the middle loses nothing: the summary says how far it came, and repeating the command is safe.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence
from enum import StrEnum

import click
from msgspec import Struct

from everstep.cli.faults import NOT_FOUND, OK, REFUSED, USAGE, Refusal
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import tsv
from everstep.cli.options import could_exist, json_option, read_ids, store_option, yes_option
from everstep.cli.session import breathe, connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.client import Client
from everstep.errors import RunNotFound
from everstep.records import Status


class Answer(StrEnum):
    """What became of one request."""

    ASKED = "asked to stop"
    ALREADY = "was cancelled already"
    AT_REST = "has ended"
    NOT_FOUND = "not found"


class Asked(Struct, frozen=True):
    """One run and its answer."""

    run_id: str
    answer: Answer
    status: str = ""


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
    confirm(terminal, f"Cancel {_these(ids)}?", yes=yes)
    return asyncio.run(_cancel(terminal, url, ids, reason, as_json=as_json))


def confirm(terminal: Terminal, question: str, *, yes: bool) -> None:
    """Return if the answer is yes.

    Raises:
        Refusal: Nobody is there to answer, or the answer is no.
    """
    if yes:
        return
    if not terminal.can_ask:
        raise Refusal(f"{question[:-1]}: nobody can be asked here. Nothing was done. Add --yes to do it.", USAGE)
    if not click.confirm(question, err=True):
        raise Refusal("declined. Nothing was done.", REFUSED)


def verdict(answers: Sequence[Asked]) -> int:
    """The exit code for all answers together. Pure."""
    given = {asked.answer for asked in answers}
    return NOT_FOUND if Answer.NOT_FOUND in given else REFUSED if Answer.AT_REST in given else OK


async def _cancel(terminal: Terminal, url: str, ids: Sequence[str], reason: str, *, as_json: bool) -> int:
    answers: list[Asked] = []
    try:
        async with connected(url) as client:
            for run_id in ids:
                answers.append(await _ask(client, run_id, reason))
                _print(terminal, answers[-1], as_json=as_json)
                await breathe()
    finally:
        terminal.hint(_summary(answers, len(ids)))
        if as_json and len(ids) > 1:
            terminal.data(json_text(_summary_json(answers, len(ids))))
    return verdict(answers)


async def _ask(client: Client, run_id: str, reason: str) -> Asked:
    try:
        could_exist(run_id)
        if await client.handle(run_id).cancel(reason, actor=_actor()):
            return Asked(run_id, Answer.ASKED)
        status = await client.handle(run_id).status()
    except (RunNotFound, Refusal):
        return Asked(run_id, Answer.NOT_FOUND)
    return Asked(run_id, Answer.ALREADY if status is Status.CANCELLED else Answer.AT_REST, status.value)


def _print(terminal: Terminal, asked: Asked, *, as_json: bool) -> None:
    if as_json:
        shown = {"run_id": asked.run_id, "answer": asked.answer.value, "status": asked.status or None}
        terminal.data(json_text(shown, ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        status = f": {asked.status}" if asked.answer is Answer.AT_REST else ""
        terminal.data(f"{inert(asked.run_id)}  {asked.answer}{status}")
    else:
        terminal.data(tsv((asked.run_id, asked.answer, asked.status)))


def _summary(answers: Sequence[Asked], wanted: int) -> str:
    parts = [f"{sum(asked.answer is answer for asked in answers)} {answer}" for answer in Answer]
    shown = " · ".join(part for part in parts if not part.startswith("0 "))
    left = f" · {wanted - len(answers)} not reached" if len(answers) < wanted else ""
    return f"{count(wanted, 'run')}: {shown or 'none asked'}{left}"


def _summary_json(answers: Sequence[Asked], wanted: int) -> dict[str, int]:
    by_name = {answer.name.lower(): sum(asked.answer is answer for asked in answers) for answer in Answer}
    return {"runs": wanted, **by_name, "not_reached": wanted - len(answers)}


def _these(ids: Sequence[str]) -> str:
    return f"run {inert(ids[0])}" if len(ids) == 1 else f"{len(ids):,} runs ({inert(ids[0])} … {inert(ids[-1])})"


def _actor() -> str:
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):  # no name for this user, as in some containers
        return "command line"
