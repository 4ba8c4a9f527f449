"""The view ``states``: what runs have published, for queries and joins of users, put together from what changed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import everstep as es
from everstep.blobs import BLOB_BYTES_MIN
from everstep.core.deltas import Chain, diff
from everstep.events import StatePublished
from everstep.testing.scene import Scene
from tests.stores.postgres_roles import EngineRole

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link, roles
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link

Everything = dict[str, Any]
board = es.state("board", Everything)
step_of = es.state("step", int)


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Link]:
    """With the store's schema first."""
    store = PostgresStore(postgres_url)
    await store.open()
    await store.close()
    connection = await link.connect(Address(postgres_url), is_pooled=True)
    await connection.execute(f"SET search_path = {Address(postgres_url).schema}")
    yield connection
    await connection.close()


async def states(admin: Link, run_id: str) -> dict[str, Any]:
    found = await admin.fetch("SELECT name, value::text FROM states WHERE run_id = $1", run_id)
    return {name: None if value is None else msgspec.json.decode(value) for name, value in found}


def grown(n: int) -> Everything:
    """A state of which a part changes in each step: fields, items, texts, and what is added and dropped."""
    items: list[Any] = [{"at": number, "text": f"item {number} " * 5} for number in range(n % 7, n + 5)]
    return {
        "fixed": "x" * 600,
        "n": n,
        "log": "line\n" * 20 + f"the {n}th\u0000 – ünïcode 🎈",
        "items": items,
        f"only in {n}": n * 1.5,
        "deep": {"er": [{"n": n, "same": "y" * 200}, "z" * 100]},
    }


def shown(value: Any) -> Any:
    """NUL is what PostgreSQL has no place for: its picture is shown."""
    return msgspec.json.decode(msgspec.json.encode(value).replace(b"\\u0000", "\u2400".encode()))


@es.workflow
async def publishing(n: int) -> int:
    for each in range(n):
        board.set(grown(each))
        step_of.set(each)
        await es.sleep(0)
    return n


@es.workflow
async def cutting(n: int) -> None:
    if n == 3:
        return
    board.set({**grown(n), "large": "L" * BLOB_BYTES_MIN})
    await es.sleep(0.001)
    es.continue_as_new(cutting(n + 1))


async def test_a_state_is_told_as_it_is_now(postgres_url: str, admin: Link) -> None:
    """Whole values and changes, over cuts of the journal, with values that stand beside it."""
    async with es.Engine(postgres_url, workflows=[publishing, cutting]) as engine:
        await (await engine.start(publishing(12), id="published")).result()
        await (await engine.start(cutting(0), id="cut")).result()
        _, entries = await engine.load_journal("published")

    assert sum(isinstance(event, StatePublished) and event.is_delta for each in entries for event in each.decoded()) >= 9
    assert {"board": shown(grown(11)), "step": 11} == await states(admin, "published")
    assert {"board": {**shown(grown(2)), "large": "L" * BLOB_BYTES_MIN}} == await states(admin, "cut")
    (found,) = await admin.fetch("SELECT run_id FROM states JOIN overview USING (run_id) WHERE value @> '{\"n\": 11}'")
    assert ("published",) == tuple(found)


async def test_any_change_is_followed(admin: Link) -> None:
    """What the core makes of random values, PostgreSQL makes of them as well."""
    dice = random.Random(7)
    checked = 0
    for _ in range(300):
        old, new = (msgspec.json.encode(something(dice, 3)) for _ in range(2))
        if dice.random() < 0.7:
            new = msgspec.json.encode(mutated(dice, msgspec.json.decode(old)))
        delta = diff(old, new)
        if delta is None:
            continue
        checked += 1
        (told,) = await admin.fetch("SELECT changed($1::text::jsonb, $2::text::jsonb)::text", old.decode(), delta.decode())
        assert msgspec.json.decode(new) == msgspec.json.decode(told[0]), (old, delta)

    assert checked > 100


