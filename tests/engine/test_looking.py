"""What can be seen of a run from outside: how far it is, what its attempts came to, and what changed between two versions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import everstep as es
from everstep.records import ErrorRecord, Micros
from tests.engine.support import World, kill, turns

BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
cart = es.state("cart", dict[str, int])


@es.step(retry=es.Retry(attempts=5, delay=100, factor=2, max_delay=1000, jitter=0))
async def charge(cents: int) -> str:
    raise ConnectionError(f"503 for {cents}")


@es.step
async def reserve(item: str) -> str:
    return item


@es.workflow
async def checkout(cents: int) -> str:
    await reserve("pear")
    return await charge(cents)


@es.workflow
async def parent(cents: int) -> str:
    return await checkout(cents)


@es.workflow
async def shopping() -> None:
    cart.set({"pear": 1, "fig": 2})
    await reserve("pear")
    cart.set({"pear": 3, "plum": 4})


def at(micros: Micros) -> datetime:
    return BEGIN + timedelta(microseconds=micros)


async def test_progress_tells_which_attempt_is_next_when_and_why(world: World) -> None:
    engine = await world.engine(checkout)
    began = at(world.store.now())
    handle = await engine.start(checkout(5), id="a")
    await asyncio.sleep(150)

    progress = await handle.progress()

    assert ("a", "checkout", "charge", 2, began) == (
        progress.run_id,
        progress.workflow,
        progress.step,
        progress.cursor,
        progress.since,
    )
    [step] = progress.open_steps
    assert ("charge", 3, 2, 5, "") == (step.name, step.attempt, step.failures, step.failures_max, step.child_run_id)
    assert ErrorRecord("ConnectionError", "503 for 5") == step.error
    assert began + timedelta(seconds=300) == step.due_at
    assert step.due_at == progress.wake_at, "the run is parked until then"
    assert es.Status.WAITING is progress.status


async def test_a_takeover_forgets_neither_failures_nor_their_reason(world: World) -> None:
    first = await world.engine(checkout)
    handle = await first.start(checkout(5), id="a")
    await asyncio.sleep(50)
    before = (await handle.progress()).open_steps
    kill(first)
    second = await world.engine(checkout)
    await turns()

    after = (await second.handle("a").progress()).open_steps

    assert before == after
    assert (2, 1) == (after[0].attempt, after[0].failures)


async def test_what_is_not_between_attempts_is_open_all_the_same(world: World) -> None:
    """A child, and a step that nothing has been kept of."""
    client = await world.client()
    handle = await client.start(parent(5), id="p")
    queued = await handle.progress()
    engine = await world.engine(parent, checkout)
    await turns()
    waiting = await engine.handle("p").progress()

    assert ((), "", 0) == (queued.open_steps, queued.step, queued.cursor)
    assert [("checkout", "p/0:1", 1, None)] == [
        (each.name, each.child_run_id, each.attempt, each.error) for each in waiting.open_steps
    ]


async def test_a_run_at_rest_has_nothing_open(world: World) -> None:
    engine = await world.engine(checkout)
    handle = await engine.start(checkout(5), id="a")
    with pytest.raises(es.RunFailed):
        await handle.result()

    progress = await handle.progress()

    assert (es.Status.FAILED, "", (), None) == (progress.status, progress.step, progress.open_steps, progress.wake_at)
    assert at((await world.record("a")).updated_at) == progress.since


async def test_diff_tells_what_changed_between_two_versions(world: World) -> None:
    engine = await world.engine(shopping)
    handle = await engine.start(shopping(), id="a")
    await handle.result()

    forth, back, nothing = await handle.diff(1, 2), await handle.diff(2, 1), await handle.diff(2)

    assert [
        ("removed", ("cart", "fig"), 2, None),
        ("changed", ("cart", "pear"), 1, 3),
        ("added", ("cart", "plum"), None, 4),
    ] == [(change.kind, change.path, change.old, change.new) for change in forth]
    assert {change.path for change in forth} == {change.path for change in back}
    assert [] == nothing
    with pytest.raises(es.UsageError, match="its versions are 1 to 2"):
        await handle.diff(1, 3)
