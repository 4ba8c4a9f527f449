"""
Requests under random misfortune: every asker gets the one answer of its key, and the journal says the same.

The misfortune is that of ``test_random``; here runs answer requests meanwhile, and whoever asks repeats it until there is an
answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from random import Random

import pytest

import everstep as es
from everstep.core.execution import Execution
from everstep.events import RequestAnswered, RequestReceived, RequestRefused, RunResumed, decode_event
from tests.engine.support import VirtualLoop, World, a_world, turns, worker_of
from tests.engine.test_random import PATIENCE_SECONDS, Chaos, CheckedStore, deeds

SEEDS = [int(os.environ["EVERSTEP_SEED"])] if "EVERSTEP_SEED" in os.environ else list(range(60))
SEATS = 5
seen: Counter[str] = Counter()

seat = es.request("seat", str, int)
closing = es.signal("closing", str)


@es.step(retry=es.Retry(attempts=None, delay=0.2))
async def print_ticket(name: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return name


@es.workflow
async def hall(seconds: float) -> list[str]:
    sold: list[str] = []

    def check(name: str) -> None:
        if len(sold) == SEATS:
            raise ValueError("sold out")

    async def sell(name: str) -> int:
        sold.append(name)
        number = len(sold)
        await print_ticket(name, seconds)
        await es.sleep(seconds / 2)
        return number

    seat.handle(sell, validate=check)
    await closing.wait()
    await es.condition(lambda: not seat.pending)
    return sold


class RequestChaos(Chaos):
    """The usual misfortune, for runs that answer."""

    workflow = hall


async def ask_until_told(chaos: Chaos, run_id: str, key: str, delay: float) -> int | str:
    """As a program does: again with the same key, wherever it can be asked, until there is an answer."""
    await asyncio.sleep(delay)
    while True:
        try:
            asker = chaos.dice.choice([*chaos.engines, await chaos.world.client()])
            async with asyncio.timeout(30):
                return await asker.handle(run_id).ask(seat, key, key=key)
        except es.RequestRefused as refused:
            return refused.reason
        except (es.StoreUnavailable, es.EngineClosed, TimeoutError):
            await asyncio.sleep(0.1)


async def storm(seed: int) -> None:
    dice = Random(seed)
    async with a_world(CheckedStore) as world:
        assert isinstance(world.store, CheckedStore)
        deeds.__init__()  # type: ignore[misc]
        chaos = RequestChaos(world, dice)
        await chaos.begin()
        client = await world.client()
        runs = [f"r{number}" for number in range(2)]
        for run_id in runs:
            await client.start(hall(dice.choice([0, 0.3, 2, 6])), id=run_id)
        asking = {
            (run_id, f"k{number}", again): asyncio.ensure_future(
                ask_until_told(chaos, run_id, f"k{number}", dice.choice([0, dice.uniform(0, 15)]))
            )
            for run_id in runs
            for number in range(8)
            for again in range(dice.randint(1, 2))
        }
        for _ in range(dice.randint(6, 16)):
            await asyncio.sleep(dice.choice([0, 0.05, 0.4, 2, 6]))
            await chaos.strike()
        chaos.calm()
        told = dict(zip(asking, await asyncio.wait_for(asyncio.gather(*asking.values()), PATIENCE_SECONDS), strict=True))
        for run_id in runs:
            await client.handle(run_id).send(closing, "time")
            sold = await asyncio.wait_for(client.handle(run_id, hall).result(), PATIENCE_SECONDS)
            await check(world, run_id, sold, {(key, answer) for (run, key, _), answer in told.items() if run == run_id})
        await asyncio.sleep(60)
        for engine in chaos.engines:
            await turns()
            worker = worker_of(engine)
            assert {} == worker.active
            assert 0 == worker.watchers.count


async def check(world: World, run_id: str, sold: list[str], told: set[tuple[str, int | str]]) -> None:
    assert SEATS == len(sold) == len(set(sold))
    by_key = dict(told)
    assert len(by_key) == len(told), "two askers with one key were told different things"
    assert {key: number for number, key in enumerate(sold, 1)} == {k: v for k, v in by_key.items() if isinstance(v, int)}
    assert {"sold out"} == {answer for answer in by_key.values() if isinstance(answer, str)}
    run = await world.record(run_id)
    replies = [decode_event(each.reply) for each in await world.store.mail(run.run_key) if each.reply is not None]
    assert Counter([*by_key]) == Counter(each.id for each in replies if isinstance(each, RequestAnswered | RequestRefused))
    events = await world.events(run_id)
    seen.update(type(event).__name__ for event in events)
    accepted = [event.id for event in events if isinstance(event, RequestReceived)]
    assert sorted(sold) == sorted(accepted), "what was refused is in the journal, or what was accepted is there twice"
    assert Counter(sold) == Counter(event.id for event in events if isinstance(event, RequestAnswered))
    again = Execution(hall, run.run_key, run_id)
    again.replay(await world.entries(run_id), run.hash)
    again.program.evict()


def weather(seed: int) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(storm(seed))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("first", SEEDS[::10])
def test_whatever_happens_every_asker_gets_the_one_answer(first: int) -> None:
    """I6, I8."""
    logging.getLogger("everstep").setLevel(logging.CRITICAL)
    for seed in SEEDS[SEEDS.index(first) :][:10]:
        try:
            weather(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}. Again: EVERSTEP_SEED={seed} pytest {__file__}")
            raise
        finally:
            logging.getLogger("everstep").setLevel(logging.NOTSET)


def test_the_storms_were_bad_enough() -> None:
    """In every other one a run was taken over in the middle."""
    if len(SEEDS) < 60 or not seen:
        pytest.skip("only with all seeds")
    assert seen[RunResumed.__name__] > len(SEEDS) / 2
