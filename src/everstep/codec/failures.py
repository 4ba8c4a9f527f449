"""
Exceptions as data (H4): what is kept of a failure, and what is made of it again.

Describing never fails: a ``__str__`` that raises, a chain that bites its tail, a surrogate in the text or a traceback of a
thousand frames must not keep a worker from recording that something went wrong. Rebuilding trusts nothing: a type is taken
from the builtins or from what the caller declared, never imported; and what does not fit becomes a ``RemoteError``.
"""

from __future__ import annotations

import builtins
import os
import traceback as tracebacks
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import everstep.errors
from everstep.codec.node import class_name
from everstep.errors import RemoteError
from everstep.records import ErrorRecord

MESSAGE_CHARS_MAX: Final = 8 * 1024
TRACEBACK_CHARS_MAX: Final = 16 * 1024
CAUSES_MAX: Final = 8
_TYPE_CHARS_MAX: Final = 512
_OWN_FOLDER: Final = str(Path(everstep.errors.__file__).absolute().parent) + os.sep


def describe_error(exc: BaseException, *, traceback: bool = True) -> ErrorRecord:
    """Turn an exception into data. Never raises.

    Args:
        exc: The exception; its ``__cause__``, or else its unsuppressed ``__context__``, is described with it.
        traceback: Whether to keep the text of tracebacks.
    """
    record: ErrorRecord | None = None
    for link in reversed(_chain(exc)):
        text = _traceback_text(link.__traceback__) if traceback else ""
        name = _clean(class_name(type(link)), _TYPE_CHARS_MAX)
        record = ErrorRecord(name, _clean(_message(link), MESSAGE_CHARS_MAX), text, record)
    assert record is not None
    return record


def _chain(exc: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = exc
    while link is not None and len(chain) < CAUSES_MAX and all(link is not seen for seen in chain):
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as error:  # noqa: BLE001 - the user's code; describing never fails
        return f"<{type(error).__name__} in its __str__>"


def _clean(text: str, limit: int) -> str:
    """Text that every store takes, at most ``limit`` bytes of it."""
    data = text[:limit].encode("utf-8", "replace")
    if len(data) == len(text):
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def _traceback_text(trace: TracebackType | None) -> str:
    try:
        frames = tracebacks.StackSummary.extract(
            (frame, line) for frame, line in tracebacks.walk_tb(trace) if not _is_own(frame.f_code.co_filename)
        )
        return _without_middle("".join(frames.format()))
    except Exception as error:  # noqa: BLE001 - frames and their sources are the user's; describing never fails
        return f"<{type(error).__name__} while formatting the traceback>"


def _is_own(filename: str) -> bool:
    return str(Path(filename).absolute()).startswith(_OWN_FOLDER)


def _without_middle(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= TRACEBACK_CHARS_MAX:
        return data.decode()
    half = TRACEBACK_CHARS_MAX // 2 - 20
    return data[:half].decode("utf-8", "ignore") + "\n  […]\n" + data[-half:].decode("utf-8", "ignore")


# --- and back -------------------------------------------------------------------------------------------------------------


def rebuild_error(record: ErrorRecord, known: Mapping[str, type[BaseException]]) -> BaseException:
    """Make an exception of a record, with its causes.

    Args:
        record: As described, possibly by another program.
        known: The exception types that the caller declared, by qualified name. Builtin exceptions are always known.

    Returns:
        An exception of the recorded type if that type, built from the message alone, shows this very message; a
        ``RemoteError`` otherwise (a type that wants more than a message, or decorates it, would come out wrong).
    """
    links: list[ErrorRecord] = []
    link: ErrorRecord | None = record
    while link is not None and len(links) < CAUSES_MAX:
        links.append(link)
        link = link.cause
    cause: BaseException | None = None
    for link in reversed(links):
        rebuilt = _rebuild_one(link, known)
        rebuilt.__cause__, cause = cause, rebuilt
    assert cause is not None
    return cause


def _rebuild_one(record: ErrorRecord, known: Mapping[str, type[BaseException]]) -> BaseException:
    cls = known.get(record.type) or _builtin(record.type)
    built = None if cls is None else _built(cls, record.message)
    return built or RemoteError(record.type, record.message, record.traceback)


def _builtin(name: str) -> type[Exception] | None:
    # Only Exceptions: a stored "KeyboardInterrupt" must not stop the program that reads it.
    found = vars(builtins).get(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


class _Shown(str):
    """Text whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _built(cls: type[BaseException], message: str) -> BaseException | None:
    # As given; KeyError shows the repr of its key, be it text or not; a message of the type's own.
    for args in ((message,), (message[1:-1],), (_Shown(message),), ()):
        try:
            built = cls(*args)
            if type(built) is cls and str(built) == message:
                return built
        except Exception:  # noqa: BLE001, S112 - a constructor may think what it likes: RemoteError is the answer then
            continue
    return None
