"""``everstep db status``, ``migrate``, ``check`` and ``copy``. Real processes on real stores."""

# pyright: reportUnknownMemberType=false

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

from everstep.cli.run import run
from tests.cli.support import cells, everstep, on_a_terminal
from tests.cli.test_looking import ALL
from tests.postgres_server import PASSWORD, Server, missing

STATE = Path(".everstep/state.db")


def sql(place: Path, statements: str) -> None:
    """As somebody who can write to the file."""
    connection = apsw.Connection(str(place / STATE))
    connection.execute(statements)
    connection.close()


def told(*arguments: str, cwd: Path) -> Any:
    return json.loads(everstep(*arguments, "--json", cwd=cwd).stdout)


# --- status -----------------------------------------------------------------------------------------------------------------


def test_status_tells_how_a_store_stands(seeded: Path) -> None:
    status = told("db", "status", cwd=seeded)

    assert ("sqlite", 1, "done", None, None) == tuple(
        status[name] for name in ("backend", "schema_version", "schema_phase", "moved_to", "problem")
    )
    assert {"cancelled": 1, "failed": 2, "queued": 1, "succeeded": 2, "waiting": 3} == status["runs"]
    assert len(ALL) == status["tables"]["runs"]["rows"]
    assert status["bytes"] >= sum(each["bytes"] for each in status["tables"].values()) > 0
    assert status["oldest_due_at"]
    assert [] == status["workers"]
    assert 32 == len(status["incarnation"])


def test_status_is_a_table_for_people_and_lines_for_programs(seeded: Path) -> None:
    done = everstep("db", "status", cwd=seeded)
    lines = {cells(line)[0]: cells(line)[1] for line in done.stdout.splitlines()}

    assert (0, "") == (done.returncode, done.stderr)
    assert lines["runs"].startswith("1 cancelled, 2 failed")
    assert lines["table runs"].endswith(f"{len(ALL)} rows")
    assert lines["oldest due"].startswith("for ")
    code, seen = on_a_terminal("db", "status", cwd=seeded)
    assert 0 == code
    assert "version 1; this everstep knows 1" in seen


def test_status_opens_what_an_engine_refuses_and_says_why(place: Path) -> None:
    sql(place, "PRAGMA user_version = 99")

    done = everstep("db", "status", cwd=place)

    assert 3 == done.returncode
    assert "version 99; this everstep knows 1" in done.stdout
    assert "Upgrade everstep" in done.stderr


@pytest.mark.parametrize("verb", [["status"], ["check"], ["migrate", "--dry-run"], ["copy", "nothing.db", "target.db"]])
def test_looking_at_a_store_that_is_not_there_creates_none(verb: list[str], tmp_path: Path) -> None:
    done = (
        everstep("db", *verb, "--store", "nothing.db", cwd=tmp_path)
        if "copy" not in verb
        else everstep("db", *verb, cwd=tmp_path)
    )

    assert (done.returncode, done.stdout) in {(3, ""), (5, "")}
    assert "there is no store at nothing.db" in done.stderr
    assert [] == list(tmp_path.iterdir())


# --- migrate ----------------------------------------------------------------------------------------------------------------


def test_migrate_makes_a_store_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    made = told("db", "migrate", "--store", "new.db", cwd=tmp_path)
    again = told("db", "migrate", "--store", "new.db", "--post", cwd=tmp_path)

    assert [0, 1] == [made["before"]["version"], made["after"]["version"]]
    assert ["pre", "post"] == [each["part"] for each in made["stages"]]
    assert [] == again["stages"]
    code, seen = on_a_terminal("db", "migrate", "--dry-run", "--store", "new.db", cwd=tmp_path)
    assert (0, True) == (code, "nothing to do: schema version 1" in seen)


# --- check ------------------------------------------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_with_a_store_that_is_well(seeded: Path) -> None:
    done = everstep("db", "check", cwd=seeded)

    assert (0, "") == (done.returncode, done.stdout)
    assert f"{len(ALL)} runs · " in done.stderr
    assert "0 problems" in done.stderr


RUN_77 = "run key 77"
HEAD_OF = "(SELECT head FROM runs WHERE run_id = 'order-1')"


