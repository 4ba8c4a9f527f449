"""
The part of the conformance suite about what is written: P1 to P5, and P12, of ``everstep.stores.base``.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from everstep.events import CancelRequested, TimerFired, decode_event
from everstep.records import AttemptRecord, Status
from everstep.stores.base import Fenced, Landed, Post, Refused, TooEarly
from everstep.testing.scene import SUCCESS, Scene, message, new_run
from everstep.testing.suite_base import SuiteBase


class EntriesSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_what_was_acknowledged_is_there_after_opening_again(self, scene: Scene) -> None:
        """P1: runs, journal, inbox and attempts are as they were."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        attempt = AttemptRecord(run_key=run.run_key, key="0:2", attempt=2, failures=1, error=b"{}")
        run = await scene.landed(scene.append(run, step="charge", cursor=1, attempts=(attempt,)))
        await scene.store.post("order-1", message(CancelRequested()))
        before = await scene.run(), await scene.store.load(run.run_key)

        scene.store = await self.reopened(scene.store)

        assert before == (await scene.run(), await scene.store.load(run.run_key))
        claimed = await scene.claim_one(await scene.worker())
        assert [attempt] == claimed.attempts
        assert [CancelRequested()] == [decode_event(each.event) for each in claimed.inbox]

    async def test_opening_and_closing_twice_is_harmless(self, scene: Scene) -> None:
        """P1: both are safe to repeat."""
        await scene.create()
        await scene.store.open()

        scene.store = await self.reopened(scene.store)
        await scene.store.close()
        await scene.store.close()
        await scene.store.open()

        assert "order-1" == (await scene.run()).run_id

    async def test_an_entry_lands_at_the_next_version(self, scene: Scene) -> None:
        """P2, P3: the run then shows the entry's version, hash and time, and the write's status and step."""
        run = await scene.owned(await scene.worker())
        write = scene.append(run, status=Status.COMPENSATING, step="refund", cursor=3)

        assert [Landed()] == await scene.commit(write)

        after = await scene.run()
        assert (3, write.entry.hash, write.entry.at) == (after.version, after.hash, after.updated_at)
        assert (Status.COMPENSATING, "refund", 3) == (after.status, after.step, after.cursor)
        assert write.entry == (await scene.store.load(run.run_key))[-1]

    @pytest.mark.parametrize("version", [1, 2, 4, 5])
    async def test_an_entry_at_any_other_version_is_fenced(self, scene: Scene, version: int) -> None:
        """P3: neither over an entry nor beyond the next."""
        run = await scene.owned(await scene.worker())

        assert [Fenced()] == await scene.commit(scene.append(run, version=version))

        assert run.version == (await scene.run()).version

    @pytest.mark.parametrize("epoch", [0, 2])
    async def test_an_entry_of_another_epoch_is_fenced(self, scene: Scene, epoch: int) -> None:
        """P3: the worker is the same, but it writes for another claim."""
        run = await scene.owned(await scene.worker())

        assert [Fenced(), Fenced()] == await scene.commit(scene.append(run, epoch=epoch), scene.keep(run, epoch=epoch))

    async def test_an_entry_of_another_worker_is_fenced(self, scene: Scene) -> None:
        """P3: only the owner writes."""
        run = await scene.owned(await scene.worker())
        other = await scene.worker("host:2")

        assert [Fenced(), Fenced()] == await scene.commit(
            scene.append(run, worker_key=other), scene.keep(run, worker_key=other)
        )

    async def test_nobody_can_write_to_a_run_that_nobody_owns(self, scene: Scene) -> None:
        """P3: a queued run has no owner."""
        worker = await scene.worker()
        run = await scene.create()

        assert [Fenced(), Fenced()] == await scene.commit(
            scene.append(run, worker_key=worker), scene.keep(run, worker_key=worker)
        )

    async def test_a_write_to_a_run_that_does_not_exist_is_fenced(self, scene: Scene) -> None:
        """P3: there is nothing to own."""
        run = await scene.owned(await scene.worker())
        stray = replace(run, run_key=run.run_key + 1)

        assert [Fenced(), Fenced()] == await scene.commit(scene.append(stray), scene.keep(stray))

    async def test_a_zombie_can_write_nothing_after_a_takeover(self, scene: Scene) -> None:
        """P3, P9: entry, attempts, release, ending and heartbeat of the old owner are all refused."""
        zombie, heir = await scene.worker("host:1"), await scene.worker("host:2")
        old = await scene.owned(zombie)
        await self.kill_worker(scene.store, zombie)
        new = (await scene.claim_one(heir)).run

        attempt = AttemptRecord(run_key=old.run_key, key="0:2", attempt=1)
        for write in (
            scene.append(old, attempts=(attempt,)),
            scene.append(old, version=4),
            scene.append(old, SUCCESS, status=Status.SUCCEEDED),
            scene.append(old, status=Status.WAITING, release=True),
            scene.keep(old, attempts=(attempt,)),
            scene.keep(old, release=True),
        ):
            assert [Fenced()] == await scene.commit(write)

        assert not await scene.store.heartbeat(zombie)
        await scene.store.retire(zombie)
        assert new == await scene.run()
        assert [Landed()] == await scene.commit(scene.append(new))

    async def test_repeating_an_entry_that_landed_changes_nothing(self, scene: Scene) -> None:
        """P4: this is how an ambiguous commit is resolved."""
        run = await scene.owned(await scene.worker())
        await scene.create("other")
        write = scene.append(run, posts=(Post(run_id="other", message=message(CancelRequested())),))
        await scene.commit(write)
        before = await scene.run(), await scene.run("other")

        assert [Landed()] == await scene.commit(write)

        assert before == (await scene.run(), await scene.run("other"))

    async def test_an_entry_that_landed_is_recognised_after_the_run_went_on(self, scene: Scene) -> None:
        """P4: also beneath newer entries, after a release, and under another owner."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        first = scene.append(run)
        run = await scene.landed(first)
        second = scene.append(run, status=Status.WAITING, release=True, wake_at=scene.store.now())
        await scene.commit(second)

        assert [Landed(), Landed()] == await scene.commit(first, second)

        await scene.claim_one(await scene.worker("host:2"))
        assert [Landed()] == await scene.commit(first)
        assert [Landed()] == await scene.commit(second)

    async def test_another_entry_at_a_version_that_is_taken_is_fenced(self, scene: Scene) -> None:
        """P4: the hash decides, not the number."""
        run = await scene.owned(await scene.worker())
        await scene.commit(scene.append(run))

        assert [Fenced()] == await scene.commit(scene.append(run, TimerFired("0:9")))

    async def test_repeating_the_entry_that_created_a_run_changes_nothing(self, scene: Scene) -> None:
        """P4: a local start whose commit was ambiguous."""
        worker = await scene.worker()
        write = scene.first(worker)
        run = await scene.landed(write)

        assert [Landed()] == await scene.commit(write)

        await scene.landed(scene.append(run))
        assert [Landed()] == await scene.commit(write)

    async def test_an_ending_that_landed_is_recognised(self, scene: Scene) -> None:
        """P4: though nobody owns the run any more."""
        run = await scene.owned(await scene.worker())
        write = scene.append(run, SUCCESS, status=Status.SUCCEEDED)
        await scene.commit(write)

        assert [Landed()] == await scene.commit(write)

    async def test_side_effects_happen_with_their_entry(self, scene: Scene) -> None:
        """P5: children, messages, consumption and attempts."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.create("other")
        await scene.store.post("order-1", message(TimerFired("0:1")))
        attempt = AttemptRecord(run_key=run.run_key, key="0:2", attempt=1)

        await scene.commit(
            scene.append(
                run,
                children=(new_run("order-1/0:3", parent_key=run.run_key, parent_command="0:3"),),
                posts=(Post(run_id="other", message=message(CancelRequested())),),
                attempts=(attempt,),
                consumed=1,
            )
        )

        child = await scene.run("order-1/0:3")
        assert (Status.QUEUED, run.run_key, "0:3") == (child.status, child.parent_key, child.parent_command)
        assert 1 == (await scene.run("other")).inbox_seq
        assert 1 == (await scene.run()).inbox_done
        await self.kill_worker(scene.store, worker)
        claims = await scene.claim(await scene.worker("host:2"))
        assert [attempt] == claims.runs[0].attempts

    async def test_a_fenced_write_has_no_effect_and_leaves_its_batch_alone(self, scene: Scene) -> None:
        """P5: group commit shares a transaction, not a fate."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        other = await scene.owned(worker, "order-2")
        fenced = scene.append(
            run,
            version=9,
            children=(new_run("child"),),
            posts=(Post(run_id="order-2", message=message(CancelRequested())),),
            attempts=(AttemptRecord(run_key=run.run_key, key="0:2", attempt=1),),
        )
        third = scene.first(worker, "order-3")

        assert [Fenced(), Landed(), Landed()] == await scene.commit(fenced, scene.append(other), third)

        assert run == await scene.run()
        assert await scene.store.get("child") is None
        assert (3, 0) == ((await scene.run("order-2")).version, (await scene.run("order-2")).inbox_seq)

    async def test_a_write_that_no_store_can_take_is_refused_alone(self, scene: Scene) -> None:
        """P5: bytes that are no text, here."""
        worker = await scene.worker()
        run, other = await scene.owned(worker), await scene.owned(worker, "order-2")
        broken = replace(new_run("child"), created=b"\xff")

        refused, landed = await scene.commit(scene.append(run, children=(broken,)), scene.append(other))

        assert isinstance(refused, Refused)
        assert "UTF-8" in refused.reason
        assert Landed() == landed
        assert run == await scene.run()

    async def test_attempts_are_kept_until_they_are_settled(self, scene: Scene) -> None:
        """P5: ``Keep`` writes them without an entry; the entry with the outcome removes them."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        numbers = {"attempt": 2, "failures": 1, "due_at": 7, "recoveries": 1, "failures_max": 5}
        first = AttemptRecord(run_key=run.run_key, key="0:1", details=b"1", error=b"{}", **numbers)
        second = AttemptRecord(run_key=run.run_key, key="0:2", attempt=1)
        await scene.commit(scene.keep(run, attempts=(first,)))
        await scene.commit(scene.keep(run, attempts=(second, AttemptRecord(run_key=run.run_key, key="0:3", attempt=1))))
        assert ["0:1", "0:2", "0:3"] == [each.key for each in await scene.store.attempts(run.run_key)]
        run = await scene.landed(scene.append(run, settled=("0:3", "unheard of")))
        assert Landed() == (await scene.commit(scene.keep(run, release=True, wake_at=scene.store.now())))[0]

        claimed = await scene.claim_one(worker)

        assert [first, second] == claimed.attempts

    async def test_attempts_can_be_read_by_anybody(self, scene: Scene) -> None:
        """P15: as they are now, in order of their keys; a run at rest has none, and one that does not exist neither."""
        run = await scene.owned(await scene.worker())
        rows = [AttemptRecord(run_key=run.run_key, key=key, attempt=2) for key in ("0:1", "0:2")]
        await scene.commit(scene.keep(run, attempts=tuple(reversed(rows))))

        before = await scene.store.attempts(run.run_key)
        await scene.commit(scene.append(run, SUCCESS, status=Status.SUCCEEDED))

        assert rows == before
        assert [] == await scene.store.attempts(run.run_key)
        assert [] == await scene.store.attempts(run.run_key + 1)

    async def test_an_entry_before_its_time_is_refused(self, scene: Scene) -> None:
        """P12: by the store's clock, whatever the worker's says."""
        run = await scene.owned(await scene.worker())
        write = scene.append(run, TimerFired("0:1"), not_before=scene.store.now() + 1_000_000)

        assert [TooEarly()] == await scene.commit(write)
        assert run == await scene.run()

        scene.clocks.advance(1)
        assert [Landed()] == await scene.commit(write)

    async def test_a_zombie_is_told_that_it_is_fenced_even_if_it_is_early(self, scene: Scene) -> None:
        """P12, P3: else it would wait for its time."""
        run = await scene.owned(await scene.worker())
        write = scene.append(run, TimerFired("0:1"), not_before=scene.store.now() + 1_000_000, epoch=0)

        assert [Fenced()] == await scene.commit(write)
