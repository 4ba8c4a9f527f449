"""
Workers that die, freeze, lose their store, and leave: who owns a run, and what happens to those who only think so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

import everstep as es
from everstep.engine.committer import Done, take_group
from everstep.events import RunClaimed, RunResumed, StepCompleted
from everstep.stores.base import Append, ClaimRequest, Fenced, Keep, Outcome, Write
from tests.engine.support import World, freeze, is_in_memory, kill, link, lose_answer, thaw, turns, until, worker_of

done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _forget() -> None:
    done.clear()


@es.step
async def note(text: str) -> str:
    done[text] += 1
    return text


@es.step
async def works(seconds: float) -> str:
    done[f"attempt {es.current().attempt}"] += 1
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        done["stopped"] += 1
        raise
    return "worked"


@es.workflow
async def job(seconds: float) -> str:
    await note("first")
    await works(seconds)
    return await note("last")


@es.workflow
async def many(count: int) -> int:
    for n in range(count):
        await note(str(n))
    return count


async def test_a_killed_workers_run_is_taken_over_at_once_and_repeats_no_finished_step(world: World) -> None:
    """A2, A5, A7."""
    first, second = await world.engine(job), await world.engine(job)
    await first.start(job(10), id="a")
    await asyncio.sleep(3)
    kill(first)

    assert "last" == await second.handle("a", job).result()
    assert 13 <= world.seconds < 13.1
    assert {"first": 1, "last": 1, "attempt 1": 1, "attempt 2": 1} == {k: v for k, v in done.items() if k != "stopped"}
    [resumed] = [e for e in await world.events("a") if isinstance(e, RunResumed)]
    assert "killed" == resumed.why


async def test_a_frozen_worker_is_given_up_after_its_lease(world: World) -> None:
    first, second = await world.engine(job, lease=9), await world.engine(job, lease=9)
    await first.start(job(10), id="a")
    await asyncio.sleep(1)
    freeze(first)

    assert "last" == await second.handle("a", job).result()
    assert 18 < world.seconds < 26
    [resumed] = [e for e in await world.events("a") if isinstance(e, RunResumed)]
    assert "lease expired" == resumed.why
    assert {"attempt 1": 1, "attempt 2": 1} == {k: v for k, v in done.items() if "attempt" in k}


async def test_a_zombies_append_is_fenced_and_its_tasks_are_stopped(world: World) -> None:
    """C1: frozen between the effect and the append."""
    first, second = await world.engine(job, many), await world.engine(job, many)
    await first.start(job(100), id="a")
    await first.start(many(3), id="b")
    await asyncio.sleep(1)
    link(first).fail("commit", delay=5, error=None)
    worker = worker_of(first)
    old_key = worker.worker_key
    handle = first.handle("a", job)
    await handle.cancel("so that it commits")
    await turns()
    world.store.kill(old_key)
    with pytest.raises(es.RunCancelled):
        await second.handle("a", job).result()
    before = await world.entries("a")

    await asyncio.sleep(20)

    assert before == await world.entries("a"), "the zombie wrote something"
    assert not is_in_memory(first, "a")
    assert old_key != worker.worker_key


async def test_a_thawed_worker_enlists_anew_and_works_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A dead token never renews."""
    first, second = await world.engine(job), await world.engine(job)
    await first.start(job(100), id="a")
    await asyncio.sleep(1)
    old_key = worker_of(first).worker_key
    freeze(first)
    await until(lambda: is_in_memory(second, "a"))
    thaw(first)
    await asyncio.sleep(20)

    assert old_key != worker_of(first).worker_key
    assert not await world.store.heartbeat(old_key)
    assert 1 == done["stopped"], "the zombie's body goes on"
    assert not is_in_memory(first, "a")
    await second.close()
    assert "last" == await first.handle("a", job).result()
    assert 1 == done["last"]
    assert 1 == caplog.text.count("lost its lease")


async def test_what_a_zombie_says_besides_entries_has_no_effect_either(world: World) -> None:
    """C2: heartbeat, keep, release, retire."""
    first, second = await world.engine(job), await world.engine(job)
    await first.start(job(100), id="a")
    await asyncio.sleep(1)
    worker = worker_of(first)
    driver = worker.driver_of("a")
    old_key, run_key, epoch = worker.worker_key, driver.facts.run_key, driver.epoch
    world.store.kill(old_key)
    await until(lambda: is_in_memory(second, "a"))
    before = await world.record("a")

    assert not await world.store.heartbeat(old_key)
    [outcome] = await world.store.commit(
        [Keep(run_key=run_key, worker_key=old_key, epoch=epoch, release=True, wake_at=world.clock.now())]
    )
    await world.store.retire(old_key)

    assert Fenced() == outcome
    assert before == await world.record("a")


