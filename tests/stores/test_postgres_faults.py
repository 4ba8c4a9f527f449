"""
What goes wrong with a PostgreSQL server, and what an operator reads then: what happened, what therefore did not, what to do.
And that it passes.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from everstep.errors import InvalidStoreURL, SchemaMismatch, StoreError, StoreFull, StoreUnavailable
from everstep.events import TimerFired
from everstep.stores.base import Created, Exists, Landed, Refused, RunFilter
from everstep.stores.urls import open_store
from everstep.testing.scene import Scene, message, new_run
from tests.postgres_server import PASSWORD, Server

pytest.importorskip("asyncpg", reason="needs asyncpg: pip install --group test")

from everstep.stores.postgres import PostgresStore, faults, link
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.link import Link

_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'everstep' AND pid <> $1
"""
CANARY = "kan/arie:vogel"
QUOTED = "kan%2Farie%3Avogel"


@pytest.fixture
async def admin(postgres_server: Server) -> AsyncIterator[Link]:
    """A connection of the superuser."""
    connection = await link.connect(Address(postgres_server.url()), is_pooled=True)
    yield connection
    await connection.close()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.open()
    yield store
    await store.close()


async def refusal(store: PostgresStore, expected: type[StoreError]) -> str:
    """What opening the store says, in full. Nowhere in it is a password."""
    with pytest.raises(expected) as caught:
        await store.open()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(store) + store.url
    for secret in (CANARY, QUOTED, PASSWORD, PASSWORD.replace(" ", "%20")):
        assert secret not in told
    assert "Nothing was" in str(caught.value) or "It was not touched" in str(caught.value) or "Acknowledged" in told
    return str(caught.value)


# --- a URL ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY}@host:no-port/db",
        f"postgresql://me:{QUOTED}@host:5432,other:no-port/db",
        f"postgresql://me:{QUOTED}@host/db?schema=Orders",
        f"postgresql://me:{QUOTED}@host/db?schema=pg_mine",
        f"postgresql://me:{QUOTED}@host/db?schema=a%22.b",
        f"postgresql://me:{QUOTED}@host/db?pool=0",
        f"postgresql://me:{QUOTED}@host/db?pool=٣",
        f"postgresql://me:{QUOTED}@host/db?pooler=perhaps",
        f"postgresql://me:{QUOTED}@host/db#fragment",
        f"postgresql://me:{QUOTED}@vogel@host/db",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str) -> None:
    """It ends in logs and tickets."""
    with pytest.raises(InvalidStoreURL) as caught:
        open_store(url)

    assert "vogel" not in "".join(traceback.format_exception(caught.value))
    assert "Nothing was opened" in str(caught.value)


async def test_a_url_that_the_driver_cannot_read_is_refused_without_its_password() -> None:
    """It finds out only when it connects."""
    store = PostgresStore(f"postgresql://me:{QUOTED}@host/db?sslmode=sometimes&password={QUOTED}&sslpassword={QUOTED}")

    with pytest.raises(InvalidStoreURL) as caught:
        await store.open()

    assert "vogel" not in "".join(traceback.format_exception(caught.value)) + repr(store)


def test_a_store_shows_where_it_is_and_not_with_which_password() -> None:
    store = PostgresStore(f"postgres://me:{QUOTED}@host:5433/db?schema=flows&sslmode=require&passfile=/x&password={QUOTED}")

    assert "postgresql://me@host:5433/db?schema=flows" == store.url
    assert "PostgresStore('postgresql://me@host:5433/db?schema=flows')" == repr(store)
    several = PostgresStore(f"postgresql://me:{QUOTED}@one:5433,two:5434/db?target_session_attrs=read-write")
    assert "postgresql://me@one:5433,two:5434/db" == several.url


# --- at the start -------------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told(postgres_server: Server) -> None:
    told = await refusal(PostgresStore(postgres_server.url(password=QUOTED)), StoreUnavailable)

    assert "refuses this user" in told
    assert 'password authentication failed for user "postgres"' in told


