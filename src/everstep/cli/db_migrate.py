"""
``everstep db migrate``: make a store, or bring its schema up to date.

By default only what adds is done, so workers of the version before go on; ``--post`` does the rest once they are gone. Safe to
repeat, and to be run by several at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from everstep.cli.faults import OK, REFUSED, Refusal
from everstep.cli.inert import json_text
from everstep.cli.layout import tsv
from everstep.cli.options import json_option, store_option
from everstep.cli.session import sqlite_file
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.upkeep import looked_after
from everstep.stores.migrations import OldWorkers, SchemaState, Stage, plan, refuse_unusable
from everstep.stores.upkeep import Upkeep


@click.command(name="migrate")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--post", is_flag=True, help="Also do what has to wait until no worker of the version before is left.")
@click.option("--force", is_flag=True, help="Take their runs from such workers instead of waiting for them.")
@json_option
@store_option
def command(dry_run: bool, post: bool, force: bool, as_json: bool, url: str) -> int:
    """Make a store, or bring its schema to the version of this everstep. Needs the role that owns the tables.

    everstep db migrate              before workers of a new version begin

    everstep db migrate --post       when all workers are of the new version
    """
    return asyncio.run(_migrate(current_terminal(), url, dry_run=dry_run, post=post, force=force, as_json=as_json))


async def _migrate(terminal: Terminal, url: str, *, dry_run: bool, post: bool, force: bool, as_json: bool) -> int:
    file = sqlite_file(url)
    if dry_run and file is not None and not file.exists():
        raise Refusal(f"there is no store at {file}. Nothing was created. Without --dry-run it is made.", REFUSED)
    async with looked_after(url, create=not dry_run) as store:
        before = await store.state()
        refuse_unusable(before, len(store.known), store.url)
        if dry_run:
            stages: Sequence[Stage] = plan(before, store.known, finish=post)
        else:
            stages = await _take(store, post=post, force=force)
        after = await store.state()
    _print(terminal, before, after, stages, dry_run=dry_run, as_json=as_json)
    if after.phase == "pre" and not post and not as_json:
        terminal.hint("workers of the version before may go on. When none is left: everstep db migrate --post")
    return OK


async def _take(store: Upkeep, *, post: bool, force: bool) -> Sequence[Stage]:
    try:
        return await store.migrate(finish=post, force=force)
    except OldWorkers as error:
        raise Refusal(str(error), REFUSED) from error


def _print(
    terminal: Terminal, before: SchemaState, after: SchemaState, stages: Sequence[Stage], *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        terminal.data(json_text(_json(before, after, stages, dry_run=dry_run), ascii_only=not terminal.has_unicode))
        return
    verb = "would be done" if dry_run else "done"
    for stage in stages:
        cells = (stage.name, verb, stage.migration.title)
        terminal.data("  ".join(cells) if terminal.out_is_tty else tsv(cells))
    if terminal.out_is_tty and not stages:
        terminal.data(f"nothing to do: schema version {after.version}")


def _json(before: SchemaState, after: SchemaState, stages: Sequence[Stage], *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "before": {"version": before.version, "phase": before.phase},
        "after": {"version": after.version, "phase": after.phase},
        "stages": [
            {"version": each.migration.number, "part": each.part, "title": each.migration.title, "actions": len(each.actions)}
            for each in stages
        ],
    }