async def test_a_run_that_is_claimed_twice_in_one_process_is_driven_once(world: World) -> None:
    """C4: the newer claim wins; the older driver is stopped, not left to write under a dead epoch."""
    engine = await world.engine(job)
    await engine.start(job(10), id="a")
    await asyncio.sleep(1)
    stale = worker_of(engine).driver_of("a")
    store: Any = world.store
    run = store._runs[store._keys["a"]]
    run.record = replace(run.record, worker_key=None, wake_at=world.clock.now())
    worker_of(engine).nudge()
    await turns()

    assert stale.is_over
    assert stale is not worker_of(engine).driver_of("a")
    assert 1 == done["stopped"]
    assert "last" == await engine.handle("a", job).result()
    assert 1 == len([e for e in await world.events("a") if isinstance(e, StepCompleted) and e.key == "0:2"])


@pytest.mark.parametrize("minutes", [0.1, 10])
async def test_a_store_that_is_away_is_waited_for_without_spinning(
    world: World, minutes: float, caplog: pytest.LogCaptureFixture
) -> None:
    """B4: shorter and much longer than the lease."""
    engine = await world.engine(many, job, inline=False)
    handles = [await engine.start(job(1), id=f"r{n}") for n in range(10)]
    store = link(engine)
    store.is_away = True
    counts = Counter(store.counts)
    await asyncio.sleep(60 * minutes)
    made = store.counts - counts
    store.is_away = False
    for n in range(10):
        assert "last" == await engine.handle(f"r{n}", job).result()
        assert Counter({"note": 2, "works": 1}) == await world.completed(f"r{n}")

    assert made["commit"] <= 12 + 20 * minutes
    assert made["claim"] <= 20 + 120 * minutes
    texts = [record.getMessage() for record in caplog.records]
    assert 1 == sum("cannot be" in text for text in texts), texts
    assert 1 == sum("is back" in text for text in texts), texts
    assert len(texts) <= 3, texts
    assert len(handles) == 10


async def test_what_a_worker_dropped_in_doubt_is_not_given_back_as_if_it_had_not_begun(world: World) -> None:
    """The store was away for longer than the lease, and a claim had failed: the body had begun, so nobody may begin it anew."""
    begun: list[int] = []

    @es.step(at_most_once=True)
    async def pay() -> str:
        begun.append(es.current().attempt)
        await asyncio.sleep(20)
        return "paid"

    @es.workflow
    async def order() -> str:
        try:
            return await pay()
        except es.StepOutcomeUnknown:
            return "unknown"

    engine = await world.engine(order, lease=6)
    handle = await engine.start(order(), id="a")
    await turns()
    link(engine).is_away = True
    worker_of(engine).nudge()
    await asyncio.sleep(30)
    for _ in range(3):
        link(engine).fail("enlist")  # The claimer sees the store before there is a new token.
    link(engine).is_away = False

    assert "unknown" == await handle.result()
    assert [1] == begun
    assert any(isinstance(event, RunResumed) for event in await world.events("a"))


