"""What the command line thinks, without any store: text made safe, filters, words, tables."""

import json

import pytest

from everstep.cli.faults import exit_code, explain, lines_of
from everstep.cli.filters import Filter, parse_filter
from everstep.cli.group import VERBS, app
from everstep.cli.inert import inert, inert_lines, json_text, tsv_cell, without_passwords
from everstep.cli.layout import columns, fitted, tsv
from everstep.cli.options import store_url
from everstep.cli.plain import SIGNS, to_ascii
from everstep.cli.words import count, duration, iso, shortened
from everstep.errors import (
    CorruptJournal,
    EverstepError,
    InvalidStoreURL,
    RunConflict,
    RunDead,
    RunFailed,
    RunNotFound,
    RunTimeout,
    SchemaMismatch,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from everstep.records import Status
from tests.cli.program import HOSTILE

SECOND = 1_000_000
NOW = 1_900_000_000 * SECOND
ACTIVE = set(
    map(chr, [*range(32), *range(127, 160), 0x200B, 0x200E, 0x202A, 0x202E, 0x2066, 0x2069, 0x2028, 0x2029, 0xFEFF, 0xD800])
)


# --- inert -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", sorted(ACTIVE), ids=ascii)
def test_no_character_that_acts_reaches_a_terminal(character: str) -> None:
    """Control characters move the cursor, bidi marks turn lines around, invisible ones hide what stands there."""
    assert not ACTIVE & set(inert(f"a{character}b"))
    assert not ACTIVE & set(tsv_cell(f"a{character}b"))
    assert not ACTIVE & set(json_text({f"k{character}": [f"a{character}b"]}))


def test_what_is_hidden_is_shown_as_an_escape() -> None:
    """Dropping it would hide from the reader that somebody tried."""
    assert "a\\x1b[2Jb\\u202e\\n" == inert("a\x1b[2Jb\u202e\n")


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    """Safe must not mean ASCII."""
    assert "Grüße, 東京, 🙂 →" == inert("Grüße, 東京, 🙂 →")


def test_lines_of_a_traceback_stay_lines() -> None:
    """Only newlines that the caller asked for make lines."""
    assert ["one", "two\\r"] == inert_lines("one\ntwo\r")


@pytest.mark.parametrize("value", [HOSTILE, {"\u202e": ["\x00", 1.5, None, True]}, "\U000e0041", ["\\", '"']])
def test_inert_json_means_the_same(value: object) -> None:
    """An escape in a string is the same string."""
    assert value == json.loads(json_text(value))
    assert value == json.loads(json_text(value, indent=2))
    assert json_text(value, ascii_only=True).isascii()


@pytest.mark.parametrize("formula", ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_is_a_formula(formula: str) -> None:
    """TSV is opened in spreadsheets, which run what begins so."""
    assert "'" + formula == tsv_cell(formula)


def test_a_cell_cannot_become_two_or_a_line() -> None:
    """Otherwise a result could forge a row."""
    assert "a\\tb\\nc\td" == tsv(["a\tb\nc", "d"])


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:hunter2@db.example/orders",
        "cannot reach postgres://ann:hunter2@db:5432/x?sslmode=require now",
        "redis://:hunter2@cache",
        "postgresql://db/x?user=ann&password=hunter2&a=b",
        "postgresql://ann:p@ss:hunter2@db/x",
        "host=db password=hunter2 dbname=x",
        "postgresql://ann:hunter2#@db/x",
        "postgresql://ann:hunter2?@db/x",
    ],
)
def test_a_password_is_never_shown(text: str) -> None:
    """Error messages end up in tickets."""
    shown = without_passwords(text)

    assert "hunter2" not in shown
    assert "***" in shown


def test_urls_without_passwords_stay_whole() -> None:
    """The reader needs to see which store it was."""
    for url in ("sqlite:///a@b:c.db", "postgresql://db.example:5432/orders", "see https://a.example/x:y@z"):
        assert url == without_passwords(url)