@pytest.mark.parametrize(
    ("damage", "run_id", "what"),
    [
        (f"UPDATE journal SET events = replace(events, 'ch_1', 'ch_2') WHERE id = {HEAD_OF}", "order-1", "hash"),
        (f"UPDATE journal SET hash = zeroblob(32) WHERE id = {HEAD_OF}", "order-1", "hash"),
        (f"DELETE FROM journal WHERE id = {HEAD_OF}", "order-1", "no entries"),
        (f"UPDATE journal SET version = version + 1 WHERE id = {HEAD_OF}", "order-1", "missing entry"),
        ("UPDATE runs SET hash = zeroblob(32) WHERE run_id = 'order-1'", "order-1", "head of the run"),
        ("UPDATE runs SET version = version + 1 WHERE run_id = 'order-1'", "order-1", "number of entries"),
        ("UPDATE runs SET outcome_entry = 1 WHERE run_id = 'order-1'", "order-1", "the entry with its outcome"),
        ("UPDATE runs SET first = head WHERE run_id = 'order-1'", "order-1", "the run's first entry"),
        ("UPDATE runs SET updated_at = updated_at + 1 WHERE run_id = 'order-1'", "order-1", "instant of the newest entry"),
        ("UPDATE runs SET base = 99 WHERE run_id = 'order-1'", "order-1", "where its newest segment begins"),
        ("UPDATE runs SET epoch = 0 WHERE run_id = 'order-1'", "order-1", "epoch of the run"),
        ("UPDATE runs SET worker_key = 77 WHERE run_id = 'order-1'", "order-1", "owner of a run at rest"),
        ("UPDATE runs SET worker_key = 77 WHERE run_id = 'order-3'", "order-3", "its owner"),
        ("UPDATE runs SET parent_key = 77 WHERE run_id = 'order-3'", "order-3", "the run that started it"),
        ("UPDATE runs SET inbox_seq = 5 WHERE run_id = 'order-5'", "order-5", "messages, numbered from 1"),
        ("UPDATE inbox SET seq = 2", "order-5", "messages, numbered from 1"),
        ("UPDATE runs SET inbox_done = 9 WHERE run_id = 'order-5'", "order-5", "messages consumed"),
        (
            "INSERT INTO blobs SELECT run_key, zeroblob(16), zeroblob(9) FROM runs WHERE run_id = 'order-1'",
            "order-1",
            "large payloads that no entry refers to",
        ),
        (
            """INSERT INTO attempts(run_key, key, attempt, failures, recoveries)
            SELECT run_key, '0:9', 1, 0, 0 FROM runs WHERE run_id = 'order-1'""",
            "order-1",
            "attempts of a run at rest",
        ),
        (
            """INSERT INTO journal(run_key, version, prev, epoch, at, drained, events, hash)
            SELECT run_key, version, prev, epoch, at, drained, events, hash FROM journal WHERE id = 1""",
            "order-1",
            "entries outside of the chain",
        ),
        ("INSERT INTO journal VALUES (999, 77, 1, 0, 0, 0, 0, '[]', x'00')", RUN_77, "entries of a run that is not there"),
        ("INSERT INTO inbox VALUES (77, 1, 0, '', '{}', NULL)", "", "rows of inbox that refer to nothing"),
        ("UPDATE meta SET value = 0 WHERE key = 'run_key'", "", "the counter of run keys"),
        ("UPDATE sqlite_sequence SET seq = 0", "", "the counter of worker keys"),
    ],
)
def test_check_finds_damage_and_changes_nothing(
    damage: str, run_id: str, what: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B7. Whatever does not agree is listed, with what should be; the engine that touches such a run quarantines it."""
    sql(place, f"PRAGMA foreign_keys = off; {damage}; PRAGMA wal_checkpoint(truncate)")
    before = (place / STATE).read_bytes()

    code = run(["db", "check", "--store", str(place / STATE)])

    assert 5 == code
    assert (run_id, what) in {(cells(line)[0], cells(line)[2]) for line in capsys.readouterr().out.splitlines()}
    assert before == (place / STATE).read_bytes()


def test_check_tells_the_damage_of_the_file_itself(place: Path) -> None:
    """One page of zeros, somewhere in the middle."""
    sql(place, "PRAGMA wal_checkpoint(truncate); PRAGMA journal_mode = delete")
    file = place / STATE
    content = bytearray(file.read_bytes())
    content[-4096:] = bytes(4096)
    file.write_bytes(content)

    done = everstep("db", "check", "--json", cwd=place)

    assert done.returncode in {3, 5}
    assert "Traceback" not in done.stderr


# --- copy -------------------------------------------------------------------------------------------------------------------


def test_copy_moves_everything_and_says_so_on_both_sides(place: Path) -> None:
    copied = told("db", "copy", str(STATE), "other.db", cwd=place)

    assert (len(ALL), 1, False) == (copied["runs"], copied["messages"], copied["kept"])
    assert ALL == set(everstep("runs", "-q", "--store", "other.db", cwd=place).stdout.split())
    assert 0 == everstep("db", "check", "--store", "other.db", cwd=place).returncode
    refused = everstep("runs", cwd=place)
    assert (3, "") == (refused.returncode, refused.stdout)
    assert "were moved to sqlite:///" in refused.stderr
    assert 3 == everstep("db", "status", cwd=place).returncode
    assert told("db", "status", cwd=place)["moved_to"].endswith("other.db")
    again = everstep("db", "copy", str(STATE), "third.db", cwd=place)
    assert (5, True) == (again.returncode, "Open that store instead" in again.stderr)


def test_a_source_that_is_kept_can_be_used(place: Path) -> None:
    done = everstep("db", "copy", str(STATE), "other.db", "--keep", cwd=place)

    assert 0 == done.returncode
    assert "Do not drive both" in done.stderr
    assert ALL == set(everstep("runs", "-q", cwd=place).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([str(STATE), str(STATE)], 2, "the same store"),
        ([str(STATE), "memory://"], 2, "store in memory"),
        ([str(STATE)], 2, "TARGET"),
        (["full.db", str(STATE)], 5, "has runs of its own"),
        ([str(STATE), "other.db", "--give-up"], 5, "no copy of the store"),
        ([str(STATE), "nowhere/other.db"], 3, "has no directory"),
    ],
)
def test_a_copy_that_makes_no_sense_is_refused(arguments: list[str], code: int, named: str, place: Path) -> None:
    shutil.copy(place / STATE, place / "full.db")

    done = everstep("db", "copy", *arguments, cwd=place)

    assert (code, "") == (done.returncode, done.stdout)
    assert named in done.stderr
    assert ALL == set(everstep("runs", "-q", cwd=place).stdout.split())


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    if missing():
        pytest.skip(f"needs {missing()}: pip install --group test")
    found: Server = request.getfixturevalue("postgres_server")
    return found


def test_a_store_is_moved_to_postgresql_and_back(place: Path, server: Server, postgres_url: str) -> None:
    there = told("db", "copy", str(STATE), postgres_url, cwd=place)
    status = told("db", "status", "--store", postgres_url, cwd=place)
    check = everstep("db", "check", "--store", postgres_url, cwd=place)
    back = told("db", "copy", postgres_url, "back.db", cwd=place)

    assert (len(ALL), there["digest"]) == (there["runs"], back["digest"])
    assert ("postgresql", {"cancelled": 1, "failed": 2, "queued": 1, "succeeded": 2, "waiting": 3}) == (
        status["backend"],
        status["runs"],
    )
    assert (0, "") == (check.returncode, check.stdout)
    assert ALL == set(everstep("runs", "-q", "--store", "back.db", cwd=place).stdout.split())
    gone = everstep("runs", "--store", postgres_url, cwd=place)
    assert (3, True) == (gone.returncode, "were moved to sqlite:///" in gone.stderr)
    for each in (there, status, back):
        assert PASSWORD not in json.dumps(each)
        assert "the%20secret" not in json.dumps(each)


VERBS = [["status"], ["migrate"], ["check"], ["prune", "--older-than", "1d"], ["copy", str(STATE)]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_server_that_does_not_help_is_told_in_two_lines(
    verb: list[str], place: Path, server: Server, postgres_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """J4: wrong password, no such database, no rights, nobody there. In none of them is a password."""
    monkeypatch.chdir(place)
    assert 0 == run(["db", "migrate", "--store", postgres_url])
    asyncio.run(_make_stranger(postgres_url))
    query = postgres_url[postgres_url.index("?") :]
    urls = {
        server.url(password="hunter2"): "refuses this user",
        server.url("no_such"): "has no such database",
        server.url(user="a_stranger", password="hunter2", query=query): "does not permit this",
        "postgresql://ann:hunter2@127.0.0.1:1/orders": "cannot be reached",
        "postgresql://ann:hunter2@everstep.invalid/orders": "cannot be reached",
    }
    capsys.readouterr()
    for url, named in urls.items():
        code = run(["db", *verb, *([url] if verb[0] == "copy" else ["--store", url])])

        out, err = capsys.readouterr()
        assert (3, "") == (code, out), err
        assert err.startswith("everstep: ")
        assert named in err
        assert 2 == len(err.splitlines())
        assert "hunter2" not in err
        assert PASSWORD not in err


async def _make_stranger(url: str) -> None:
    from everstep.stores.postgres import link
    from everstep.stores.postgres.address import Address

    admin = await link.connect(Address(url), is_pooled=True)
    await admin.execute("DO $$ BEGIN CREATE ROLE a_stranger LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await admin.execute("ALTER ROLE a_stranger PASSWORD 'hunter2'")
    await admin.close()
