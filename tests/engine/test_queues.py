"""Queues, as programs use them: I16, and that nothing stands still that may go on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from everstep.children import start
from everstep.client import Handle
from everstep.definitions import step, workflow
from everstep.engine.engine import Engine
from everstep.errors import RunCancelled, RunConflict, UsageError
from everstep.inside import current
from everstep.limits import Limits
from everstep.queues import queue
from everstep.records import Status
from everstep.stores.sqlite import SQLiteStore
from tests.engine.support import World, a_world, kill, turns

mail = queue("mail", concurrency=2)
keyed = queue("keyed", per_key=1)
slow = queue("slow", rate=(2, 60))
urgent = queue("urgent", concurrency=1, priority=True)
once = queue("once", dedupe=True)
single = queue("single", concurrency=1)
per_worker = queue("per_worker", per_worker=1)

log: list[str] = []
at_work: Counter[str] = Counter()
most: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()
    at_work.clear()
    most.clear()


@step
async def send(what: str, group: str) -> str:
    at_work[group] += 1
    most[group] = max(most[group], at_work[group])
    log.append(what)
    try:
        await asyncio.sleep(1)
    finally:
        at_work[group] -= 1
    return what


@workflow
async def letter(what: str, group: str = "all") -> str:
    first = await send(what, group)
    await asyncio.sleep(5)
    return first


@workflow
async def child(what: str) -> str:
    return await send(what, "child")


@workflow
async def parent(what: str) -> list[str]:
    children = [start(child(f"{what}-{number}"), queue=mail) for number in range(4)]
    return [await each for each in children]


@workflow
async def selfish() -> str:
    return await start(child("never"), queue=single)


@workflow
async def nap() -> str:
    await asyncio.sleep(3600)
    return current().run_id


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as one:
        yield one


async def test_a_limited_queue_is_worked_off_by_all_workers_within_its_limit(world: World) -> None:
    """Whoever makes room wakes whoever waits: itself, and others."""
    engines = [await world.engine(letter) for _ in range(3)]

    handles = [await engines[0].start(letter(str(number)), id=f"l{number}", queue=mail) for number in range(12)]
    results = [await handle for handle in handles]

    assert [str(number) for number in range(12)] == results
    assert 2 == most["all"]
    assert 36 <= world.seconds < 40  # two at a time, six seconds each: nobody lingers


async def test_runs_of_one_key_go_one_after_the_other_in_the_order_of_their_start(world: World) -> None:
    """And those of another key beside them."""
    engine = await world.engine(letter)
    other = await world.engine(letter)

    handles = [await engine.start(letter(f"{key}{n}", key), queue=keyed, key=key) for n in range(4) for key in "ab"]
    await asyncio.gather(*handles)

    assert {"a": 1, "b": 1} == most
    assert [f"a{n}" for n in range(4)] == [each for each in log if each.startswith("a")]
    assert world.seconds < 30
    assert [] == [each for each in await other.queues() if each.admitted_count or each.waiting_count]


async def test_a_rate_spreads_the_beginnings(world: World) -> None:
    """Two a minute: the fifth begins after two minutes, without anybody asking."""
    engine = await world.engine(letter)

    handles = [await engine.start(letter(str(number)), queue=slow) for number in range(5)]
    await asyncio.gather(*handles)

    assert 120 <= world.seconds < 130


async def test_lower_priorities_go_first(world: World) -> None:
    """Among those that wait."""
    engine = await world.engine(letter)
    await engine.pause_queue("urgent")
    handles = [await engine.start(letter(str(number)), queue=urgent, priority=number) for number in (5, 0, 2, -1)]

    await engine.resume_queue(urgent)
    await asyncio.gather(*handles)

    assert ["-1", "0", "2", "5"] == log


async def test_a_dedupe_key_joins_the_run_that_is_there(world: World) -> None:
    """The handle is that run's; with other arguments it is a conflict; once it is over, a new run begins."""
    engine = await world.engine(letter)

    first = await engine.start(letter("a"), id="first", queue=once, key="k")
    joined = await engine.start(letter("a"), id="second", queue=once, key="k")
    with pytest.raises(RunConflict, match="run first exists already and was started differently"):
        await engine.start(letter("b"), queue=once, key="k")
    with pytest.raises(RunConflict):
        await engine.start(letter("a"), queue=once, key="k", on_conflict="raise")
    await first
    again = await engine.start(letter("b"), id="third", queue=once, key="k")

    assert ("first", "third") == (joined.run_id, again.run_id)
    assert ("a", "b") == (await joined, await again)
    assert ["a", "b"] == log


