"""``everstep show``: one run, told in full."""

from __future__ import annotations

import asyncio

import click

from everstep.cli.glyphs import COLOUR_OF_STATUS, status_text
from everstep.cli.inert import json_text
from everstep.cli.look import take_picture, widened
from everstep.cli.options import json_option, run_argument, store_option
from everstep.cli.picture import Picture, as_json, lines
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal


@click.command(name="show")
@run_argument
@click.option("--at", type=click.IntRange(min=1), metavar="VERSION", help="As it was after this entry of its journal.")
@json_option
@store_option
def command(run: str, at: int | None, as_json: bool, url: str) -> None:
    """Tell what a run did, what it is doing, and what to do if it is stuck."""
    asyncio.run(_show(current_terminal(), url, run, at, as_json=as_json))


async def _show(terminal: Terminal, url: str, run_id: str, at: int | None, *, as_json: bool) -> None:
    async with connected(url) as client:
        picture = await take_picture(client, run_id, at)
    if as_json:
        _print_json(terminal, picture)
    else:
        print_picture(terminal, picture)


def print_picture(terminal: Terminal, picture: Picture) -> None:
    """Print a run: in colour on a terminal that has them."""
    console = terminal.rich_console()
    if console is None:
        for line in lines(picture if terminal.out_is_tty else widened(picture)):
            terminal.data(line)
    else:
        from rich.text import Text

        status = picture.snapshot.status
        for line in lines(picture):
            text = Text(line)
            text.highlight_words([status_text(status)], COLOUR_OF_STATUS[status])
            console.print(text, soft_wrap=True)


def _print_json(terminal: Terminal, picture: Picture) -> None:
    indent = 2 if terminal.out_is_tty else None
    terminal.data(json_text(as_json(picture), indent=indent, ascii_only=not terminal.has_unicode))
