"""
``everstep worker --supervise``: a process that starts a worker, and starts it again when it fails, hangs or leaks.

It does nothing else, and imports nothing of the user's, so that whatever breaks a worker does not break it. Killing a worker
loses nothing (that is what the journal is for), so whoever hangs is killed without much ado; its stacks are shown before, since
they are the only trace that it leaves.

    fails     another exit code than 0 (drained) and 2 (wrong usage, which would be wrong again), or a signal
    hangs     its event loop gave no sign for ``silence_seconds``
    leaks     it uses more memory than ``memory_max``: it is drained first

Signals: SIGTERM and Ctrl-C drain the worker, and its exit code is ours; the second one kills it. It has a process group of its
own, so that Ctrl-C reaches it only through us. If we are killed, it notices (``leash``), drains and ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct

from everstep.cli.faults import INTERRUPTED, OK, UNSUCCESSFUL, USAGE
from everstep.cli.leash import PULSE
from everstep.cli.terminal import Terminal

LOOK_SECONDS: Final = 0.25
START_SECONDS: Final = 60.0
"""What importing the program and opening the store may take, at least: no loop turns before."""
DUMP_SECONDS: Final = 1.0
"""How long a worker that hangs gets to show its stacks: it takes milliseconds where it works at all."""
DELAY_SECONDS: Final = 1.0
DELAY_SECONDS_MAX: Final = 60.0
SETTLED_SECONDS: Final = 60.0
"""Who lived so long has not failed because of how it was started: the next delay is the first again."""

UNITS: Final[Mapping[str, int]] = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Limits(Struct, frozen=True):
    """When a worker is no longer trusted.

    Attributes:
        silence_seconds: Its event loop may be blocked for so long.
        memory_max: It may use so many bytes; None for no limit.
    """

    silence_seconds: float
    memory_max: int | None = None


class Exited(Struct, frozen=True):
    """It ended by itself. Negative codes are signals."""

    code: int


class Hung(Struct, frozen=True):
    """It gave no sign for so many seconds, and was killed."""

    seconds: float


class Leaked(Struct, frozen=True):
    """It used so many bytes, and was drained."""

    bytes: int


End: TypeAlias = Exited | Hung | Leaked


class Again(Struct, frozen=True):
    """Start another worker.

    Attributes:
        delay_seconds: After so long.
        failures: How many in a row have now ended soon after they were started.
    """

    delay_seconds: float
    failures: int


# --- deciding ---------------------------------------------------------------------------------------------------------------


def judge(end: End, lived_seconds: float, failures: int) -> int | Again:
    """What to do when a worker has ended: our own exit code, or start another. Pure."""
    if isinstance(end, Exited) and end.code in (OK, USAGE):
        return end.code
    failures = 0 if lived_seconds >= SETTLED_SECONDS else failures + 1
    if failures == 0:
        return Again(0.0, 0)
    return Again(min(DELAY_SECONDS * 2 ** (failures - 1), DELAY_SECONDS_MAX), failures)


def told(pid: int, end: End) -> str:
    """What happened to a worker, in a line. Pure."""
    match end:
        case Exited(code=code) if code < 0:
            return f"worker {pid} was ended by {signal_name(-code)}"
        case Exited(code=code):
            return f"worker {pid} exited with code {code}"
        case Hung(seconds=seconds):
            return f"worker {pid} was killed: its event loop had been blocked for {seconds:.0f} s"
        case Leaked(bytes=size):
            return f"worker {pid} was drained: it used {size / (1 << 20):,.0f} MB"


def exit_code(end: End) -> int:
    """Ours, when the worker was told to stop with us: the worker's, as a shell would tell it. Pure."""
    if not isinstance(end, Exited):
        return UNSUCCESSFUL
    return end.code if end.code >= 0 else 128 - end.code


