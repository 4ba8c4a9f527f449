"""
``es.run`` in real processes: interrupted, misused, and beside other runs of the same file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import everstep as es

PATIENCE_SECONDS = 30.0

PROGRAM = """
import asyncio, signal, sys, time
import everstep as es

# A test runner may ignore SIGINT, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Declined(Exception):
    pass

@es.step
async def slow(seconds: float) -> str:
    print("begun", es.current().attempt, flush=True)
    await asyncio.sleep(seconds if es.current().attempt == 1 else 0)
    return "done"

@es.step
def slow_thread(seconds: float) -> str:
    print("begun", es.current().attempt, flush=True)
    time.sleep(seconds if es.current().attempt == 1 else 0)
    return "done"

@es.workflow
async def job(seconds: float) -> str:
    return await slow(seconds)

@es.workflow
async def thread_job(seconds: float) -> str:
    return await slow_thread(seconds)

async def unclosed() -> None:
    engine = es.Engine("sqlite:///u.db", [job])
    await engine.start(job(20), id="a")
    await asyncio.sleep(0.3)

if __name__ == "__main__":
    if sys.argv[1] == "unclosed":
        asyncio.run(unclosed())
    else:
        workflow = {"job": job, "thread_job": thread_job}[sys.argv[1]]
        print(es.run(workflow(float(sys.argv[3])), id=sys.argv[2], store="sqlite:///u.db"), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def spawn(program: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), *arguments],
        cwd=program.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: Path, *arguments: str) -> tuple[int, str, str]:
    process = spawn(program, *arguments)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


CTRL_C = [("job", 20, 1), ("job", 20, 2), ("job", 20, 3), ("thread_job", 1, 2)]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT to send to one process")
@pytest.mark.parametrize(
    ("workflow", "seconds", "presses"), [("job", 20, 1), ("job", 20, 2), ("job", 20, 3), ("thread_job", 1, 2)]
)
def test_ctrl_c_however_often_keeps_the_run(program: Path, workflow: str, seconds: int, presses: int) -> None:
    """An impatient double tap cancels everything inside; it is no outcome of any step."""
    process = spawn(program, workflow, "a", str(seconds))
    assert process.stdout is not None
    assert "begun 1" == process.stdout.readline().strip()
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # as fast as a person taps
    _, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert 0 != process.returncode
    assert "no running event loop" not in err
    assert "run a is kept" in err
    code, out, err = finish(program, workflow, "a", str(seconds))
    assert (0, "done") == (code, out.split()[-1]), err


def test_an_engine_that_nobody_closed_keeps_its_runs(program: Path) -> None:
    """The program forgot ``async with``, or raised around it: asyncio cancels what is left."""
    code, out, err = finish(program, "unclosed")

    assert (0, "begun 1") == (code, out.strip()), err
    code, out, err = finish(program, "job", "a", "20")
    assert (0, "done") == (code, out.split()[-1]), err


def test_a_store_that_cannot_be_opened_is_not_blamed_on_the_call(tmp_path: Path) -> None:
    """No 'never awaited' beside the real error (warnings are errors here)."""

    @es.workflow
    async def nothing() -> None: ...

    with pytest.raises(es.StoreUnavailable) as raised:
        es.run(nothing(), store=f"sqlite:///{tmp_path / 'missing' / 'x.db'}")
    assert raised.value.__context__ is None or "event loop" not in str(raised.value.__context__)


@es.workflow
async def anything() -> None: ...


async def a_coroutine() -> None: ...


@pytest.mark.parametrize(
    ("wrong", "hint"), [(lambda: anything, r"Call it: anything\("), (a_coroutine, "@es.workflow"), (lambda: 5, "@es.workflow")]
)
def test_what_is_no_call_is_refused_with_what_to_write(wrong: Any, hint: str) -> None:
    with pytest.raises(es.UsageError, match=hint):
        es.run(wrong())


@pytest.mark.parametrize("wrong", [Path("x.db"), None, 5])
def test_what_is_no_store_is_refused_with_what_to_write(wrong: Any) -> None:
    with pytest.raises(es.InvalidStoreURL, match="sqlite:///orders"):
        es.Engine(wrong)


class Declined(Exception):
    """Stands by name in the module of the workflow that raises it."""


@es.workflow
async def declining() -> None:
    raise Declined("no funds")


@es.step
async def decline() -> None:
    raise Declined("no funds")


@es.workflow
async def catching() -> str:
    try:
        await decline()
    except es.StepFailed as error:
        return type(error.__cause__).__name__
    return "nothing"


def test_an_error_of_the_workflows_own_module_comes_back_as_itself() -> None:
    """It is in the program already, so nothing has to be imported for it."""
    with pytest.raises(es.RunFailed, match="no funds") as raised:
        es.run(declining(), store="memory://")
    assert isinstance(raised.value.__cause__, Declined)
    assert es.run(catching(), store="memory://") == "Declined"


@es.step
def lend(path: str) -> str:
    with Path(path, "effects").open("a", encoding="utf-8") as file:
        file.write("lent\n")
    return "lent"


@es.step
def sign(path: str) -> str:
    if not Path(path, "pen").exists():
        raise FileNotFoundError("there is no pen")
    return "signed"


@es.workflow
async def contract(path: str) -> str:
    return f"{await lend(path)} and {await sign(path)}"


def test_running_a_failed_program_again_goes_on_from_its_last_good_point(tmp_path: Path) -> None:
    """Correct what was wrong, run the script again: that is all that there is to do."""
    url = f"sqlite:///{tmp_path}/c.db"
    with pytest.raises(es.RunFailed, match="there is no pen"):
        es.run(contract(str(tmp_path)), id="c", store=url)
    with pytest.raises(es.RunFailed, match="there is no pen"):
        es.run(contract(str(tmp_path)), id="c", store=url, on_failed="raise")
    (tmp_path / "pen").touch()

    assert "lent and signed" == es.run(contract(str(tmp_path)), id="c", store=url)
    assert "lent\n" == (tmp_path / "effects").read_text(encoding="utf-8")


def test_an_unknown_way_to_treat_a_failed_run_is_refused() -> None:
    wrong: Any = "ignore"

    with pytest.raises(es.UsageError, match="on_failed='ignore'"):
        es.run(declining(), store="memory://", on_failed=wrong)
