"""
``everstep demo``: a real process, killed for real, and resumed by another one. In five seconds, and nothing is taken on trust.

    process 1   reserve ✓  charge ✓  ☠ SIGKILL          (this program watches the journal from outside, and kills)
    process 2                            ship ✓  notify ✓
    proof       read from the journal and from what the processes printed, after both are gone
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

import everstep.errors
from everstep.cli.demo_program import FILE_NAME, KILLED_AFTER, PROGRAM, RUN_ID, STEPS, code_lines
from everstep.cli.faults import INTERRUPTED, OK, REFUSED, Refusal
from everstep.cli.inert import inert
from everstep.cli.look import dated
from everstep.cli.proof import Evidence, failures, repeated
from everstep.cli.story import How, Story, tell
from everstep.cli.terminal import Terminal, current_terminal
from everstep.cli.words import duration
from everstep.client import Client
from everstep.errors import RunNotFound
from everstep.journal import verify_chain
from everstep.records import Status

SECONDS_MAX = 20.0
"""Far beyond what it takes, so that a slow machine is no failure and a hang is none of a reader's whole day."""
LOOK_SECONDS = 0.02


@click.command(name="demo")
@click.argument("which", type=click.Choice(["crash"]), default="crash")
@click.option("--show-code", is_flag=True, help="Print the program that is run, and do not run it.")
def command(which: str, show_code: bool) -> int:
    """See a checkout be killed between two steps, and another process finish it."""
    del which
    terminal = current_terminal()
    if show_code:
        terminal.data(PROGRAM, end="")
        return OK
    return asyncio.run(_demo(terminal))


async def _demo(terminal: Terminal) -> int:
    directory = Path(tempfile.mkdtemp(prefix="everstep-demo-"))
    stage = Stage(directory)
    try:
        with _signals_kill(stage):
            evidence = await _play(terminal, stage)
    finally:
        stage.clear()
    wrong = failures(evidence, steps=STEPS, order=RUN_ID, killed_after=KILLED_AFTER)
    for line in wrong:
        terminal.hint(f" ✕  not proved: {inert(line)}")
    if not wrong:
        _print_proof(terminal, evidence, stage)
    return REFUSED if wrong else OK


async def _play(terminal: Terminal, stage: Stage) -> Evidence:
    async with Client(stage.url) as client:
        first = stage.spawn()
        terminal.data(f" 1  pid {first.pid}", end="")
        committed = await _print_until(terminal, client, stage, KILLED_AFTER)
        first.kill()
        killed_is_gone = first.wait(SECONDS_MAX) != 0 and not _exists(first.pid)
        terminal.data(f"   (crash injected: kill -9 {first.pid})")
        terminal.flush()

        began = time.monotonic()
        second = stage.spawn()
        await _until_resumed(client, stage)
        ahead = STEPS.index(KILLED_AFTER) + 2
        took = duration(round((time.monotonic() - began) * 1e6))
        terminal.data(f" 2  pid {second.pid}  resumed {RUN_ID} from step {ahead} of {len(STEPS)}, {took} after its start")
        terminal.data("    " + "      ".join(f"{name} · from journal" for name in committed), end="")
        terminal.flush()
        await _print_until(terminal, client, stage, STEPS[-1], skip=committed, before=_charged(stage))
        terminal.data("")
        exit_code = await asyncio.to_thread(second.wait, SECONDS_MAX)
        story, status = await _read(client)
    return Evidence(
        status=status,
        story=story,
        effects=stage.effects(),
        killed_pid=first.pid,
        killed_is_gone=killed_is_gone,
        resumed_pid=second.pid,
        exit_code=exit_code,
        committed_before=committed,
    )


async def _print_until(
    terminal: Terminal, client: Client, stage: Stage, last: str, *, skip: tuple[str, ...] = (), before: str = ""
) -> tuple[str, ...]:
    """Print each step as it is committed, until one is; returns all that are."""
    told = list(skip)
    terminal.data(before, end="")
    async for story in _stories(client, stage):
        for name in _finished(story):
            if name not in told:
                told.append(name)
                terminal.data(f"{'      ' if skip else '  '}{name} ✓ ", end="")
                terminal.flush()
        if last in told:
            return tuple(told)
    raise AssertionError("unreachable: _stories raises at its end")


