"""
Random sagas under random misfortune: whatever happens, a run ends completed or with everything undone, in order (F3, I14).

Runs, engines and misfortune are those of ``test_random``. Here the workflows are trees of sagas, and the outside is a provider
that keeps books: what is reserved, what was released. A frozen worker's late effect is refused there by its epoch, as a
receiver should. A failing seed is printed; to see it again:

    EVERSTEP_SEED=123 pytest tests/engine/test_random_sagas.py
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pytest

import everstep as es
from everstep.core.execution import Execution
from everstep.events import (
    ChildStarted,
    ChildSucceeded,
    CompensationBegan,
    CompensationEnded,
    Event,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StepCompleted,
    StepScheduled,
)
from everstep.records import UndoRecord
from everstep.stores.base import RunFilter
from tests.engine.support import VirtualLoop, World, a_world
from tests.engine.test_random import PATIENCE_SECONDS, SEEDS, Chaos, CheckedStore

seen: Counter[str] = Counter()


class Books:
    """The provider's: who holds what, and the newest epoch of each run."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.released: Counter[str] = Counter()
        self._epochs: dict[str, int] = {}

    def admit(self) -> None:
        """Refuse a worker that has lost the run."""
        where = es.current()
        if where.epoch < self._epochs.get(where.run_id, 0):
            raise PermissionError("a newer worker has been here")
        self._epochs[where.run_id] = where.epoch


books = Books()


async def _reserve(name: str, seconds: float, failures: int) -> str:
    books.admit()
    await asyncio.sleep(seconds)
    books.admit()
    if es.current().attempt <= failures:
        raise OSError(f"{name} is not to be had now")
    books.held.add(name)
    return name


@es.step(retry=es.Retry(attempts=None, delay=0.5, factor=3, jitter=0.1, give_up_on=(PermissionError,)))
async def reserve(name: str, seconds: float, failures: int) -> str:
    return await _reserve(name, seconds, failures)


@es.step(at_most_once=True)
async def pay(name: str, seconds: float) -> str:
    return await _reserve(name, seconds, 0)


@es.step(retry=es.Retry(attempts=None, delay=0.5, factor=3, jitter=0.1))
async def release(name: str, seconds: float, failures: int) -> None:
    books.admit()
    await asyncio.sleep(seconds)
    books.admit()
    if es.current().attempt <= failures:
        raise OSError(f"{name} cannot be given back now")
    books.released[name] += name in books.held
    books.held.discard(name)


@es.step
async def refuse(why: str) -> None:
    raise ValueError(why)


@es.workflow(max_recoveries=10_000)
async def reserve_child(name: str, seconds: float) -> str:
    async with es.saga() as saga:
        await saga.do(reserve(f"{name} of the child", seconds, 0), undo=lambda held: release(held, 0, 0))
        await asyncio.sleep(seconds)
    return name


@es.workflow(max_recoveries=10_000)
async def release_child(name: str) -> None:
    await release(f"{name} of the child", 0, 1)


@es.workflow(max_recoveries=10_000)
async def journey(plan: list[Any]) -> str:
    async with es.saga() as saga:
        await follow(plan, saga)
    return "arrived"


async def follow(plan: list[Any], saga: es.Saga) -> None:
    match plan:
        case ["reserve", name, seconds, failures, "function", back]:
            await saga.do(reserve(name, seconds, failures), undo=lambda held: release(held, *back))
        case ["reserve", name, seconds, failures, "call", back]:
            await saga.do(reserve(name, seconds, failures), undo=release(name, *back))
        case ["pay", name, seconds]:
            await saga.do(pay(name, seconds), undo=release(name, 0, 0))
        case ["child", name, seconds]:
            await saga.do(reserve_child(name, seconds), undo=release_child)
        case ["sleep", seconds]:
            await asyncio.sleep(seconds)
        case ["refuse"]:
            await refuse("not today")
        case ["in turn", parts]:
            for part in parts:
                await follow(part, saga)
        case ["together", way, parts]:
            if way == "gather":
                await asyncio.gather(*(follow(part, saga) for part in parts))
            else:
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(follow(part, saga))
        case ["saga", part]:
            async with es.saga() as inner:
                await follow(part, inner)
        case ["attempt", part]:
            try:
                async with es.saga() as inner:
                    await follow(part, inner)
            except (Exception, BaseExceptionGroup):  # noqa: BLE001  # whatever it was, it has been undone
                pass
        case ["give up", seconds, part]:
            try:
                async with es.saga() as inner:
                    await asyncio.wait_for(follow(part, inner), seconds)
            except TimeoutError:
                pass
        case _:
            raise AssertionError(plan)


