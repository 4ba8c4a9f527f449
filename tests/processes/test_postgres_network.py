"""
What a network does to workers on PostgreSQL: connections cut again and again under work, a partition beyond the lease that
heals, writes that arrive late.

All engines are in this process, each with a store of its own; the broken ones reach the server through a proxy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import pytest

import everstep as es
from everstep.client import HistoryEntry
from everstep.events import RunResumed, RunSucceeded, StepCompleted
from tests import evidence
from tests.postgres_proxy import DIRECTIONS, Direction, Proxy

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

LEASE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
happened: list[str] = []
effects: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _forget() -> None:
    happened.clear()
    effects.clear()


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(postgres_url) as proxy:
        yield proxy
        proxy.heal()


@es.step
async def count(name: str) -> str:
    effects[es.current().idempotency_key] += 1
    return name


@es.step
async def works(name: str) -> str:
    """The first attempt waits until somebody says so; it tells when it begins, and how it ends."""
    attempt = es.current().attempt
    happened.append(f"{attempt} begins")
    try:
        while attempt == 1 and "go on" not in happened:  # noqa: ASYNC110  # whoever says so is no task of this loop's step
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        happened.append(f"{attempt} is stopped")
        raise
    happened.append(f"{attempt} ends")
    return f"{name} {attempt}"


@es.workflow
async def counts(name: str, steps: int) -> str:
    for n in range(steps):
        await count(f"{name}-{n}")
    await asyncio.gather(*(count(f"{name}-together-{n}") for n in range(3)))
    return name


@es.workflow
async def job(name: str) -> str:
    await count(f"{name} first")
    worked = await works(name)
    await count(f"{name} last")
    return worked


async def history(client: es.Client, run_id: str) -> list[HistoryEntry]:
    """Verified."""
    return await client.handle(run_id).history()


async def soon(condition: str) -> None:
    """Bodies are executed in this loop, and say what they do."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while condition not in happened:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- cuts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_worker_whose_connections_are_cut_again_and_again_finishes_its_work(
    proxy: Proxy, postgres_url: str, reset: bool
) -> None:
    """B1, B2: at random bytes of everything that it says and hears. No step is executed twice: it never lost its lease."""
    dice = Random(7)
    run_ids = [f"order-{n}" for n in range(evidence.amount(10, 200))]

    async def cut_for_ever() -> None:
        while proxy.cuts < evidence.amount(20, 400):
            if not proxy.is_armed:
                # A new connection costs 2,000 bytes by itself: without longer stretches nothing would ever be said.
                proxy.cut(dice.choice(DIRECTIONS), dice.choice((0, 2000, 8000, 20_000)) + dice.randrange(2000), reset=reset)
            await asyncio.sleep(0.005)

    engine = es.Engine(proxy.url, workflows=[counts], lease=600)
    await engine.open()
    handles = [await engine.start(counts(run_id, 5), id=run_id) for run_id in run_ids]
    cutting = asyncio.create_task(cut_for_ever())
    async with asyncio.timeout(evidence.amount(60, 1200)):
        done, _ = await asyncio.wait([asyncio.ensure_future(persistently(handle)) for handle in handles])
    cutting.cancel()
    await asyncio.wait([cutting])
    proxy.mend()
    await engine.close()

    assert sorted(run_ids) == sorted(each.result() for each in done)
    assert {1} == set(effects.values())
    assert 8 * len(run_ids) == len(effects)
    async with es.Client(postgres_url) as client:
        for run_id in run_ids:
            events = [event for entry in await history(client, run_id) for event in entry.events]
            assert 8 == sum(isinstance(event, StepCompleted) for event in events)
            assert 1 == sum(isinstance(event, RunSucceeded) for event in events)
    evidence.note("connections cut at random bytes under a worker at work", proxy.cuts)
    assert proxy.cuts > 0


async def persistently(handle: es.Handle[str]) -> str:
    """The result: whoever asks is told that the store is away, and asks again."""
    while True:
        try:
            return await handle.result()
        except es.StoreUnavailable:
            await asyncio.sleep(0.01)


# --- a partition ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [("up", "down"), ("up",), ("down",)], ids=["both", "up", "down"])
async def test_a_worker_behind_a_partition_stops_before_its_run_goes_on_elsewhere(
    proxy: Proxy, postgres_url: str, ways: tuple[Direction, ...]
) -> None:
    """C1, C2: nobody tells it anything. It stops by its own clock, another takes over by the server's, and what it sends
    when the partition heals has no effect."""
    cut_off = es.Engine(proxy.url, workflows=[job], lease=LEASE_SECONDS)
    await cut_off.open()
    await cut_off.start(job("a"), id="a")
    await soon("1 begins")
    proxy.part(*ways)

    async with es.Engine(postgres_url, workflows=[job], lease=LEASE_SECONDS) as healthy:
        result = await healthy.handle("a", job).result(timeout=PATIENCE_SECONDS)
        before = await history(healthy, "a")
        proxy.heal()
        happened.append("go on")
        handle = await cut_off.start(job("b"), id="b")
        assert "b 1" == await handle.result(timeout=PATIENCE_SECONDS)
        after = await history(healthy, "a")
    await cut_off.close()

    assert "a 2" == result
    assert ["1 begins", "1 is stopped", "2 begins", "2 ends"] == happened[:4]
    assert before == after
    events = [event for entry in after for event in entry.events]
    assert ["lease expired"] == [event.why for event in events if isinstance(event, RunResumed)]
    evidence.note("partitions beyond a lease, healed")


async def test_a_commit_that_arrives_after_the_takeover_is_refused(proxy: Proxy, postgres_url: str) -> None:
    """C1: the step ended in time, its entry was on its way, and the network held it back until somebody else had the run."""
    late = es.Engine(proxy.url, workflows=[job], lease=LEASE_SECONDS)
    await late.open()
    await late.start(job("a"), id="a")
    await soon("1 begins")
    proxy.part("up")
    happened.append("go on")
    await soon("1 ends")

    async with es.Engine(postgres_url, workflows=[job], lease=LEASE_SECONDS) as healthy:
        result = await healthy.handle("a", job).result(timeout=PATIENCE_SECONDS)
        before = await history(healthy, "a")
        proxy.heal()
        assert "b 1" == await (await late.start(job("b"), id="b")).result(timeout=PATIENCE_SECONDS)
        assert before == await history(healthy, "a")
    await late.close()

    assert "a 2" == result
    assert [b'"a first"', b'"a 2"', b'"a last"'] == [
        bytes(event.result) for event in events_of(before) if isinstance(event, StepCompleted)
    ]


async def test_a_worker_that_only_loses_its_seat_keeps_its_runs(proxy: Proxy, postgres_url: str) -> None:
    """Its connections are cut, it comes back within the second that proves a death: nobody takes anything from it."""
    engine = es.Engine(proxy.url, workflows=[job], lease=600)
    await engine.open()
    handle = await engine.start(job("a"), id="a")
    await soon("1 begins")
    async with es.Engine(postgres_url, workflows=[job], lease=600) as other:
        for _ in range(3):
            proxy.cut_all()
            while (await seat_of_owner(other)) != "held":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        happened.append("go on")
        assert "a 1" == await handle.result(timeout=PATIENCE_SECONDS)
        assert [] == [event for event in events_of(await history(other, "a")) if isinstance(event, RunResumed)]
    await engine.close()


async def seat_of_owner(client: es.Client) -> str:
    (owner,) = [each for each in await client.workers() if each.run_count]
    return owner.lock


def events_of(entries: list[HistoryEntry]) -> list[object]:
    return [event for entry in entries for event in entry.events]