# --- filters ---------------------------------------------------------------------------------------------------------------


def test_a_filter_says_what_is_wanted() -> None:
    """The example of the documentation."""
    wanted = parse_filter("status:failed,dead workflow:checkout id:order-* since:1h", NOW)

    expected = Filter(
        statuses=(Status.FAILED, Status.DEAD), workflow="checkout", id_prefix="order-", created_from=NOW - 3600 * SECOND
    )
    assert expected == wanted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Filter()),
        ("  ", Filter()),
        ("order-", Filter(id_prefix="order-")),
        ("order-*", Filter(id_prefix="order-")),
        ("id:order-7", Filter(id_prefix="order-7", id_exact=True)),
        ("id:order-7/0:1", Filter(id_prefix="order-7/0:1", id_exact=True)),
        ("status:failed status:dead", Filter(statuses=(Status.FAILED, Status.DEAD))),
        ("status:failed,failed", Filter(statuses=(Status.FAILED,))),
        ("'status:failed'", Filter(statuses=(Status.FAILED,))),
        ("since:1970-01-01T00:00:01+00:00", Filter(created_from=SECOND)),
        ("since:90s", Filter(created_from=NOW - 90 * SECOND)),
        ("since:999999999w", Filter(created_from=0)),
    ],
)
def test_filters_that_mean_something(text: str, expected: Filter) -> None:
    """One line per form."""
    assert expected == parse_filter(text, NOW)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour:red", "Allowed keys: status, workflow, id, since"),
        ("stats:failed", "Did you mean status?"),
        ("x') OR 1=1--:1", "close the quotation mark"),
        ("x)OR(1=1--:1", "Allowed keys"),
        ("$.a[*]:1", "Allowed keys"),
        ("status:broken", "Allowed: queued, running"),
        ("status:", "has no value"),
        ("workflow:a;DROP", "is not allowed"),
        ("workflow:a workflow:b", "given twice"),
        ("id:a*b", "no run id"),
        ("id:'a b'", "no run id"),
        ("id:" + "a" * 10_000, "no run id"),
        ("since:yesterday", "since:90s"),
        ("since:-5h", "since:90s"),
        ("since:0001-01-01", "since:90s"),
        ("\x1b[2J:1", "'\\x1b[2J'"),
    ],
)
def test_filters_that_mean_nothing_are_refused(text: str, named: str) -> None:
    """Keys are a closed list: an unknown one is a typing error, and never reaches a query."""
    with pytest.raises(UsageError) as refused:
        parse_filter(text, NOW)

    assert named.lower() in str(refused.value).lower()
    assert 2 == exit_code(refused.value)


# --- words -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("micros", "expected"),
    [
        (-5, "0 ms"),
        (12_000, "12 ms"),
        (999_400, "999 ms"),
        (999_600, "1.00s"),
        (1_840_000, "1.84s"),
        (9_996_000, "10s"),
        (38_400_000, "38s"),
        (59_600_000, "1m 00s"),
        (484 * SECOND, "8m 04s"),
        (13_860 * SECOND, "3h 51m"),
        (183_600 * SECOND, "2d 03h"),
    ],
)
def test_a_duration_is_told_in_the_units_that_matter(micros: int, expected: str) -> None:
    """No unit may show its own full turn (60s, 1000 ms)."""
    assert expected == duration(micros)


def test_instants_for_programs_are_utc() -> None:
    """They are compared as text."""
    assert "2030-03-17T17:46:40.000000Z" == iso(NOW)


def test_counts_agree_with_their_nouns() -> None:
    """Small things are read first."""
    assert ["1 run", "2 runs", "1 entry", "12,000 entries"] == [
        count(1, "run"),
        count(2, "run"),
        count(1, "entry"),
        count(12_000, "entry"),
    ]


