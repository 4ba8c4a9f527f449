"""
``everstep db check``: whether everything in a store agrees with everything else. Changes nothing.

Every journal's hash chain and payloads, the rows beside it, the numbering of inboxes, what belongs to no run, and the counters
of keys. One page of runs is in memory at a time. Engines may go on meanwhile: each page is seen as it was at one moment. A run
that is damaged is quarantined by the engine that touches it, not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import click
from msgspec import Struct

from everstep.cli.audit import audit
from everstep.cli.damage import Damage
from everstep.cli.faults import OK, REFUSED
from everstep.cli.inert import json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import json_option, store_option
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.upkeep import looked_after
from everstep.cli.verify import HEADS
from everstep.cli.words import count
from everstep.payloads import Payloads
from everstep.stores.migrations import refuse_behind, refuse_newer
from everstep.stores.moving import ENTRIES_PER_PAGE, RUNS_PER_PAGE
from everstep.stores.upkeep import Upkeep


class Tally(Struct):
    """What was found so far."""

    runs: int = 0
    entries: int = 0
    messages: int = 0
    found: list[Damage] = []


@click.command(name="check")
@json_option
@store_option
def command(as_json: bool, url: str) -> int:
    """Check that everything in the store agrees: journals, rows, inboxes, counters. Changes nothing.

    Exit code 5 if something does not. Engines may be at work.
    """
    return asyncio.run(_check(current_terminal(), url, as_json=as_json))


async def _check(terminal: Terminal, url: str, *, as_json: bool) -> int:
    payloads = Payloads.from_environment()
    tally = Tally()
    async with looked_after(url) as store:
        state = await store.state()
        refuse_newer(state, len(store.known), store.url)
        refuse_behind(state, len(store.known), store.url)
        terminal.progress("looking for what belongs to no run")
        strays = await store.strays()
        names: dict[int, str] = {each.run_key: f"run key {each.run_key}" for each in strays if each.run_key}
        async for bundle in _bundles(store):
            run_id = str(bundle.run["run_id"])
            names |= {bundle.run_key: run_id} if bundle.run_key in names else {}
            tally.found += audit(bundle, payloads.viewer(run_id, lenient=True))
            tally.runs += 1
            tally.entries += len(bundle.entries)
            tally.messages += len(bundle.sides["inbox"])
            if not tally.runs % RUNS_PER_PAGE:
                terminal.progress(f"{count(tally.runs, 'run')} checked, {count(len(tally.found), 'problem')}")
    tally.found += [Damage(names.get(each.run_key, ""), 0, each.what, each.expected, each.found) for each in strays]
    terminal.clear_progress()
    _print(terminal, tally, as_json=as_json)
    return REFUSED if tally.found else OK


async def _bundles(store: Upkeep) -> AsyncIterator[Any]:
    after = 0
    while page := await store.page(after, RUNS_PER_PAGE, ENTRIES_PER_PAGE):
        for each in page:
            yield each
        after = page[-1].run_key


def _print(terminal: Terminal, tally: Tally, *, as_json: bool) -> None:
    counted = (count(tally.runs, "run"), count(tally.entries, "entry"), count(tally.messages, "message"))
    summary = " · ".join((*counted, count(len(tally.found), "problem")))
    if as_json:
        terminal.data(json_text(_json(tally), ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        rows = [each.cells() for each in tally.found]
        for line in columns(HEADS, rows, terminal.width) if rows else ():
            terminal.data(line)
        terminal.data(summary)
    else:
        for each in tally.found:
            terminal.data(tsv(each.cells()))
        terminal.hint(summary)
    if tally.found:
        terminal.hint("nothing was changed. Keep a copy of the store, and compare with a backup.")


def _json(tally: Tally) -> dict[str, Any]:
    counted = {"runs": tally.runs, "entries": tally.entries, "messages": tally.messages}
    return {**counted, "problems": [each.as_json() for each in tally.found]}
