"""
Runs that their code cannot drive: changed code, altered journals, messages that make no sense.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

import everstep as es
from everstep.events import RunPaused, StepCompleted
from everstep.records import Message
from tests.engine.support import World, is_in_memory, kill, link, turns, until, worker_of

HOUR = 3600.0

executed: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()


@es.step
async def charge(order_id: str, cents: int) -> str:
    executed.append(f"charge {cents}")
    return f"receipt {order_id}"


@es.step
async def ship(receipt: str) -> str:
    executed.append("ship")
    return f"shipped for {receipt}"


@es.workflow(name="checkout")
async def checkout(order_id: str) -> str:
    receipt = await charge(order_id, 1999)
    await asyncio.sleep(60)
    return await ship(receipt)


@es.workflow(name="checkout")
async def dearer_checkout(order_id: str) -> str:
    receipt = await charge(order_id, 2499)
    await asyncio.sleep(60)
    return await ship(receipt) + "!"


@es.workflow(name="checkout")
async def patched_checkout(order_id: str) -> str:
    receipt = await charge(order_id, 2499 if es.patched("dearer") else 1999)
    await asyncio.sleep(60)
    return await ship(receipt)


@es.workflow
async def healthy(n: int) -> int:
    await asyncio.sleep(60)
    return n


async def start_and_leave(world: World) -> None:
    engine = await world.engine(checkout)
    await engine.start(checkout("42"), id="a")
    await turns()
    await engine.close()


@pytest.mark.parametrize("asker", ["the engine", "a client", "a client that comes later"])
async def test_changed_code_pauses_the_run_and_says_why(world: World, asker: str, caplog: pytest.LogCaptureFixture) -> None:
    """G2: recorded and requested side by side, for whoever waits."""
    await start_and_leave(world)
    engine = await world.engine(dearer_checkout)
    client: Any = engine if asker == "the engine" else await world.client()
    if asker == "a client that comes later":
        await asyncio.sleep(100)

    with pytest.raises(es.RunPaused) as raised:
        await client.handle("a").result()
    first, *rest = str(raised.value).splitlines()
    assert first.startswith("run a is paused")
    assert any("recorded:" in line and '"cents":1999' in line for line in rest)
    assert any("requested:" in line and '"cents":2499' in line for line in rest)
    assert ["charge 1999"] == executed
    assert es.Status.PAUSED is (await world.record("a")).status
    assert isinstance((await world.events("a"))[-1], RunPaused)
    assert 1 == len(caplog.records)


async def test_the_code_that_it_started_on_resumes_it(world: World) -> None:
    await start_and_leave(world)
    wrong = await world.engine(dearer_checkout)
    with pytest.raises(es.RunPaused):
        await wrong.handle("a").result()
    version = (await world.record("a")).version
    await asyncio.sleep(HOUR)
    assert version == (await world.record("a")).version, "the wrong code must not try again"

    right = await world.engine(checkout)

    assert "shipped for receipt 42" == await right.handle("a", checkout).result()
    assert ["charge 1999", "ship"] == executed


async def test_code_that_guards_the_change_resumes_it_and_new_runs_take_the_change(world: World) -> None:
    """What the message of the pause says to do."""
    await start_and_leave(world)
    wrong = await world.engine(dearer_checkout)
    with pytest.raises(es.RunPaused, match=r"es\.patched"):
        await wrong.handle("a").result()
    await wrong.close()

    right = await world.engine(patched_checkout)

    assert "shipped for receipt 42" == await right.handle("a", checkout).result()
    assert "shipped for receipt 43" == await (await right.start(patched_checkout("43"), id="b")).result()
    assert ["charge 1999", "ship", "charge 2499", "ship"] == executed


async def test_two_wrong_codes_do_not_hand_the_run_to_each_other(world: World) -> None:
    @es.workflow(name="checkout")
    async def another(order_id: str) -> str:
        return await ship(order_id)

    await start_and_leave(world)
    await world.engine(dearer_checkout)
    await world.engine(another)
    await asyncio.sleep(HOUR)

    assert 2 == len([e for e in await world.events("a") if isinstance(e, RunPaused)])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("part", ["events", "hash"])
async def test_a_corrupt_entry_pauses_that_run_only(world: World, version: int, part: str) -> None:
    """B7: whichever entry it is, the first included."""
    engine = await world.engine(checkout, healthy)
    await engine.start(checkout("42"), id="a")
    others = [await engine.start(healthy(n), id=f"h{n}") for n in range(3)]
    await turns()
    kill(engine)
    store: Any = world.store
    entries = store._runs[store._keys["a"]].entries
    damaged = entries[version - 1]
    bad = b"\x00" + damaged.events[1:] if part == "events" else bytes(32)
    entries[version - 1] = replace(damaged, **{part: bad})

    second = await world.engine(checkout, healthy)

    with pytest.raises(es.RunPaused, match="corrupt: run a: entry"):
        await second.handle("a").result()
    assert [0, 1, 2] == [await second.handle(other.run_id, healthy).result() for other in others]
    assert ["charge 1999"] == executed


async def test_a_message_that_cannot_be_read_pauses_that_run_only(world: World) -> None:
    engine = await world.engine(checkout, healthy)
    await engine.start(checkout("42"), id="a")
    other = await engine.start(healthy(1), id="h")
    await turns()
    await world.store.post("a", Message(event=b'{"event":"Nonsense"}'))

    with pytest.raises(es.RunPaused, match="corrupt: message 1"):
        await engine.handle("a").result()
    assert 1 == await other.result()


async def test_a_pause_loses_neither_messages_nor_outcomes(world: World) -> None:
    """What the code could not take in is there for the code that can."""

    @es.workflow(name="child")
    async def child() -> Any:
        return "seven"

    @es.workflow(name="child")
    async def child_of_numbers() -> int:
        return 7

    @es.step(name="charge")
    async def charge_slowly(order_id: str, cents: int) -> str:
        await asyncio.sleep(1)  # Its run keeps the first engine's only place, so the child is driven by the other.
        executed.append(f"charge {cents}")
        return f"receipt {order_id}"

    @es.workflow(name="parent")
    async def strict() -> str:
        both = await asyncio.gather(child_of_numbers(), charge_slowly("42", 1999))
        return str(both)

    @es.workflow(name="parent")
    async def lenient() -> str:
        both = await asyncio.gather(child(), charge("42", 1999))
        return str(both)

    kids = await world.engine(child)
    first = await world.engine(strict, concurrency=1)
    await first.start(strict(), id="a")
    await asyncio.sleep(1)
    with pytest.raises(es.RunPaused, match="no longer fits its declared type"):
        await first.handle("a").result()
    await first.close()
    assert es.Status.SUCCEEDED is (await world.record("a/0.1:1")).status

    second = await world.engine(lenient)

    assert "['seven', 'receipt 42']" == await asyncio.wait_for(second.handle("a", lenient).result(), HOUR)
    assert ["charge 1999"] == executed
    assert 1 == len([e for e in await world.events("a") if isinstance(e, StepCompleted)])
    assert kids is not second


async def test_an_unexpected_fault_of_one_claim_does_not_end_all_claims(world: World) -> None:
    engine = await world.engine(healthy)
    worker = worker_of(engine)
    original = worker.drive
    failed: list[Any] = []

    def drive(claimed: Any, shared: object) -> None:
        if not failed:
            failed.append(claimed)
            raise RuntimeError("on request")
        original(claimed, shared)

    worker.drive = drive
    client = await world.client()
    await client.start(healthy(1), id="a")
    await until(lambda: bool(failed))
    second = await client.start(healthy(2), id="b")

    assert 2 == await second.result()


async def test_a_verdict_that_is_fenced_is_no_verdict(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The worker that wanted to pause the run had lost it to one with the right code."""
    await start_and_leave(world)
    wrong = await world.engine(dearer_checkout, inline=False)
    link(wrong).fail("commit", delay=5, error=None)
    waiting = asyncio.ensure_future(wrong.handle("a", checkout).result())
    await until(lambda: is_in_memory(wrong, "a"))
    world.store.kill(worker_of(wrong).worker_key)
    await world.engine(checkout)

    assert "shipped for receipt 42" == await waiting
    await asyncio.sleep(60)
    assert "is paused" not in caplog.text
