"""
Children with options, on a store: what becomes of them when their parent ends, who reaches them, and under which id.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import everstep as es
from everstep.core.starting import first_event
from everstep.events import ChildAccepted, ChildRefused, ChildSucceeded
from tests.engine.support import World, is_in_memory, kill, link, turns, until

HOUR = 3600.0
word = es.signal("word", str)
cleaned: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    cleaned.clear()


@es.step
async def note(text: str) -> str:
    cleaned.append(text)
    return text


@es.workflow
async def child(name: str, seconds: float = HOUR) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await note(f"{name} cleaned up")
        raise
    return name


@es.workflow
async def listener() -> str:
    return await word.wait()


@es.workflow
async def parent(policy: Any, ends: str) -> str:
    es.start(child("c"), on_parent_close=policy)
    await asyncio.sleep(10)
    if ends == "raises":
        raise ValueError("no")
    if ends == "waits":
        await asyncio.sleep(HOUR * 24)
    return "done"


async def ended(engine: es.Engine, run_id: str) -> str:
    """How a run came to rest."""
    try:
        await engine.handle(run_id).result()
    except es.RunError as error:
        return type(error).__name__
    return "succeeded"


CHILD = "p/0:1"


# --- the parent's code is finished first ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ends", "how"), [("returns", "succeeded"), ("raises", "RunFailed"), ("cancel", "RunCancelled")])
async def test_a_child_is_asked_to_stop_with_the_end_of_its_parent_however_that_ends(world: World, ends: str, how: str) -> None:
    """By default: nobody would get its result. The parent does not wait for it."""
    engine = await world.engine(parent)
    handle = await engine.start(parent("cancel", ends), id="p")
    if ends == "cancel":
        await turns()
        await handle.cancel()

    assert how == await ended(engine, "p")
    assert world.seconds < 11
    assert "RunCancelled" == await ended(engine, CHILD)
    assert ["c cleaned up"] == cleaned


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_a_child_can_go_on_by_itself(world: World, ends: str) -> None:
    engine = await world.engine(parent)
    await engine.start(parent("abandon", ends), id="p")
    await ended(engine, "p")

    assert world.seconds < 11
    assert "c" == await engine.handle(CHILD, child).result()
    assert HOUR <= world.seconds


@pytest.mark.parametrize(("ends", "how"), [("returns", "succeeded"), ("raises", "RunFailed")])
async def test_a_run_can_wait_for_its_children(world: World, ends: str, how: str) -> None:
    """It costs no memory meanwhile."""
    engine = await world.engine(parent)
    await engine.start(parent("wait", ends), id="p")
    await asyncio.sleep(60)
    assert not is_in_memory(engine, "p")
    assert es.Status.WAITING is (await world.record("p")).status

    assert how == await ended(engine, "p")
    assert HOUR <= world.seconds
    assert "succeeded" == await ended(engine, CHILD)


async def test_a_cancel_stops_the_children_that_a_run_waits_for(world: World) -> None:
    engine = await world.engine(parent)
    handle = await engine.start(parent("wait", "returns"), id="p")
    await asyncio.sleep(60)
    await handle.cancel("enough")

    assert "RunCancelled" == await ended(engine, "p")
    assert ["c cleaned up"] == cleaned
    assert world.seconds < 61


async def test_a_run_that_is_given_up_takes_its_children_with_it(world: World) -> None:
    """There is no code left that could ask them."""

    @es.workflow(max_recoveries=0)
    async def doomed() -> None:
        es.start(child("c"))
        await asyncio.sleep(0.5)

    kids = await world.engine(child)
    first = await world.engine(doomed, concurrency=1)
    await first.start(doomed(), id="p")
    await until(lambda: is_in_memory(kids, CHILD) or world.seconds > 0.1)
    kill(first)
    second = await world.engine(doomed, concurrency=1)

    assert "RunDead" == await ended(second, "p")
    assert "RunCancelled" == await ended(kids, CHILD)


async def test_children_of_children_stop_too(world: World) -> None:
    @es.workflow
    async def middle() -> str:
        return await es.start(child("c"), cancellation="wait")

    @es.workflow
    async def top() -> None:
        es.start(middle())
        await asyncio.sleep(10)

    engine = await world.engine(top)
    await engine.start(top(), id="p")

    assert ["succeeded", "RunCancelled", "RunCancelled"] == [await ended(engine, run) for run in ("p", CHILD, f"{CHILD}/0:1")]


async def test_continuing_as_new_is_the_end_of_the_code_too(world: World) -> None:
    """What follows knows nothing of the children before it."""

    @es.workflow
    async def rounds(left: int, policy: Any) -> str:
        es.start(child(f"{left}", 100), on_parent_close=policy)
        if left:
            es.continue_as_new(rounds(left - 1, policy))
        return "done"

    engine = await world.engine(rounds)
    for policy in ("cancel", "wait"):
        await engine.start(rounds(1, policy), id=policy)
        await ended(engine, policy)

    assert ["RunCancelled"] * 2 == [await ended(engine, f"cancel/{key}") for key in ("0:1", "1:1")]
    assert ["succeeded"] * 2 == [await ended(engine, f"wait/{key}") for key in ("0:1", "1:1")]
    assert world.seconds == pytest.approx(200, abs=1)


# --- ids ------------------------------------------------------------------------------------------------------------------


@es.workflow
async def naming(run_id: str, *, impatient: bool = False) -> str:
    handle = es.start(listener(), id=run_id)
    if impatient:
        handle.send(word, "not for you")
        handle.cancel()
    try:
        await handle.started()
    except es.RunConflict as error:
        return str(error)
    return await handle


async def test_a_child_can_be_found_under_an_id_of_its_own(world: World) -> None:
    engine = await world.engine(naming)
    handle = await engine.start(naming("the-child"), id="p")
    await turns()
    await engine.handle("the-child").send(word, "hello")

    assert "hello" == await handle.result()
    assert "p" == first_event((await world.record("the-child")).created).parent_run_id
    assert [ChildAccepted, ChildSucceeded] == [
        type(e) for e in await world.events("p") if isinstance(e, ChildAccepted | ChildSucceeded)
    ]


@pytest.mark.parametrize("impatient", [False, True])
async def test_an_id_that_is_taken_is_refused_and_its_run_is_left_alone(world: World, *, impatient: bool) -> None:
    """Neither a cancel nor a signal reaches it, though they were asked for before anybody could know."""
    engine = await world.engine(naming, listener)
    stranger = await engine.start(listener(), id="taken")
    await turns()

    said = await (await engine.start(naming("taken", impatient=impatient), id="p")).result()

    assert said.startswith("child listener of run p was not started: the id taken belongs to a run")
    assert 1 == len([e for e in await world.events("p") if isinstance(e, ChildRefused)])
    await stranger.send(word, "for me")
    assert "for me" == await stranger.result()


async def test_a_worker_for_one_family_drives_its_children_whatever_ids_they_have(world: World) -> None:
    """What es.run makes."""

    @es.workflow
    async def grandparent() -> str:
        return await es.start(naming("deep"), id="middle")

    other = await world.client()
    await other.start(listener(), id="stranger")
    engine = await world.engine(grandparent, only="p")
    handle = await engine.start(grandparent(), id="p")
    await turns(40)
    await engine.handle("deep").send(word, "hello")

    assert "hello" == await handle.result()
    assert es.Status.QUEUED is (await world.record("stranger")).status


# --- options, talking, dying ----------------------------------------------------------------------------------------------


async def test_options_go_to_the_child(world: World) -> None:
    @es.workflow(tags={"team": "shop", "kind": "plain"})
    async def tagged() -> None:
        await asyncio.sleep(HOUR)

    @es.workflow
    async def starter() -> str:
        try:
            await es.start(tagged(), tags={"kind": "special"}, timeout=60)
        except es.RunFailed as error:
            return f"{error.__cause__}"
        return "not reached"

    engine = await world.engine(starter)

    assert "time limit" in await (await engine.start(starter(), id="p")).result()
    created = first_event((await world.record(CHILD)).created)
    assert {"team": "shop", "kind": "special"} == created.tags
    assert world.seconds == pytest.approx(60, abs=0.1)


async def test_a_parent_talks_to_its_child(world: World) -> None:
    """Once, whoever drives them, and however often the parent's code is replayed."""

    @es.workflow
    async def talker() -> list[str]:
        handle = es.start(collector())
        for text in ("a", "b", "b", "c"):
            handle.send(word, text, key=text)
            await asyncio.sleep(10)
        return await handle

    @es.workflow
    async def collector() -> list[str]:
        return [await word.wait() for _ in range(3)]

    engine = await world.engine(talker, collector)
    handle = await engine.start(talker(), id="p")
    for _ in range(3):
        await asyncio.sleep(9)
        kill(engine)
        engine = await world.engine(talker, collector)
        handle = engine.handle("p", talker)

    assert ["a", "b", "c"] == await handle.result()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("skip", range(6))
