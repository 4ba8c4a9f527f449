"""
What `tests/examples/test_crash_everywhere.py` kills: a trip without a car, and what the providers must hold afterwards.
"""

from __future__ import annotations

from pathlib import Path

import everstep as es
from examples.trip import providers
from examples.trip.job import plan_trip


def call(folder: Path) -> es.Call[str]:
    return plan_trip(str(folder), "Lisbon")


def effects(folder: Path) -> tuple[object, object]:
    """What is still held (nothing), and what was given back (each once)."""
    return providers.held(folder), providers.given_back(folder)
