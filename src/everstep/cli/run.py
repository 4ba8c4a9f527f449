"""
One use of the command line, from arguments to exit code: the only place that catches everything.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO, cast

import click

from everstep.cli.faults import INTERRUPTED, OK, explain, unexpected
from everstep.cli.group import app
from everstep.cli.terminal import Terminal, current_terminal
from everstep.errors import EverstepError


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say.

    Returns:
        The exit code. Nothing is raised; what went wrong has been said on stderr.
    """
    _let_streams_write_anything()
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.EPIPE:
            return _said(current_terminal(), unexpected(error))
        # Whoever read us has had enough: nothing to say, and nobody to say it to.
        _forget_stdout()
        return INTERRUPTED
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


def _let_streams_write_anything() -> None:
    """A character that the terminal's encoding lacks becomes an escape, never a crash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Python flushes stdout once more at its end, and would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), cast(TextIO, sys.stdout).fileno())
