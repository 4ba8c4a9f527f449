"""
The part of the conformance suite about decisions of operators, and about segments: P15 and P16 of ``everstep.stores.base``.
"""

from __future__ import annotations

from everstep.events import ChildFailed, RunDiscarded, RunFailed, RunPaused, RunRetried, RunUnpaused, decode_event
from everstep.journal import GENESIS, verify_chain
from everstep.records import ErrorRecord, Status
from everstep.testing.scene import CODE, ERROR, Scene
from everstep.testing.suite_base import SuiteBase


class OperatorSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_an_operator_writes_to_a_run_that_nobody_owns(self, scene: Scene) -> None:
        """P15, P7: an entry of its own, under the next epoch, chained to the one before."""
        run = await scene.create()

        settled = await scene.settle(run, RunPaused("wait", actor="ann"), status=Status.PAUSED)

        assert settled is not None
        assert (Status.PAUSED, run.version + 1, run.epoch + 1) == (settled.status, settled.version, settled.epoch)
        assert settled.wake_at is None
        assert settled == await scene.run()
        assert [] == (await scene.claim(await scene.worker())).runs

    async def test_an_operator_changes_nothing_of_a_run_that_is_owned_or_went_on(self, scene: Scene) -> None:
        """P15: whoever decides has to look again."""
        before = await scene.create()
        owned = (await scene.claim_one(await scene.worker())).run

        assert None is await scene.settle(owned, RunPaused("wait"), status=Status.PAUSED)
        await scene.commit(scene.append(owned, status=Status.WAITING, release=True))
        assert None is await scene.settle(before, RunPaused("wait"), status=Status.PAUSED)
        assert None is await scene.settle(owned, RunPaused("wait"), status=Status.PAUSED)

        assert Status.WAITING is (await scene.run()).status

    async def test_a_run_that_failed_can_be_reopened(self, scene: Scene) -> None:
        """P15: it is due again, and has no outcome any more."""
        worker = await scene.worker()
        rested = await scene.rest(await scene.owned(worker), RunFailed(ERROR), Status.FAILED)

        reopened = await scene.settle(rested, RunRetried("again"), status=Status.QUEUED, wake_at=scene.store.now())

        assert reopened is not None
        assert reopened.outcome is None
        assert b'"RunCreated"' in reopened.created
        claimed = await scene.claim_one(worker)
        assert (reopened.epoch + 1, reopened.version + 1) == (claimed.run.epoch, claimed.run.version)
        assert Status.RUNNING is claimed.run.status

    async def test_code_that_refused_a_run_gets_it_again_once_somebody_lets_it_go_on(self, scene: Scene) -> None:
        """P15, P8."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, RunPaused("no", CODE), status=Status.PAUSED, refused_by=CODE))
        assert [] == (await scene.claim(worker)).runs

        await scene.settle(await scene.run(), RunUnpaused(), status=Status.QUEUED, wake_at=scene.store.now())

        assert "order-1" == (await scene.claim_one(worker)).run.run_id

    async def test_a_parent_is_told_that_its_child_was_given_up(self, scene: Scene) -> None:
        """P15, P13: whoever brings it to rest."""
        worker = await scene.worker()
        await scene.family(worker)

        await scene.settle(await scene.run("child"), RunDiscarded("enough"), status=Status.CANCELLED)

        ((_, [told]),) = await scene.store.pull(worker)
        expected = ChildFailed("0:1", "cancelled", ErrorRecord("everstep.errors.RunCancelled", "enough"))
        assert expected == decode_event(told.event)

    async def test_a_claim_hands_out_the_newest_segment_only(self, scene: Scene) -> None:
        """P16: with the hash that its first entry is chained to."""
        worker = await scene.worker()
        run = await scene.landed(scene.append(await scene.owned(worker)))
        cut = await scene.landed(scene.append(run, begins_segment=True))
        await scene.commit(scene.append(cut, status=Status.WAITING, release=True, wake_at=scene.store.now()))

        claimed = await scene.claim_one(worker)

        assert cut.version == cut.base == claimed.run.base
        assert [cut.version, cut.version + 1, cut.version + 2] == [entry.version for entry in claimed.entries]
        assert run.hash == claimed.previous
        assert b'"RunCreated"' in claimed.run.created
        key, head = run.run_key, claimed.run.hash
        verify_chain(claimed.entries, run_key=key, run_id=run.run_id, head=head, previous=claimed.previous)
        assert claimed.run.version == len(await scene.store.load(key))

    async def test_a_journal_that_was_never_cut_is_handed_out_whole(self, scene: Scene) -> None:
        """P16."""
        await scene.create()

        claimed = await scene.claim_one(await scene.worker())

        assert (1, GENESIS, 1) == (claimed.run.base, claimed.previous, claimed.entries[0].version)
