"""The verbs that do something: start, cancel, worker. Real processes, real signals."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.support import SECONDS_MAX, command, environment, everstep, on_a_terminal

posix_only = pytest.mark.skipif("sys.platform == 'win32'", reason="there are no such signals")


@contextmanager
def a_worker(place: Path, *target: str) -> Generator[subprocess.Popen[str]]:
    """A worker that is ready; killed at the end if it still lives."""
    process = subprocess.Popen(
        command("worker", *(target or ("app",))),
        cwd=place,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stderr is not None
    try:
        assert "drives" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.wait(SECONDS_MAX)
        process.stderr.close()


def status_of(place: Path, run_id: str) -> str:
    return str(json.loads(everstep("show", run_id, "--json", cwd=place).stdout)["status"])


# --- start -----------------------------------------------------------------------------------------------------------------


def test_start_prints_the_id_and_says_that_no_worker_is_there(place: Path) -> None:
    """Data on stdout, the warning on stderr."""
    done = everstep("start", "app:checkout", '{"order_id": "7"}', "--id", "order-7", cwd=place)

    assert (0, "order-7\n") == (done.returncode, done.stdout)
    assert "no worker is alive on this store: everstep worker app:checkout" in done.stderr
    assert "queued" == status_of(place, "order-7")


def test_start_without_an_id_makes_one(place: Path) -> None:
    """And prints it: nobody could find the run otherwise."""
    run_id = everstep("start", "app:checkout", '{"order_id": "7"}', cwd=place).stdout.strip()

    assert "queued" == status_of(place, run_id)


def test_start_with_the_same_id_and_arguments_joins(place: Path) -> None:
    """Whatever the order in which the arguments are written."""
    done = everstep("start", "app:checkout", '{"cents": 1999, "order_id": "1"}', "--id", "order-1", "--wait", cwd=place)

    assert (0, '"ch_1_1999"\n') == (done.returncode, done.stdout)
    assert "was started before: succeeded" in done.stderr


def test_start_with_other_arguments_is_a_conflict(place: Path) -> None:
    """Exit code 5, and the fields that differ."""
    done = everstep("start", "app:checkout", '{"order_id": "1", "cents": 5}', "--id", "order-1", cwd=place)

    assert (5, "") == (done.returncode, done.stdout)
    assert "cents: 1999 recorded, 5 requested" in done.stderr


def test_start_decodes_arguments_into_the_declared_types(place: Path) -> None:
    """A dataclass by the names of its fields."""
    done = everstep("start", "app:patient", '{"order": {"id": "8", "cents": 1}}', "--id", "order-8", "--json", cwd=place)

    assert ("order-8", "queued") == (json.loads(done.stdout)["run_id"], json.loads(done.stdout)["status"])


@pytest.mark.parametrize(
    ("target", "arguments", "named"),
    [
        ("app:checkout", "{order_id: 1}", "no JSON"),
        ("app:checkout", '{"order_id": NaN}', "NaN"),
        ("app:checkout", '{"order_id": "1", "order_id": "2"}', "'order_id' is given twice"),
        ("app:checkout", "[1]", "no JSON object"),
        ("app:checkout", "", "no JSON"),
        ("app:checkout", "[" * 100_000, "nested too deep"),
        ("app:checkout", '{"order_id": "1", "cent": 5}', "no argument 'cent'"),
        ("app:checkout", "{}", "'order_id' is missing"),
        ("app:checkout", '{"order_id": 1}', "argument order_id: expected str"),
        ("app:patient", '{"order": {"id": "1", "cents": "x"}}', "argument order.cents: expected int"),
        ("app:patient", '{"order": {"id": "1", "cents": 1, "more": 1}}', "order"),
        ("app:checkout", '{"order_id": "' + "9" * 5 + '", "cents": ' + "9" * 5000 + "}", "too long"),
        ("app:checkout", '{"order_id": "\\ud800"}', "order_id"),
        ("app:nobody", "{}", "app:checkout"),
        ("app:reserve", "{}", "a step"),
        ("app:HOSTILE", "{}", "a str"),
        ("app", "{}", "app:checkout"),
        ("nowhere:checkout", "{}", "no module 'nowhere'"),
        ("../app:checkout", "{}", "no module"),
        ("\x1b[2J:x", "{}", "no module"),
        ("", "{}", "no module"),
    ],
)
def test_a_start_that_means_nothing_names_what_is_wrong(target: str, arguments: str, named: str, place: Path) -> None:
    """Exit code 2, one line what and one what to do, and nothing is stored."""
    done = everstep("start", target, arguments, "--id", "bad", cwd=place)

    assert (2, "") == (done.returncode, done.stdout)
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert 4 == everstep("show", "bad", cwd=place).returncode


@pytest.mark.parametrize("run_id", ["", "../x", "a b", "a\nb", "\x1b[2J", "é", "-x", "a/b", "x" * 201, "x" * 100_000])
def test_an_id_that_is_not_allowed_is_refused(run_id: str, place: Path) -> None:
    """Ids stand in SQL, URLs, file names and terminals."""
    done = everstep("start", "app:checkout", '{"order_id": "7"}', f"--id={run_id}", cwd=place)

    assert (2, "") == (done.returncode, done.stdout)
    assert "is not allowed" in done.stderr
    assert len(done.stderr) < 1000


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import nowhere_at_all", "needs the module nowhere_at_all"),
        ("def broken(:", "SyntaxError"),
        ("x = 1\nraise ValueError('\\x1b[2J no')", "(broken.py:2)"),
        ("import sys; sys.exit(0)", "ended the program"),
        ("", "has no workflows"),
        ("import everstep as es\ndef f(self): ...\nes.workflow(f)", "UsageError"),
    ],
    ids=["missing", "syntax", "raises", "exits", "empty", "refused"],
)
def test_a_program_that_cannot_be_imported_is_told_in_a_line(source: str, named: str, tmp_path: Path) -> None:
    """With its place, and without a traceback."""
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")

    for verb in (["start", "broken:checkout"], ["worker", "broken"]):
        done = everstep(*verb, cwd=tmp_path)
        assert (2, "") == (done.returncode, done.stdout)
        assert named in done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr


# --- cancel ----------------------------------------------------------------------------------------------------------------


def test_cancel_needs_yes_where_nobody_can_be_asked(place: Path) -> None:
    """Exit code 2, and nothing was done."""
    done = everstep("cancel", "order-3", cwd=place)

    assert (2, "") == (done.returncode, done.stdout)
    assert "--yes" in done.stderr
    assert "waiting" == status_of(place, "order-3")


def test_cancel_reads_ids_from_a_pipe(place: Path) -> None:
    """What `runs -q` prints, and what `runs` prints as well."""
    listed = everstep("runs", "-f", "status:waiting workflow:patient", cwd=place).stdout
    done = everstep("cancel", "-", "--yes", "--reason", "tidying up", cwd=place, stdin=listed)

    assert 0 == done.returncode
    assert {"order-3\tasked to stop\t", "order-4/0:1\tasked to stop\t"} == set(done.stdout.splitlines())
    assert "2 runs: 2 asked to stop" in done.stderr


def test_cancel_of_many_goes_on_past_one_that_cannot_be(place: Path) -> None:
    """Each has its answer, the exit code is the worst, and the last line sums up for programs."""
    done = everstep("cancel", "nobody", "order-2", "order-5", "order-3", "order-3", "--yes", "--json", cwd=place)

    assert 4 == done.returncode
    *answers, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["not found", "has ended", "was cancelled already", "asked to stop"] == [answer["answer"] for answer in answers]
    assert {"runs": 4, "asked": 1, "already": 1, "at_rest": 1, "not_found": 1, "not_reached": 0} == summary


@pytest.mark.parametrize(("run_id", "code"), [("order-2", 5), ("order-5", 0), ("nobody", 4)])
def test_the_exit_code_of_cancel_says_whether_it_was_possible(run_id: str, code: int, place: Path) -> None:
    """A run that has ended cannot be stopped; one that was cancelled is what was asked for."""
    assert code == everstep("cancel", run_id, "--yes", cwd=place).returncode


def test_cancel_of_nothing_is_nothing(place: Path) -> None:
    """An empty list from a pipe is no error, and asks nothing."""
    done = everstep("cancel", "-", "--yes", cwd=place, stdin="\n\n")

    assert (0, "") == (done.returncode, done.stdout)


@posix_only
@pytest.mark.parametrize(("typed", "code", "status"), [("n\n", 5, "waiting"), ("\x03", 130, "waiting"), ("y\n", 0, "waiting")])
def test_cancel_asks_on_a_terminal(typed: str, code: int, status: str, place: Path) -> None:
    """No and Ctrl-C do nothing; the run stops when a worker drives it."""
    seen_code, seen = on_a_terminal("cancel", "order-3", cwd=place, typed=("[y/N]", typed))

    assert code == seen_code
    assert "Cancel run order-3?" in seen
    assert "Traceback" not in seen
    assert status == status_of(place, "order-3")
    assert (code == 0) == ("asked to stop" in seen)
    assert (code == 0) == ("1 message waits for it." in everstep("show", "order-3", cwd=place).stdout)


@posix_only
def test_an_interrupted_cancel_says_how_far_it_came(place: Path) -> None:
    """What was asked stays asked; the rest can be repeated."""
    ids = place / "ids"
    ids.write_text("order-3\n" + "".join(f"nobody-{number}\n" for number in range(300_000)), encoding="utf-8")
    with ids.open() as stdin:
        process = subprocess.Popen(
            command("cancel", "-", "--yes"),
            cwd=place,
            env=environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS_MAX)

    assert (130, "order-3\tasked to stop\t\n") == (process.returncode, first)
    assert said.startswith("300,001 runs: 1 asked to stop · ")
    assert said.rstrip().endswith(" not reached")


# --- worker ----------------------------------------------------------------------------------------------------------------


def test_a_worker_drives_what_was_started_and_start_waits_for_it(place: Path) -> None:
    """Two processes on one store; the result comes as JSON."""
    with a_worker(place):
        done = everstep("start", "app:checkout", '{"order_id": "7"}', "--wait", "--timeout", "30", cwd=place)
        failed = everstep("start", "app:declined", '{"text": "no funds"}', "--id", "bad", "--wait", cwd=place)
        late = everstep("start", "app:patient", '{"order": {"id": "8", "cents": 1}}', "--wait", "--timeout", "0.3", cwd=place)
        asked = everstep("cancel", "order-3", "--yes", cwd=place)
        watched = everstep("watch", "order-3", "--timeout", "30", cwd=place)

    assert (0, '"ch_7_5"\n') == (done.returncode, done.stdout)
    assert (1, "") == (failed.returncode, failed.stdout)
    assert "no funds" in failed.stderr
    assert (6, "") == (late.returncode, late.stdout)
    assert (0, 1) == (asked.returncode, watched.returncode)
    assert "RunCancelled" in watched.stdout.splitlines()[-1]


def test_start_with_wait_and_json_prints_run_and_result(place: Path) -> None:
    """Also of a run that failed: then the exit code says so."""
    with a_worker(place):
        good = everstep("start", "app:checkout", '{"order_id": "7"}', "--wait", "--json", cwd=place)
        bad = everstep("start", "app:declined", '{"text": "no funds"}', "--wait", "--json", cwd=place)

    assert (0, "succeeded", "ch_7_5") == (good.returncode, *(json.loads(good.stdout)[name] for name in ("status", "result")))
    assert (1, "failed", None) == (bad.returncode, *(json.loads(bad.stdout)[name] for name in ("status", "result")))


@posix_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_a_worker(number: signal.Signals, place: Path) -> None:
    """Exit code 0; what it had not finished is handed back, so nothing is lost or waits for a lease."""
    with a_worker(place) as worker:
        everstep("start", "app:checkout", '{"order_id": "7"}', "--wait", cwd=place)
        worker.send_signal(number)
        _, said = worker.communicate(timeout=SECONDS_MAX)

    assert 0 == worker.returncode
    assert "draining" in said
    assert "has stopped" in said


SLOW = """
import asyncio, pathlib
import everstep as es

