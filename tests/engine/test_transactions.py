"""
Transactional steps, driven: one commit for the user's SQL and the record of its result, whatever happens in the middle.

The memory store keeps users' tables in an SQLite database in memory, so all of this runs on virtual time. What is special to
files and processes stands in ``test_ledger.py`` and in ``tests/stores/test_user_tx.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import everstep as es
from everstep.engine.slot import AppendSlot
from everstep.errors import StoreUnavailable
from everstep.events import RunResumed, StepCompleted, StepFailed
from everstep.stores.memory import MemoryStore
from everstep.stores.sqlite.ask import asking
from everstep.testing import Effects, crash_everywhere
from tests.engine.support import (
    FaultyStore,
    World,
    freeze,
    is_in_memory,
    kill,
    link,
    lose_answer,
    thaw,
    turns,
    until,
    worker_of,
)

ACCOUNTS = "CREATE TABLE IF NOT EXISTS accounts(name TEXT PRIMARY KEY, cents INTEGER NOT NULL CHECK (cents >= 0))"


def change(tx: es.SQLiteTx, name: str, cents: int) -> int:
    tx.execute(ACCOUNTS)
    tx.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0)", (name,))
    [(now,)] = tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ? RETURNING cents", (cents, name))
    return int(now)


@es.transaction
def add(tx: es.SQLiteTx, name: str, cents: int) -> int:
    return change(tx, name, cents)


@es.transaction
async def add_slowly(tx: es.SQLiteTx, name: str, cents: int, seconds: float = 0.0) -> int:
    now = change(tx, name, cents)
    await asyncio.sleep(seconds)
    return now


@es.transaction
def balances(tx: es.SQLiteTx) -> dict[str, int]:
    tx.execute(ACCOUNTS)
    return dict(tx.execute("SELECT name, cents FROM accounts ORDER BY name").fetchall())


@es.workflow
async def look() -> dict[str, int]:
    return await balances()


@es.workflow
async def transfer(giver: str, taker: str, cents: int) -> list[int]:
    return [await add(giver, 1000), await add(giver, -cents), await add_slowly(taker, cents)]


done: Counter[str] = Counter()


@es.transaction(retry=es.Retry(attempts=3, delay=0.1))
def shaky(tx: es.SQLiteTx) -> None:
    done["shaky"] += 1
    if es.current().attempt == 1:
        raise OSError("not yet")


@es.workflow
async def shaky_then_waiting() -> None:
    done.clear()
    await shaky()
    await asyncio.sleep(3600)


async def balances_of(world: World) -> dict[str, int]:
    """What is in the tables, found out by an engine of its own that has no faults."""
    async with es.Engine(FaultyStore(world.store), [look]) as engine:
        return await (await engine.start(look())).result()


async def run(world: World, body: Any, *arguments: Any, engine: es.Engine | None = None) -> Any:
    """Run one transaction in a run called ``a``, and return its result."""

    @es.workflow
    async def only() -> Any:
        return await body(*arguments)

    engine = engine or await world.engine()
    return await (await engine.start(only(), id="a")).result()


# --- what is recorded -----------------------------------------------------------------------------------------------


async def test_each_result_stands_alone_in_an_entry_that_no_code_ran_in(world: World) -> None:
    """One commit for the effect and its record; the code goes on in the next entry."""
    engine = await world.engine(transfer)

    assert [1000, 900, 100] == await (await engine.start(transfer("ann", "bob", 100), id="t")).result()
    entries = await world.entries("t")
    alone = [entry.decoded() for entry in entries if not entry.drained]
    assert 1 + 2 * 3 == len(entries)
    assert [[StepCompleted]] * 3 == [[type(event) for event in events] for events in alone]
    assert {"ann": 900, "bob": 100} == await balances_of(world)


async def test_the_connection_is_no_argument(world: World) -> None:
    """It is neither recorded nor part of what is compared on replay."""
    await run(world, add, "ann", 5)

    [scheduled] = [event for event in await world.events("a") if type(event).__name__ == "StepScheduled"]
    assert b'{"name":"ann","cents":5}' == bytes(scheduled.args)  # type: ignore[union-attr]


async def test_several_transactions_of_one_run_take_turns(world: World) -> None:
    """They are asked for at once; each has the run's append slot for itself."""

    @es.workflow
    async def many() -> list[int]:
        async with asyncio.timeout(3600):
            return sorted(
                await asyncio.gather(*(add("ann", 1) for _ in range(5)), *(add_slowly("ann", 1, 0.1) for _ in range(5)))
            )

    engine = await world.engine(many, threads=1)

    assert list(range(1, 11)) == await (await engine.start(many(), id="m")).result()
    assert {"ann": 10} == await balances_of(world)
    assert 1 == worker_of(engine).tools.threads._free._value


