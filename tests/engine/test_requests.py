"""
Requests: validated before they are accepted, answered exactly once by key, whatever happens to whoever answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from msgspec import Raw

import everstep as es
from everstep.events import (
    RequestAnswered,
    RequestFailed,
    RequestReceived,
    RequestRefused,
    RunClaimed,
    encode_event,
)
from everstep.records import Message
from everstep.testing import replay
from tests.engine.support import World, freeze, is_in_memory, kill, lose_answer, thaw, turns, until

HOUR = 3600.0


@dataclass(frozen=True)
class Want:
    name: str
    seats: int = 1


@dataclass(frozen=True)
class Ticket:
    name: str
    left: int


book = es.request("book", Want, Ticket)
echo = es.request("echo", str, str)
stop = es.signal("stop", str)
sold = es.state("sold", int)
touched: list[Any] = []
served: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def nothing_served() -> None:
    served.clear()
    touched.clear()


@es.step
async def print_ticket(name: str) -> str:
    served[name] += 1
    return f"ticket of {name}"


@es.workflow
async def box_office(seats: int) -> int:
    """Sells until it is stopped; never more than there is."""
    left = seats

    def check(want: Want) -> None:
        if want.seats > left:
            raise ValueError(f"only {left} left")

    async def sell(want: Want) -> Ticket:
        nonlocal left
        left -= want.seats
        ticket = Ticket(want.name, left)
        sold.set(seats - left)
        await print_ticket(want.name)
        return ticket

    book.handle(sell, validate=check)
    await stop.wait()
    await es.condition(lambda: book.pending == 0)
    return left


@es.workflow
async def clerk(count: int) -> list[str]:
    """Takes requests one by one, and answers the first of two last."""
    said: list[str] = []
    first = await echo.next()
    async for asked in echo:
        if asked.value == "no":
            asked.refuse("not that")
            continue
        said.append(asked.value)
        asked.answer(asked.value.upper())
        if len(said) == count:
            break
    first.answer(f"{first.value} at last")
    return [first.value, *said]


async def ticket_of(engine: es.Client, run_id: str, name: str, seats: int = 1, key: str = "") -> Ticket:
    return await engine.handle(run_id).ask(book, Want(name, seats), key=key or name)


# --- being answered ---------------------------------------------------------------------------------------------------


async def test_a_parked_run_is_woken_by_a_request_and_parks_again(world: World) -> None:
    """It costs no memory before and after, and no time passes."""
    engine = await world.engine(box_office)
    handle = await engine.start(box_office(3), id="a")
    await turns()
    assert not is_in_memory(engine, "a")

    assert Ticket("ann", 2) == await ticket_of(engine, "a", "ann")
    await turns()

    assert not is_in_memory(engine, "a")
    await handle.send(stop, "enough")
    assert 2 == await handle.result()
    assert 0 == world.seconds


async def test_a_request_of_another_process_is_answered(world: World) -> None:
    await (await world.engine(box_office)).start(box_office(3), id="a")
    client = await world.client()

    assert Ticket("ann", 1) == await ticket_of(client, "a", "ann", 2)
    assert 0 == world.seconds


async def test_asking_again_with_the_key_gives_the_one_answer(world: World) -> None:
    """From anywhere, with whatever value, after a restart, and after the run has ended."""
    engine = await world.engine(box_office)
    handle = await engine.start(box_office(3), id="a")
    client = await world.client()

    answers = await asyncio.gather(*(ticket_of(each, "a", "ann") for each in [engine, client] * 5))
    kill(engine)
    engine = await world.engine(box_office)
    answers.append(await ticket_of(engine, "a", "bob", 2, key="ann"))
    await engine.handle("a").send(stop, "enough")
    assert 2 == await engine.handle("a", box_office).result()
    answers.append(await ticket_of(engine, "a", "ann"))

    assert [Ticket("ann", 2)] * 12 == answers
    assert {"ann": 1} == served
    assert 1 == len([event for event in await world.events("a") if isinstance(event, RequestReceived)])
    with pytest.raises(es.RunEnded, match="request book bob of run a has no answer, and gets none: the run is succeeded"):
        await ticket_of(engine, "a", "bob")
    assert "a" == handle.run_id


async def test_without_a_key_every_request_is_another(world: World) -> None:
    engine = await world.engine(box_office)
    handle = await engine.start(box_office(3), id="a")

    assert [2, 1] == [(await handle.ask(book, Want("ann"))).left for _ in range(2)]


async def test_a_handler_that_raises_fails_its_request_and_nothing_else(world: World) -> None:
    """The run goes on; the asker gets what was raised, and gets it again."""

    @es.workflow
    async def moody() -> str:
        async def answer(text: str) -> str:
            await es.sleep(1)
            if text == "cancel":
                raise asyncio.CancelledError
            if text == "badly typed":
                return 7  # type: ignore[return-value]
            raise LookupError(text)

        echo.handle(answer)
        return await stop.wait()

    engine = await world.engine(moody)
    handle = await engine.start(moody(), id="a")
    for _ in range(2):
        with pytest.raises(
            es.RequestFailed, match=r"request echo k failed in run a: .*LookupError: what\. The run goes on"
        ) as raised:
            await handle.ask(echo, "what", key="k")
        assert isinstance(raised.value.__cause__, LookupError)
        assert ("a", "echo", "k") == (raised.value.run_id, raised.value.request, raised.value.key)
    for text, name in (("cancel", "CancelledError"), ("badly typed", "Unencodable")):
        with pytest.raises(es.RequestFailed, match=name):
            await handle.ask(echo, text)

    await handle.send(stop, "fine")
    assert "fine" == await handle.result()
    assert 3 == len([event for event in await world.events("a") if isinstance(event, RequestFailed)])


async def test_requests_can_be_taken_one_by_one_and_answered_later(world: World) -> None:
    engine = await world.engine(clerk)
    handle = await engine.start(clerk(2), id="a")
    first = asyncio.ensure_future(handle.ask(echo, "first"))
    await turns()
    refused = asyncio.ensure_future(handle.ask(echo, "no", key="n"))

    assert ["B", "C"] == [await handle.ask(echo, "b"), await handle.ask(echo, "c")]
    assert "first at last" == await first
    with pytest.raises(es.RequestRefused, match=r"run a refused request echo n: not that\. Nothing was done\.") as raised:
        await refused
    assert "not that" == raised.value.reason
    assert ["first", "b", "c"] == await handle.result()


async def test_a_wait_for_a_request_gives_up_when_its_time_is_over(world: World) -> None:
    """What arrives later goes to the next wait."""

    @es.workflow
    async def impatient() -> str:
        with suppress(TimeoutError):
            await echo.next(timeout=HOUR)
        asked = await echo.next()
        asked.answer("late")
        with pytest.raises(es.UsageError, match="was answered before"):
            asked.refuse("twice")
        return asked.value

    engine = await world.engine(impatient)
    handle = await engine.start(impatient(), id="a")
    await asyncio.sleep(HOUR + 1)

    assert "late" == await handle.ask(echo, "there?")
    assert "there?" == await handle.result()


async def test_a_run_in_memory_answers_and_refuses_without_a_poll(world: World) -> None:
    """Whoever asks in the same process hears of it at once."""

    @es.workflow
    async def awake() -> None:
        def check(text: str) -> None:
            assert text != "no"

        async def answer(text: str) -> str:
            return text

        echo.handle(answer, validate=check)
        await es.sleep(0.9)  # Too short to leave memory for.

    engine = await world.engine(awake)
    handle = await engine.start(awake(), id="a")
    assert "yes" == await handle.ask(echo, "yes")
    with pytest.raises(es.RequestRefused, match="assert 'no' != 'no'"):
        await handle.ask(echo, "no")

    assert is_in_memory(engine, "a")
    assert 0 == world.seconds


# --- being refused ----------------------------------------------------------------------------------------------------


async def test_what_the_validator_refuses_leaves_the_journal_untouched(world: World) -> None:
    """And the refusal stays: what is refused once is refused for good, whatever changed meanwhile."""

    @es.workflow
    async def open_later() -> str:
        is_open = False

        def check(text: str) -> None:
            if not is_open:
                raise PermissionError(f"{text} is too early")

        async def answer(text: str) -> str:
            return f"{text}!"

        echo.handle(answer, validate=check)
        async with asyncio.timeout(0.5):  # Short, so that it stays in memory.
            assert "open" == await stop.wait()
        is_open = True
        return await stop.wait()

    engine = await world.engine(open_later)
    handle = await engine.start(open_later(), id="a")
    before = await world.entries("a")
    for _ in range(3):
        with pytest.raises(es.RequestRefused, match="run a refused request echo k: it is too early") as raised:
            await handle.ask(echo, "it", key="k")
        assert "it is too early" == raised.value.reason

    assert before == await world.entries("a")
    await handle.send(stop, "open")
    await turns()
    with pytest.raises(es.RequestRefused):
        await handle.ask(echo, "it", key="k")
    assert "it!" == await handle.ask(echo, "it", key="another")


async def test_a_refusal_wakes_a_parked_run_and_parks_it_with_one_write(world: World) -> None:
    """Only the claim is in the journal: whoever takes a run says so."""
    engine = await world.engine(box_office)
    await engine.start(box_office(1), id="a")
    await turns()
    before = await world.entries("a")

    with pytest.raises(es.RequestRefused, match="only 1 left"):
        await ticket_of(engine, "a", "ann", 2)
    await turns()

    [claim] = (await world.entries("a"))[len(before) :]
    assert [RunClaimed] == [type(event) for event in claim.decoded()]
    assert not is_in_memory(engine, "a")
    assert Ticket("bob", 0) == await ticket_of(engine, "a", "bob")


async def test_the_validator_sees_everything_that_was_accepted_before(world: World) -> None:
    """Fifty ask at once for ten seats: not one too many is sold."""
    engine = await world.engine(box_office)
    handle = await engine.start(box_office(10), id="a")
    clients = [engine, await world.client()]

    asked = [ticket_of(clients[number % 2], "a", f"guest-{number}", 2) for number in range(50)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [8, 6, 4, 2, 0] == sorted((each.left for each in outcomes if isinstance(each, Ticket)), reverse=True)
    assert {"only 0 left"} == {each.reason for each in outcomes if isinstance(each, es.RequestRefused)}
    await handle.send(stop, "enough")
    assert 0 == await handle.result()
    assert 5 == len(served)


async def test_what_was_asked_before_the_run_began_is_judged_before_it_is_accepted(world: World) -> None:
    client = await world.client()
    await client.start(box_office(1), id="a")
    asked = [asyncio.ensure_future(ticket_of(client, "a", name)) for name in ("ann", "bob")]
    await turns()
    await world.engine(box_office)

    assert Ticket("ann", 0) == await asked[0]
    with pytest.raises(es.RequestRefused, match="only 0 left"):
        await asked[1]
    received = [event for event in await world.events("a") if isinstance(event, RequestReceived)]
    assert [("ann", True)] == [(event.id, event.judged) for event in received]


async def test_what_waits_for_a_handler_is_judged_when_it_is_set(world: World) -> None:
    """It is in the journal by then, and so is its refusal."""

    @es.workflow
    async def late_handler() -> str:
        await es.sleep(HOUR)

        def check(text: str) -> None:
            if text == "no":
                raise ValueError

        async def answer(text: str) -> str:
            return f"{text}!"

        echo.handle(answer, validate=check)
        return await stop.wait()

    engine = await world.engine(late_handler)
    handle = await engine.start(late_handler(), id="a")
    asked = [asyncio.ensure_future(handle.ask(echo, text, key=text)) for text in ("yes", "no")]
    await asyncio.sleep(HOUR / 2)
    assert [False, False] == [one.done() for one in asked]
    kill(engine)
    engine = await world.engine(late_handler)

    assert "yes!" == await engine.handle("a").ask(echo, "yes", key="yes")
    with pytest.raises(es.RequestRefused) as raised:
        await engine.handle("a").ask(echo, "no", key="no")
    assert "ValueError" == raised.value.reason
    events = await world.events("a")
    assert [False, False] == [event.judged for event in events if isinstance(event, RequestReceived)]
    assert ["no"] == [event.id for event in events if isinstance(event, RequestRefused)]
    for one in asked:
        one.cancel()


async def test_a_value_that_does_not_fit_is_refused_by_whoever_answers(world: World) -> None:
    """The asker may be another program, with other types."""

    @es.workflow
    async def puller() -> Ticket:
        want = await book.next()
        want.answer(Ticket(want.value.name, 0))
        return Ticket(want.value.name, 0)

    engine = await world.engine(box_office, puller)
    await engine.start(box_office(1), id="handled")
    await engine.start(puller(), id="pulled")
    wrong: Any = es.request("book", dict[str, int], Ticket)

    for run_id in ("handled", "pulled"):
        with pytest.raises(es.RequestRefused, match="name"):
            await engine.handle(run_id).ask(wrong, {"seats": 1})
        assert "ann" == (await ticket_of(engine, run_id, "ann")).name
    with pytest.raises(es.Unencodable, match="seats"):
        await engine.handle("handled").ask(book, Want("ann", "two"))  # type: ignore[arg-type]


# --- a validator only looks -------------------------------------------------------------------------------------------


@es.workflow
async def watched(act: str) -> list[object]:
    """Its validator does what it is told; whatever that is, the run must not notice."""
    event = asyncio.Event()
    numbers: list[object] = [es.random()]
    sold.set(1)

    async def wait() -> None:
        await event.wait()
        numbers.append("disturbed")

    waiter = asyncio.create_task(wait())

    def check(text: str) -> None:
        if text == "touch":
            ACTS[act](event, waiter)

    async def answer(text: str) -> str:
        return text

    echo.handle(answer, validate=check)
    await stop.wait()
    numbers.append(es.random())
    task = asyncio.create_task(print_ticket("x"))
    await task
    waiter.cancel()
    return numbers


async def repeat(text: str) -> str:
    return text


def swallow(_event: asyncio.Event, _task: asyncio.Task[None]) -> None:
    try:
        sold.set(7)
    except es.UsageError:
        touched.append("told")


ACTS: dict[str, Callable[[asyncio.Event, asyncio.Task[None]], object]] = {
    "publish": lambda _e, _t: sold.set(2),
    "note": lambda _e, _t: es.note("judged"),
    "random": lambda _e, _t: es.random(),
    "uuid": lambda _e, _t: es.uuid4(),
    "handle": lambda _e, _t: echo.handle(repeat),
    "future": lambda _e, _t: asyncio.get_running_loop().create_future(),
    "soon": lambda _e, _t: asyncio.get_running_loop().call_soon(print),
    "time": lambda _e, _t: asyncio.get_running_loop().time(),
    "swallow": swallow,
    "wake": lambda event, _t: event.set(),
    "cancel": lambda _e, waiter: waiter.cancel(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("is_replayed", [False, True])
async def test_a_validator_that_does_more_than_look_fails_its_request_and_leaves_no_trace(
    world: World, act: str, is_replayed: bool
) -> None:
    """Replay will not run it again, so whatever it changed would tear code and journal apart."""
    engine = await world.engine(watched)
    handle = await engine.start(watched(act), id="a")
    if is_replayed:
        kill(engine)
        engine = await world.engine(watched)
        handle = engine.handle("a", watched)

    with pytest.raises(es.RequestFailed, match="the validator of request echo did more than look"):
        await handle.ask(echo, "touch")
    assert "look" == await handle.ask(echo, "look")
    await handle.send(stop, "enough")
    first, second = await handle.result()

    undisturbed = await (await engine.start(watched(act), id="undisturbed")).status()
    assert es.Status.WAITING == undisturbed
    assert first != second
    assert 0 == len([event for event in await world.events("a") if isinstance(event, RequestFailed)])
    assert 1 == (await handle.snapshot()).payload["sold"]
    replay(await handle.journal(), watched)


async def test_a_validator_may_look_at_what_the_run_is(world: World) -> None:
    @es.workflow
    async def seen() -> None:
        sold.set(3)

        def check(text: str) -> None:
            touched.append((es.current().run_id, es.now(), sold.get(), echo.pending, text))
            es.log.info("looked")

        async def answer(text: str) -> str:
            await es.sleep(HOUR)
            return text

        echo.handle(answer, validate=check)
        await stop.wait()

    engine = await world.engine(seen)
    handle = await engine.start(seen(), id="a")
    first = asyncio.ensure_future(handle.ask(echo, "one"))
    await turns()

    assert "two" == await handle.ask(echo, "two")
    assert "one" == await first
    assert [("a", 3, 0, "one"), ("a", 3, 1, "two")] == [(run, state, count, text) for run, _, state, count, text in touched]
    assert all(isinstance(each[1], datetime) and each[1].tzinfo is not None for each in touched)


def test_outside_a_workflow_nothing_is_handled() -> None:
    with pytest.raises(es.UsageError, match="outside a workflow"):
        echo.handle(repeat)


async def test_misuse_is_told_where_it_happens(world: World) -> None:
    async def answer(text: str) -> str:
        return text

    async def check(text: str) -> None:
        del text

    @es.workflow
    async def misuser() -> list[str]:
        told: list[str] = []
        waiting = asyncio.create_task(echo.next())
        await asyncio.sleep(0)
        coroutine_check: Any = check
        for validate in (None, coroutine_check):
            try:
                echo.handle(answer, validate=validate)
            except es.UsageError as error:
                told.append(str(error))
        waiting.cancel()
        echo.handle(answer)
        try:
            await echo.next()
        except es.UsageError as error:
            told.append(str(error))
        return told

    engine = await world.engine(misuser)
    first, second, third = await (await engine.start(misuser())).result()

    assert "is awaited by code that answers it itself" in first
    assert "is a coroutine function" in second
    assert "has a handler" in third
    with pytest.raises(es.UsageError, match="request echo was awaited outside a workflow"):
        await echo.next()
    with pytest.raises(es.UsageError, match="outside a workflow"):
        assert echo.pending
    with pytest.raises(es.UsageError, match="request name"):
        es.request("a b", str, str)


# --- runs that end, stop, or are not there ------------------------------------------------------------------------------


async def test_a_run_that_ends_without_answering_says_so(world: World) -> None:
    """Cancelled too: the handler is cut off with the run."""

    @es.workflow
    async def forgetful() -> None:
        async def never(text: str) -> str:
            await es.sleep(1e6)
            return text

        echo.handle(never)
        await stop.wait()

    engine = await world.engine(forgetful)
    for number in range(2):
        handle = await engine.start(forgetful(), id=f"r{number}")
        asked = asyncio.ensure_future(handle.ask(echo, "x", key="k"))
        await turns()
        if number:
            await handle.cancel("now")
        else:
            await handle.send(stop, "now")
        with pytest.raises(es.RunEnded, match=f"request echo k of run r{number} has no answer"):
            await asked
    with pytest.raises(es.RunNotFound):
        await engine.handle("nobody").ask(echo, "x")


async def test_a_request_that_meets_the_end_of_its_run_does_not_hold_it_up(world: World) -> None:
    """What came before it ends the run, so nobody is there to accept it; what came after it stays undelivered."""
    engine = await world.engine(box_office)
    await engine.start(box_office(1), id="a")
    await turns()
    await engine.close()
    client = await world.client()
    await client.handle("a").send(stop, "first")
    asked = asyncio.ensure_future(ticket_of(client, "a", "ann"))
    await turns()
    await client.handle("a").send(stop, "second")

    engine = await world.engine(box_office)

    assert 1 == await engine.handle("a", box_office).result()
    with pytest.raises(es.RunEnded):
        await asked
    run = await world.record("a")
    assert (3, 1) == (run.inbox_seq, run.inbox_done)


async def test_an_asker_that_gives_up_can_come_back_for_the_answer(world: World) -> None:
    """The request stays; the error names the key, also one that was made up."""

    @es.workflow
    async def slow() -> None:
        async def answer(text: str) -> str:
            await es.sleep(HOUR)
            return f"{text}!"

        echo.handle(answer)
        await stop.wait()

    engine = await world.engine(slow)
    handle = await engine.start(slow(), id="a")
    with pytest.raises(es.RequestTimeout, match=r"no answer in time; the run is \w+\. The request stays: ask again") as raised:
        await handle.ask(echo, "x", timeout=10)

    assert isinstance(raised.value, TimeoutError)
    assert 10 == pytest.approx(world.seconds, abs=0.01)
    assert "x!" == await handle.ask(echo, "whatever", key=raised.value.key)
    assert HOUR == pytest.approx(world.seconds, abs=0.01)
    assert "x!" == await handle.ask(echo, "whatever", key=raised.value.key, timeout=0)


async def test_a_paused_run_tells_its_asker_and_keeps_the_request(world: World) -> None:
    """Other code under the same name: nobody answers until the right code is back."""

    @es.workflow(name="box_office")
    async def other(seats: int) -> int:
        return await print_ticket("other") and seats  # type: ignore[return-value]

    engine = await world.engine(box_office)
    await engine.start(box_office(2), id="a")
    await turns()
    await engine.close()
    wrong = await world.engine(other)

    with pytest.raises(es.RunPaused, match=r"(?s)request book ann of run a has no answer yet.*ask again with key='ann'"):
        await ticket_of(wrong, "a", "ann")
    with pytest.raises(es.RunPaused, match=r"(?s)recorded:  handler of request book.*requested: step print_ticket"):
        await wrong.handle("a").result()
    await wrong.close()
    right = await world.engine(box_office)
    assert Ticket("ann", 1) == await ticket_of(right, "a", "ann")


async def test_a_reply_that_cannot_be_sent_at_once_is_sent_when_the_store_is_back(world: World) -> None:
    engine = await world.engine(box_office)
    await engine.start(box_office(2), id="a")
    await turns()
    lose_answer(engine, "commit")

    assert Ticket("ann", 1) == await ticket_of(engine, "a", "ann")
    lose_answer(engine, "commit")
    with pytest.raises(es.RequestRefused):
        await ticket_of(engine, "a", "bob", 9)
    assert {"ann": 1} == served


# --- whatever happens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(0, 40, 2))
async def test_a_worker_that_dies_at_any_moment_answers_once_all_the_same(world: World, moment: int) -> None:
    """I8, for requests: between asking and answering there is no moment at which anything is lost or done twice."""
    engine = await world.engine(box_office)
    await engine.start(box_office(3), id="a")
    await turns()
    client = await world.client()
    asked = [asyncio.ensure_future(ticket_of(client, "a", name, seats)) for name, seats in (("ann", 2), ("bob", 2))]
    await turns(moment)
    kill(engine)
    engine = await world.engine(box_office)

    assert Ticket("ann", 1) == await asked[0]
    with pytest.raises(es.RequestRefused, match="only 1 left"):
        await asked[1]
    answered = [event.id for event in await world.events("a") if isinstance(event, RequestAnswered)]
    assert ["ann"] == answered
    await engine.handle("a").send(stop, "enough")
    assert 1 == await engine.handle("a", box_office).result()


async def test_a_zombie_that_wakes_up_replies_to_nobody(world: World) -> None:
    """Its answer is fenced with its entry: only what the owner says is heard."""
    zombie = await world.engine(box_office)
    await zombie.start(box_office(3), id="a")
    client = await world.client()
    await turns()
    freeze(zombie)
    asked = asyncio.ensure_future(ticket_of(client, "a", "ann"))
    await turns()
    heir = await world.engine(box_office)
    assert Ticket("ann", 2) == await asked
    thaw(zombie)
    await until(lambda: True)
    await turns()

    assert Ticket("bob", 1) == await ticket_of(client, "a", "bob")
    assert {"ann", "bob"} == {event.id for event in await world.events("a") if isinstance(event, RequestAnswered)}
    await heir.handle("a").send(stop, "enough")
    assert 1 == await client.handle("a", box_office).result()


async def test_a_message_that_is_no_request_in_spite_of_its_key_replies_nothing(world: World) -> None:
    """A store keeps what it is given; the client says what it cannot read."""
    engine = await world.engine(box_office)
    await engine.start(box_office(3), id="a")
    await turns()
    event = RequestReceived("book", Raw(b'{"name":"ann","seats":1}'), "ann")
    await world.store.post("a", Message(event=encode_event(event), dedupe="request:book:ann"))

    assert Ticket("ann", 2) == await ticket_of(engine, "a", "somebody", 3, key="ann")


async def test_a_relaxed_run_answers_and_refuses_only_what_is_durable(world: World) -> None:
    """A reply leaves the process, so whatever it follows from is written first: its run may write nothing else for a minute."""

    @es.workflow(durability=es.Relaxed(seconds=60, steps=1000))
    async def relaxed() -> int:
        count = 0

        def check(text: str) -> None:
            if text == "no":
                raise ValueError(f"after {count}")

        async def answer(text: str) -> str:
            await print_ticket(text)
            return f"{text} {count}"

        echo.handle(answer, validate=check)
        while not count or echo.pending:
            await print_ticket("step")
            await asyncio.sleep(0.2)
            count += 1
        await asyncio.sleep(0.9)
        return count

    engine = await world.engine(relaxed)
    handle = await engine.start(relaxed(), id="a")
    await asyncio.sleep(0.1)
    assert {} == await world.completed("a")
    with pytest.raises(es.RequestRefused, match="after 0"):
        await handle.ask(echo, "no")
    assert {"print_ticket": 1} == await world.completed("a")
    assert "yes 0" == await handle.ask(echo, "yes")
    kill(engine)

    told = [event for event in await world.events("a") if isinstance(event, RequestReceived | RequestAnswered)]
    assert [RequestReceived, RequestAnswered] == list(map(type, told))
    engine = await world.engine(relaxed)
    assert await engine.handle("a", relaxed).result() >= 1


# --- code that begins again -----------------------------------------------------------------------------------------------


@es.workflow
async def shift(number: int) -> str:
    """Each one ends when it is told; what is being answered goes to the next."""
    is_over = False

    def check(text: str) -> None:
        if text == "no":
            raise ValueError("not in any shift")

    async def answer(text: str) -> str:
        if text == "wait":
            await es.sleep(HOUR)
        return f"{text} {number}"

    echo.handle(answer, validate=check)
    while not is_over:
        is_over = await stop.wait() == "over"
    if number == 3:
        raise RuntimeError("nobody is left")
    es.continue_as_new(shift(number + 1))


async def test_what_is_not_answered_is_carried_over_when_the_run_continues_as_new(world: World) -> None:
    """The handler of the next segment begins it again; the asker hears of one answer."""
    engine = await world.engine(shift)
    handle = await engine.start(shift(1), id="a")
    assert "quick 1" == await handle.ask(echo, "quick", key="quick")
    slow = asyncio.ensure_future(handle.ask(echo, "wait", key="wait"))
    await turns()
    await handle.send(stop, "over")
    await turns()

    assert "quick 2" == await handle.ask(echo, "quick")
    assert "quick 1" == await handle.ask(echo, "quick", key="quick")
    with pytest.raises(es.RequestRefused, match="not in any shift"):
        await handle.ask(echo, "no")
    kill(engine)
    engine = await world.engine(shift)
    assert "wait 2" == await engine.handle("a").ask(echo, "wait", key="wait")
    slow.cancel()


async def test_a_run_that_is_retried_is_given_its_requests_again_and_askers_keep_their_answers(world: World) -> None:
    """What the code did for them is part of its state, so it is done again, with the results that it had."""
    engine = await world.engine(box_office_that_fails_once)
    handle = await engine.start(box_office_that_fails_once(), id="a")
    first = await ticket_of(engine, "a", "ann", 2)
    await handle.send(stop, "fail")
    with pytest.raises(es.RunFailed):
        await handle.result()
    with pytest.raises(es.RunEnded):
        await ticket_of(engine, "a", "bob")

    await handle.retry()
    assert Ticket("bob", 1) == await ticket_of(engine, "a", "bob", 2)
    assert Ticket("ann", 3) == first == await ticket_of(engine, "a", "ann")
    await handle.send(stop, "enough")
    assert 1 == await handle.result()
    assert {"ann": 1, "bob": 1} == served


@es.workflow
async def box_office_that_fails_once() -> int:
    left = 5

    def check(want: Want) -> None:
        if want.seats > left:
            raise ValueError(f"only {left} left")

    async def sell(want: Want) -> Ticket:
        nonlocal left
        left -= want.seats
        ticket = Ticket(want.name, left)
        await print_ticket(want.name)
        return ticket

    book.handle(sell, validate=check)
    assert "fail" == await stop.wait()
    await fail_once()
    await stop.wait()
    return left


@es.step
async def fail_once() -> None:
    if not touched:
        touched.append("failed")
        raise OSError("once")
