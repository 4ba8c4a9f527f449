"""What is killed, and what it must leave: see `examples/airports/crash.py`."""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.readings.job import page_by_page


def call(folder: Path) -> es.Call[int]:
    return page_by_page(str(folder), [[4800, 4807, 4814], [4900]])


def effects(folder: Path) -> dict[str, str]:
    """The pages; a milestone that is begun again writes them as they were."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("page-*.txt"))}
