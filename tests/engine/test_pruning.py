"""Forgetting runs: what goes, what stays, and that a later run of the same id knows nothing of the earlier one (E4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

import everstep as es
from everstep.client import Client
from everstep.engine.engine import Engine
from everstep.stores.sqlite.store import SQLiteStore
from tests.engine.support import World, turns

done: list[str] = []
word = es.signal("word", str)


@es.step
async def charge(order_id: str) -> str:
    done.append(order_id)
    return f"receipt {len(done)}"


@es.workflow
async def checkout(order_id: str) -> str:
    return await charge(order_id)


@es.workflow
async def listen() -> str:
    return await word.wait()


@es.workflow
async def family(order_id: str) -> str:
    receipt = await checkout(order_id)
    await asyncio.sleep(100)
    return receipt


@pytest.fixture(autouse=True)
def forget() -> None:
    done.clear()


async def test_a_later_run_of_the_same_id_uses_nothing_of_the_earlier_one(world: World) -> None:
    engine = await world.engine(checkout, listen)
    first = await engine.start(checkout("42"), id="a")
    assert "receipt 1" == await first.result()
    before = await world.record("a")
    await asyncio.sleep(10)

    pruned = await engine.prune(timedelta(seconds=5))
    second = await engine.start(checkout("other arguments"), id="a")

    assert "receipt 2" == await second.result(), "the same id, other arguments: it is another run, and its steps are executed"
    after = await world.record("a")
    assert (1, {}) == (pruned.run_count, pruned.kept)
    assert before.run_key != after.run_key
    assert before.hash != after.hash
    assert ["42", "other arguments"] == done


async def test_a_message_that_was_deduplicated_reaches_the_later_run(world: World) -> None:
    """What was known of the earlier run's messages went with it."""
    engine = await world.engine(listen)
    for expected in ("one", "two"):
        handle = await engine.start(listen(), id="a")
        await handle.send(word, expected, key="once")
        assert expected == await handle.result()
        await asyncio.sleep(1)
        await engine.prune(timedelta(0))

    with pytest.raises(es.RunNotFound):
        await engine.handle("a").status()


async def test_a_child_is_not_executed_again_because_it_was_pruned(world: World) -> None:
    """While its parent is at work it stays; afterwards both go."""
    engine = await world.engine(family, checkout)
    handle = await engine.start(family("42"), id="a")
    await asyncio.sleep(50)

    at_work = await engine.prune(timedelta(0))
    assert "receipt 1" == await handle.result()
    await asyncio.sleep(1)
    at_rest = await engine.prune(timedelta(0), dry_run=True)
    both = await engine.prune(timedelta(0))

    assert (0, {es.Kept.PARENT: 1}) == (at_work.run_count, at_work.kept)
    assert (2, {}) == (both.run_count, both.kept)
    assert at_rest == both
    assert ["42"] == done


async def test_many_runs_are_pruned_in_batches_beside_a_worker_that_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "state.db"
    async with Engine(SQLiteStore(store), [checkout]) as engine, Client(SQLiteStore(store)) as client:
        handles = [await engine.start(checkout(f"{number}"), id=f"order-{number}") for number in range(250)]
        await asyncio.gather(*(handle.result() for handle in handles))
        pruning = asyncio.create_task(client.prune(timedelta(0)))
        late = [await engine.start(checkout(f"{number}"), id=f"late-{number}") for number in range(50)]
        await asyncio.gather(*(handle.result() for handle in late))
        pruned = await pruning
        await turns()

        assert 250 <= pruned.run_count <= 300
        assert 300 - pruned.run_count == len(await client.list(limit=1000))
        assert pruned.run_count * 2 == pruned.entry_count


@pytest.mark.parametrize("status", ["running", es.Status.PAUSED])
async def test_runs_at_work_cannot_be_pruned(status: str, world: World) -> None:
    client = await world.client()

    with pytest.raises(es.UsageError, match=f"cannot prune runs that are {status}"):
        await client.prune(timedelta(days=1), statuses=[status])
    with pytest.raises(es.UsageError, match="and an age of 0 or more"):
        await client.prune(timedelta(days=-1))
    with pytest.raises(ValueError, match="no-such-status"):
        await client.prune(timedelta(days=1), statuses=["no-such-status"])
