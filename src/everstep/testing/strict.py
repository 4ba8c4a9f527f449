"""
Notice, in a test, what workflow code does that replay cannot repeat, at the line that does it.

    a drain of workflow code ──▶ watched: calls of clocks and randomness, audit events of files, sockets, processes, threads
    steps, the engine, the test ──▶ not watched

Clocks and randomness are functions of C, and programs hold them under names of their own (``from time import time``), so
nothing is patched: while workflow code runs, the interpreter reports each call of a C function (``sys.setprofile``), and those
are compared by identity. What opens a file or a socket is reported by Python's audit events. The rules and their words are
those of ``everstep check``, and its comment silences both: ``# everstep: ignore[E05] the file never changes``.

What is not caught, and the check does catch: ``time.gmtime()`` and its like without an argument, ``os.stat`` and what asks it
(``Path.exists``), the environment, the order of sets, state in globals. While a profiler is at work (before Python 3.12,
``python -m cProfile``) only audit events are seen: there is room for one.
"""

from __future__ import annotations

import _thread
import asyncio
import gc
import linecache
import os
import random
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import cache
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from everstep.core.loop import DeterministicLoop
from everstep.lint.ignores import Ignores, read_ignores
from everstep.lint.rules import BLOCKING, CHANCE, CLOCK, FILE, LISTING, NETWORK, SURROUNDINGS, THREAD, Rule

_TIME = "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"
_CALLS: Mapping[Rule, tuple[str, ...]] = {
    CLOCK: tuple(f"time.{name}" for name in _TIME.split()),
    BLOCKING: ("time.sleep",),
    THREAD: ("_thread.start_new_thread", "_thread.start_joinable_thread"),
    CHANCE: ("os.urandom", "os.getrandom", "uuid._generate_time_safe"),
    SURROUNDINGS: ("os.getpid", "os.getppid"),
}
_SHOWN_AS: Mapping[str, str] = {
    "uuid._generate_time_safe": "uuid.uuid1",
    **dict.fromkeys(("_thread.start_new_thread", "_thread.start_joinable_thread"), "threading.Thread.start"),
}
_NOW = frozenset({"now", "utcnow", "today"})
_EVENTS: Mapping[Rule, str] = {
    FILE: "open os.remove os.rename os.mkdir os.rmdir os.chmod os.chown os.link os.symlink os.truncate os.utime os.chdir",
    LISTING: "os.listdir os.scandir glob.glob pathlib.Path.glob pathlib.Path.rglob",
    NETWORK: "sqlite3.connect urllib.Request http.client.connect smtplib.connect ftplib.connect imaplib.open poplib.connect",
    THREAD: ("subprocess.Popen os.system os.posix_spawn os.fork os.forkpty os.exec os.spawn os.kill os.killpg pty.spawn"),
}
_RULE_OF_EVENT: Mapping[str, Rule] = {event: rule for rule, events in _EVENTS.items() for event in events.split()}
_RULE_OF_FAMILY: Mapping[str, Rule] = {"socket": NETWORK, "shutil": FILE, "tempfile": FILE}
# They look at clocks and files for themselves, and nothing of it comes back into the workflow: or only what is the same
# everywhere, such as the text of a module and the rules of a time zone.
_HARMLESS = (
    *("importlib", "_frozen_importlib", "_frozen_importlib_external", "encodings", "gettext", "zoneinfo"),
    *("linecache", "logging", "tokenize", "traceback", "warnings"),
    *("_pytest", "_pydevd_bundle", "coverage", "debugpy", "pydevd"),
)
_LIBRARY = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib")})
_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_DRAIN = DeterministicLoop.drain


class Unrepeatable(BaseException):
    """Workflow code did what replay cannot repeat. Raised where it did it, instead of doing it.

    Not an ``Exception``, so that an ``except Exception`` of the workflow does not hide it from the test.
    """


