"""The rollout example: four deployments, and which branch each order takes."""

import asyncio
from pathlib import Path

import pytest

from examples.rollout.demo import main


def test_each_order_goes_on_with_the_branch_that_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(main(tmp_path))

    assert capsys.readouterr().out.splitlines() == [
        "patched     order-1: picked up by ann",
        "deprecated  order-3: picked up by ann",
        "after       run order-2: the workflow code no longer matches its journal at entry 1.",
        "patched     order-2: picked up by ann",
        "order-1 charged",
        "order-2 charged",
        "order-3 checked",
        "order-3 charged",
    ]
