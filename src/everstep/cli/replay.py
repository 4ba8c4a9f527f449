"""
``everstep replay``: would today's code go on with these runs?

The code is run against each journal as a worker would before it goes on: from the start, or from where the run was last
continued as new. No step is executed, nothing is claimed or written. Where the code asks for something else than was recorded,
both are shown, one below the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from msgspec import Struct

from everstep.cli.faults import OK, REFUSED
from everstep.cli.inert import inert, json_text
from everstep.cli.options import could_exist, json_option, read_ids, store_option
from everstep.cli.session import breathe, connected
from everstep.cli.targets import load, workflows_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count
from everstep.client import Client
from everstep.core.replaying import ledger_of, replay_journal
from everstep.core.reuse import Ledger
from everstep.core.starting import first_event
from everstep.definitions import Registry, with_children
from everstep.engine.engine import Engine
from everstep.errors import NondeterminismError, UsageError
from everstep.forks import shared_history
from everstep.journal import Entry
from everstep.journal_file import SUFFIXES, load_journal
from everstep.payloads import Payloads


class Journal(NamedTuple):
    """What is replayed."""

    run_id: str
    entries: list[Entry]
    shared: Ledger | None


class Tally(Struct):
    """What was found so far."""

    runs: int = 0
    entries: int = 0
    unknown: list[tuple[str, str]] = []
    divergences: list[tuple[Journal, NondeterminismError]] = []


@click.command(name="replay")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...|FILE.ndjson...|-")
@click.option("--code", required=True, metavar="MODULE[:NAME]", help="The code: an Engine, a workflow, or a module's.")
@json_option
@store_option
def command(runs: Sequence[str], code: str, as_json: bool, url: str) -> int:
    """Hold today's code to the journals of runs. Nothing is executed or written. Exit code 5 if it asks for something else.

    everstep replay order-42 --code app
    everstep runs -f status:waiting -q | everstep replay - --code app     before a deployment
    everstep replay tests/journals/*.ndjson --code app                    files of save_journal, in CI
    """
    registry = _registry(code)
    return asyncio.run(_replay(current_terminal(), url, read_ids(runs), registry, code, as_json=as_json))


def _registry(code: str) -> Registry:
    found = load(code)
    registry = found.registry if isinstance(found, Engine) else Registry(workflows_of(found, code))
    for child in with_children(registry):
        if registry.get(child.name) is None:
            registry.add(child)
    return registry


async def _replay(terminal: Terminal, url: str, names: Sequence[str], registry: Registry, code: str, *, as_json: bool) -> int:
    tally = Tally()
    async for journal in _journals(url, names):
        _hold(journal, registry, tally)
        await breathe()
        terminal.progress(f"{count(tally.runs, 'run')} replayed, {len(tally.divergences)} diverged")
    terminal.clear_progress()
    if tally.unknown and not tally.runs:
        run_id, workflow = tally.unknown[0]
        raise UsageError(
            f"run {run_id} is of workflow {workflow}, which {code} does not have. Nothing was replayed. "
            f"It has: {', '.join(sorted(each.name for each in registry))}"
        )
    _print(terminal, tally, code, as_json=as_json)
    return REFUSED if tally.divergences else OK


async def _journals(url: str, names: Sequence[str]) -> AsyncIterator[Journal]:
    files = [name for name in names if _is_file(name)]
    read = [load_journal(file) for file in files]
    for entries in read:
        shared = ledger_of(entries, read, Payloads.from_environment())
        yield Journal(first_event(entries[0].events).run_id, entries, shared)
    ids = [name for name in names if name not in files]
    if ids:
        async with connected(url) as client:
            for run_id in ids:
                yield await _stored(client, could_exist(run_id))


def _is_file(name: str) -> bool:
    return name.endswith(SUFFIXES) and Path(name).exists()


async def _stored(client: Client, run_id: str) -> Journal:
    run, entries = await client.load_journal(run_id)
    return Journal(run_id, entries, await shared_history(client.store, run, client.payloads.keeper))


def _hold(journal: Journal, registry: Registry, tally: Tally) -> None:
    name = first_event(journal.entries[0].events).workflow if journal.entries else ""
    workflow = registry.get(name)
    if workflow is None:
        tally.unknown.append((journal.run_id, name))
        return
    tally.runs += 1
    tally.entries += len(journal.entries)
    try:
        replay_journal(journal.entries, workflow, journal.shared, payloads=Payloads.from_environment())
    except NondeterminismError as error:
        tally.divergences.append((journal, error))


def _print(terminal: Terminal, tally: Tally, code: str, *, as_json: bool) -> None:
    if as_json:
        terminal.data(json_text(_json(tally), ascii_only=not terminal.has_unicode))
    else:
        for _, error in tally.divergences:
            for line in _lines(error):
                terminal.data(inert(line))
    summary = f"{count(tally.runs, 'run')} · {count(tally.entries, 'entry')} · {len(tally.divergences):,} diverged"
    terminal.hint(summary + (f" · {len(tally.unknown):,} of workflows that {code} does not have" if tally.unknown else ""))
    if tally.divergences:
        terminal.hint(
            "nothing was executed or changed. Workers with this code would pause these runs: keep one with the code that they "
            "started on, or guard the change with es.patched(...)"
        )


def _lines(error: NondeterminismError) -> list[str]:
    """Without the last sentences, which are about a worker that has just paused the run."""
    lines = str(error).split("\n")
    return lines[:-1] or lines


def _json(tally: Tally) -> dict[str, Any]:
    return {
        "runs": tally.runs,
        "entries": tally.entries,
        "diverged": [
            {
                "run_id": journal.run_id,
                "version": error.version,
                "recorded": error.recorded,
                "requested": error.requested,
                "message": str(error),
            }
            for journal, error in tally.divergences
        ],
        "unknown": [{"run_id": run_id, "workflow": workflow} for run_id, workflow in tally.unknown],
    }
