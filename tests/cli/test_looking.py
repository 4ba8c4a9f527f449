"""The verbs that only look: runs, show, watch, state, verify. Real processes on a real store."""

import json
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import HOSTILE
from tests.cli.support import SOURCES, cells, command, environment, everstep, on_a_terminal

ALL = {"order-1", "order-2", "hostile-1", "hostile-2", "order-3", "order-4", "order-4/0:1", "order-5", "order-6"}


# --- runs ------------------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_every_run_as_tsv_newest_first(seeded: Path) -> None:
    """Data on stdout and nothing else; no head line, so that `wc -l` and `cut` do what one thinks."""
    done = everstep("runs", cwd=seeded)

    assert (0, "") == (done.returncode, done.stderr)
    rows = [cells(line) for line in done.stdout.splitlines()]
    assert ALL == {row[0] for row in rows}
    assert {7} == {len(row) for row in rows}
    assert sorted((row[4] for row in rows), reverse=True) == [row[4] for row in rows]
    assert ["order-6", "checkout", "queued"] == rows[0][:3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status:failed", {"order-2", "hostile-2"}),
        ("status:failed,cancelled id:order-*", {"order-2", "order-5"}),
        ("workflow:parent", {"order-4"}),
        ("id:order-4", {"order-4"}),
        ("order-4", {"order-4", "order-4/0:1"}),
        ("since:1h", ALL),
        ("since:2999-01-01", set[str]()),
        ("id:nobody", set[str]()),
    ],
)
def test_a_filter_selects(text: str, expected: set[str], seeded: Path) -> None:
    """The same words as everywhere else; what matches nothing is an empty answer, not an error."""
    done = everstep("ls", "-q", "-f", text, cwd=seeded)

    assert (0, expected) == (done.returncode, set(done.stdout.split()))


def test_an_unknown_filter_key_names_the_allowed_ones(seeded: Path) -> None:
    """And lists nothing: a filter that is ignored would select too much."""
    done = everstep("runs", "-f", "colour:red", cwd=seeded)

    assert (2, "") == (done.returncode, done.stdout)
    assert "status, workflow, id, since" in done.stderr


def test_json_and_jsonl_hold_the_same_runs(seeded: Path) -> None:
    """An array for those who want it whole, lines for those who stream."""
    array = json.loads(everstep("runs", "--json", cwd=seeded).stdout)
    lines = [json.loads(line) for line in everstep("runs", "--jsonl", cwd=seeded).stdout.splitlines()]
    nothing = json.loads(everstep("runs", "--json", "-f", "id:nobody", cwd=seeded).stdout)

    assert array == lines
    assert ALL == {run["run_id"] for run in array}
    assert [] == nothing


def test_pages_join_without_gap_or_overlap(seeded: Path) -> None:
    """--before takes the last id of the page before."""
    whole = everstep("runs", "-q", cwd=seeded).stdout.split()
    first = everstep("runs", "-q", "--limit", "4", cwd=seeded).stdout.split()
    rest = everstep("runs", "-q", "--before", first[-1], cwd=seeded).stdout.split()

    assert whole == first + rest


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_that_means_nothing_is_refused(limit: str, seeded: Path) -> None:
    """Before anything is asked of the store."""
    assert 2 == everstep("runs", "--limit", limit, cwd=seeded).returncode


def test_an_enormous_limit_is_no_enormous_work(seeded: Path) -> None:
    """Pages are bounded whatever was asked for."""
    assert len(ALL) == len(everstep("runs", "-q", "--limit", "1000000000", cwd=seeded).stdout.split())


# --- show ------------------------------------------------------------------------------------------------------------------


def test_show_tells_what_a_run_did(seeded: Path) -> None:
    """Header, sentence, steps with their outcome, tags."""
    done = everstep("show", "order-1", cwd=seeded)

    assert (0, "") == (done.returncode, done.stderr)
    head, sentence, *rest = done.stdout.splitlines()
    assert head.startswith("order-1  checkout@")
    assert "✓ succeeded" in head
    assert "Succeeded in " in sentence
    assert any("✓ reserve" in line for line in rest)
    assert any("✓ charge" in line and "2 attempts" in line for line in rest)
    assert "tenant=acme" in rest[-1]


