"""``everstep ask``: send a request to a run, and print its answer."""

from __future__ import annotations

import asyncio

import click
import msgspec

from everstep.asking import Request
from everstep.cli.inert import json_text
from everstep.cli.options import could_exist, json_option, run_argument, store_option, timeout_option
from everstep.cli.session import connected
from everstep.cli.talking import code_option, key_option, value_of
from everstep.cli.terminal import current_terminal
from everstep.ids import check_name


@click.command(name="ask")
@run_argument
@click.argument("name")
@click.argument("value", metavar="JSON")
@key_option
@code_option
@timeout_option
@json_option
@store_option
def command(
    run: str, name: str, value: str, key: str, code: str | None, timeout: float | None, as_json: bool, url: str
) -> None:
    """Ask a run and print its answer as JSON. Exit code 5 if it refuses or is at rest, 1 if answering failed.

    everstep ask order-7 quote '{"parcels": 2}' --key quote-1 --timeout 30
    """
    asked = value_of(value, Request, check_name(name, "request"), code)
    answer = msgspec.json.decode(asyncio.run(_ask(url, could_exist(run), name, asked, key, timeout)))
    terminal = current_terminal()
    shown = {"run_id": run, "request": name, "answer": answer} if as_json else answer
    terminal.data(json_text(shown, ascii_only=not terminal.has_unicode))


async def _ask(url: str, run_id: str, name: str, value: bytes, key: str, timeout: float | None) -> bytes:
    async with connected(url) as client:
        return await client.ask(run_id, name, value, key, timeout)
