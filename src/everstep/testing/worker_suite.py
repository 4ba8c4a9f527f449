"""
The part of the conformance suite about the list of workers, and about asking one to leave: P38 of ``everstep.stores.base``.
"""

from __future__ import annotations

from everstep.records import NO_PROFILE, Pulse, Status, WorkerProfile, WorkerRecord
from everstep.testing.scene import LEASE_SECONDS, Scene
from everstep.testing.suite_base import SuiteBase

PROFILE = WorkerProfile(
    host="host",
    pid=7,
    everstep="1.2",
    python="3.11.9",
    workflows=(("checkout", None, "3f2a"), ("refund", "2", "77")),
    run_max=5,
)


class WorkerSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_a_worker_is_listed_with_what_it_says_of_itself(self, scene: Scene) -> None:
        """P9: and with the age of its last heartbeat, by the clock of leases."""
        enlisted_at = scene.store.now()
        worker = await scene.store.enlist("host:7", LEASE_SECONDS, PROFILE)
        await scene.owned(worker)
        scene.clocks.advance(2.5)

        (record,) = await scene.store.workers()

        assert record.profile == PROFILE
        assert (enlisted_at, 2.5, 12.5) == (record.enlisted_at, record.silent_seconds, record.expires_seconds)
        assert (1, True, False, "held") == (record.run_count, record.alive, record.draining, record.lock)
        await scene.store.heartbeat(worker)
        assert 0.0 == (await scene.store.workers())[0].silent_seconds

    async def test_a_worker_need_not_say_anything_of_itself(self, scene: Scene) -> None:
        """P9."""
        await scene.worker()

        assert [NO_PROFILE] == [each.profile for each in await scene.store.workers()]

    async def test_two_workers_may_have_one_name(self, scene: Scene) -> None:
        """P9: clones of a container do. Each has a token of its own, and what one is told the other is not."""
        first, second = await scene.worker("clone:1"), await scene.worker("clone:1")
        await scene.owned(first)

        assert await scene.store.drain(second)

        assert first != second
        assert (Pulse.ALIVE, Pulse.DRAINING) == (await scene.store.heartbeat(first), await scene.store.heartbeat(second))
        assert [(first, 1, False), (second, 0, True)] == [
            (each.worker_key, each.run_count, each.draining) for each in await scene.store.workers()
        ]

    async def test_a_worker_that_is_asked_to_drain_hears_of_it_and_is_given_nothing(self, scene: Scene) -> None:
        """P38: from this moment on, whether it has heard or not; what it has it keeps, and may finish."""
        worker, other = await scene.worker("host:1"), await scene.worker("host:2")
        run = await scene.owned(worker)
        await scene.create("order-2")

        assert await scene.store.drain(worker)
        assert await scene.store.drain(worker)

        claims = await scene.claim(worker)
        assert ([], None) == (claims.runs, claims.next_due_at)
        run = await scene.landed(scene.append(run))
        assert Pulse.DRAINING is await scene.store.heartbeat(worker)
        assert Pulse.ALIVE is await scene.store.heartbeat(other)
        assert "order-2" == (await scene.claim_one(other)).run.run_id
        await scene.landed(scene.append(run, status=Status.QUEUED, release=True, wake_at=scene.store.now()))
        assert "order-1" == (await scene.claim_one(other)).run.run_id

    async def test_somebody_who_is_gone_cannot_be_asked_to_drain(self, scene: Scene) -> None:
        """P38, P9."""
        worker = await scene.worker()
        await scene.store.retire(worker)

        assert not await scene.store.drain(worker)
        assert not await scene.store.drain(worker + 1)
        assert Pulse.GONE is await scene.store.heartbeat(worker)

    async def test_a_worker_that_drains_can_still_be_found_dead(self, scene: Scene) -> None:
        """P38, P9: its runs go on elsewhere, and its token is dead like any other."""
        worker, heir = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(worker)
        await scene.store.drain(worker)
        scene.clocks.advance(LEASE_SECONDS / 2)
        await scene.store.heartbeat(heir)
        scene.clocks.advance(LEASE_SECONDS / 2 + 0.001)

        assert 1 == len((await scene.claim(heir)).runs)
        assert Pulse.GONE is await scene.store.heartbeat(worker)

    async def test_a_dead_worker_is_told_from_one_that_is_silent(self, scene: Scene) -> None:
        """P9: by its lock, before anybody has marked it dead."""
        dead, silent = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(dead)
        await self.kill_worker(scene.store, dead)

        assert ["free", "held"] == [_lock(each) for each in await scene.store.workers()]
        assert silent


def _lock(record: WorkerRecord) -> str:
    return record.lock