async def test_a_turn_that_comes_as_its_step_is_cancelled_goes_back() -> None:
    """Else nobody would ever have the slot again."""
    slot, asked = AppendSlot(), list[bool]()
    waiting = asyncio.ensure_future(slot.wait(lambda: asked.append(slot.is_taken)))
    await asyncio.sleep(0)
    assert slot.grant()
    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    assert [False, False] == asked, "when it stood in the queue, and for whoever comes next"
    assert not slot.grant()


async def test_a_step_that_is_cancelled_while_it_waits_has_no_turn() -> None:
    slot, asked = AppendSlot(), list[bool]()
    waiting = asyncio.ensure_future(slot.wait(lambda: asked.append(slot.is_taken)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert [False] == asked
    assert not slot.grant()


async def test_what_arrives_while_a_body_runs_is_seen_after_it(world: World) -> None:
    """A timer, another step's result and a signal wait for the slot, and nothing is lost."""
    word = es.signal("word", str)

    @es.step
    async def quick() -> str:
        return "quick"

    @es.workflow
    async def busy() -> list[Any]:
        slow = asyncio.create_task(add_slowly("ann", 1, 3.0))
        beside = asyncio.create_task(quick())
        timer = asyncio.create_task(asyncio.sleep(0.5, "timer"))
        heard = asyncio.create_task(word.wait())
        return [await beside, await timer, await heard, await slow]

    engine = await world.engine(busy)
    handle = await engine.start(busy(), id="b")
    await asyncio.sleep(1)
    await handle.send(word, "hello")

    assert ["quick", "timer", "hello", 1] == await handle.result()


async def test_a_body_knows_where_it_runs(world: World) -> None:
    @es.transaction
    def where(tx: es.SQLiteTx) -> list[Any]:
        here = es.current()
        es.heartbeat("alive")
        return [here.run_id, here.step.rpartition(".")[2], here.attempt, here.idempotency_key, here.deadline is not None]

    found = await run(world, where)
    assert ["a", 1, True] == [found[0], found[2], found[4]]


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_body_that_raises_leaves_nothing_and_is_retried_as_a_step_is(world: World) -> None:
    @es.transaction(retry=es.Retry(attempts=3, delay=10, jitter=0))
    def flaky(tx: es.SQLiteTx) -> int:
        now = change(tx, "ann", 1)
        if es.current().attempt < 3:
            raise OSError("not yet")
        return now

    assert 1 == await run(world, flaky)
    assert {"ann": 1} == await balances_of(world)
    [done] = [event for event in await world.events("a") if isinstance(event, StepCompleted)]
    assert 3 == done.attempt


async def test_a_body_without_attempts_left_fails_its_workflow_and_leaves_nothing(world: World) -> None:
    with pytest.raises(es.RunFailed) as failed:
        await run(world, add, "ann", -1)

    assert isinstance(failed.value.__cause__, es.StepFailed | es.RemoteError)
    assert "CHECK constraint" in str(failed.value)
    assert {} == await balances_of(world)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_result_that_cannot_be_stored_takes_the_effect_with_it(world: World, kind: str) -> None:
    """H5: and it is not tried again."""
    count = 0

    def body(tx: es.SQLiteTx) -> float:
        nonlocal count
        count += 1
        change(tx, "ann", 1)
        return float("nan")

    async def async_body(tx: es.SQLiteTx) -> float:
        return body(tx)

    nan = es.transaction(retry=5)(body) if kind == "sync" else es.transaction(retry=5)(async_body)
    with pytest.raises(es.RunFailed, match="Unencodable"):
        await run(world, nan)
    assert 1 == count
    assert {} == await balances_of(world)


async def test_a_body_that_takes_a_third_of_the_lease_is_rolled_back(world: World) -> None:
    """Heartbeats wait for it; and the message says how long."""
    engine = await world.engine(lease=9.0)

    with pytest.raises(es.RunFailed, match="took longer than 3 s"):
        await run(world, add_slowly, "ann", 1, 3.5, engine=engine)
    assert 3.0 == pytest.approx(world.seconds, abs=0.2)
    assert {} == await balances_of(world)


async def test_a_shorter_timeout_counts(world: World) -> None:
    @es.transaction(timeout=0.5)
    async def slow(tx: es.SQLiteTx) -> None:
        tx.execute(ACCOUNTS)
        await asyncio.sleep(1)

    with pytest.raises(es.RunFailed, match=r"took longer than 0\.5 s"):
        await run(world, slow)


async def test_a_body_that_clings_to_life_has_lost_its_connection(world: World) -> None:
    """It swallows its cancellation; nobody waits for it, and what it still tries is refused."""
    tried: list[str] = []

    @es.transaction(timeout=1)
    async def clinging(tx: es.SQLiteTx) -> None:
        tx.execute(ACCOUNTS)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(1)
        try:
            change(tx, "ann", 1)
        except es.UsageError as error:
            tried.append(str(error))

    with pytest.raises(es.RunFailed):
        await run(world, clinging)
    assert {} == await balances_of(world)
    await asyncio.sleep(2)
    assert "is over" in tried[0]


async def test_a_body_in_a_thread_that_takes_too_long_is_left_behind_without_its_connection(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    gate, tried = threading.Event(), list[str]()

    @es.transaction(timeout=1)
    def stuck(tx: es.SQLiteTx) -> None:
        tx.execute(ACCOUNTS)
        loop.call_soon_threadsafe(begun.set)
        gate.wait()
        try:
            change(tx, "ann", 1)
        except es.UsageError as error:
            tried.append(str(error))

    engine = await world.engine()
    running = asyncio.ensure_future(run(world, stuck, engine=engine))
    await begun.wait()
    world.loop.jumps_over_threads = True
    with pytest.raises(es.RunFailed):
        await running
    world.loop.threads_at_work.clear()
    world.loop.jumps_over_threads = False
    assert {} == await balances_of(world)
    gate.set()
    await until(lambda: bool(tried))
    assert "is over" in tried[0]


async def test_a_run_that_is_cancelled_before_its_transaction_had_its_turn_does_not_run_it(world: World) -> None:
    """The step was asked for; its turn had not come."""

    @es.workflow
    async def both() -> str:
        slow = asyncio.create_task(add_slowly("ann", 1, 2.0))
        never = asyncio.create_task(add("bob", 1))
        try:
            return str(await asyncio.gather(slow, never))
        except asyncio.CancelledError:
            return f"{slow.cancelled()} {never.cancelled()}"

    engine = await world.engine(both)
    handle = await engine.start(both(), id="c")
    await asyncio.sleep(1)
    await handle.cancel()

    assert "False True" == await handle.result()
    assert {"ann": 1} == await balances_of(world)


# --- doubt ------------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_lost_after_the_commit_does_not_run_the_body_again(world: World) -> None:
    """A4: the next try looks whether the entry is there."""
    engine = await world.engine(transfer)
    lose_answer(engine, "transact")

    assert [1000, 900, 100] == await (await engine.start(transfer("ann", "bob", 100), id="t")).result()
    assert {"ann": 900, "bob": 100} == await balances_of(world)
    assert 4 == link(engine).counts["transact"]


async def test_a_store_that_fails_before_the_body_is_asked_again(world: World) -> None:
    engine = await world.engine(transfer)
    for _ in range(3):
        link(engine).fail("transact")

    assert [1000, 900, 100] == await (await engine.start(transfer("ann", "bob", 100), id="t")).result()
    assert {"ann": 900, "bob": 100} == await balances_of(world)


async def test_a_store_that_is_away_for_long_is_no_failure_of_the_step(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """B4: the body runs once the store is back; with a lease that was lost, another claim does it."""
    caplog.set_level(logging.CRITICAL)
    engine = await world.engine(transfer)

    def goes_away(*_: object) -> bool:
        link(engine).is_away = True
        return True

    link(engine).fail("transact", when=goes_away)
    handle = await engine.start(transfer("ann", "bob", 100), id="t")
    await asyncio.sleep(600)
    link(engine).is_away = False

    assert [1000, 900, 100] == await handle.result()
    assert {"ann": 900, "bob": 100} == await balances_of(world)


# --- deaths -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_dies_in_the_body_leaves_nothing_and_another_runs_it(world: World) -> None:
    """A3."""

    @es.workflow
    async def slow() -> int:
        return await add_slowly("ann", 1, 2.0)

    first = await world.engine(slow)
    await first.start(slow(), id="s")
    await asyncio.sleep(1)
    kill(first)
    second = await world.engine(slow)

    assert 1 == await second.handle("s", slow).result()
    assert {"ann": 1} == await balances_of(world)
    [done] = [event for event in await world.events("s") if isinstance(event, StepCompleted)]
    assert 2 == done.attempt


async def test_a_worker_that_dies_after_the_commit_leaves_the_result_and_nobody_runs_it_again(world: World) -> None:
    """A4: the result is in an entry that no code has seen; whoever claims the run goes on from there."""
    first = await world.engine(transfer)
    store = link(first)
    store.fail("transact", after=True, error=None)
    landed = asyncio.Event()
    ask = store.ask

    async def dying(verb: str, arguments: Any, act: Any) -> Any:
        answer = await ask(verb, arguments, act)
        if verb == "transact":
            landed.set()
            await asyncio.Event().wait()
        return answer

    store.ask = dying  # type: ignore[method-assign]
    await first.start(transfer("ann", "bob", 100), id="t")
    await landed.wait()
    kill(first)
    second = await world.engine(transfer)

    assert [1000, 900, 100] == await second.handle("t", transfer).result()
    assert {"ann": 900, "bob": 100} == await balances_of(world)
    resumed = [event for event in await world.events("t") if isinstance(event, RunResumed)]
    assert 1 == len(resumed)


async def test_a_worker_that_lost_the_run_while_its_body_ran_is_rolled_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """C1, I2, I4: the zombie wakes up, finishes its body, and is fenced with all it did. (A file's lock makes others wait.)"""
    caplog.set_level(logging.CRITICAL)
    gates = [asyncio.Event(), asyncio.Event()]
    order: list[int] = []

    @es.transaction
    async def held(tx: es.SQLiteTx) -> int:
        order.append(es.current().epoch)
        now = change(tx, "ann", 1)
        await gates[len(order) - 1].wait()
        return now

    @es.workflow
    async def zombie() -> int:
        return await held()

    store: Any = world.store
    first = await world.engine(zombie, lease=15.0)
    await first.start(zombie(), id="z")
    await turns()
    # Another worker is told that the lease ran out although the body's limit has not passed: what a stopped process looks like.
    freeze(first)
    for worker in store._workers.values():
        worker.heartbeat -= 100.0
    second = await world.engine(zombie)
    await until(lambda: is_in_memory(second, "z"), at_most=10)
    gates[0].set()
    thaw(first)
    await until(lambda: len(order) == 2)
    gates[1].set()

    assert 1 == await second.handle("z", zombie).result()
    assert {"ann": 1} == await balances_of(world)
    assert [1, 2] == order


async def test_an_engine_that_closes_lets_a_body_finish_within_its_grace(world: World) -> None:
    @es.workflow
    async def slow() -> int:
        return await add_slowly("ann", 1, 2.0)

    first = await world.engine(slow, grace=5)
    await first.start(slow(), id="s")
    await asyncio.sleep(1)
    await first.close()

    assert {"ann": 1} == await balances_of(world)
    second = await world.engine(slow)
    assert 1 == await second.handle("s", slow).result()
    assert {"ann": 1} == await balances_of(world)


async def test_an_engine_that_closes_without_grace_rolls_the_body_back(world: World) -> None:
    @es.workflow
    async def slow() -> int:
        return await add_slowly("ann", 1, 2.0)

    first = await world.engine(slow, grace=0)
    await first.start(slow(), id="s")
    await asyncio.sleep(1)
    await first.close()

    assert {} == await balances_of(world)
    second = await world.engine(slow)
    assert 1 == await second.handle("s", slow).result()
    assert {"ann": 1} == await balances_of(world)


async def test_a_row_of_attempts_that_is_on_its_way_does_not_outlive_its_step(world: World) -> None:
    """Written after the result, which does not pass through the committer, it would stay until the end of the run."""
    engine = await world.engine(shaky_then_waiting)
    await engine.start(shaky_then_waiting(), id="a")

    def has_rows(batch: Any) -> bool:
        return any(write.attempts for write in batch)

    for _ in range(8):
        link(engine).fail("commit", when=has_rows)
    await until(lambda: done["shaky"] == 2)
    await asyncio.sleep(60)

    assert {} == world.attempts("a")


def test_a_kill_at_every_durable_point_changes_nothing() -> None:
    """The transactions are such points too: before them there is neither effect nor record, after them both."""

    @es.workflow
    async def whole() -> dict[str, int]:
        await transfer("ann", "bob", 100)
        await asyncio.gather(add("cy", 1), add_slowly("dee", 2))
        return await balances()

    def check(effects: Effects) -> None:
        assert {"ann": 900, "bob": 100, "cy": 1, "dee": 2} == effects.result

    report = crash_everywhere(whole(), workflows=[transfer], check=check)

    assert report.kills > 20


# --- misuse -----------------------------------------------------------------------------------------------------------


async def test_asking_everstep_in_a_body_is_an_error_and_no_deadlock(world: World) -> None:
    """J5: the store waits for the body, so one would wait for the other."""
    engine = await world.engine(look)
    other = await world.client()

    @es.transaction
    async def nested(tx: es.SQLiteTx) -> list[str]:
        asks: list[Any] = [
            lambda: engine.start(look()),
            lambda: engine.get("a"),
            engine.list,
            lambda: engine.handle("a").send(es.signal("s", str), "x"),
            lambda: other.start(look()),
            lambda: other.handle("a").result(),
            lambda: add("ann", 1),
        ]
        refused: list[str] = []
        for ask in asks:
            with pytest.raises(es.UsageError) as error:
                await ask()
            refused.append(str(error.value))
        return refused

    refused = await run(world, nested, engine=engine)
    assert 6 == len([text for text in refused if "body of transaction" in text])
    assert "inside the step" in refused[-1]


async def test_asking_everstep_from_the_thread_of_a_body_is_an_error_too(world: World) -> None:
    """Also through the loop, and with an engine of one's own."""
    loop = asyncio.get_running_loop()
    engine = await world.engine(look)

    @es.transaction
    def nested(tx: es.SQLiteTx) -> list[str]:
        refused: list[str] = []
        with pytest.raises(es.UsageError) as error:
            asyncio.run_coroutine_threadsafe(engine.get("a"), loop).result(timeout=5)
        refused.append(str(error.value))
        with pytest.raises(es.UsageError) as error:
            es.run(look(), store="memory://")
        refused.append(str(error.value))
        return refused

    assert all("body of transaction" in text for text in await run(world, nested, engine=engine))


async def test_a_store_without_transactions_fails_the_step_and_says_so(world: World) -> None:
    """Which steps a workflow has is known only when it asks for them: so at the await."""

    class Plain(MemoryStore):
        transact: Any = None

    store = Plain(now=world.clock.now, monotonic=world.clock.monotonic)
    async with es.Engine(store, [look]) as engine:
        with pytest.raises(es.RunFailed, match="cannot run the SQL of transactions"):
            await (await engine.start(look(), id="a")).result()


def test_a_function_without_a_parameter_for_the_connection_is_refused_where_it_is_written() -> None:
    def nothing() -> None: ...

    def keyword(*, tx: es.SQLiteTx) -> None: ...

    def default(tx: es.SQLiteTx | None = None) -> None: ...

    define: Any = es.transaction
    for function in (nothing, keyword, default):
        with pytest.raises(es.UsageError, match="no parameter for the connection"):
            define(function)


async def test_outside_a_workflow_a_connection_has_to_be_passed() -> None:
    """Business code stays testable: the function is there, and takes any connection that answers alike."""
    connection = apsw.Connection(":memory:")

    class Tx:
        def execute(self, statement: str, bindings: Any = (), /) -> Any:
            return asking(connection)(statement, bindings)

        def executemany(self, statement: str, rows: Any, /) -> Any:
            raise NotImplementedError

    with pytest.raises(es.UsageError, match=r"add\.function\(connection"):
        await add("ann", 5)
    assert 5 == add.function(Tx(), "ann", 5)


async def test_the_wrong_arguments_are_told_in_pythons_words(world: World) -> None:
    with pytest.raises(es.RunFailed, match="missing 1 required positional argument: 'cents'"):
        await run(world, add, "ann")


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[es.Engine]:
    async with es.Engine(f"sqlite:///{tmp_path}/state.db", [transfer, look]) as engine:
        yield engine


async def test_the_same_on_a_file(on_disk: es.Engine) -> None:
    """In the store's own file, beside its tables."""
    assert [1000, 900, 100] == await (await on_disk.start(transfer("ann", "bob", 100), id="t")).result()
    assert {"ann": 900, "bob": 100} == await (await on_disk.start(look())).result()


async def test_a_failing_store_is_told_apart_from_a_failing_body(world: World) -> None:
    """StoreUnavailable raised by a body of its own accord is the body's."""

    @es.transaction
    def mine(tx: es.SQLiteTx) -> None:
        raise StoreUnavailable("mine")

    with pytest.raises(es.RunFailed, match="mine"):
        await run(world, mine)
    [failed] = [event for event in await world.events("a") if isinstance(event, StepFailed)]
    assert "everstep.errors.StoreUnavailable" == failed.error.type