def signal_name(number: int) -> str:
    """``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def bytes_of(text: str) -> int:
    """``512M``, ``2G``: as a number of bytes. Pure.

    Raises:
        ValueError: It is none, or not positive.
    """
    number = text.strip().upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in ("K", "M", "G") else ""
    with suppress(ValueError):
        size = float(number.removesuffix(unit)) * UNITS[unit]
        if 1 <= size < float("inf"):
            return round(size)
    raise ValueError(f"{text!a} is no size")


# --- doing ------------------------------------------------------------------------------------------------------------------


class Child:
    """One worker, from its start to its end.

    Attributes:
        process: Its process.
        started_at: When, by the monotonic clock.
        shows_stacks: It knows what to do when it is asked where it hangs.
        has_begun: Its event loop has turned.
        is_draining: It was asked to leave.
    """

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--supervised-by", str(theirs.fileno())], pass_fds=[theirs.fileno()], process_group=0
            )
        ours.setblocking(False)
        self._socket = ours
        self.started_at = self._heard_at = time.monotonic()
        self.shows_stacks = False
        self.has_begun = False
        self.is_draining = False

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def silent_seconds(self) -> float:
        """How long it has given no sign."""
        with suppress(OSError):
            while signs := self._socket.recv(4096):
                self._heard_at, self.shows_stacks = time.monotonic(), True
                self.has_begun = self.has_begun or PULSE in signs
        return time.monotonic() - self._heard_at

    def rss(self) -> int:
        """The memory that it has now, bytes; 0 if that cannot be told."""
        return resident_bytes(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        self.process.send_signal(number)

    def drain(self) -> None:
        """Ask it to leave, once: to be asked twice would end it at once."""
        if not self.is_draining:
            self.is_draining = True
            self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with what it has started and not put elsewhere."""
        if self.process.poll() is None:  # Not of one that has ended: its number may be somebody else's by now.
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        """Let go of what we had of it."""
        self._socket.close()


class Supervisor:
    """See the module.

    Args:
        terminal: Where to say what happens.
        command: What starts a worker.
        limits: When it is no longer trusted.
    """

    def __init__(self, terminal: Terminal, command: Sequence[str], limits: Limits) -> None:
        self._terminal = terminal
        self._command = command
        self._limits = limits
        self._child: Child | None = None
        self._is_stopping = asyncio.Event()
        self._is_killing = False

    async def run(self) -> int:
        """Keep a worker at work until one drains, or somebody says to stop. The exit code."""
        failures = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._told_to_stop)
        while not self._is_stopping.is_set():
            child = self._child = Child(self._command)
            try:
                end = await self._watch(child)
            finally:
                child.kill()
                child.close()
                self._child = None
            if self._is_killing:
                return INTERRUPTED
            if self._is_stopping.is_set():
                return exit_code(end)
            verdict = judge(end, time.monotonic() - child.started_at, failures)
            if isinstance(verdict, int):
                return verdict
            failures = verdict.failures
            await self._pause(child.pid, end, verdict.delay_seconds)
        return OK

    async def _watch(self, child: Child) -> End:
        """Until the worker has ended, or has to."""
        leaked = 0
        while (code := child.process.poll()) is None and not self._is_killing:
            await asyncio.sleep(LOOK_SECONDS)
            silent, silence_max = child.silent_seconds(), self._limits.silence_seconds
            if silent > (silence_max if child.has_begun else max(silence_max, START_SECONDS)):
                return await self._end_hanging(child, silent)
            if not leaked and self._is_too_large(size := child.rss()):
                leaked = size
                self._terminal.hint(f"worker {child.pid} uses {size / (1 << 20):,.0f} MB, more than it may: draining it")
                child.drain()
        return Leaked(leaked) if leaked and code == OK else Exited(code or OK)

    def _is_too_large(self, size: int) -> bool:
        return self._limits.memory_max is not None and size > self._limits.memory_max

    async def _end_hanging(self, child: Child, silent: float) -> Hung:
        self._terminal.hint(
            f"worker {child.pid} has been silent for {silent:.0f} s; this is what it is doing, then it is killed:"
        )
        if child.shows_stacks:  # Before, the signal would just end it.
            child.send(signal.SIGUSR2)
            await asyncio.sleep(DUMP_SECONDS)
        return Hung(silent)

    async def _pause(self, pid: int, end: End, delay: float) -> None:
        seconds = delay * random.uniform(0.75, 1.25)  # so that a fleet does not come back all at once
        when = f"in {seconds:.1f} s" if seconds else "now"
        self._terminal.hint(f"{told(pid, end)}; another one is started {when}")
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()

    def _told_to_stop(self) -> None:
        self._is_killing = self._is_stopping.is_set()
        self._is_stopping.set()
        if self._child is not None and not self._is_killing:
            self._child.drain()


def resident_bytes(pid: int) -> int:
    """The memory that a process has now; 0 if that cannot be told."""
    statm = Path(f"/proc/{pid}/statm")
    try:
        if statm.exists():
            return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return 0


def is_possible() -> bool:
    """Windows has neither the signals nor the sockets for it; its service manager restarts processes."""
    return sys.platform != "win32"
