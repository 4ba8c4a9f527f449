"""
K2: every statement goes by an index, however full the tables are, and also if it was planned when they were empty: a prepared
statement keeps its plan.
"""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from everstep.testing.scene import CODE, WORKFLOW, Scene

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, begin, book, claim, fast, queues, read, workers
from everstep.stores.postgres.pool import Tx

MANY = 20_000
# Runs that are due, waiting, at rest and refused by this very code; a journal of three entries each.
FILL = """
INSERT INTO everstep.runs(run_key, run_id, workflow, code_version, status, epoch, worker_key, wake_at, claimed_version,
                          created_at, max_recoveries, parent_command, refused_by, queue, queue_key, line, admitted)
SELECT n, 'order-' || n, 'checkout', '1', (ARRAY['queued', 'waiting', 'succeeded', 'paused'])[n % 4 + 1], 1, NULL,
       (ARRAY[n, NULL, NULL, n])[n % 4 + 1], 1, n, 20, '', CASE WHEN n % 4 = 3 THEN 'code-1' ELSE '' END,
       CASE WHEN n % 8 = 0 THEN 'mail' ELSE '' END, CASE WHEN n % 8 = 0 THEN 'a' ELSE '' END,
       CASE WHEN n % 16 = 0 THEN 2 WHEN n % 800 = 8 THEN 0 WHEN n % 8 = 0 THEN 1 ELSE 0 END, n % 800 = 8
FROM generate_series(1000, $1) AS n
"""
FILL_JOURNAL = """
INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
SELECT n, v, 1, n, 0, true, 'running', '', '', '[]' FROM generate_series(1000, $1) AS n, generate_series(1, 3) AS v
"""


@pytest.fixture(params=["empty", "full"])
async def store(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    if request.param == "full":
        pool = store._state().pool
        await pool.ask(lambda tx: tx.fetch(FILL, MANY))
        await pool.ask(lambda tx: tx.fetch(FILL_JOURNAL, MANY))
        await pool.ask(lambda tx: tx.execute("ANALYZE everstep.runs; ANALYZE everstep.journal"))
    yield store
    await store.close()


async def plan(store: PostgresStore, statement: str, *values: Any, options: str = "COSTS OFF") -> str:
    """How the server goes about it."""

    async def explain(tx: Tx) -> str:
        return "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN ({options}) {statement}", *values))

    return await store._state().pool.ask(explain)


ASKED = ([WORKFLOW], [CODE])
UNPINNED = [""]
MAIL = (["mail"], [WORKFLOW], UNPINNED)
STATEMENTS: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "due": (claim.DUE, (*ASKED, 5, "", 10, UNPINNED, [""]), "runs_due"),
    "due but refused by others": (claim.DUE_BUT_REFUSED, (*ASKED, 5, "", 10, UNPINNED, [""]), "runs_due"),
    "the earliest": (claim.EARLIEST, (None, *ASKED, [], "", UNPINNED, [""]), "runs_due"),
    "orphans": (claim.ORPHANS, (*ASKED, "", 10, UNPINNED, None), "runs_owned"),
    "another orphan": (claim._ANOTHER_ORPHAN, (*ASKED, "", [], UNPINNED, None), "runs_owned"),
    "due in line": (queues.DUE_IN_LINE, (*MAIL, 5, "", 10), "runs_in_line"),
    "first in line": (queues.FIRST_IN_LINE, (*MAIL, [], ""), "runs_in_line"),
    "what queues have left": (queues.COUNTS, (None, 1, ["mail"], [10], [True], [60]), "runs_admitted"),
    "holders of a key": (queues._HELD, (["mail"], ["a"]), "runs_admitted"),
    "the next of a key": (queues._LET_BACK, (["mail"], ["a"], [1]), "runs_behind"),
    "twins": (begin._TWINS, (["mail"], ["a"]), "runs_deduped"),
    "runs in progress": (read._LIST_ADMITTED, (None, "", "", None, None, 10, "mail", ""), "runs_admitted"),
    "a run": (read._RUN, ("order-1",), "runs_run_id_key"),
    "runs by key": (read._RUNS_BY_KEY, ([1, 2],), "runs_pkey"),
    "unread": (read._UNREAD_BY_OWNER, (1,), "runs_unread"),
    "a journal": (read._JOURNAL, (1, 5), "journal_pkey"),
    "locks": (book._LOCK, ([1], ["order-1"], [2], [3]), "runs_pkey"),
    "a message": (begin._POST, (None, "order-1", "", "{}", "c", "s"), "runs_run_id_key"),
    "workers": (read._WORKERS, (None, workers.SEATS), "runs_owned"),
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_goes_by_its_index(store: PostgresStore, name: str) -> None:
    statement, values, index = STATEMENTS[name]

    found = await plan(store, statement, *values)

    assert index in found
    assert "Seq Scan on runs" not in found
    assert "Seq Scan on journal" not in found
    assert "Seq Scan on inbox" not in found


@pytest.mark.parametrize("kind", ["one", "lean", "full"])
async def test_a_flush_goes_by_keys(store: PostgresStore, kind: str) -> None:
    """The statement that everything waits for."""
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker()
    run = await scene.landed(scene.first(worker, "mine"))
    seen: list[str] = []

    class Explaining:
        async def fetch(self, statement: str, *values: Any) -> list[Any]:
            seen.append(await plan(store, statement, *values))
            return []

    explaining: Any = Explaining()
    if kind != "full":
        await fast.lean(explaining, [scene.append(run)] * (1 if kind == "one" else 2), None)
    else:
        await fast.full(explaining, [scene.append(run, release=True), scene.first(worker, "other")], None, "c", "s")

    (found,) = seen
    assert "journal_pkey" in found
    for table in ("runs", "journal", "attempts", "inbox"):
        assert f"Seq Scan on {table}" not in found


@pytest.mark.parametrize("name", ["due", "due but refused by others", "the earliest"])
async def test_a_claim_reads_none_of_the_runs_that_its_code_refused(store: PostgresStore, name: str) -> None:
    """A quarter of all runs wait for other code than this: the ranges of the index leave them out."""
    statement, values, _ = STATEMENTS[name]

    found = await plan(store, statement, *values, options="ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF")

    read_in_vain = [int(number) for number in re.findall(r"Rows Removed by Filter: (\d+)", found)]
    assert sum(read_in_vain) < 100, found
    assert "actual" in found
