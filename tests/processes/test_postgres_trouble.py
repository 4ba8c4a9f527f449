"""
Workers of the command line in trouble: a wrong URL, password, database or right; a server that is not there, and one that goes
away in the middle; too few descriptors; a clock that is wrong; a clone with the same name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import everstep as es
from everstep.events import RunCreated, RunResumed, TimerFired, TimerStarted
from tests import evidence
from tests.cli.support import SECONDS_MAX, command, environment, everstep
from tests.engine.test_processes import RESULT, Scene, check_journal, is_stopped, wait_until
from tests.postgres_server import PASSWORD, Server, free_port, missing

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")

APP = """
import asyncio
import everstep as es

@es.step
async def add(n: int) -> int:
    return n + 1

@es.workflow
async def job(n: int, steps: int = 3) -> int:
    for _ in range(steps):
        n = await add(n)
        await asyncio.sleep(0.01)
    return n
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    """One that may be stopped."""
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def start_job(place: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    return everstep("start", "app:job", '{"n": 1}', *more, cwd=place, env={"EVERSTEP_URL": url})


# --- errors -----------------------------------------------------------------------------------------------------------------


def wrong_urls(server: Server) -> dict[str, tuple[str, int, str]]:
    """What is wrong, with the exit code and what is told."""
    return {
        "password": (server.url(password="hunter2"), 3, "refuses this user"),
        "database": (server.url("no_such"), 3, "has no such database"),
        "user": (server.url(user="nobody_here", password="hunter2"), 3, "refuses this user"),
        "server": (f"postgresql://me:hunter2@127.0.0.1:{free_port()}/db", 3, "cannot be reached"),
        "schema": (f"{server.url()}?schema=Upper", 2, "no name for a schema"),
        "url": ("postgresql://me:hunter2@host:no-port/db", 2, "cannot be read"),
    }


@pytest.mark.parametrize("what", ["password", "database", "user", "server", "schema", "url"])
@pytest.mark.parametrize("verb", [["worker", "app"], ["workers"], ["runs"]], ids=lambda verb: verb[0])
def test_what_is_wrong_is_told_in_a_line_without_the_password(
    verb: list[str], what: str, postgres_server: Server, place: Path
) -> None:
    """What happened, what therefore did not, what to do; and an exit code for scripts."""
    url, code, told = wrong_urls(postgres_server)[what]
    done = everstep(*verb, cwd=place, env={"EVERSTEP_URL": url})

    assert (code, "") == (done.returncode, done.stdout)
    assert told in done.stderr
    assert "Nothing was" in done.stderr or "Acknowledged work is safe" in done.stderr
    for secret in ("hunter2", PASSWORD, PASSWORD.replace(" ", "%20")):
        assert secret not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_waits_for_a_server_that_goes_away_and_says_so_twice(server: Server, place: Path) -> None:
    """B4: a line when it goes, a line when it is back, and nothing in between; then work goes on by itself."""
    with (place / "said").open("w", encoding="utf-8") as said:
        worker = subprocess.Popen(
            command("worker", "app", "--lease", "2"),
            cwd=place,
            env=environment({"EVERSTEP_URL": server.url()}),
            stderr=said,
        )
    try:
        wait_until(lambda: "drives job" in saying(place))
        assert "4" == start_job(place, server.url(), "--wait").stdout.strip()
        server.stop("immediate")
        wait_until(lambda: "cannot be used" in saying(place))
        time.sleep(3)  # Longer than the lease: it stops what it runs and waits for a token, without another word.
        server.start()
        assert "4" == start_job(place, server.url(), "--wait").stdout.strip()
        worker.send_signal(signal.SIGTERM)
        assert 0 == worker.wait(SECONDS_MAX)
    finally:
        worker.kill()
        worker.wait()

    lines = [line for line in saying(place).splitlines() if "everstep" not in line.split()[:1]]
    assert 1 == sum("cannot be used" in line for line in lines), saying(place)
    assert 1 == sum("is back" in line for line in lines), saying(place)
    assert PASSWORD.replace(" ", "%20") not in saying(place)
    assert "Traceback" not in saying(place)


def saying(place: Path) -> str:
    return (place / "said").read_text(encoding="utf-8")


# --- little room ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_worker_with_few_descriptors_and_one_connection_does_its_work(
    store: str, place: Path, request: pytest.FixtureRequest
) -> None:
    """K1: 64 descriptors, and a pool of one connection: fewer things at once, and no deadlock."""
    url = "sqlite:///few.db" if store == "sqlite" else f"{request.getfixturevalue('postgres_url')}&pool=1"
    limited = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh"]
    worker = subprocess.Popen(
        [*limited, *command("worker", "app", "--store", url)],
        cwd=place,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stderr is not None
        assert "drives job" in worker.stderr.readline()
        asyncio.run(start_jobs(place, url, 100))
        asyncio.run(results_of_jobs(place, url, 100))
        before = resident_megabytes(worker.pid)
        asyncio.run(start_jobs(place, url, evidence.amount(250, 5000)))
        asyncio.run(results_of_jobs(place, url, evidence.amount(250, 5000)))
        after = resident_megabytes(worker.pid)
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=SECONDS_MAX)
    finally:
        worker.kill()
        worker.wait()

    assert 0 == worker.returncode
    assert "Traceback" not in said
    assert after < before + 60, "it grows with what it has done"


