"""
``everstep db copy``: move a store, with runs in flight, to another place or another database.

It refuses while workers are alive. What it prints was verified on both sides. An interrupted copy goes on with ``--resume``.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import click

from everstep.cli.faults import OK, REFUSED, USAGE, Refusal
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import tsv
from everstep.cli.options import json_option, store_url
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.upkeep import looked_after
from everstep.cli.words import count
from everstep.stores.moving import Copied, NotMoved, copy, give_up


@click.command(name="copy")
@click.argument("source")
@click.argument("target")
@click.option("--keep", is_flag=True, help="Leave the source usable. Never let both be driven: every effect would come twice.")
@click.option("--resume", is_flag=True, help="Go on with a copy that was interrupted.")
@click.option("--give-up", "gives_up", is_flag=True, help="Make the source of an interrupted copy usable again.")
@click.option("--with-damaged", is_flag=True, help="Also take runs whose journals do not verify, as they are.")
@json_option
def command(source: str, target: str, keep: bool, resume: bool, gives_up: bool, with_damaged: bool, as_json: bool) -> int:
    """Move everything from SOURCE to TARGET, which is empty or not there yet. Runs in flight go on at TARGET.

    everstep db copy sqlite:///orders.db postgresql://owner@host/orders
    """
    ours, theirs = store_url(source), store_url(target)
    if ours == theirs:
        raise Refusal("source and target are the same store. Nothing was copied. Name another one.", USAGE)
    terminal = current_terminal()
    if gives_up:
        return asyncio.run(_give_up(terminal, ours))
    options = {"keep": keep, "resume": resume, "with_damaged": with_damaged}
    return asyncio.run(_copy(terminal, ours, theirs, options, as_json=as_json))


async def _copy(terminal: Terminal, ours: str, theirs: str, options: dict[str, bool], *, as_json: bool) -> int:
    def tell(what: str, number: int) -> None:
        terminal.progress(f"{count(number, 'run')} {what}")

    async with looked_after(ours) as source, looked_after(theirs, create=True) as target:
        try:
            copied = await copy(source, target, move=secrets.token_hex(8), tell=tell, **options)
        except NotMoved as error:
            raise Refusal(str(error), REFUSED) from error
        finally:
            terminal.clear_progress()
        _print(terminal, copied, source.url, target.url, keep=options["keep"], as_json=as_json)
    return OK


async def _give_up(terminal: Terminal, ours: str) -> int:
    async with looked_after(ours) as source:
        try:
            await give_up(source)
        except NotMoved as error:
            raise Refusal(str(error), REFUSED) from error
        terminal.hint(f"{inert(source.url)} can be used again. What the target has of it is of no use: drop it.")
    return OK


def _print(terminal: Terminal, copied: Copied, source: str, target: str, *, keep: bool, as_json: bool) -> None:
    if as_json:
        terminal.data(json_text(_json(copied, source, target, keep=keep), ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        counted = (count(copied.runs, "run"), count(copied.entries, "entry"), count(copied.messages, "message"))
        terminal.data(f"{' · '.join(counted)} · the same on both sides: {copied.digest}")
    else:
        terminal.data(tsv((str(copied.runs), str(copied.entries), str(copied.messages), copied.digest)))
    for run_id in copied.damaged:
        terminal.hint(f"run {inert(run_id)} was damaged, and is so still: everstep verify {inert(run_id)}")
    terminal.hint(
        f"{inert(source)} can still be used. Do not drive both." if keep else f"the runs are in {inert(target)} from now on."
    )


def _json(copied: Copied, source: str, target: str, *, keep: bool) -> dict[str, Any]:
    return {
        "source": source,
        "target": target,
        "kept": keep,
        "runs": copied.runs,
        "entries": copied.entries,
        "messages": copied.messages,
        "digest": copied.digest,
        "damaged": list(copied.damaged),
    }