def something(dice: random.Random, depth: int) -> Any:
    match dice.randrange(5 if depth else 3):
        case 0:
            return dice.randrange(-(10**20), 10**20)
        case 1:
            return "".join(dice.choice('abcé🎈\n"\\ ') for _ in range(dice.randrange(120)))
        case 2:
            return dice.choice([None, True, False, 0.5, -1.25, "$"])
        case 3:
            return [something(dice, depth - 1) for _ in range(dice.randrange(8))]
        case _:
            return {f"{dice.choice('abcdef01')}{n}": something(dice, depth - 1) for n in range(dice.randrange(9))}


def mutated(dice: random.Random, value: Any) -> Any:
    kind = str(value.__class__.__name__) if value else ""
    if kind == "dict":
        fields: dict[str, Any] = value
        key = dice.choice(list(fields))
        changes: list[dict[str, Any]] = [{**fields, key: mutated(dice, fields[key])}, {**fields, "new": 1}]
        return dice.choice([*changes, {name: each for name, each in fields.items() if name != key}])
    if kind == "list":
        items: list[Any] = value
        place = dice.randrange(len(items))
        return [*items[:place], *([mutated(dice, items[place])] * dice.randrange(3)), *items[place + 1 :]]
    if kind == "str":
        return f"{value[: len(value) // 2]}…{value[len(value) // 2 :]}"
    return something(dice, 1)


@pytest.mark.parametrize(
    "value",
    ['"a\\u0000b"', "1e400", "123456789012345678901234567890.5", "1e999999999", '{"a": "\\\\u0000"}', "[]"],
)
async def test_no_value_breaks_the_view(postgres_url: str, admin: Link, value: str) -> None:
    """jsonb takes less than JSON has. The others are told, whatever one of them is."""
    store = PostgresStore(postgres_url)
    await store.open()
    scene = Scene(store, None)  # type: ignore[arg-type]
    run = await scene.owned(await scene.worker(lease_seconds=3600))
    good = StatePublished("0:1", "good", Raw(b"1"))
    await scene.landed(scene.append(run, StatePublished("0:2", "odd", Raw(value.encode())), good))
    await store.close()

    found = await states(admin, "order-1")

    assert {"good", "odd"} == set(found)
    assert 1 == found["good"]


async def test_what_is_sealed_is_not_told(postgres_url: str, admin: Link) -> None:
    pytest.importorskip("cryptography", reason="pip install 'everstep[encryption]'")
    sealing = es.Payloads(encryption=es.Encryption({"one": bytes(32)}, "one"))
    async with es.Engine(postgres_url, workflows=[publishing], payloads=sealing) as engine:
        await (await engine.start(publishing(3), id="sealed")).result()

    found = await states(admin, "sealed")

    assert {"board", "step"} == set(found)
    assert found["board"] is None
    assert ["$sealed"] == list(found["step"])


async def test_an_auditor_sees_payloads_and_a_reader_does_not(postgres_url: str, engine_role: EngineRole, admin: Link) -> None:
    """S38. With the rights of their roles, and no more."""
    await engine_role.url(postgres_url)
    schema = Address(postgres_url).schema
    for name in ("an_auditor", "a_reader"):
        await admin.execute(f"DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await admin.execute(roles.statements(schema, reader="a_reader", auditor="an_auditor"))
    async with es.Engine(await engine_role.url(postgres_url), workflows=[publishing]) as engine:
        await (await engine.start(publishing(2), id="published")).result()

    await admin.execute("SET ROLE an_auditor")
    assert {"board": shown(grown(1)), "step": 1} == await states(admin, "published")
    assert await admin.fetch("SELECT * FROM history")
    for table in ("journal", "blobs", "runs", "inbox", "meta"):
        with pytest.raises(link.Error, match="permission denied"):
            await admin.fetch(f"SELECT * FROM {table}")
    await admin.execute("SET ROLE a_reader")
    assert await admin.fetch("SELECT * FROM overview")
    for view in ("states", "history"):
        with pytest.raises(link.Error, match="permission denied"):
            await admin.fetch(f"SELECT * FROM {view}")
    await admin.execute("RESET ROLE")


def test_a_chain_is_what_the_tests_believe() -> None:
    """The states above are large enough to be written as changes."""
    chain = Chain()
    chain.write(msgspec.json.encode(grown(1)))
    assert chain.write(msgspec.json.encode(grown(2))).is_delta
