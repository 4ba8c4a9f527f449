"""
Whatever else a run can do, it does the same with sealed payloads, and nothing of it is stored in clear.

Every workflow here is driven with each of the ways to store payloads; what it comes to must not depend on that.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.records import Status
from everstep.testing import replay
from tests.engine.support import World, kill, link, until, worker_of
from tests.payloads.support import CANARY, OLD, encrypted, needs_cryptography, rotated

needs_cryptography()

SEALED = [encrypted(), rotated(), encrypted(refuse_plain=True)]
WAYS = [es.Payloads(), *SEALED, es.Payloads(encryption=es.Encryption({"2025": OLD}, "2025", only_secrets=True))]
each_way = pytest.mark.parametrize("payloads", WAYS, ids=repr)
broken: set[str] = set()
log: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    broken.clear()
    log.clear()


@es.step
async def work(text: str) -> str:
    log.append(text)
    if text in broken:
        raise ConnectionError(f"{text} is down")
    return f"{text} done"


@es.step
async def undo(text: str) -> None:
    log.append(f"undo {text}")


def in_store(world: World) -> str:
    """Everything that the store holds, as text."""
    store: Any = world.store
    return repr([[run.record, run.entries, run.attempts, run.inbox] for run in store._runs.values()])


def check(world: World, payloads: es.Payloads) -> None:
    assert (CANARY in in_store(world)) is (payloads not in SEALED)


@es.workflow
async def two(text: str) -> list[str]:
    return [await work(text), await work(f"{text} again")]


@each_way
async def test_a_failed_run_is_retried_with_what_it_had(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(two, payloads=payloads)
    broken.add(f"{CANARY} again")
    handle = await engine.start(two(CANARY), id="a")
    with pytest.raises(es.RunFailed, match=f"{CANARY} again is down"):
        await handle.result()
    broken.clear()

    await handle.retry(CANARY)

    assert [f"{CANARY} done", f"{CANARY} again done"] == await handle.result()
    assert 1 == log.count(CANARY)
    check(world, payloads)


@each_way
async def test_a_person_decides_about_a_step(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(two, payloads=payloads)
    broken.add(f"{CANARY} again")
    handle = await engine.start(two(CANARY), id="a")
    with pytest.raises(es.RunFailed):
        await handle.result()

    await handle.complete_step("work", f"{CANARY} by hand", CANARY)

    assert [f"{CANARY} done", f"{CANARY} by hand"] == await handle.result()
    check(world, payloads)


@each_way
async def test_a_fork_finds_done_what_the_other_run_had_done(world: World, payloads: es.Payloads) -> None:
    """What it shares stays sealed as the other run sealed it, under that run's own key."""
    engine = await world.engine(two, payloads=payloads)
    await (await engine.start(two(CANARY), id="a"))

    fork = await engine.handle("a", two).fork(edit={"work": f"{CANARY} edited"}, id="b", reason=CANARY)

    assert [f"{CANARY} done", f"{CANARY} edited"] == await fork.result()
    assert 1 == log.count(CANARY)
    assert "***" not in repr((await fork.snapshot()).payload)
    assert replay(await world.entries("b"), two, shared=[await world.entries("a")], payloads=payloads) is not None
    check(world, payloads)


