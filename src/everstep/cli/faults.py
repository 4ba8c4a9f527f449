"""
What went wrong, as an exit code and a few lines: what happened first, what to do last. Pure.

    0    done; for watch and start --wait: the run succeeded
    1    the run failed, died, was cancelled, or is paused
    2    wrong usage
    3    the store cannot be reached, or is no store of this everstep
    4    not found
    5    refused: illegal state, conflict, damage or divergence found
    6    timed out waiting
    130  interrupted, by Ctrl-C or because whoever read the output left
"""

from __future__ import annotations

import os
import re

import click

from everstep.cli.inert import inert, without_passwords
from everstep.errors import (
    CorruptJournal,
    EverstepError,
    IllegalState,
    NondeterminismError,
    PayloadKeyMissing,
    PayloadTooLarge,
    RequestFailed,
    RequestRefused,
    RequestTimeout,
    RunCancelled,
    RunConflict,
    RunDead,
    RunEnded,
    RunFailed,
    RunNotFound,
    RunPaused,
    RunTimeout,
    StoreError,
    Unencodable,
    UsageError,
)

OK = 0
UNSUCCESSFUL = 1
USAGE = 2
STORE = 3
NOT_FOUND = 4
REFUSED = 5
TIMED_OUT = 6
INTERRUPTED = 130

_CODES: tuple[tuple[type[EverstepError], int], ...] = (
    (RunTimeout, TIMED_OUT),
    (RequestTimeout, TIMED_OUT),
    (RequestRefused, REFUSED),
    (RequestFailed, UNSUCCESSFUL),
    (RunEnded, REFUSED),
    (RunNotFound, NOT_FOUND),
    (RunConflict, REFUSED),
    (IllegalState, REFUSED),
    (RunFailed, UNSUCCESSFUL),
    (RunCancelled, UNSUCCESSFUL),
    (RunDead, UNSUCCESSFUL),
    (RunPaused, UNSUCCESSFUL),
    (CorruptJournal, REFUSED),
    (PayloadKeyMissing, REFUSED),
    (NondeterminismError, REFUSED),
    (StoreError, STORE),
    (UsageError, USAGE),
    (Unencodable, USAGE),
    (PayloadTooLarge, USAGE),
)
# The end of a sentence, if another one follows. Paths and numbers have no blank after their dots.
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_LINES_MAX = 40


class Refusal(EverstepError):
    """Something the command line itself declines, with the exit code that says so."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


def explain(error: EverstepError | click.ClickException) -> tuple[int, list[str]]:
    """The exit code and the lines for an error that was foreseen."""
    if isinstance(error, click.ClickException):
        return USAGE, _usage_lines(error)
    return exit_code(error), lines_of(str(error))


def exit_code(error: EverstepError) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, Refusal):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNSUCCESSFUL)


def unexpected(error: BaseException) -> tuple[int, list[str]]:
    """The same for an error that nobody foresaw."""
    kind = STORE if isinstance(error, OSError) else UNSUCCESSFUL
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    what = lines_of(message)[0]
    return kind, [what, f"  {_remedy(error)}"]


def _remedy(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return "This is a bug of everstep: please report it."
    return "Check the file or directory that it names." if error.filename else "Check where the output goes, and its disk."


def lines_of(message: str) -> list[str]:
    """An error message, ready for a terminal: the last sentence, which says what to do, stands on a line of its own."""
    *before, last = without_passwords(message).rstrip().split("\n")[:_LINES_MAX]
    said, _, remedy = _cut_last_sentence(last)
    lines = [*before, *([said] if said else []), *([f"  {remedy}"] if remedy else [])]
    return [f"{'' if number else 'everstep: '}{inert(line)}" for number, line in enumerate(lines)]


def _cut_last_sentence(text: str) -> tuple[str, str, str]:
    ends = list(_SENTENCE_END.finditer(text))
    if not ends:
        return text, "", ""
    return text[: ends[-1].start()], " ", text[ends[-1].end() :]


def _usage_lines(error: click.ClickException) -> list[str]:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "everstep"
    what = error.format_message().replace(os.linesep, " ")
    return [f"everstep: {inert(without_passwords(what))}", f"  See: {path} --help"]
