"""
B1, B2: the connection is cut at every byte position of every verb, in both directions, with a goodbye and with a reset.

Whoever asked repeats the same thing until it is answered, as the engine does. Then it has happened exactly once: a write that
landed before its answer was lost is found, one that never arrived is made. How many positions are tried depends on the session
(``tests.evidence``): all of a small append always, a sample of the others, and a larger one in ``make proof``.
"""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from everstep.errors import StoreUnavailable
from everstep.events import RunClaimed, RunPaused, RunResumed, TimerFired
from everstep.journal import verify_chain
from everstep.records import RunRecord, Status
from everstep.stores.base import Append, Created, Exists, Landed, Post, Slot, transacting
from everstep.stores.rules import as_child
from everstep.testing.scene import Scene, message, new_run, step_completed
from tests import evidence
from tests.postgres_proxy import DIRECTIONS, Direction, Proxy

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore
from everstep.stores.postgres.watch import Watch

HOUR = 3600.0
TRIES_MAX = 50
SAMPLE = 8
"""Positions of each verb and direction that every session tries, spread evenly."""

Ask = Callable[[], Awaitable[object]]
Check = Callable[[list[object]], Awaitable[None]]
Verb = Callable[["Cutter"], Awaitable[tuple[Ask, Check]]]
"""Prepares one try: what is asked, and what must be so afterwards, given all answers."""


class Cutter:
    """A store behind a proxy, with one connection for verbs and one that listens."""

    def __init__(self, store: PostgresStore, proxy: Proxy, worker_key: int) -> None:
        self.store = store
        self.proxy = proxy
        self.scene = Scene(store, None)  # type: ignore[arg-type]
        self.worker_key = worker_key
        self._numbers = itertools.count(1)
        self.run: RunRecord | None = None

    def name(self) -> str:
        return f"order-{next(self._numbers)}"

    def passed(self, direction: Direction) -> int:
        """Bytes on all connections but the one that listens."""
        return sum(link.passed[direction] for link in self.proxy.links[1:])

    async def owned(self) -> RunRecord:
        """A new run of ours."""
        name = self.name()
        assert [Landed()] == await self.store.commit([self.scene.first(self.worker_key, name)])
        return await self.scene.run(name)

    async def verify(self, run_id: str) -> RunRecord:
        run = await self.scene.run(run_id)
        entries = await self.store.load(run.run_key)
        verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
        assert len(entries) == run.version
        return run


@asynccontextmanager
async def cutting(url: str) -> AsyncGenerator[Cutter]:
    async with Proxy(f"{url}&pool=1") as proxy:
        store = PostgresStore(proxy.url)
        await store.open()
        try:
            yield Cutter(store, proxy, await store.enlist("host:1", HOUR))
        finally:
            await store.close()


# --- the verbs --------------------------------------------------------------------------------------------------------------


async def append(cutter: Cutter) -> tuple[Ask, Check]:
    """The entry of a step, by far the most frequent write: nothing but an insert."""
    run = cutter.run = cutter.run or await cutter.owned()
    write = cutter.scene.append(run)

    async def check(answers: list[object]) -> None:
        assert [Landed()] == answers[-1]
        cutter.run = await cutter.verify(run.run_id)
        assert run.version + 1 == cutter.run.version
        assert write.entry.hash == cutter.run.hash

    return lambda: cutter.store.commit([write]), check


async def group(cutter: Cutter) -> tuple[Ask, Check]:
    """Several writes in one statement: a first entry, a release, an append."""
    first, mine, parked = cutter.name(), await cutter.owned(), await cutter.owned()
    scene = cutter.scene
    writes = [
        scene.first(cutter.worker_key, first),
        scene.append(mine),
        scene.append(parked, status=Status.WAITING, release=True, wake_at=1 << 60),
    ]

    async def check(answers: list[object]) -> None:
        assert [Landed()] * 3 == answers[-1]
        assert 1 == (await cutter.verify(first)).version
        assert mine.version + 1 == (await cutter.verify(mine.run_id)).version
        run = await cutter.verify(parked.run_id)
        assert (parked.version + 1, None, Status.WAITING) == (run.version, run.worker_key, run.status)

    return lambda: cutter.store.commit(writes), check


async def family(cutter: Cutter) -> tuple[Ask, Check]:
    """An entry with a child and a message: a transaction of several statements."""
    run, other = await cutter.owned(), await cutter.owned()
    child = new_run(f"{run.run_id}/child", parent_command="0:1")
    post = Post(run_id=other.run_id, message=message(TimerFired("0:1"), dedupe="once"))
    write = cutter.scene.append(run, children=(child,), posts=(post,))

    async def check(answers: list[object]) -> None:
        assert [Landed()] == answers[-1]
        assert run.version + 1 == (await cutter.verify(run.run_id)).version
        assert as_child(child, run.run_key).parent_key == (await cutter.verify(child.run_id)).parent_key
        assert 1 == (await cutter.scene.run(other.run_id)).inbox_seq
        assert 1 == len(await cutter.store.mail(other.run_key))

    return lambda: cutter.store.commit([write]), check


