"""
A parked run that a message from this very process wakes: message and claim are one commit, its entry the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

import everstep as es
from everstep.engine.engine import Engine
from everstep.events import RunClaimed, RunResumed, SignalReceived
from everstep.journal import Entry
from everstep.records import Status
from everstep.stores.base import ClaimRequest, Claims, Store
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.connection import Connection
from tests.engine.support import FaultyStore, World, a_world, freeze, is_in_memory, kill, link, thaw, turns, until, worker_of

T = TypeVar("T")

word = es.signal("word", str)
bodies: list[str] = []


@es.step
async def said(text: str) -> str:
    bodies.append(text)
    return text.upper()


@es.workflow
async def listener(count: int) -> list[str]:
    return [await word.wait() for _ in range(count)]


@es.workflow
async def worker_bee(count: int) -> list[str]:
    return [await said(await word.wait()) for _ in range(count)]


@es.workflow
async def sleeper() -> str:
    await asyncio.sleep(3600)
    return "woken by nobody"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    bodies.clear()


class Counting(Connection):
    """Counts transactions that write: each is a commit."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.commit_count = 0

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        answer = await super().ask(verb, arguments, act)
        is_claim = isinstance(answer, Claims) and bool(answer.runs or answer.died)
        self.commit_count += is_claim or verb in {"commit", "post", "wake", "create", "settle", "transact"}
        return answer


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_parked_run_that_is_woken_ten_times_costs_two_commits_each(world: World, tmp_path: Path, kind: str) -> None:
    """One for the message with the claim, one for the entry that also parks it again."""
    inner: Store = world.store if kind == "memory" else SQLiteStore(tmp_path / "state.db")
    store = Counting(inner)
    async with Engine(store, [listener]) as engine:
        handle = await engine.start(listener(11), id="a")
        await until(lambda: not is_in_memory(engine, "a"))
        before = store.commit_count
        for number in range(10):
            await handle.send(word, str(number))
            await until(lambda: not is_in_memory(engine, "a"))

        assert 20 == store.commit_count - before
        await handle.send(word, "10")
        assert list(map(str, range(11))) == await handle.result()


async def test_a_wake_up_is_recorded_as_the_claim_that_it_is(world: World) -> None:
    """Who has the run, and since when, is in its journal: there is no owner without an entry."""
    engine = await world.engine(listener)
    handle = await engine.start(listener(2), id="a")
    await turns()
    before = await world.record("a")

    await handle.send(word, "hello")
    await turns()

    after = await world.record("a")
    claim, entry = (await world.entries("a"))[-2:]
    assert (before.epoch + 1, before.version + 2) == (after.epoch, after.version)
    assert (Status.WAITING, None) == (after.status, after.worker_key)
    assert ["RunClaimed"] == [type(event).__name__ for event in claim.decoded()]
    assert not claim.drained
    assert any(isinstance(event, SignalReceived) for event in entry.decoded())


async def test_whoever_woke_a_run_drives_its_steps(world: World) -> None:
    engine = await world.engine(worker_bee)
    handle = await engine.start(worker_bee(2), id="a")
    await turns()

    await handle.send(word, "one")
    await until(lambda: bodies == ["one"])
    await handle.send(word, "two")

    assert ["ONE", "TWO"] == await handle.result()
    assert ["one", "two"] == bodies


async def test_without_room_a_message_is_only_posted(world: World) -> None:
    """The run waits for its turn, as one that is claimed does."""
    engine = await world.engine(listener, worker_bee, concurrency=1)
    handle = await engine.start(listener(1), id="a")
    await turns()
    gate = asyncio.Event()

    @es.step
    async def busy() -> None:
        await gate.wait()

    @es.workflow
    async def occupant() -> None:
        await busy()

    other = await engine.start(occupant(), id="b")
    await turns()
    claims = link(engine).counts["wake"]

    await handle.send(word, "hello")

    await turns()
    assert claims == link(engine).counts["wake"]
    assert not is_in_memory(engine, "a")
    gate.set()
    await other.result()
    assert ["hello"] == await handle.result()


