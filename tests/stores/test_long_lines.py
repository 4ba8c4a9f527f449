"""
K2: a queue of a hundred thousand runs costs a claim no more than one of ten, whatever stands in the way of those runs.

Counted in steps of SQLite's virtual machine: time would be that of this machine, now.
"""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everstep.limits import Limits, QueueChange
from everstep.records import Status, WorkerKey
from everstep.stores.queueing import PASSED_OVER_MAX
from everstep.stores.sqlite import SQLiteStore, claim, queues
from everstep.stores.sqlite.ask import asking
from everstep.testing.scene import SUCCESS, Clocks, Scene

MANY = 100_000
STEPS_MAX = 20_000
"""Of the virtual machine, for a claim: 4,000 were counted, and a scan of the line takes a million."""
FILL = """
WITH RECURSIVE numbers(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000 + ?1)
INSERT INTO runs(run_key, run_id, workflow, code_version, status, version, hash, epoch, wake_at, created_at, updated_at,
                 max_recoveries, parent_command, on_parent_close, family, pinned, queue, queue_key, priority, line, head, first)
SELECT n, 'bulk-' || n, 'checkout', '1', 'queued', 1, x'00', 0, ?2, n, n, 20, '', '', '', '', 'mail', ?3, ?4, ?5, 1, 1
FROM numbers
"""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    clocks = Clocks()
    store = SQLiteStore(tmp_path / "state.db", now=clocks.now, monotonic=clocks.monotonic)
    await store.open()
    yield Scene(store, clocks)
    await store.close()


def fill(scene: Scene, wake_at: int, *, key: str = "", priority: int = 0, line: int = 1) -> None:
    """So many runs that were started long ago."""
    assert isinstance(scene.store, SQLiteStore)
    asking(scene.store._state().writer._connection)(FILL, (MANY, wake_at, key, priority, line)).fetchall()


async def claimed(scene: Scene, worker_key: WorkerKey, run_max: int = 10) -> tuple[list[str], int]:
    """The runs that a claim takes, and what it costs."""
    assert isinstance(scene.store, SQLiteStore)
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 100
        return False

    state = scene.store._state()
    for connection in (state.reading, state.writer._connection):
        connection.set_progress_handler(count, 100)
    claims = await scene.claim(worker_key, run_max)
    for connection in (state.reading, state.writer._connection):
        connection.set_progress_handler(None)
    return [each.run.run_id for each in claims.runs], steps


async def limit(scene: Scene, limits: Limits) -> None:
    await scene.store.configure(QueueChange(name="mail", declared=limits))


async def test_a_long_line_is_not_read(scene: Scene) -> None:
    """Whether the queue is full or not."""
    await limit(scene, Limits(concurrency=1))
    await scene.create("first", queue="mail", wake_at=0)
    fill(scene, 1)
    worker = await scene.worker()

    taken, steps = await claimed(scene, worker)
    none, steps_if_full = await claimed(scene, worker)

    assert (["first"], []) == (taken, none)
    assert STEPS_MAX > steps
    assert STEPS_MAX > steps_if_full


async def test_runs_that_wait_for_their_key_are_not_read(scene: Scene) -> None:
    """Once they have been put aside."""
    await limit(scene, Limits(per_key=1))
    fill(scene, 1, key="a", line=2)
    await scene.create("holder", queue="mail", queue_key="a", wake_at=0)
    await scene.create("other", queue="mail", queue_key="b", wake_at=2)
    worker = await scene.worker()

    taken, steps = await claimed(scene, worker)

    assert ["holder", "other"] == taken
    assert STEPS_MAX > steps


async def test_no_claim_puts_more_than_a_few_runs_aside(scene: Scene) -> None:
    """A hundred thousand runs of one key become due at once: each claim goes on where the one before stopped."""
    await limit(scene, Limits(per_key=1))
    await scene.create("holder", queue="mail", queue_key="a", wake_at=0)
    fill(scene, 1, key="a")
    worker = await scene.worker()
    assert ["holder"] == (await claimed(scene, worker, 1))[0]

    claims = await scene.claim(worker)
    taken, steps = await claimed(scene, worker)

    assert isinstance(scene.store, SQLiteStore)
    [(aside,)] = asking(scene.store._state().reading)("SELECT count(*) FROM runs WHERE line = 2")
    assert ([], []) == (claims.runs, taken)
    assert scene.store.now() == claims.next_due_at
    assert 3 * PASSED_OVER_MAX == aside
    assert 5 * STEPS_MAX > steps


async def test_urgent_runs_that_are_not_due_yet_are_not_read(scene: Scene) -> None:
    """Each priority is a line of its own."""
    await limit(scene, Limits(concurrency=1))
    fill(scene, scene.store.now() + 10**9, priority=-5)
    await scene.create("now", queue="mail")

    taken, steps = await claimed(scene, await scene.worker())

    assert ["now"] == taken
    assert STEPS_MAX > steps


async def test_whoever_leaves_a_key_finds_the_next_by_an_index(scene: Scene) -> None:
    """However many wait for it."""
    await limit(scene, Limits(per_key=1))
    await scene.create("holder", queue="mail", queue_key="a", wake_at=0)
    worker = await scene.worker()
    run = (await scene.claim_one(worker)).run
    fill(scene, 1, key="a", line=2)

    await scene.commit(scene.append(run, SUCCESS, status=Status.SUCCEEDED))
    taken, steps = await claimed(scene, worker)

    assert ["bulk-1000"] == taken
    assert STEPS_MAX > steps


async def test_statements_about_queues_use_their_indexes(scene: Scene, tmp_path: Path) -> None:
    """None of them reads all runs, or sorts."""
    line = (claim.LINE, ("mail", "checkout", "", 0, -1), "runs_in_line")
    levels = (claim.NEXT_PRIORITY, ('[["checkout",""]]', "mail", -1001), "runs_in_line")
    held = (queues._HELD, ("mail", "a"), "runs_admitted")
    admitted = (queues._ADMITTED, ("mail", 10), "runs_admitted")
    following = (queues._LET_NEXT_BACK, ("mail", "a"), "runs_behind")
    assert isinstance(scene.store, SQLiteStore)
    ask = asking(scene.store._state().reading)

    for statement, bindings, index in (line, levels, held, admitted, following):
        found = "\n".join(str(row[3]) for row in ask("EXPLAIN QUERY PLAN " + statement, bindings))
        assert index in found
        assert "SCAN runs" not in found
        assert "TEMP B-TREE" not in found
