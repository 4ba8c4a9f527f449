"""``everstep worker --supervise``: real processes that fail, hang, leak and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from everstep.cli import supervise
from everstep.cli.supervise import Again, Exited, Hung, Leaked, bytes_of, judge, told
from tests.cli.support import SECONDS_MAX, command, environment, everstep

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")

PROGRAM = '''
import asyncio, os, time
import everstep as es

hoard = []

@es.step
async def once(how: str) -> str:
    """Does what it says at the first attempt, and is well behaved after that."""
    if es.current().attempt == 1:
        match how:
            case "fail":
                os._exit(7)
            case "hang":
                stand_still()
            case "leak":
                hoard.append(b"x" * (300 << 20))
                await asyncio.sleep(60)
    return f"{how} {es.current().attempt}"

def stand_still() -> None:
    time.sleep(600)

@es.workflow
async def job(how: str) -> str:
    return await once(how)

engine = es.Engine("sqlite:///.everstep/state.db", workflows=[job], grace=0.5)
'''


ONCE = '{{"how": "{}"}}'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM, encoding="utf-8")
    return tmp_path


@contextmanager
def supervised(place: Path, *options: str, target: str = "app") -> Generator[subprocess.Popen[str]]:
    """A supervisor whose worker is ready. What it says is in the file ``said``. Both are gone at the end."""
    with (place / "said").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command("worker", target, "--supervise", *options), cwd=place, env=environment(), stderr=said, text=True
        )
    try:
        wait_until(lambda: "drives" in saying(place))
        yield process
    finally:
        process.kill()
        process.wait()
        for pid in workers(place):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def saying(place: Path) -> str:
    return (place / "said").read_text(encoding="utf-8")


def workers(place: Path) -> list[int]:
    """Process numbers of all workers that were ready once, in order."""
    lines = saying(place).splitlines()
    return [int(line.split()[1]) for line in lines if " drives job on " in line]


def wait_until(condition: Callable[[], object]) -> None:
    """Other processes do not tell us."""
    until = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" != Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if Path("/proc").exists() else True


# --- deciding ---------------------------------------------------------------------------------------------------------------


def test_what_ended_well_or_would_end_so_again_is_not_started_again() -> None:
    assert 0 == judge(Exited(0), 5, 3)
    assert 2 == judge(Exited(2), 0.1, 0)


def test_each_failure_doubles_the_delay_until_a_worker_settles() -> None:
    """A minute at most; who lived for a minute begins anew, and at once."""
    failures, delays = 0, list[float]()
    for _ in range(8):
        verdict = judge(Exited(1), 1, failures)
        assert isinstance(verdict, Again)
        failures = verdict.failures
        delays.append(verdict.delay_seconds)

    assert [1, 2, 4, 8, 16, 32, 60, 60] == delays
    assert Again(0, 0) == judge(Hung(60), 3600, 7)
    assert Again(1, 1) == judge(Leaked(1), 3, 0)


def test_each_end_is_told_in_a_line() -> None:
    assert "worker 7 was ended by SIGSEGV" == told(7, Exited(-signal.SIGSEGV))
    assert "worker 7 exited with code 3" == told(7, Exited(3))
    assert "worker 7 was killed: its event loop had been blocked for 61 s" == told(7, Hung(61.2))
    assert "worker 7 was drained: it used 1,024 MB" == told(7, Leaked(1 << 30))
    assert "worker 7 was ended by signal 99" == told(7, Exited(-99))


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("1.5g", 3 << 29), ("2GB", 2 << 30), ("7", 7), ("1k", 1024)])
def test_a_size_is_written_as_people_do(text: str, size: int) -> None:
    assert size == bytes_of(text)


@pytest.mark.parametrize("text", ["", "M", "much", "-1G", "0", "1T", "nan", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        bytes_of(text)


def test_a_process_has_a_size() -> None:
    assert 5 << 20 < supervise.resident_bytes(os.getpid()) < 1 << 40
    assert 0 == supervise.resident_bytes(1 << 30)


# --- doing ------------------------------------------------------------------------------------------------------------------


def test_wrong_usage_is_not_tried_again(place: Path) -> None:
    done = everstep("worker", "nosuch", "--supervise", cwd=place)

    assert 2 == done.returncode
    assert "nosuch" in done.stderr
    assert "another one" not in done.stderr
    for options, told_so in (
        (["--max-memory", "1G"], "need --supervise"),
        (["--supervise", "--max-memory", "much"], "write 512M or 2G"),
        (["--lease", "1"], "--lease"),
    ):
        done = everstep("worker", "app", *options, cwd=place)
        assert (2, True) == (done.returncode, told_so in done.stderr)


def test_a_worker_that_fails_is_started_again(place: Path) -> None:
    """And the run goes on with it."""
    with supervised(place, "--lease", "2", "-c", "3") as supervisor:
        done = everstep("start", "app:job", ONCE.format("fail"), "--id", "job-1", "--wait", cwd=place)

        assert (0, '"fail 2"') == (done.returncode, done.stdout.strip())
        first, second = workers(place)
        assert f"worker {first} exited with code 7; another one is started in " in saying(place)
        assert not is_there(first)
        supervisor.send_signal(signal.SIGTERM)
        assert 0 == supervisor.wait(SECONDS_MAX)
        assert not is_there(second)
        assert "what it had not finished was handed back" in saying(place)


def test_a_worker_that_hangs_shows_where_and_is_replaced(place: Path) -> None:
    """Its event loop is blocked: the lease alone would hand the run over, and leave a process that does nothing for ever."""
    with supervised(place, "--max-silence", "2") as supervisor:
        done = everstep("start", "app:job", ONCE.format("hang"), "--id", "job-1", "--wait", cwd=place)

        assert (0, '"hang 2"') == (done.returncode, done.stdout.strip())
        assert "in stand_still" in saying(place)
        first, second = workers(place)
        assert f"worker {first} was killed: its event loop had been blocked for " in saying(place)
        assert supervisor.poll() is None
        assert (False, True) == (is_there(first), is_there(second))


def test_a_frozen_worker_is_replaced(place: Path) -> None:
    """It cannot show anything, nor be asked."""
    with supervised(place, "--max-silence", "2"):
        (first,) = workers(place)
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: len(workers(place)) == 2)

        assert not is_there(first)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at the sizes of processes as Linux tells them")
def test_a_worker_that_leaks_is_drained_and_replaced(place: Path) -> None:
    """What it had is handed back, not lost: nobody has to find it dead."""
    with supervised(place, "--max-memory", "250M", target="app:engine"):
        done = everstep("start", "app:job", ONCE.format("leak"), "--id", "job-1", "--wait", cwd=place)

        assert (0, '"leak 2"') == (done.returncode, done.stdout.strip())
        first, _ = workers(place)
        assert f"worker {first} uses " in saying(place)
        assert f"worker {first} was drained: it used " in saying(place)
        assert "recovered" not in everstep("show", "job-1", cwd=place).stdout


def test_a_worker_that_was_asked_to_leave_is_not_started_again(place: Path) -> None:
    """``everstep workers drain`` means it; a deployment would otherwise never end."""
    with supervised(place, "--lease", "2") as supervisor:
        name = everstep("workers", cwd=place).stdout.split("\t")[0]
        everstep("workers", "drain", name, cwd=place)

        assert 0 == supervisor.wait(SECONDS_MAX)
        assert 1 == len(workers(place))


def test_a_second_signal_kills_the_worker(place: Path) -> None:
    """The first one lets its step finish, which takes too long for whoever presses again."""
    with supervised(place) as supervisor:
        everstep("start", "app:job", ONCE.format("hang"), "--id", "job-1", cwd=place)
        wait_until(lambda: "once" in everstep("show", "job-1", cwd=place).stdout)
        supervisor.send_signal(signal.SIGINT)
        time.sleep(0.3)  # Two signals that are pending at once are one.
        supervisor.send_signal(signal.SIGINT)

        assert 130 == supervisor.wait(SECONDS_MAX)
        (first,) = workers(place)
        assert not is_there(first)


def test_a_worker_leaves_when_its_supervisor_is_killed(place: Path) -> None:
    """Nobody would stop or restart it any more."""
    with supervised(place) as supervisor:
        (first,) = workers(place)
        supervisor.kill()
        wait_until(lambda: not is_there(first))

        assert "the supervisor is gone" in saying(place)
        assert "what it had not finished was handed back" in saying(place)


def test_a_supervisor_waits_for_a_store_that_is_away(place: Path) -> None:
    """It is not there when everything starts, as after a power cut; then it is."""
    with (place / "said").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command("worker", "app", "--supervise", "--store", "sqlite:///late/state.db"),
            cwd=place,
            env=environment(),
            stderr=said,
        )
    try:
        wait_until(lambda: "exited with code 3; another one is started" in saying(place))
        (place / "late").mkdir()
        wait_until(lambda: workers(place))
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
