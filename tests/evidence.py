"""
How much is tried: less in every test run, more in ``make proof``. What was tried is counted, and shown when the session ends.

``make proof`` writes the counts to a file; ``docs/explanation/evidence.md`` is made from it and never written by hand.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

IS_PROOF = os.environ.get("EVERSTEP_PROOF") == "1"
counts: Counter[str] = Counter()
"""What was tried in this session, by name. The process that pytest runs in is the only one that counts."""


def amount(in_tests: int, in_proof: int) -> int:
    """How many to try now."""
    return in_proof if IS_PROOF else in_tests


def note(what: str, count: int = 1) -> None:
    """Some of it was tried, and stood."""
    counts[what] += count


def lines() -> list[str]:
    """The counts as people read them."""
    width = max(map(len, map(_shown, counts.values())), default=0)
    return [f"{_shown(count):>{width}} {what}" for what, count in sorted(counts.items())]


def write(path: Path) -> None:
    """Keep the counts, beside those of other sessions that the file has."""
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | counts, indent=1, sort_keys=True) + "\n")


def _shown(count: int) -> str:
    return f"{count:,}"
