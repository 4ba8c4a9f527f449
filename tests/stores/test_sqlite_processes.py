"""The SQLite store between processes: real ones, really killed."""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from everstep.events import RunResumed
from everstep.journal import verify_chain
from everstep.records import WorkerKey
from everstep.stores.base import Claimed, ClaimRequest, RunFilter
from everstep.stores.sqlite import SQLiteStore
from everstep.stores.sqlite import claim as claim_module
from everstep.testing.scene import CODE, WORKFLOW, Scene, new_run

# Opens the store, enlists, claims what there is, says so, and then does as told on its standard input.
OWNER = """
import asyncio, os, sys, time
from everstep.stores.base import ClaimRequest
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.scene import CODE, WORKFLOW, new_run

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    worker = await store.enlist("victim", 3600.0)
    claims = await store.claim(ClaimRequest(worker_key=worker, workflows={WORKFLOW: CODE}, run_max=10))
    print(worker, len(claims.runs), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["create", run_id]:
                await store.create([new_run(run_id)])
            case ["fork"]:
                child = os.fork()
                if not child:
                    os.closerange(0, 3)
                    time.sleep(30)
                    os._exit(0)
                print(child, flush=True)
        print("done", flush=True)

asyncio.run(main())
"""

# Starts runs and appends to them, one commit each, as fast as it can.
WRITER = """
import asyncio, sys
from everstep.stores.base import Landed
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.scene import Scene, Clocks

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    scene = Scene(store, Clocks())
    worker = await scene.worker()
    for number in range(20):
        run = await scene.landed(scene.first(worker, f"{sys.argv[2]}-{number}"))
        for _ in range(10):
            run = await scene.landed(scene.append(run))
    await store.close()

asyncio.run(main())
"""


@contextmanager
def python(program: str, *arguments: str) -> Generator[subprocess.Popen[str]]:
    """A process that runs the program, and does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def tell(process: subprocess.Popen[str], line: str) -> list[str]:
    """Its answers, until it is done."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answers: list[str] = []
    while (answer := said(process)) != ["done"]:
        answers += answer
    return answers


def traced(*connections: apsw.Connection) -> list[str]:
    """What these connections run from now on."""
    statements: list[str] = []

    def trace(_cursor: object, statement: str, _bindings: object) -> bool:
        statements.append(statement)
        return True

    for connection in connections:
        setattr(connection, "exec_trace", trace)  # noqa: B010  # its type names what Python 3.11 has not
    return statements


@pytest.fixture
async def store(tmp_path: Path) -> SQLiteStore:
    store = SQLiteStore(tmp_path / "state.db")
    await store.open()
    return store


async def takeover(store: SQLiteStore, worker_key: WorkerKey) -> Claimed:
    """Wait, as an engine does, until something changed; then claim."""
    for _ in range(50):
        await store.wait_for_work(worker_key, 5)
        claims = await store.claim(ClaimRequest(worker_key=worker_key, workflows={WORKFLOW: CODE}, run_max=10))
        if claims.runs:
            return claims.runs[0]
    raise AssertionError("nothing to take over")


async def test_the_runs_of_a_killed_process_are_taken_over_at_once(store: SQLiteStore) -> None:
    """Its lease has an hour to go; its lock tells."""
    await store.create([new_run()])
    with python(OWNER, str(store.path)) as owner:
        victim, count = said(owner)
        assert "1" == count
        heir = await store.enlist("heir", 15)
        assert [] == (await store.claim(ClaimRequest(worker_key=heir, workflows={WORKFLOW: CODE}, run_max=1))).runs
        started = time.monotonic()
        owner.send_signal(signal.SIGKILL)

        claimed = await takeover(store, heir)

    assert [RunResumed("heir", "victim", "killed")] == claimed.entries[-1].decoded()
    assert time.monotonic() - started < 60
    assert not await store.heartbeat(int(victim))
    assert [f"{heir}.lock"] == [each.name for each in store.path.with_name("state.db.workers").iterdir()]
    await store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_does_not_keep_its_parents_lock(store: SQLiteStore) -> None:
    """multiprocessing forks, and its children may outlive a killed parent."""
    await store.create([new_run()])
    heir = await store.enlist("heir", 15)
    with python(OWNER, str(store.path)) as owner:
        said(owner)
        (child,) = tell(owner, "fork")
        owner.send_signal(signal.SIGKILL)

        claimed = await takeover(store, heir)

    os.kill(int(child), signal.SIGKILL)  # raises if the child has not outlived the takeover
    assert [RunResumed("heir", "victim", "killed")] == claimed.entries[-1].decoded()
    await store.close()


async def test_what_another_process_commits_wakes_a_worker_and_a_client(store: SQLiteStore) -> None:
    """By the size or time of the log: while nothing changes, no statement is run."""
    worker = await store.enlist("me", 15)
    with python(OWNER, str(store.path)) as other:
        said(other)
        while await store.wait_for_work(worker, 0.1):
            pass
        waiting = [asyncio.ensure_future(store.wait_for_work(key, 30)) for key in (worker, None)]
        await asyncio.sleep(0)

        tell(other, "create order-9")

        assert [True, True] == await asyncio.gather(*waiting)
    await store.close()


async def test_a_worker_that_waits_runs_no_statement(store: SQLiteStore) -> None:
    """An idle worker costs the database nothing, and what it wrote itself does not wake it."""
    worker = await store.enlist("me", 15)
    await store.create([new_run()])
    while await store.wait_for_work(worker, 0.1):
        pass
    statements = traced(store._state().writer._connection)

    assert not await store.wait_for_work(worker, 0.3)

    assert [] == statements
    await store.close()


async def test_several_processes_write_to_one_file_without_loss_or_error(store: SQLiteStore) -> None:
    """Each commit waits for the lock; none fails for it."""
    with python(WRITER, str(store.path), "a") as first, python(WRITER, str(store.path), "b") as second:
        worker = await store.enlist("c", 15)
        scene = Scene(store, None)  # type: ignore[arg-type]
        for number in range(20):
            await scene.landed(scene.first(worker, f"c-{number}"))
            await asyncio.sleep(0)
        assert [0, 0] == [await asyncio.to_thread(process.wait, 60) for process in (first, second)]

    runs = await store.list(RunFilter(limit=1000))
    assert 60 == len(runs)
    assert [11] * 40 + [1] * 20 == sorted((run.version for run in runs), reverse=True)
    for run in runs:
        verify_chain(await store.load(run.run_key), run_key=run.run_key, run_id=run.run_id, head=run.hash)
    await store.close()


async def test_a_claim_finds_nothing_with_few_statements(store: SQLiteStore) -> None:
    """The idle bar: a worker that looks now and then costs less than a statement a second for each look it takes."""
    worker = await store.enlist("me", 15)
    state = store._state()
    statements = traced(state.reading, state.writer._connection)

    await store.claim(ClaimRequest(worker_key=worker, workflows={WORKFLOW: CODE, "refund": CODE}, run_max=10))

    assert 4 == len(statements), "who asks, who else there is, which queues, and what is due"
    assert claim_module.EARLIEST in statements
    await store.close()