async def test_signals_that_follow_at_once_are_neither_lost_nor_mixed_up(world: World) -> None:
    """The first one claims the run; the others come while that is on its way, or while it is driven."""
    engine = await world.engine(worker_bee, inline=False)
    link(engine).fail("wake", delay=0.5, error=None)
    link(engine).fail("wake", delay=0.1, error=None)
    handle = await engine.start(worker_bee(6), id="a")
    await turns()

    await asyncio.gather(*(handle.send(word, str(number)) for number in range(6)))

    assert ["0", "1", "2", "3", "4", "5"] == sorted(await handle.result())
    messages = [event for event in await world.events("a") if isinstance(event, SignalReceived)]
    assert sorted(bodies) == ["0", "1", "2", "3", "4", "5"]
    assert [bytes(each.value) for each in messages] == [f'"{text}"'.encode() for text in bodies]


@pytest.mark.parametrize("after", [False, True])
async def test_a_wake_up_whose_answer_never_comes_strands_nothing(world: World, after: bool) -> None:
    """The sender does not know whether its signal was taken, and may repeat it; the run, if claimed, is given back."""
    engine = await world.engine(worker_bee)
    handle = await engine.start(worker_bee(1), id="a")
    await turns()
    link(engine).fail("wake", after=after)

    with pytest.raises(es.StoreUnavailable):
        await handle.send(word, "hello", key="m1")
    await handle.send(word, "hello", key="m1")

    assert ["HELLO"] == await handle.result()
    assert ["hello"] == bodies
    assert not any(isinstance(event, RunResumed) for event in await world.events("a"))


class Slow(FaultyStore):
    """Takes five seconds to answer to a wake-up that it has carried out."""

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        answer = await super().ask(verb, arguments, act)
        if verb == "wake":
            await asyncio.sleep(5)
        return answer


async def test_a_sender_that_gives_up_strands_nothing(world: World) -> None:
    """The run is claimed by then, and the sender's task is cancelled before it could be driven."""
    engine = await world.opened(Engine(Slow(world.store), [worker_bee]))
    handle = await engine.start(worker_bee(1), id="a")
    await turns()
    sending = asyncio.ensure_future(handle.send(word, "hello"))
    await asyncio.sleep(1)
    assert Status.RUNNING == (await world.record("a")).status
    sending.cancel()

    assert ["HELLO"] == await handle.result()
    assert sending.cancelled()
    assert ["hello"] == bodies


async def test_a_worker_that_froze_while_it_woke_a_run_is_fenced(world: World) -> None:
    """Its message counts; the run has been taken over by the time it goes on."""
    first = await world.opened(Engine(Slow(world.store), [worker_bee]))
    handle = await first.start(worker_bee(1), id="a")
    await turns()
    sending = asyncio.ensure_future(handle.send(word, "hello"))
    await asyncio.sleep(1)
    freeze(first)
    second = await world.engine(worker_bee)

    assert ["HELLO"] == await second.handle("a", worker_bee).result()
    thaw(first)
    await sending
    await asyncio.sleep(60)
    assert ["hello"] == bodies
    assert any(isinstance(event, RunResumed) for event in await world.events("a"))


async def test_a_run_of_which_its_waker_dies_counts_the_death(world: World) -> None:
    """A wake-up is no way around the limit on runs that kill their workers."""
    engine = await world.opened(Engine(Slow(world.store), [worker_bee]))
    handle = await engine.start(worker_bee(1), id="a")
    await turns()
    sending = asyncio.ensure_future(handle.send(word, "hello"))
    await asyncio.sleep(1)
    kill(engine)
    sending.cancel()
    observer = await world.store.enlist("observer", 15.0)
    request = ClaimRequest(worker_key=observer, workflows={"worker_bee": worker_bee.fingerprint}, run_max=1)

    (claimed,) = (await world.store.claim(request)).runs

    assert 1 == claimed.run.deaths
    assert ["RunResumed"] == [type(event).__name__ for event in claimed.entries[-1].decoded()]


async def test_a_draining_worker_wakes_nothing(world: World) -> None:
    engine = await world.engine(listener)
    handle = await engine.start(listener(1), id="a")
    await turns()
    engine.drain()

    await handle.send(word, "hello")
    await turns()

    assert 0 == link(engine).counts["wake"]
    assert Status.WAITING == (await world.record("a")).status


