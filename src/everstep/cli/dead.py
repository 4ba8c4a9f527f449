"""``everstep dead``: the runs that the engine gave up on, grouped by why, and what to do with a group."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b

import click
from msgspec import Struct

from everstep.cli.each import Verb, actor, ask_each, asker, confirm
from everstep.cli.faults import NOT_FOUND, OK, Refusal
from everstep.cli.inert import json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import json_option, store_option, yes_option
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.client import Client, DeadLetter, Handle

HEADS = ("GROUP", "N", "WORKFLOW", "STEP", "REASON", "FIRST", "LAST")
LETTERS_PER_PAGE = 1000
_NUMBER = re.compile(r"\d+|0x[0-9a-f]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Answer(StrEnum):
    """What became of one request."""

    REQUEUED = "requeued"
    DISCARDED = "discarded"
    REFUSED = "refused"
    NOT_FOUND = "not found"


class Group(Struct, frozen=True):
    """Dead letters of one cause.

    Attributes:
        name: Follows from the cause: the same tomorrow.
        workflow: Of all of them.
        step: That they were at.
        reason: Of the newest, its first line.
        run_ids: Newest first.
        first: When the first of them died.
        last: When the last one did.
    """

    name: str
    workflow: str
    step: str
    reason: str
    run_ids: tuple[str, ...]
    first: datetime
    last: datetime


def grouped(letters: Iterable[DeadLetter]) -> list[Group]:
    """Dead letters by workflow, step and reason, numbers left out; the largest group first. Pure."""
    by_cause: dict[tuple[str, str, str], list[DeadLetter]] = {}
    for letter in letters:
        reason = letter.reason.partition("\n")[0]
        by_cause.setdefault((letter.workflow, letter.step, _NUMBER.sub("#", reason)), []).append(letter)
    groups = [_group(cause, found) for cause, found in by_cause.items()]
    return sorted(groups, key=lambda group: (-len(group.run_ids), group.name))


def chosen(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """The runs that these names mean: of groups, or of runs. None: all there are. Pure."""
    if not names:
        return [run_id for group in groups for run_id in group.run_ids]
    by_name = {group.name: group.run_ids for group in groups}
    return list(dict.fromkeys(run_id for name in names for run_id in by_name.get(name, (name,))))


@click.command(name="dead")
@click.argument("words", nargs=-1, metavar="[requeue|discard] [GROUP|RUN]...")
@click.option("--reason", default="", help="Recorded in each run's history.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="At most so many runs a second.")
@json_option
@yes_option
@store_option
def command(words: Sequence[str], reason: str, rate: float | None, as_json: bool, yes: bool, url: str) -> int:
    """List dead letters by cause; requeue them (a retry), or discard them for good: groups, runs, or all.

    everstep dead requeue e41c --rate 20 --reason 'the bank answers again' --yes
    """
    return asyncio.run(_dead(current_terminal(), url, words, reason, rate, as_json=as_json, yes=yes))


async def _dead(
    terminal: Terminal, url: str, words: Sequence[str], reason: str, rate: float | None, *, as_json: bool, yes: bool
) -> int:
    async with connected(url) as client:
        groups = grouped(await _letters(client))
    if not words:
        _print(terminal, groups, as_json=as_json)
        return OK
    action, *names = words
    if action not in ("requeue", "discard"):
        raise Refusal(f"everstep dead {action!a}: give requeue or discard, then groups or runs. Nothing was done.", 2)
    ids = chosen(groups, names)
    if not ids:
        terminal.hint("there are no dead letters; nothing was done")
        return NOT_FOUND if names else OK
    confirm(terminal, f"{action.capitalize()} {count(len(ids), 'run')}?", yes=yes)
    return await ask_each(terminal, url, ids, _verb(action, reason, rate), as_json=as_json)


def _verb(action: str, reason: str, rate: float | None) -> Verb:
    async def act(handle: Handle[object]) -> None:
        await (handle.retry if action == "requeue" else handle.discard)(reason, actor=actor())
        if rate is not None:
            await asyncio.sleep(1 / rate)

    done = Answer.REQUEUED if action == "requeue" else Answer.DISCARDED
    return Verb(Answer, asker(done, Answer.REFUSED, act), Answer.NOT_FOUND, frozenset({Answer.REFUSED}))


async def _letters(client: Client) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    before: int | None = None
    while page := await client.dead(limit=LETTERS_PER_PAGE, before=before):
        letters += page
        before = (await client.get(page[-1].run_id)).run_key
    return letters


def _group(cause: tuple[str, str, str], letters: Sequence[DeadLetter]) -> Group:
    workflow, step, _ = cause
    newest = max(letters, key=lambda letter: letter.died_at)
    return Group(
        name=blake2b("\x00".join(cause).encode(), digest_size=2).hexdigest(),
        workflow=workflow,
        step=step,
        reason=newest.reason.partition("\n")[0],
        run_ids=tuple(letter.run_id for letter in letters),
        first=min(letter.died_at for letter in letters),
        last=newest.died_at,
    )


def _print(terminal: Terminal, groups: Sequence[Group], *, as_json: bool) -> None:
    if as_json:
        terminal.data(json_text([_json(group) for group in groups], indent=2, ascii_only=not terminal.has_unicode))
        return
    rows = [_row(group) for group in groups]
    lines = columns(HEADS, rows, terminal.width, right=("N",)) if terminal.out_is_tty else [tsv(row) for row in (HEADS, *rows)]
    for line in lines:
        terminal.data(line)
    hint = f"try again: everstep dead requeue {groups[0].name}" if groups else "no dead letters"
    terminal.hint(hint)


def _row(group: Group) -> tuple[str, ...]:
    times = (group.first.isoformat(timespec="seconds"), group.last.isoformat(timespec="seconds"))
    return (group.name, str(len(group.run_ids)), group.workflow, group.step, group.reason, *times)


def _json(group: Group) -> dict[str, object]:
    return {
        "group": group.name,
        "count": len(group.run_ids),
        "workflow": group.workflow,
        "step": group.step,
        "reason": group.reason,
        "first": group.first.isoformat(),
        "last": group.last.isoformat(),
        "run_ids": list(group.run_ids),
    }