class Grower:
    """Plans, with a name for everything that is reserved."""

    def __init__(self, dice: Random, prefix: str) -> None:
        self.dice = dice
        self._prefix = prefix
        self._count = 0

    def grow(self, depth: int = 3) -> list[Any]:
        dice = self.dice
        leaves = ["reserve", "reserve", "reserve", "pay", "child", "sleep", "refuse"]
        inner = [*leaves[:5], "in turn", "in turn", "together", "saga", "attempt", "give up"]
        kind = dice.choice(leaves if depth == 0 else inner)
        self._count += 1
        name = f"{self._prefix} {self._count}"
        match kind:
            case "reserve":
                back = [dice.choice([0, 0, 2, 9]), dice.choice([0, 0, 1, 3])]
                return [kind, name, dice.choice([0, 0.3, 4]), dice.choice([0, 0, 2]), dice.choice(["function", "call"]), back]
            case "pay" | "child":
                return [kind, name, dice.choice([0, 0.3, 2])]
            case "sleep":
                return [kind, dice.choice([0, 0.5, 1.5, 20])]
            case "refuse":
                return [kind]
            case "together":
                return [kind, dice.choice(["gather", "group"]), [self.grow(depth - 1) for _ in range(dice.randint(2, 3))]]
            case "in turn":
                return [kind, [self.grow(depth - 1) for _ in range(dice.randint(2, 4))]]
            case "give up":
                return [kind, dice.choice([0.4, 3.0]), self.grow(depth - 1)]
            case _:
                return [kind, self.grow(depth - 1)]


class SagaChaos(Chaos):
    """The same misfortunes; and somebody cancels runs."""

    workflow = journey

    async def strike(self) -> None:
        await super().strike()
        if self.dice.random() < 0.2:
            client = await self.world.client()
            with suppress(es.StoreUnavailable, es.RunNotFound):
                await client.handle(f"r{self.dice.randrange(4)}").cancel("enough")


# --- the storm ------------------------------------------------------------------------------------------------------


async def storm(seed: int) -> None:
    dice = Random(seed)
    async with a_world(CheckedStore) as world:
        store = world.store
        assert isinstance(store, CheckedStore)
        books.__init__()  # type: ignore[misc]
        chaos = SagaChaos(world, dice)
        await chaos.begin()
        growers = {f"r{n}": Grower(dice, f"r{n}") for n in range(4)}
        plans = {run_id: ["in turn", [grower.grow() for _ in range(3)]] for run_id, grower in growers.items()}
        starting = [asyncio.ensure_future(chaos.start(plan, run_id)) for run_id, plan in plans.items()]
        for _ in range(dice.randint(2, 8)):
            await asyncio.sleep(dice.choice([0, 0.05, 0.4, 2, 6]))
            await chaos.strike()
        await asyncio.sleep(dice.choice([0, 8]))
        chaos.calm()
        await asyncio.gather(*starting)
        client = await world.client()
        for run_id in plans:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.wait_until_rest(run_id, None)
        await asyncio.sleep(60)
        await check(world, store, list(plans))


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


