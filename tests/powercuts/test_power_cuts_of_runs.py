"""
The power goes while the engine drives runs whose steps move money in the store's own file.

Whoever starts the program again finds every start and every signal that was acknowledged, the runs go on and end as if nothing
had happened, and the money is all there: the effect of a transaction is in the file exactly as often as its entry.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

import everstep as es
from everstep.stores.sqlite import SQLiteStore
from everstep.stores.sqlite.ask import asking
from tests import evidence
from tests.powercuts.disk import Disk, images, watched
from tests.powercuts.places import FILE, lay_down

ACCOUNTS, CENTS, RUNS = 4, 1000, 4
approval = es.signal("approval", str)


@es.transaction
def open_accounts(tx: es.SQLiteTx) -> int:
    tx.execute("CREATE TABLE accounts(name INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
    tx.execute("CREATE TABLE effects(key TEXT NOT NULL)")
    return tx.executemany("INSERT INTO accounts VALUES (?, ?)", [(name, CENTS) for name in range(ACCOUNTS)]).rowcount


@es.transaction
def add(tx: es.SQLiteTx, name: int, cents: int) -> int:
    tx.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, name))
    tx.execute("INSERT INTO effects VALUES (?)", (es.current().idempotency_key,))
    return cents


@es.step
async def tell(text: str) -> str:
    return text


@es.workflow
async def setup() -> int:
    return await open_accounts()


@es.workflow
async def told(text: str) -> str:
    return await tell(text)


@es.workflow
async def move(number: int) -> str:
    """Take, wait for a person, give to two at once, let a child tell."""
    giver, first, second = random.Random(number).sample(range(ACCOUNTS), 3)
    await add(giver, -20)
    await asyncio.sleep(0.001)
    by = await approval.wait()
    await asyncio.gather(add(first, 10), add(second, 10))
    return await told(f"{number} by {by}")


WORKFLOWS: list[es.Workflow[..., Any]] = [setup, told, move]
NAMES = [f"move-{number}" for number in range(RUNS)]


class Acknowledged:
    """What the client was told, and how long the disk's log was then."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.places: dict[str, int] = {}

    def note(self, what: str) -> None:
        self.places[what] = len(self._disk.ops)

    def before(self, place: int) -> set[str]:
        return {what for what, each in self.places.items() if each <= place}


async def spend(path: Path, disk: Disk) -> Acknowledged:
    """Drive all runs to their ends, on a disk that works."""
    acknowledged = Acknowledged(disk)
    async with es.Engine(SQLiteStore(path), workflows=WORKFLOWS) as engine:
        await (await engine.start(setup(), id="setup")).result(timeout=60)
        handles = [await engine.start(move(number), id=name) for number, name in enumerate(NAMES)]
        for name, handle in zip(NAMES, handles, strict=True):
            acknowledged.note(f"start {name}")
            await handle.send(approval, "ann", key="once")
            acknowledged.note(f"send {name}")
        for name, handle in zip(NAMES, handles, strict=True):
            await handle.result(timeout=60)
            acknowledged.note(f"result {name}")
    return acknowledged


async def go_on(path: Path, known: set[str]) -> None:
    """The program is started again: it starts and sends what it does not know to be there."""
    async with es.Engine(SQLiteStore(path), workflows=WORKFLOWS) as engine:
        await (await engine.start(setup(), id="setup")).result(timeout=60)
        for number, name in enumerate(NAMES):
            if f"start {name}" in known:
                handle = engine.handle(name, move)
                assert (f"result {name}" in known) <= ((await handle.status()) is es.Status.SUCCEEDED)
            else:
                handle = await engine.start(move(number), id=name)
            if f"send {name}" not in known:
                await handle.send(approval, "ann", key="once")
            assert f"{number} by ann" == await handle.result(timeout=60)


def check_ledger(path: Path) -> None:
    """The money is all there, and each effect once."""
    with closing(apsw.Connection(str(path), vfs="unix")) as connection:
        ask = asking(connection)
        assert [(ACCOUNTS * CENTS,)] == ask("SELECT sum(cents) FROM accounts").fetchall()
        assert [(3 * RUNS, 3 * RUNS)] == ask("SELECT count(*), count(DISTINCT key) FROM effects").fetchall()


@pytest.mark.parametrize("seed", range(evidence.amount(1, 4)))
async def test_after_a_power_cut_every_run_goes_on_and_the_money_is_all_there(
    tmp_path: Path, images_directory: Path, seed: int
) -> None:
    """At some places of everything that the engine writes; at many more in ``make proof``."""
    with watched(tmp_path) as disk:
        acknowledged = await spend(tmp_path / FILE, disk)
    chance = random.Random(seed)
    tried = 0
    for place, image in images(disk.ops, chance, each=1):
        if place < acknowledged.places["start move-0"] or chance.random() > evidence.amount(5, 40) / 100:
            continue
        path = lay_down(image, images_directory)
        await go_on(path, acknowledged.before(place))
        check_ledger(path)
        tried += 1
        evidence.note("power cuts under a working engine, gone on from")

    assert tried > 10
