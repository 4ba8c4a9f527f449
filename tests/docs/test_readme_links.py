"""Whoever reads the README finds every page and every example."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_page_and_example_is_linked() -> None:
    """And every link leads somewhere."""
    linked = set(re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*/*.md")}
    examples = {f"examples/{path.parent.name}" for path in ROOT.glob("examples/*/crash.py")}

    assert set() == (pages | examples) - linked
    assert [] == [each for each in sorted(linked) if not (ROOT / each).exists()]