@pytest.mark.parametrize(
    ("run_id", "sentence"),
    [
        ("order-2", "Failed at decline (app.py:"),
        ("order-3", "Waiting for a timer: "),
        ("order-4", "Waiting for its child order-4/0:1 (patient)"),
        ("order-5", "Cancelled: changed my mind. Nothing more will happen."),
        ("order-6", "Not begun: no worker is alive on this store."),
    ],
)
def test_show_says_what_a_run_is_doing(run_id: str, sentence: str, seeded: Path) -> None:
    """The same sentence for people and in JSON."""
    told = everstep("show", run_id, cwd=seeded).stdout.splitlines()[1]
    said = json.loads(everstep("show", run_id, "--json", cwd=seeded).stdout)["doing"]

    assert told.startswith(sentence.replace("app.py", "program.py"))
    assert said.startswith(sentence.replace("app.py", "program.py"))


def test_show_says_which_attempt_is_next_and_why_the_last_one_failed(place: Path) -> None:
    """What happens between two attempts is in no journal; it must be seen all the same."""
    everstep("start", "app:fetching", '{"url": "bank"}', "--id", "order-7", cwd=place)
    worker = subprocess.Popen(command("worker", "app"), cwd=place, env=environment(), stderr=subprocess.DEVNULL)
    try:
        while json.loads(everstep("show", "order-7", "--json", cwd=place).stdout)["status"] != "waiting":
            assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait()
    _, sentence, *rest = everstep("show", "order-7", cwd=place).stdout.splitlines()
    [operation] = json.loads(everstep("show", "order-7", "--json", cwd=place).stdout)["operations"]

    assert re.fullmatch(r"Attempt 2 of 5 of fetch at .*\d\d:\d\d.*: ConnectionError: 503 from bank\.", sentence)
    assert any(re.search(r"▶ fetch .* attempt 2 of 5, in (59m|1h) .* · ConnectionError: 503 from bank", line) for line in rest)
    assert (2, 1, 5) == (operation["attempt"], operation["failures"], operation["failures_max"])
    assert "ConnectionError" == operation["error"]["type"]
    assert operation["next_attempt_at"] > operation["asked_at"]


def test_show_has_a_view_of_every_version(seeded: Path) -> None:
    """The past as it was then."""
    versions = json.loads(everstep("show", "order-1", "--json", cwd=seeded).stdout)["version"]
    told = [
        json.loads(everstep("show", "order-1", "--at", str(at), "--json", cwd=seeded).stdout) for at in range(1, versions + 1)
    ]

    assert [*["running"] * (versions - 1), "succeeded"] == [view["status"] for view in told]
    assert [["open"], ["done", "done"]] == [[one["how"] for one in view["operations"]] for view in (told[0], told[-1])]


def test_show_of_a_version_that_is_not_there_names_those_that_are(seeded: Path) -> None:
    """The remedy is the range."""
    done = everstep("show", "order-1", "--at", "99", cwd=seeded)

    assert 2 == done.returncode
    assert "its versions are 1 to " in done.stderr


@pytest.mark.parametrize("verb", ["show", "watch", "state", "verify"])
def test_an_unknown_run_is_not_found(verb: str, seeded: Path) -> None:
    """Exit code 4, and how to find out what there is."""
    done = everstep(verb, "nobody", cwd=seeded)

    assert (4, "") == (done.returncode, done.stdout)
    assert "there is no run nobody" in done.stderr
    assert "everstep runs" in done.stderr


def test_show_tells_both_sides_of_a_mismatch(place: Path) -> None:
    """Code that no longer fits its journal pauses the run; whoever repairs it needs to see what differs."""
    source = (place / "app.py").read_text(encoding="utf-8")
    (place / "app.py").write_text(source.replace("await reserve(order.id)", "await reserve('other')"), encoding="utf-8")
    everstep("cancel", "order-3", "--yes", cwd=place)
    worker = subprocess.Popen(command("worker", "app"), cwd=place, env=environment(), stderr=subprocess.DEVNULL)
    try:
        watched = everstep("watch", "order-3", "--timeout", "30", cwd=place)
    finally:
        worker.kill()
        worker.wait()
    told = everstep("show", "order-3", cwd=place).stdout

    assert 1 == watched.returncode
    assert "Paused: run order-3" in told
    assert "recorded: " in told
    assert "requested: " in told


# --- watch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run_id", "code"), [("order-1", 0), ("order-2", 1), ("order-5", 1)])
def test_the_exit_code_of_watch_is_the_outcome(run_id: str, code: int, seeded: Path) -> None:
    """So that a script may wait for a run."""
    assert code == everstep("watch", run_id, cwd=seeded).returncode


