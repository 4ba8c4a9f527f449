"""
The part of the conformance suite about forgetting runs and about large payloads: P21 and P22 of ``everstep.stores.base``.
"""

from __future__ import annotations

from msgspec import Raw

from everstep.blobs import BLOB_BYTES_MIN
from everstep.events import (
    CancelRequested,
    ChildSucceeded,
    Event,
    RunCancelled,
    RunDied,
    RunFailed,
    RunSucceeded,
    SignalReceived,
    StepCompleted,
    TimerFired,
    decode_event,
)
from everstep.records import AttemptRecord, RunKey, Status
from everstep.stores.base import Fenced, Landed, RunFilter
from everstep.stores.pruning import Kept
from everstep.testing.scene import ERROR, SUCCESS, Scene, created_event, ids, message
from everstep.testing.suite_base import SuiteBase

ENDINGS: list[tuple[Event, Status]] = [
    (SUCCESS, Status.SUCCEEDED),
    (RunFailed(ERROR), Status.FAILED),
    (RunCancelled("stop"), Status.CANCELLED),
    (RunDied("worn"), Status.DEAD),
]


def large(letter: str) -> Raw:
    """A value that does not stay in its entry."""
    return Raw(b'"' + letter.encode() * BLOB_BYTES_MIN + b'"')


class PruningSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_blobs_come_back_with_their_entries(self, scene: Scene) -> None:
        """P22: to whoever reads the journal, and to whoever claims the run; also after opening again."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for letter in "aab":
            run = await scene.landed(scene.append(run, StepCompleted("0:1", large(letter)), SignalReceived("s", large("c"))))
        await scene.commit(scene.keep(run, release=True, wake_at=scene.store.now()))

        loaded = await scene.store.load(run.run_key)
        claimed = await scene.claim_one(worker)
        scene.store = await self.reopened(scene.store)

        assert [0, 0, 2, 2, 2] == [len(entry.blobs) for entry in loaded]
        assert loaded == claimed.entries[:-1] == (await scene.store.load(run.run_key))[:-1]
        assert [StepCompleted("0:1", large("a")), SignalReceived("s", large("c"))] == loaded[2].decoded()
        assert [StepCompleted("0:1", large("b")), SignalReceived("s", large("c"))] == loaded[4].decoded()

    async def test_a_run_may_begin_with_blobs_and_its_parent_is_told_the_result_whole(self, scene: Scene) -> None:
        """P22, P13."""
        worker = await scene.worker()
        _, child = await scene.parent_and_child(worker)
        first = scene.first(worker, events=[created_event("order-1"), StepCompleted("0:1", large("a"))])
        await scene.commit(first)
        await scene.rest(child, RunSucceeded(large("b")), Status.SUCCEEDED)

        [entry] = await scene.store.load(first.entry.run_key)
        told = [each for _, messages in await scene.store.pull(worker) for each in messages]

        assert first.entry == entry
        assert [ChildSucceeded("0:1", large("b"))] == [decode_event(each.event) for each in told]

    async def test_blobs_of_an_entry_that_does_not_land_are_not_stored(self, scene: Scene) -> None:
        """P22, P5: the rest of the batch lands."""
        worker = await scene.worker()
        run, other = await scene.owned(worker), await scene.owned(worker, "order-2")
        fenced = scene.append(run, StepCompleted("0:1", large("a")), version=run.version + 2)
        landing = scene.append(other, StepCompleted("0:1", large("a")))

        outcomes = await scene.commit(fenced, landing)
        await scene.landed(scene.append(run, TimerFired("0:2")))

        assert [Fenced(), Landed()] == outcomes
        assert landing.entry == (await scene.store.load(other.run_key))[-1]
        assert [()] * 3 == [entry.blobs for entry in await scene.store.load(run.run_key)]

    async def test_a_pruned_run_leaves_nothing_behind(self, scene: Scene) -> None:
        """P21: and whoever still believes in it reaches nobody."""
        run = await scene.owned(await scene.worker())
        row = AttemptRecord(run_key=run.run_key, key="0:1", attempt=2)
        await scene.commit(scene.keep(run, attempts=(row,)))
        await scene.store.post("order-1", message(CancelRequested()))
        run = await scene.rest(await scene.run(), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        pruned = await scene.prune(scene.old())

        assert (1, run.version, {}, None) == (pruned.run_count, pruned.entry_count, pruned.kept, pruned.next)
        assert await scene.store.get("order-1") is None
        assert [] == await scene.store.list(RunFilter())
        assert [] == await scene.store.load(run.run_key)
        assert [] == await scene.store.attempts(run.run_key)
        assert await scene.store.post("order-1", message(CancelRequested())) is None
        assert [Fenced()] == await scene.commit(scene.append(run, worker_key=1))

    async def test_the_id_of_a_pruned_run_may_come_back_and_its_key_never(self, scene: Scene) -> None:
        """P21: the later run knows nothing of the earlier one; even its messages are numbered anew."""
        worker = await scene.worker()
        keys: list[RunKey] = []
        for _ in range(3):
            run = await scene.owned(worker)
            keys.append(run.run_key)
            await scene.store.post("order-1", message(CancelRequested(), dedupe="once"))
            run = await scene.run()
            assert (1, 2) == (run.inbox_seq, len(await scene.store.load(run.run_key)))
            await scene.rest(run, SUCCESS, Status.SUCCEEDED)
            scene.clocks.advance(1)
            await scene.prune(scene.old())

        assert 3 == len(set(keys))

    async def test_only_runs_at_rest_that_are_old_and_asked_for_are_pruned(self, scene: Scene) -> None:
        """P21: nobody prunes by accident."""
        worker = await scene.worker()
        for number, (ending, status) in enumerate(ENDINGS):
            await scene.rest(await scene.owned(worker, f"order-{number}"), ending, status)
        await scene.owned(worker, "running")
        await scene.create("queued", wake_at=scene.store.now() + 10**12)
        scene.clocks.advance(1)
        ended_before = scene.store.now()
        await scene.rest(await scene.owned(worker, "young"), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        wanted = scene.old(ended_before=ended_before, statuses=(Status.SUCCEEDED, Status.DEAD, Status.RUNNING, Status.QUEUED))
        pruned = await scene.prune(wanted)

        assert (2, {}) == (pruned.run_count, pruned.kept)
        assert {"order-1", "order-2", "running", "queued", "young"} == set(ids(await scene.store.list(RunFilter())))

    async def test_a_child_stays_while_its_parent_is_at_work(self, scene: Scene) -> None:
        """P21: the parent's code would start it anew."""
        worker = await scene.worker()
        parent, child = await scene.parent_and_child(worker)
        await scene.rest(child, SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        kept = await scene.prune(scene.old())
        await scene.rest(await scene.run("parent"), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)
        pruned = await scene.prune(scene.old())

        assert (0, {Kept.PARENT: 1}) == (kept.run_count, kept.kept)
        assert (2, {}) == (pruned.run_count, pruned.kept)
        assert [] == await scene.store.load(parent.run_key)

    async def test_a_parent_stays_while_a_child_of_it_stays(self, scene: Scene) -> None:
        """P21: a later run of the parent's id would find its children's ids taken."""
        worker = await scene.worker()
        parent, child = await scene.parent_and_child(worker)
        await scene.rest(parent, SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        at_work = await scene.prune(scene.old())
        await scene.rest(child, RunFailed(ERROR), Status.FAILED)
        scene.clocks.advance(1)
        not_asked_for = await scene.prune(scene.old(statuses=(Status.SUCCEEDED,)))
        both = await scene.prune(scene.old())

        assert (0, {Kept.CHILD: 1}) == (at_work.run_count, at_work.kept)
        assert (0, {Kept.CHILD: 1}) == (not_asked_for.run_count, not_asked_for.kept)
        assert (2, {}) == (both.run_count, both.kept)
        assert [] == await scene.store.list(RunFilter())

    async def test_a_dry_prune_says_what_would_go_and_changes_nothing(self, scene: Scene) -> None:
        """P21: the same answer."""
        worker = await scene.worker()
        for run in await scene.parent_and_child(worker):
            await scene.rest(await scene.run(run.run_id), SUCCESS, Status.SUCCEEDED)
        await scene.rest(await scene.owned(worker, "alone"), SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)
        before = await scene.store.list(RunFilter())

        foreseen = await scene.prune(scene.old(dry_run=True))
        after = await scene.store.list(RunFilter())
        pruned = await scene.prune(scene.old())

        assert before == after
        assert foreseen == pruned
        assert 3 == pruned.run_count

    async def test_pruning_goes_on_where_the_batch_before_ended(self, scene: Scene) -> None:
        """P21: in batches of any size, past those that stay, to the end."""
        worker = await scene.worker()
        for number in range(5):
            await scene.rest(await scene.owned(worker, f"order-{number}"), SUCCESS, Status.SUCCEEDED)
            scene.clocks.advance(1)
        _, child = await scene.parent_and_child(worker)
        await scene.rest(child, SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)

        answers = [await scene.prune(scene.old(limit=2))]
        while answers[-1].next is not None:
            answers.append(await scene.prune(scene.old(limit=2, after=answers[-1].next)))

        assert [1, 2, 2, 0] == [answer.run_count for answer in answers]
        assert [{Kept.PARENT: 1}, {}, {}, {}] == [answer.kept for answer in answers]
        assert {"parent", "child"} == set(ids(await scene.store.list(RunFilter())))

    async def test_a_run_stays_while_a_fork_reads_its_journal(self, scene: Scene) -> None:
        """P21: and goes with or after the fork."""
        worker = await scene.worker()
        forked = await scene.rest(await scene.owned(worker), SUCCESS, Status.SUCCEEDED)
        fork = await scene.owned(worker, "fork", forked_from=forked.run_key, forked_at=1)
        scene.clocks.advance(1)

        kept = await scene.prune(scene.old())
        await scene.rest(fork, SUCCESS, Status.SUCCEEDED)
        scene.clocks.advance(1)
        foreseen = await scene.prune(scene.old(dry_run=True))
        pruned = await scene.prune(scene.old())

        assert foreseen == pruned
        assert (0, {Kept.FORK: 1}) == (kept.run_count, kept.kept)
        assert (2, {}) == (pruned.run_count, pruned.kept)
        assert [] == await scene.store.list(RunFilter())