async def test_a_brood_survives_a_kill_at_every_commit(world: World, skip: int, *, after: bool) -> None:
    """I13: each child exists iff the journal says so, and its result arrives once."""

    @es.workflow
    async def brood() -> list[str]:
        first = es.start(child("1", 5), id="named")
        second = es.start(child("2", 10))
        es.start(child("3", 15), on_parent_close="wait")
        await first.started()
        return list(await es.gather(first, second))

    engine = await world.engine(brood, child)
    link(engine).fail("commit", skip=skip, after=after)
    starting = asyncio.ensure_future(engine.start(brood(), id="p"))
    await asyncio.sleep(2)
    kill(engine)
    starting.cancel()
    second = await world.engine(brood, child)
    await second.start(brood(), id="p")

    assert ["1", "2"] == await second.handle("p", brood).result()
    children = [run.run_id for run in await second.list() if run.run_id != "p"]
    assert ["named", "p/0:2", "p/0:3"] == sorted(children)
    assert 3 == len([e for e in await world.events("p") if isinstance(e, ChildSucceeded)])


async def test_a_retried_parent_gets_the_outcome_of_a_child_that_ended_meanwhile(world: World) -> None:
    """The command is issued again; the child is not, and tells what it came to."""
    is_broken = True

    @es.step
    async def check() -> None:
        if is_broken:
            raise ValueError("broken")

    @es.workflow
    async def fragile() -> str:
        handle = es.start(child("c", 60), on_parent_close="abandon")
        await check()
        return await handle

    engine = await world.engine(fragile)
    handle = await engine.start(fragile(), id="p")
    assert "RunFailed" == await ended(engine, "p")
    assert "succeeded" == await ended(engine, CHILD)
    is_broken = False
    await handle.retry()

    assert "c" == await handle.result()
    assert world.seconds < 61


async def test_a_large_message_to_a_child_arrives_whole(world: World) -> None:
    """It is kept beside the journal of the one that sends it, and is sent as it is."""
    text = "long " * 50_000

    @es.workflow
    async def sender() -> int:
        handle = es.start(listener())
        handle.send(word, text)
        await asyncio.sleep(10)
        return len(await handle)

    engine = await world.engine(sender)
    await engine.start(sender(), id="p")
    await turns()
    kill(engine)
    second = await world.engine(sender, listener)

    assert len(text) == await second.handle("p", sender).result()