async def create(cutter: Cutter) -> tuple[Ask, Check]:
    """B2, I15: a caller who never hears starts the run again, and joins it."""
    new = new_run(cutter.name())

    async def check(answers: list[object]) -> None:
        ((*_, answer),) = (answers[-1:],)
        assert isinstance(answer, list)
        assert isinstance(answer[0], Created | Exists)
        assert 1 == (await cutter.verify(new.run_id)).version

    return lambda: cutter.store.create([new]), check


async def post(cutter: Cutter) -> tuple[Ask, Check]:
    """B2, I8: a signal that is sent again has its key, and is there once."""
    run = await cutter.owned()
    sent = message(TimerFired("0:1"), dedupe="once")

    async def check(answers: list[object]) -> None:
        assert 1 == len(await cutter.store.mail(run.run_key))
        assert 1 == (await cutter.verify(run.run_id)).inbox_seq

    return lambda: cutter.store.post(run.run_id, sent), check


async def settle(cutter: Cutter) -> tuple[Ask, Check]:
    """B2: an operator's decision. Asked again it says that the run went on; there is one entry."""
    name = cutter.name()
    await cutter.store.create([new_run(name)])
    run = await cutter.scene.run(name)

    async def check(answers: list[object]) -> None:
        after = await cutter.verify(name)
        assert (run.version + 1, run.epoch + 1, Status.PAUSED) == (after.version, after.epoch, after.status)

    return lambda: cutter.scene.settle(run, RunPaused("wait"), status=Status.PAUSED), check


async def claim(cutter: Cutter) -> tuple[Ask, Check]:
    """B2: a claim whose answer is lost leaves a run that is ours and that nobody drives; it is never claimed twice."""
    name = cutter.name()
    await cutter.store.create([new_run(name)])

    async def check(answers: list[object]) -> None:
        run = await cutter.verify(name)
        events = [event for entry in await cutter.store.load(run.run_key) for event in entry.decoded()]
        assert (1, cutter.worker_key) == (run.epoch, run.worker_key)
        assert 1 == sum(isinstance(event, RunClaimed | RunResumed) for event in events)
        await cutter.scene.landed(cutter.scene.append(run, status=Status.WAITING, release=True, wake_at=1 << 60))

    return lambda: cutter.scene.claim(cutter.worker_key), check


async def heartbeat(cutter: Cutter) -> tuple[Ask, Check]:
    """A renewal may be made twice."""

    async def check(answers: list[object]) -> None:
        (record,) = await cutter.store.workers()
        assert (cutter.worker_key, True) == (record.worker_key, record.alive)

    return lambda: cutter.store.heartbeat(cutter.worker_key), check


async def transact(cutter: Cutter) -> tuple[Ask, Check]:
    """A4, I4: a transaction of the user's whose commit is in doubt is looked for, and its effect is there once."""
    store = transacting(cutter.store)
    if store is None:
        pytest.skip("this store has no transactions of users yet")
    run = await cutter.owned()
    tried: list[bytes] = []
    effect = f"{cutter.store.url} {run.run_id}"  # The table is the database's, which other tests have, too.

    async def ask() -> object:
        slot = Slot(
            run_key=run.run_key,
            version=run.version + 1,
            epoch=run.epoch,
            worker_key=cutter.worker_key,
            doubtful=tried[-1] if tried else b"",
        )

        async def body(tx: Any) -> Append:
            await tx.execute("CREATE TABLE IF NOT EXISTS effects(run text)")
            await tx.execute("INSERT INTO effects VALUES ($1)", effect)
            write = cutter.scene.append(run, step_completed())
            tried.append(write.entry.hash)
            return write

        return await store.transact(slot, body)

    async def check(answers: list[object]) -> None:
        assert Landed() == answers[-1]
        assert run.version + 1 == (await cutter.verify(run.run_id)).version
        count = await cutter.store._state().pool.ask(lambda tx: tx.one("SELECT count(*) FROM effects WHERE run = $1", effect))
        assert 1 == count[0]

    return ask, check


VERBS: dict[str, Verb] = {
    each.__name__: each for each in (append, group, family, create, post, settle, claim, heartbeat, transact)
}


