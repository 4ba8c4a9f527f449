"""The approval example: what it prints, through days of virtual time."""

import asyncio
from pathlib import Path

import pytest

from examples.approval.demo import main


def test_a_claim_is_lowered_reminded_of_and_paid_and_another_is_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "refused:  9999 is more than was claimed: 4200",
        "answered: lowered from 4200 to 4000",
        "again:    lowered from 4200 to 4000",
        "stage:    reminded",
        "taxi:     paid 4000 cents to ann",
        "hotel:    refused by nobody in time",
        "3 mails",
    ]
