"""
Transactions of the PostgreSQL store that really overlap: each is held in the middle while another one runs into it.
"""

# pyright: reportPrivateUsage=false
# A test may look inside.

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec import Raw

from everstep.events import RunClaimed, RunSucceeded, StepCompleted, TimerFired
from everstep.journal import verify_chain
from everstep.records import Status
from everstep.stores.base import Append, Behind, ClaimRequest, Fenced, Landed, Outcome, Post, RunFilter, TooEarly
from everstep.testing.scene import CODE, WORKFLOW, Scene, message, new_run

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, claim, fast, link
from everstep.stores.postgres.link import Link
from everstep.stores.postgres.pool import Tx

SUCCESS = RunSucceeded(Raw(b"1"))
HOUR = 3600.0
_HISTORY = "SELECT event, facts::text FROM everstep.history ORDER BY at, version"


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url, empty_seconds=0)
    await store.open()
    yield store
    await verify(store)
    await store.close()


async def persistently(store: PostgresStore, batch: Sequence[Append]) -> list[Outcome]:
    """Commit as the engine does: what is put off is written again. On a busy machine anything may be."""
    outcomes = await store.commit(batch)
    late = [write for write, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, TooEarly)]
    if not late:
        return outcomes
    await asyncio.sleep(0.01)
    answers = iter(await persistently(store, late))
    return [next(answers) if isinstance(outcome, TooEarly) else outcome for outcome in outcomes]


@pytest.fixture
def scene(store: PostgresStore) -> Scene:
    return Scene(store, None)  # type: ignore[arg-type]


async def verify(store: PostgresStore) -> None:
    for run in await store.list(RunFilter(limit=1000)):
        verify_chain(await store.load(run.run_key), run_key=run.run_key, run_id=run.run_id, head=run.hash)


@asynccontextmanager
async def held_open(store: PostgresStore) -> AsyncGenerator[tuple[Link, Tx]]:
    """A transaction of somebody's, to be committed by hand."""
    connection = await link.connect(store._address, is_pooled=False)
    await connection.execute("BEGIN")
    try:
        yield connection, Tx(connection, store._state().pool.names)
    finally:
        await connection.close()


async def waits_for_a_lock(store: PostgresStore) -> None:
    """Until some statement of ours waits for somebody."""
    async with AsyncExitStack() as stack:
        connection = await link.connect(store._address, is_pooled=True)
        stack.push_async_callback(connection.close)
        for _ in range(2000):
            waiting = await connection.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if waiting:
                return
            await asyncio.sleep(0.005)
    raise AssertionError("nothing waits")


# --- the fence ------------------------------------------------------------------------------------------------------------


async def test_an_append_that_began_before_a_claim_ended_is_fenced(store: PostgresStore, scene: Scene) -> None:
    """C1: to its statement the run still belongs to the zombie; the claim entry at its version decides."""
    zombie, heir = await scene.worker("zombie", HOUR), await scene.worker("heir", HOUR)
    old = await scene.owned(zombie)
    await store.kill(zombie)
    (dead,) = [each for each in (await store._see())[0] if each.worker_key == zombie]
    ask = claim.asked(ClaimRequest(worker_key=heir, workflows={WORKFLOW: CODE}, run_max=1), None, None)
    async with held_open(store) as (connection, tx):
        claims = await claim.claim(tx, ask, [(dead, "killed")])
        late = asyncio.ensure_future(store.commit([scene.append(old)]))
        await waits_for_a_lock(store)

        await connection.execute("COMMIT")

        assert [Fenced()] == await late
    (claimed,) = claims.runs
    assert claimed.entries == await store.load(old.run_key)
    assert [Fenced()] == await store.commit([scene.append(old, version=4)])


async def test_an_ending_that_began_before_a_claim_ended_is_fenced(store: PostgresStore, scene: Scene) -> None:
    """The same for what has to lock the run's row: here the claim holds it."""
    zombie, heir = await scene.worker("zombie", HOUR), await scene.worker("heir", HOUR)
    old = await scene.owned(zombie)
    await store.kill(zombie)
    (dead,) = [each for each in (await store._see())[0] if each.worker_key == zombie]
    ask = claim.asked(ClaimRequest(worker_key=heir, workflows={WORKFLOW: CODE}, run_max=1), None, None)
    async with held_open(store) as (connection, tx):
        await claim.claim(tx, ask, [(dead, "killed")])
        ending = scene.append(old, SUCCESS, status=Status.SUCCEEDED)

        assert [TooEarly()] == await store.commit([ending])

        await connection.execute("COMMIT")
    assert [Fenced()] == await store.commit([ending])


