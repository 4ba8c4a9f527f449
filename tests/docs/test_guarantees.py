"""The page of guarantees names tests: they have to exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "guarantees.md"
PROMISES_MIN = 16


def test_every_guarantee_names_tests_that_exist() -> None:
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/everstep/testing/*.py")]
    defined = {name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "test_" in line]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}

    assert len(rows) >= PROMISES_MIN
    assert set() == named - defined
