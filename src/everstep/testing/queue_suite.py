"""
The part of the conformance suite about queues: P23 to P28 of ``everstep.stores.base``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everstep.events import CancelRequested, RunCancelled, RunFailed, RunPaused, RunRetried, RunUnpaused
from everstep.limits import Limits, QueueChange, QueueRecord
from everstep.records import ErrorRecord, RunRecord, Status, WorkerKey
from everstep.stores.base import Created, Exists, Refused, RunFilter, Write
from everstep.testing.scene import CODE, SUCCESS, WORKFLOW, Scene, ids, message, new_run
from everstep.testing.suite_base import SuiteBase

ERROR = ErrorRecord("builtins.ValueError", "no")


class QueueSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def limit(self, scene: Scene, **limits: Any) -> QueueRecord:
        """Code declares the queue ``mail``."""
        return await scene.store.configure(QueueChange(name="mail", declared=Limits(**limits)))

    async def line_up(self, scene: Scene, *run_ids: str, **fields: Any) -> None:
        """Start runs in the queue ``mail``."""
        for run_id in run_ids:
            await scene.create(run_id, **{"queue": "mail", **fields})

    async def claimed(self, scene: Scene, worker_key: WorkerKey, run_max: int = 10, **more: Any) -> list[str]:
        """The ids of the runs that a claim takes."""
        return [each.run.run_id for each in (await scene.claim(worker_key, run_max, **more)).runs]

    async def end(self, scene: Scene, run_id: str) -> RunRecord:
        """A run that is driven succeeds."""
        return await scene.rest(await scene.run(run_id), SUCCESS, Status.SUCCEEDED)

    async def park(self, scene: Scene, run_id: str, wake_at: int | None = None) -> RunRecord:
        """A run that is driven goes to sleep."""
        write = scene.append(await scene.run(run_id), status=Status.WAITING, release=True, wake_at=wake_at)
        return await scene.landed(write)

    # --- P23: in line, then in progress ---------------------------------------------------------------------------------

    async def test_a_run_of_a_queue_is_in_line_until_it_is_claimed(self, scene: Scene) -> None:
        """P23: from then on it is in progress until it is at rest."""
        worker = await scene.worker()
        created = await scene.create(queue="mail", queue_key="cust-7", priority=3)
        claimed = (await scene.claim_one(worker)).run
        parked = await self.park(scene, "order-1", scene.store.now())
        again = (await scene.claim_one(worker)).run
        ended = await self.end(scene, "order-1")

        assert ("mail", "cust-7", 3) == (created.queue, created.queue_key, created.priority)
        assert [True, False, False, False, False] == [each.is_in_line for each in (created, claimed, parked, again, ended)]
        assert [False, True, True, True, False] == [each.is_admitted for each in (created, claimed, parked, again, ended)]

    async def test_no_write_creates_a_run_of_a_queue_that_is_owned(self, scene: Scene) -> None:
        """P23: its queue has to admit it first."""
        first = scene.first(await scene.worker(), queue="mail")

        [outcome] = await scene.commit(first)

        assert isinstance(outcome, Refused)
        assert "queue mail, which has to admit it first" in outcome.reason
        assert await scene.store.get("order-1") is None

    async def test_a_child_waits_in_line_too(self, scene: Scene) -> None:
        """P23: for its own queue; its parent is in progress in another or in none."""
        worker = await scene.worker()
        await self.limit(scene, concurrency=1)
        await self.line_up(scene, "first")
        assert ["first"] == await self.claimed(scene, worker)
        await scene.family(worker, queue="mail")

        assert [] == await self.claimed(scene, worker)
        await self.end(scene, "first")

        assert ["child"] == await self.claimed(scene, worker)

    async def test_a_run_that_is_reopened_waits_in_line_again(self, scene: Scene) -> None:
        """P23: its place was given to another meanwhile."""
        worker = await scene.worker()
        await self.limit(scene, concurrency=1)
        await self.line_up(scene, "first", "second")
        assert ["first"] == await self.claimed(scene, worker)
        failed = await scene.rest(await scene.run("first"), RunFailed(ERROR), Status.FAILED)
        assert ["second"] == await self.claimed(scene, worker)

        reopened = await scene.settle(failed, RunRetried("again"), status=Status.QUEUED, wake_at=scene.store.now())

        assert reopened is not None
        assert reopened.is_in_line
        assert [] == await self.claimed(scene, worker)
        await self.end(scene, "second")
        assert ["first"] == await self.claimed(scene, worker)

    async def test_a_run_is_admitted_once_however_many_workers_die_with_it(self, scene: Scene) -> None:
        """P23: an orphan needs no admission, and keeps its place meanwhile."""
        await self.limit(scene, concurrency=1)
        await self.line_up(scene, "first", "second")
        worker, other = await scene.worker(), await scene.worker("host:2")
        assert ["first"] == await self.claimed(scene, worker)

        await self.kill_worker(scene.store, worker)

        assert ["first"] == await self.claimed(scene, other)
        assert [] == await self.claimed(scene, other)

    async def test_a_run_that_dies_leaves_its_place(self, scene: Scene) -> None:
        """P23: also when the store gives it up."""
        await self.limit(scene, concurrency=1, per_key=1)
        await self.line_up(scene, "first", queue_key="a", max_recoveries=0)
        await self.line_up(scene, "second", queue_key="a")
        worker = await scene.worker()
        assert ["first"] == await self.claimed(scene, worker)
        await self.kill_worker(scene.store, worker)
        last = await scene.worker("host:2")

        died = (await scene.claim(last)).died

        assert ["first"] == died
        assert ["second"] == await self.claimed(scene, last)

    # --- P24: limits --------------------------------------------------------------------------------------------------------

    async def test_no_more_runs_are_in_progress_than_the_concurrency(self, scene: Scene) -> None:
        """P24: in all workers together; one that sleeps counts."""
        await self.limit(scene, concurrency=2)
        await self.line_up(scene, "a", "b", "c", "d")
        workers = [await scene.worker(f"host:{number}") for number in range(2)]

        assert ["a"] == await self.claimed(scene, workers[0], 1)
        assert ["b"] == await self.claimed(scene, workers[1])
        await self.park(scene, "a")
        assert [] == await self.claimed(scene, workers[0])
        await self.end(scene, "b")
        assert ["c"] == await self.claimed(scene, workers[0])

    async def test_a_worker_drives_no_more_runs_than_per_worker(self, scene: Scene) -> None:
        """P24: counting those that it took over, and not those that sleep."""
        await self.limit(scene, per_worker=2)
        await self.line_up(scene, "a", "b", "c", "d", "e")
        worker, other = await scene.worker(), await scene.worker("host:2")
        assert ["a", "b"] == await self.claimed(scene, worker)
        assert ["c", "d"] == await self.claimed(scene, other)

        await self.park(scene, "a", scene.store.now())
        await self.kill_worker(scene.store, other)

        assert ["c"] == await self.claimed(scene, worker)
        assert [] == await self.claimed(scene, worker)
        await self.end(scene, "b")
        assert ["d"] == await self.claimed(scene, worker)
        await self.end(scene, "c")
        assert ["a"] == await self.claimed(scene, worker)

    async def test_runs_of_one_key_take_turns(self, scene: Scene) -> None:
        """P24, P25: they hold up nobody else."""
        await self.limit(scene, per_key=1)
        await self.line_up(scene, "a1", "a2", "a3", queue_key="a")
        await self.line_up(scene, "b1", queue_key="b")
        await self.line_up(scene, "free")
        worker = await scene.worker()

        assert ["a1", "b1", "free"] == await self.claimed(scene, worker)
        assert [] == await self.claimed(scene, worker)
        await self.park(scene, "a1")
        assert [] == await self.claimed(scene, worker)
        await scene.store.post("a1", message(CancelRequested()))
        assert ["a1"] == await self.claimed(scene, worker)
        await scene.rest(await scene.run("a1"), SUCCESS, Status.SUCCEEDED)
        assert ["a2"] == await self.claimed(scene, worker)
        await self.end(scene, "a2")
        assert ["a3"] == await self.claimed(scene, worker)

    async def test_a_key_with_room_for_two_has_two_in_progress(self, scene: Scene) -> None:
        """P24, P25: also after some left the line without having been admitted."""
        await self.limit(scene, per_key=2)
        await self.line_up(scene, "a1", "a2", "a3", "a4", "a5", "a6", queue_key="a")
        worker = await scene.worker()
        assert ["a1", "a2"] == await self.claimed(scene, worker)
        assert [] == await self.claimed(scene, worker)
        await self.end(scene, "a1")

        await scene.settle(await scene.run("a3"), RunCancelled("no"), status=Status.CANCELLED)
        await scene.settle(await scene.run("a4"), RunPaused("wait"), status=Status.PAUSED)

        assert ["a5"] == await self.claimed(scene, worker)
        assert [] == await self.claimed(scene, worker)
        await self.end(scene, "a2")
        await scene.settle(await scene.run("a4"), RunUnpaused(), status=Status.QUEUED, wake_at=scene.store.now())
        assert 1 == len(await self.claimed(scene, worker))

    async def test_a_rate_lets_in_so_many_in_any_window(self, scene: Scene) -> None:
        """P24: the window rolls; it does not begin anew at a full minute. How long they take does not matter."""
        await self.limit(scene, rate=(2, 60))
        await self.line_up(scene, "a", "b", "c", "d")
        worker, began = await scene.worker(lease_seconds=1e6), scene.store.now()
        assert ["a"] == await self.claimed(scene, worker, 1)
        scene.clocks.advance(40)
        await self.end(scene, "a")
        claims = await scene.claim(worker)
        assert ["b"] == [each.run.run_id for each in claims.runs]
        assert began + 60_000_000 == claims.next_due_at == (await scene.claim(worker)).next_due_at
        [queue] = await scene.store.queues()
        assert claims.next_due_at == queue.opens_at

        scene.clocks.advance(19.999999)
        assert [] == await self.claimed(scene, worker)
        scene.clocks.advance(0.000001)
        assert ["c"] == await self.claimed(scene, worker)
        scene.clocks.advance(39)
        assert [] == await self.claimed(scene, worker)
        scene.clocks.advance(1)
        assert ["d"] == await self.claimed(scene, worker)

    async def test_forgetting_runs_does_not_make_room_for_more_within_the_window(self, scene: Scene) -> None:
        """P24: what a rate counts is that they began."""
        await self.limit(scene, rate=(1, 60))
        await self.line_up(scene, "a", "b")
        worker = await scene.worker()
        await self.claimed(scene, worker)
        await self.end(scene, "a")
        scene.clocks.advance(1)

        assert 1 == (await scene.prune(scene.old())).run_count

        assert [] == await self.claimed(scene, worker)

    async def test_a_limit_that_is_changed_counts_at_once_and_takes_nothing_back(self, scene: Scene) -> None:
        """P24, P27: more runs are admitted once enough have left."""
        await self.limit(scene, concurrency=3, per_key=1)
        await self.line_up(scene, "a", "b", "c", "d", "e")
        await self.line_up(scene, "k1", "k2", "k3", queue_key="k", priority=1)
        worker = await scene.worker()
        assert ["a", "b", "c"] == await self.claimed(scene, worker)

        await scene.store.configure(QueueChange(name="mail", changed=Limits(concurrency=1, per_key=1), actor="ann"))
        await self.end(scene, "a")
        await self.end(scene, "b")
        assert [] == await self.claimed(scene, worker)
        await scene.store.configure(QueueChange(name="mail", changed=Limits(per_key=1)))

        assert ["d", "e", "k1"] == await self.claimed(scene, worker)
        assert [] == await self.claimed(scene, worker)
        await scene.store.configure(QueueChange(name="mail", changed=Limits(per_key=2)))
        assert ["k2"] == await self.claimed(scene, worker)
        await scene.store.configure(QueueChange(name="mail", changed=Limits()))
        assert ["k3"] == await self.claimed(scene, worker)

    async def test_claimers_at_once_admit_no_more_than_one_would(self, scene: Scene) -> None:
        """P24, P25: while others leave at the same time; and nobody is forgotten in line."""
        await self.limit(scene, concurrency=3, per_key=1)
        for number in range(15):
            await self.line_up(scene, f"r{number}", queue_key="abcde"[number % 5] if number % 3 else "a")
        workers = [await scene.worker(f"host:{number}") for number in range(3)]
        order: list[str] = []
        ending: list[Write] = []

        for _ in range(60):
            claiming = asyncio.gather(*(scene.claim(worker, 2) for worker in workers))
            _, answers = await asyncio.gather(scene.commit(*ending), claiming)
            running = await scene.store.list(RunFilter(queue="mail", is_admitted=True))
            assert len(running) <= 3
            assert len(running) == len({run.queue_key for run in running})
            order += [each.run.run_id for claim in answers for each in claim.runs]
            owned = [run for run in running if run.worker_key is not None]
            ending = [scene.append(run, SUCCESS, status=Status.SUCCEEDED) for run in owned[:2]]

        assert 15 == len(order) == len(set(order))
        assert ["r0", "r3", "r6", "r9", "r12"] == [each for each in order if each in {"r0", "r3", "r6", "r9", "r12"}]

    # --- P25: order ---------------------------------------------------------------------------------------------------------

    async def test_lower_priorities_go_first_and_equal_ones_in_the_order_of_their_due_times(self, scene: Scene) -> None:
        """P25."""
        await self.limit(scene, concurrency=1)
        await self.line_up(scene, "later", priority=5)
        await self.line_up(scene, "delayed", wake_at=scene.store.now() + 1_000_000)
        await self.line_up(scene, "second")
        await self.line_up(scene, "urgent", priority=-1)
        worker = await scene.worker()
        scene.clocks.advance(2)
        await self.line_up(scene, "last")

        order: list[str] = []
        for _ in range(5):
            order += await self.claimed(scene, worker)
            await self.end(scene, order[-1])

        assert ["urgent", "second", "delayed", "last", "later"] == order

    async def test_a_run_that_is_not_due_is_not_admitted_and_holds_up_nobody(self, scene: Scene) -> None:
        """P25: not in its queue and not among those of its key, whatever its priority is."""
        await self.limit(scene, concurrency=1, per_key=1)
        due_at = scene.store.now() + 5_000_000
        await self.line_up(scene, "delayed", wake_at=due_at, priority=-1, queue_key="a")
        await self.line_up(scene, "now", queue_key="a")
        worker = await scene.worker()

        claims = await scene.claim(worker)
        await self.end(scene, "now")
        empty = await scene.claim(worker)
        scene.clocks.advance(5)

        assert ["now"] == [each.run.run_id for each in claims.runs]
        assert ([], due_at) == (empty.runs, empty.next_due_at)
        assert ["delayed"] == await self.claimed(scene, worker)

    async def test_an_urgent_run_of_a_key_goes_before_one_that_waits_longer(self, scene: Scene) -> None:
        """P25: also if that one was next."""
        await self.limit(scene, concurrency=1, per_key=1)
        await self.line_up(scene, "first", queue_key="b")
        await self.line_up(scene, "patient", "more patient", queue_key="a")
        worker = await scene.worker()
        assert ["first"] == await self.claimed(scene, worker)
        await self.line_up(scene, "urgent", queue_key="a", priority=-1)
        order = ["first"]
        for _ in range(3):
            await self.end(scene, order[-1])
            order += await self.claimed(scene, worker)

        assert ["first", "urgent", "patient", "more patient"] == order

    async def test_runs_of_unknown_workflows_hold_up_nobody(self, scene: Scene) -> None:
        """P25, P8: they wait for a worker that has their code."""
        await self.limit(scene, concurrency=1)
        await scene.store.create([new_run("strange", "strange", queue="mail", priority=-1)])
        await self.line_up(scene, "old", pinned="v1")
        await self.line_up(scene, "known")
        worker = await scene.worker()

        assert ["known"] == await self.claimed(scene, worker)
        await self.end(scene, "known")
        assert ["old"] == await self.claimed(scene, worker, versions={(WORKFLOW, "v1"): CODE})
        await self.end(scene, "old")
        assert ["strange"] == await self.claimed(scene, worker, workflows={"strange": CODE})

    # --- P26: fairness ------------------------------------------------------------------------------------------------------

    async def test_queues_are_served_in_turn(self, scene: Scene) -> None:
        """P26: a long line, or one that is full, starves nobody; the runs without a queue are one line."""
        await self.line_up(scene, *(f"mail-{number}" for number in range(6)))
        for number in range(3):
            await self.line_up(scene, f"sms-{number}", queue="sms")
            await scene.create(f"free-{number}")
        worker = await scene.worker()

        assert ["free-0", "mail-0", "sms-0", "free-1"] == await self.claimed(scene, worker, 4, turn=0)
        assert ["mail-1"] == await self.claimed(scene, worker, 1, turn=1)
        assert ["sms-1", "free-2", "mail-2"] == await self.claimed(scene, worker, 3, turn=5)
        assert ["mail-3", "sms-2", "mail-4", "mail-5"] == await self.claimed(scene, worker, turn=0)

    async def test_a_worker_may_serve_some_queues_only(self, scene: Scene) -> None:
        """P26: it neither admits nor resumes runs of others."""
        await self.line_up(scene, "mail-1")
        await self.line_up(scene, "sms-1", "sms-2", queue="sms")
        await scene.create("free")
        worker, other = await scene.worker(), await scene.worker("host:2")
        assert ["sms-1"] == await self.claimed(scene, other, 1, queues=("sms", "fax"))
        await self.kill_worker(scene.store, other)

        claims = await scene.claim(worker, queues=("mail",))
        await self.park(scene, "mail-1", scene.store.now())

        assert ["mail-1"] == [each.run.run_id for each in claims.runs]
        assert claims.next_due_at is None
        assert ["mail-1"] == await self.claimed(scene, worker, queues=("mail",))
        assert ["sms-1", "sms-2"] == await self.claimed(scene, worker, queues=("sms",))
        assert ["free"] == await self.claimed(scene, worker)

    # --- P27: settings ------------------------------------------------------------------------------------------------------

    async def test_a_change_counts_until_code_declares_something_else(self, scene: Scene) -> None:
        """P27: both are shown."""
        declared, changed = Limits(concurrency=10), Limits(concurrency=50)
        await scene.store.configure(QueueChange(name="mail", declared=declared))
        await scene.store.configure(QueueChange(name="mail", changed=changed, actor="ann", why="sale"))

        same = await scene.store.configure(QueueChange(name="mail", declared=declared))
        scene.store = await self.reopened(scene.store)
        [kept] = await scene.store.queues()
        new = await scene.store.configure(QueueChange(name="mail", declared=Limits(concurrency=20, rate=(1, 2.5))))

        assert same == kept
        assert (declared, changed, changed, "ann", "sale") == (
            kept.declared,
            kept.changed,
            kept.limits,
            kept.changed_by,
            kept.changed_why,
        )
        assert (None, Limits(concurrency=20, rate=(1, 2.5)), "") == (new.changed, new.limits, new.changed_by)
        assert [new] == await scene.store.queues()

    async def test_a_queue_that_is_paused_admits_nothing(self, scene: Scene) -> None:
        """P27: what is in progress goes on."""
        await self.line_up(scene, "a", "b")
        worker = await scene.worker()
        assert ["a"] == await self.claimed(scene, worker, 1)
        await self.park(scene, "a", scene.store.now())

        await scene.store.configure(QueueChange(name="mail", paused=True, actor="ann", why="provider is down"))
        assert ["a"] == await self.claimed(scene, worker)
        empty = await scene.claim(worker)
        [queue] = await scene.store.queues()
        await scene.store.configure(QueueChange(name="mail", paused=False, actor="bob"))

        assert ([], None) == (empty.runs, empty.next_due_at)
        assert (True, "ann", "provider is down") == (queue.is_paused, queue.paused_by, queue.paused_why)
        assert ["b"] == await self.claimed(scene, worker)

    async def test_queues_tell_how_they_stand(self, scene: Scene) -> None:
        """P27: one that was never declared too, once it had a run."""
        await self.line_up(scene, "a", "b", "c", queue_key="k")
        await self.line_up(scene, "later", wake_at=scene.store.now() + 10**9)
        await self.limit(scene, per_key=1)
        await scene.store.configure(QueueChange(name="empty", paused=True))
        await self.claimed(scene, await scene.worker())

        empty, mail = await scene.store.queues()

        assert ("empty", 0, 0, True) == (empty.name, empty.waiting_count, empty.admitted_count, empty.is_paused)
        assert ("mail", 3, 1, Limits(per_key=1)) == (mail.name, mail.waiting_count, mail.admitted_count, mail.limits)

    async def test_runs_are_listed_by_queue_and_key(self, scene: Scene) -> None:
        """P17: those in progress too."""
        await self.line_up(scene, "a", "b", queue_key="k")
        await self.line_up(scene, "c", queue_key="l")
        await scene.create("free")
        await self.claimed(scene, await scene.worker(), 1, queues=("mail",))

        assert {"a", "b", "c"} == {*ids(await scene.store.list(RunFilter(queue="mail")))}
        assert {"a", "b"} == {*ids(await scene.store.list(RunFilter(queue="mail", queue_key="k")))}
        assert ["a"] == ids(await scene.store.list(RunFilter(queue="mail", queue_key="k", is_admitted=True)))
        assert ["a"] == ids(await scene.store.list(RunFilter(queue="mail", is_admitted=True)))
        assert [] == ids(await scene.store.list(RunFilter(queue="sms")))

    # --- P28: dedupe --------------------------------------------------------------------------------------------------------

    async def test_a_dedupe_key_has_one_run_that_is_not_at_rest(self, scene: Scene) -> None:
        """P28: in line or in progress; of the same queue."""
        worker = await scene.worker()
        first = new_run("a", queue="mail", queue_key="k", dedupes=True)
        second = new_run("b", queue="mail", queue_key="k", dedupes=True)
        other = new_run("c", queue="sms", queue_key="k", dedupes=True)

        created, joined, elsewhere = await scene.store.create([first, second, other])
        await self.claimed(scene, worker, queues=("mail",))
        [again] = await scene.store.create([second])
        await self.end(scene, "a")
        [free] = await scene.store.create([second])

        assert isinstance(created, Created)
        assert isinstance(elsewhere, Created)
        assert Exists(created.run) == joined
        assert isinstance(again, Exists)
        assert ("a", True) == (again.run.run_id, again.run.is_admitted)
        assert isinstance(free, Created)
        assert "b" == free.run.run_id

    @pytest.mark.parametrize("reason", ["settled", "died"])
    async def test_a_dedupe_key_is_free_once_its_run_is_at_rest(self, scene: Scene, reason: str) -> None:
        """P28: whoever brought it there."""
        fields: dict[str, Any] = {"queue": "mail", "queue_key": "k", "dedupes": True}
        run = await scene.create("a", **fields, max_recoveries=0)
        if reason == "settled":
            await scene.settle(run, RunCancelled("no"), status=Status.CANCELLED)
        else:
            worker = await scene.worker()
            await self.claimed(scene, worker)
            await self.kill_worker(scene.store, worker)
            assert ["a"] == (await scene.claim(await scene.worker())).died

        [free] = await scene.store.create([new_run("b", **fields)])

        assert isinstance(free, Created)

    async def test_a_key_without_dedupe_is_for_any_number_of_runs(self, scene: Scene) -> None:
        """P28."""
        await self.line_up(scene, "a", "b", queue_key="k")
        await self.line_up(scene, "c", queue_key="k", dedupes=True)

        assert {"a", "b", "c"} == {*ids(await scene.store.list(RunFilter(queue="mail", queue_key="k")))}
