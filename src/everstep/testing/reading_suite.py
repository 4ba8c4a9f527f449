"""
The part of the conformance suite about questions, and about waiting for news: P17 of ``everstep.stores.base``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from everstep.events import RunFailed, TimerFired
from everstep.records import RunRecord, Status
from everstep.stores.base import RunFilter
from everstep.testing.scene import ERROR, SUCCESS, Scene, ids, message, new_run
from everstep.testing.suite_base import SuiteBase


class ReadingSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_reading_goes_on_while_somebody_writes(self, scene: Scene) -> None:
        """P17: and sees what was committed."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1")))
        before = await scene.run()

        async with self.write_in_progress(scene.store):
            assert before == await scene.run()
            assert ["order-1"] == ids(await scene.store.list(RunFilter()))
            assert 2 == len(await scene.store.load(run.run_key))
            assert 1 == len(await scene.store.workers())
            assert 1 == len(await scene.store.pull(worker))

    async def test_a_journal_is_read_to_any_version(self, scene: Scene) -> None:
        """P17: and is empty for a run that does not exist."""
        run = await scene.owned(await scene.worker())
        for _ in range(3):
            run = await scene.landed(scene.append(run))

        assert [1, 2, 3, 4, 5] == [entry.version for entry in await scene.store.load(run.run_key)]
        assert [1, 2, 3] == [entry.version for entry in await scene.store.load(run.run_key, 3)]
        assert [] == await scene.store.load(run.run_key, 0)
        assert [] == await scene.store.load(run.run_key + 1)
        assert await scene.store.get("nobody") is None

    async def test_runs_are_listed_newest_first_and_filtered(self, scene: Scene) -> None:
        """P17: each filter by itself, and together."""
        worker = await scene.worker()
        await scene.rest(await scene.owned(worker, "a-1"), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)
        await scene.rest(await scene.owned(worker, "a-2"), RunFailed(ERROR), Status.FAILED)
        since = scene.store.now()
        scene.clocks.advance(1)
        await scene.create("b-3", workflow="refund")

        async def listed(**fields: Any) -> list[str]:
            return ids(await scene.store.list(RunFilter(**fields)))

        assert ["b-3", "a-2", "a-1"] == await listed()
        assert ["a-2"] == await listed(statuses=(Status.FAILED, Status.DEAD))
        assert ["b-3", "a-2"] == await listed(statuses=(Status.FAILED, Status.QUEUED))
        assert ["b-3"] == await listed(workflow="refund")
        assert ["a-2", "a-1"] == await listed(id_prefix="a-")
        assert [] == await listed(id_prefix="%")
        assert ["b-3", "a-2"] == await listed(created_from=since)
        assert ["a-1"] == await listed(id_prefix="a", before=(await scene.run("a-2")).run_key)
        assert [] == await listed(before=12345)
        (newest,) = await scene.store.list(RunFilter(limit=1))
        assert ("b-3", b"", None) == (newest.run_id, newest.created, newest.outcome)

    async def test_pages_neither_repeat_nor_leave_out_a_run(self, scene: Scene) -> None:
        """P17: though all were created at the same instant, by their keys."""
        worker = await scene.worker()
        await scene.store.create([new_run(f"order-{number}") for number in range(5)])
        await scene.commit(scene.first(worker, "local-1"), scene.first(worker, "local-2"))

        seen: list[RunRecord] = []
        while page := await scene.store.list(RunFilter(limit=2, before=seen[-1].run_key if seen else None)):
            seen += page

        assert 7 == len(seen) == len({run.run_id for run in seen})

    async def test_what_cannot_be_a_name_names_nothing(self, scene: Scene) -> None:
        """A lone surrogate cannot be stored; asking for it is no fault of the store."""
        await scene.store.create([new_run()])

        assert await scene.store.get("\udc80") is None
        assert await scene.store.post("\udc80", message(TimerFired("0:1"))) is None
        assert [] == await scene.store.list(RunFilter(id_prefix="\udc80"))

    async def test_waiting_ends_when_somebody_changes_something(self, scene: Scene) -> None:
        """A change that came between asking and waiting is not lost."""
        worker = await scene.worker()
        await scene.claim(worker)
        await scene.create()

        assert await scene.store.wait_for_work(worker, 30)

    async def test_waiting_ends_while_it_waits(self, scene: Scene) -> None:
        """For a worker and for a client without one."""
        worker = await scene.worker()
        await scene.store.wait_for_work(worker, 0)
        waiting = [asyncio.ensure_future(scene.store.wait_for_work(key, 30)) for key in (worker, None)]
        await asyncio.sleep(0)

        await scene.create()

        assert [True, True] == await asyncio.gather(*waiting)

    async def test_waiting_ends_when_its_time_is_up(self, scene: Scene) -> None:
        """What the worker did itself is no news to it."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.wait_for_work(worker, 0)
        await scene.commit(scene.append(run, status=Status.WAITING, release=True))

        assert not await scene.store.wait_for_work(worker, 0.001)
        assert not await scene.store.wait_for_work(None, 0)
