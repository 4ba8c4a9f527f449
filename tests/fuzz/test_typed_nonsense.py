"""
Whatever is typed on the command line, or into a filter: an exit code that is documented, a cause and a remedy, and never a
traceback.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.cli import faults
from everstep.cli.arguments import parse_value
from everstep.cli.filters import KEYS, parse_age, parse_filter
from everstep.cli.group import VERBS
from everstep.cli.run import run
from everstep.errors import UsageError
from everstep.testing.crash_points import parse_plan
from tests import evidence

EXAMPLES = evidence.amount(300, 5000)
DOES_NOT_END = {"worker", "watch", "demo"}
"""Verbs that are meant to go on."""
EXIT_CODES = {
    faults.OK,
    faults.UNSUCCESSFUL,
    faults.USAGE,
    faults.STORE,
    faults.NOT_FOUND,
    faults.REFUSED,
    faults.TIMED_OUT,
    faults.INTERRUPTED,
}
NONSENSE = (
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "\0",
        "\x1b[31mred",
        "a\nb",
        "\u202ereversed",
        "\udc80",
        "x" * 3000,
        "../../etc/passwd",
        "~",
        "*",
        "%",
    ),
    *("x') OR 1=1--", "'; DROP TABLE runs; --", "$(reboot)", "`reboot`", "{}", "[]", "null", "1e999", "NaN", '{"a":1,"a":2}'),
    *("9" * 5000, "-1", "0", "99999999999999999999", "1.5", "[" * 5000, '{"$type":"os.system"}', "order-1", "order-1,order-2"),
    *(
        "sqlite:///nowhere/at/all.db",
        "postgresql://ann:secret@127.0.0.1:1/none",
        "memory://",
        "http://x",
        "file.db",
        "sqlite://",
    ),
    *(
        "status:failed",
        "status:",
        ":",
        "since:1h",
        "since:-1h",
        "since:999999999w",
        "id:*",
        "id:**",
        "workflow:a b",
        '"unclosed',
    ),
    *(
        "--json",
        "--jsonl",
        "--yes",
        "--store",
        "-f",
        "-q",
        "--at",
        "--set",
        "--id",
        "--reason",
        "--help",
        "-h",
        "--limit",
        "--before",
    ),
    *(
        "--dry-run",
        "--older-than",
        "30d",
        "--keep",
        "--version",
        "status",
        "migrate",
        "check",
        "prune",
        "copy",
        "requeue",
        "discard",
    ),
)
FILTERS = st.lists(st.sampled_from([*NONSENSE, *(f"{key}:" for key in KEYS)]) | st.text(max_size=20), max_size=5).map(" ".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=FILTERS)
def test_a_filter_is_read_or_refused(text: str) -> None:
    """By a closed list of keys; nothing of it becomes part of a query (S10)."""
    with suppress(UsageError):
        parse_filter(text, now=1_700_000_000_000_000)
    evidence.note("filters, ages, plans and values typed at random")


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=st.sampled_from(NONSENSE) | st.text(max_size=40))
def test_values_ages_and_plans_are_read_or_refused(text: str) -> None:
    """Each by its own grammar."""
    parsers: tuple[Callable[[str], object], ...] = (parse_value, parse_plan, partial(parse_age, option="--older-than"))
    for parse in parsers:
        with suppress(UsageError):
            parse(text)
        evidence.note("filters, ages, plans and values typed at random")


def test_any_command_line_ends_with_a_documented_exit_code_and_no_traceback(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Verbs with arguments and options that mean something elsewhere, or nothing at all; on a store with runs of every kind."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("EVERSTEP_URL", raising=False)
    chance = random.Random(7)
    verbs = [verb for verb in VERBS if verb not in DOES_NOT_END]
    for _ in range(evidence.amount(150, 5000)):
        line = [chance.choice(verbs), *chance.choices(NONSENSE, k=chance.randrange(5))]

        code = run(line)

        said = capfd.readouterr()
        assert code in EXIT_CODES, line
        assert "Traceback" not in said.err + said.out, line
        assert "This is a bug of everstep" not in said.err, (line, said.err)
        assert "ann:secret" not in said.err, line
        evidence.note("command lines typed at random")
