"""The readings example: the same result in three ways, and what each costs."""

import asyncio
from pathlib import Path

import pytest

from everstep.testing import crash_everywhere
from examples.readings import crash
from examples.readings.demo import main
from examples.readings.job import relaxed


def test_the_same_readings_take_fewer_commits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "one_by_one    60 readings, 64 commits; done again after a crash: the step that was cut off",
        "page_by_page  60 readings,  4 commits; done again after a crash: the page that was cut off",
        "relaxed       60 readings,  2 commits; done again after a crash: at most 100 steps, or 1 s",
        "the first of them: 26.85 degrees",
    ]
    one, page, loose = [sorted((tmp_path / name).iterdir()) for name in ("one_by_one", "page_by_page", "relaxed")]
    assert 3 == len(one)
    assert [each.read_bytes() for each in one] == [each.read_bytes() for each in page] == [each.read_bytes() for each in loose]


def test_the_relaxed_one_survives_every_crash_as_well() -> None:
    report = crash_everywhere(lambda folder: relaxed(str(folder), [[4800, 4807], [4900]]), effects=crash.effects)

    assert report.kills > 2