@each_way
async def test_a_fork_is_for_who_has_the_keys(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(two, payloads=payloads)
    await (await engine.start(two(CANARY), id="a"))
    kill(engine)
    client = es.Client(link(world.unopened()), payloads=payloads)
    await client.handle("a").fork(at="work", id="b")
    blind = await world.engine(two)

    if payloads in SEALED:
        with pytest.raises(es.RunPaused, match="which is not given here"):
            await blind.handle("b").result()
        blind = await world.engine(two, payloads=payloads)
    assert [f"{CANARY} done", f"{CANARY} again done"] == await blind.handle("b", two).result()


@es.workflow
async def counting(text: str, left: int) -> str:
    said = await work(f"{text} {left}")
    if left:
        await es.sleep(60)
        es.continue_as_new(counting(text, left - 1))
    return said


@each_way
async def test_a_run_is_continued_as_new_across_a_crash(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(counting, payloads=payloads)
    await engine.start(counting(CANARY, 3), id="a")
    await until(lambda: len(log) == 2 and not worker_of(engine).active)
    kill(engine)
    again = await world.engine(counting, payloads=payloads)

    assert f"{CANARY} 0 done" == await again.handle("a", counting).result()
    assert {"***"} != set(map(str, (await again.handle("a").snapshot()).payload.values()))
    check(world, payloads)


price = es.request("price", str, str)


@es.workflow
async def shop(text: str) -> str:
    def refuse(asked: str) -> None:
        if asked.startswith("bad"):
            raise ValueError(f"no {asked}")

    async def answer(asked: str) -> str:
        if asked.startswith("fail"):
            raise RuntimeError(f"cannot {asked}")
        return await work(asked)

    price.handle(answer, validate=refuse)
    await es.sleep(3600)
    return text


@each_way
async def test_requests_are_answered_refused_and_fail(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(shop, payloads=payloads)
    await engine.start(shop(CANARY), id="a")
    handle = es.Client(link(world.unopened()), payloads=payloads).handle("a", shop)

    assert f"{CANARY} done" == await handle.ask(price, CANARY, key="1")
    with pytest.raises(es.RequestRefused, match=f"no bad {CANARY}"):
        await handle.ask(price, f"bad {CANARY}", key="2")
    with pytest.raises(es.RequestFailed, match=f"cannot fail {CANARY}"):
        await handle.ask(price, f"fail {CANARY}", key="3")
    kill(engine)
    await world.engine(shop, payloads=payloads)
    assert f"{CANARY} done" == await handle.ask(price, "whatever", key="1")
    assert CANARY == await handle.result()
    check(world, payloads)


@es.step
async def grow(rows: list[str]) -> list[str]:
    log.append("grow")
    return [*rows, f"{CANARY} {len(rows)} {'x' * 700}"]


line = es.pipeline("line", list[str], [grow] * 6)


@each_way
async def test_a_pipeline_goes_on_at_its_cursor(world: World, payloads: es.Payloads) -> None:
    """Its payload is recorded as what each step changed, and that is sealed."""
    engine = await world.engine(line, payloads=payloads)
    await engine.start(line([]), id="a")
    await until(lambda: len(log) >= 3)
    kill(engine)
    again = await world.engine(line, payloads=payloads)

    assert [f"{CANARY} {n} {'x' * 700}" for n in range(6)] == await again.handle("a", line).result()
    assert replay(await world.entries("a"), line, payloads=payloads) is not None
    assert CANARY in repr((await again.handle("a").snapshot()).payload)
    blind = es.Client(link(world.unopened()))
    if payloads in SEALED:
        assert "done" not in repr(await blind.handle("a").progress())
    check(world, payloads)


big = es.state("big", dict[str, str])


@es.workflow
async def publishing(text: str) -> str:
    value = {f"field{n}": text * 20 for n in range(20)}
    for n in range(5):
        big.set({**value, "changes": f"{text} {n}"})
        await es.sleep(60)
    return (big.get() or {})["changes"]


@each_way
async def test_a_large_state_is_recorded_as_what_changed(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(publishing, payloads=payloads)
    await engine.start(publishing(CANARY), id="a")
    await until(lambda: not worker_of(engine).active)
    kill(engine)
    again = await world.engine(publishing, payloads=payloads)

    assert f"{CANARY} 4" == await again.handle("a", publishing).result()
    assert f"{CANARY} 4" == (await again.handle("a").snapshot()).payload["big"]["changes"]
    check(world, payloads)


@es.workflow
async def travelling(text: str) -> str:
    async with es.saga() as saga:
        booked: str = await saga.do(work(text), undo=undo)
        await saga.do(work(f"{text} hotel"), undo=undo)
        return booked


@each_way
async def test_a_saga_undoes_and_a_person_helps_where_it_cannot(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(travelling, payloads=payloads)
    broken.add(f"{CANARY} hotel")
    with pytest.raises(es.RunFailed, match=f"{CANARY} hotel is down"):
        await (await engine.start(travelling(CANARY), id="a"))

    assert f"undo {CANARY} done" in log
    check(world, payloads)


@es.step
async def cannot(text: str) -> None:
    raise PermissionError(f"never {text}")


@es.workflow
async def stuck(text: str) -> str:
    async with es.saga() as saga:
        await saga.do(work(text), undo=cannot)
        raise ValueError(text)


@es.workflow
async def parent(text: str) -> str:
    try:
        return await stuck(text)
    except es.RunDead as error:
        return f"dead because {error.__cause__!r} because {error.__cause__ and error.__cause__.__cause__!r}"


@each_way
async def test_why_a_child_died_reaches_its_parent(world: World, payloads: es.Payloads) -> None:
    """The store puts the sealed error of the child into a record of its own making."""
    engine = await world.engine(parent, stuck, payloads=payloads)

    said = await (await engine.start(parent(CANARY), id="a"))

    assert f"never {CANARY}" in said
    assert Status.DEAD is (await world.record("a/0:1")).status
    check(world, payloads)


@es.workflow
async def within(text: str) -> str:
    async with es.milestone("half"):
        await work(text)
        return await work(f"{text} 2")


@each_way
async def test_steps_of_a_milestone_commit_together(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(within, payloads=payloads)

    assert f"{CANARY} 2 done" == await (await engine.start(within(CANARY), id="a"))
    assert replay(await world.entries("a"), within, payloads=payloads) is not None
    check(world, payloads)


@each_way
async def test_a_paused_run_says_why_to_who_may_know(world: World, payloads: es.Payloads) -> None:
    engine = await world.engine(counting, payloads=payloads)
    handle = await engine.start(counting(CANARY, 1), id="a")
    await until(lambda: not worker_of(engine).active)
    await handle.pause(CANARY)
    with pytest.raises(es.RunPaused, match=CANARY):
        await handle.result()
    await handle.resume(CANARY)

    assert f"{CANARY} 0 done" == await handle.result()
    check(world, payloads)


@each_way
async def test_sql_commits_with_a_sealed_result(tmp_path: Path, payloads: es.Payloads) -> None:
    """In the store's own database, and with a witness in another one."""
    other = es.database(f"sqlite:///{tmp_path / 'other.db'}")

    @es.transaction
    def own(tx: es.SQLiteTx, text: str) -> str:
        tx.execute("CREATE TABLE IF NOT EXISTS theirs(n INTEGER)")
        return f"{text} own"

    @other.transaction
    def elsewhere(tx: sqlite3.Connection, text: str) -> str:
        tx.execute("CREATE TABLE IF NOT EXISTS theirs(n INTEGER)")
        return f"{text} elsewhere"

    @es.workflow
    async def sql(text: str) -> list[str]:
        return [await own(text), await elsewhere(text)]

    async with es.Engine(f"sqlite:///{tmp_path / 'state.db'}", workflows=[sql], payloads=payloads) as engine:
        assert [f"{CANARY} own", f"{CANARY} elsewhere"] == await (await engine.start(sql(CANARY), id="a"))

    for name in ("state.db", "other.db"):
        assert (CANARY.encode() in bytes_of(tmp_path, name)) is (payloads not in SEALED), name


def bytes_of(folder: Path, name: str) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(f"{name}*") if path.is_file())


async def test_a_witness_gives_back_what_was_sealed(tmp_path: Path) -> None:
    """The record in the journal was lost; the row in the user's database tells the result, and holds no secret in clear."""
    database = es.database(f"sqlite:///{tmp_path / 'other.db'}")
    bodies: list[str] = []

    @database.transaction(retry=es.Retry(attempts=2, delay=0, jitter=0))
    def once(tx: sqlite3.Connection, text: str) -> es.Secret[str]:
        bodies.append(text)
        return es.Secret(text)

    @es.workflow
    async def sql(text: str) -> int:
        return len((await once(text)).reveal())

    only = es.Payloads(encryption=es.Encryption({"2025": OLD}, "2025", only_secrets=True))
    store = f"sqlite:///{tmp_path / 'state.db'}"
    async with es.Engine(store, workflows=[sql], payloads=only) as engine:
        assert len(CANARY) == await (await engine.start(sql(CANARY), id="a"))
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
            [(result,)] = connection.execute("SELECT result FROM everstep_witness")
        assert CANARY not in result
        assert "$sealed:secret" in result
    async with es.Engine(store, workflows=[sql]) as engine:
        with pytest.raises(es.RunFailed, match="only be stored encrypted"):
            await (await engine.start(sql(CANARY), id="b"))
