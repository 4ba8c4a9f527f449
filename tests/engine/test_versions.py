"""
Versions of one workflow side by side: a run that began on one is driven by that one and no other.
"""

from __future__ import annotations

import asyncio

import pytest

import everstep as es
from tests.engine.support import World, kill, turns

HOUR = 3600.0


@es.step
async def note(text: str) -> str:
    return text


@es.workflow(name="checkout", version="1")
async def checkout_v1(order_id: str) -> str:
    await asyncio.sleep(HOUR)
    return await note(f"{order_id} on 1")


@es.workflow(name="checkout", version="2")
async def checkout_v2(order_id: str) -> str:
    await note("checked")
    await asyncio.sleep(HOUR)
    return await note(f"{order_id} on 2")


@es.workflow(name="checkout")
async def checkout_of_old(order_id: str) -> str:
    await asyncio.sleep(HOUR * 2)
    return await note(f"{order_id} of old")


async def test_one_engine_drives_several_versions_each_run_on_its_own(world: World) -> None:
    engine = await world.engine(checkout_v1, checkout_v2)
    first = await engine.start(checkout_v1("42"), id="a")
    second = await engine.start(checkout_v2("42"), id="b")
    await turns()
    kill(engine)
    engine = await world.engine(checkout_v1, checkout_v2)

    assert "42 on 1" == await engine.handle(first.run_id, checkout_v1).result()
    assert "42 on 2" == await engine.handle(second.run_id, checkout_v2).result()
    assert ["1", "2"] == [(await world.record(run_id)).pinned for run_id in ("a", "b")]


@pytest.mark.parametrize("others", [(checkout_v2,), (checkout_of_old,), (checkout_v2, checkout_of_old)])
async def test_a_pinned_run_waits_for_a_worker_with_its_version(
    world: World, others: tuple[es.Workflow[[str], str], ...]
) -> None:
    """Nobody tries: it is not even paused."""
    engine = await world.engine(checkout_v1)
    await engine.start(checkout_v1("42"), id="a")
    await turns()
    await engine.close()
    await world.engine(*others)
    await asyncio.sleep(HOUR * 5)
    waiting = await world.record("a")
    assert (es.Status.WAITING, None) == (waiting.status, waiting.worker_key)

    right = await world.engine(checkout_v1)

    assert "42 on 1" == await right.handle("a", checkout_v1).result()
    assert HOUR * 5 == pytest.approx(world.seconds, abs=1)


async def test_a_run_without_a_version_is_driven_by_the_code_that_it_began_on(world: World) -> None:
    """Although versions of the name have been added since, and stand last."""
    engine = await world.engine(checkout_of_old)
    await engine.start(checkout_of_old("42"), id="a")
    await turns()
    await engine.close()

    both = await world.engine(checkout_of_old, checkout_v1, checkout_v2)

    assert "42 of old" == await both.handle("a", checkout_of_old).result()
    assert "" == (await world.record("a")).pinned


async def test_any_code_of_the_name_may_try_a_run_without_a_version_until_one_fits(world: World) -> None:
    """The newest first; each that does not fit says so in the journal, and the next one tries at once."""

    @es.workflow(name="checkout", version="3")
    async def like_of_old(order_id: str) -> str:
        await asyncio.sleep(HOUR * 2)
        return await note(f"{order_id} like of old")

    engine = await world.engine(checkout_of_old)
    await engine.start(checkout_of_old("42"), id="a")
    await turns()
    await engine.close()
    several = await world.engine(like_of_old, checkout_v1, checkout_v2)

    await asyncio.sleep(HOUR * 3)

    assert es.Status.SUCCEEDED is (await world.record("a")).status
    assert "42 like of old" == await several.handle("a", like_of_old).result()
    paused = [event for event in await world.events("a") if "matches its journal" in str(getattr(event, "reason", ""))]
    assert 2 == len(paused)


async def test_changed_code_under_the_same_version_is_refused_and_the_right_code_goes_on(world: World) -> None:
    """The replay check stands behind the pin: a version is only a name."""

    @es.workflow(name="checkout", version="1")
    async def not_quite(order_id: str) -> str:
        return await note(order_id)

    engine = await world.engine(checkout_v1)
    await engine.start(checkout_v1("42"), id="a")
    await turns()
    await engine.close()
    wrong = await world.engine(not_quite)
    await asyncio.sleep(HOUR * 2)
    with pytest.raises(es.RunPaused, match=r"requested: step note"):
        await wrong.handle("a").result()

    right = await world.engine(checkout_v1)

    assert "42 on 1" == await right.handle("a", checkout_v1).result()


async def test_children_are_pinned_to_the_version_that_was_called(world: World) -> None:
    @es.workflow
    async def parent() -> list[str]:
        return [await checkout_v1("1"), await es.start(checkout_v2("2"))]

    engine = await world.engine(parent)

    assert ["1 on 1", "2 on 2"] == await (await engine.start(parent(), id="p")).result()
    assert ["1", "2"] == [(await world.record(f"p/0:{n}")).pinned for n in (1, 2)]


async def test_a_start_joins_whatever_version_the_run_is_on(world: World) -> None:
    """The id says which run; deploying a new version starts no second one."""
    engine = await world.engine(checkout_v1, checkout_v2)
    await engine.start(checkout_v1("42"), id="a")
    joined = await engine.start(checkout_v2("42"), id="a")

    assert "42 on 1" == await joined.result()