@es.step
async def slow() -> None:
    pathlib.Path("began").touch()
    await asyncio.sleep(30)

@es.workflow
async def work() -> None:
    await slow()
"""


@posix_only
def test_a_second_signal_stops_a_worker_at_once(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice means it."""
    (tmp_path / "app.py").write_text(SLOW, encoding="utf-8")
    everstep("start", "app:work", cwd=tmp_path)
    with a_worker(tmp_path) as worker:
        wait_for(tmp_path / "began")
        worker.send_signal(signal.SIGINT)
        assert worker.stderr is not None
        assert "draining" in worker.stderr.readline()
        began = time.monotonic()
        worker.send_signal(signal.SIGINT)
        worker.wait(SECONDS_MAX)

    assert 130 == worker.returncode
    assert time.monotonic() - began < 4, "that is less than the grace of an engine that drains"


def wait_for(path: Path) -> None:
    """Wait until another process has made a file."""
    until = time.monotonic() + SECONDS_MAX
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


ENGINES = """
import everstep as es

@es.workflow
async def first() -> int:
    return 1

@es.workflow
async def second() -> int:
    return 2

engine = es.Engine("sqlite:///own.db", workflows=[first])
both = (first, second)
number = 5
empty = []
steps = [es.step(lambda: None, ) if False else 3]
"""


