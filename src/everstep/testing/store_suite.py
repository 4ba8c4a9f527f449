"""
The conformance suite: whoever writes a store subclasses it and has every promise of ``everstep.stores.base`` checked.

    class TestMyStore(StoreSuite):
        async def make_store(self, clocks):
            return MyStore(now=clocks.now, monotonic=clocks.monotonic)

        async def kill_worker(self, store, worker_key):
            ...what happens to a worker when its process is killed

Needs pytest and pytest-asyncio. Time stands still unless a test lets it pass, and no test sleeps. After each test all journals
are verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw
from msgspec.structs import replace

from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildFailed,
    ChildRefused,
    ChildSucceeded,
    Event,
    RunCancelled,
    RunClaimed,
    RunDied,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    TimerFired,
    decode_event,
    decode_events,
    encode_events,
)
from everstep.records import AttemptRecord, ErrorRecord, Message, RunRecord, Status, WorkerKey
from everstep.stores.base import (
    Append,
    Behind,
    Created,
    Exists,
    Fenced,
    Landed,
    Outcome,
    Post,
    Refused,
    Reply,
    RolledBack,
    RunFilter,
    Slot,
    Store,
    TooEarly,
    TransactingStore,
    transacting,
)
from everstep.testing.operator_suite import OperatorSuite
from everstep.testing.pruning_suite import PruningSuite
from everstep.testing.scene import CODE, LEASE_SECONDS, WORKFLOW, Clocks, Scene, created_event, ids, message, new_run

SUCCESS = RunSucceeded(Raw(b'"paid"'))
ERROR = ErrorRecord("builtins.ValueError", "no")
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


@pytest.mark.asyncio
class StoreSuite(OperatorSuite, PruningSuite):
    """Every promise, checked on one store."""

    # --- what a subclass says about its store -------------------------------------------------------------------------

    async def make_store(self, clocks: Clocks) -> Store:
        """A new, empty store that takes its time from ``clocks``. Not yet opened."""
        raise NotImplementedError

    async def kill_worker(self, store: Store, worker_key: WorkerKey) -> None:
        """Do to the store what the sudden death of this worker's process does."""
        raise NotImplementedError

    async def reopened(self, store: Store) -> Store:
        """Close the store, and open what it stored again."""
        await store.close()
        await store.open()
        return store

    async def store_of_owner(self, store: Store) -> Store:
        """The same store, opened by somebody who may forget runs. The default is a store in which everybody may."""
        return store

    def write_in_progress(self, store: Store) -> AbstractAsyncContextManager[None]:
        """Somebody else is in the middle of a write while this lasts. The default is a store in which nobody can be."""
        return _nothing()

    async def put(self, tx: Any, number: int) -> None:
        """Have an effect in a transaction of users: a row with this number in a table of the test's, made if missing."""
        tx.execute("CREATE TABLE IF NOT EXISTS suite(number INTEGER)")
        tx.execute("INSERT INTO suite VALUES (?)", (number,))

    async def numbers(self, tx: Any) -> list[int]:
        """The numbers that are there, in a transaction of users."""
        tx.execute("CREATE TABLE IF NOT EXISTS suite(number INTEGER)")
        return [number for (number,) in tx.execute("SELECT number FROM suite ORDER BY number")]

    @pytest_asyncio.fixture
    async def scene(self) -> AsyncIterator[Scene]:
        """An open store and what to act on it with."""
        clocks = Clocks()
        store = await self.make_store(clocks)
        await store.open()
        scene = Scene(store, clocks)
        owned = await self.store_of_owner(store)
        if owned is not store:
            scene.pruner = owned
        yield scene
        await scene.verify()
        await scene.store.close()
        await owned.close()

    # --- P1 -----------------------------------------------------------------------------------------------------------

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

    # --- P2, P3 -------------------------------------------------------------------------------------------------------

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

    # --- P4 -----------------------------------------------------------------------------------------------------------

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

    # --- P5 -----------------------------------------------------------------------------------------------------------

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

    # --- P6 -----------------------------------------------------------------------------------------------------------

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

    # --- P7, P8 ---------------------------------------------------------------------------------------------------------

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

    # --- P9 -------------------------------------------------------------------------------------------------------------

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

    # --- P10 ------------------------------------------------------------------------------------------------------------

    async def test_messages_are_numbered_in_order(self, scene: Scene) -> None:
        """P10: the number is the order."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for number in range(3):
            scene.clocks.advance(1)
            after = await scene.store.post("order-1", message(TimerFired(f"0:{number}")))
            assert after is not None
            assert number + 1 == after.inbox_seq

        ((run_key, messages),) = await scene.store.pull(worker)

        assert run.run_key == run_key
        assert [1, 2, 3] == [each.seq for each in messages]
        assert ["0:0", "0:1", "0:2"] == [_key(each) for each in messages]
        assert scene.store.now() == messages[-1].at

    async def test_a_dedupe_key_is_accepted_once_per_run(self, scene: Scene) -> None:
        """P10: also after the first one was consumed. Messages without a key are all accepted."""
        worker = await scene.worker()
        run, _ = await scene.owned(worker), await scene.create("order-2")
        await scene.store.post("order-1", message(TimerFired("0:1"), "once"))
        run = await scene.landed(scene.append(run, consumed=1))
        for event in (TimerFired("0:1"), TimerFired("0:2")):
            await scene.store.post("order-1", message(event, "once"))
            await scene.store.post("order-2", message(event))

        assert 1 == (await scene.run()).inbox_seq
        assert 2 == (await scene.run("order-2")).inbox_seq

    async def test_a_message_makes_a_parked_run_due(self, scene: Scene) -> None:
        """P10: and comes with the claim."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, status=Status.WAITING, release=True, wake_at=None))
        assert ([], None) == ((await scene.claim(worker)).runs, (await scene.claim(worker)).next_due_at)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (Status.WAITING, scene.store.now()) == (posted.status, posted.wake_at)
        assert ["0:1"] == [_key(each) for each in (await scene.claim_one(worker)).inbox]

    async def test_a_message_wakes_no_sooner_than_is_due_already(self, scene: Scene) -> None:
        """P10: a run keeps its place in the queue."""
        run = await scene.create()
        scene.clocks.advance(5)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert run.wake_at == posted.wake_at

    async def test_a_message_does_not_wake_a_paused_run(self, scene: Scene) -> None:
        """P10: it waits in the inbox."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.commit(scene.append(run, RunPaused("by hand"), status=Status.PAUSED))

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (1, None) == (posted.inbox_seq, posted.wake_at)
        assert [] == (await scene.claim(worker)).runs

    async def test_a_run_at_rest_accepts_no_message(self, scene: Scene) -> None:
        """P10: the answer shows that it rests."""
        run = await scene.owned(await scene.worker())
        rested = await scene.rest(run, SUCCESS, Status.SUCCEEDED)

        posted = await scene.store.post("order-1", message(TimerFired("0:1")))

        assert posted is not None
        assert (Status.SUCCEEDED, 0, rested.version) == (posted.status, posted.inbox_seq, posted.version)

    async def test_a_message_to_nobody_is_told(self, scene: Scene) -> None:
        """P10: None, if there is no such run."""
        assert await scene.store.post("nobody", message(TimerFired("0:1"))) is None

    async def test_a_message_of_an_entry_to_nobody_or_a_resting_run_is_dropped(self, scene: Scene) -> None:
        """P10: the entry lands nevertheless."""
        worker = await scene.worker()
        run, other = await scene.owned(worker), await scene.owned(worker, "order-2")
        await scene.rest(other, SUCCESS, Status.SUCCEEDED)
        posts = tuple(Post(run_id=run_id, message=message(TimerFired("0:1"))) for run_id in ("nobody", "order-2", "order-1"))

        run = await scene.landed(scene.append(run, posts=posts))

        assert 1 == run.inbox_seq
        assert 0 == (await scene.run("order-2")).inbox_seq

    async def test_pulling_consumes_nothing(self, scene: Scene) -> None:
        """P10: what an entry consumed is not pulled again."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for key in ("0:1", "0:2"):
            await scene.store.post("order-1", message(TimerFired(key)))

        assert await scene.store.pull(worker) == await scene.store.pull(worker)

        run = await scene.landed(scene.append(run, consumed=1))
        assert [(run.run_key, ["0:2"])] == [(key, list(map(_key, each))) for key, each in await scene.store.pull(worker)]
        await scene.commit(scene.append(run, consumed=2))
        assert [] == await scene.store.pull(worker)

    # --- P11 ------------------------------------------------------------------------------------------------------------

    async def test_a_run_with_unread_messages_can_neither_park_nor_end(self, scene: Scene) -> None:
        """P11: the wake-up would be lost."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1")))
        before = await scene.run()

        for write in (
            scene.append(run, status=Status.WAITING, release=True),
            scene.append(run, status=Status.WAITING, release=True, wake_at=scene.store.now() + 1),
            scene.append(run, SUCCESS, status=Status.SUCCEEDED),
            scene.append(run, RunFailed(ERROR), status=Status.FAILED),
            scene.append(run, RunCancelled(), status=Status.CANCELLED),
            scene.keep(run, release=True),
        ):
            assert [Behind()] == await scene.commit(write)

        assert before == await scene.run()
        assert [Landed()] == await scene.commit(scene.append(run, status=Status.WAITING, release=True, consumed=1))

    async def test_consumption_is_remembered(self, scene: Scene) -> None:
        """P11: what an earlier entry consumed stays consumed."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1")))
        run = await scene.landed(scene.append(run, consumed=1))

        assert [Landed()] == await scene.commit(scene.keep(run, release=True))

    async def test_unread_messages_do_not_hold_up_a_verdict_or_a_run_that_is_due_at_once(self, scene: Scene) -> None:
        """P11: whoever takes the run next finds them."""
        worker = await scene.worker()
        ways: tuple[dict[str, Any], ...] = (
            {"status": Status.PAUSED, "refused_by": CODE},
            {"status": Status.DEAD},
            {"status": Status.QUEUED, "release": True, "wake_at": scene.store.now()},
        )
        for number, fields in enumerate(ways):
            run = await scene.owned(worker, f"order-{number}")
            await scene.store.post(run.run_id, message(TimerFired("0:1")))

            assert [Landed()] == await scene.commit(scene.append(run, RunDied("worn"), **fields))

        assert ["0:1"] == [_key(each) for each in (await scene.claim_one(worker)).inbox]

    async def test_a_run_is_given_back_as_told(self, scene: Scene) -> None:
        """P11: with or without an entry."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        write = scene.append(run, status=Status.WAITING, release=True, wake_at=scene.store.now() + 5)
        assert (Status.WAITING, scene.store.now() + 5, None) == _parking(await scene.landed(write))
        scene.clocks.advance(1)

        run = (await scene.claim_one(worker)).run
        await scene.commit(scene.keep(run, release=True, status=Status.QUEUED, wake_at=scene.store.now()))

        assert (Status.QUEUED, scene.store.now(), None) == _parking(await scene.run())
        assert run.version == (await scene.run()).version
        assert [Fenced()] == await scene.commit(scene.append(run))

    # --- P12 ------------------------------------------------------------------------------------------------------------

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

    # --- P13 ------------------------------------------------------------------------------------------------------------

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

    # --- P14 ------------------------------------------------------------------------------------------------------------

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

    # --- P19, P20 -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["append", "keep"])
    async def test_a_reply_stays_on_its_message(self, scene: Scene, kind: str) -> None:
        """P19: it can be read by whoever knows the key, after the run has ended too; only the first one counts."""
        worker = await scene.worker()
        run = await scene.owned(worker)
        for key in ("a", "b", ""):
            await scene.store.post("order-1", message(TimerFired("0:1"), key))
        assert [None, None, None] == [each.reply for each in await scene.store.mail(run.run_key)]

        first, second = (Reply("a", b'"yes"'),), (Reply("a", b'"no"'), Reply("", b'"nobody"'), Reply("gone", b'"dropped"'))
        if kind == "append":
            run = await scene.landed(scene.append(run, replies=first, consumed=1))
            run = await scene.landed(scene.append(run, replies=second))
        else:
            assert [Landed()] == await scene.commit(scene.keep(run, replies=first, consumed=1))
            assert [Landed()] == await scene.commit(scene.keep(run, replies=second))
        assert 1 == (await scene.run()).inbox_done
        await scene.rest(replace(run, inbox_seq=3), SUCCESS, Status.SUCCEEDED)

        scene.store = await self.reopened(scene.store)
        assert [b'"yes"', None, None] == [each.reply for each in await scene.store.mail(run.run_key)]
        assert [(1, b'"yes"')] == [(each.seq, each.reply) for each in await scene.store.mail(run.run_key, 0, "a")]
        assert ["b", ""] == [each.dedupe for each in await scene.store.mail(run.run_key, 1)]
        assert [] == await scene.store.mail(run.run_key, 1, "a") == await scene.store.mail(run.run_key, 0, "gone")
        assert [] == await scene.store.mail(run.run_key + 1)

    async def test_a_write_that_does_not_land_replies_to_nobody(self, scene: Scene) -> None:
        """P19, P5: a zombie's answer is not heard."""
        worker, other = await scene.worker(), await scene.worker("host:2")
        run = await scene.owned(worker)
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        replies = (Reply("a", b'"yes"'),)

        for write in (
            scene.append(run, replies=replies, worker_key=other),
            scene.append(run, replies=replies, version=9),
            scene.keep(run, replies=replies, worker_key=other),
            scene.keep(run, replies=replies, release=True),
        ):
            assert Landed() not in await scene.commit(write)

        assert [None] == [each.reply for each in await scene.store.mail(run.run_key)]
        bad = await scene.commit(scene.append(run, replies=(Reply("a", b"\xff"),)))
        assert Refused in map(type, bad)

    async def test_whoever_waits_is_told_of_a_reply(self, scene: Scene) -> None:
        """P19: the asker need not poll."""
        run = await scene.owned(await scene.worker())
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        waiting = asyncio.ensure_future(scene.store.wait_for_work(None, 60))
        await asyncio.sleep(0)

        await scene.commit(scene.keep(run, replies=(Reply("a", b'"yes"'),), consumed=1))

        assert await waiting

    async def test_a_run_begins_with_the_messages_that_came_with_it(self, scene: Scene) -> None:
        """P20: each key once, in order; and not again when somebody creates it again."""
        messages = tuple(message(TimerFired(f"0:{number}"), key) for number, key in enumerate(("a", "", "a", "b")))
        run = await scene.create(messages=messages)
        assert (3, 0) == (run.inbox_seq, run.inbox_done)

        (answer,) = await scene.store.create([new_run(messages=(message(TimerFired("0:9"), "c"),))])
        await scene.store.post("order-1", message(TimerFired("0:9"), "b"))
        await scene.store.post("order-1", message(TimerFired("0:4")))

        assert isinstance(answer, Exists)
        claimed = await scene.claim_one(await scene.worker())
        assert [(1, "0:0"), (2, "0:1"), (3, "0:3"), (4, "0:4")] == [(each.seq, _key(each)) for each in claimed.inbox]

    async def test_a_first_entry_can_consume_the_messages_that_come_with_its_run(self, scene: Scene) -> None:
        """P20, P11: and may park or end only then."""
        worker = await scene.worker()
        messages = (message(TimerFired("0:1"), "a"), message(TimerFired("0:2")))
        behind = scene.first(worker, messages=messages, consumed=1, release=True, status=Status.WAITING)
        assert [Behind()] == await scene.commit(behind)
        assert await scene.store.get("order-1") is None

        write = scene.first(worker, messages=messages, consumed=2, release=True, status=Status.WAITING)
        run = await scene.landed(write)

        assert (2, 2, None) == (run.inbox_seq, run.inbox_done, run.wake_at)
        assert [Landed()] == await scene.commit(write)
        await scene.store.post("order-1", message(TimerFired("0:1"), "a"))
        assert 2 == (await scene.run()).inbox_seq

    async def test_an_ending_may_leave_what_it_has_seen(self, scene: Scene) -> None:
        """P11: the messages stay unconsumed; one that it has not seen holds it up."""
        run = await scene.owned(await scene.worker())
        for _ in range(2):
            await scene.store.post("order-1", message(TimerFired("0:1")))

        assert [Behind()] == await scene.commit(scene.append(run, SUCCESS, status=Status.SUCCEEDED, seen=1))
        assert [Behind()] == await scene.commit(scene.append(run, status=Status.WAITING, release=True, seen=2))
        ended = await scene.landed(scene.append(run, SUCCESS, status=Status.SUCCEEDED, consumed=1, seen=2))

        assert (2, 1) == (ended.inbox_seq, ended.inbox_done)

    # --- P17, and questions ---------------------------------------------------------------------------------------------

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

    # --- waiting --------------------------------------------------------------------------------------------------------

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

    # --- P18: only where the store has transactions for users ---------------------------------------------------------

    async def test_a_body_and_its_entry_are_one_commit(self, scene: Scene) -> None:
        """P18: both are there afterwards."""
        users = await Users.of(self, scene)
        before = await scene.run()

        assert Landed() == await users.put(1)
        assert before.version + 1 == (await scene.run()).version
        assert [1] == await users.numbers()

    async def test_a_body_that_returns_nothing_leaves_nothing(self, scene: Scene) -> None:
        """P18: neither its effect nor an entry."""
        users = await Users.of(self, scene)
        before = await scene.run()

        assert RolledBack() == await users.put(1, keep=False)
        assert before == await scene.run()
        assert [] == await users.numbers()

    async def test_a_body_that_raises_leaves_nothing(self, scene: Scene) -> None:
        """P18: and its error comes out."""
        users = await Users.of(self, scene)

        with pytest.raises(ZeroDivisionError):
            await users.put(1, error=ZeroDivisionError())
        assert [] == await users.numbers()

    async def test_a_body_that_is_cancelled_leaves_nothing(self, scene: Scene) -> None:
        """P18: and the store is free for others at once."""
        users = await Users.of(self, scene)
        task = asyncio.ensure_future(users.put(1, until=asyncio.Event()))
        await users.begun.wait()
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert [] == await users.numbers()

    async def test_a_body_is_not_begun_in_a_slot_of_somebody_else(self, scene: Scene) -> None:
        """P18: another epoch, another version, another worker: fenced."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())

        wrong = [replace(slot, epoch=slot.epoch - 1), replace(slot, version=slot.version + 1), replace(slot, worker_key=99)]
        assert [Fenced()] * 4 == [await users.put(1, slot=each) for each in [*wrong, replace(slot, run_key=slot.run_key + 7)]]
        assert not users.begun.is_set()

    async def test_an_entry_that_is_not_the_slots_takes_the_effect_with_it(self, scene: Scene) -> None:
        """P18: an entry of another epoch is fenced although the slot was the owner's."""
        users = await Users.of(self, scene)

        assert Fenced() == await users.put(1, epoch=7)
        assert [] == await users.numbers()

    async def test_a_body_whose_entry_has_landed_is_not_begun_again(self, scene: Scene) -> None:
        """P18: whoever lost the answer asks again with the entry, and is told that it is there."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())
        await users.put(1, slot=slot)
        doubtful = (await scene.run()).hash

        assert Landed() == await users.put(2, slot=replace(slot, doubtful=doubtful))
        assert [1] == await users.numbers()

    async def test_a_doubtful_entry_that_has_not_landed_lets_the_body_run_again(self, scene: Scene) -> None:
        """P18: nobody has written there."""
        users = await Users.of(self, scene)
        slot = users.slot(await scene.run())

        assert Landed() == await users.put(2, slot=replace(slot, doubtful=bytes(32)))
        assert [2] == await users.numbers()

    async def test_bodies_run_one_after_the_other_and_others_write_meanwhile_or_after(self, scene: Scene) -> None:
        """P18: no deadlock, and nobody is lost."""
        users = await Users.of(self, scene)
        gate = asyncio.Event()
        task = asyncio.ensure_future(users.put(1, until=gate))
        await users.begun.wait()
        writing = asyncio.ensure_future(scene.create("other"))
        await asyncio.sleep(0)
        gate.set()

        assert Landed() == await task
        assert "other" == (await writing).run_id


class Users:
    """A run that a worker owns, and transactions of users in its name."""

    def __init__(self, suite: StoreSuite, scene: Scene, store: TransactingStore) -> None:
        self.begun = asyncio.Event()
        self._suite = suite
        self._scene = scene
        self._store = store

    @classmethod
    async def of(cls, suite: StoreSuite, scene: Scene) -> Users:
        """Skips the test if the store has no such verb."""
        store = transacting(scene.store)
        if store is None:
            pytest.skip("the store has no transactions for users")
        users = cls(suite, scene, store)
        await scene.owned(await scene.worker())
        await users.numbers()  # A store may open what it needs, and make the table, at the first use.
        users.begun.clear()
        return users

    def slot(self, run: RunRecord) -> Slot:
        """The run's next entry."""
        return Slot(run_key=run.run_key, version=run.version + 1, epoch=run.epoch, worker_key=run.worker_key or 0)

    async def put(
        self,
        number: int,
        *,
        slot: Slot | None = None,
        keep: bool = True,
        error: Exception | None = None,
        until: asyncio.Event | None = None,
        **entry: Any,
    ) -> Outcome | RolledBack:
        """Put a number, in a transaction that ends as told."""
        run = await self._scene.run()

        async def body(tx: Any) -> Append | None:
            self.begun.set()
            await self._suite.put(tx, number)
            if until is not None:
                await until.wait()
            if error is not None:
                raise error
            return self._scene.append(run, **entry) if keep else None

        return await self._store.transact(slot or self.slot(run), body)

    async def numbers(self) -> list[int]:
        """The numbers that are there. Costs an entry."""
        run, found = await self._scene.run(), list[int]()

        async def body(tx: Any) -> Append | None:
            found.extend(await self._suite.numbers(tx))
            return self._scene.append(run)

        assert Landed() == await self._store.transact(self.slot(run), body)
        return found


@asynccontextmanager
async def _nothing() -> AsyncGenerator[None]:
    yield


def _ownership(run: RunRecord) -> tuple[WorkerKey | None, int, int, Status]:
    return run.worker_key, run.version, run.epoch, run.status


def _refusal(run: RunRecord) -> tuple[Status, str, WorkerKey | None]:
    return run.status, run.refused_by, run.worker_key


def _parking(run: RunRecord) -> tuple[Status, int | None, WorkerKey | None]:
    return run.status, run.wake_at, run.worker_key


def _key(received: Message) -> str:
    event = decode_event(received.event)
    assert isinstance(event, TimerFired)
    return event.key
