"""
crash_everywhere(kill="process"): real processes, a real file, real kills.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import everstep as es
from everstep.errors import RunEnded, UsageError
from everstep.testing import Effects, crash_everywhere, crash_process
from tests.testing import program


def test_an_order_survives_sigkill_at_every_point() -> None:
    """A month, a thread, a child: two processes each time, on virtual time, and each key charged once."""
    report = crash_everywhere(
        lambda folder: program.order(str(folder)), workflows=[program.part], kill="process", effects=program.left_once
    )

    assert report.points >= 8
    assert report.points < report.kills <= 2 * report.points


def test_a_plain_call_is_executed_one_at_a_time_in_the_same_place(tmp_path: Path) -> None:
    """With ``prepare``, as for kills in the process."""
    folders: set[Path] = set()

    def check(effects: Effects) -> None:
        folders.add(effects.folder)
        assert 3 == len(program.left_once(tmp_path))
        assert 3 == effects.result
        assert {"charge": 3} == dict(effects.completed)

    call = program.sequence(str(tmp_path))
    report = crash_everywhere(
        call, kill="process", check=check, prepare=lambda: (tmp_path / "effects").unlink(missing_ok=True), samples=3
    )

    assert 3 == report.kills
    assert 4 == len(folders)


def test_an_effect_that_happens_twice_is_found_and_can_be_tried_again_alone() -> None:
    """The message names the point, the events of its entry, and the option that repeats only this one."""
    with pytest.raises(
        AssertionError, match=r"(?s)sequence, killed before durable point 2 .*entry 2: StepCompleted.*effects.*charge 0"
    ) as failure:
        crash_everywhere(lambda folder: program.sequence(str(folder)), kill="process", effects=program.left)
    (only,) = re.findall(r"only='(.*)'", str(failure.value))
    assert "before 2" == only

    with pytest.raises(AssertionError, match="killed before durable point 2"):
        crash_everywhere(lambda folder: program.sequence(str(folder)), kill="process", effects=program.left, only=only)
    crash_everywhere(lambda folder: program.sequence(str(folder)), kill="process", effects=program.left, only="after 2")


def test_once_more_can_be_declared_harmless() -> None:
    report = crash_everywhere(
        lambda folder: program.sequence(str(folder)), kill="process", effects=program.left, at_least_once=True, samples=4
    )

    assert 4 == report.kills


def test_what_was_kept_in_a_global_is_gone_with_the_process() -> None:
    """What kills within a process cannot find: there the global lives on."""
    crash_everywhere(lambda folder: program.remembering(str(folder)))

    with pytest.raises(AssertionError, match=r"(?s)uninterrupted: succeeded 5\n  resumed:       succeeded 0"):
        crash_everywhere(lambda folder: program.remembering(str(folder)), kill="process")


def test_a_recovery_is_killed_too() -> None:
    """A7 for real processes; a sample of it."""
    report = crash_everywhere(
        lambda folder: program.sequence(str(folder)), kill="process", effects=program.left_once, depth=2, samples=3
    )

    assert 3 + 2 * 3 == report.kills


async def say_three_things(handle: es.Handle[list[str]]) -> None:
    """Somebody outside, who lives on."""
    for number in range(3):
        await handle.send(program.approval, f"yes {number}")


def test_a_conversation_is_killed_everywhere_while_somebody_talks() -> None:
    report = crash_everywhere(
        lambda folder: program.conversation(str(folder)),
        kill="process",
        drive=say_three_things,
        effects=program.left_once,
        check=_heard_all,
    )

    assert report.kills > 0


def _heard_all(effects: Effects) -> None:
    assert ["yes 0", "yes 1", "yes 2"] == effects.result


def test_a_transaction_has_its_effect_once_wherever_the_process_is_killed() -> None:
    """Though its body takes no notice of idempotency keys: row and result are one commit."""
    report = crash_everywhere(lambda _: program.entering(), kill="process", effects=program.entered)

    assert report.kills > report.points


def test_what_goes_wrong_outside_is_told() -> None:
    async def late(handle: es.Handle[int]) -> None:
        await handle
        await handle.send(program.approval, "too late")

    with pytest.raises(AssertionError, match="sequence, uninterrupted: run crash-everywhere is succeeded") as failure:
        crash_everywhere(lambda folder: program.sequence(str(folder)), kill="process", drive=late)
    assert isinstance(failure.value.__cause__, RunEnded)


def test_a_run_that_waits_for_ever_is_told() -> None:
    with pytest.raises(AssertionError, match="never, uninterrupted: nothing happens any more"):
        crash_everywhere(program.never(""), kill="process")


def test_a_run_that_waits_for_somebody_who_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_process, "PATIENCE_SECONDS", 1.0)

    async def silent(handle: es.Handle[str]) -> None:
        pass

    with pytest.raises(AssertionError, match="no end within 1 real seconds"):
        crash_everywhere(program.never(""), kill="process", drive=silent)


# What a new process cannot find.


def test_a_workflow_made_in_a_function_is_refused() -> None:
    @es.workflow
    async def hidden() -> None: ...

    with pytest.raises(UsageError, match=r"hidden was made inside a function.* at the top of a module"):
        crash_everywhere(hidden(), kill="process")


SCRIPT = """
import everstep as es
from everstep.testing import crash_everywhere

@es.workflow
async def greet() -> str:
    return "hello"

{}crash_everywhere(greet(), kill="process")
"""


def script(folder: Path, guard: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "greeting.py").write_text(SCRIPT.format(guard))
    return subprocess.run([sys.executable, "greeting.py"], cwd=folder, capture_output=True, text=True, check=False)


def test_a_workflow_in_the_running_program_is_refused(tmp_path: Path) -> None:
    """A new process would start the program again, and so on."""
    done = script(tmp_path)

    assert 1 == done.returncode
    assert "(__main__), which a new process would start again. Nothing was run. Put it in a module" in done.stderr


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    """The file of a module that can be imported as ``elsewhere``."""
    sys.path.insert(0, str(tmp_path))
    yield tmp_path / "elsewhere.py"
    sys.path.remove(str(tmp_path))
    sys.modules.pop("elsewhere", None)
    importlib.invalidate_caches()


def elsewhere() -> Any:
    return importlib.import_module("elsewhere")


@pytest.mark.parametrize(
    ("text", "told"),
    [("raise ImportError('no numpy')", "cannot import elsewhere: no numpy"), ("", "elsewhere has no workflow greet")],
)
def test_a_module_that_is_another_one_in_a_new_process_is_told(text: str, told: str, module: Path) -> None:
    module.write_text("import everstep as es\n\n\n@es.workflow\nasync def greet() -> None: ...\n")
    call = elsewhere().greet()
    module.write_text(text)

    with pytest.raises(UsageError, match=told):
        crash_everywhere(call, kill="process")


def test_a_process_that_ends_by_itself_is_told(module: Path) -> None:
    """With the end of what it said."""
    module.write_text(
        "import os\nimport everstep as es\n\n\n@es.step\nasync def leave() -> None:\n"
        "    os.write(2, b'good bye'); os._exit(9)\n\n\n@es.workflow\nasync def greet() -> None:\n    await leave()\n"
    )

    with pytest.raises(AssertionError, match=r"ended with 9:\ngood bye"):
        crash_everywhere(elsewhere().greet(), kill="process")
