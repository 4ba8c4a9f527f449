"""
Talking with a run: signals are consumed once and in order, state can be read at any version.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

import everstep as es
from everstep.events import NoteRecorded, SignalAwaited, SignalReceived
from tests.engine.support import World, is_in_memory, kill, lose_answer, turns

HOUR = 3600.0


@dataclass(frozen=True)
class Decision:
    approved: bool
    by: str


approval = es.signal("approval", Decision)
word = es.signal("word", str)
progress = es.state("progress", int)

YES = Decision(approved=True, by="ann")


@es.step
async def double(n: int) -> int:
    return 2 * n


@es.workflow
async def ask() -> Decision:
    return await approval.wait()


@es.workflow
async def ask_for_an_hour() -> Decision | None:
    return await approval.wait(timeout=HOUR, default=None)


@es.workflow
async def ask_impatiently() -> str:
    try:
        await approval.wait(timeout=HOUR)
    except TimeoutError:
        return "nobody came"
    return "somebody came"


@es.workflow
async def collect(count: int) -> list[str]:
    words: list[str] = []
    async for each in word:
        words.append(each)
        progress.set(len(words))
        if len(words) == count:
            return words
    return words


@es.workflow
async def change_of_mind() -> list[str]:
    first = asyncio.create_task(_next_word())
    await es.sleep(1)
    first.cancel()
    return [await word.wait(), await word.wait()]


async def _next_word() -> str:
    return await word.wait()


@es.workflow
async def wait_for_itself() -> tuple[bool, bool]:
    total = 0

    async def add(n: int) -> None:
        nonlocal total
        doubled = await double(n)
        total += doubled

    async with asyncio.TaskGroup() as group:
        group.create_task(add(1))
        group.create_task(add(2))
        came = await es.condition(lambda: total == 6)
    return came, await es.condition(lambda: total == 7, timeout=HOUR)


@es.workflow
async def condition_that_fails() -> None:
    await es.condition(lambda: 1 / 0 > 0)


@es.workflow
async def explain() -> int | None:
    es.note("chose", {"carrier": "slow", "because": 3})
    es.note("done")
    progress.set(7)
    return progress.get()


async def test_a_signal_reaches_a_parked_run(world: World) -> None:
    """It costs no memory while it waits, and goes on when somebody speaks."""
    engine = await world.engine(ask)
    handle = await engine.start(ask(), id="a")
    await turns()

    assert not is_in_memory(engine, "a")
    await handle.send(approval, YES)
    assert YES == await handle.result()
    assert 0 == world.seconds


async def test_a_signal_from_another_client_reaches_a_run_in_memory(world: World) -> None:
    engine = await world.engine(collect)
    handle = await engine.start(collect(2), id="a")
    client = await world.client()

    await client.handle("a").send(word, "one")
    await client.handle("a").send(word, "two")

    assert ["one", "two"] == await handle.result()


async def test_signals_sent_before_the_run_is_claimed_wait_for_it(world: World) -> None:
    """An acknowledged start can be spoken to at once."""
    client = await world.client()
    handle = await client.start(collect(3), id="a")
    for text in ("one", "two", "three"):
        await handle.send(word, text)
    await world.engine(collect)

    assert ["one", "two", "three"] == await handle.result()


async def test_signals_keep_their_order_and_are_consumed_once_across_kills(world: World) -> None:
    """I8: acknowledged is consumed exactly once, first in first out, whoever drives the run."""
    engine = await world.engine(collect)
    handle = await engine.start(collect(5), id="a")
    for number in range(5):
        await handle.send(word, str(number))
        await turns(number)
        kill(engine)
        engine = await world.engine(collect)
        handle = engine.handle("a", collect)

    assert ["0", "1", "2", "3", "4"] == await handle.result()
    received = [event for event in await world.events("a") if isinstance(event, SignalReceived)]
    assert 5 == len(received)


async def test_a_signal_that_is_repeated_with_its_key_is_consumed_once(world: World) -> None:
    """Sending is safe to repeat, in any spelling of the sender."""
    engine = await world.engine(collect)
    handle = await engine.start(collect(2), id="a")
    for _ in range(10):
        await handle.send(word, "one", key="1")
    await handle.send(word, "two", key="2")

    assert ["one", "two"] == await handle.result()


async def test_a_wait_gives_up_when_its_time_is_over(world: World) -> None:
    engine = await world.engine(ask_for_an_hour, ask_impatiently)

    assert await (await engine.start(ask_for_an_hour())).result() is None
    assert "nobody came" == await (await engine.start(ask_impatiently())).result()
    assert 2 * HOUR == pytest.approx(world.seconds, abs=0.01)


async def test_a_signal_in_time_ends_the_wait_and_its_timer(world: World) -> None:
    engine = await world.engine(ask_for_an_hour)
    handle = await engine.start(ask_for_an_hour(), id="a")
    await asyncio.sleep(HOUR / 2)
    await handle.send(approval, YES)

    assert YES == await handle.result()
    assert HOUR / 2 == pytest.approx(world.seconds, abs=0.01)


async def test_what_arrives_for_a_wait_that_was_given_up_goes_to_the_next(world: World) -> None:
    """A cancelled wait takes nothing with it."""
    engine = await world.engine(change_of_mind)
    handle = await engine.start(change_of_mind(), id="a")
    await asyncio.sleep(2)
    await handle.send(word, "one")
    await handle.send(word, "two")

    assert ["one", "two"] == await handle.result()


@es.workflow
async def relay(rounds: int, heard: list[str]) -> list[str]:
    """Takes one word in each of its segments."""
    heard.append(await word.wait())
    if rounds:
        es.continue_as_new(relay(rounds - 1, heard))
    return heard


async def test_signals_outlive_a_run_that_continues_as_new(world: World) -> None:
    """Those that were sent before and not taken, and those that come after; also when its worker dies in between."""
    engine = await world.engine(relay)
    handle = await engine.start(relay(3, []), id="a", send=[word.message("one"), word.message("two")])
    await turns()
    await handle.send(word, "three", key="once")
    kill(engine)
    other = await world.engine(relay)
    await asyncio.sleep(60)
    again = other.handle("a", relay)

    await again.send(word, "three", key="once")
    await again.send(word, "four")

    assert ["one", "two", "three", "four"] == await again.result()
    assert 1 < (await world.record("a")).base


async def test_a_run_at_rest_takes_no_signal(world: World) -> None:
    engine = await world.engine(explain)
    handle = await engine.start(explain(), id="a")
    await handle.result()

    with pytest.raises(es.RunEnded, match="run a is succeeded, so signal word was not sent"):
        await handle.send(word, "late")
    with pytest.raises(es.RunNotFound):
        await engine.handle("nobody").send(word, "hello")


async def test_a_value_of_the_wrong_type_is_refused_where_it_is_sent(world: World) -> None:
    engine = await world.engine(ask)
    handle = await engine.start(ask(), id="a")
    wrong: Any = Decision(approved=True, by=7)  # type: ignore[arg-type]

    with pytest.raises(es.Unencodable, match="by"):
        await handle.send(approval, wrong)
    assert [] == [event for event in await world.events("a") if isinstance(event, SignalReceived)]


async def test_state_can_be_read_at_every_version(world: World) -> None:
    """It belongs to the entry in which it was published, whatever happened later."""
    engine = await world.engine(collect)
    handle = await engine.start(collect(2), id="a")
    await handle.send(word, "one")
    await turns()
    await handle.send(word, "two")
    await handle.result()

    payloads = [(await handle.snapshot(entry.version)).payload for entry in await handle.history()]
    published = [payload["progress"] for payload in payloads if "progress" in payload]
    assert [1, 2] == sorted(set(published))
    assert published == sorted(published)


async def test_state_and_notes_are_recorded_and_state_can_be_read_back(world: World) -> None:
    engine = await world.engine(explain)

    assert 7 == await (await engine.start(explain(), id="a")).result()
    notes = [(event.name, bytes(event.value)) for event in await world.events("a") if isinstance(event, NoteRecorded)]
    assert [("chose", b'{"carrier":"slow","because":3}'), ("done", b"null")] == notes


async def test_a_condition_waits_for_what_the_code_brings_about(world: World) -> None:
    engine = await world.engine(wait_for_itself)

    assert (True, False) == await (await engine.start(wait_for_itself(), id="a")).result()
    assert HOUR == pytest.approx(world.seconds, abs=0.01)


async def test_a_condition_that_raises_fails_its_workflow(world: World) -> None:
    engine = await world.engine(condition_that_fails)

    with pytest.raises(es.RunFailed, match="ZeroDivisionError"):
        await (await engine.start(condition_that_fails())).result()


async def test_waiting_for_another_signal_than_recorded_is_noticed(world: World) -> None:
    """The journal says what it waits for; other code must not take something else."""

    @es.workflow(name="ask")
    async def other() -> str:
        return await word.wait()

    engine = await world.engine(ask)
    await engine.start(ask(), id="a")
    await turns()
    await engine.close()
    changed = await world.engine(other)
    await changed.handle("a").send(word, "hello")

    with pytest.raises(es.RunPaused, match=r"(?s)recorded:  wait for signal approval.*requested: wait for signal word"):
        await changed.handle("a").result()
    assert 1 == len([event for event in await world.events("a") if isinstance(event, SignalAwaited)])


@pytest.mark.parametrize(
    "misuse",
    [lambda: progress.set(1), progress.get, lambda: es.note("why"), lambda: es.state("", int), lambda: es.signal("a b", int)],
)
def test_outside_a_workflow_nothing_is_published(misuse: Any) -> None:
    with pytest.raises(es.UsageError):
        misuse()


async def test_outside_a_workflow_nothing_can_be_awaited() -> None:
    with pytest.raises(es.UsageError, match="signal approval was awaited outside a workflow"):
        await approval.wait()
    with pytest.raises(es.UsageError, match="outside a workflow"):
        await es.condition(lambda: True)


# --- starting with a signal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["engine", "client", "delayed"])
async def test_a_run_that_is_started_with_signals_has_them_from_the_beginning(world: World, by: str) -> None:
    """In the transaction that creates it, so nobody can find the one without the other; once by key, however often repeated."""
    engine = await world.engine(collect)
    starter = await world.client() if by == "client" else engine
    sent = [word.message("one", key="1"), word.message("two"), word.message("again", key="1")]
    delay = 1.0 if by == "delayed" else 0.0

    handle = await starter.start(collect(3), id="a", send=sent, delay=delay)
    first = await world.record("a")
    await handle.send(word, "not again", key="1")
    await starter.start(collect(3), id="a", send=word.message("three", key="3"))
    await starter.start(collect(3), id="a", send=word.message("not again", key="3"))

    assert 2 == first.inbox_seq
    assert ["one", "two", "three"] == await handle.result()
    assert "a" == (await starter.start(collect(3), id="a", send=word.message("late", key="3"))).run_id
    with pytest.raises(es.RunEnded, match="run a is succeeded, so signal word was not sent"):
        await starter.start(collect(3), id="a", send=word.message("late", key="4"))


async def test_a_start_that_is_refused_sends_nothing(world: World) -> None:
    engine = await world.engine(collect)
    await engine.start(collect(3), id="a")

    with pytest.raises(es.RunConflict):
        await engine.start(collect(2), id="a", send=word.message("one"))
    with pytest.raises(es.UsageError, match="is no signal with a value"):
        await engine.start(collect(2), id="b", send="one")  # type: ignore[arg-type]

    assert 0 == (await world.record("a")).inbox_seq


async def test_a_start_whose_answer_was_lost_is_repeated_with_its_signal(world: World) -> None:
    """The worker commits again; a program that starts it anew finds both."""
    engine = await world.engine(collect)
    lose_answer(engine, "commit")
    handle = await engine.start(collect(1), id="a", send=word.message("one", key="1"))

    assert ["one"] == await handle.result()
    assert 1 == len([event for event in await world.events("a") if isinstance(event, SignalReceived)])


async def test_sending_again_what_a_run_has_taken_is_fine_after_its_end(world: World) -> None:
    """Repeating is safe: the sender need not know whether it was heard the first time."""
    engine = await world.engine(ask)
    handle = await engine.start(ask(), id="a")
    await handle.send(approval, YES, key="1")
    assert YES == await handle.result()

    await handle.send(approval, YES, key="1")
    with pytest.raises(es.RunEnded):
        await handle.send(approval, YES, key="2")


# --- what nobody took -------------------------------------------------------------------------------------------------


async def test_signals_that_nobody_took_are_kept_and_told(world: World) -> None:
    """I8: consumed, in the inbox, or undelivered; in order, with their keys."""
    engine = await world.engine(change_of_mind)
    await engine.start(change_of_mind(), id="a")
    await asyncio.sleep(2)
    handle = (await world.client()).handle("a", change_of_mind)
    for number in range(4):
        await handle.send(word, str(number), key=f"k{number}")
    await handle.send(approval, YES)
    await handle.result()

    left = await handle.undelivered()
    assert [("word", "2", "k2"), ("word", "3", "k3"), ("approval", {"approved": True, "by": "ann"}, "")] == [
        (each.name, each.value, each.key) for each in left
    ]


async def test_signals_that_a_live_run_has_not_taken_are_told_too(world: World) -> None:
    """Read or unread."""
    client = await world.client()
    handle = await client.start(collect(2), id="a", send=[word.message("one"), approval.message(YES)])
    assert ["word", "approval"] == [each.name for each in await handle.undelivered()]
    await world.engine(collect)
    await turns()

    assert ["approval"] == [each.name for each in await handle.undelivered()]
