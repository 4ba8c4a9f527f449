"""What surrounds every verb: start-up, stores that are not there, pipes that break, interruptions."""

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.support import SECONDS_MAX, command, environment, everstep, on_a_terminal

posix_only = pytest.mark.skipif("sys.platform == 'win32'", reason="there are no such signals")
LOOKS = [["runs"], ["show", "r"], ["watch", "r"], ["state", "r"], ["verify"], ["cancel", "r", "--yes"]]


# --- start-up --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["runs", "--help"], ["demo", "--show-code"]])
def test_help_goes_to_stdout_and_needs_no_store(arguments: list[str], tmp_path: Path) -> None:
    """And leaves nothing behind."""
    done = everstep(*arguments, cwd=tmp_path)

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout
    assert [] == list(tmp_path.iterdir())


def test_help_imports_no_verb_and_no_rich(tmp_path: Path) -> None:
    """That is what keeps it quick; a timed test would fail on a busy machine, and this one tells why."""
    program = (
        "import sys\nfrom everstep.cli.run import run\nrun(['--help'])\n"
        "print([name for name in sys.modules if name.startswith(('everstep.cli.', 'rich', 'apsw'))], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )

    ours = {"run", "faults", "group", "options", "inert", "terminal", "plain"}
    assert {f"everstep.cli.{name}" for name in ours} == set(json.loads(done.stderr.replace("'", '"')))


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["runs", "--nonsense"], ["show"], ["show", "a", "b"], ["show", "a", "--at", "0"]]
)
def test_wrong_usage_is_told_in_two_lines(arguments: list[str], tmp_path: Path) -> None:
    """What is wrong, and where the help is."""
    done = everstep(*arguments, cwd=tmp_path)

    assert (2, "") == (done.returncode, done.stdout)
    [what, remedy] = done.stderr.splitlines()
    assert what.startswith("everstep: ")
    assert "--help" in remedy


@pytest.mark.parametrize("arguments", [["show"], ["watch"], ["state"], ["verify"], ["cancel", "--yes"], ["runs", "--before"]])
@pytest.mark.parametrize(
    "run_id", ["\udcff", "é", "ｏrder-1", "order-1\u200b", "x" * 20_000, "../order-1", "%", "order-_", "' OR 1=1--"]
)
def test_an_id_that_no_run_can_have_is_not_found(arguments: list[str], run_id: str, seeded: Path) -> None:
    """Bytes that are no text, twins that only look alike, wildcards: none of them finds anything, none breaks anything."""
    done = everstep(*arguments, run_id, cwd=seeded)

    assert 4 == done.returncode
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000


# --- stores ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", LOOKS, ids=lambda arguments: arguments[0])
def test_looking_at_a_store_that_is_not_there_creates_none(arguments: list[str], tmp_path: Path) -> None:
    """A typing error must not look like an empty store."""
    done = everstep(*arguments, cwd=tmp_path)

    assert (3, "") == (done.returncode, done.stdout)
    assert "there is no store at .everstep" in done.stderr.replace("\\", "/")
    assert "--store" in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_the_store_is_the_option_then_the_variable_then_the_default(seeded: Path, tmp_path: Path) -> None:
    """Before the verb or after it; a plain path will do."""
    file = str(seeded / ".everstep" / "state.db")
    url = f"sqlite:///{file}"
    elsewhere = {"EVERSTEP_URL": "sqlite:///nowhere.db"}

    assert 0 == everstep("runs", "--store", url, cwd=tmp_path, env=elsewhere).returncode
    assert 0 == everstep("runs", "--store", file, cwd=tmp_path, env=elsewhere).returncode
    assert 0 == everstep("--store", url, "runs", cwd=tmp_path, env=elsewhere).returncode
    assert 0 == everstep("runs", cwd=tmp_path, env={"EVERSTEP_URL": url}).returncode
    assert 0 == everstep("runs", cwd=seeded).returncode
    assert 3 == everstep("runs", cwd=seeded, env=elsewhere).returncode


UNREACHABLE = 3 if find_spec("asyncpg") else 2  # without the driver its URL names no store


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nosuch://ann:hunter2@db/x", 2),
        ("postgresql://ann:hunter2@db.invalid/orders", UNREACHABLE),
        ("postgresql://ann:p@ss:hunter2@db.invalid/orders?password=hunter2", 2),
        ("postgresql://ann:hunter2@db/orders?schema=Orders%22", 2),
        ("sqlite://ann:hunter2@host/x.db", 2),
        ("sqlite:///x.db?password=hunter2", 2),
        ("sqlite:///", 2),
        ("://", 2),
        ("sqlite:///missing/directory/x.db", 3),
        ("sqlite:///%00", 2),
    ],
)
def test_a_store_url_that_names_none_is_refused_without_its_password(url: str, code: int, tmp_path: Path) -> None:
    """The message ends up in a ticket."""
    (tmp_path / "app.py").write_text("import everstep as es\n@es.workflow\nasync def f() -> None: ...\n", encoding="utf-8")

    for verb in (["start", "app:f"], ["worker", "app"], ["runs"]):
        done = everstep(*verb, "--store", url, cwd=tmp_path)
        assert "hunter2" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        assert "This is a bug" not in done.stderr
        assert (code, "") == (done.returncode, done.stdout) or verb == ["runs"]
        assert done.returncode in (2, 3)


def damaged(path: Path, how: str) -> None:
    """Make a file that is no good store."""
    match how:
        case "no database":
            path.write_bytes(b"hello " * 1000)
        case "directory":
            path.mkdir()
        case "somebody else's":
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE theirs(a)")
            database.close()
        case _:
            with sqlite3.connect(path) as database:
                database.execute("PRAGMA application_id = 0x45565354")
                database.execute("PRAGMA user_version = 999")
            database.close()