async def test_a_missing_database_is_told(postgres_server: Server) -> None:
    told = await refusal(PostgresStore(postgres_server.url("no_such")), StoreUnavailable)

    assert "has no such database" in told
    assert "CREATE DATABASE" in told


@pytest.mark.parametrize("host", ["127.0.0.1:1", "everstep.invalid"])
async def test_a_server_that_is_not_there_is_told(host: str) -> None:
    told = await refusal(PostgresStore(f"postgresql://me:{QUOTED}@{host}/db"), StoreUnavailable)

    assert "cannot be reached" in told
    assert "Check that the server runs" in told


async def test_a_user_who_may_not_create_tables_is_told(postgres_server: Server, postgres_url: str, admin: Link) -> None:
    """Nothing is left behind, and the message says who can help."""
    await admin.execute(f"CREATE ROLE helpless LOGIN PASSWORD '{CANARY}'")
    schema = Address(postgres_url).schema

    told = await refusal(
        PostgresStore(postgres_server.url(user="helpless", password=QUOTED, query=f"?schema={schema}")), StoreUnavailable
    )

    assert "does not permit this: permission denied for database" in told
    assert "owner of the database" in told
    assert [] == await admin.fetch("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema)


async def test_a_server_that_may_only_be_read_is_told(postgres_server: Server, postgres_url: str, admin: Link) -> None:
    """A standby looks like this."""
    await admin.execute(f"CREATE ROLE reading SUPERUSER LOGIN PASSWORD '{CANARY}'")
    await admin.execute("ALTER ROLE reading SET default_transaction_read_only = on")
    schema = Address(postgres_url).schema

    told = await refusal(
        PostgresStore(postgres_server.url(user="reading", password=QUOTED, query=f"?schema={schema}")), StoreUnavailable
    )

    assert "may only be read" in told
    assert "primary" in told


async def test_a_schema_of_somebody_else_is_not_touched(postgres_url: str, admin: Link) -> None:
    schema = Address(postgres_url).schema
    await admin.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.meta(key text, value text)")

    told = await refusal(PostgresStore(postgres_url), SchemaMismatch)

    assert "tables of another application" in told
    assert 1 == len(await admin.fetch("SELECT 1 FROM pg_tables WHERE schemaname = $1", schema))


async def test_a_newer_schema_is_not_touched(store: PostgresStore, postgres_url: str, admin: Link) -> None:
    await admin.execute(f"UPDATE {Address(postgres_url).schema}.meta SET value = '99' WHERE key = 'version'")

    told = await refusal(PostgresStore(postgres_url), SchemaMismatch)

    assert "schema version 99" in told
    assert "Upgrade everstep" in told


async def test_an_empty_schema_of_somebody_else_may_be_used(postgres_url: str, admin: Link) -> None:
    """An administrator creates it, for a user who may not create schemas."""
    await admin.execute(f"CREATE SCHEMA {Address(postgres_url).schema}")
    store = PostgresStore(postgres_url)

    await store.open()
    await store.close()


async def test_many_may_open_a_new_store_at_once(postgres_url: str) -> None:
    """L1: one of them creates the tables."""
    stores = [PostgresStore(postgres_url) for _ in range(8)]

    await asyncio.gather(*(store.open() for store in stores))

    assert [[]] * 8 == [await store.workers() for store in stores]
    for store in stores:
        await store.close()


# --- in the middle ------------------------------------------------------------------------------------------------------------


async def patiently(verb: Callable[[], Awaitable[object]]) -> object:
    """As the engine does: try again while the store is away."""
    for _ in range(200):
        try:
            return await verb()
        except StoreUnavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("it never came back")


async def test_a_store_recovers_by_itself_when_its_server_returns(
    postgres_server: Server, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B3: crashed and started again, with everything acknowledged still there; and news are heard again."""
    caplog.set_level(logging.DEBUG)
    store, other = PostgresStore(postgres_url), PostgresStore(postgres_url)
    await store.open()
    await other.open()
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker(lease_seconds=3600)
    run = await scene.owned(worker)
    write = scene.append(run)

    postgres_server.stop("immediate")
    with pytest.raises(StoreUnavailable, match="repeating it tells"):
        await store.commit([write])
    with pytest.raises(StoreUnavailable):
        await store.get("order-1")
    postgres_server.start()

    assert [Landed()] == await patiently(lambda: store.commit([write]))
    assert 3 == (await scene.run()).version
    while await other.wait_for_work(None, 0.2):
        pass  # That it came back is news, too.
    waiting = asyncio.ensure_future(other.wait_for_work(None, 30))
    await asyncio.sleep(0)
    await patiently(lambda: store.create([new_run("order-2")]))
    assert await waiting
    claimer = await other.enlist("other", 3600)
    assert claimer
    assert [] == [each for each in await store.workers() if not each.alive]
    assert "the%20secret" not in caplog.text
    assert PASSWORD not in caplog.text
    await store.close()
    await other.close()


async def test_a_broken_connection_costs_one_error_and_loses_nothing(store: PostgresStore, admin: Link) -> None:
    """B1, B2: an administrator ends every session; the same write is repeated."""
    scene = Scene(store, None)  # type: ignore[arg-type]
    run = await scene.owned(await scene.worker(lease_seconds=3600))
    write = scene.append(run)
    await store.commit([write])

    await admin.fetch(_END_SESSIONS, admin.get_server_pid())

    assert [Landed()] == await patiently(lambda: store.commit([write]))
    assert 3 == (await scene.run()).version


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transaction_that_lost_against_another_is_tried_again(
    store: PostgresStore, postgres_url: str, admin: Link, code: str
) -> None:
    """B8: nothing has happened, so the caller hears nothing of it."""
    schema = Address(postgres_url).schema
    await admin.execute(f"""
        CREATE TABLE {schema}.tries(n int);
        CREATE FUNCTION {schema}.lose() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF nextval('{schema}.worker_keys') < 4 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '{code}'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER lose BEFORE INSERT ON {schema}.journal FOR EACH ROW EXECUTE FUNCTION {schema}.lose();
    """)

    (answer,) = await store.create([new_run()])

    assert isinstance(answer, Created)
    assert isinstance((await store.create([new_run()]))[0], Exists)


async def test_tables_that_somebody_dropped_are_told(store: PostgresStore, postgres_url: str, admin: Link) -> None:
    await admin.execute(f"DROP TABLE {Address(postgres_url).schema}.inbox CASCADE")

    with pytest.raises(SchemaMismatch, match="lacks something"):
        await store.post("order-1", message(TimerFired("0:1")))


def test_a_full_disk_has_a_type_of_its_own() -> None:
    """B5: runs go on when space returns."""
    error = next(each for each in link.Error.__subclasses__() if each.__name__ == "InsufficientResourcesError")("no space")
    setattr(error, "sqlstate", "53100")  # noqa: B010

    assert isinstance(faults.translated(error, Address("postgresql://me:secret@host/db")), StoreFull)


# --- one write -------------------------------------------------------------------------------------------------------------


async def test_a_write_that_postgres_does_not_take_is_refused_alone(store: PostgresStore) -> None:
    """P5: an id that no index takes, a number that no column takes, among many that are fine."""
    scene = Scene(store, None)  # type: ignore[arg-type]
    worker = await scene.worker()
    long_id = "".join(chr(0x4E00 + n * 7 % 20_000) for n in range(9_000))
    batch = [scene.first(worker, f"fine-{n}") for n in range(5)]
    batch.insert(2, scene.first(worker, long_id))
    batch.insert(4, scene.first(worker, "far", cursor=1 << 70))

    outcomes = await store.commit(batch)

    assert [Landed] * 2 + [Refused, Landed, Refused] + [Landed] * 2 == [type(each) for each in outcomes]
    assert ["fine-0", "fine-1", "fine-2", "fine-3", "fine-4"] == sorted(
        each.run_id for each in await store.list(RunFilter(limit=100))
    )
