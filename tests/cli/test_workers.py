"""``everstep workers``: the list of who drives runs, and asking one to leave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from everstep.cli.workers import named, state_of, table_row, worker_json
from everstep.records import WorkerProfile, WorkerRecord
from everstep.stores.sqlite import SQLiteStore
from tests.cli.support import SECONDS_MAX, cells, command, environment, everstep, on_a_terminal

posix_only = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
PROFILE = WorkerProfile(host="web-3", pid=47, workflows=(("checkout", None, "3f2a99"), ("refund", "2", "77aa")), run_max=9)
WORKER = WorkerRecord(
    worker_key=12,
    name="web-3:47",
    alive=True,
    lease_seconds=15.0,
    run_count=3,
    enlisted_at=0,
    silent_seconds=2.5,
    lock="held",
    profile=PROFILE,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "working"),
        ({"run_count": 0}, "idle"),
        ({"draining": True}, "draining"),
        ({"silent_seconds": 15.0}, "silent"),
        ({"lock": "free"}, "dead"),
        ({"alive": False}, "dead"),
        ({"silent_seconds": None, "lock": "free"}, "dead"),
        ({"silent_seconds": None}, "silent"),
    ],
)
def test_one_word_says_how_a_worker_is(changes: dict[str, object], expected: str) -> None:
    assert expected == state_of(replace(WORKER, **changes))


def test_a_worker_is_told_for_people_and_for_programs() -> None:
    row = ("web-3:47", "12", "working", "3", "2.50s ago", "12s left", "there", "1m 00s", "checkout@3f2a refund@2")
    assert row == table_row(WORKER, 60_000_000)
    rebooted = replace(WORKER, silent_seconds=None, lock="free")
    assert ("dead", "before the boot", "") == tuple(table_row(rebooted, 0)[n] for n in (2, 4, 5))

    told = worker_json(WORKER)
    assert (12, 12.5, "held", 47) == (told["token"], told["expires_seconds"], told["lock"], told["pid"])
    assert {"name": "refund", "version": "2", "fingerprint": "77aa"} == told["workflows"][1]
    assert None is worker_json(rebooted)["expires_seconds"]
    assert json.dumps(worker_json(rebooted))


def test_a_name_may_mean_several_and_a_token_means_one() -> None:
    """Clones have one name; somebody who is gone cannot be meant."""
    clone, gone = replace(WORKER, worker_key=13), replace(WORKER, worker_key=14, alive=False)
    workers = [WORKER, clone, gone]

    assert ([WORKER, clone], []) == named(workers, ["web-3:47"])
    assert ([clone], ["14", "x"]) == named(workers, ["13", "14", "x"])


@pytest.mark.parametrize("arguments", [["stop"], ["drain"], ["drain", "x", "--watch"]])
def test_what_it_does_not_know_it_refuses(arguments: list[str], seeded: Path) -> None:
    done = everstep("workers", *arguments, cwd=seeded)

    assert (2, "") == (done.returncode, done.stdout)
    assert "Nothing was done" in done.stderr


def test_where_nobody_drives_the_list_is_empty(seeded: Path) -> None:
    done = everstep("workers", cwd=seeded)
    assert (0, "") == (done.returncode, done.stdout)
    assert [] == json.loads(everstep("workers", "--json", cwd=seeded).stdout)
    code, seen = on_a_terminal("workers", cwd=seeded)
    assert 0 == code
    assert "nobody drives runs now" in seen
    assert 4 == everstep("workers", "drain", "nobody:1", cwd=seeded).returncode


@posix_only
def test_a_worker_can_be_listed_watched_and_asked_to_leave(place: Path) -> None:
    """A real one: it ends with exit code 0, and is gone from the list."""
    arguments = command("worker", "app", "--lease", "2", "-c", "7")
    process = subprocess.Popen(arguments, cwd=place, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "drives" in process.stderr.readline()

    [row] = map(cells, everstep("workers", cwd=place).stdout.splitlines())
    [told] = json.loads(everstep("workers", "--json", cwd=place).stdout)
    code, seen = on_a_terminal("workers", "--watch", cwd=place, columns=160, typed=(row[0], "\x03"))
    assert (130, True) == (code, "1 worker with" in seen)
    assert (process.pid, 2.0, 7, "held") == (told["pid"], told["lease_seconds"], told["run_max"], told["lock"])
    assert "checkout" in [each["name"] for each in told["workflows"]]

    done = everstep("workers", "drain", row[0], "nobody:1", cwd=place)
    assert (4, (row[0], row[1], "asked to drain")) == (done.returncode, tuple(cells(done.stdout.strip())))
    assert "nobody:1" in done.stderr
    _, said = process.communicate(timeout=SECONDS_MAX)

    assert 0 == process.returncode
    assert "asked to leave" in said
    assert "" == everstep("workers", cwd=place).stdout


def test_a_worker_that_was_killed_is_shown_as_dead(place: Path) -> None:
    """Before anybody has claimed what it had: its lock is free."""

    async def die() -> None:
        store = SQLiteStore(place / ".everstep" / "state.db")
        await store.open()
        store.kill(await store.enlist("\x1b[2Jweb:1", 15.0))
        done = await asyncio.to_thread(everstep, "workers", cwd=place)
        await store.close()
        assert "dead" == cells(done.stdout)[2]
        assert "\x1b" not in done.stdout

    asyncio.run(die())