def test_watch_prints_one_line_per_event_on_a_pipe(seeded: Path) -> None:
    """Version, instant, event, name, detail."""
    rows = [cells(line) for line in everstep("watch", "order-2", cwd=seeded).stdout.splitlines()]

    assert {5} == {len(row) for row in rows}
    assert ["RunCreated", "RunFailed"] == [rows[0][2], rows[-1][2]]
    assert ("StepFailed", "decline", "ValueError: no funds") in [tuple(row[2:]) for row in rows]
    assert sorted(int(row[0]) for row in rows) == [int(row[0]) for row in rows]


def test_watch_gives_up_after_its_timeout(seeded: Path) -> None:
    """And says that the run goes on."""
    done = everstep("watch", "order-3", "--timeout", "0.1", cwd=seeded)

    assert 6 == done.returncode
    assert "It goes on." in done.stderr


# --- state -----------------------------------------------------------------------------------------------------------------


def test_state_prints_what_a_run_had_at_a_version(seeded: Path) -> None:
    """Time travel in the shell."""
    first = json.loads(everstep("state", "order-1", "--at", "1", cwd=seeded).stdout)
    last = json.loads(everstep("state", "order-1", cwd=seeded).stdout)

    assert {"arguments": {"order_id": "1", "cents": 1999}, "steps": {}} == first
    assert {"reserve": "reserved 1", "charge": "ch_1_1999"} == last["steps"]
    assert "ch_1_1999" == last["result"]


def test_state_tells_what_changed_between_two_versions(seeded: Path) -> None:
    """One line per place, and what did not change in one."""
    done = everstep("state", "order-1", "--diff", "1", cwd=seeded)

    assert [
        '+ steps.reserve  "reserved 1"',
        '+ steps.charge   "ch_1_1999"',
        '+ result         "ch_1_1999"',
        '  arguments      {"order_id":"1","cents":1999}   (unchanged)',
    ] == done.stdout.splitlines()


def test_a_difference_in_json_has_paths(seeded: Path) -> None:
    """For programs."""
    changes = json.loads(everstep("state", "order-1", "--diff", "1", "--json", cwd=seeded).stdout)

    assert {"change": "added", "path": ["steps", "reserve"], "new": "reserved 1"} in changes


# --- verify ----------------------------------------------------------------------------------------------------------------


def test_verify_counts_what_it_checked(seeded: Path) -> None:
    """All is well: exit code 0, and nothing on stdout for a script to trip over."""
    done = everstep("verify", cwd=seeded)

    assert (0, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"{len(ALL)} runs · ")
    assert done.stderr.endswith(" · 0 damaged\n")


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE journal SET events = replace(events, 'reserved 1', 'reserved 9') WHERE {here}", "hash"),
        ("UPDATE journal SET hash = zeroblob(32) WHERE {here} AND version = 3", "hash"),
        ("UPDATE journal SET epoch = epoch + 1 WHERE {here} AND version = 2", "hash"),
        ("UPDATE runs SET hash = zeroblob(32) WHERE run_id = 'order-1'", "head of the run"),
        ("UPDATE journal SET version = 9 WHERE {here} AND version = 3", "missing entry"),
    ],
)
def test_verify_finds_what_was_altered(sql: str, what: str, place: Path) -> None:
    """Exit code 5; the run, the entry, what was expected and what was found; the other runs are checked all the same."""
    here = "run_key = (SELECT run_key FROM runs WHERE run_id = 'order-1')"
    alter(place, sql.format(here=here))

    done = everstep("verify", cwd=place)
    told = json.loads(everstep("verify", "--json", cwd=place).stdout)

    assert 5 == done.returncode
    [row] = [cells(line) for line in done.stdout.splitlines()]
    assert ("order-1", what) == (row[0], row[2])
    assert row[3] != row[4]
    assert (len(ALL), ["order-1"]) == (told["runs"], [damage["run_id"] for damage in told["damaged"]])
    assert 0 == everstep("verify", "order-2", cwd=place).returncode


def test_a_damaged_run_is_not_shown_as_if_it_were_true(place: Path) -> None:
    """show, state and watch refuse it with the same exit code."""
    alter(place, "UPDATE journal SET events = replace(events, 'reserved 1', 'reserved 9')")

    for verb in ("show", "state", "watch"):
        done = everstep(verb, "order-1", cwd=place)
        assert (5, "") == (done.returncode, done.stdout)
        assert "does not match the hash chain" in done.stderr


def alter(place: Path, sql: str) -> None:
    """Change the store behind its back."""
    with sqlite3.connect(place / ".everstep" / "state.db") as database:
        assert database.execute(sql).rowcount
    database.close()


