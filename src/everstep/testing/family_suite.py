"""
The part of the conformance suite about parents and children: P13 of ``everstep.stores.base``.
"""

from __future__ import annotations

import pytest
from msgspec import Raw

from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildFailed,
    ChildRefused,
    ChildSucceeded,
    Event,
    RunCancelled,
    RunDied,
    RunFailed,
    decode_event,
)
from everstep.records import ErrorRecord, Status
from everstep.stores.base import Post
from everstep.testing.scene import ERROR, SUCCESS, Scene, message, new_run
from everstep.testing.suite_base import SuiteBase

ENDINGS: list[tuple[Event, Status, Event]] = [
    (SUCCESS, Status.SUCCEEDED, ChildSucceeded("0:1", Raw(b'"paid"'))),
    (RunFailed(ERROR), Status.FAILED, ChildFailed("0:1", "failed", ERROR)),
    (
        RunCancelled("stop"),
        Status.CANCELLED,
        ChildFailed("0:1", "cancelled", ErrorRecord("everstep.errors.RunCancelled", "stop")),
    ),
    (RunDied("worn"), Status.DEAD, ChildFailed("0:1", "dead", ErrorRecord("everstep.errors.RunDead", "worn"))),
]


class FamilySuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    @pytest.mark.parametrize(("ending", "status", "told"), ENDINGS, ids=lambda value: value if isinstance(value, str) else None)
    async def test_a_parent_is_told_how_its_child_ended(self, scene: Scene, ending: Event, status: Status, told: Event) -> None:
        """P13: in the same transaction, so never without and never twice."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        child = (await scene.claim_one(worker)).run

        await scene.rest(child, ending, status)

        ((run_key, messages),) = await scene.store.pull(worker)
        assert parent.run_key == run_key
        assert [told] == [decode_event(each.event) for each in messages]

    async def test_a_child_wakes_its_parked_parent(self, scene: Scene) -> None:
        """P13, P10: the outcome is a message like any other."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        await scene.commit(scene.append(parent, status=Status.WAITING, release=True))
        child = (await scene.claim_one(worker)).run

        await scene.rest(child, SUCCESS, Status.SUCCEEDED)

        assert "order-1" == (await scene.claim_one(worker)).run.run_id

    async def test_the_outcome_of_a_child_is_dropped_if_its_parent_rests(self, scene: Scene) -> None:
        """P13, P10: nobody waits for it."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        await scene.rest(parent, SUCCESS, Status.SUCCEEDED)

        child = await scene.rest((await scene.claim_one(worker)).run, SUCCESS, Status.SUCCEEDED)

        assert Status.SUCCEEDED == child.status
        assert 0 == (await scene.run()).inbox_seq

    async def test_a_child_that_its_command_started_already_is_not_started_again(self, scene: Scene) -> None:
        """P5: with a derived id, it exists iff the parent's journal says so."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        child = await scene.run("child")

        parent = await scene.landed(scene.append(parent, children=(new_run("child", parent_command="0:1"),)))

        assert child == await scene.run("child")
        assert 0 == parent.inbox_seq

    async def test_a_child_whose_id_belongs_to_another_run_is_refused(self, scene: Scene) -> None:
        """P5: the parent learns it as an input, and is due if it parked with the same entry."""
        worker = await scene.worker()
        taken = await scene.create("child")
        await scene.claim_one(worker)
        parent = await scene.owned(worker)

        await scene.commit(
            scene.append(parent, children=(new_run("child", parent_command="0:1"),), status=Status.WAITING, release=True)
        )

        assert scene.store.now() == (await scene.run()).wake_at
        (refused,) = [decode_event(each.event) for each in (await scene.claim_one(worker)).inbox]
        assert isinstance(refused, ChildRefused)
        assert "0:1" == refused.key
        assert taken.parent_key == (await scene.run("child")).parent_key

    async def test_a_child_that_is_announced_tells_that_it_exists(self, scene: Scene) -> None:
        """P13: the parent learns it as an input, with every entry that starts it."""
        worker = await scene.worker()
        parent = await scene.owned(worker)
        child = new_run("child", parent_command="0:1", announced=True)
        for seq in (1, 2):
            parent = await scene.landed(scene.append(parent, children=(child,)))
            assert seq == parent.inbox_seq

        ((_, told),) = await scene.store.pull(worker)
        assert [ChildAccepted("0:1")] * 2 == [decode_event(each.event) for each in told]

    @pytest.mark.parametrize(("ending", "status", "told"), ENDINGS, ids=lambda value: value if isinstance(value, str) else None)
    async def test_a_child_at_rest_tells_its_outcome_again(
        self, scene: Scene, ending: Event, status: Status, told: Event
    ) -> None:
        """P13: whoever issues the command again (after a retry, say) waits for it, although the first time it was consumed."""
        worker = await scene.worker()
        parent = await scene.family(worker)
        await scene.rest((await scene.claim_one(worker)).run, ending, status)
        parent = await scene.landed(scene.append(await scene.run(), consumed=1))
        assert [] == await scene.store.pull(worker)

        again = await scene.landed(scene.append(parent, children=(new_run("child", parent_command="0:1"),)))

        ((run_key, messages),) = await scene.store.pull(worker)
        assert (parent.run_key, 2) == (run_key, again.inbox_seq)
        assert [told] == [decode_event(each.event) for each in messages]

    async def test_a_message_to_a_child_reaches_that_child_or_nobody(self, scene: Scene) -> None:
        """P5: its id may turn out to belong to another run in the very same transaction."""
        worker = await scene.worker()
        stranger = await scene.create("taken")
        await scene.claim_one(worker)
        parent = await scene.owned(worker)
        stop = message(CancelRequested("not needed"))
        children = tuple(new_run(run_id, parent_command=key) for run_id, key in (("child", "0:1"), ("taken", "0:2")))
        addresses = (("child", "0:1"), ("taken", "0:2"), ("child", "0:2"))
        posts = tuple(
            Post(run_id=run_id, message=stop, parent_key=parent.run_key, parent_command=key) for run_id, key in addresses
        )

        await scene.commit(scene.append(parent, children=children, posts=posts))

        assert 1 == (await scene.run("child")).inbox_seq
        assert stranger.inbox_seq == (await scene.run("taken")).inbox_seq