async def test_a_claim_goes_on_after_an_append_that_was_under_way(store: PostgresStore, scene: Scene) -> None:
    """The append was first, so the claim entry follows it: the zombie's last step is not lost."""
    zombie, heir = await scene.worker("zombie", HOUR), await scene.worker("heir", HOUR)
    old = await scene.owned(zombie)
    await store.kill(zombie)
    last = scene.append(old, StepCompleted("0:9", Raw(b"1")))
    async with held_open(store) as (connection, tx):
        assert {old.run_key} == await fast.lean(tx, [last], None)
        claiming = asyncio.ensure_future(scene.claim_one(heir))
        await waits_for_a_lock(store)

        await connection.execute("COMMIT")

        claimed = await claiming
    assert [1, 2, 3, 4] == [entry.version for entry in claimed.entries]
    assert last.entry == claimed.entries[2]
    assert 1 == claimed.run.deaths


async def test_what_another_claimer_is_taking_is_passed_over(store: PostgresStore, scene: Scene) -> None:
    """P8: it is not waited for, and asked for again soon."""
    worker = await scene.worker("me", HOUR)
    await store.create([new_run("order-1"), new_run("order-2")])
    async with held_open(store) as (connection, tx):
        await tx.fetch("SELECT 1 FROM everstep.runs WHERE run_id = 'order-1' FOR NO KEY UPDATE")

        claims = await scene.claim(worker, 5)

        assert ["order-2"] == [each.run.run_id for each in claims.runs]
        assert claims.next_due_at is not None
        assert claims.next_due_at <= store.now()
        await connection.execute("ROLLBACK")
    assert "order-1" == (await scene.claim_one(worker)).run.run_id


# --- a row that somebody holds for long -----------------------------------------------------------------------------------


async def test_a_users_transaction_that_holds_a_run_holds_up_no_other(store: PostgresStore, scene: Scene) -> None:
    """Everything of a batch that needs the row is put off, by itself; entries in the middle of the very run are not."""
    worker = await scene.worker("me", HOUR)
    held, *others = [await scene.owned(worker, f"order-{n}") for n in range(5)]
    async with held_open(store) as (connection, tx):
        await tx.fetch("UPDATE everstep.runs SET inbox_seq = inbox_seq WHERE run_id = 'order-0'")
        one, two, three, four = others
        ending = scene.append(held, SUCCESS, status=Status.SUCCEEDED)
        sending = scene.append(two, posts=(Post(run_id="order-0", message=message(TimerFired("0:1"))),))
        release = scene.keep(held, release=True)

        async with asyncio.timeout(5):
            outcomes = await store.commit([scene.append(one, SUCCESS, status=Status.SUCCEEDED), ending, sending])
            assert [Landed(), TooEarly(), TooEarly()] == outcomes
            assert [Landed(), Behind()] == await store.commit([scene.append(three, SUCCESS, status=Status.FAILED), release])
            held = await scene.landed(scene.append(held))

        await connection.execute("COMMIT")
    ending = scene.append(held, SUCCESS, status=Status.SUCCEEDED)
    assert [Landed(), Landed(), Landed()] == await store.commit([ending, sending, scene.append(four)])


async def test_children_that_end_at_once_are_told_in_one_transaction(store: PostgresStore, scene: Scene) -> None:
    """P13: their parent's row is locked once, and the messages are numbered without gaps."""
    worker = await scene.worker("me", HOUR)
    parent = await scene.owned(worker)
    children = tuple(new_run(f"child-{n}", parent_command=f"0:{n}") for n in range(40))
    parent = await scene.landed(scene.append(parent, children=children))
    claimed = (await scene.claim(worker, 50)).runs
    endings = [scene.append(each.run, SUCCESS, status=Status.SUCCEEDED) for each in claimed]

    outcomes = await asyncio.gather(*(persistently(store, endings[n::4]) for n in range(4)))

    assert {Landed} == {type(outcome) for answers in outcomes for outcome in answers}
    ((_, messages),) = await store.pull(worker)
    assert list(range(1, 41)) == [each.seq for each in messages]
    assert {f"0:{n}" for n in range(40)} == {json.loads(each.event)["key"] for each in messages}


# --- the inbox ------------------------------------------------------------------------------------------------------------


