"""``everstep queues``: what queues allow and how they stand; pausing, resuming and changing one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click
from msgspec.structs import replace

from everstep.cli.each import actor
from everstep.cli.faults import OK, USAGE, Refusal
from everstep.cli.inert import inert, json_text
from everstep.cli.layout import columns, tsv
from everstep.cli.options import json_option, store_option
from everstep.cli.session import connected
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import clock, iso
from everstep.client import Client
from everstep.ids import check_name
from everstep.limits import UNLIMITED, Limits, QueueRecord
from everstep.records import Micros

HEADS = ("QUEUE", "WAITING", "RUNNING", "PER WORKER", "PER KEY", "RATE", "STATE")
RIGHT = frozenset({"WAITING", "RUNNING", "PER WORKER", "PER KEY"})
NUMBERS = ("concurrency", "per_worker", "per_key")
ACTS = ("pause", "resume", "set")


@click.command(name="queues")
@click.argument("words", nargs=-1, metavar="[pause|resume|set NAME [LIMIT=NUMBER...]]")
@click.option("--reason", default="", help="Recorded with it.")
@json_option
@store_option
def command(words: Sequence[str], reason: str, as_json: bool, url: str) -> int:
    """List the queues; or let one admit nothing, admit again, or change what it allows. Workers notice at once.

    everstep queues pause mail --reason 'provider is down'

    everstep queues set mail concurrency=50 rate=100/60 per_key=none

    A limit that is not named stays as it is. A change counts until code declares something else. On a pipe TSV without a head
    line: queue, waiting, running, concurrency, per worker, per key, rate, state.
    """
    terminal = current_terminal()
    if not words:
        return asyncio.run(_list(terminal, url, as_json=as_json))
    act, *rest = words
    if act not in ACTS or not rest or (act == "set") != (len(rest) > 1):
        raise Refusal("everstep queues: write pause NAME, resume NAME, or set NAME concurrency=50. Nothing was changed.", USAGE)
    return asyncio.run(_change(terminal, url, act, check_name(rest[0], "queue"), rest[1:], reason, as_json=as_json))


# --- telling ----------------------------------------------------------------------------------------------------------------


def state_of(queue: QueueRecord, now: Micros) -> str:
    """What there is to know about it besides numbers. Pure."""
    parts: list[str] = []
    if queue.is_paused:
        parts.append(f"paused by {queue.paused_by or '?'}" + (f": {queue.paused_why}" if queue.paused_why else ""))
    elif queue.opens_at is not None:
        parts.append(f"opens {clock(queue.opens_at, now)}")
    if queue.changed is not None:
        why = f": {queue.changed_why}" if queue.changed_why else ""
        parts.append(f"set by {queue.changed_by or '?'}{why} (code: {limits_text(queue.declared or UNLIMITED)})")
    return ", ".join(parts) or "open"


def limits_text(limits: Limits) -> str:
    """Limits as they are typed. Pure."""
    parts = [f"{name}={getattr(limits, name)}" for name in NUMBERS if getattr(limits, name) is not None]
    parts += [f"rate={_rate(limits)}"] if limits.rate is not None else []
    return " ".join(parts) or "no limits"


def table_row(queue: QueueRecord, now: Micros) -> tuple[str, ...]:
    """The cells under HEADS, for people. Pure."""
    limits = queue.limits
    running = str(queue.admitted_count) if limits.concurrency is None else f"{queue.admitted_count} of {limits.concurrency}"
    numbers = (_number(limits.per_worker), _number(limits.per_key), _rate(limits))
    return (queue.name, str(queue.waiting_count), running, *numbers, state_of(queue, now))


def tsv_row(queue: QueueRecord, now: Micros) -> tuple[str, ...]:
    """The cells for programs. Pure."""
    limits = queue.limits
    numbers = (_number(limits.concurrency), _number(limits.per_worker), _number(limits.per_key), _rate(limits))
    return (queue.name, str(queue.waiting_count), str(queue.admitted_count), *numbers, state_of(queue, now))


def queue_json(queue: QueueRecord) -> dict[str, Any]:
    """A queue as an object: what ``--json`` prints. Pure."""
    return {
        "name": queue.name,
        "waiting_count": queue.waiting_count,
        "admitted_count": queue.admitted_count,
        "limits": _limits_json(queue.limits),
        "declared": None if queue.declared is None else _limits_json(queue.declared),
        "changed": None if queue.changed is None else _limits_json(queue.changed),
        "changed_by": queue.changed_by,
        "changed_why": queue.changed_why,
        "is_paused": queue.is_paused,
        "paused_by": queue.paused_by,
        "paused_why": queue.paused_why,
        "opens_at": None if queue.opens_at is None else iso(queue.opens_at),
    }


def _limits_json(limits: Limits) -> dict[str, Any]:
    rate = None if limits.rate is None else {"count": limits.rate[0], "seconds": limits.rate[1]}
    return {**{name: getattr(limits, name) for name in NUMBERS}, "rate": rate}


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


def _rate(limits: Limits) -> str:
    return "" if limits.rate is None else f"{limits.rate[0]}/{limits.rate[1]:g}"


async def _list(terminal: Terminal, url: str, *, as_json: bool) -> int:
    async with connected(url) as client:
        found, now = await client.queues(), client.store.now()
    _print(terminal, found, now, as_json=as_json)
    return OK


def _print(terminal: Terminal, found: Sequence[QueueRecord], now: Micros, *, as_json: bool) -> None:
    if as_json:
        terminal.data(json_text([queue_json(each) for each in found], ascii_only=not terminal.has_unicode))
    elif not terminal.out_is_tty:
        for each in found:
            terminal.data(tsv(tsv_row(each, now)))
    elif found:
        rows = [tuple(map(inert, table_row(each, now))) for each in found]
        for line in columns(HEADS, rows, terminal.width, right=RIGHT):
            terminal.data(line)
        terminal.hint(f"\nwho waits: everstep runs -f queue:{found[0].name}")
    else:
        terminal.hint("no queue has been declared or used · in code: mail = es.queue('mail', concurrency=10)")


# --- changing ---------------------------------------------------------------------------------------------------------------


def changed(limits: Limits, words: Sequence[str]) -> Limits:
    """Limits after ``concurrency=50 rate=100/60 per_key=none``. Pure.

    Raises:
        Refusal: A word is none of these.
    """
    for word in words:
        name, _, value = word.partition("=")
        try:
            if name not in (*NUMBERS, "rate"):
                raise ValueError
            limits = replace(limits, **{name: _value(name, value)})
        except ValueError:
            raise Refusal(
                f"everstep queues set: {word[:60]!a} is no limit. Nothing was changed. Write concurrency=50, per_worker=2, "
                "per_key=1, rate=100/60 (runs per seconds), or =none for no limit.",
                USAGE,
            ) from None
    return limits


def _value(name: str, text: str) -> Any:
    if text == "none":
        return None
    if name != "rate":
        return int(text)
    count, _, seconds = text.partition("/")
    return int(count), float(seconds)


async def _change(
    terminal: Terminal, url: str, act: str, name: str, words: Sequence[str], reason: str, *, as_json: bool
) -> int:
    async with connected(url) as client:
        await _act(client, act, name, words, reason)
        found = [each for each in await client.queues() if each.name == name]
        _print(terminal, found, client.store.now(), as_json=as_json)
    return OK


async def _act(client: Client, act: str, name: str, words: Sequence[str], reason: str) -> None:
    match act:
        case "pause":
            await client.pause_queue(name, reason, actor=actor())
        case "resume":
            await client.resume_queue(name, reason, actor=actor())
        case _:
            known = {each.name: each.limits for each in await client.queues()}
            limits = changed(known.get(name, UNLIMITED), words)
            await client.set_queue(name, limits, reason, actor=actor())
