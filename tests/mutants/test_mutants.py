"""Each guard is guarded: with it taken out, the test that is named beside it fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests import evidence
from tests.mutants.catalogue import MUTANTS, Mutant
from tests.mutants.kill import Verdict, planted, try_to_kill

WORKERS = 2
"""Tests of mutants that run at once; each is a process of its own."""


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Future[Verdict]]]:
    """What becomes of every mutant: they are all begun with the first test."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield {mutant.name: pool.submit(try_to_kill, mutant) for mutant in MUTANTS}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_mutant_is_killed(verdicts: dict[str, Future[Verdict]], mutant: Mutant) -> None:
    """By a test that fails, not by one that cannot run."""
    verdict = verdicts[mutant.name].result()

    assert "" == verdict.trouble
    assert verdict.killer, "it survived"
    evidence.note("planted mutants, each killed by the test that is named beside it")


def test_names_of_mutants_are_theirs_alone() -> None:
    """They are what ``make mutants`` is asked for."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_whose_text_is_gone_is_told() -> None:
    """Whoever rewrites a guard hears of it."""
    with pytest.raises(AssertionError, match="stands 0 times"):
        planted(MUTANTS[0], "nothing of it")