async def test_a_run_may_be_delayed_in_a_queue_and_without_one(world: World) -> None:
    """By a time, or until one."""
    engine = await world.engine(letter)
    at = datetime.fromtimestamp(world.store.now() / 1e6, UTC) + timedelta(seconds=100)

    handles = [
        await engine.start(letter("a"), queue=mail, delay=50),
        await engine.start(letter("b"), at=at),
        await engine.start(letter("c"), queue=mail, at=datetime(2000, 1, 1, tzinfo=UTC)),
    ]
    await asyncio.gather(*handles)

    assert ["c", "a", "b"] == log
    assert 106 <= world.seconds < 107


async def test_children_wait_in_their_queue(world: World) -> None:
    """Their parent holds no place in it."""
    engine = await world.engine(parent)
    await world.engine(parent)

    handle = await engine.start(parent("p"), id="p")

    assert [f"p-{number}" for number in range(4)] == await handle
    assert 2 == most["child"]
    assert Limits(concurrency=2) == (await engine.queues())[0].declared  # The code of the workflow names it.


async def test_a_queue_that_is_paused_or_changed_acts_at_once(world: World) -> None:
    """Also on workers that are asleep."""
    engine, client = await world.engine(letter), await world.client()
    await client.pause_queue(mail, "provider is down", actor="ann")
    handles = [await client.start(letter(str(number)), queue=mail) for number in range(4)]
    await asyncio.sleep(100)
    assert [] == log

    await client.set_queue("mail", Limits(concurrency=4), actor="ann")
    await client.resume_queue("mail")
    await asyncio.gather(*handles)

    assert 4 == most["all"]
    assert world.seconds < 107
    assert [None] == [each.opens_at for each in await engine.queues()]


async def test_a_run_in_line_is_cancelled_without_waiting_for_its_turn(world: World) -> None:
    """It has not begun, so there is nothing to clean up."""
    engine = await world.engine(letter)
    await engine.pause_queue(mail)
    handle = await engine.start(letter("a"), queue=mail)

    assert await handle.cancel("changed my mind")

    with pytest.raises(RunCancelled, match="changed my mind"):
        await handle
    assert [] == log
    assert not await handle.cancel()


async def test_a_worker_that_serves_a_queue_takes_nothing_else(world: World) -> None:
    """Neither new runs nor those that wake up; and the others wait for somebody who does."""
    client = await world.client()
    serving = await world.engine(letter, queues=["mail"])
    handles = [await client.start(letter(each), id=each, queue=each_queue) for each, each_queue in (("m", mail), ("k", keyed))]
    free = await client.start(letter("f"), id="f")
    await asyncio.sleep(60)
    assert ["m"] == log
    [why] = await free.why()
    assert ("no worker", "none of the 1 workers that are alive knows letter") == (why.kind, why.text)
    [why] = await handles[1].why()
    assert "none of the 1 workers that are alive knows letter and serves queue keyed" == why.text

    await world.engine(letter)

    assert ["m", "k", "f"] == [await handle for handle in (*handles, free)]
    assert serving is not None


async def test_per_worker_holds_for_each_worker(world: World) -> None:
    """And makes room when a run goes to sleep."""
    engines = [await world.engine(letter) for _ in range(2)]

    handles = [await engines[0].start(letter(str(number)), queue=per_worker) for number in range(6)]
    await asyncio.gather(*handles)

    assert 2 == most["all"]
    assert world.seconds < 10  # They sleep at the same time: a sleeping run is driven by nobody.


async def test_a_run_tells_what_it_waits_for(world: World) -> None:
    """With the evidence, and by when that is over."""
    engine = await world.engine(letter, nap)
    await engine.start(nap(), id="holder", queue=single)
    waiting = await engine.start(letter("a"), id="waiting", queue=single, delay=30)
    sleeping = engine.handle("holder")
    await turns()

    due, full = await waiting.why()
    await engine.pause_queue(single, "stop", actor="ann")
    _, paused, _ = await waiting.why()
    [asleep] = await sleeping.why()

    assert ("due", "concurrency", "queue paused", "due") == (due.kind, full.kind, paused.kind, asleep.kind)
    assert "queue single has 1 of 1 runs in progress: holder" == full.text
    assert ("holder",) == full.runs
    assert "queue single is paused by ann (stop)" == paused.text
    assert due.until is not None
    assert due.until == datetime.fromtimestamp((await world.record("waiting")).created_at / 1e6, UTC) + timedelta(seconds=30)


