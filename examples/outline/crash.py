"""What `tests/examples/test_crash_everywhere.py` kills: two packages, and the files that their outlines are in."""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.outline.job import Package, outline_packages

TARGET = "outlines"


def call(folder: Path) -> es.Call[list[Package]]:
    return outline_packages(str(folder / TARGET), ["json", "wsgiref"])


def small_call(folder: Path) -> es.Call[list[Package]]:
    return outline_packages(str(folder / TARGET), ["dbm"])


def effects(folder: Path) -> dict[str, str]:
    """Every file and what is in it. A file that an interrupted attempt left beside its place is none."""
    written = (folder / TARGET).glob("*.json")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(written)}