@pytest.mark.parametrize("how", ["no database", "directory", "somebody else's", "newer"])
@pytest.mark.parametrize("arguments", LOOKS, ids=lambda arguments: arguments[0])
def test_a_file_that_is_no_store_of_ours_is_refused(arguments: list[str], how: str, tmp_path: Path) -> None:
    """Exit code 3, one line what and one what to do."""
    damaged(tmp_path / "x.db", how)

    done = everstep(*arguments, "--store", "x.db", cwd=tmp_path)

    assert (3, "") == (done.returncode, done.stdout)
    assert "x.db" in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


@posix_only
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_store_without_permission_is_told(mode: int, place: Path) -> None:
    """Exit code 3; the remedy is about permissions. Root may do anything, so it gives that right up first."""
    unprivileged = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if unprivileged and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and setpriv is not there")
    for file in (place / ".everstep").glob("state.db*"):
        if file.is_file():
            file.chmod(mode)

    done = subprocess.run(
        [*unprivileged, *command("cancel", "order-3", "--yes")],
        cwd=place,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert (3, "") == (done.returncode, done.stdout)
    assert "state.db cannot be" in done.stderr
    assert "may read and write" in done.stderr or "Let this user write" in done.stderr


# --- pipes and signals -----------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--json"], ["show", "order-1"], ["watch", "order-1"], ["--help"]])
def test_a_broken_pipe_is_silent(arguments: list[str], seeded: Path) -> None:
    """`everstep runs | head -1`: whoever read has had enough. Not 0, for not everything was said; nothing to shout about."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(command(*arguments), cwd=seeded, env=environment(), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, said = process.communicate(timeout=SECONDS_MAX)

    assert (130, b"") == (process.returncode, said)


@posix_only
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(closed: str, seeded: Path) -> None:
    """As under some supervisors: Python then has None where the stream should be."""
    line = f"{shlex.join(command('show', 'order-1'))} {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=seeded, env=environment(), capture_output=True, encoding="utf-8", check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert (">&-" in closed.split()) == (not done.stdout)


@pytest.mark.skipif("not os.path.exists('/dev/full')", reason="there is no full device")
def test_output_that_cannot_be_written_is_told(seeded: Path) -> None:
    """Exit code 0 would claim that everything was said."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("runs"), cwd=seeded, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False)

    assert 3 == done.returncode
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@posix_only
def test_ctrl_c_is_130_and_silent(seeded: Path) -> None:
    """In the middle of waiting."""
    process = subprocess.Popen(
        command("watch", "order-3"), cwd=seeded, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS_MAX)

    assert (130, b"") == (process.returncode, said)


@posix_only
def test_ctrl_c_leaves_the_terminal_as_it_was(seeded: Path) -> None:
    """The live view hides the cursor; it must come back."""
    code, seen = on_a_terminal("watch", "order-3", cwd=seeded, typed=("Waiting for a timer", "\x03"))

    assert 130 == code
    assert "Traceback" not in seen
    assert seen.rfind("\x1b[?25h") >= seen.rfind("\x1b[?25l")


# --- the demo --------------------------------------------------------------------------------------------------------------


def test_the_demo_kills_resumes_and_proves_it(tmp_path: Path) -> None:
    """In the shape that the README shows; only the store stays behind, and it tells the same story."""
    done = everstep(
        "demo", cwd=tmp_path, env={"TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "EVERSTEP_URL": "sqlite:///no.db"}
    )

    assert (0, "") == (done.returncode, done.stderr)
    first, second, steps, proof, look = done.stdout.splitlines()
    killed = int(first.split()[2])
    assert f" 1  pid {killed}  reserve ✓   charge ✓    (crash injected: kill -9 {killed})" == first
    assert "resumed order-7 from step 3 of 4" in second
    assert str(killed) not in second
    assert "charge · from journal (card charged 1×)" in steps
    assert steps.split()[-4:] == ["ship", "✓", "notify", "✓"]
    assert " ✓  order-7 succeeded · 4 steps · 2 processes · 0 repeated side effects" == proof
    assert "--show-code (17 lines)" in look
    [directory] = tmp_path.iterdir()
    assert {"demo.db"} == {path.name for path in directory.iterdir() if path.is_file()}
    told = everstep("show", "order-7", "--store", str(directory / "demo.db"), "--json", cwd=tmp_path)
    assert 1 == json.loads(told.stdout)["recoveries"]


def test_the_code_that_is_shown_is_the_code_that_is_run(tmp_path: Path) -> None:
    """Copied and run by hand it does the same, once."""
    code = everstep("demo", "--show-code", cwd=tmp_path).stdout
    (tmp_path / "checkout.py").write_text(code, encoding="utf-8")

    for effects in ("reserve order-7\ncharge order-7\nship order-7\nnotify order-7\n", ""):
        done = subprocess.run(
            [sys.executable, "checkout.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert (0, effects, "") == (done.returncode, done.stdout, done.stderr)
    assert 17 == sum(bool(line.strip()) for line in code.splitlines())


@posix_only
def test_an_interrupted_demo_takes_its_processes_along(tmp_path: Path) -> None:
    """No process and no file but the store."""
    process = subprocess.Popen(
        command("demo"),
        cwd=tmp_path,
        env=environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    seen = b""
    while b"reserve" not in seen:
        seen += process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS_MAX)

    assert (130, b"") == (process.returncode, said)
    child = int(seen.split()[2])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    [directory] = tmp_path.iterdir()
    assert {"demo.db"} >= {
        path.name.removesuffix("-wal").removesuffix("-shm") for path in directory.iterdir() if path.is_file()
    }
