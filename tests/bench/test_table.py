"""
The report of the benchmark: what a reader sees of a row that went well, one that failed, and one without a bar.
"""

from __future__ import annotations

import json

import pytest

from bench.measurement import Measurement
from bench.table import document, figure, table

STEPS = Measurement(
    name="steps",
    value=5_000,
    unit="/s",
    floor=8_000,
    peers={"dura": 4_000},
    bar="≥ 4,000",
    met=True,
    note="on a quiet machine",
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.125, "0.12"), (42.04, "42.0"), (123_456.7, "123,457"), (-3.5, "-3.50")],
)
def test_a_figure_shows_three_digits_or_more(value: float | None, shown: str) -> None:
    assert shown == figure(value)


def test_a_row_shows_its_ratios_and_whether_its_bar_is_met() -> None:
    heading, _, row, _, remark = table([STEPS], ["dura"]).splitlines()

    assert heading.split() == ["everstep", "unit", "floor", "of", "floor", "dura", "ahead", "bar", "met"]
    assert row.split() == ["steps", "5,000", "/s", "8,000", "0.62×", "4,000", "1.25×", "≥", "4,000", "yes"]
    assert remark == "steps: on a quiet machine"


def test_a_row_that_failed_stands_in_the_table_with_its_error() -> None:
    shown = table([Measurement(name="replay", error="no such verb"), STEPS], [])

    assert "replay: ERROR no such verb" in shown
    assert "yes" in shown


def test_the_document_keeps_the_machine_and_the_ratios() -> None:
    read = json.loads(document({"cpu": "two"}, [STEPS]))

    assert read["machine"] == {"cpu": "two"}
    assert (read["rows"][0]["of_floor"], read["rows"][0]["ahead"]) == (0.625, {"dura": 1.25})