async def test_a_child_that_waits_for_the_place_of_its_parent_says_so(world: World) -> None:
    """Nobody can undo that knot but a person."""
    engine = await world.engine(selfish)
    await engine.start(selfish(), id="p", queue=single)
    await asyncio.sleep(1)
    [waiting] = [run for run in await engine.list() if run.is_in_line]

    [full] = await engine.handle(waiting.run_id).why()
    await engine.set_queue(single, Limits(concurrency=2))

    assert "One of them is p, which started this run" in full.text
    assert "never" == await engine.handle("p")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": "a"}, "no queue= was given"),
        ({"queue": mail, "priority": 1}, "Declare it with priority=True"),
        ({"queue": urgent, "priority": 1001}, "from -1000 to 1000"),
        ({"queue": once}, "no key= was given"),
        ({"queue": "mail"}, "is no queue"),
        ({"queue": keyed, "key": ""}, "1 to 200 printable"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "give one of them"),
        ({"at": datetime(2030, 1, 1)}, "has no time zone"),  # noqa: DTZ001
        ({"delay": -1}, "at least 0"),
    ],
)
async def test_a_start_that_makes_no_sense_is_refused(world: World, options: dict[str, object], says: str) -> None:
    """Before anything is stored."""
    engine = await world.engine(letter)

    with pytest.raises(UsageError, match=says):
        await engine.start(letter("a"), id="a", **options)  # type: ignore[arg-type]

    assert await world.store.get("a") is None


@pytest.mark.parametrize(
    "declared",
    [{"concurrency": 0}, {"per_key": True}, {"rate": (1, 0)}, {"rate": 5}, {"per_worker": 1.5}, {"name": "no blanks"}],
)
def test_a_queue_that_makes_no_sense_is_refused(declared: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        queue(**{"name": "mail", **declared})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
async def test_limits_hold_while_workers_die(world: World, seed: int) -> None:
    """I16: a storm of starts, kills and changes. What is at work is counted by the bodies themselves."""
    dice = random.Random(seed)
    both = queue("both", concurrency=3, per_key=1)
    engines: list[Engine] = [await world.engine(letter) for _ in range(3)]
    client = await world.client()
    handles: list[Handle[str]] = []
    for number in range(24):
        key = dice.choice("abcd")
        handles.append(await client.start(letter(str(number), key), id=f"r{number}", queue=both, key=key))
        await asyncio.sleep(dice.choice((0, 0.1, 2)))
        if dice.random() < 0.2:
            kill(engines.pop(0))
            at_work.clear()  # Bodies that were killed count no more, and those of others are counted by the store below.
            engines.append(await world.engine(letter))
        admitted = [run for run in await client.list(limit=1000) if run.is_admitted]
        assert len(admitted) <= 3
        assert max(Counter(run.queue_key for run in admitted).values(), default=0) <= 1

    results = [await client.handle(handle.run_id).result() for handle in handles]

    assert [str(number) for number in range(24)] == results
    assert [] == [run for run in await client.list(limit=1000) if run.is_admitted or run.status is not Status.SUCCEEDED]


async def test_queues_work_on_a_file(tmp_path: Path) -> None:
    """The same code, on SQLite and in real time."""
    quick = queue("quick", concurrency=2, per_key=1)

    @step
    async def note(what: str) -> str:
        at_work["all"] += 1
        most["all"] = max(most["all"], at_work["all"])
        await asyncio.sleep(0)
        at_work["all"] -= 1
        return what

    @workflow
    async def job(what: str) -> str:
        return await note(what)

    async with Engine(SQLiteStore(tmp_path / "a.db"), [job]) as engine:
        handles = [await engine.start(job(str(n)), queue=quick, key=str(n % 3)) for n in range(9)]
        assert [str(n) for n in range(9)] == await asyncio.gather(*handles)

    assert 1 <= most["all"] <= 2
