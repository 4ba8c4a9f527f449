"""The page for whoever changes the code stays one that is read."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "ARCHITECTURE.md"
LINES_MAX = 250


def test_the_architecture_fits_on_a_page_that_is_read_in_one_go() -> None:
    """Who adds a paragraph takes out what has become less interesting."""
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= LINES_MAX