@es.workflow
async def job(n: int, steps: int = 3) -> int:
    """Only to be started: the worker has the code."""
    raise NotImplementedError


def absolute(place: Path, url: str) -> str:
    return url.replace("sqlite:///", f"sqlite:///{place.as_posix()}/")


async def start_jobs(place: Path, url: str, count: int) -> None:
    async with es.Client(absolute(place, url)) as client:
        await asyncio.gather(*(client.start(job(n), id=f"job-{n}") for n in range(count)))


async def results_of_jobs(place: Path, url: str, count: int) -> None:
    async with es.Client(absolute(place, url)) as client:
        results = [await client.handle(f"job-{n}", job).result(timeout=SECONDS_MAX) for n in range(count)]
    assert [n + 3 for n in range(count)] == results


def resident_megabytes(pid: int) -> float:
    from everstep.cli.supervise import resident_bytes

    return resident_bytes(pid) / (1 << 20)


# --- who is who, and what time is it ----------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Scene]:
    """Processes whose leases run out after two seconds; what else is asked for is in the test's parameters."""
    scene = Scene(tmp_path, url=postgres_url, lease=2.0, **getattr(request, "param", {}))
    yield scene
    for process in scene.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("scene", [{"name": "clone:1"}], indirect=True)
@pytest.mark.parametrize("signal_name", ["KILL", "STOP"])
def test_two_workers_of_one_name_are_two(scene: Scene, signal_name: str) -> None:
    """C3: cloned containers share host name and process number. Tokens do not come from names: one dies or freezes, the other
    takes over, and the first writes nothing when it wakes."""
    first = scene.spawn("run", "checkout-1", f"{signal_name}:in-body:1")
    wait_until(lambda: first.poll() is not None or is_stopped(first.pid))
    began = time.monotonic()

    assert (0, RESULT) == scene.run("run", "checkout-1")
    seconds = time.monotonic() - began
    history = scene.history("checkout-1")
    if signal_name == "STOP":
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=SECONDS_MAX)
        assert (0, RESULT) == (first.returncode, out.strip()), err
    assert history == scene.history("checkout-1")
    check_journal(history, scene.effects())
    resumed = [event for entry in history for event in entry.events if isinstance(event, RunResumed)]
    assert [("clone:1", "clone:1")] == [(event.worker, event.previous) for event in resumed]
    print(f"another process had finished the run {seconds:.1f} s after {signal_name}")


@pytest.mark.parametrize(
    "scene", [{"skew": [3600]}, {"skew": [-3600]}, {"skew": [0, -3600, 7200]}], ids=["ahead", "behind", "jumps"], indirect=True
)
def test_the_clock_of_a_worker_decides_nothing(scene: Scene) -> None:
    """D1: no timer is early by the server's clock, and no lease is taken from a living worker whose clock differs."""
    helper = scene.spawn("serve")
    assert helper.stdout is not None
    assert "serving" == helper.stdout.readline().strip()
    for n in range(2):
        assert (0, RESULT.replace("checkout-1", f"checkout-{n}")) == scene.run("run", f"checkout-{n}")

        history = scene.history(f"checkout-{n}")
        check_journal(history, [effect for effect in scene.effects() if effect[1].startswith(f"checkout-{n}/")])
        due = {event.key: event.due_at for entry in history for event in entry.events if isinstance(event, TimerStarted)}
        fired = {event.key: entry.at for entry in history for event in entry.events if isinstance(event, TimerFired)}
        assert due.keys() == fired.keys()
        assert all(micros(fired[key]) >= due[key] for key in due), "a timer was early"
        assert not [event for entry in history for event in entry.events if isinstance(event, RunResumed)]


def micros(at: object) -> int:
    from datetime import datetime

    from everstep.cli.words import micros as micros_of

    assert isinstance(at, datetime)
    return micros_of(at)


# --- the same id ------------------------------------------------------------------------------------------------------------

STARTS = """
import asyncio, sys
import everstep as es

@es.workflow
async def checkout(order_id: str) -> str:
    raise NotImplementedError

async def main() -> None:
    async with es.Client(sys.argv[1]) as client:
        handles = await asyncio.gather(*(client.start(checkout(sys.argv[2]), id=sys.argv[2]) for _ in range(20)))
    print(len({handle.run_id for handle in handles}))

asyncio.run(main())
"""


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_hundred_starts_of_one_id_from_five_processes_are_one_run(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """E1, I15: all callers get it, and it is executed once."""
    settings = {"url": request.getfixturevalue("postgres_url"), "lease": 60} if store == "postgres" else {}
    scene = Scene(tmp_path, **settings)
    scene.run("start", "checkout-0")  # the tables
    starting = [
        subprocess.Popen(
            [sys.executable, "-c", STARTS, scene.url, "checkout-1"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]

    assert ["1\n"] * 5 == [process.communicate(timeout=SECONDS_MAX)[0] for process in starting]
    assert (0, RESULT) == scene.run("run", "checkout-1")
    history = scene.history("checkout-1")
    check_journal(history, [effect for effect in scene.effects() if effect[1].startswith("checkout-1/")])
    assert 1 == sum(isinstance(event, RunCreated) for entry in history for event in entry.events)
    assert {1} == set(Counter(key for _, key, *_ in scene.effects() if key.startswith("checkout-1/")).values())
    evidence.note("starts of one id from several processes at once", 100)
