"""Forgetting the closed segments of runs that go on for years: who drives, reads or repairs them notices only what is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import everstep as es
from everstep.cli.damage import find_damage
from everstep.core.trimming import cuts
from everstep.events import Event, RunContinued, StepCompleted, encode_events
from everstep.journal import GENESIS, Entry, has_version, seal_bytes
from everstep.testing import load_journal, replay, save_journal
from tests.engine.support import World, kill, link
from tests.payloads.support import encrypted, needs_cryptography

DAY = 60.0
"""Shorter than others, for the heartbeats of workers are not skipped."""
tariff = es.state("tariff", dict[str, int])
progress = es.state("progress", int)
word = es.signal("word", str)
calls: Counter[str] = Counter()
broken: set[str] = set()


@es.step
async def bill(day: int) -> int:
    calls[f"bill {day}"] += 1
    if "bill" in broken:
        raise ConnectionError("the bank is away")
    return day * 10


@es.workflow
async def subscription(day: int, days: int) -> int:
    """Cuts its journal every day; says what it costs once, and every day how far it is."""
    if not day:
        tariff.set({"cents": 999, "of": 2026})
    progress.set(day)
    billed = await bill(day)
    await asyncio.sleep(DAY)
    if day + 1 < days:
        es.continue_as_new(subscription(day + 1, days))
    return billed


@es.step
async def extract(rows: list[str]) -> list[str]:
    return [*rows, "extracted"]


@es.step
async def load(rows: list[str]) -> list[str]:
    calls["load"] += 1
    if "load" in broken:
        raise ConnectionError("the warehouse is away")
    return [*rows, "loaded"]


etl = es.pipeline("etl", list[str], [extract, extract, load])


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    broken.clear()


async def after_days(world: World, days: float, **options: Any) -> tuple[es.Engine, es.Handle[int]]:
    """A subscription of ten days, some days later."""
    engine = await world.engine(subscription, **options)
    handle = await engine.start(subscription(0, 10), id="sub")
    await asyncio.sleep(days * DAY)
    return engine, handle


def versions(entries: Sequence[Entry]) -> list[int]:
    return [entry.version for entry in entries]


async def test_a_run_at_work_loses_its_closed_segments_and_goes_on(world: World) -> None:
    engine, handle = await after_days(world, 5.5)
    before = await handle.snapshot()
    whole = await world.entries("sub")

    pruned = await engine.prune_segments(timedelta(0))

    left, after = await world.entries("sub"), await handle.snapshot()
    assert (1, len(whole) - len(left), {}) == (pruned.run_count, pruned.entry_count, pruned.kept)
    assert versions(left) == [1, *range((await world.record("sub")).base, whole[-1].version + 1)]
    assert before.payload == after.payload == {"tariff": {"cents": 999, "of": 2026}, "progress": 5}
    assert (before.status, before.current_step, before.hash) == (after.status, after.current_step, after.hash)
    assert before.checkpoints[-1:] == after.checkpoints
    assert 90 == await handle.result()
    assert [1] * 10 == [calls[f"bill {day}"] for day in range(10)]


async def test_only_what_ended_long_enough_ago_goes(world: World) -> None:
    """So a run that is cut every day keeps the days that were asked for, though its newest segment is always young."""
    engine, handle = await after_days(world, 5.5)

    pruned = await engine.prune_segments(timedelta(seconds=2 * DAY))
    again = await engine.prune_segments(timedelta(seconds=2 * DAY))

    _, kept, *_ = await handle.history()
    assert pruned.run_count == 1
    assert again.run_count == 0
    assert 3 == next(event.segment for event in kept.events if isinstance(event, RunContinued))
    await asyncio.sleep(1 * DAY)
    assert 1 == (await engine.prune_segments(timedelta(seconds=2 * DAY))).run_count
    assert 90 == await handle.result()


async def test_a_dry_run_counts_the_same_and_changes_nothing(world: World) -> None:
    engine, _ = await after_days(world, 5.5)
    whole = await world.entries("sub")

    foreseen = await engine.prune_segments(timedelta(0), dry_run=True)

    assert whole == await world.entries("sub")
    assert foreseen == await engine.prune_segments(timedelta(0))
    with pytest.raises(es.UsageError, match="cannot prune segments of -1 day"):
        await engine.prune_segments(timedelta(days=-1))


async def test_a_version_that_is_gone_is_told_as_gone(world: World) -> None:
    engine, handle = await after_days(world, 3.5)
    whole = await world.entries("sub")
    await engine.prune_segments(timedelta(0))
    base, newest = (await world.record("sub")).base, whole[-1].version

    said = f"its versions are 1 and {base} to {newest}: 2 to {base - 1} were pruned"
    with pytest.raises(es.UsageError, match=f"run sub has no version {base - 1}: {said}"):
        await handle.snapshot(base - 1)
    with pytest.raises(es.UsageError, match=said):
        await handle.diff(3)
    with pytest.raises(es.IllegalState, match=said.capitalize()):
        await handle.fork(at=2)

    assert [1, base, newest] == [(await handle.snapshot(version)).version for version in (1, base, newest)]


async def test_another_worker_takes_a_trimmed_run_over(world: World) -> None:
    engine, _ = await after_days(world, 5.5)
    await engine.prune_segments(timedelta(0))

    kill(engine)
    other = await world.engine(subscription)

    assert 90 == await other.handle("sub", subscription).result()
    assert {1} == set(calls.values())
    assert find_damage(await world.record("sub"), await world.entries("sub")) is None


async def test_a_failed_run_is_retried_after_it_was_trimmed(world: World) -> None:
    engine, handle = await after_days(world, 3.5)
    broken.add("bill")
    with pytest.raises(es.RunFailed):
        await handle.result()
    await asyncio.sleep(DAY)

    assert 1 == (await engine.prune_segments(timedelta(0))).run_count
    broken.clear()
    await handle.retry("the bank is back")

    assert 90 == await handle.result()
    assert 2 == calls["bill 4"]


async def test_a_fork_keeps_what_it_refers_to_and_what_is_left_can_be_forked(world: World) -> None:
    engine, handle = await after_days(world, 3.5)
    fork = await handle.fork(at=4, id="what-if")

    assert {es.Kept.FORK: 1} == (await engine.prune_segments(timedelta(0))).kept
    await fork.cancel()
    with pytest.raises(es.RunCancelled):
        await fork.result()
    await asyncio.sleep(1)
    await engine.prune(timedelta(0))

    assert 1 == (await engine.prune_segments(timedelta(0))).run_count
    late = await handle.fork(edit={"bill": 7}, id="again")
    assert 90 == await late.result()
    assert 90 == await handle.result()
    assert 2 == calls["bill 9"], "each of them bills the last day, and the fork found the fourth one done"
    assert 1 == calls["bill 3"]


async def test_a_signal_that_was_carried_over_the_cut_is_still_there(world: World) -> None:
    engine, handle = await after_days(world, 1.5)
    await handle.send(word, "hello")
    await asyncio.sleep(2 * DAY)

    before = await handle.undelivered()
    await engine.prune_segments(timedelta(0))

    assert [("word", "hello")] == [(each.name, each.value) for each in before]
    assert before == await handle.undelivered()


async def test_a_trimmed_journal_is_replayed_and_kept_in_a_file(world: World, tmp_path: Path) -> None:
    engine, handle = await after_days(world, 3.5)
    await engine.prune_segments(timedelta(0))
    await handle.result()

    save_journal(tmp_path / "sub.ndjson", await handle.journal())
    read = load_journal(tmp_path / "sub.ndjson")

    assert read == await handle.journal()
    assert replay(read, subscription) is not None
    text = (tmp_path / "sub.ndjson").read_bytes()
    (tmp_path / "sub.ndjson").write_bytes(text.replace(b'"anchor":"', b'"anchor":"00', 1))
    with pytest.raises(es.CorruptJournal):
        load_journal(tmp_path / "sub.ndjson")


async def test_pruning_that_breaks_off_is_repeated(world: World) -> None:
    """Whether the store has done it or not: the run is whole either way."""
    _, handle = await after_days(world, 5.5)
    client = await world.client()
    for after in (True, False):
        link(client).fail("trim", after=after)
        with pytest.raises(es.StoreUnavailable):
            await client.prune_segments(timedelta(0))
        assert find_damage(await world.record("sub"), await world.entries("sub")) is None
        await asyncio.sleep(DAY)

    await client.prune_segments(timedelta(0))

    assert versions(await world.entries("sub"))[1] == (await world.record("sub")).base
    assert 90 == await handle.result()


async def test_a_long_journal_is_trimmed_in_steps_of_which_each_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everstep.client.client.TRIMMED_PER_STEP", 5)
    engine, handle = await after_days(world, 6.5)
    whole, client = await world.entries("sub"), await world.client()
    link(client).fail("trim", skip=1)

    with pytest.raises(es.StoreUnavailable):
        await client.prune_segments(timedelta(0))

    first_step = await world.entries("sub")
    assert len(whole) > len(first_step) > 5
    assert {"tariff", "progress"} == set((await handle.snapshot()).payload)
    assert 1 == (await engine.prune_segments(timedelta(0))).run_count
    assert 90 == await handle.result()


async def test_a_pipeline_is_trimmed_only_where_its_payload_stands_whole(world: World) -> None:
    """Deltas need what they were made against; the newest cut that needs nothing is where the journal can begin."""
    broken.add("load")
    engine = await world.engine(etl)
    handle = await engine.start(etl(["row " * 500]), id="p")
    with pytest.raises(es.RunFailed):
        await handle.result()
    await asyncio.sleep(1)
    deltas = [e.version for e in await world.entries("p") for event in e.decoded() if _is_delta(event)]
    before = await handle.snapshot()

    await engine.prune_segments(timedelta(0))

    left = await world.entries("p")
    assert deltas
    assert all(has_version(left, version) for version in deltas)
    assert before.payload == (await handle.snapshot()).payload
    broken.clear()
    await handle.retry()
    assert ["row " * 500, "extracted", "extracted", "loaded"] == await handle.result()


def _is_delta(event: object) -> bool:
    return isinstance(event, StepCompleted) and event.is_delta


async def test_a_journal_whose_states_are_not_told_in_the_cut_is_left_alone(world: World) -> None:
    """If ever one is written so: what people see of the run would be gone."""
    await after_days(world, 3.5)
    entries = await world.entries("sub")
    older: list[Entry] = []
    for entry in entries:
        previous = older[-1].hash if older else GENESIS
        data = encode_events([_without_states(event) for event in entry.decoded()])
        older.append(seal_bytes(previous, entry.run_key, entry.version, entry.epoch, entry.at, entry.drained, data))

    assert 3 == len(cuts(entries, "sub"))
    assert [] == cuts(older, "sub")


def _without_states(event: Event) -> Event:
    return structs.replace(event, states={}) if isinstance(event, RunContinued) else event


async def test_who_prunes_needs_no_key(world: World) -> None:
    needs_cryptography()
    engine, handle = await after_days(world, 5.5, payloads=encrypted())
    before = await handle.snapshot()
    stranger = await world.client()

    pruned = await stranger.prune_segments(timedelta(0))

    assert 1 == pruned.run_count
    assert before.payload == (await handle.snapshot()).payload == {"tariff": {"cents": 999, "of": 2026}, "progress": 5}
    kill(engine)
    other = await world.engine(subscription, payloads=encrypted())
    assert 90 == await other.handle("sub", subscription).result()


async def test_a_journal_that_was_altered_is_not_trimmed(world: World) -> None:
    """What is wrong with it would be gone."""
    engine, _ = await after_days(world, 3.5)
    store: Any = world.store
    run = store._runs[(await world.record("sub")).run_key]
    run.entries[1] = run.entries[2]

    with pytest.raises(es.CorruptJournal):
        await engine.prune_segments(timedelta(0))


@es.workflow
async def restless(n: int) -> int:
    """Continues as new, and waits for nothing."""
    if n:
        es.continue_as_new(restless(n - 1))
    return n


@pytest.mark.parametrize("cuts", [1, 2, 3, 4, 9])
async def test_code_that_only_continues_as_new_comes_to_its_end(world: World, cuts: int) -> None:
    """An entry takes only so many cuts; the run must not be parked in between, for nothing would wake it."""
    engine = await world.engine(restless)

    assert 0 == await (await engine.start(restless(cuts), id="restless")).result(timeout=DAY)
