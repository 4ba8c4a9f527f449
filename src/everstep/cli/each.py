"""
Do something to each of some runs: what ``cancel``, ``pause``, ``resume``, ``retry`` and ``discard`` share.

Each run is asked by itself and one that refuses holds up none of the others. What was done is durable at once, so an
interruption in the middle loses nothing: the summary says how far it came, and repeating the command is safe.
"""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import click
from msgspec import Struct

from everstep.cli.faults import NOT_FOUND, OK, REFUSED, USAGE, Refusal
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import tsv
from everstep.cli.options import could_exist
from everstep.cli.session import breathe, connected
from everstep.cli.terminal import Terminal
from everstep.cli.words import count
from everstep.client import Client, Handle
from everstep.errors import IllegalState, RunNotFound


class Asked(Struct, frozen=True):
    """One run and what became of the request: ``answer`` is one of the verb's."""

    run_id: str
    answer: StrEnum
    status: str = ""


class Verb(Struct, frozen=True):
    """What a verb asks of each run.

    Attributes:
        answers: All that can become of a request, by what it is called.
        ask: Ask one; returns the answer, and the run's status where that explains it.
        not_found: The answer for a run that does not exist.
        refusals: Answers that mean it could not be done.
    """

    answers: type[StrEnum]
    ask: Callable[[Client, str], Awaitable[Asked]]
    not_found: StrEnum
    refusals: frozenset[StrEnum]


def asker(
    done: StrEnum, refused: StrEnum, act: Callable[[Handle[object]], Awaitable[None]]
) -> Callable[[Client, str], Awaitable[Asked]]:
    """How a run is asked that may refuse because of its state."""

    async def ask(client: Client, run_id: str) -> Asked:
        handle = client.handle(run_id)
        try:
            await act(handle)
        except IllegalState:
            return Asked(run_id, refused, (await handle.status()).value)
        return Asked(run_id, done)

    return ask


async def ask_each(terminal: Terminal, url: str, ids: Sequence[str], verb: Verb, *, as_json: bool) -> int:
    """Ask one after the other, tell each answer, sum up, and return the exit code."""
    answers: list[Asked] = []
    try:
        async with connected(url) as client:
            for run_id in ids:
                answers.append(await _ask(client, run_id, verb))
                _print(terminal, answers[-1], as_json=as_json)
                await breathe()
    finally:
        terminal.hint(_summary(answers, len(ids), verb))
        if as_json and len(ids) > 1:
            terminal.data(json_text(_summary_json(answers, len(ids), verb)))
    return verdict(answers, verb)


def verdict(answers: Sequence[Asked], verb: Verb) -> int:
    """The exit code for all answers together. Pure."""
    given = {asked.answer for asked in answers}
    return NOT_FOUND if verb.not_found in given else REFUSED if given & verb.refusals else OK


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


def these(ids: Sequence[str]) -> str:
    """Some runs, for a question."""
    return f"run {inert(ids[0])}" if len(ids) == 1 else f"{len(ids):,} runs ({inert(ids[0])} … {inert(ids[-1])})"


def actor() -> str:
    """Who types here: recorded with what is done."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):  # no name for this user, as in some containers
        return "command line"


async def _ask(client: Client, run_id: str, verb: Verb) -> Asked:
    try:
        return await verb.ask(client, could_exist(run_id))
    except (RunNotFound, Refusal):
        return Asked(run_id, verb.not_found)


def _print(terminal: Terminal, asked: Asked, *, as_json: bool) -> None:
    if as_json:
        shown = {"run_id": asked.run_id, "answer": asked.answer.value, "status": asked.status or None}
        terminal.data(json_text(shown, ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        status = f": {asked.status}" if asked.status else ""
        terminal.data(f"{inert(asked.run_id)}  {asked.answer}{status}")
    else:
        terminal.data(tsv((asked.run_id, asked.answer, asked.status)))


def _summary(answers: Sequence[Asked], wanted: int, verb: Verb) -> str:
    parts = [f"{sum(asked.answer is answer for asked in answers)} {answer}" for answer in verb.answers]
    shown = " · ".join(part for part in parts if not part.startswith("0 "))
    left = f" · {wanted - len(answers)} not reached" if len(answers) < wanted else ""
    return f"{count(wanted, 'run')}: {shown or 'none asked'}{left}"


def _summary_json(answers: Sequence[Asked], wanted: int, verb: Verb) -> dict[str, int]:
    by_name = {answer.name.lower(): sum(asked.answer is answer for asked in answers) for answer in verb.answers}
    return {"runs": wanted, **by_name, "not_reached": wanted - len(answers)}