# --- hostile data ----------------------------------------------------------------------------------------------------------

LOOKS = [
    ["runs"],
    ["runs", "--json"],
    ["runs", "--jsonl"],
    *[[verb, run_id, *more] for run_id in ("hostile-1", "hostile-2") for verb, *more in (
        ["show"],
        ["show", "--json"],
        ["state"],
        ["state", "--diff", "1"],
        ["state", "--diff", "1", "--json"],
        ["watch"],
        ["watch", "--jsonl"],
    )],
    ["show", HOSTILE.replace("\r", "").replace("\n", "")],
    ["runs", "-f", f"id:{HOSTILE}"],
    [HOSTILE],
    ["runs", f"--{HOSTILE}"],
    ["--store", f"sqlite:///{HOSTILE}/x.db", "runs"],
    ["--store", f"{HOSTILE}://x", "runs"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", LOOKS, ids=lambda arguments: ascii(" ".join(arguments))[1:40])
def test_what_users_wrote_does_nothing_to_a_terminal(arguments: list[str], seeded: Path) -> None:
    """Escape sequences, bidi marks and line breaks in data and arguments are shown, not obeyed."""
    done = everstep(*arguments, cwd=seeded)

    active = [c for c in done.stdout + done.stderr if not c.isprintable() and c not in "\n\t"]
    assert [] == active
    assert "Traceback" not in done.stderr


# --- terminals -------------------------------------------------------------------------------------------------------------

terminals = pytest.mark.skipif("sys.platform == 'win32'", reason="there are no pseudo-terminals")


@terminals
def test_a_terminal_gets_a_table_in_colour_and_a_hint(seeded: Path) -> None:
    """And no line longer than it is wide."""
    code, seen = on_a_terminal("runs", cwd=seeded, columns=70)

    assert 0 == code
    assert "RUN" in seen
    assert "✓ succeeded" in seen
    assert "\x1b[32m" in seen
    assert "follow one: everstep watch order-6" in seen
    plain = on_a_terminal("runs", cwd=seeded, columns=70, env={"NO_COLOR": "1"})[1]
    assert "\x1b[3" not in plain
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in plain.splitlines()[:-1]) <= 70


@terminals
@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}], ids=["dumb", "ascii"]
)
def test_a_lesser_terminal_gets_the_same_in_plain_text(environment: dict[str, str], seeded: Path) -> None:
    """No rich, no colours; in ASCII where there is nothing else."""
    code, seen = on_a_terminal("show", "order-1", cwd=seeded, env=environment)

    assert 0 == code
    assert "\x1b" not in seen
    assert "charge" in seen
    assert ("+ succeeded" if "PYTHONIOENCODING" in environment else "✓ succeeded") in seen


@terminals
def test_a_terminal_without_rich_gets_a_table_as_well(seeded: Path, tmp_path: Path) -> None:
    """It is an extra: what is not installed may not be missed."""
    (tmp_path / "rich.py").write_text("raise ImportError", encoding="utf-8")
    without = {"PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCES])}

    _, listed = on_a_terminal("runs", cwd=seeded, env=without)
    code, watched = on_a_terminal("watch", "order-1", cwd=seeded, env=without)

    assert "✓ succeeded" in listed
    assert (0, True) == (code, "RunSucceeded" in watched)
    assert "\x1b" not in listed + watched


@terminals
def test_watch_leaves_its_last_view_on_the_terminal(seeded: Path) -> None:
    """And has its exit code there too."""
    code, seen = on_a_terminal("watch", "order-2", cwd=seeded)

    assert 1 == code
    assert "Failed at decline" in seen


@terminals
def test_a_terminal_shows_hostile_data_inert(seeded: Path) -> None:
    """rich must not interpret it either."""
    for verb in ("show", "watch", "state"):
        _, seen = on_a_terminal(verb, "hostile-2", cwd=seeded, env={"NO_COLOR": "1"})
        assert "\x1b[2J" not in seen
        assert "owned\x07" not in seen
        assert "\u202e" not in seen


@pytest.mark.parametrize("verb", [["runs"], ["show", "hostile-1"], ["state", "order-1", "--diff", "1"], ["runs", "--json"]])
def test_an_encoding_that_knows_only_ascii_is_no_reason_to_fail(verb: list[str], seeded: Path) -> None:
    """Signs have plain forms, and what has none is escaped."""
    done = everstep(*verb, cwd=seeded, env={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})

    assert 0 == done.returncode
    assert (done.stdout + done.stderr).isascii()
