"""
``everstep db prune``: forget runs that came to rest long ago.

What would go is counted first, and whoever asked is asked once more. Each batch is one transaction, so an interruption leaves
some runs forgotten and the others whole; repeating the command goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import click

from everstep.cli.each import confirm
from everstep.cli.faults import OK
from everstep.cli.filters import parse_age
from everstep.cli.inert import json_text
from everstep.cli.layout import tsv
from everstep.cli.options import json_option, store_option, yes_option
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.records import Status
from everstep.stores.pruning import Pruned

_AT_REST = [status.value for status in Status if status.is_at_rest]


@click.command(name="prune")
@click.option("--older-than", "age", required=True, metavar="AGE", help="Only runs at rest for longer: 90s, 15m, 2h, 30d, 4w.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(_AT_REST),
    help="Only these; may be given several times. Default: succeeded and cancelled. Others go only if you name them.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@json_option
@yes_option
@store_option
def command(age: str, statuses: Sequence[str], dry_run: bool, as_json: bool, yes: bool, url: str) -> int:
    """Forget runs that came to rest long ago, with everything that is kept of them. It cannot be undone.

    everstep db prune --older-than 30d --dry-run
    """
    older_than = parse_age(age, "--older-than")
    wanted = tuple(statuses) or (Status.SUCCEEDED.value, Status.CANCELLED.value)
    return asyncio.run(_prune(current_terminal(), url, older_than, wanted, dry_run=dry_run, as_json=as_json, yes=yes))


async def _prune(
    terminal: Terminal, url: str, older_than: timedelta, statuses: Sequence[str], *, dry_run: bool, as_json: bool, yes: bool
) -> int:
    async with connected(url) as client:
        answer = await client.prune(older_than, statuses=statuses, dry_run=True)
        if not dry_run and answer.run_count:
            confirm(terminal, f"Forget {_what(answer)} for good?", yes=yes)
            answer = await client.prune(older_than, statuses=statuses)
    _print(terminal, answer, dry_run=dry_run, as_json=as_json)
    return OK


def _print(terminal: Terminal, answer: Pruned, *, dry_run: bool, as_json: bool) -> None:
    verb = "would be forgotten" if dry_run else "forgotten"
    if as_json:
        terminal.data(json_text(_json(answer, dry_run=dry_run), ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        terminal.data(f"{_what(answer)} {verb}")
        for reason, number in answer.kept.items():
            terminal.data(f"{count(number, 'run')} kept: {reason}")
    else:
        terminal.data(tsv((verb, str(answer.run_count), str(answer.entry_count))))
        for reason, number in answer.kept.items():
            terminal.data(tsv((f"kept: {reason}", str(number), "")))


def _json(answer: Pruned, *, dry_run: bool) -> dict[str, Any]:
    kept = {reason.name.lower(): number for reason, number in answer.kept.items()}
    return {"dry_run": dry_run, "runs": answer.run_count, "entries": answer.entry_count, "kept": kept}


def _what(answer: Pruned) -> str:
    return f"{count(answer.run_count, 'run')} with {count(answer.entry_count, 'entry')}"