async def test_an_idle_worker_tells_that_the_store_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Also when there is nothing to write: else it would claim nothing, in silence."""
    engine = await world.engine(many)
    link(engine).is_away = True
    await asyncio.sleep(100)
    link(engine).is_away = False
    await asyncio.sleep(100)

    texts = [record.getMessage() for record in caplog.records]
    assert 1 == sum("is away" in text for text in texts), texts
    assert 1 == sum("is back" in text for text in texts), texts
    assert 3 == await (await engine.start(many(3))).result()


@pytest.mark.parametrize("ordinal", range(8))
@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_that_fails_is_repeated_and_happens_once(world: World, ordinal: int, after: bool) -> None:
    """B1, B2: before the effect, and after it with the answer lost."""
    engine = await world.engine(many)
    link(engine).fail("commit", skip=ordinal, after=after)

    assert 5 == await (await engine.start(many(5), id="a")).result()
    assert {str(n): 1 for n in range(5)} == done
    versions = [entry.version for entry in await world.entries("a")]
    assert list(range(1, len(versions) + 1)) == versions
    assert Counter({"note": 5}) == await world.completed("a")


async def test_a_claim_whose_answer_is_lost_strands_nothing_that_has_mail(world: World) -> None:
    """Giving back a run that has unread messages, by a clock that is ahead."""
    client = await world.client()
    handle = await client.start(many(3), id="a")
    await handle.cancel("enough")
    engine = world.unopened(many)
    lose_answer(engine, "claim")
    link(engine).skew = 3_000_000
    await engine.open()

    with pytest.raises(es.RunCancelled):
        await asyncio.wait_for(handle.result(), 60)


@pytest.mark.parametrize("verb", ["claim", "pull", "heartbeat", "retire", "wait_for_work"])
async def test_any_other_verb_may_fail_and_is_tried_again(world: World, verb: str) -> None:
    client = await world.client()
    engine = await world.engine(job)
    for _ in range(3):
        link(engine).fail(verb)
        lose_answer(engine, verb)
    await client.start(job(30), id="a")

    assert "last" == await asyncio.wait_for(client.handle("a", job).result(), 300)
    assert 1 == done["first"] == done["last"]


async def test_a_claim_whose_answer_is_lost_strands_nothing(world: World) -> None:
    """The store thinks this worker owns the run, and the worker has never heard of it."""
    client = await world.client()
    engine = await world.engine(many)
    lose_answer(engine, "claim")
    await client.start(many(3), id="a")

    assert 3 == await asyncio.wait_for(client.handle("a", many).result(), 60)


async def test_a_claim_that_takes_effect_long_after_it_was_given_up_strands_nothing(world: World) -> None:
    """A server may go on with a statement whose client has left. The worker renews its lease, so nobody else takes over."""
    engine = await world.engine(many)
    link(engine).fail("claim")
    client = await world.client()
    await (await client.start(many(1), id="first")).result()
    await asyncio.sleep(3)
    [worker_key] = link(engine).worker_keys
    late = ClaimRequest(worker_key=worker_key, workflows=engine.registry.fingerprints(""), run_max=5)

    await client.start(many(3), id="a")
    assert ["a"] == [claimed.run.run_id for claimed in (await world.store.claim(late)).runs]

    assert 3 == await asyncio.wait_for(client.handle("a", many).result(), 200)


async def test_an_engine_without_grace_closes_though_the_store_is_slow(world: World) -> None:
    engine = await world.engine(job, inline=False, grace=0)
    await engine.start(job(10), id="a")
    await asyncio.sleep(1)
    link(engine).fail("drain", delay=5.0, error=None)

    await engine.close()

    other = await world.engine(job)
    assert "last" == await other.handle("a", job).result()


async def test_a_batch_shares_no_fate_with_a_write_that_the_store_cannot_take(world: World) -> None:
    """A fault that one write provokes again and again must not hold up all the others."""
    engine = await world.engine(job, many, inline=False)
    store: Any = link(engine)
    original = store.commit

    async def commit(batch: Any) -> Any:
        if any(isinstance(w, Append) and w.create is not None and w.create.run_id == "poisoned" for w in batch):
            raise RuntimeError("on request")
        return await original(batch)

    store.commit = commit
    names = ["r0", "r1", "r2", "poisoned", "r4", "r5"]
    link(engine).fail("commit", delay=1, error=None)  # The others gather behind it.
    results = await asyncio.gather(
        *(asyncio.wait_for(engine.start(many(3), id=name), 60) for name in names), return_exceptions=True
    )

    assert isinstance(results.pop(3), es.EverstepError)
    for handle in results:
        assert isinstance(handle, es.Handle)
        assert 3 == await handle.result()


@pytest.mark.parametrize("ahead", [0, 3600])
async def test_a_closed_engine_hands_its_runs_back_to_be_claimed_at_once(world: World, ahead: int) -> None:
    """Also if its idea of the store's clock is wrong."""
    first = await world.engine(job, grace=1)
    link(first).skew = ahead * 1_000_000
    await first.start(job(10), id="a")
    await asyncio.sleep(2)
    second = await world.engine(job)
    await first.close()
    closed_at = world.seconds

    assert "last" == await second.handle("a", job).result()
    assert closed_at + 10 <= world.seconds < closed_at + 10.1
    assert {"attempt 1": 1, "attempt 2": 1} == {k: v for k, v in done.items() if "attempt" in k}
    events = await world.events("a")
    assert not any(isinstance(e, RunResumed) for e in events)
    assert 2 == len([e for e in events if isinstance(e, RunClaimed)])
    assert [] == [worker for worker in await world.store.workers() if worker.worker_key == 1]


async def test_a_step_that_finishes_within_the_grace_is_not_repeated(world: World) -> None:
    first = await world.engine(job, grace=5)
    await first.start(job(10), id="a")
    await asyncio.sleep(8)
    await first.close()
    second = await world.engine(job)

    assert "last" == await second.handle("a", job).result()
    assert 1 == done["attempt 1"]
    assert 0 == done["attempt 2"]