def test_a_text_is_shortened_with_an_ellipsis() -> None:
    """So that nobody takes a part for the whole."""
    assert ["abc", "ab…"] == [shortened("abc", 3), shortened("abcd", 3)]


# --- tables ----------------------------------------------------------------------------------------------------------------


def test_columns_stand_in_line_whatever_is_in_them() -> None:
    """Wide characters take two places, escapes as many as they have."""
    lines = columns(("RUN", "N"), [("東京", "1"), ("a\x1b", "22")], 80, right={"N"})

    assert ["RUN     N", "東京    1", "a\\x1b  22"] == lines


def test_the_widest_column_gives_way_to_the_terminal() -> None:
    """A line that wraps is no table."""
    [head, row] = columns(("RUN", "WORKFLOW"), [("r" * 60, "checkout")], 40)

    assert len(row) <= 40
    assert "…" in row
    assert row.endswith("checkout")
    assert head.split() == ["RUN", "WORKFLOW"]


def test_a_terminal_too_narrow_for_anything_still_gets_an_answer() -> None:
    """Widths have a floor; the loop that seeks them has an end."""
    assert [8, 8, 3] == fitted([60, 9, 3], 5)


def test_every_sign_has_a_plain_form() -> None:
    """For terminals that know ASCII only."""
    assert to_ascii(SIGNS).isascii()
    assert len(set(SIGNS)) == len(SIGNS)


# --- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailed("", run_id="r"), 1),
        (RunDead("", run_id="r"), 1),
        (UsageError(""), 2),
        (InvalidStoreURL(""), 2),
        (StoreUnavailable(""), 3),
        (StoreFull(""), 3),
        (SchemaMismatch(""), 3),
        (RunNotFound("", run_id="r"), 4),
        (RunConflict("", run_id="r"), 5),
        (CorruptJournal("", run_id="r", version=1), 5),
        (RunTimeout("", run_id="r"), 6),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_has_its_exit_code(error: EverstepError, code: int) -> None:
    """Scripts decide by it."""
    assert code == explain(error)[0]


def test_an_error_says_what_first_and_what_to_do_last() -> None:
    """Two lines, so that the remedy is not overlooked."""
    message = "there is no run a.b in sqlite:///x.db. Nothing was changed. List what there is: everstep runs"

    assert [
        "everstep: there is no run a.b in sqlite:///x.db. Nothing was changed.",
        "  List what there is: everstep runs",
    ] == lines_of(message)


def test_an_error_of_many_lines_keeps_them() -> None:
    """A conflict lists its fields, one per line."""
    assert ["everstep: it differs:", "  a: 1, 2", "Nothing was done.", "  Use another id."] == lines_of(
        "it differs:\n  a: 1, 2\nNothing was done. Use another id."
    )


def test_what_an_error_quotes_is_inert() -> None:
    """It may quote what an attacker wrote."""
    assert not ACTIVE & set("".join(lines_of(f"bad {HOSTILE}")))


# --- the rest --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_says_what_each_says_of_itself(verb: str) -> None:
    """The list is written down twice so that nothing has to be imported for it; both must exist and agree on the options."""
    with app.make_context("everstep", ["--store", "x.db", verb, "--help"], resilient_parsing=True) as context:
        command = app.get_command(context, verb)

    assert command is not None
    assert verb == command.name
    assert command.help
    assert VERBS[verb].help.endswith(".")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("orders.db", "sqlite:///orders.db"),
        ("/var/lib/orders.db", "sqlite:////var/lib/orders.db"),
        ("sqlite:///orders.db", "sqlite:///orders.db"),
        ("postgresql://db/x", "postgresql://db/x"),
        ("nosuch://db/x", "nosuch://db/x"),
    ],
)
def test_a_plain_path_means_an_sqlite_file(given: str, url: str) -> None:
    """It is what people type; anything that looks like a URL is taken as one."""
    assert url == store_url(given)
