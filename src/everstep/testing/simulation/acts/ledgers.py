"""
Transactions: money moves between accounts of the users' own tables. It is conserved, and an effect is there iff its event is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from everstep.client import Client
from everstep.definitions import workflow
from everstep.events import StepCompleted, StepScheduled
from everstep.inside import current
from everstep.retry import Retry
from everstep.testing.simulation.acts.act import Act, Script, result, start
from everstep.testing.simulation.outside import outside
from everstep.transactions import SQLiteTx, transaction

if TYPE_CHECKING:
    from everstep.testing.simulation.simulation import Simulation

ACCOUNTS, CENTS = 4, 1000


def note(tx: SQLiteTx) -> None:
    """Leave a trace of this execution, in the same transaction."""
    outside().begin()
    tx.execute("INSERT INTO effects VALUES (?)", (current().idempotency_key,))


@transaction(retry=Retry(attempts=None, delay=0.2))
async def debit(tx: SQLiteTx, name: int, cents: int, seconds: float, failures: int) -> int:
    """Takes money, and some time."""
    tx.execute("UPDATE accounts SET cents = cents - ? WHERE name = ?", (cents, name))
    note(tx)
    await asyncio.sleep(seconds)
    if current().attempt <= failures:
        raise OSError("not yet")
    return cents


@transaction(retry=Retry(attempts=None, delay=0.2))
def credit(tx: SQLiteTx, name: int, cents: int) -> int:
    """Gives money, in a thread."""
    tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, name))
    note(tx)
    return cents


@workflow(max_recoveries=10_000)
async def transfers(plan: list[Any]) -> int:
    """Takes from one, gives to others at once."""
    moved = 0
    for giver, takers, cents, seconds, failures in plan:
        moved += await debit(giver, cents * len(takers), seconds, failures)
        await asyncio.gather(*(credit(taker, cents) for taker in takers))
    return moved


class Ledgers(Act):
    """See the module."""

    workflows = (transfers,)
    weight = 2

    def __init__(self, name: str, dice: Random) -> None:
        super().__init__(name, dice)
        self.plans = {f"{name}-{n}": _plan(dice) for n in range(dice.randint(1, 3))}
        self.results: dict[str, int] = {}
        self._simulation: Simulation | None = None

    def prepare(self, simulation: Simulation) -> None:
        self._simulation = simulation
        simulation.database.tables.open_accounts(ACCOUNTS, CENTS)

    def scripts(self) -> Sequence[Script]:
        return [self._script(run_id, plan) for run_id, plan in self.plans.items()]

    def _script(self, run_id: str, plan: list[Any]) -> Script:
        async def run(client: Client) -> None:
            self.results[run_id] = await result(await start(client, lambda: transfers(plan), run_id))

        return run

    def check(self) -> Iterator[str]:
        assert self._simulation is not None
        database = self._simulation.database
        balances = dict.fromkeys(range(ACCOUNTS), CENTS)
        done: Counter[str] = Counter()
        for run in database.all_runs():
            if run.workflow != "transfers":
                continue
            names: dict[str, str] = {}
            for entry in database.journal_of(run.run_key):
                for event in entry.decoded():
                    if isinstance(event, StepScheduled):
                        names[event.key] = event.step
                    elif isinstance(event, StepCompleted):
                        done[f"{run.run_id}/{names[event.key]}/{event.key}"] += 1
        plans = [plan for act in self._simulation.acts if isinstance(act, Ledgers) for plan in act.plans.values()]
        for giver, takers, cents, *_ in [transfer for plan in plans for transfer in plan]:
            balances[giver] -= cents * len(takers)
            for taker in takers:
                balances[taker] += cents
        effects = Counter(key for (key,) in database.tables.ask("SELECT key FROM effects"))
        if effects != done:
            yield f"I4: effects {effects - done} without an event, events {done - effects} without an effect"
        found = dict(database.tables.ask("SELECT name, cents FROM accounts"))
        if found != balances:
            yield f"I4: the accounts hold {found} and not {balances}"


def _plan(dice: Random) -> list[Any]:
    return [
        [
            dice.randrange(ACCOUNTS),
            [dice.randrange(ACCOUNTS) for _ in range(dice.randint(1, 3))],
            dice.randint(1, 50),
            dice.choice([0, 0, 0.3, 1.5]),
            dice.choice([0, 0, 0, 1]),
        ]
        for _ in range(dice.randint(1, 3))
    ]