# --- the sweep --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", VERBS)
async def test_a_verb_cut_at_any_byte_happens_once(name: str, direction: Direction, reset: bool, postgres_url: str) -> None:
    """And the store is usable afterwards, by itself."""
    verb = VERBS[name]
    async with cutting(postgres_url) as cutter:
        total = await bytes_of(cutter, verb, direction)
        for position in positions(name, total, reset=reset):
            ask, check = await prepared(cutter, verb)
            cutter.proxy.cut(direction, position, reset=reset, spare=cutter.proxy.links[0])
            answers = await patiently(ask)
            was_left = cutter.proxy.mend()
            await check(answers)
            assert not (was_left and position < total // 2), "nothing was cut"
        evidence.note(f"positions of bytes at which {name} was cut", cutter.proxy.cuts)
        assert cutter.proxy.cuts > 0


async def test_opening_a_store_cut_at_any_byte_can_be_repeated(postgres_url: str) -> None:
    """B1, L1: the very first one makes the tables; at whatever byte it is cut, the next one finds all of them or none."""
    async with Proxy(postgres_url) as proxy:
        first = PostgresStore(proxy.url)
        await first.open()
        totals = {direction: sum(link.passed[direction] for link in proxy.links) for direction in DIRECTIONS}
        await first.close()
        for direction in DIRECTIONS:
            for position in spread(totals[direction], evidence.amount(6, 400)):
                url = f"{proxy.url}_{direction}_{position}"
                proxy.cut(direction, position)
                stores = [PostgresStore(url)]
                try:
                    await stores[0].open()
                except StoreUnavailable:
                    stores.append(PostgresStore(url))
                    await stores[1].open()
                proxy.mend()
                assert [] == await stores[-1].workers()
                for store in stores:
                    await store.close()
        evidence.note("positions of bytes at which the opening of a store was cut", proxy.cuts)
        assert proxy.cuts > 5


async def test_listening_again_cut_at_any_byte_comes_back(postgres_url: str) -> None:
    """The connection that hears news and holds the seat is lost, and its successor too: the next one has both."""
    async with cutting(postgres_url) as cutter:
        watch = watch_of(cutter.store)
        for direction in DIRECTIONS:
            total = await bytes_of_listening(cutter, direction)
            for position in spread(total, evidence.amount(8, 300)):
                cutter.proxy.cut(direction, position)
                await lose(cutter)
                await until(lambda: watch.is_listening)
                cutter.proxy.mend()
                await until_seated(cutter)
        evidence.note("positions of bytes at which listening again was cut", cutter.proxy.cuts)
        assert cutter.proxy.cuts >= 8


def watch_of(store: PostgresStore) -> Watch:
    watch = store._state().watch
    assert watch is not None
    return watch


async def lose(cutter: Cutter) -> None:
    """Cut the connection that listens now."""
    count = len(cutter.proxy.links)
    lost = watch_of(cutter.store)._link
    cutter.proxy.cut_all()
    await until(lambda: lost is not watch_of(cutter.store)._link or len(cutter.proxy.links) > count)


async def until_seated(cutter: Cutter) -> None:
    while "held" != (await cutter.store.workers())[0].lock:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.01)


async def bytes_of_listening(cutter: Cutter, direction: Direction) -> int:
    """What listening again takes when nothing is cut."""
    await lose(cutter)
    await until(lambda: watch_of(cutter.store).is_listening)
    total = cutter.proxy.links[-1].passed[direction]
    await until_seated(cutter)
    return total


async def until(condition: Callable[[], bool]) -> None:
    """The loop of the store is this one; there is nothing to wait for by name."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def prepared(cutter: Cutter, verb: Verb) -> tuple[Ask, Check]:
    """A try on a connection that knows all statements of the verb: one that was cut has gone, and its successor is new."""
    ask, check = await verb(cutter)
    await check([await ask()])
    return await verb(cutter)


async def bytes_of(cutter: Cutter, verb: Verb, direction: Direction) -> int:
    """How many bytes go this way when nothing is cut."""
    ask, check = await prepared(cutter, verb)
    before = cutter.passed(direction)
    answer = await ask()
    passed = cutter.passed(direction) - before
    await check([answer])
    assert passed > 0
    return passed


def positions(name: str, total: int, *, reset: bool) -> Iterable[int]:
    """Where to cut: everywhere for a small append, where most of the time is spent."""
    is_whole = name == "append" and (evidence.IS_PROOF or not reset)
    return range(total) if is_whole else spread(total, evidence.amount(SAMPLE, 250))


def spread(total: int, count: int) -> list[int]:
    """The first and the last byte, and some in between."""
    return sorted({round(n * (total - 1) / max(count - 1, 1)) for n in range(count)})


async def patiently(ask: Ask) -> list[object]:
    """All answers, until one is none of a store that is away."""
    answers: list[object] = []
    for _ in range(TRIES_MAX):
        try:
            answers.append(await ask())
        except StoreUnavailable as error:
            answers.append(error)
        else:
            assert "secret" not in repr(answers)
            return answers
    raise AssertionError(f"it was never answered: {answers}")


async def test_a_server_that_refuses_connections_for_a_while_is_waited_for(postgres_url: str) -> None:
    """What the pool had is cut, and nothing new is let in; then it is."""
    async with cutting(postgres_url) as cutter:
        run = await cutter.owned()
        write = cutter.scene.append(run)
        cutter.proxy.refuse()
        cutter.proxy.cut_all()
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await cutter.store.commit([write])
        cutter.proxy.refuse(refusing=False)

        assert [Landed()] == (await patiently(lambda: cutter.store.commit([write])))[-1]
        await cutter.verify(run.run_id)


async def test_a_slow_network_changes_nothing(postgres_url: str) -> None:
    """Every message 5 ms later."""
    async with cutting(postgres_url) as cutter:
        cutter.proxy.delay_seconds = 0.005
        for name, verb in VERBS.items():
            if name != "transact":
                ask, check = await verb(cutter)
                await check([await ask()])
        cutter.proxy.delay_seconds = 0
