"""D3: a great many timers that fall due within one second, and other work at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter

import everstep as es
from everstep.events import TimerFired
from tests import evidence
from tests.engine.support import World, early_timers

HOUR = 3600.0
ROOM = 100
"""Far fewer runs than timers fit into memory at once."""


@es.workflow
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "woken"


@es.step
async def note(text: str) -> str:
    return text


@es.workflow
async def short(text: str) -> str:
    return await note(text)


async def test_thousands_of_timers_due_in_one_second_fire_once_each(world: World) -> None:
    """I9, I16: none early, none twice, none lost; and runs that are started just then are not kept waiting for all of them."""
    count = evidence.amount(500, 10_000)
    engine = await world.engine(nap, short, concurrency=ROOM, lease=10 * HOUR)
    client = await world.client()
    for n in range(count):
        await client.start(nap(HOUR + n / count), id=f"nap-{n}")
    await asyncio.sleep(HOUR - 1)
    assert [] == list(await client.list(status=[es.Status.SUCCEEDED], limit=1))

    await asyncio.sleep(1.5)  # in the midst of it
    others = [await client.start(short(str(n)), id=f"short-{n}") for n in range(20)]
    results = [await handle.result(timeout=60) for handle in others]
    naps = [await client.handle(f"nap-{n}", nap).result(timeout=60) for n in range(count)]

    assert [str(n) for n in range(20)] == results
    assert {"woken": count} == Counter(naps)
    late: list[float] = []
    for n in range(count):
        entries = await world.entries(f"nap-{n}")
        fired = [entry.at for entry in entries for event in entry.decoded() if isinstance(event, TimerFired)]
        assert 1 == len(fired)
        assert [] == early_timers(entries)
        late.append((fired[0] - entries[0].at) / 1e6 - HOUR - n / count)
    assert sorted(late)[len(late) * 99 // 100] < 1.0, "by virtual time, in which only waiting counts"
    await engine.close()
    evidence.note("timers due in one second, each fired once", count)
