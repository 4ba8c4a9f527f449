"""``everstep start``: start a run of a workflow, and wait for its result if asked to."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import msgspec

from everstep.cli.arguments import call_with
from everstep.cli.faults import OK, Refusal, exit_code
from everstep.cli.inert import json_text
from everstep.cli.options import json_option, store_option, timeout_option
from everstep.cli.rows import run_json
from everstep.cli.session import connected
from everstep.cli.targets import workflow_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.client import Client, Handle
from everstep.definitions import Call
from everstep.errors import RunTimeout, UsageError
from everstep.events import RunSucceeded
from everstep.records import RunRecord, Status


@click.command(name="start")
@click.argument("target", metavar="MODULE:WORKFLOW")
@click.argument("arguments", metavar="JSON", default="{}")
@click.option(
    "--id", "run_id", metavar="ID", help="The run's id; the same id and arguments again join it. Default: a fresh one."
)
@click.option("--wait", is_flag=True, help="Wait for the result and print it as JSON; exit code 0 if it succeeded, else 1.")
@timeout_option
@json_option
@store_option
def command(target: str, arguments: str, run_id: str | None, wait: bool, timeout: float | None, as_json: bool, url: str) -> int:
    """Start a run of a workflow; a worker drives it.

    everstep start app:checkout '{"order_id": "42"}' --id order-42
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout says how long to wait. Nothing was started. Add --wait.")
    workflow = workflow_of(target)
    call = call_with(workflow, arguments)
    asked = Starting(current_terminal(), target, wait, timeout, as_json)
    try:
        return asyncio.run(_start(asked, url, call, run_id))
    finally:
        call.close()  # If it came to nothing, its author must not be told to await it.


class Starting:
    """What was asked for, apart from the run itself."""

    def __init__(self, terminal: Terminal, target: str, wait: bool, timeout: float | None, as_json: bool) -> None:
        self.terminal = terminal
        self.target = target
        self.wait = wait
        self.timeout = timeout
        self.as_json = as_json

    def print_json(self, value: Any) -> None:
        """Data."""
        self.terminal.data(json_text(value, ascii_only=not self.terminal.has_unicode))


async def _start(asked: Starting, url: str, call: Call[Any], run_id: str | None) -> int:
    async with connected(url, create=True) as client:
        handle: Handle[Any] = await client.start(call, id=run_id)
        run = await client.get(handle.run_id)
        await _say_started(asked, client, run)
        if asked.wait:
            return await _wait(asked, client, handle)
    if asked.as_json:
        asked.print_json(run_json(run))
    else:
        asked.terminal.data(run.run_id)
    return OK


async def _say_started(asked: Starting, client: Client, run: RunRecord) -> None:
    if run.status.is_at_rest:
        asked.terminal.hint(f"{run.run_id} was started before: {run.status}")
    elif not any(worker.alive for worker in await client.workers()):
        asked.terminal.hint(f"{run.run_id} is queued, and no worker is alive on this store: everstep worker {asked.target}")
    else:
        asked.terminal.hint(f"{run.run_id} will run · follow it: everstep watch {run.run_id}")


async def _wait(asked: Starting, client: Client, handle: Handle[Any]) -> int:
    try:
        await client.wait_until_rest(handle.run_id, asked.timeout)
    except RunTimeout as error:
        raise Refusal(str(error), exit_code(error)) from error
    run = await client.get(handle.run_id)
    if run.status is not Status.SUCCEEDED and not asked.as_json:
        await handle.result(0)  # Raises with the right words.
    result = _result_of(client, run)
    asked.print_json({**run_json(run), "result": result} if asked.as_json else result)
    return OK if run.status is Status.SUCCEEDED else 1


def _result_of(client: Client, run: RunRecord) -> Any:
    reader = client.payloads.viewer(run.run_id, lenient=True)
    last = reader.decode_ending(run.outcome) if run.outcome else None
    return msgspec.json.decode(last.result) if isinstance(last, RunSucceeded) else None
