"""``everstep runs``: the list of runs, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import click

from everstep.cli.filters import Filter, parse_filter
from everstep.cli.glyphs import COLOUR_OF_STATUS
from everstep.cli.inert import json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import could_exist, store_option
from everstep.cli.rows import HEADS, RIGHT, run_json, table_row, tsv_row
from everstep.cli.session import breathe, connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.client import Client
from everstep.records import Micros, RunKey, RunRecord

Form = Literal["table", "tsv", "json", "jsonl", "ids"]
PAGE_SIZE = 500
TABLE_ROWS_DEFAULT = 50


@click.command(name="runs")
@click.option(
    "-f",
    "--filter",
    "filter_text",
    metavar="FILTER",
    default="",
    help="status:failed workflow:NAME id:order-* since:1h queue:NAME key:KEY",
)
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), help=f"At most so many. Default: {TABLE_ROWS_DEFAULT} on a terminal, else all."
)
@click.option("--before", metavar="RUN", help="Only runs older than this one: for the next page.")
@click.option("--json", "form", flag_value="json", help="Print one JSON array.")
@click.option("--jsonl", "form", flag_value="jsonl", help="Print one JSON object per line.")
@click.option("-q", "--ids", "form", flag_value="ids", help="Print ids only, one per line.")
@store_option
def command(filter_text: str, limit: int | None, before: str | None, form: Form | None, url: str) -> None:
    """List runs, newest first.

    On a terminal a table; on a pipe TSV without a head line: run, workflow, status, step, started, seconds, try.
    """
    terminal = current_terminal()
    chosen: Form = form or ("table" if terminal.out_is_tty else "tsv")
    asyncio.run(_list(terminal, url, filter_text, limit, before, chosen))


async def _list(terminal: Terminal, url: str, filter_text: str, limit: int | None, before: str | None, form: Form) -> None:
    async with connected(url) as client:
        now = client.store.now()
        wanted = parse_filter(filter_text, now)
        cursor = (await client.get(could_exist(before))).run_key if before else None
        if form == "table":
            limit = limit or TABLE_ROWS_DEFAULT
            found = [run async for run in pages(client, wanted, cursor, limit + 1)]
            _print_table(terminal, found[:limit], now, more=len(found) > limit)
        else:
            await _stream(terminal, pages(client, wanted, cursor, limit), form, now)


async def pages(client: Client, wanted: Filter, before: RunKey | None, limit: int | None) -> AsyncIterator[RunRecord]:
    """The runs that a filter admits, newest first, fetched page by page."""
    left = limit
    while left is None or left > 0:
        # With an exact id the store filters by prefix only, so a page may hold fewer than are wanted.
        size = PAGE_SIZE if left is None or wanted.id_exact else min(PAGE_SIZE, left)
        page = await client.list(
            status=wanted.statuses,
            workflow=wanted.workflow,
            id_prefix=wanted.id_prefix,
            created_from=wanted.created_from,
            before=before,
            limit=size,
            queue=wanted.queue,
            key=wanted.key,
        )
        for run in page:
            if wanted.admits(run.run_id):
                yield run
                left = None if left is None else left - 1
        if len(page) < size or (wanted.id_exact and any(wanted.admits(run.run_id) for run in page)):
            return
        before = page[-1].run_key
        await breathe()


async def _stream(terminal: Terminal, runs: AsyncIterator[RunRecord], form: Form, now: Micros) -> None:
    """Print as it comes: a store may hold more than fits in memory."""
    ascii_only = not terminal.has_unicode
    separator = "["
    async for run in runs:
        match form:
            case "ids":
                terminal.data(run.run_id)
            case "jsonl":
                terminal.data(json_text(run_json(run), ascii_only=ascii_only))
            case "json":
                terminal.data(f"{separator}\n{json_text(run_json(run), ascii_only=ascii_only)}", end="")
                separator = ","
            case _:
                terminal.data(tsv(tsv_row(run, now)))
    if form == "json":
        terminal.data("[]" if separator == "[" else "\n]")


def _print_table(terminal: Terminal, runs: list[RunRecord], now: Micros, *, more: bool) -> None:
    if not runs:
        terminal.hint("no runs match · start one: everstep start MODULE:WORKFLOW '{}'")
        return
    lines = columns(HEADS, [table_row(run, now) for run in runs], terminal.width, right=RIGHT)
    console = terminal.rich_console()
    if console is None:
        for line in lines:
            terminal.data(line)
    else:
        from rich.text import Text

        console.print(Text(lines[0], "bold"), soft_wrap=True)
        for run, line in zip(runs, lines[1:], strict=True):
            text = Text(line)
            text.highlight_words([table_row(run, now)[2]], COLOUR_OF_STATUS[run.status])
            console.print(text, soft_wrap=True)
    older = f" · older: --before {runs[-1].run_id}" if more else ""
    terminal.hint(f"\n{count(len(runs), 'run')}{older} · follow one: everstep watch {runs[0].run_id}")
