"""
What a step costs, in Python calls of everstep's own: counted, so a busy machine makes no difference.

A change that adds calls to every step is seen here on the day it is made. If it is worth them, raise the bound and say so in
the commit. Newer Pythons make fewer (they inline comprehensions), so the bounds are those of the oldest.
"""

from __future__ import annotations

from bench.calls import listed, lone, many, total

LONE_MAX = 127
MANY_MAX = 111


def test_a_step_of_a_lone_run_makes_no_more_calls_than_it_did() -> None:
    calls = lone()

    count = total(calls, ours=True)
    assert count <= LONE_MAX, listed(calls, ours=True)


def test_a_step_among_many_runs_makes_no_more_calls_than_it_did() -> None:
    calls = many()

    count = total(calls, ours=True)
    assert count <= MANY_MAX, listed(calls, ours=True)
