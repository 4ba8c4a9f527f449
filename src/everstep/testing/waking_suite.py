"""
The part of the conformance suite about a message that its sender goes on with: P39 of ``everstep.stores.base``.
"""

from __future__ import annotations

from typing import Any

import pytest

from everstep.events import RunClaimed, RunFailed, RunPaused, RunSucceeded, TimerFired, decode_event
from everstep.records import AttemptRecord, RunRecord, Status, WorkerKey
from everstep.stores.base import SUSPECT_DEATHS, Claimed, ClaimRequest, Woken
from everstep.testing.scene import CODE, ERROR, SUCCESS, WORKFLOW, Scene, message
from everstep.testing.suite_base import SuiteBase

GO = TimerFired("0:1")


class WakingSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_a_message_to_a_parked_run_can_come_with_its_claim(self, scene: Scene) -> None:
        """P39: under the next epoch, with an entry that says who claimed it, and the message in the inbox."""
        worker = await scene.worker()
        parked = await _parked(scene, worker)

        woken = await _wake(scene, worker)

        claimed = _claimed(woken)
        assert woken.run == claimed.run == await scene.run()
        assert (Status.RUNNING, worker, None) == (claimed.run.status, claimed.run.worker_key, claimed.run.wake_at)
        assert (parked.epoch + 1, parked.version + 1) == (claimed.run.epoch, claimed.run.version)
        assert [RunClaimed("host:1")] == claimed.entries[-1].decoded()
        assert ["0:1"] == _keys(claimed)
        assert not claimed.alone

    async def test_what_was_woken_goes_on_as_if_it_had_been_claimed(self, scene: Scene) -> None:
        """P39: journal from its base on, rows of attempts, older messages too; and the owner's next entry lands."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        row = AttemptRecord(run_key=run.run_key, key="0:1", attempt=2, failures=1, due_at=5)
        run = await scene.landed(scene.append(run, begins_segment=True, attempts=(row,)))
        await scene.landed(scene.append(run, status=Status.WAITING, release=True, wake_at=None))
        scene.clocks.advance(1)

        claimed = _claimed(await _wake(scene, worker))

        assert [2 + 1, 2 + 2, 2 + 3] == [entry.version for entry in claimed.entries]
        assert run.run_key == claimed.run.run_key
        assert [("0:1", 2)] == [(each.key, each.attempt) for each in claimed.attempts]
        after = await scene.landed(scene.append(claimed.run, consumed=1, status=Status.WAITING, release=True))
        assert (Status.WAITING, None) == (after.status, after.worker_key)

    async def test_a_run_that_undoes_its_steps_goes_on_undoing_them_when_woken(self, scene: Scene) -> None:
        """P39: the same as with any claim."""
        worker = await scene.worker()
        await _parked(scene, worker, status=Status.COMPENSATING)

        assert Status.COMPENSATING == _claimed(await _wake(scene, worker)).run.status

    async def test_nobody_else_claims_what_was_woken(self, scene: Scene) -> None:
        """P8: it has an owner; and a message that follows goes to that one."""
        worker, other = await scene.worker(), await scene.worker("host:2")
        await _parked(scene, worker)
        claimed = _claimed(await _wake(scene, worker))

        assert [] == (await scene.claim(other)).runs
        again = await _wake(scene, other)
        assert (None, 2) == (again.claimed, (await scene.run()).inbox_seq)
        ((run_key, messages),) = await scene.store.pull(worker)
        assert (claimed.run.run_key, [1, 2]) == (run_key, [each.seq for each in messages])

    async def test_the_owner_of_before_is_fenced_by_what_was_woken(self, scene: Scene) -> None:
        """P3, P7: it parked the run, was frozen, and believes that it still owns it."""
        zombie, worker = await scene.worker(), await scene.worker("host:2")
        parked = await _parked(scene, zombie)
        _claimed(await _wake(scene, worker))

        (outcome,) = await scene.commit(scene.append(parked, worker_key=zombie))

        assert "Fenced" == type(outcome).__name__

    @pytest.mark.parametrize(
        "why", ["owned", "due", "paused", "refused", "unknown", "pinned", "family", "queue", "draining", "dead"]
    )
    async def test_what_may_not_be_claimed_is_posted_all_the_same(self, scene: Scene, why: str) -> None:
        """P39: for whoever may."""
        worker = await scene.worker()
        more: dict[str, Any] = {}
        match why:
            case "owned":
                await scene.owned(await scene.worker("host:2"))
            case "due":
                await scene.create()  # It keeps its place in the queue.
            case "paused":
                run = await scene.owned(worker)
                await scene.commit(scene.append(run, RunPaused("by hand"), status=Status.PAUSED))
            case "refused":
                run = await scene.owned(worker)
                await scene.commit(scene.append(run, RunPaused("no", CODE), status=Status.PAUSED, refused_by=CODE))
            case "unknown":
                await _parked(scene, worker)
                more = {"workflows": {"another": CODE}}
            case "pinned":
                run = await scene.owned(worker, pinned="1", versions={(WORKFLOW, "1"): CODE})
                await scene.commit(scene.append(run, status=Status.WAITING, release=True))
                more = {"versions": {(WORKFLOW, "2"): CODE}}
            case "family":
                await _parked(scene, worker)
                more = {"family": "order-2"}
            case "queue":
                run = await scene.owned(worker, queue="mail")
                await scene.commit(scene.append(run, status=Status.WAITING, release=True))
            case "draining":
                await _parked(scene, worker)
                await scene.store.drain(worker)
            case _:
                await _parked(scene, await scene.worker("host:2"))
                await scene.store.retire(worker)
        before = await scene.run()

        woken = await _wake(scene, worker, **more)

        assert woken.claimed is None
        assert woken.run == await scene.run()
        assert woken.run is not None
        assert (before.version, before.epoch, before.worker_key) == (woken.run.version, woken.run.epoch, woken.run.worker_key)
        assert before.inbox_seq + 1 == woken.run.inbox_seq

    async def test_a_message_that_is_there_already_wakes_nobody(self, scene: Scene) -> None:
        """P10: the first one was consumed, and the run waits for another."""
        worker = await scene.worker()
        await _parked(scene, worker)
        run = _claimed(await _wake(scene, worker, dedupe="once")).run
        await scene.landed(scene.append(run, consumed=1, status=Status.WAITING, release=True))

        again = await _wake(scene, worker, dedupe="once")

        assert again.claimed is None
        assert 1 == (await scene.run()).inbox_seq

    async def test_a_run_at_rest_is_not_woken(self, scene: Scene) -> None:
        """P10: the answer shows that it rests."""
        worker = await scene.worker()
        for run_id, event, status in (("order-1", SUCCESS, Status.SUCCEEDED), ("order-2", RunFailed(ERROR), Status.FAILED)):
            run = await scene.owned(worker, run_id)
            await scene.landed(scene.append(run, event, status=status))

            woken = await _wake(scene, worker, run_id)

            assert woken.claimed is None
            assert woken.run is not None
            assert (status, 0) == (woken.run.status, woken.run.inbox_seq)

    async def test_waking_nobody_is_no_error(self, scene: Scene) -> None:
        """P10: as with any message."""
        assert Woken(None) == await _wake(scene, await scene.worker(), "nobody")
        assert Woken(None) == await _wake(scene, await scene.worker(), "\udc80")

    async def test_a_suspect_is_left_to_the_claims(self, scene: Scene) -> None:
        """P14: it is to be driven alone, which only a claim sees to."""
        await scene.create()
        for number in range(SUSPECT_DEATHS):
            victim = await scene.worker(f"host:{number + 2}")
            await scene.claim_one(victim, alone=True)
            await self.kill_worker(scene.store, victim)
        worker = await scene.worker()
        run = (await scene.claim_one(worker, alone=True)).run
        await scene.commit(scene.keep(run, release=True, status=Status.WAITING, wake_at=None))
        assert SUSPECT_DEATHS == (await scene.run()).deaths

        woken = await _wake(scene, worker)

        assert woken.claimed is None
        assert (await scene.claim_one(worker, alone=True)).alone

    async def test_a_child_that_was_woken_tells_its_parent_how_it_ended(self, scene: Scene) -> None:
        """P13: as any run does."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        child = (await scene.claim_one(worker)).run
        await scene.landed(scene.append(child, status=Status.WAITING, release=True))
        woken = _claimed(await _wake(scene, worker, "child")).run

        await scene.landed(scene.append(woken, RunSucceeded(SUCCESS.result), status=Status.SUCCEEDED, consumed=1))

        ((run_key, (told,)),) = await scene.store.pull(worker)
        assert (parent.run_key, "ChildSucceeded") == (run_key, type(decode_event(told.event)).__name__)


async def _parked(scene: Scene, worker: WorkerKey, *, status: Status = Status.WAITING) -> RunRecord:
    run = await scene.owned(worker)
    await scene.commit(scene.append(run, status=status, release=True, wake_at=None))
    scene.clocks.advance(1)
    return await scene.run()


async def _wake(scene: Scene, worker: WorkerKey, run_id: str = "order-1", *, dedupe: str = "", **more: Any) -> Woken:
    asked: dict[str, Any] = {"workflows": {WORKFLOW: CODE}, "run_max": 1, **more}
    request = ClaimRequest(worker_key=worker, **asked)
    return await scene.store.wake(run_id, message(GO, dedupe), request)


def _claimed(woken: Woken) -> Claimed:
    assert woken.claimed is not None
    return woken.claimed


def _keys(claimed: Claimed) -> list[str]:
    events = [decode_event(each.event) for each in claimed.inbox]
    return [event.key for event in events if isinstance(event, TimerFired)]
