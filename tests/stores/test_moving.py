"""``everstep db copy``: everything goes, from any kind of store to any, and runs in flight end as they would have."""

# ruff: noqa: ASYNC240
# The loop has nothing else to do while files are looked at.

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import apsw
import pytest

from everstep.errors import SchemaMismatch, StoreUnavailable
from everstep.journal import verify_chain
from everstep.records import Status
from everstep.stores import moving
from everstep.stores.moving import COMMON, ENTRY, HEAD, RUN, SIDES, NotMoved, copy, give_up
from everstep.stores.sqlite import SQLiteStore, schema
from everstep.stores.sqlite.ask import asking
from everstep.stores.upkeep import Upkeep
from everstep.testing.scene import Clocks, Scene, message, new_run, step_completed
from tests.stores import moving_program as program

SQLITE_ONLY = {
    "runs": {"head", "first", "outcome_entry"},
    "journal": {"id", "run_key", "prev"},
    "meta": {"key", "value"},
    "workers": {"worker_key", "name", "boot_id", "heartbeat", "lease_seconds", "gone", "was_alone", "schema_version"}
    | {"draining", "enlisted_at", "profile"},
    "sqlite_sequence": {"name", "seq"},
}
"""Columns that are made anew at the target, or not taken along: keys of rows, marks, and workers."""


@asynccontextmanager
async def opened(*stores: Any) -> AsyncGenerator[list[Upkeep]]:
    upkeeps: list[Upkeep] = [store.upkeep() for store in stores]
    for each in upkeeps:
        await each.open(create=True)
    try:
        yield upkeeps
    finally:
        for each in upkeeps:
            await each.close()


def store_of(url: str, *, in_an_hour: bool = False) -> Any:
    """A store; ``in_an_hour`` all leases have run out there."""
    later = (lambda: time.time() + 3600) if in_an_hour and url.startswith("postgres") else None
    if url.startswith("sqlite"):
        return SQLiteStore(url.removeprefix("sqlite:///"))
    from everstep.stores.postgres import PostgresStore

    return PostgresStore(url, monotonic=later)


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """From where, and where to."""
    kinds: tuple[str, str] = request.param
    postgres = ""
    if "postgres" in kinds:
        if find_spec("asyncpg") is None:
            pytest.skip("needs asyncpg: pip install --group test")
        postgres = request.getfixturevalue("postgres_url")
    places = {"sqlite": f"sqlite:///{tmp_path}/state", "postgres": f"{postgres}_"}
    return f"{places[kinds[0]]}1", f"{places[kinds[1]]}2"


ALL = [("sqlite", "sqlite"), ("sqlite", "postgres"), ("postgres", "sqlite"), ("postgres", "postgres")]


