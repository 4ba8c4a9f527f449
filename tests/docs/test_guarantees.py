"""The pages of guarantees and evidence name tests: they have to exist."""

import re
from pathlib import Path

import pytest

from tests.evidence_page import with_counts

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explanation"
CASES = {"A": 7, "B": 8, "C": 6, "D": 5, "E": 4, "F": 4, "G": 4, "H": 5, "J": 5, "K": 4, "L": 4, "M": 4}
"""Of the catalogue of faults, by letter."""


@pytest.mark.parametrize(("page", "rows_min"), [("guarantees", 16), ("evidence", 50)])
def test_every_test_that_is_named_exists(page: str, rows_min: int) -> None:
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/everstep/testing/*.py")]
    defined = {name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    rows = [line for line in (PAGES / f"{page}.md").read_text(encoding="utf-8").splitlines() if "test_" in line]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}

    assert len(rows) >= rows_min
    assert set() == named - defined


def test_the_catalogue_of_faults_is_complete() -> None:
    """A case without a test says so, and why."""
    text = (PAGES / "evidence.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([A-M]\d) \| [^|]+ \| (.+) \|$", text, re.MULTILINE))

    assert {f"{letter}{number}" for letter, count in CASES.items() for number in range(1, count + 1)} == told.keys()
    assert all("`" in shown or "not here yet" in shown for shown in told.values())


def test_counts_are_written_between_their_marks() -> None:
    """And a second time in the place of the first."""
    page = "before\n<!-- counts: by a tool -->\nold\n<!-- end of counts -->\nafter\n"

    once = with_counts(page, {"kills": 3}, {"kills": 1000, "seeds": 2})

    assert "| kills | 3 | 1,000 |" in once
    assert "| seeds | not run | 2 |" in once
    assert "old" not in once
    assert once == with_counts(once, {"kills": 3}, {"kills": 1000, "seeds": 2})
    assert once.startswith("before\n")
    assert once.endswith("after\n")