class Watch:
    """Who watches the workflow code that one event loop drives.

    Attributes:
        found: What was refused so far, in words.
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def on(self, host: asyncio.AbstractEventLoop) -> Generator[Watch]:
        """Watch what this loop drives, and raise at the end what the code has hidden."""
        self.begin(host)
        try:
            yield self
        finally:
            self.end(host)
        self.tell()

    def begin(self, host: asyncio.AbstractEventLoop) -> None:
        """Watch what this loop drives from now on."""
        _watches[host] = self
        # Our own class, and only while somebody watches: production code has no place for this.
        DeterministicLoop.drain = _watched_drain  # type: ignore[method-assign]
        _add_audit_hook()

    def end(self, host: asyncio.AbstractEventLoop) -> None:
        """Watch no longer. Safe to repeat."""
        _watches.pop(host, None)
        if not _watches:
            DeterministicLoop.drain = _DRAIN  # type: ignore[method-assign]

    def tell(self) -> None:
        """Raise what was found, once.

        Raises:
            AssertionError: Something was.
        """
        found, self.found = self.found, []
        if found:
            raise AssertionError("\n".join(dict.fromkeys(found)))

    def refuse(self, rule: Rule, what: str, frame: FrameType | None) -> None:
        """Raise, unless the library calls it for itself, or a comment on the line allows it."""
        place = _place_of(frame)
        if place is None or _is_ignored(place, rule):
            return
        told = f"{place}: {what} in workflow code {rule.what}. It was not done. {rule.instead}"
        self.found.append(told)
        raise Unrepeatable(told)


_watches: dict[asyncio.AbstractEventLoop, Watch] = {}
_at_work = threading.local()


def _watched_drain(self: DeterministicLoop, seconds: float) -> None:
    host = asyncio._get_running_loop()
    watch = None if host is None else _watches.get(host)
    if watch is None:
        _DRAIN(self, seconds)
        return
    may_profile = sys.getprofile() is None
    _at_work.watch = watch
    if may_profile:
        sys.setprofile(_on_call)
    try:
        _DRAIN(self, seconds)
    finally:
        if may_profile:
            sys.setprofile(None)
        _at_work.watch = None


# --- calls of C functions -------------------------------------------------------------------------------------------------


def _functions() -> Iterator[tuple[int, tuple[Rule, str]]]:
    modules = {"time": time, "os": os, "uuid": uuid, "_thread": _thread}
    for rule, names in _CALLS.items():
        for name in names:
            module, _, function = name.partition(".")
            found = getattr(modules[module], function, None)  # not every system has all of them
            if found is not None:
                yield id(found), (rule, f"{_SHOWN_AS.get(name, name)}()")


# By identity, and all of them live as long as the process: some callables that are compared here cannot be hashed.
_FUNCTIONS: Mapping[int, tuple[Rule, str]] = dict(_functions())
_SHARED_RANDOM: Any = getattr(random, "_inst", None)
_SEED = random.Random.seed.__code__


def _on_call(frame: FrameType, event: str, what: Any) -> None:
    if event != "c_call":
        return
    found = _FUNCTIONS.get(id(what)) or _method(what, frame)
    watch: Watch | None = getattr(_at_work, "watch", None)
    if found is not None and watch is not None:
        watch.refuse(*found, frame)


def _method(what: Any, frame: FrameType) -> tuple[Rule, str] | None:
    owner = getattr(what, "__self__", None)
    if isinstance(owner, random.Random):
        if owner is _SHARED_RANDOM:
            return CHANCE, "a function of the module random"
        unseeded = frame.f_code is _SEED and frame.f_locals.get("a") is None
        return (CHANCE, "random.Random() without a seed") if unseeded else None
    if isinstance(owner, type) and issubclass(owner, date) and what.__name__ in _NOW:
        return CLOCK, f"{owner.__name__}.{what.__name__}()"
    return None


# --- audit events ---------------------------------------------------------------------------------------------------------


@cache
def _add_audit_hook() -> None:
    """Once: a hook can never be taken away. Where nobody watches it does nothing."""
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    watch: Watch | None = getattr(_at_work, "watch", None)
    if watch is None:
        return
    rule = _RULE_OF_EVENT.get(event) or _RULE_OF_FAMILY.get(event.partition(".")[0])
    if rule is not None:
        first = str(arguments[0]) if arguments and isinstance(arguments[0], str | Path) else ""
        if event != "open" or not _is_of_time_zones(first):
            shown = ascii(first[:100]) if first else ""
            watch.refuse(rule, f"{event}({shown})", sys._getframe(1))  # pyright: ignore[reportPrivateUsage]


# --- where ----------------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A line of somebody's code: the one that runs, or the lines of the expression that does."""

    path: str
    line: int
    end_line: int

    def __str__(self) -> str:
        text = linecache.getline(self.path, self.line).strip()
        return f"{Path(self.path).name}:{self.line}" + (f" ({text})" if text else "")


def _place_of(frame: FrameType | None) -> Place | None:
    """The line of the user's code that led here; None if the library came here by itself, or does no harm with it."""
    installed: Place | None = None
    while frame is not None and frame.f_code is not _DRAIN.__code__:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _HARMLESS or _came_by_chance(frame):
            return None
        path = frame.f_code.co_filename
        if path.startswith(_INSTALLED):
            installed = installed or _running_in(frame)
        elif not path.startswith((*_LIBRARY, _OURS, "<frozen")):
            return _running_in(frame)
        frame = frame.f_back
    return installed


def _came_by_chance(frame: FrameType) -> bool:
    """The collector of garbage runs in whatever frame there is, and with it finalizers and whoever measures it."""
    code = frame.f_code
    return code.co_name == "__del__" or any(getattr(callback, "__code__", None) is code for callback in gc.callbacks)


def _running_in(frame: FrameType) -> Place:
    line, end_line, *_ = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None, None))
    return Place(frame.f_code.co_filename, line or frame.f_lineno, end_line or frame.f_lineno)


def _is_ignored(place: Place, rule: Rule) -> bool:
    by_line = _ignores_of(place.path).by_line
    return any(rule.id in by_line.get(line, ()) for line in range(place.line, place.end_line + 1))


@cache
def _ignores_of(path: str) -> Ignores:
    return read_ignores("".join(linecache.getlines(path)))


def _is_of_time_zones(path: str) -> bool:
    """The tables of time zones are the same everywhere, as far as a workflow may care; they are read by C code."""
    zoneinfo: Any = sys.modules.get("zoneinfo")
    return zoneinfo is not None and path.startswith(tuple(zoneinfo.TZPATH))