@pytest.mark.skipif("sys.platform == 'win32'", reason="there is no SIGKILL")
@pytest.mark.parametrize("urls", ALL, ids="-".join, indirect=True)
async def test_runs_in_flight_end_at_the_target_as_they_would_have(
    urls: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sleeping, in the middle of a step, undoing, waiting for a child or for a signal, queued, at rest; all encrypted."""
    source, target = urls
    effects = tmp_path / "effects"
    victim = subprocess.Popen(  # noqa: ASYNC220  # it is waited for elsewhere
        [sys.executable, program.__file__, source, str(effects)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    assert "ready\n" == await asyncio.to_thread(victim.stdout.readline)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    await program.leave_more(source)
    monkeypatch.setattr(program, "effects", effects)

    async with opened(store_of(source, in_an_hour=True), store_of(target)) as (ours, theirs):
        copied = await copy(ours, theirs, move="first")

    assert 13 == copied.runs
    with pytest.raises(SchemaMismatch, match="were moved to"):
        await store_of(source).open()
    async with program.engine_on(target) as engine:
        await engine.handle("parent/0:1").send(program.go, "hello")
        await engine.handle("ticker").send(program.go, "enough")
        results = {
            run_id: await engine.handle(run_id).result(timeout=30)
            for run_id in ("sleeper", "midway", "only-once", "parent", "unread", "roomy", "roomy-fork", "ticker", "queued")
        }
        await engine.wait_until_rest("trip", 30)
        assert {
            "sleeper": "before sleep done, after sleep done",
            "midway": "first done, second in attempt 2",
            "only-once": "nobody knows",
            "parent": "my child says hello",
            "unread": "one two",
            "roomy": 50_000,
            "roomy-fork": 50_000,
            "ticker": "enough",
            "queued": "before sleep done, after sleep done",
        } == results
        assert Status.FAILED is await engine.handle("trip").status()
        assert ["stuck", "work"] == [each.undo for each in (await engine.handle("trip").snapshot()).undone]
        assert Status.FAILED is await engine.handle("broken").status()
        assert Status.WAITING is await engine.handle("long-sleeper").status()
        new = await engine.start(program.roomy(), id="new")
        assert 50_000 == await new.result(timeout=30)
        keys = Counter([(await engine.get(run_id)).run_key for run_id in (*results, "trip", "broken", "new")])
        for run_id in (*results, "trip", "broken", "long-sleeper", "new"):
            run, entries = await engine.load_journal(run_id)
            verify_chain(entries, run_key=run.run_key, run_id=run_id, head=run.hash)
    assert {1} == set(keys.values())
    counted = Counter(effects.read_text().splitlines())
    twice = {"before sleep 1": 3, "after sleep 1": 2, "large 1": 2, "tick 1": 3}
    assert dict.fromkeys(counted, 1) | twice == counted
    assert {"second 2", "hotel back 2", "reader 2", "flight back 1", "payment 1", "first 1"} <= set(counted)


# --- what a store holds -------------------------------------------------------------------------------------------------------


def test_every_column_goes_or_is_named_here(tmp_path: Path) -> None:
    """Who adds one to the schema adds it to ``stores/moving.py``, too; or says here why it stays."""
    connection = apsw.Connection(str(tmp_path / "any.db"))
    ask = asking(connection)
    for migration in schema.MIGRATIONS:
        for statement in migration.pre:
            ask(str(statement))
    found: dict[str, set[str]] = {}
    for table, column in ask(
        "SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table'"
    ):
        found.setdefault(table, set()).add(column)
    named = {table: {"run_key", *columns} for table, columns in SIDES.items()}
    named |= {table: set(columns) for table, columns in COMMON.items()}
    named |= {table: set(columns) for table, columns in SQLITE_ONLY.items()}
    named["runs"] |= {*RUN, *HEAD}
    named["journal"] |= {*ENTRY}

    assert named == found
    connection.close()


async def test_postgresql_has_the_same_columns(postgres_url: str) -> None:
    pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")
    from everstep.stores.postgres import link
    from everstep.stores.postgres.address import Address
    from everstep.stores.postgres.moving import BOOLS

    store = store_of(postgres_url)
    await store.open()
    await store.close()
    connection = await link.connect(Address(postgres_url), is_pooled=True)
    rows = await connection.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns JOIN information_schema.tables "
        "USING (table_schema, table_name) WHERE table_schema = $1 AND table_type = 'BASE TABLE'",
        Address(postgres_url).schema,
    )
    await connection.close()
    found: dict[str, set[str]] = {}
    for table, column, _ in rows:
        found.setdefault(table, set()).add(column)

    assert {*RUN, "status", "claimed_version"} == found["runs"]
    assert {"run_key", *ENTRY, "status", "step", "cursor"} == found["journal"]
    assert {name: {"run_key", *columns} for name, columns in SIDES.items()} == {name: found[name] for name in SIDES}
    assert {name: set(columns) for name, columns in COMMON.items()} == {name: found[name] for name in COMMON}
    # Whom notes in ``passed`` would let back is in line in the copy already; ``guards`` has rows while a body is at work.
    assert {"runs", "journal", "meta", "workers", "passed", "guards", *SIDES, *COMMON} == set(found)
    bools = {column for table, column, kind in rows if kind == "boolean" and table not in ("journal", "workers")}
    assert BOOLS == bools


# --- interruptions ------------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """As a kill: nothing of ours catches it."""


class Stumbling:
    """A store that fails at the n-th verb, before it is done or after."""

    def __init__(self, inner: Upkeep, left: list[int], *, before: bool) -> None:
        self._inner = inner
        self._left = left
        self._before = before

    def __getattr__(self, name: str) -> Any:
        value: Any = getattr(self._inner, name)
        if name in ("url", "known", "backend"):
            return value

        async def verb(*args: Any, **more: Any) -> Any:
            self._left[0] -= 1
            if self._left[0] == 0 and self._before:
                raise Interrupted
            answer: Any = await value(*args, **more)
            if self._left[0] == 0:
                raise Interrupted
            return answer

        return verb


async def furnish(path: Path, runs: int = 5) -> SQLiteStore:
    """A store with a few runs and messages, one of them a fork, and no workers."""
    clocks = Clocks()
    store = SQLiteStore(path, now=clocks.now, monotonic=clocks.monotonic)
    await store.open()
    scene = Scene(store, clocks)
    worker = await scene.worker()
    for number in range(runs):
        run = await scene.landed(scene.first(worker, f"run-{number}"))
        await scene.landed(scene.append(run, step_completed()))
        await store.post(f"run-{number}", message(program_event(), f"key-{number}"))
    forked = await scene.run("run-1")
    await store.create([new_run("queued"), new_run("fork", forked_from=forked.run_key, forked_at=1)])
    await store.close()
    return store


def program_event() -> Any:
    from everstep.events import TimerFired

    return TimerFired("0:7")


@pytest.mark.parametrize(("before", "keep"), [(True, False), (False, False), (False, True)])
async def test_a_copy_that_is_interrupted_anywhere_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, keep: bool
) -> None:
    """And at no moment can both stores be opened, unless that was asked for."""
    monkeypatch.setattr(moving, "RUNS_PER_PAGE", 3)
    source = await furnish(tmp_path / "source.db")
    master = (tmp_path / "source.db").read_bytes()
    interrupted = 0
    while True:
        for each in tmp_path.glob("*.db*"):
            if each.is_file():
                each.unlink()
        (tmp_path / "source.db").write_bytes(master)
        target = SQLiteStore(tmp_path / "target.db")
        left = [interrupted + 1]
        async with opened(source, target) as (ours, theirs):
            stumbling: list[Any] = [Stumbling(each, left, before=before) for each in (ours, theirs)]
            try:
                await copy(stumbling[0], stumbling[1], move="first", keep=keep)
                break
            except Interrupted:
                interrupted += 1
            assert keep or not (await can_open(source) and await can_open(target))
            if await can_open(target):  # It was the very last thing.
                with pytest.raises(NotMoved, match="has runs of its own" if keep else "is complete"):
                    await copy(ours, theirs, move="second", keep=keep, resume=True)
            else:
                assert 7 == (await copy(ours, theirs, move="second", keep=keep, resume=True)).runs
            assert (keep, True) == (await can_open(source), await can_open(target))
    assert interrupted > 20


async def can_open(store: SQLiteStore) -> bool:
    again = SQLiteStore(store.path)
    if not store.path.exists():
        return False
    try:
        await again.open()
    except SchemaMismatch:
        return False
    try:
        return bool(await again.get("run-0"))
    finally:
        await again.close()


async def test_an_interrupted_copy_can_be_given_up(tmp_path: Path) -> None:
    """Until the runs are at the target. After that both might be driven."""
    source, target = await furnish(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    async with opened(source, target) as (ours, theirs):
        assert [] == await ours.hold(theirs.url, "first")
        with pytest.raises(NotMoved, match=r"--resume.*--give-up"):
            await copy(ours, theirs, move="second")

        await give_up(ours)

        assert await can_open(source)
        await copy(ours, theirs, move="third")
        with pytest.raises(NotMoved, match="may be driven there"):
            await give_up(ours)


# --- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("urls", [("sqlite", "sqlite"), ("postgres", "postgres")], ids="-".join, indirect=True)
async def test_nothing_is_copied_while_a_worker_is_alive(urls: tuple[str, str]) -> None:
    """It would go on writing. Nothing is changed, and the worker goes on."""
    store = store_of(urls[0])
    await store.open()
    worker = await store.enlist("host:7", 3600)

    async with opened(store, store_of(urls[1])) as (ours, theirs):
        with pytest.raises(NotMoved, match=r"1 workers of the store .* are alive: host:7"):
            await copy(ours, theirs, move="first")

        assert await store.heartbeat(worker)
        await store.retire(worker)
        assert 0 == (await copy(ours, theirs, move="first")).runs
    await store.close()


@pytest.mark.parametrize("urls", [("sqlite", "sqlite"), ("postgres", "postgres")], ids="-".join, indirect=True)
async def test_who_has_a_source_open_cannot_write_to_it_any_more(urls: tuple[str, str]) -> None:
    """A web process that starts runs must hear that they would be lost; a frozen worker must not go on."""
    store = store_of(urls[0])
    await store.open()
    await store.create([new_run()])
    async with opened(store, store_of(urls[1])) as (ours, theirs):
        await copy(ours, theirs, move="first")

        verbs: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.create([new_run("order-2")]),
            lambda: store.post("order-1", message(program_event())),
            lambda: store.enlist("late", 15),
        ]
        for verb in verbs:
            with pytest.raises(StoreUnavailable, match="moved to"):
                await verb()

        assert (await ours.state()).moved_to == theirs.url
        assert ["order-1"] == [each.run["run_id"] for each in await theirs.page(0, 10, 10)]
    await store.close()


async def test_a_target_with_runs_of_its_own_is_not_touched(tmp_path: Path) -> None:
    source, target = await furnish(tmp_path / "source.db"), await furnish(tmp_path / "target.db")

    async with opened(source, target) as (ours, theirs):
        with pytest.raises(NotMoved, match="has runs of its own"):
            await copy(ours, theirs, move="first")

    assert await can_open(source)
    assert await can_open(target)


async def test_a_damaged_journal_is_told_and_goes_only_if_that_is_said(tmp_path: Path) -> None:
    """It would be found at the target, and nobody would know on which side it came about."""
    source, target = await furnish(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    connection = apsw.Connection(str(tmp_path / "source.db"))
    asking(connection)("UPDATE journal SET events = replace(events, 'StepCompleted', 'StepCompletee') WHERE version = 2")
    connection.close()

    async with opened(source, target) as (ours, theirs):
        with pytest.raises(NotMoved, match=r"5 runs of the store .* do not verify: run-0, run-1"):
            await copy(ours, theirs, move="first")
        assert await can_open(source)

        copied = await copy(ours, theirs, move="second", resume=True, with_damaged=True)

    assert {f"run-{number}" for number in range(5)} == set(copied.damaged)
    assert await can_open(target)


async def test_what_differs_at_the_target_is_noticed(tmp_path: Path) -> None:
    """The last look is at both stores, not at what was sent."""
    source, target = await furnish(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    async with opened(source, target) as (ours, theirs):
        left = [1_000]
        spoilt: Any = Stumbling(theirs, left, before=False)

        async def settle(*args: Any) -> None:
            await theirs.settle(*args)
            connection = apsw.Connection(str(tmp_path / "target.db"))
            asking(connection)("UPDATE inbox SET event = '{}' WHERE seq = 1")
            connection.close()

        spoilt.settle = settle
        with pytest.raises(NotMoved, match="run run-0 is not the same"):
            await copy(ours, spoilt, move="first")

    assert await can_open(source)
    assert not await can_open(target)


async def test_a_copy_is_another_incarnation(tmp_path: Path) -> None:
    source, target = await furnish(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")

    async with opened(source, target) as (ours, theirs):
        first = await copy(ours, theirs, move="first", keep=True)
        async with opened(SQLiteStore(tmp_path / "other.db")) as (other,):
            second = await copy(ours, other, move="second")
        assert (await ours.census()).incarnation != (await theirs.census()).incarnation

    assert (first.runs, first.entries, first.messages, first.digest) == (7, 12, 5, second.digest)


async def test_there_must_be_something_to_copy(tmp_path: Path) -> None:
    async with opened(SQLiteStore(tmp_path / "a.db"), SQLiteStore(tmp_path / "b.db")) as (ours, theirs):
        with pytest.raises(NotMoved, match="there is no store at"):
            await copy(ours, theirs, move="first")