async def test_a_drained_engine_takes_nothing_new_and_serve_returns(world: World) -> None:
    engine = await world.engine(many, job)
    serving = asyncio.ensure_future(engine.serve())
    await engine.start(job(10), id="a")
    await turns()
    engine.drain()
    await serving

    client = await world.client()
    await client.start(many(3), id="b")
    handle = await engine.start(many(3), id="c")
    await asyncio.sleep(60)
    assert ["queued", "queued"] == [await client.handle("b").status(), await handle.status()]
    assert es.Status.QUEUED is await client.handle("a").status(), "the step that ran is done, the next was not begun here"
    assert 1 == (await world.completed("a"))["works"]
    await engine.close()
    second = await world.engine(many, job)
    assert "last" == await second.handle("a", job).result()
    assert [3, 3] == [await second.handle(run_id, many).result() for run_id in ("b", "c")]


async def test_closing_begins_no_further_steps(world: World) -> None:
    """It waits for the body that runs and not for the rest of the workflow; an at-most-once step is not begun to be cut off."""
    begun: list[str] = []

    @es.step
    async def prepare() -> None:
        begun.append("prepare")
        await asyncio.sleep(0.3)

    @es.step(at_most_once=True)
    async def pay() -> str:
        begun.append("pay")
        await asyncio.sleep(0.3)
        return "paid"

    @es.workflow
    async def order() -> str:
        await prepare()
        return await pay()

    first = await world.engine(order, grace=5)
    await first.start(order(), id="a")
    await turns()
    await first.close()

    assert ["prepare"] == begun
    assert world.seconds < 0.4
    second = await world.engine(order)
    assert "paid" == await second.handle("a", order).result()


async def test_an_engine_drives_nothing_but_the_run_it_is_for(world: World) -> None:
    """``es.run`` must not execute somebody else's order because it lies in the same file."""
    client = await world.client()
    await client.start(many(3), id="mine")
    await client.start(many(3), id="mine2")
    await client.start(many(3), id="other")
    engine = await world.engine(many, only="mine")

    assert 3 == await engine.handle("mine", many).result()
    await asyncio.sleep(60)
    assert ["queued", "queued"] == [await client.handle(run_id).status() for run_id in ("mine2", "other")]


async def test_an_engine_that_closes_while_the_store_is_away_does_close(world: World) -> None:
    engine = await world.engine(many, job, grace=1, inline=False)
    await engine.start(job(0.5), id="a")
    await turns()
    link(engine).is_away = True
    await asyncio.sleep(1)
    began = world.seconds

    await engine.close()

    assert world.seconds - began < 10
    assert await world.store.heartbeat(1), "it could not retire"
    world.store.kill(1)
    second = await world.engine(job)
    assert "last" == await second.handle("a", job).result()


async def test_many_runs_survive_many_deaths(world: World) -> None:
    engines = [await world.engine(job, many) for _ in range(3)]
    for n in range(30):
        await engines[n % 3].start(job(5), id=f"r{n}")
    for round_number in range(6):
        await asyncio.sleep(1.5)
        kill(engines[round_number % 3])
        engines[round_number % 3] = await world.engine(job, many)

    assert ["last"] * 30 == [await engines[0].handle(f"r{n}", job).result() for n in range(30)]
    assert 30 == done["first"]
    assert 30 == done["last"]


@pytest.mark.parametrize("how", ["frozen", "away"])
async def test_a_worker_that_cannot_renew_stops_its_bodies_before_its_lease_ends(world: World, how: str) -> None:
    """Else two workers could execute one step at the same time without either being frozen."""
    engine = await world.engine(job, lease=15)
    await engine.start(job(1000), id="a")
    await asyncio.sleep(7)
    renewed_at = 5.0
    if how == "frozen":
        freeze(engine)
    else:
        link(engine).is_away = True
    await until(lambda: done["stopped"] == 1, every=0.1, at_most=60)

    assert world.seconds < renewed_at + 15
    assert not worker_of(engine).can_start_here


def test_writes_of_one_run_are_never_in_one_group_and_keep_their_order() -> None:
    keeps = [Keep(run_key=key, worker_key=1, epoch=n) for n, key in enumerate([7, 8, 7, 9, 7, 8])]

    def ignore(_: Outcome) -> None: ...

    groups: list[list[tuple[int, int]]] = []
    pending: list[tuple[Write, Done]] = [(keep, ignore) for keep in keeps]
    while pending:
        group, pending = take_group(pending)
        groups.append([(write.run_key, write.epoch) for write, _ in group if isinstance(write, Keep)])

    assert [[(7, 0), (8, 1), (9, 3)], [(7, 2), (8, 5)], [(7, 4)]] == groups
