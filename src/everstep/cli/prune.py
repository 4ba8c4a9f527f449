"""
``everstep db prune``: forget runs that came to rest long ago, or what long runs did long ago.

What would go is counted first, and whoever asked is asked once more. Each batch is one transaction, so an interruption leaves
some runs forgotten and the others whole; repeating the command goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
from everstep.client import Client
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
@click.option(
    "--segments",
    is_flag=True,
    help="Keep all runs, and forget what they did before they continued as new, if that is so long ago. Live runs too.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@json_option
@yes_option
@store_option
def command(age: str, statuses: Sequence[str], segments: bool, dry_run: bool, as_json: bool, yes: bool, url: str) -> int:
    """Forget runs that came to rest long ago, with everything that is kept of them. It cannot be undone.

    everstep db prune --older-than 30d --dry-run
    everstep db prune --older-than 30d --segments      live runs stay, what they did before they continued as new goes
    """
    older_than = parse_age(age, "--older-than")
    if segments and statuses:
        raise click.UsageError("--segments looks at all runs, whatever their status. Nothing was pruned. Leave out --status.")
    wanted = tuple(statuses) or (Status.SUCCEEDED.value, Status.CANCELLED.value)

    async def prune(client: Client, *, dry: bool) -> Pruned:
        if segments:
            return await client.prune_segments(older_than, dry_run=dry)
        return await client.prune(older_than, statuses=wanted, dry_run=dry)

    what = _entries if segments else _runs
    return asyncio.run(_prune(current_terminal(), url, prune, what, dry_run=dry_run, as_json=as_json, yes=yes))


class _Prune(Protocol):
    async def __call__(self, client: Client, *, dry: bool) -> Pruned: ...


async def _prune(
    terminal: Terminal, url: str, prune: _Prune, what: Callable[[Pruned], str], *, dry_run: bool, as_json: bool, yes: bool
) -> int:
    async with connected(url) as client:
        answer = await prune(client, dry=True)
        if not dry_run and answer.run_count:
            confirm(terminal, f"Forget {what(answer)} for good?", yes=yes)
            answer = await prune(client, dry=False)
    _print(terminal, answer, what, dry_run=dry_run, as_json=as_json)
    return OK


def _print(terminal: Terminal, answer: Pruned, what: Callable[[Pruned], str], *, dry_run: bool, as_json: bool) -> None:
    verb = "would be forgotten" if dry_run else "forgotten"
    if as_json:
        terminal.data(json_text(_json(answer, dry_run=dry_run), ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        terminal.data(f"{what(answer)} {verb}")
        for reason, number in answer.kept.items():
            terminal.data(f"{count(number, 'run')} kept: {reason}")
    else:
        terminal.data(tsv((verb, str(answer.run_count), str(answer.entry_count))))
        for reason, number in answer.kept.items():
            terminal.data(tsv((f"kept: {reason}", str(number), "")))


def _json(answer: Pruned, *, dry_run: bool) -> dict[str, Any]:
    kept = {reason.name.lower(): number for reason, number in answer.kept.items()}
    return {"dry_run": dry_run, "runs": answer.run_count, "entries": answer.entry_count, "kept": kept}


def _runs(answer: Pruned) -> str:
    return f"{count(answer.run_count, 'run')} with {count(answer.entry_count, 'entry')}"


def _entries(answer: Pruned) -> str:
    return f"{count(answer.entry_count, 'entry')} of {count(answer.run_count, 'run')}"