@pytest.mark.parametrize(
    ("target", "drives"),
    [
        ("app", "first, second on sqlite://"),
        ("app:first", "first on"),
        ("app:both", "first, second on"),
        ("app:engine", "first on"),
    ],
)
def test_a_worker_takes_engines_workflows_and_modules(target: str, drives: str, tmp_path: Path) -> None:
    """An engine brings its own store."""
    (tmp_path / "app.py").write_text(ENGINES, encoding="utf-8")
    worker = subprocess.Popen(
        command("worker", target), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert worker.stderr is not None
    said = worker.stderr.readline()
    worker.terminate()
    worker.communicate(timeout=SECONDS_MAX)

    assert drives in said
    assert ("own.db" in said) == (target == "app:engine")
    assert sys.platform == "win32" or worker.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["app:number"], "is a int"),
        (["app:empty"], "has no workflows"),
        (["app:steps"], "holds 3"),
        (["app:engine", "--store", "x.db"], "--store"),
        (["app:engine", "-c", "5"], "--concurrency"),
        (["app", "-c", "0"], "0"),
    ],
)
def test_what_a_worker_cannot_drive_is_refused(arguments: list[str], named: str, tmp_path: Path) -> None:
    """Before any store is touched."""
    (tmp_path / "app.py").write_text(ENGINES, encoding="utf-8")

    done = everstep("worker", *arguments, cwd=tmp_path)

    assert (2, "") == (done.returncode, done.stdout)
    assert named in done.stderr
    assert not (tmp_path / ".everstep").exists()
