"""
``everstep worker``: drive runs until told to stop.

The first SIGTERM or Ctrl-C drains: nothing new is taken, what runs gets its grace, the rest is handed back for others. The
second ends the process at once, which loses nothing either: that is what the journal is for. ``everstep workers drain`` does
what the first one does, from anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from everstep.cli.faults import INTERRUPTED, OK
from everstep.cli.inert import inert, without_passwords
from everstep.cli.leash import Leash
from everstep.cli.options import store_option
from everstep.cli.supervise import Limits, Supervisor, bytes_of, is_possible
from everstep.cli.targets import load, workflows_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.engine.engine import Engine
from everstep.errors import UsageError
from everstep.payloads import Payloads
from everstep.stores.base import LEASE_SECONDS_DEFAULT

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEASE_SECONDS_MIN = 2.0
"""Below that a busy machine, or a pause of a database, looks like a death."""
SILENCE_SECONDS_MIN = 2.0
SILENCE_SECONDS_DEFAULT = 60.0
"""Four times the default lease: its runs have long gone on elsewhere."""


@click.command(name="worker")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="How many runs to drive at once. Default: 1000.")
@click.option("-q", "--queue", "queues", multiple=True, metavar="NAME", help="Drive only runs of this queue. Repeatable.")
@click.option(
    "--lease",
    type=click.FloatRange(min=LEASE_SECONDS_MIN),
    metavar="SECONDS",
    help=f"Others take over when this worker gives no sign for so long. Default: {LEASE_SECONDS_DEFAULT:g}.",
)
@click.option("--supervise", is_flag=True, help="Start the worker as a child, and again when it fails, hangs or leaks.")
@click.option("--max-memory", metavar="SIZE", help="With --supervise: replace a worker that uses more than, say, 512M.")
@click.option(
    "--max-silence",
    type=click.FloatRange(min=SILENCE_SECONDS_MIN),
    metavar="SECONDS",
    help=f"With --supervise: kill a worker whose event loop is blocked for so long. Default: {SILENCE_SECONDS_DEFAULT:g}.",
)
@click.option("--supervised-by", "fd", type=int, hidden=True)
@store_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    concurrency: int | None,
    queues: Sequence[str],
    lease: float | None,
    supervise: bool,
    max_memory: str | None,
    max_silence: float | None,
    fd: int | None,
    url: str,
) -> int:
    """Drive runs until SIGTERM or Ctrl-C: an Engine, some workflows, or all workflows of a module.

    everstep worker app              every workflow in app.py
    everstep worker app:engine       an es.Engine, with its own store and settings
    everstep worker app --supervise  in a process that is watched and replaced
    """
    if supervise:
        return _supervise(ctx, target, max_memory, max_silence)
    if max_memory is not None or max_silence is not None:
        raise UsageError("--max-memory and --max-silence need --supervise. Nothing was driven.")
    leash = None if fd is None else Leash(fd)
    found = load(target)
    if isinstance(found, Engine):
        _refuse_options(ctx, target)
        engine = found
    else:
        given = {"concurrency": concurrency, "lease": lease, "queues": queues or None}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        engine = Engine(url, workflows=workflows_of(found, target), payloads=Payloads.from_environment(), **options)
    terminal = current_terminal()
    _log_inertly()
    return asyncio.run(serve(terminal, engine, leash))


async def serve(terminal: Terminal, engine: Engine, leash: Leash | None = None) -> int:
    """Drive until drained."""
    stopping = Stopping(terminal, engine.drain)
    async with engine:
        stopping.listen()
        if leash is not None:
            leash.pull(terminal, engine.drain)
        names = ", ".join(sorted(workflow.name for workflow in engine.registry))
        terminal.hint(
            f"worker {os.getpid()} drives {inert(names)} on {inert(without_passwords(engine.store.url))} · Ctrl-C drains"
        )
        await engine.serve()
        if not stopping.is_asked:
            terminal.hint("asked to leave: nothing new is taken")
    terminal.hint(f"worker {os.getpid()} has stopped; what it had not finished was handed back")
    return OK


def _supervise(ctx: click.Context, target: str, max_memory: str | None, max_silence: float | None) -> int:
    if not is_possible():
        raise UsageError("--supervise is not for Windows. Nothing was driven. Let the service manager restart the worker.")
    try:
        memory_max = None if max_memory is None else bytes_of(max_memory)
    except ValueError:
        raise UsageError(f"--max-memory {max_memory!a}: write 512M or 2G. Nothing was driven.") from None
    limits = Limits(SILENCE_SECONDS_DEFAULT if max_silence is None else max_silence, memory_max)
    return asyncio.run(Supervisor(current_terminal(), child_command(ctx, target), limits).run())


def child_command(ctx: click.Context, target: str) -> list[str]:
    """What starts the worker that is supervised: with what was given here, and nothing else (no password)."""
    command = [sys.executable, "-m", "everstep"]
    outer = ctx.find_root().obj
    command += ["--store", outer] if isinstance(outer, str) else []
    command += ["worker", target]
    for name in ctx.params["queues"]:
        command += ["--queue", name]
    for option in ("concurrency", "lease"):
        command += [f"--{option}", str(ctx.params[option])] if ctx.params[option] is not None else []
    return command + (["--store", ctx.params["url"]] if _is_given(ctx, "url") else [])


class Stopping:
    """The first signal asks, the second one does not.

    Attributes:
        is_asked: The first one has come.
    """

    def __init__(self, terminal: Terminal, drain: Callable[[], None]) -> None:
        self._terminal = terminal
        self._drain = drain
        self.is_asked = False

    def listen(self) -> None:
        """From now on."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            try:
                loop.add_signal_handler(number, self.told)
            except NotImplementedError:  # Windows: the handler runs in the main thread, between two callbacks.
                signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(self.told))

    def told(self) -> None:
        """A signal has come."""
        if self.is_asked:
            os._exit(INTERRUPTED)
        self.is_asked = True
        self._terminal.hint("draining: nothing new is taken; once more to stop at once (nothing is lost)")
        self._drain()


class _InertFormatter(logging.Formatter):
    """Log lines that cannot do anything to the terminal; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(inert, without_passwords(super().format(record)).split("\n")))


def _log_inertly() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_InertFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("everstep")
    if not logger.handlers and not logging.getLogger().handlers:
        logger.addHandler(handler)
        logger.propagate = False


def _refuse_options(ctx: click.Context, target: str) -> None:
    given = [name for name in ("url", "concurrency", "lease", "queues") if _is_given(ctx, name)]
    if given:
        option = {"url": "--store", "queues": "--queue"}.get(given[0], f"--{given[0]}")
        raise UsageError(
            f"{target} is an Engine with settings of its own, and {option} would change them. Nothing was driven. Leave it out."
        )


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
