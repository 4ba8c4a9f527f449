"""
The arithmetic of the benchmark. No timing is ever asserted: not here, and not by the benchmark itself.
"""

from __future__ import annotations

import pytest

from bench.contest import Results, rotated
from bench.measurement import Measurement, advantage, at_least, at_most, paired_difference, percentile


def test_an_advantage_above_one_is_good_whichever_way_the_unit_points() -> None:
    assert advantage(200, 100, "more") == 2.0
    assert advantage(50, 100, "less") == 2.0


@pytest.mark.parametrize(("mine", "other"), [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_there_is_no_advantage_without_two_figures(mine: float | None, other: float | None) -> None:
    assert advantage(mine, other, "more") is None


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


def test_a_paired_difference_ignores_the_drift_of_the_machine() -> None:
    """Both get slower from round to round; what one takes over the other does not."""
    assert paired_difference([12.0, 22.0, 42.0], [10.0, 20.0, 40.0]) == 2.0


def test_a_bar_is_undecided_without_a_value() -> None:
    assert (at_most(None, 1.0), at_least(None, 1.0)) == (None, None)
    assert (at_most(1.0, 1.0), at_least(0.9, 1.0)) == (True, False)


def test_a_measurement_compares_itself_with_its_floor_and_its_peers() -> None:
    measurement = Measurement(name="steps", value=50.0, unit="/s", floor=100.0, peers={"dbos": 5.0})

    assert measurement.of_floor == 0.5
    assert measurement.ahead_of("dbos") == 10.0
    assert measurement.ahead_of("dura") is None


def test_every_round_begins_with_another_contender() -> None:
    assert ["".join(rotated(list("abc"), turn)) for turn in range(4)] == ["abc", "bca", "cab", "abc"]


def test_results_reduce_rounds_by_medians_and_leave_out_who_failed() -> None:
    results = Results({"everstep": [0.1, 0.2, 9.0], "dura": [0.5]}, {"dbos": "died"})

    assert results.rate("everstep") == 5.0
    assert results.peers(rates=True) == {"dura": 2.0}
    assert (results.note, results.error) == ("without dbos: died", "")