async def test_a_fork_that_is_woken_knows_what_was_done_before_it(world: World) -> None:
    """What the run that it forks had finished is read before its code goes on."""
    engine = await world.engine(worker_bee)
    handle = await engine.start(worker_bee(2), id="a")
    await turns()
    await handle.send(word, "one")
    await until(lambda: bodies == ["one"] and not is_in_memory(engine, "a"))
    fork = await handle.fork(at=(await world.record("a")).version, id="b")
    await until(lambda: not is_in_memory(engine, "b"))

    await fork.send(word, "two")

    assert ["ONE", "TWO"] == await fork.result()
    assert ["one", "two"] == bodies


# --- killed at every durable point ----------------------------------------------------------------------------------------


class Mortal(FaultyStore):
    """Kills its engine at one durable point, on one side of it."""

    def __init__(self, inner: Store, number: int, side: str) -> None:
        super().__init__(inner)
        self.point_count = 0
        self.engine: Engine | None = None
        self._kill = number, side

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        if verb not in {"commit", "post", "wake", "create"} or self.is_dead:
            return await super().ask(verb, arguments, act)
        self.point_count += 1
        if self._kill == (self.point_count, "before"):
            self._die()
            return await super().ask(verb, arguments, act)
        answer = await super().ask(verb, arguments, act)
        if self._kill == (self.point_count, "after"):
            self._die()
            await asyncio.Event().wait()
        return answer

    def _die(self) -> None:
        assert self.engine is not None
        kill(self.engine)
        # The task that hangs in this very request is known to its worker only once this turn is over.
        asyncio.get_running_loop().call_soon(worker_of(self.engine).die)


WORDS = ("one", "two", "three")
POINTS = 1 + 3 * len(WORDS)
"""The start; and for each signal its message with the claim, the step that is asked for, and its result."""


async def _live(world: World, number: int, side: str) -> Mortal:
    """One life of an engine that starts a run and sends it signals itself, as far as it gets."""
    store = Mortal(world.store, number, side)
    engine = store.engine = Engine(store, [worker_bee])
    await world.opened(engine)
    talking = asyncio.ensure_future(_talk(engine))
    await until(lambda: talking.done() or store.is_dead)
    talking.cancel()
    await asyncio.wait([talking])
    return store


async def _talk(engine: Engine) -> None:
    """Say everything that may not have been said yet: repeating a signal with its key is safe."""
    handle = await engine.start(worker_bee(len(WORDS)), id="a")
    for text in WORDS:
        await handle.send(word, text, key=text)
        await until(lambda: not is_in_memory(engine, "a"))
    assert [text.upper() for text in WORDS] == await handle.result()


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_kill_at_any_durable_point_of_a_wake_up_loses_and_repeats_nothing(world: World, side: str) -> None:
    """Every acknowledged signal is consumed once and in order; the journal verifies, and each epoch begins with its entry."""
    number, is_reached = 0, True
    while is_reached:
        number += 1
        bodies.clear()
        async with a_world() as fresh:
            is_reached = (await _live(fresh, number, side)).is_dead
            engine = await fresh.engine(worker_bee)
            with suppress(es.RunEnded):  # The first one may have said everything, and died after the end.
                await _talk(engine)

            assert [text.upper() for text in WORDS] == await engine.handle("a", worker_bee).result()
            events, entries = await fresh.events("a"), await fresh.entries("a")
            assert [f'"{text}"'.encode() for text in WORDS] == [bytes(e.value) for e in events if isinstance(e, SignalReceived)]
            assert {"said": len(WORDS)} == await fresh.completed("a")
            assert [] == _epochs_without_entry(entries)
    assert number == POINTS + 1


def _epochs_without_entry(entries: Sequence[Entry]) -> list[int]:
    """Epochs that do not begin with an entry that says who claimed the run."""
    found: list[int] = []
    epoch = entries[0].epoch
    for entry in entries:
        if entry.epoch != epoch and not any(isinstance(event, RunClaimed | RunResumed) for event in entry.decoded()):
            found.append(entry.epoch)
        epoch = entry.epoch
    return found
