"""
B3: a PostgreSQL server that crashes again and again under the load of several worker processes.

Three times in every session, a hundred times in ``make proof``. Everything that was acknowledged is there afterwards, and since
no worker died, no step was executed twice. Nobody restarts a worker; they go on by themselves.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import everstep as es
from everstep.events import RunResumed, RunSucceeded
from tests import evidence
from tests.engine.test_processes import Scene, check_journal
from tests.postgres_server import Server, missing

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

LEASE_SECONDS = 60.0
WORKERS = 2
RUNS_PER_RESTART = 12
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One of our own: others would not like what we do to it."""
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def scene(tmp_path: Path, server: Server) -> Iterator[Scene]:
    scene = Scene(tmp_path, url=server.url(), lease=LEASE_SECONDS)
    yield scene
    for process in scene.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@es.workflow
async def checkout(order_id: str) -> str:
    """Only to be started: the workers have the code."""
    raise NotImplementedError


class Load:
    """Starts runs without a pause, and remembers which were acknowledged."""

    def __init__(self, client: es.Client) -> None:
        self._client = client
        self._is_over = False
        self.acknowledged: list[str] = []
        self.refusals = 0

    async def go_on(self) -> None:
        while not self._is_over:
            run_id = f"checkout-{len(self.acknowledged) + 1}"
            await self._start(run_id)
            self.acknowledged.append(run_id)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _start(self, run_id: str) -> None:
        while True:
            try:
                await self._client.start(checkout(run_id), id=run_id)
            except es.StoreUnavailable:
                self.refusals += 1
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    def end(self) -> None:
        self._is_over = True


async def test_a_server_that_crashes_under_load_loses_and_repeats_nothing(scene: Scene, server: Server) -> None:
    """B3, I4, I10."""
    restarts = evidence.amount(3, 100)
    dice = random.Random(3)
    away: list[float] = []
    async with es.Client(scene.url) as client:
        for _ in range(WORKERS):
            worker = await asyncio.to_thread(scene.spawn, "serve")
            assert worker.stdout is not None
            assert "serving" == (await asyncio.to_thread(worker.stdout.readline)).strip()
        load = Load(client)
        loading = asyncio.create_task(load.go_on())
        for _ in range(restarts):
            await finished(scene, load, RUNS_PER_RESTART)
            await asyncio.sleep(dice.uniform(0, 0.05))
            await asyncio.to_thread(server.stop, "immediate")
            await asyncio.to_thread(server.start)
            back_at, count = time.monotonic(), effect_count(scene)
            await more_effects(scene, count)
            away.append(time.monotonic() - back_at)
        await finished(scene, load, RUNS_PER_RESTART)
        load.end()
        await loading
        run_ids = load.acknowledged
        results = [await client.handle(run_id, checkout).result(timeout=PATIENCE_SECONDS) for run_id in run_ids]

        effects = scene.effects()
        by_run: dict[str, list[tuple[str, str, int, int, int]]] = {}
        for effect in effects:
            by_run.setdefault(effect[1].partition("/")[0], []).append(effect)
        for run_id in run_ids:
            history = await client.handle(run_id).history()
            check_journal(history, by_run[run_id])
            events = [event for entry in history for event in entry.events]
            assert 1 == sum(isinstance(event, RunSucceeded) for event in events)
            assert not any(isinstance(event, RunResumed) for event in events), "a living worker was taken to be dead"

    assert [f"shipped {run_id}: reserved {run_id}, charged {run_id}" for run_id in run_ids] == results
    assert {1} == set(Counter(key for _, key, *_ in effects).values()), "a step was executed twice"
    assert 3 * len(run_ids) == len(effects)
    assert load.refusals
    assert [None] * WORKERS == [process.poll() for process in scene.processes]
    evidence.note("crashes of a PostgreSQL server under two workers", restarts)
    evidence.note("runs acknowledged while a PostgreSQL server crashed", len(run_ids))
    print(f"work went on {sorted(away)[len(away) // 2]:.2f} s after the server was back (median), {max(away):.2f} s at most")


async def finished(scene: Scene, load: Load, more: int) -> None:
    """Wait until so many more runs have ended, so that the next crash meets work."""
    wanted = effect_count(scene) + 3 * more
    async with asyncio.timeout(PATIENCE_SECONDS):
        while effect_count(scene) < wanted:  # noqa: ASYNC110  # other processes tell nobody
            await asyncio.sleep(0.01)


async def more_effects(scene: Scene, than: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while effect_count(scene) <= than:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def effect_count(scene: Scene) -> int:
    path = Path(f"{scene.db}.effects")
    return path.read_bytes().count(b"\n") if path.exists() else 0
