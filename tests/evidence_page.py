"""
Write the counts of a test run and of ``make proof`` into ``docs/explanation/evidence.md``.

    python -m tests.evidence_page TESTS.json [PROOF.json]      as ``--evidence`` of pytest wrote them
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "evidence.md"
_COUNTS = re.compile(r"(<!-- counts: [^\n]* -->\n).*?(<!-- end of counts -->)", re.DOTALL)


def with_counts(page: str, tests: Mapping[str, int], proof: Mapping[str, int]) -> str:
    """The page with these counts in the place of those that it has."""
    names = sorted(tests.keys() | proof.keys())
    rows = [f"| {name} | {_shown(tests, name)} | {_shown(proof, name)} |" for name in names]
    table = "\n".join(["| what | `make test` | `make proof` |", "|---|---:|---:|", *rows])
    return _COUNTS.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page)


def _shown(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]:,}" if name in counts else "not run"


def main(tests: str, proof: str = "") -> None:
    """Rewrite the page."""
    counts: list[dict[str, int]] = [
        json.loads(Path(path).read_text(encoding="utf-8")) if path else {} for path in (tests, proof)
    ]
    PAGE.write_text(with_counts(PAGE.read_text(encoding="utf-8"), *counts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
