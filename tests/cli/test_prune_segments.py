"""``everstep db prune --segments``, and how the other verbs tell of a run that was trimmed. Real processes on a real store."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

import everstep as es
from tests.cli import subscription as program
from tests.cli.support import everstep, on_a_terminal


@pytest.fixture(scope="module")
def billed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a subscription that began again three times and waits."""
    place = tmp_path_factory.mktemp("billed")
    shutil.copy(program.__file__, place / "app.py")
    asyncio.run(_seed(place))
    return place


async def _seed(place: Path) -> None:
    async with es.Engine(f"sqlite:///{place}/.everstep/state.db", workflows=[program.subscription]) as engine:
        handle = await engine.start(program.subscription(1), id="sub-1")
        while await handle.status() is not es.Status.WAITING:  # noqa: ASYNC110  # another loop parks it
            await asyncio.sleep(0.01)


@pytest.fixture
def place(billed: Path, tmp_path: Path) -> Path:
    """A copy of it, to change at will."""
    return Path(shutil.copytree(billed, tmp_path / "place"))


def test_closed_segments_go_and_everything_else_is_told_as_before(place: Path) -> None:
    shown = json.loads(everstep("show", "sub-1", "--json", cwd=place).stdout)
    state = everstep("state", "sub-1", cwd=place).stdout

    done = everstep("db", "prune", "--older-than", "0s", "--segments", "--yes", cwd=place)

    assert (0, "") == (done.returncode, done.stderr)
    assert ["forgotten", "1", "2"] == done.stdout.split()
    again = json.loads(everstep("show", "sub-1", "--json", cwd=place).stdout)
    told = ("run_id", "status", "version", "current_step", "doing")
    assert [shown.get(each) for each in told] == [again.get(each) for each in told]
    assert state == everstep("state", "sub-1", cwd=place).stdout
    assert '"month": 4' in state
    assert (0, True) == ((checked := everstep("verify", cwd=place)).returncode, "0 damaged" in checked.stderr)
    assert 0 == everstep("replay", "sub-1", "--code", "app.py", cwd=place).returncode


def test_a_version_that_is_gone_is_told_as_gone(place: Path) -> None:
    everstep("db", "prune", "--older-than", "0s", "--segments", "--yes", cwd=place)

    done = everstep("state", "sub-1", "--at", "2", cwd=place)

    assert 0 != done.returncode
    assert "run sub-1 has no version 2: its versions are 1 and " in done.stderr
    assert "were pruned" in done.stderr


def test_what_would_go_is_counted_in_entries(place: Path) -> None:
    dry = everstep("db", "prune", "--older-than", "0s", "--segments", "--dry-run", "--json", cwd=place)
    code, seen = on_a_terminal("db", "prune", "--older-than", "0s", "--segments", cwd=place, typed=("for good? [y/N]", "n\n"))

    assert {"dry_run": True, "runs": 1, "entries": 2, "kept": {}} == json.loads(dry.stdout)
    assert 5 == code
    assert "Forget 2 entries of 1 run for good?" in seen


def test_young_segments_stay_and_a_status_means_nothing(place: Path) -> None:
    young = everstep("db", "prune", "--older-than", "30d", "--segments", cwd=place)
    wrong = everstep("db", "prune", "--older-than", "0s", "--segments", "--status", "failed", cwd=place)

    assert ["forgotten", "0", "0"] == young.stdout.split()
    assert 2 == wrong.returncode
    assert "Leave out --status" in wrong.stderr
