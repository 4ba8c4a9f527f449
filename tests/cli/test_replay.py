"""everstep replay: today's code is held to the journals of runs."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import everstep as es
from everstep.testing import save_journal
from tests.cli.support import everstep


def change(place: Path, before: str, after: str) -> None:
    """Another version of the program."""
    text = (place / "app.py").read_text(encoding="utf-8")
    assert before in text
    (place / "app.py").write_text(text.replace(before, after), encoding="utf-8")


def url(place: Path) -> str:
    return f"sqlite:///{(place / '.everstep' / 'state.db').as_posix()}"


def statuses(place: Path) -> Sequence[tuple[str, str]]:
    listed = json.loads(everstep("runs", "--json", cwd=place).stdout)
    return [(run["run_id"], run["status"]) for run in listed]


def test_the_code_that_a_run_started_on_agrees(place: Path) -> None:
    done = everstep("replay", "order-1", "order-3", "--code", "app", cwd=place)

    assert (0, "") == (done.returncode, done.stdout)
    assert "2 runs · " in done.stderr
    assert " · 0 diverged" in done.stderr


def test_other_code_is_shown_side_by_side_and_nothing_changes(place: Path) -> None:
    """Exit code 5; what was recorded above what is asked for; and the run is not paused by it."""
    before = statuses(place)
    change(place, "await charge(order_id, cents)", "await charge(order_id, cents + 1)")
    done = everstep("replay", "order-1", "--code", "app", cwd=place)

    assert 5 == done.returncode
    head, recorded, requested = done.stdout.splitlines()
    assert "run order-1: the workflow code no longer matches its journal at entry 2." == head
    assert 'recorded:  step charge("order_id":"1","cents":1999)' in recorded
    assert 'requested: step charge("order_id":"1","cents":2000)' in requested
    assert "1 run · " in done.stderr
    assert "nothing was executed or changed" in done.stderr
    assert before == statuses(place)


def test_for_programs_it_is_json(place: Path) -> None:
    change(place, "await charge(order_id, cents)", "await charge(order_id, cents + 1)")
    done = everstep("replay", "order-1", "order-2", "order-4", "--code", "app:checkout", "--json", cwd=place)
    found = json.loads(done.stdout)

    assert 5 == done.returncode
    assert 1 == found["runs"]
    [divergence] = found["diverged"]
    assert ("order-1", 2) == (divergence["run_id"], divergence["version"])
    assert divergence["recorded"].startswith("step charge(")
    assert divergence["requested"].startswith("step charge(")
    assert "no longer matches" in divergence["message"]
    assert ["order-2", "order-4"] == [each["run_id"] for each in found["unknown"]]


def test_all_that_another_verb_lists_can_be_replayed(place: Path) -> None:
    """Before a deployment. Workflows that the code does not have are counted."""
    ids = everstep("runs", "-q", cwd=place).stdout
    done = everstep("replay", "-", "--code", "app", cwd=place, stdin=ids)

    assert (0, "") == (done.returncode, done.stdout)
    assert f"{len(ids.splitlines())} runs · " in done.stderr


def test_files_are_replayed_without_a_store(place: Path, tmp_path: Path) -> None:
    async def take() -> None:
        async with es.Client(url(place)) as client:
            save_journal(tmp_path / "order-1.ndjson", await client.handle("order-1").journal())

    asyncio.run(take())
    (place / ".everstep").rename(place / "gone")

    assert 0 == everstep("replay", f"{tmp_path}/order-1.ndjson", "--code", "app", cwd=place).returncode
    change(place, "await charge(order_id, cents)", "await charge(order_id, cents + 1)")
    done = everstep("replay", f"{tmp_path}/order-1.ndjson", "--code", "app", cwd=place)
    assert 5 == done.returncode
    assert "requested: step charge" in done.stdout


def test_a_fork_is_replayed_with_the_history_that_it_shares(place: Path) -> None:
    async def fork() -> None:
        async with es.Client(url(place)) as client:
            await client.handle("order-1").fork(at=2, id="order-1b")

    asyncio.run(fork())
    done = everstep("replay", "order-1b", "--code", "app", cwd=place)

    assert (0, "") == (done.returncode, done.stdout)
    assert "0 diverged" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["order-9", "--code", "app"], 4, "there is no run order-9"),
        (["gone.ndjson", "--code", "app"], 4, "there is no run gone.ndjson"),
        (["app.ndjson", "--code", "app"], 2, "begins with no journal"),
        (["order-1"], 2, "--code"),
        (["order-1", "--code", "nowhere"], 2, "there is no module"),
        (["order-1", "--code", "app:patient"], 2, "run order-1 is of workflow checkout, which app:patient does not have"),
        (["--code", "app"], 2, "RUN"),
    ],
)
def test_what_cannot_be_replayed_is_told(arguments: list[str], code: int, told: str, place: Path) -> None:
    (place / "app.ndjson").write_text("hello\n", encoding="utf-8")
    done = everstep("replay", *arguments, cwd=place)

    assert (code, "") == (done.returncode, done.stdout)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
