"""
The airports import, killed five times, and the proof that it made no difference.

    make demo                                   (python -m examples.airports.demo --seed 7 --kills 5)

First `job.py` runs without interruption: the reference. Then it runs in another directory, and this program sends it SIGKILL
at moments that the seed chooses, and starts it again each time, until it ends by itself. Nothing tells the job that it will be
killed, and nothing but the journal tells the next process where to go on.

What the printed checks prove, and from which evidence:

- **Each kill hit a working process.** The exit status says SIGKILL; the process had begun a step body, and had not yet printed
  the report.
- **The outcome is that of the uninterrupted run.** Same rows and same SHA-256 over all rows of the target table, the batch each
  row belongs to included, and the same printed report.
- **No batch was loaded twice.** The target has no unique key on airports, so a double load would show: each batch has one
  committed load and exactly the rows that this load counted.
- **Each step was recorded once.** The journal, read after the end, holds one result per step: as many as in the reference.
- **No finished step ran again.** Step bodies write a line to a trace file when they begin and when they end. A body that began
  in two processes must be the one that the earlier process died in (at most one per kill: this workflow awaits its steps one
  by one); and the number of bodies that ran to their end exceeds the steps by no more than the kills.

What they do not prove: anything about power cuts (the page cache survives SIGKILL), frozen processes, or several workers. The
test suite has tests for those. "What it cost" is one measurement on this machine, not a promise.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import everstep as es
from everstep.events import StepCompleted
from examples.airports.job import TRACE_ENV

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_ID = "import-airports"
PACE_MS = 16  # 142 batch steps of a few ms each would be over before a person could see anything; this makes it about 4 s
JOB_TIME_MAX_S = 120.0
POLL_S = 0.002
# The exit status of a killed child: the negated signal number on POSIX, 1 where TerminateProcess stands in for SIGKILL.
KILLED_STATUS = 1 if os.name == "nt" else -9


# What happened, as values.


@dataclass(frozen=True)
class Mark:
    """When to kill: once ``bodies`` step bodies have ended in all processes together, and ``jitter_s`` later."""

    bodies: int
    jitter_s: float


@dataclass(frozen=True)
class Line:
    """A line of the trace file: what the body of a step did, when (monotonic seconds), and in which process."""

    pid: int
    at: float
    verb: str
    body: str


@dataclass(frozen=True)
class Process:
    """One process that ran the job, and how many steps it found in the journal."""

    pid: int
    began_at: float
    seconds: float
    status: int
    output: str
    found: int


@dataclass(frozen=True)
class Target:
    """What a target database holds: a hash over every row, and the committed loads and the rows of each batch."""

    rows: int
    sha256: str
    loads: tuple[tuple[int, int], ...]
    rows_by_batch: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Outcome:
    """Everything that was observed of one job, interrupted or not."""

    processes: tuple[Process, ...]
    trace: tuple[Line, ...]
    recorded: tuple[str, ...]
    target: Target

    @property
    def seconds(self) -> float:
        return sum(process.seconds for process in self.processes)


@dataclass(frozen=True)
class Proof:
    holds: bool
    claim: str
    evidence: str


class DemoFailed(Exception):
    """The job did something that it must not do; the message says what, and shows its output."""


# Deciding: when to kill, and what the observations prove.


def choose_marks(seed: int, kills: int, step_count: int) -> list[Mark]:
    """Choose when to kill: one moment in each of ``kills`` equal stretches of the job, the very end left out.

    Raises:
        ValueError: The job is too short for so many kills.
    """
    first, last = 1, step_count - 5  # the jitter lasts up to two bodies: the last kill must still find the job at work
    if last - first < 2 * kills:
        raise ValueError(f"{step_count} steps are too few to be killed {kills} times; take more records or fewer kills")
    random = Random(seed)
    width = (last - first) / kills
    return [
        Mark(first + int(width * number + random.uniform(0, width)), random.uniform(0, 2 * PACE_MS / 1000))
        for number in range(kills)
    ]


def judge(reference: Outcome, interrupted: Outcome, kills: int) -> list[Proof]:
    """Decide what the two jobs prove."""
    killed, last = interrupted.processes[:-1], interrupted.processes[-1]
    steps = len(reference.recorded)
    ended = [line.body for line in interrupted.trace if line.verb == "ended"]
    again = begun_again(interrupted.trace)
    finished_and_begun_again = [body for pid, body in again if body != last_begun(interrupted.trace, before=pid)]
    stopped = sum(line.verb == "already" for line in interrupted.trace)
    target, wanted = interrupted.target, reference.target
    at_work = [process for process in killed if was_killed_at_work(interrupted, process)]
    return [
        Proof(
            len(at_work) == len(killed) == kills and last.status == 0,
            "each kill hit a working process",
            f"{len(at_work)} of {kills} processes died of SIGKILL at work, the last one exited with {last.status}",
        ),
        Proof(
            (target.rows, target.sha256) == (wanted.rows, wanted.sha256) and target.rows > 0,
            "the table equals that of the uninterrupted run",
            f"{target.rows} rows, sha256 {target.sha256[:12]}... (uninterrupted: {wanted.rows}, {wanted.sha256[:12]}...)",
        ),
        Proof(
            last.output == reference.processes[-1].output != "",
            "the printed report is the same",
            last.output.partition("\n")[0],
        ),
        Proof(
            target.loads == target.rows_by_batch == wanted.loads and len(dict(target.loads)) == len(target.loads),
            "no batch was loaded twice, none is missing",
            f"{len(target.loads)} loads committed for {len(dict(target.rows_by_batch))} batches; "
            f"idempotency keys stopped {stopped} more",
        ),
        Proof(
            len(set(interrupted.recorded)) == len(interrupted.recorded) == steps > 0,
            "each step was recorded once",
            f"{len(interrupted.recorded)} results in the journal for {steps} steps",
        ),
        Proof(
            not finished_and_begun_again
            and len(again) <= kills
            and set(ended) == {line.body for line in reference.trace}
            and len(ended) <= steps + kills,
            "no finished step ran again",
            f"{steps} steps, {len(ended)} bodies ran to their end; a kill within made {len(again)} begin again "
            f"(at most {kills})",
        ),
    ]


def begun_again(trace: Iterable[Line]) -> list[tuple[int, str]]:
    """Bodies that an earlier process had begun already, with the process that began them once more."""
    seen: set[str] = set()
    again: list[tuple[int, str]] = []
    for line in trace:
        if line.verb == "began":
            if line.body in seen:
                again.append((line.pid, line.body))
            seen.add(line.body)
    return again


def last_begun(trace: Iterable[Line], before: int) -> str | None:
    """The last body that was begun before the process ``before`` began its first."""
    last: str | None = None
    for line in trace:
        if line.pid == before:
            return last
        if line.verb == "began":
            last = line.body
    return last


def was_killed_at_work(outcome: Outcome, process: Process) -> bool:
    return process.status == KILLED_STATUS and bool(begun_by(outcome, process)) and not process.output


def begun_by(outcome: Outcome, process: Process) -> list[Line]:
    return [line for line in outcome.trace if line.pid == process.pid and line.verb == "began"]


# Doing: run, watch, kill, look.


@dataclass(frozen=True)
class Job:
    """The job in a directory of its own: its store, its target, its trace."""

    directory: Path
    limit: int | None

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.directory / 'store.db'}"

    @property
    def target(self) -> Path:
        return self.directory / "airports.db"

    def run(self, marks: Sequence[Mark] = ()) -> Outcome:
        """Run it to its end; kill it at each of the marks, and start it again."""
        self.directory.mkdir(parents=True)
        processes = [self._run_once(number, mark) for number, mark in enumerate([*marks, None], start=1)]
        return Outcome(tuple(processes), tuple(self.trace()), tuple(self.recorded()), read_target(self.target))

    def _run_once(self, number: int, mark: Mark | None) -> Process:
        found = len(self.recorded())
        output = self.directory / f"process-{number}.txt"
        with output.open("w", encoding="utf-8") as file:
            began_at = time.monotonic()
            child = subprocess.Popen(self._command(), cwd=REPOSITORY, env=self._environment(), stdout=file, stderr=file)
            try:
                if mark is not None:
                    self._wait_for(child, mark)
                    child.kill()
                status = child.wait(timeout=JOB_TIME_MAX_S)
            finally:
                child.kill()  # does nothing to a process that has ended; without it, Ctrl-C here would leave it behind
                child.wait()
        seconds, text = time.monotonic() - began_at, output.read_text(encoding="utf-8")
        if status != (0 if mark is None else KILLED_STATUS):
            raise DemoFailed(f"process {number} (pid {child.pid}) ended by itself with status {status}:\n{text}")
        return Process(child.pid, began_at, seconds, status, text, found)

    def _command(self) -> list[str]:
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        job = ["-m", "examples.airports.job", str(self.target), "--id", RUN_ID, "--pace-ms", str(PACE_MS), *limit]
        return [sys.executable, *job]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "EVERSTEP_URL": self.store_url, TRACE_ENV: str(self.directory / "trace.txt")}

    def _wait_for(self, child: subprocess.Popen[bytes], mark: Mark) -> None:
        """Return when the moment of the mark has come, and this very process has begun a step body."""
        give_up_at = time.monotonic() + JOB_TIME_MAX_S
        while child.poll() is None:
            trace = self.trace()
            if sum(line.verb == "ended" for line in trace) >= mark.bodies and any(line.pid == child.pid for line in trace):
                time.sleep(mark.jitter_s)
                return
            if time.monotonic() > give_up_at:
                raise DemoFailed(f"the job (pid {child.pid}) made no progress for {JOB_TIME_MAX_S:g} s; see {self.directory}")
            time.sleep(POLL_S)

    def trace(self) -> list[Line]:
        """The trace so far. A last line without its end is still being written and left out."""
        path = self.directory / "trace.txt"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        words = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [Line(int(pid), float(at), verb, body) for pid, at, verb, body in words]

    def recorded(self) -> list[str]:
        """The keys of the steps whose results are in the journal, in order."""
        return asyncio.run(recorded_steps(self.store_url)) if (self.directory / "store.db").exists() else []


async def recorded_steps(store_url: str) -> list[str]:
    async with es.Client(store_url) as client:
        history = await client.handle(RUN_ID).history()  # verifies the hash chain
    return [event.key for entry in history for event in entry.events if isinstance(event, StepCompleted)]


def read_target(path: Path) -> Target:
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as db:
        rows = sorted(db.execute("SELECT * FROM airports").fetchall(), key=repr)
        loads = db.execute("SELECT batch, rows FROM batches ORDER BY batch, rows").fetchall()
    for row in rows:
        digest.update(repr(row).encode() + b"\n")
    return Target(len(rows), digest.hexdigest(), tuple(loads), tuple(sorted(Counter(row[0] for row in rows).items())))


# Telling.


def show_processes(outcome: Outcome) -> None:
    again = Counter(pid for pid, _ in begun_again(outcome.trace))
    print("  #      pid  how it ended               from journal  executed  again  resumed in     time")
    for number, process in enumerate(outcome.processes, start=1):
        mine = begun_by(outcome, process)
        resumed_ms = f"{(mine[0].at - process.began_at) * 1000:.0f} ms" if mine else "-"
        print(
            f"{number:>3} {process.pid:>8}  {ending(outcome, process):<26} {process.found:>12} {len(mine):>9} "
            f"{again[process.pid]:>6} {resumed_ms:>11} {process.seconds:>6.2f} s"
        )


def ending(outcome: Outcome, process: Process) -> str:
    if process.status == 0:
        return "finished"
    last = next(line for line in reversed(outcome.trace) if line.pid == process.pid)
    return f"SIGKILL {'in' if last.verb == 'began' else 'after'} {last.body}"


def show_costs(reference: Outcome, interrupted: Outcome) -> None:
    kills = len(interrupted.processes) - 1
    cost = interrupted.seconds - reference.seconds
    each = f", {cost / kills * 1000:.0f} ms per kill" if kills else ""
    print(
        f"What it cost: {interrupted.seconds:.2f} s instead of {reference.seconds:.2f} s: {cost:+.2f} s{each} "
        "(start of Python, takeover, the body that was cut off)"
    )


def main(seed: int | None = None, kills: int = 5, limit: int | None = None, directory: Path | None = None) -> int:
    """Run the demo and print what happened.

    Args:
        seed: Chooses the moments; None for a random one. It is printed.
        kills: How often to kill the job.
        limit: Import only so many records; None for all.
        directory: A new directory to keep everything in; None for a temporary one, removed if all went well.

    Returns:
        0 if every claim is proved, else 1.
    """
    seed = secrets.randbelow(10_000) if seed is None else seed
    place = directory or Path(tempfile.mkdtemp(prefix="everstep-demo-"))
    print(f"airports import, killed {kills} times (seed {seed})\n")
    try:
        reference = Job(place / "reference", limit).run()
        print(f"uninterrupted: {len(reference.recorded)} steps, {reference.target.rows} rows, {reference.seconds:.2f} s\n")
        interrupted = Job(place / "interrupted", limit).run(choose_marks(seed, kills, len(reference.recorded)))
    except DemoFailed as failure:
        print(f"FAILED: {failure}\nEverything is kept in {place}")
        return 1
    show_processes(interrupted)
    print()
    proofs = judge(reference, interrupted, kills)
    for proof in proofs:
        print(f"{'ok    ' if proof.holds else 'FAILED'}  {proof.claim}: {proof.evidence}")
    print()
    show_costs(reference, interrupted)
    if not all(proof.holds for proof in proofs):
        print(f"\nFAILED. Repeat with --seed {seed}. Everything is kept in {place}")
        return 1
    if directory is None:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="examples.airports.demo", description="Kill an import, prove that it did not matter.")
    parser.add_argument("--seed", type=int, help="chooses the moments of the kills; default: a random one, printed")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--limit", type=int, help="import only so many records")
    parser.add_argument("--directory", type=Path, help="a new directory to keep the databases in")
    asked = parser.parse_args()
    sys.exit(main(asked.seed, asked.kills, asked.limit, asked.directory))