async def test_no_wake_up_is_lost_between_messages_and_parking(store: PostgresStore, scene: Scene) -> None:
    """P10, P11: whoever is first, the run is then due or still owned, and numbers have no gaps."""
    dice = random.Random(5)
    worker = await scene.worker("me", HOUR)
    seen: set[str] = set()
    for n in range(60):
        run = await scene.owned(worker, f"order-{n}")
        parking = scene.append(run, status=Status.WAITING, release=True)

        async def park(write: Any = parking) -> Any:
            await asyncio.sleep(dice.random() * 0.004)
            return (await store.commit([write]))[0]

        async def send(key: str, run_id: str = run.run_id) -> None:
            await asyncio.sleep(dice.random() * 0.004)
            await store.post(run_id, message(TimerFired(key)))

        outcome, *_ = await asyncio.gather(park(), send("0:1"), send("0:2"))

        after = await scene.run(run.run_id)
        seen.add(type(outcome).__name__)
        assert 2 == after.inbox_seq
        assert (after.worker_key is None) == isinstance(outcome, Landed)
        assert after.wake_at is not None or after.worker_key is not None
        if after.worker_key is not None:
            after = await scene.landed(scene.append(after, consumed=2))
        else:
            (claimed,) = (await scene.claim(worker)).runs
            assert [1, 2] == [each.seq for each in claimed.inbox]
            after = claimed.run
        await scene.rest(after, SUCCESS, Status.SUCCEEDED)
    assert {"Landed", "Behind"} <= seen


async def test_one_start_of_many_at_once_creates_the_run(store: PostgresStore, scene: Scene) -> None:
    """E1: a hundred starts of one id, half of them by workers that would drive it at once."""
    worker = await scene.worker("me", HOUR)
    local = asyncio.gather(*(persistently(store, [scene.first(worker)]) for _ in range(30)))
    queued = asyncio.gather(*(store.create([new_run()]) for _ in range(30)))

    committed, created = await local, await queued

    kinds = [type(each[0]).__name__ for each in committed] + [type(each[0]).__name__ for each in created]
    assert 1 == kinds.count("Landed") + kinds.count("Created")
    assert 59 == kinds.count("Exists")
    assert 1 == len(await store.list(RunFilter()))


async def test_a_pool_of_one_connection_is_enough(postgres_url: str) -> None:
    """K1: no verb needs a second connection while it holds one."""
    store = PostgresStore(f"{postgres_url}&pool=1")
    await store.open()
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker("me", HOUR)

    async with asyncio.timeout(20):
        runs = await asyncio.gather(*(scene.landed(scene.first(worker, f"order-{n}")) for n in range(20)))
        await asyncio.gather(
            *(store.commit([scene.append(run, SUCCESS, status=Status.SUCCEEDED)]) for run in runs),
            *(store.post(run.run_id, message(TimerFired("0:1"))) for run in runs),
            *(scene.claim(worker) for _ in range(5)),
            *(store.get(run.run_id) for run in runs),
            store.heartbeat(worker),
        )

    await store.close()


# --- odd payloads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        '"\\u0000"',
        '"\\ud800"',
        "1e400",
        "123456789012345678901234567890.10",
        '{"b":1,"a":2,"b":3}',
        '"\U0001f600 \u2028 \u00e9 e\u0301"',
        json.dumps("x" * 2_000_000),
    ],
    ids=["NUL", "surrogate", "huge", "digits", "order", "unicode", "2 MB"],
)
async def test_events_come_back_byte_by_byte(store: PostgresStore, scene: Scene, value: str) -> None:
    """H1: they are text to PostgreSQL; ``jsonb`` would refuse or rewrite every one of these."""
    run = await scene.owned(await scene.worker("me", HOUR))
    write = scene.append(run, StepCompleted("0:1", Raw(value.encode())))

    assert [Landed()] == await store.commit([write])

    assert write.entry == (await store.load(run.run_key))[-1]


async def test_the_history_shows_what_json_can_say_and_postgres_cannot(store: PostgresStore, scene: Scene) -> None:
    """One such value must not hide everybody's history."""
    run = await scene.owned(await scene.worker("me", HOUR))
    value = r'["\u0000", "\\u0000", "\\\u0000", 1e400]'
    await scene.commit(scene.append(run, StepCompleted("0:1", Raw(value.encode()))))

    rows = await store._state().pool.ask(lambda tx: tx.fetch(_HISTORY))

    assert ["RunCreated", "RunClaimed", "StepCompleted"] == [event for event, _ in rows]
    assert r'["\u2400", "\\u0000", "\\\u2400", 1e400]' in rows[-1][1]


async def test_the_views_show_runs_and_events_to_people(store: PostgresStore, scene: Scene) -> None:
    """With names and times, and with the status that the newest entry gives a run."""
    run = await scene.owned(await scene.worker("host:1", HOUR))
    await scene.commit(scene.append(run, status=Status.COMPENSATING, step="refund", cursor=3))

    async def look(tx: Tx) -> Any:
        overview = await tx.fetch("SELECT run_id, status, version, step, cursor, worker, unread FROM everstep.overview")
        return list(overview[0]), [row[0] for row in await tx.fetch("SELECT event FROM everstep.history WHERE version = 2")]

    overview, events = await store._state().pool.ask(look)

    assert ["order-1", "compensating", 3, "refund", 3, "host:1", 0] == overview
    assert [RunClaimed.__name__] == events
