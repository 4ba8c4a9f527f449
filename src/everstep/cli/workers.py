"""``everstep workers``: who drives runs, and how one of them is asked to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from everstep.cli.faults import NOT_FOUND, OK, USAGE, Refusal
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import json_option, store_option
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import count, duration, iso
from everstep.client import Client
from everstep.engine.leases import RENEWALS_PER_LEASE
from everstep.records import Micros, WorkerRecord

HEADS = ("WORKER", "TOKEN", "STATE", "RUNS", "HEARTBEAT", "LEASE", "PROCESS", "UP", "WORKFLOWS")
RIGHT = frozenset({"TOKEN", "RUNS"})
REDRAW_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[2J"
_FINGERPRINT_CHARS = 4


@click.command(name="workers")
@click.argument("words", nargs=-1, metavar="[drain WORKER...]")
@click.option("--watch", is_flag=True, help="Show them again every second, until Ctrl-C.")
@json_option
@store_option
def command(words: Sequence[str], watch: bool, as_json: bool, url: str) -> int:
    """List the workers; or ask some, by name or token, to take nothing new, finish or give back what they have, and leave.

    everstep workers drain web-3:4711

    On a terminal a table; on a pipe TSV without a head line: worker, token, state, runs, seconds since its heartbeat, seconds
    until its lease ends, process, enlisted at, workflows.
    """
    if words and words[0] != "drain":
        raise Refusal(f"everstep workers {words[0]!a}: there is only drain. Nothing was done.", USAGE)
    if words and (watch or len(words) == 1):
        raise Refusal("everstep workers drain: give workers by name or token, without --watch. Nothing was done.", USAGE)
    terminal = current_terminal()
    if words:
        return asyncio.run(_drain(terminal, url, words[1:], as_json=as_json))
    return asyncio.run(_list(terminal, url, watch=watch, as_json=as_json))


# --- telling ----------------------------------------------------------------------------------------------------------------


def state_of(worker: WorkerRecord) -> str:
    """What there is to know about a worker in one word. Pure."""
    if not worker.alive or worker.lock == "free":
        return "dead"
    if worker.expires_seconds <= 0:
        return "silent"
    return "draining" if worker.draining else "working" if worker.run_count else "idle"


def workflows_of(worker: WorkerRecord) -> str:
    """What it drives: ``checkout@2`` if the workflow has versions, else with the beginning of the code's fingerprint. Pure."""
    told = worker.profile.workflows
    return " ".join(f"{name}@{version or fingerprint[:_FINGERPRINT_CHARS]}" for name, version, fingerprint in told)


def table_row(worker: WorkerRecord, now: Micros) -> tuple[str, ...]:
    """The cells under HEADS, for people. Pure."""
    silent, left = worker.silent_seconds, worker.expires_seconds
    is_alive = state_of(worker) != "dead"
    return (
        worker.name,
        str(worker.worker_key),
        state_of(worker),
        str(worker.run_count),
        "before the boot" if silent is None else f"{duration(round(silent * 1e6))} ago",
        "" if not is_alive else f"{duration(round(left * 1e6))} left" if left > 0 else "over",
        {"held": "there", "free": "gone", "unknown": "?"}[worker.lock],
        duration(now - worker.enlisted_at),
        workflows_of(worker),
    )


def tsv_row(worker: WorkerRecord) -> tuple[str, ...]:
    """The same cells for programs. Pure."""
    silent = worker.silent_seconds
    return (
        worker.name,
        str(worker.worker_key),
        state_of(worker),
        str(worker.run_count),
        "" if silent is None else f"{silent:.3f}",
        "" if silent is None else f"{worker.expires_seconds:.3f}",
        worker.lock,
        iso(worker.enlisted_at),
        workflows_of(worker),
    )


def worker_json(worker: WorkerRecord) -> dict[str, Any]:
    """A worker as an object: what ``--json`` prints. Pure."""
    silent, profile = worker.silent_seconds, worker.profile
    return {
        "name": worker.name,
        "token": worker.worker_key,
        "state": state_of(worker),
        "run_count": worker.run_count,
        "run_max": profile.run_max or None,
        "is_draining": worker.draining,
        "silent_seconds": None if silent is None else round(silent, 3),
        "expires_seconds": None if silent is None else round(worker.expires_seconds, 3),
        "lease_seconds": worker.lease_seconds,
        "lock": worker.lock,
        "host": profile.host or None,
        "pid": profile.pid or None,
        "everstep": profile.everstep or None,
        "python": profile.python or None,
        "enlisted_at": iso(worker.enlisted_at),
        "workflows": [
            {"name": name, "version": version, "fingerprint": fingerprint} for name, version, fingerprint in profile.workflows
        ],
    }


async def _list(terminal: Terminal, url: str, *, watch: bool, as_json: bool) -> int:
    async with connected(url) as client:
        while True:
            workers = await client.workers()
            if watch and terminal.out_is_tty and not as_json:
                terminal.data(_CLEAR, end="")
            _print(terminal, workers, client.store.now(), as_json=as_json)
            terminal.flush()
            if not watch:
                return OK
            await asyncio.sleep(REDRAW_SECONDS)


def _print(terminal: Terminal, workers: Sequence[WorkerRecord], now: Micros, *, as_json: bool) -> None:
    if as_json:
        terminal.data(json_text([worker_json(each) for each in workers], ascii_only=not terminal.has_unicode))
    elif not terminal.out_is_tty:
        for each in workers:
            terminal.data(tsv(tsv_row(each)))
    elif workers:
        for line in columns(HEADS, [table_row(each, now) for each in workers], terminal.width, right=RIGHT):
            terminal.data(line)
        runs = sum(each.run_count for each in workers)
        known = f"{count(len(workers), 'worker')} with {count(runs, 'run')}"
        terminal.hint(f"\n{known} · let one go: everstep workers drain WORKER")
    else:
        terminal.hint("nobody drives runs now · start a worker: everstep worker MODULE")


# --- draining ---------------------------------------------------------------------------------------------------------------


def named(workers: Sequence[WorkerRecord], names: Sequence[str]) -> tuple[list[WorkerRecord], list[str]]:
    """The living workers that these names or tokens mean, and the names that mean nobody. Pure."""
    living = [each for each in workers if each.alive]
    meant = {name: [each for each in living if name in (each.name, str(each.worker_key))] for name in names}
    unknown = [name for name, found in meant.items() if not found]
    return list({each.worker_key: each for found in meant.values() for each in found}.values()), unknown


async def _drain(terminal: Terminal, url: str, names: Sequence[str], *, as_json: bool) -> int:
    async with connected(url) as client:
        workers, unknown = named(await client.workers(), names)
        for worker in workers:
            await _drain_one(terminal, client, worker, as_json=as_json)
    for name in unknown:
        terminal.hint(f"there is no living worker {inert(name)}; it was not asked. List them: everstep workers")
    return NOT_FOUND if unknown else OK


async def _drain_one(terminal: Terminal, client: Client, worker: WorkerRecord, *, as_json: bool) -> None:
    is_asked = await client.store.drain(worker.worker_key)
    answer = "asked to drain" if is_asked else "gone"
    if as_json:
        terminal.data(json_text({"name": worker.name, "token": worker.worker_key, "answer": answer}))
    elif terminal.out_is_tty:
        within = duration(round(worker.lease_seconds / RENEWALS_PER_LEASE * 1e6))
        terminal.data(f"{inert(worker.name)}  {answer}" + (f"; it hears of it within {within}" if is_asked else ""))
    else:
        terminal.data(tsv((worker.name, str(worker.worker_key), answer)))