async def check(world: World, store: CheckedStore, run_ids: Sequence[str]) -> None:
    assert [] == store.wrong
    for run in await store.list(RunFilter(limit=1000)):
        assert run.status.is_at_rest, f"{run.run_id} is {run.status}"
        assert run.status is not es.Status.DEAD, run.run_id
        assert {} == world.attempts(run.run_id), run.run_id
        events = await world.events(run.run_id)
        seen.update(type(event).__name__ for event in events)
        seen["maybe"] += any(event.maybe for event in events if isinstance(event, StepScheduled))
        check_order(run.run_id, events)
        if run.run_id in run_ids:
            again = Execution(journey, run.run_key, run.run_id)
            again.replay(await world.entries(run.run_id), run.hash)
            again.program.evict()
            held = {name for name in books.held if name.startswith(f"{run.run_id} ")}
            check_books(run.run_id, events, held)


def check_order(run_id: str, events: Sequence[Event]) -> None:
    """I14, from the journal alone: each plan is carried out in its order, one after the other, once, and to its end."""
    plans: dict[str, list[UndoRecord]] = {}
    asked: dict[str, UndoRecord] = {}
    done: Counter[str] = Counter()
    for event in events:
        match event:
            case CompensationBegan(key=key, plan=plan):
                plans[key] = list(plan)
            case CompensationEnded(key=key):
                assert [] == plans.pop(key), f"{run_id}: {key} ended early"
            case StepScheduled(undoes=str(undoes), step=name) | ChildStarted(undoes=str(undoes), workflow=name):
                asked[event.key] = UndoRecord(name, key=undoes, maybe=event.maybe)
                now = [(plan[0].undo, plan[0].key, plan[0].maybe) for plan in plans.values() if plan]
                assert (name, undoes, event.maybe) in now, f"{run_id}: {event.key} is out of order"
            case StepCompleted(key=key) | ChildSucceeded(key=key) if key in asked:
                [first] = [plan for plan in plans.values() if plan and plan[0].key == asked[key].key]
                first.pop(0)
                done[asked[key].key] += 1
            case _:
                pass
    assert {} == plans, f"{run_id} ended before it had undone everything"
    assert all(count == 1 for count in done.values()), f"{run_id} undid something twice"


def check_books(run_id: str, events: Sequence[Event], held: set[str]) -> None:
    """What the provider holds for a run at its end: nothing if it did not succeed, else what was not undone."""
    kept = {event.key for event in events if isinstance(event, StepCompleted | ChildSucceeded)}
    undone = {event.undoes for event in events if isinstance(event, StepScheduled | ChildStarted) and event.undoes is not None}
    if isinstance(events[-1], RunSucceeded):
        forward = {
            event.key for event in events if isinstance(event, StepScheduled | ChildStarted) and event.undoes is None
        } & kept
        # A child's own reservation is one, too.
        assert len(forward - undone) == len(held), (run_id, held)
    else:
        assert isinstance(events[-1], RunFailed | RunCancelled)
        assert set() == held, f"{run_id} ended with something still reserved"


@pytest.mark.parametrize("first", SEEDS[::20])
def test_whatever_happens_every_saga_ends_completed_or_undone(first: int) -> None:
    """F1, F2, F3, F4, I14."""
    logging.getLogger("everstep").setLevel(logging.CRITICAL)
    for seed in SEEDS[SEEDS.index(first) :][:20]:
        try:
            weather(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}. Again: EVERSTEP_SEED={seed} pytest {__file__}")
            raise
        finally:
            logging.getLogger("everstep").setLevel(logging.NOTSET)


def test_the_storms_were_bad_enough_for_sagas() -> None:
    if len(SEEDS) < 100 or not seen:
        pytest.skip("only with all seeds")
    happened = {name for name, count in seen.items() if count}

    wanted = {"CompensationBegan", "CompensationEnded", "StopRequested", "StepOutcomeUnknown", "ChildFailed", "maybe"}
    assert set() == {*wanted, "RunCancelled", "RunFailed", "RunSucceeded", "RunResumed"} - happened
