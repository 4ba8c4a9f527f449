"""S38, S39: an engine has just the rights that it needs, and what is recorded stays as it was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec import Raw

from everstep.blobs import BLOB_BYTES_MIN
from everstep.errors import StoreUnavailable, UsageError
from everstep.events import RunSucceeded, StepCompleted
from everstep.records import Status
from everstep.testing.scene import Clocks, Scene
from tests.stores.postgres_roles import EngineRole

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, link, roles
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link


@pytest.fixture
async def engine_url(postgres_url: str, engine_role: EngineRole) -> str:
    return await engine_role.url(postgres_url)


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Link]:
    """A connection with an engine's rights."""
    address = Address(engine_url)
    connection = await link.connect(address, is_pooled=True)
    await connection.execute(f"SET search_path = {address.schema}")
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET events = '[]'",
        "DELETE FROM journal",
        "UPDATE blobs SET data = ''",
        "DELETE FROM blobs",
        "TRUNCATE journal",
        "UPDATE inbox SET event = '{}'",
        "DELETE FROM inbox",
        "DELETE FROM runs",
        "DROP TABLE journal",
        "ALTER TABLE journal ADD COLUMN more int",
        "CREATE TABLE mine(n int)",
        "UPDATE meta SET value = '99'",
    ],
)
async def test_an_engine_cannot_change_what_is_recorded(engine_url: str, engine: Link, statement: str) -> None:
    """The hash chain tells that somebody did; the permission keeps this somebody from it."""
    store = PostgresStore(engine_url)
    await store.open()
    run = await Scene(store, None).create()  # type: ignore[arg-type]

    with pytest.raises(link.Error, match=r"permission denied|must be owner"):
        await engine.execute(statement)

    assert run == await store.get("order-1")
    await store.close()


async def test_an_engine_may_reply_to_a_message(engine_url: str, engine: Link) -> None:
    """The one thing about a message that changes."""
    await engine.execute("UPDATE inbox SET reply = '{}' WHERE reply IS NULL")


async def test_a_reader_sees_runs_and_no_payloads(postgres_url: str, engine_url: str, engine: Link) -> None:
    owner, schema = await link.connect(Address(postgres_url), is_pooled=True), Address(postgres_url).schema
    await owner.execute("DO $$ BEGIN CREATE ROLE the_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await owner.execute(roles.statements(schema, reader="the_reader"))
    await owner.execute(f"SET search_path = {schema}; SET ROLE the_reader")

    assert [] == await owner.fetch("SELECT run_id, status FROM overview")
    for table in ("journal", "history", "inbox", "runs", "workers"):
        with pytest.raises(link.Error, match="permission denied"):
            await owner.fetch(f"SELECT * FROM {table}")
    await owner.close()


async def test_an_engine_cannot_forget_runs_and_says_who_can(engine_url: str) -> None:
    """Nor what a blob says."""
    clocks = Clocks()
    store = PostgresStore(engine_url, now=clocks.now, monotonic=clocks.monotonic)
    await store.open()
    scene = Scene(store, clocks)
    run = await scene.owned(await scene.worker())
    run = await scene.landed(scene.append(run, StepCompleted("0:1", Raw(b'"' + b"x" * BLOB_BYTES_MIN + b'"'))))
    await scene.rest(run, RunSucceeded(Raw(b"1")), Status.SUCCEEDED)
    clocks.advance(1)

    with pytest.raises(StoreUnavailable, match="does not permit this"):
        await store.prune(scene.old())
    assert 1 == (await store.prune(scene.old(dry_run=True))).run_count
    assert run.version + 1 == len(await store.load(run.run_key))
    await store.close()


async def test_an_engine_cannot_migrate_and_says_who_can(postgres_url: str, engine_url: str) -> None:
    """A store that is not there is the owner's to make."""
    owner = await link.connect(Address(postgres_url), is_pooled=True)
    await owner.execute(f"REVOKE ALL ON {Address(postgres_url).schema}.meta FROM the_engine")
    await owner.close()

    with pytest.raises(StoreUnavailable, match="does not permit this"):
        await PostgresStore(engine_url).open()


@pytest.mark.parametrize("name", ["Engine", "a b", 'x"; DROP TABLE journal; --', "ü", "1st"])
def test_a_name_that_needs_quotes_is_refused(name: str) -> None:
    """It would become part of a statement."""
    with pytest.raises(UsageError, match="no plain name"):
        roles.statements(engine=name)
    with pytest.raises(UsageError, match="no plain name"):
        roles.statements(schema=name, reader="r")


def test_the_statements_are_printed_for_psql(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == roles.main(["--schema", "flows", "--engine", "orders", "--reader", "grafana"])

    printed = capsys.readouterr().out
    assert 'GRANT SELECT, INSERT ON "flows".inbox, "flows".journal TO "orders";' in printed
    assert 'GRANT SELECT ON "flows".overview TO "grafana";' in printed
    with pytest.raises(SystemExit):
        roles.main(["--engine", "no good"])