async def _until_resumed(client: Client, stage: Stage) -> None:
    async for story in _stories(client, stage):
        if story.recoveries():
            return


async def _stories(client: Client, stage: Stage) -> AsyncIterator[Story]:
    """The story as it grows.

    Raises:
        Refusal: The process ended, or nothing happened for long.
    """
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        # Looked at first: what a process that has ended by now did before is in the journal that is read next.
        is_over = stage.is_over
        with suppress(RunNotFound):  # The process has not got so far yet.
            yield (await _read(client))[0]
        if is_over:
            raise Refusal(f"the program of the demo ended too early. {stage.complaint()}")
        await client.store.wait_for_work(None, LOOK_SECONDS)
    raise Refusal(f"nothing happened for {SECONDS_MAX:g} s. The demo was given up. {stage.complaint()}")


async def _read(client: Client) -> tuple[Story, Status]:
    run, entries = await client.load_journal(RUN_ID)
    verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
    return tell(dated(entries, run.run_id)), run.status


def _finished(story: Story) -> list[str]:
    return [operation.name for operation in story.work() if operation.how is How.DONE]


def _charged(stage: Stage) -> str:
    return f" (card charged {stage.effects().count(f'charge {RUN_ID}')}×)"


def _print_proof(terminal: Terminal, evidence: Evidence, stage: Stage) -> None:
    done = _finished(evidence.story)
    processes = len({takeover.worker for takeover in evidence.story.takeovers})
    terminal.data(
        f" ✓  {RUN_ID} {evidence.status} · {len(done)} steps · {processes} processes · "
        f"{repeated(evidence)} repeated side effects"
    )
    terminal.data(
        f" Look inside:  everstep show {RUN_ID} --store {stage.store}    Code: everstep demo --show-code ({code_lines()} lines)"
    )


class Stage:
    """The directory in which it happens, and the processes. Only the store stays behind."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "demo.db"
        self.url = f"sqlite:///{self.store.as_posix()}"
        self._program = directory / FILE_NAME
        self._effects = directory / "effects.txt"
        self._errors = directory / "errors.txt"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._program.write_text(PROGRAM, encoding="utf-8")

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the program. What it prints is what it did to the world, so nothing of it may stay in a buffer: ``-u``."""
        with self._effects.open("ab") as out, self._errors.open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-u", str(self._program)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment(),
            )
        self._processes.append(process)
        return process

    @property
    def is_over(self) -> bool:
        """The process that was started last has ended."""
        return bool(self._processes) and self._processes[-1].poll() is not None

    def effects(self) -> list[str]:
        """What the world has seen, in order."""
        return self._effects.read_text(encoding="utf-8").splitlines()

    def complaint(self) -> str:
        """The last thing that the program said on stderr."""
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"Its last words: {lines[-1]}" if lines else "It said nothing."

    def kill(self) -> None:
        """End every process that still lives."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def clear(self) -> None:
        """Leave nothing but the store."""
        self.kill()
        for path in (self._program, self._effects, self._errors):
            path.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVERSTEP_")}
        environment |= {"EVERSTEP_URL": self.url, "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
        here = str(Path(everstep.errors.__file__).parents[1])
        if here != sysconfig.get_path("purelib"):
            # Not installed: the program must find the same everstep as the demo.
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), here]))
        return environment


@contextmanager
def _signals_kill(stage: Stage) -> Generator[None]:
    """A terminated demo takes its processes along. (Ctrl-C does so by itself: it raises.)"""

    def end(_number: int, _frame: object) -> None:
        stage.clear()
        sys.exit(INTERRUPTED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exists(pid: int) -> bool:
    if sys.platform == "win32":
        return False  # wait() has returned: that is the proof there. os.kill(pid, 0) would end a process.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Somebody else's by now.
    return True
