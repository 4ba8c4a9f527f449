"""The verbs of operators: pause, resume, retry, discard, fork, compare, dead."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import everstep as es
from everstep.cli.compare import Pair, common, pairs
from everstep.cli.dead import chosen, grouped
from everstep.cli.fork import edit
from everstep.cli.story import How, Operation, What
from everstep.client import DeadLetter
from everstep.events import RunDied, encode_events
from everstep.records import Status
from everstep.stores.base import Settlement
from tests.cli.support import everstep

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def url_of(place: Path) -> str:
    return f"sqlite:///{(place / '.everstep' / 'state.db').as_posix()}"


def status_of(place: Path, run_id: str) -> str:
    async def ask() -> str:
        async with es.Client(url_of(place)) as client:
            return (await client.handle(run_id).status()).value

    return asyncio.run(ask())


def kill_off(place: Path, *run_ids: str) -> None:
    """Make dead letters, as the engine does when a run's workers keep dying."""

    async def settle() -> None:
        async with es.Client(url_of(place)) as client:
            for run_id in run_ids:
                run = await client.get(run_id)
                events = encode_events([RunDied(f"{run.version} workers died\nwith it")])
                settlement = Settlement(run_key=run.run_key, version=run.version, events=events, status=Status.DEAD)
                assert await client.store.settle(settlement) is not None

    asyncio.run(settle())


# --- pause, resume, retry, discard --------------------------------------------------------------------------------------------


def test_a_waiting_run_is_paused_and_resumed(place: Path) -> None:
    assert 0 == everstep("pause", "order-3", "--reason", "maintenance", cwd=place).returncode
    assert "paused" == status_of(place, "order-3")
    assert "maintenance" in everstep("show", "order-3", cwd=place).stdout

    done = everstep("resume", "order-3", cwd=place)

    assert (0, "order-3\tdone\t\n") == (done.returncode, done.stdout)
    assert "queued" == status_of(place, "order-3")


def test_retry_reopens_what_failed_and_refuses_the_rest(place: Path) -> None:
    done = everstep("retry", "order-2", "order-1", "nobody", "--json", cwd=place)

    assert 4 == done.returncode
    *answers, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [("done", None), ("refused", "succeeded"), ("not found", None)] == [(a["answer"], a["status"]) for a in answers]
    assert {"runs": 3, "done": 1, "refused": 1, "not_found": 1, "not_reached": 0} == summary
    assert "queued" == status_of(place, "order-2")
    assert 5 == everstep("retry", "order-1", cwd=place).returncode


def test_discard_asks_and_ends_a_run_for_good(place: Path) -> None:
    refused = everstep("discard", "order-2", cwd=place)
    assert 2 == refused.returncode
    assert "--yes" in refused.stderr

    assert 0 == everstep("discard", "order-2", "--yes", "--reason", "too old", cwd=place).returncode

    assert "cancelled" == status_of(place, "order-2")
    assert 5 == everstep("discard", "order-1", "--yes", cwd=place).returncode


# --- fork and compare ---------------------------------------------------------------------------------------------------------


def test_a_fork_prints_its_id_and_is_queued(place: Path) -> None:
    done = everstep("fork", "order-1", "--at", "charge", "--set", 'reserve="shelf 4"', "--id", "again", cwd=place)

    assert (0, "again\n") == (done.returncode, done.stdout)
    assert "everstep compare order-1 again" in done.stderr
    assert "queued" == status_of(place, "again")
    shown = json.loads(everstep("fork", "order-1", "--at", "2", "--json", cwd=place).stdout)
    assert "order-1" == shown["forks"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--at", "99"], 5),
        (["--at", "nothing"], 5),
        (["--set", "nothing=1"], 5),
        (["--set", "charge"], 2),
        (["--set", "x={"], 2),
    ],
)
def test_a_fork_that_cannot_be_says_why(more: list[str], code: int, place: Path) -> None:
    done = everstep("fork", "order-1", *more, cwd=place)

    assert (code, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("everstep: ")


def test_an_edit_is_a_name_and_json() -> None:
    assert ("charge", {"id": 1}) == edit('charge={"id": 1}')
    assert ("0:1", "a=b") == edit('0:1="a=b"')


def test_two_runs_are_compared_from_their_first_difference(place: Path) -> None:
    done = everstep("compare", "order-1", "order-2", cwd=place)
    shown = json.loads(everstep("compare", "order-1", "order-2", "--json", cwd=place).stdout)

    assert 0 == done.returncode
    assert "1 step in common" in done.stderr
    assert 1 == shown["common_steps"]
    assert ["charge", "decline"] == [shown["steps"][0][side]["step"] for side in ("left", "right")]
    assert any(change["path"] == ["result"] for change in shown["state"])
    assert 4 == everstep("compare", "order-1", "nobody", cwd=place).returncode


def test_what_only_one_run_asked_for_stands_beside_nothing() -> None:
    one = Operation(key="0:1", what=What.STEP, name="charge", how=How.DONE)
    other = Operation(key="0:1", what=What.STEP, name="charge", how=How.FAILED)

    assert 1 == common(pairs([one, one], [one, other]))
    assert [Pair(one, one), Pair(one, None)] == pairs([one, one], [one])
    assert 2 == common(pairs([one, one], [one, one]))


# --- dead letters -------------------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_by_cause_and_a_group_is_requeued(place: Path) -> None:
    kill_off(place, "order-3", "order-6")
    groups = json.loads(everstep("dead", "--json", cwd=place).stdout)
    assert [1, 1] == [group["count"] for group in groups]
    [waiting] = [group for group in groups if group["workflow"] == "patient"]

    refused = everstep("dead", "requeue", waiting["group"], cwd=place)
    assert 2 == refused.returncode
    done = everstep("dead", "requeue", waiting["group"], "--rate", "100", "--yes", "--reason", "fixed", cwd=place)

    assert (0, "order-3\trequeued\t\n") == (done.returncode, done.stdout)
    assert "queued" == status_of(place, "order-3")
    assert 0 == everstep("dead", "discard", "--yes", cwd=place).returncode
    assert "cancelled" == status_of(place, "order-6")
    assert [] == json.loads(everstep("dead", "--json", cwd=place).stdout)


def test_dead_with_a_wrong_word_does_nothing(place: Path) -> None:
    kill_off(place, "order-3")

    assert 2 == everstep("dead", "bury", "--yes", cwd=place).returncode
    assert 4 == everstep("dead", "requeue", "nobody", "--yes", cwd=place).returncode
    assert "dead" == status_of(place, "order-3")


def letter(run_id: str, reason: str, *, minutes: int = 0, step: str = "charge") -> DeadLetter:
    return DeadLetter(run_id, "checkout", step, reason, NOON + timedelta(minutes=minutes))


def test_numbers_do_not_make_another_cause() -> None:
    groups = grouped([letter("c", "4 workers died", minutes=5), letter("b", "3 workers died"), letter("a", "it cannot undo")])

    assert [("c", "b"), ("a",)] == [group.run_ids for group in groups]
    assert (NOON, NOON + timedelta(minutes=5), "4 workers died") == (groups[0].first, groups[0].last, groups[0].reason)
    assert groups[0].name == grouped([letter("x", "77 workers died")])[0].name, "the same tomorrow"


def test_names_are_those_of_groups_or_runs_and_none_means_all() -> None:
    groups = grouped([letter("b", "3 workers died"), letter("a", "it cannot undo")])
    name = groups[0].name

    assert {"a", "b"} == set(chosen(groups, []))
    assert [*groups[0].run_ids, "z"] == chosen(groups, [name, "z", name])
