"""``everstep signal``: send a signal to a run."""

from __future__ import annotations

import asyncio

import click

from everstep.cli.inert import inert, json_text
from everstep.cli.options import could_exist, json_option, run_argument, store_option
from everstep.cli.session import connected
from everstep.cli.talking import code_option, key_option, value_of
from everstep.cli.terminal import current_terminal
from everstep.ids import check_name
from everstep.talk import Signal, SignalMessage


@click.command(name="signal")
@run_argument
@click.argument("name")
@click.argument("value", metavar="JSON")
@key_option
@code_option
@json_option
@store_option
def command(run: str, name: str, value: str, key: str, code: str | None, as_json: bool, url: str) -> None:
    """Send a signal to a run. Exit code 5 if the run is at rest: nobody would take it.

    everstep signal order-7 approval '{"approved": true, "by": "ann"}' --key click-1
    """
    message = SignalMessage(check_name(name, "signal"), value_of(value, Signal, name, code), key)
    asyncio.run(_send(url, could_exist(run), message))
    terminal = current_terminal()
    if as_json:
        terminal.data(json_text({"run_id": run, "signal": name, "key": key or None}, ascii_only=not terminal.has_unicode))
    else:
        terminal.hint(f"{inert(run)} has it · follow it: everstep watch {inert(run)}")


async def _send(url: str, run_id: str, message: SignalMessage) -> None:
    async with connected(url) as client:
        await client.send(run_id, message)
