"""
``everstep verify``: check that no journal was altered.

Each journal is read as it was at one moment, every hash is computed anew, and every event is decoded. A damaged run is listed
and does not hold up the others. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import click
from msgspec import Struct

from everstep.cli.damage import Damage, find_damage
from everstep.cli.faults import OK, REFUSED
from everstep.cli.filters import Filter
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import could_exist, json_option, read_ids, store_option
from everstep.cli.runs import pages
from everstep.cli.session import breathe, connected, reader_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.client import Client

HEADS = ("RUN", "VERSION", "WHAT", "EXPECTED", "FOUND")
PROGRESS_EVERY = 100


class Tally(Struct):
    """What was found so far."""

    runs: int = 0
    entries: int = 0
    damages: list[Damage] = []


@click.command(name="verify")
@click.argument("runs", nargs=-1, metavar="[RUN...|-]")
@json_option
@store_option
def command(runs: Sequence[str], as_json: bool, url: str) -> int:
    """Check the hash chain of every journal, or of these runs. Exit code 5 if any is damaged."""
    ids = read_ids(runs) if runs else None
    return asyncio.run(_verify(current_terminal(), url, ids, as_json=as_json))


async def _verify(terminal: Terminal, url: str, ids: Sequence[str] | None, *, as_json: bool) -> int:
    tally = Tally()
    async with connected(url) as client:
        async for run_id in _ids(client, ids):
            await _check(client, run_id, tally)
            await breathe()
            if tally.runs % PROGRESS_EVERY == 0:
                terminal.progress(f"{count(tally.runs, 'run')} checked, {len(tally.damages)} damaged")
    terminal.clear_progress()
    _print(terminal, tally, as_json=as_json)
    return REFUSED if tally.damages else OK


async def _ids(client: Client, ids: Sequence[str] | None) -> AsyncIterator[str]:
    if ids is not None:
        for run_id in ids:
            yield run_id
    else:
        async for run in pages(client, Filter(), None, None):
            yield run.run_id


async def _check(client: Client, run_id: str, tally: Tally) -> None:
    run, entries = await client.load_journal(could_exist(run_id))
    damage = find_damage(run, entries, reader_of(client, run_id))
    tally.runs += 1
    tally.entries += len(entries)
    if damage is not None:
        tally.damages.append(damage)


def _print(terminal: Terminal, tally: Tally, *, as_json: bool) -> None:
    summary = f"{count(tally.runs, 'run')} · {count(tally.entries, 'entry')} · {len(tally.damages):,} damaged"
    if as_json:
        terminal.data(json_text(_json(tally), ascii_only=not terminal.has_unicode))
    elif terminal.out_is_tty:
        rows = [damage.cells() for damage in tally.damages]
        for line in columns(HEADS, rows, terminal.width) if rows else ():
            terminal.data(line)
        terminal.data(summary)
    else:
        for damage in tally.damages:
            terminal.data(tsv(damage.cells()))
        terminal.hint(summary)
    if tally.damages:
        terminal.hint(
            f"damaged runs are not driven on. Compare them with a backup: everstep show {inert(tally.damages[0].run_id)}"
        )


def _json(tally: Tally) -> dict[str, Any]:
    return {"runs": tally.runs, "entries": tally.entries, "damaged": [damage.as_json() for damage in tally.damages]}
