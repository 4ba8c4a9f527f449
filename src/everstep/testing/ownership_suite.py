"""
The part of the conformance suite about who starts and owns runs: P6 to P9, and P14, of ``everstep.stores.base``.
"""

from __future__ import annotations

import asyncio

import pytest

from everstep.events import (
    CancelRequested,
    ChildFailed,
    RunClaimed,
    RunDied,
    RunPaused,
    RunResumed,
    decode_event,
    decode_events,
    encode_events,
)
from everstep.records import RunRecord, Status, WorkerKey
from everstep.stores.base import Append, Created, Exists, Fenced, Landed, Refused
from everstep.testing.scene import CODE, LEASE_SECONDS, SUCCESS, WORKFLOW, Scene, created_event, new_run
from everstep.testing.suite_base import SuiteBase


class OwnershipSuite(SuiteBase):
    """Mixed into ``StoreSuite``."""

    async def test_a_run_is_created_once(self, scene: Scene) -> None:
        """P6: the second time one gets the run that exists, with what it was created from."""
        created, exists = await scene.store.create([new_run("order-1"), new_run("order-1", "another-workflow")])

        assert isinstance(created, Created)
        assert isinstance(exists, Exists)
        assert created.run == exists.run == await scene.run()
        assert encode_events([created_event("order-1")]) == created.run.created
        assert (Status.QUEUED, 1, 0, None) == (
            created.run.status,
            created.run.version,
            created.run.epoch,
            created.run.worker_key,
        )
        assert scene.store.now() == created.run.created_at == created.run.wake_at

    async def test_a_local_start_of_an_id_that_is_taken_answers_with_that_run(self, scene: Scene) -> None:
        """P6: nothing is created, whatever key the worker had handed out."""
        run = await scene.create()

        assert [Exists(run)] == await scene.commit(scene.first(await scene.worker()))

        assert run == await scene.run()

    async def test_the_id_of_a_run_at_rest_stays_taken(self, scene: Scene) -> None:
        """P6: its outcome comes with the answer."""
        run = await scene.owned(await scene.worker())
        await scene.rest(run, SUCCESS, Status.SUCCEEDED)

        (answer,) = await scene.store.create([new_run()])

        assert isinstance(answer, Exists)
        assert encode_events([SUCCESS]) == answer.run.outcome

    async def test_a_local_start_is_owned_from_its_first_entry(self, scene: Scene) -> None:
        """P6: one entry is start, claim and first commands."""
        worker = await scene.worker()

        run = await scene.landed(scene.first(worker, step="charge", cursor=1))

        assert (worker, 1, 1, Status.RUNNING) == (run.worker_key, run.version, run.epoch, run.status)
        assert ("charge", 1) == (run.step, run.cursor)
        assert [] == (await scene.claim(await scene.worker("host:2"))).runs

    async def test_a_local_start_may_end_or_park_at_once(self, scene: Scene) -> None:
        """P6, P11: then nobody owns the run."""
        worker = await scene.worker()
        ended = scene.first(worker, "a", status=Status.SUCCEEDED)
        parked = scene.first(worker, "b", status=Status.WAITING, release=True, wake_at=5)

        assert [Landed(), Landed()] == await scene.commit(ended, parked)

        a, b = await scene.run("a"), await scene.run("b")
        assert (Status.SUCCEEDED, None, ended.entry.events) == (a.status, a.worker_key, a.outcome)
        assert (Status.WAITING, None, 5) == (b.status, b.worker_key, b.wake_at)

    async def test_a_dead_worker_cannot_start_a_run(self, scene: Scene) -> None:
        """P3, P9: nobody would ever find it."""
        worker = await scene.worker()
        await scene.store.retire(worker)

        assert [Fenced()] == await scene.commit(scene.first(worker))

        assert await scene.store.get("order-1") is None

    async def test_a_worker_hands_out_only_its_own_keys(self, scene: Scene) -> None:
        """P6: keys of two workers never meet."""
        worker = await scene.worker()
        write = scene.first(worker + 1)
        stolen = Append(entry=write.entry, worker_key=worker, status=Status.RUNNING, create=write.create)

        (outcome,) = await scene.commit(stolen)

        assert isinstance(outcome, Refused)

    async def test_a_claim_appends_an_entry_and_raises_the_epoch(self, scene: Scene) -> None:
        """P7: the audit event, and the fence."""
        worker = await scene.worker("host:1")
        await scene.create()

        claimed = await scene.claim_one(worker)

        assert (worker, 2, 1, Status.RUNNING) == _ownership(claimed.run)
        assert [RunClaimed("host:1")] == claimed.entries[-1].decoded()
        assert not claimed.entries[-1].drained
        assert claimed.entries == await scene.store.load(claimed.run.run_key)
        assert claimed.run == await scene.run()

    async def test_a_takeover_tells_from_whom_and_why(self, scene: Scene) -> None:
        """P7: the run was recovered, and the journal says so."""
        killed, heir = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(killed)
        await self.kill_worker(scene.store, killed)

        claimed = await scene.claim_one(heir)

        assert (heir, 3, 2, Status.RUNNING) == _ownership(claimed.run)
        assert [RunResumed("host:2", "host:1", "killed")] == claimed.entries[-1].decoded()
        assert 1 == claimed.run.deaths

    async def test_a_run_that_is_not_due_is_not_claimed(self, scene: Scene) -> None:
        """P8: but the claim tells when it will be."""
        worker = await scene.worker()
        due_at = scene.store.now() + 60_000_000
        await scene.create(wake_at=due_at)

        claims = await scene.claim(worker)
        assert ([], due_at) == (claims.runs, claims.next_due_at)

        scene.clocks.advance(60)
        assert "order-1" == (await scene.claim_one(worker)).run.run_id

    async def test_a_run_is_claimed_once(self, scene: Scene) -> None:
        """P8: its owner is alive."""
        first, second = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(first)

        assert [] == (await scene.claim(second)).runs
        assert [] == (await scene.claim(first)).runs

    async def test_two_claimers_at_once_get_different_runs(self, scene: Scene) -> None:
        """P8: and together all of them."""
        workers = [await scene.worker(f"host:{number}") for number in range(4)]
        await scene.store.create([new_run(f"order-{number}") for number in range(20)])

        answers = await asyncio.gather(*(scene.claim(worker, 6) for worker in workers))

        claimed = [each.run.run_id for claims in answers for each in claims.runs]
        assert 20 == len(claimed) == len(set(claimed))

    async def test_a_claim_takes_no_more_than_was_asked_for_and_the_oldest_first(self, scene: Scene) -> None:
        """P8: and says that more is due."""
        worker = await scene.worker()
        for number in range(3):
            await scene.create(f"order-{number}")
            scene.clocks.advance(1)

        claims = await scene.claim(worker, 2)

        assert ["order-0", "order-1"] == [each.run.run_id for each in claims.runs]
        assert (await scene.run("order-2")).wake_at == claims.next_due_at

    async def test_a_run_of_an_unknown_workflow_is_never_claimed(self, scene: Scene) -> None:
        """P8: neither when it is due nor when its owner died."""
        worker, other = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(worker)
        await scene.create("order-2")
        await self.kill_worker(scene.store, worker)

        claims = await scene.claim(other, workflows={"another": "x"})

        assert ([], None) == (claims.runs, claims.next_due_at)
        assert ["order-1", "order-2"] == [each.run.run_id for each in (await scene.claim(other)).runs]

    async def test_a_pinned_run_is_only_given_to_a_worker_that_has_its_version(self, scene: Scene) -> None:
        """P8: unowned and orphaned alike. A run that is not pinned goes to any code of its name."""
        old, new = await scene.worker("host:1"), await scene.worker("host:2")
        for run_id, pinned in (("a", "1"), ("b", "2"), ("c", "")):
            await scene.create(run_id, pinned=pinned)

        claims = await scene.claim(old, versions={(WORKFLOW, "1"): CODE})
        assert ["a", "c"] == [each.run.run_id for each in claims.runs]
        assert "1" == claims.runs[0].run.pinned
        assert claims.next_due_at is None
        assert [] == (await scene.claim(new, workflows={"refund": CODE}, versions={("refund", "2"): CODE})).runs
        await self.kill_worker(scene.store, old)

        claims = await scene.claim(new, versions={(WORKFLOW, "2"): CODE})
        assert ["c", "b"] == [each.run.run_id for each in claims.runs]
        last = await scene.claim(await scene.worker("host:3"), versions={(WORKFLOW, "1"): CODE, (WORKFLOW, "2"): CODE})
        assert ["a"] == [each.run.run_id for each in last.runs]

    async def test_a_pinned_run_that_its_version_refused_waits_for_other_code_of_that_version(self, scene: Scene) -> None:
        """P8: the fingerprint tells two codes apart that call themselves the same version."""
        worker = await scene.worker()
        run = await scene.owned(worker, pinned="2", versions={(WORKFLOW, "2"): "ab"})
        await scene.commit(scene.append(run, RunPaused("no", "ab"), status=Status.PAUSED, refused_by="ab"))

        for versions in ({(WORKFLOW, "2"): "ab"}, {(WORKFLOW, "1"): "aa"}):
            claims = await scene.claim(worker, versions=versions)
            assert ([], None) == (claims.runs, claims.next_due_at)
        for code in ("aa", "ac"):
            assert scene.store.now() == (await scene.claim(worker, 0, versions={(WORKFLOW, "2"): code})).next_due_at
        assert 1 == len((await scene.claim(worker, versions={(WORKFLOW, "2"): "aa"})).runs)

    async def test_a_run_is_handed_out_until_all_code_of_a_worker_has_refused_it(self, scene: Scene) -> None:
        """P8: a worker may have several codes of one name."""
        worker = await scene.worker()
        both = {WORKFLOW: "aa ab"}
        run = await scene.owned(worker)
        for code in ("ab", "aa"):
            await scene.commit(scene.append(run, RunPaused("no", code), status=Status.PAUSED, refused_by=code))
            claims = await scene.claim(worker, workflows=both)
            if code == "ab":
                run = claims.runs[0].run
                assert "ab" == run.refused_by

        assert ([], None) == (claims.runs, claims.next_due_at)
        assert 1 == len((await scene.claim(worker, workflows={WORKFLOW: "aa ab ac"})).runs)

    @pytest.mark.parametrize(("asked", "given"), [("top", ["top", "child", "named"]), ("other", ["other"])])
    async def test_a_worker_may_ask_for_one_family(self, scene: Scene, asked: str, given: list[str]) -> None:
        """P8: its top and everything below, whatever ids they have."""
        worker, only = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.create("top")
        await scene.create("other")
        await scene.create("top/0:1", family="top")
        await scene.create("named", family="top")

        claims = await scene.claim(only, family=asked)

        assert given == [each.run.run_id.replace("top/0:1", "child") for each in claims.runs]
        assert 4 - len(given) == len((await scene.claim(worker)).runs)

    async def test_code_that_refused_a_run_is_never_given_it_again(self, scene: Scene) -> None:
        """P8: other code is, at once; and if that refuses it too, neither of them."""
        worker = await scene.worker()
        await scene.owned(worker)

        async def refuse(code: str) -> None:
            pause = RunPaused("changed", code)
            await scene.landed(scene.append(await scene.run(), pause, status=Status.PAUSED, refused_by=code))

        await refuse(CODE)
        assert (Status.PAUSED, CODE, None) == _refusal(await scene.run())
        claims = await scene.claim(worker)
        assert ([], None) == (claims.runs, claims.next_due_at)

        (claimed,) = (await scene.claim(worker, workflows={WORKFLOW: "code-2"})).runs
        assert Status.RUNNING == claimed.run.status
        await refuse("code-2")
        assert [] == (await scene.claim(worker, workflows={WORKFLOW: "code-2"})).runs
        assert [] == (await scene.claim(worker)).runs
        (claimed,) = (await scene.claim(worker, workflows={WORKFLOW: "code-0"})).runs
        await scene.rest(claimed.run, SUCCESS, Status.SUCCEEDED)
        assert "" == (await scene.run()).refused_by

    async def test_a_run_that_compensates_goes_on_compensating(self, scene: Scene) -> None:
        """P8: a new owner does not change what it is about."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, status=Status.COMPENSATING))
        await scene.store.retire(worker)

        claimed = await scene.claim_one(await scene.worker("host:2"))

        assert Status.COMPENSATING == claimed.run.status

    async def test_a_lease_that_ran_out_gives_the_run_away(self, scene: Scene) -> None:
        """P9: the owner is then dead for good."""
        frozen, heir = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(frozen)
        scene.clocks.advance(LEASE_SECONDS / 2)
        assert await scene.store.heartbeat(heir)
        scene.clocks.advance(LEASE_SECONDS / 2 + 0.001)

        claimed = await scene.claim_one(heir)

        assert [RunResumed("host:2", "host:1", "lease expired")] == claimed.entries[-1].decoded()
        assert not await scene.store.heartbeat(frozen)

    async def test_a_heartbeat_renews_the_lease_of_everything(self, scene: Scene) -> None:
        """P9: one row for all runs."""
        worker, other = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(worker)
        for _ in range(3):
            scene.clocks.advance(LEASE_SECONDS * 0.9)
            assert await scene.store.heartbeat(worker)

            assert [] == (await scene.claim(other)).runs

    async def test_a_worker_that_retired_is_gone_and_costs_its_runs_no_death(self, scene: Scene) -> None:
        """P9: what it still owned may be claimed at once."""
        worker, heir = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.owned(worker)
        await scene.store.retire(worker)
        await scene.store.retire(worker)

        assert not await scene.store.heartbeat(worker)
        claimed = await scene.claim_one(heir)

        assert [RunResumed("host:2", "host:1", "retired")] == claimed.entries[-1].decoded()
        assert 0 == claimed.run.deaths

    async def test_a_dead_worker_is_given_nothing(self, scene: Scene) -> None:
        """P9: it has to enlist anew."""
        worker = await scene.worker()
        await scene.store.retire(worker)
        await scene.create()

        assert [] == (await scene.claim(worker)).runs
        assert [] == (await scene.claim(worker + 1)).runs
        assert not await scene.store.heartbeat(worker + 1)

    async def test_workers_are_listed_while_they_live_or_own_runs(self, scene: Scene) -> None:
        """P9: tokens are never reused."""
        first, second = await scene.worker("host:1"), await scene.worker("host:2", 5.0)
        await scene.owned(first)
        await self.kill_worker(scene.store, first)

        listed = [(each.worker_key, each.name, each.lease_seconds, each.run_count) for each in await scene.store.workers()]
        assert [(first, "host:1", LEASE_SECONDS, 1), (second, "host:2", 5.0, 0)] == listed

        assert [] == (await scene.claim(second, workflows={})).runs
        assert [(first, False), (second, True)] == [(each.worker_key, each.alive) for each in await scene.store.workers()]
        await scene.claim_one(second)
        assert [second] == [each.worker_key for each in await scene.store.workers()]
        assert await scene.worker("host:3") not in (first, second)

    async def test_a_run_whose_workers_keep_dying_is_claimed_alone_and_then_ends_dead(self, scene: Scene) -> None:
        """P14: bystanders make progress and are cleared; the culprit is found."""
        await scene.store.create([new_run("culprit", max_recoveries=3), new_run("bystander", max_recoveries=3)])
        for _ in range(3):
            worker = await scene.worker()
            assert 2 == len((await scene.claim(worker)).runs)
            await self.kill_worker(scene.store, worker)
        suspect = await scene.worker()
        claims = await scene.claim(suspect)
        assert ([], True) == (claims.runs, claims.suspects_wait)

        claims = await scene.claim(suspect, alone=True)
        assert ([("culprit", 3)], True) == ([(each.run.run_id, each.run.deaths) for each in claims.runs], claims.runs[0].alone)
        assert claims.suspects_wait
        await self.kill_worker(scene.store, suspect)
        last = await scene.worker()
        claims = await scene.claim(last, alone=True)

        assert ["culprit"] == claims.died
        assert ["bystander"] == [each.run.run_id for each in claims.runs]
        dead = await scene.run("culprit")
        assert (Status.DEAD, None, 4) == (dead.status, dead.worker_key, dead.deaths)
        assert dead.outcome is not None
        assert [RunDied] == [type(each) for each in decode_events(dead.outcome)]

    async def test_a_death_in_company_ends_no_run(self, scene: Scene) -> None:
        """P14: whichever of the two it was, it is found out by claiming each alone."""
        worker, heir = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.store.create([new_run("a", max_recoveries=0), new_run("b", max_recoveries=0)])
        assert 2 == len((await scene.claim(worker)).runs)
        await self.kill_worker(scene.store, worker)

        claims = await scene.claim(heir, alone=True)

        assert ([], True) == (claims.died, claims.suspects_wait)
        assert [("a", 1)] == [(each.run.run_id, each.run.deaths) for each in claims.runs]

    async def test_the_death_of_a_run_is_told_to_its_parent(self, scene: Scene) -> None:
        """P13, P14: also when the store is who ends it."""
        worker, doomed = await scene.worker("host:1"), await scene.worker("host:2")
        await scene.family(worker, max_recoveries=0)
        await scene.claim_one(doomed)
        await self.kill_worker(scene.store, doomed)

        claims = await scene.claim(worker)

        assert ["child"] == claims.died
        ((_, (told,)),) = await scene.store.pull(worker)
        event = decode_event(told.event)
        assert isinstance(event, ChildFailed)
        assert ("0:1", "dead") == (event.key, event.status)

    async def test_the_death_of_a_run_stops_the_children_that_are_to_be_cancelled_with_it(self, scene: Scene) -> None:
        """P14: there is no code any more that could ask them."""
        worker, doomed = await scene.worker("host:1"), await scene.worker("host:2")
        parent = await scene.owned(doomed, max_recoveries=0)
        policies = ("cancel", "abandon", "wait", "")
        children = tuple(
            new_run(f"child-{n}", parent_command=f"0:{n}", on_parent_close=policy) for n, policy in enumerate(policies)
        )
        await scene.commit(scene.append(parent, children=children))
        await self.kill_worker(scene.store, doomed)

        claims = await scene.claim(worker, alone=True)

        assert ["order-1"] == claims.died
        inboxes = [each for each in await scene.store.pull(worker) if each[1]]
        asked = [decode_event(each.event) for _, messages in inboxes for each in messages]
        assert [CancelRequested("its parent order-1 was given up")] == asked
        assert [1, 0, 0, 0] == [(await scene.run(f"child-{n}")).inbox_seq for n in range(4)]

    async def test_progress_clears_a_run_of_the_deaths_before_it(self, scene: Scene) -> None:
        """P14: deaths count only in a row."""
        for _ in range(2):
            worker = await scene.worker()
            if await scene.store.get("order-1") is None:
                await scene.create()
            await scene.claim_one(worker)
            await self.kill_worker(scene.store, worker)
        heir = await scene.worker()
        run = (await scene.claim_one(heir)).run
        assert 2 == run.deaths

        await scene.commit(scene.append(run))

        assert 0 == (await scene.run()).deaths


def _ownership(run: RunRecord) -> tuple[WorkerKey | None, int, int, Status]:
    return run.worker_key, run.version, run.epoch, run.status


def _refusal(run: RunRecord) -> tuple[Status, str, WorkerKey | None]:
    return run.status, run.refused_by, run.worker_key
