"""The pipeline example: what it prints, from the bad row to the fork."""

import asyncio
from pathlib import Path

import pytest

from examples.etl.demo import main

STOPPED = "step validate of run orders-may failed after 1 attempt: ValueError: orders without a sum or a known currency: 1004"


def test_it_stops_at_the_bad_row_is_corrected_and_forked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        f"stopped:  {STOPPED}",
        "kept:     read 5 orders, at step 2 of 4",
        "finished: read 5 orders, 1004 corrected by hand, converted 1, loaded 5",
        "loaded:   ann 2459, bob 3749, cleo 3000",
        "forked:   ann 2459, bob 3749",
    ]
