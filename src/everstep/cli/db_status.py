"""
``everstep db status``: where a store is, which version it has, how large it is, and what waits in it.

It opens stores that an engine refuses, too: then it says why, and the exit code is that of a store that cannot be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import click

from everstep.cli.faults import OK, STORE, lines_of
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import tsv
from everstep.cli.options import json_option, store_option
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.upkeep import looked_after
from everstep.cli.words import count, duration, iso, size
from everstep.errors import SchemaMismatch
from everstep.records import WorkerRecord
from everstep.stores.migrations import SchemaState, refuse_behind, refuse_unusable
from everstep.stores.upkeep import Census, Upkeep


@click.command(name="status")
@json_option
@store_option
def command(as_json: bool, url: str) -> int:
    """Tell how a store stands: its schema, its size, its runs, its workers. Changes nothing.

    Exit code 3 if this everstep cannot use it as it is.
    """
    return asyncio.run(_status(current_terminal(), url, as_json=as_json))


async def _status(terminal: Terminal, url: str, *, as_json: bool) -> int:
    async with looked_after(url) as store:
        state = await store.state()
        problem = _problem(store, state)
        census = await store.census() if 0 < state.version <= len(store.known) else None
    if as_json:
        terminal.data(json_text(_json(store, state, census, problem), ascii_only=not terminal.has_unicode))
    else:
        for name, value in _facts(store, state, census):
            terminal.data(f"{inert(name):<16} {inert(value)}" if terminal.out_is_tty else tsv((name, value)))
    for line in lines_of(problem) if problem else ():
        terminal.hint(line)
    return STORE if problem else OK


def _problem(store: Upkeep, state: SchemaState) -> str:
    """Why an engine of this everstep would not open it; empty if it would."""
    if not state.version:
        return f"there is no store at {store.url} yet. Nothing was created. Make it: everstep db migrate"
    try:
        refuse_unusable(state, len(store.known), store.url)
        if store.backend != "sqlite":  # A file is brought up to date when it is opened.
            refuse_behind(state, len(store.known), store.url)
    except SchemaMismatch as error:
        return str(error)
    return ""


def _facts(store: Upkeep, state: SchemaState, census: Census | None) -> Iterator[tuple[str, str]]:
    yield "store", store.url
    yield "schema", _schema(store, state)
    if census is None:
        return
    yield "incarnation", census.incarnation
    yield "size", size(census.bytes)
    for table in census.tables:
        yield f"table {table.name}", f"{size(table.bytes)}, {count(table.rows, 'row')}"
    yield "runs", ", ".join(f"{number:,} {status}" for status, number in census.runs.items()) or "none"
    yield "oldest due", "nothing is due" if census.oldest_due_at is None else f"for {_waited(census)}"
    yield "workers", f"{sum(map(_is_alive, census.workers)):,} alive"
    for worker in census.workers:
        yield f"worker {worker.name}", f"{'alive' if _is_alive(worker) else 'dead'}, {count(worker.run_count, 'run')}"


def _is_alive(worker: WorkerRecord) -> bool:
    """As far as can be told from here."""
    return worker.alive and worker.lock != "free"


def _schema(store: Upkeep, state: SchemaState) -> str:
    phase = "" if state.phase == "done" else ", not finished (db migrate --post)"
    under_way = f", step {state.under_way} under way" if state.under_way else ""
    return f"version {state.version}{phase}{under_way}; this everstep knows {len(store.known)}"


def _waited(census: Census) -> str:
    assert census.oldest_due_at is not None
    return duration(census.now - census.oldest_due_at)


def _json(store: Upkeep, state: SchemaState, census: Census | None, problem: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "url": store.url,
        "backend": store.backend,
        "schema_version": state.version,
        "schema_phase": state.phase,
        "schema_min_version": state.min_version,
        "schema_under_way": state.under_way or None,
        "known_version": len(store.known),
        "moved_to": state.moved_to or None,
        "problem": problem or None,
    }
    if census is not None:
        told |= {
            "incarnation": census.incarnation,
            "bytes": census.bytes,
            "tables": {each.name: {"rows": each.rows, "bytes": each.bytes} for each in census.tables},
            "runs": dict(census.runs),
            "oldest_due_at": None if census.oldest_due_at is None else iso(census.oldest_due_at),
            "workers": [
                {"worker_key": each.worker_key, "name": each.name, "alive": _is_alive(each), "run_count": each.run_count}
                for each in census.workers
            ],
        }
    return told
