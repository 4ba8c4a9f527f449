"""
The simulation finds bugs that are planted. (How many seeds find each: ``python -m tests.simulation.bugs``.)
"""

from __future__ import annotations

import pytest

from tests.evidence import IS_PROOF, amount, note
from tests.simulation.bugs import BUGS, Bug, hunt

SEEDS_MAX = amount(400, 20_000)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if IS_PROOF or not bug.is_rare], ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    assert hunt(bug, range(SEEDS_MAX)), f"{bug.name}: {SEEDS_MAX} seeds do not find it"
    note("planted bugs that the simulation found")
