"""The subscription example: three years of it, in virtual time."""

import asyncio
from pathlib import Path

import pytest

from examples.subscription.demo import main


def test_three_years_of_payments_and_a_journal_that_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "ann: 25 months, 999 cents owed",
        "25 invoices, none twice",
        "112 entries in the journal; a worker that takes over reads the newest month of them",
    ]
