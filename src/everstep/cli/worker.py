"""
``everstep worker``: drive runs until told to stop.

The first SIGTERM or Ctrl-C drains: nothing new is taken, what runs gets its grace, the rest is handed back for others. The
second ends the process at once, which loses nothing either: that is what the journal is for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import click

from everstep.cli.faults import INTERRUPTED, OK
from everstep.cli.inert import inert, without_passwords
from everstep.cli.options import store_option
from everstep.cli.targets import load, workflows_of
from everstep.cli.terminal import Terminal, current_terminal
from everstep.engine.engine import Engine
from everstep.errors import UsageError
from everstep.payloads import Payloads

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command(name="worker")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="How many runs to drive at once. Default: 1000.")
@store_option
@click.pass_context
def command(ctx: click.Context, target: str, concurrency: int | None, url: str) -> int:
    """Drive runs until SIGTERM or Ctrl-C: an Engine, some workflows, or all workflows of a module.

    everstep worker app              every workflow in app.py
    everstep worker app:engine       an es.Engine, with its own store and settings
    """
    found = load(target)
    if isinstance(found, Engine):
        _refuse_options(ctx, target)
        engine = found
    else:
        options: dict[str, Any] = {} if concurrency is None else {"concurrency": concurrency}
        engine = Engine(url, workflows=workflows_of(found, target), payloads=Payloads.from_environment(), **options)
    terminal = current_terminal()
    _log_inertly()
    return asyncio.run(serve(terminal, engine))


async def serve(terminal: Terminal, engine: Engine) -> int:
    """Drive until drained."""
    stopping = Stopping(terminal, engine.drain)
    async with engine:
        stopping.listen()
        names = ", ".join(sorted(workflow.name for workflow in engine.registry))
        terminal.hint(
            f"worker {os.getpid()} drives {inert(names)} on {inert(without_passwords(engine.store.url))} · Ctrl-C drains"
        )
        await engine.serve()
    terminal.hint(f"worker {os.getpid()} has stopped; what it had not finished was handed back")
    return OK


class Stopping:
    """The first signal asks, the second one does not."""

    def __init__(self, terminal: Terminal, drain: Callable[[], None]) -> None:
        self._terminal = terminal
        self._drain = drain
        self._asked = False

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
        if self._asked:
            os._exit(INTERRUPTED)
        self._asked = True
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
    given = [
        name for name in ("url", "concurrency") if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        option = "--store" if given[0] == "url" else "--concurrency"
        raise UsageError(
            f"{target} is an Engine with settings of its own, and {option} would change them. Nothing was driven. Leave it out."
        )
