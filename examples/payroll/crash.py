"""
What is killed, and what it must leave: see `examples/airports/crash.py`. It is the workflow without a Secret, for these runs
have no keys.
"""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.payroll.job import payslips


def call(folder: Path) -> es.Call[list[str]]:
    return payslips(str(folder / "book.txt"), {"Ada": 512_300, "Grace": 498_700})


def effects(folder: Path) -> str:
    """A payslip for each, and none twice."""
    return (folder / "book.txt").read_text(encoding="utf-8")
