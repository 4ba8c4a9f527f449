"""
One use of the command line, from arguments to exit code: the only place that catches everything.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

import click

from everstep.cli.faults import INTERRUPTED, OK, explain, unexpected
from everstep.cli.group import app
from everstep.cli.terminal import Terminal, current_terminal
from everstep.errors import EverstepError

_ESCAPE = "backslashreplace"


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say.

    Returns:
        The exit code. Nothing is raised; what went wrong has been said on stderr.
    """
    _make_streams_safe()
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        _let_go_of_stdout()
        return INTERRUPTED
    except OSError as error:
        _let_go_of_stdout()
        if error.errno == errno.EPIPE:
            return INTERRUPTED  # Whoever read us has had enough: nothing to say, and nobody to say it to.
        return _said(current_terminal(), unexpected(error))
    return code


def _invoke(arguments: Sequence[str]) -> int:
    terminal = current_terminal()
    try:
        with app.make_context("everstep", list(arguments)) as context:
            code = app.invoke(context)
            return code if isinstance(code, int) else OK
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        return _said(terminal, explain(error))
    except EverstepError as error:
        return _said(terminal, explain(error))
    except (OSError, click.Abort):
        raise
    except Exception as error:  # noqa: BLE001  # the last line of defence: one sentence instead of a traceback
        return _said(terminal, unexpected(error))


def _said(terminal: Terminal, verdict: tuple[int, list[str]]) -> int:
    code, lines = verdict
    with suppress(OSError):  # stderr may be gone; the exit code still tells.
        for line in lines:
            terminal.hint(line)
    return code


def _make_streams_safe() -> None:
    """A character that an encoding lacks becomes an escape, never a crash; a stream that was closed leads nowhere."""
    for name, mode, errors in (("stdin", "r", "surrogateescape"), ("stdout", "w", _ESCAPE), ("stderr", "w", _ESCAPE)):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # as long as the process
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=errors)


def _let_go_of_stdout() -> None:
    """If stdout can take no more: Python would flush it once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), cast(TextIO, sys.stdout).fileno())
