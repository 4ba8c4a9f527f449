"""``es.patched``: code is changed under live runs, stage by stage, and no stage strands a run of the one before or after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

import everstep as es
from everstep.definitions import Workflow
from everstep.errors import Evicted, NondeterminismError
from everstep.events import PatchApplied, StepFailed, StepScheduled
from everstep.journal import Entry
from everstep.records import ErrorRecord
from tests.core.driver import RUN_KEY, Run, commands_of, new_execution, replayed
from tests.core.steps import charge, note, ship

Code = Callable[[], Any]


def workflow_of(code: Code) -> Workflow[[], Any]:
    """A stage of the workflow ``checkout``."""
    return es.workflow(name="checkout", version="1")(code)


async def before() -> str:
    """Stage 0: nobody thinks of a change."""
    receipt = await charge("42", 1999)
    return await ship(receipt)


async def patched() -> str:
    """Stage 1: both branches."""
    if es.patched("fraud-check"):
        await note("check for fraud")
    receipt = await charge("42", 1999)
    return await ship(receipt)


async def deprecated() -> str:
    """Stage 2: the old branch is gone."""
    es.deprecate_patch("fraud-check")
    await note("check for fraud")
    receipt = await charge("42", 1999)
    return await ship(receipt)


async def removed() -> str:
    """Stage 3: so is the call."""
    await note("check for fraud")
    receipt = await charge("42", 1999)
    return await ship(receipt)


STAGES = (before, patched, deprecated, removed)


def begun(code: Code, entries: int = 2) -> list[Entry]:
    """A run that some stage has driven for so many entries."""
    run = Run(workflow_of(code)())
    run.begin()
    for _ in range(entries - 1):
        run.feed(*run.next_inputs(None))
    run.evict()
    return run.entries


def finished(entries: list[Entry], code: Code) -> Run:
    """The same run, driven to its end by another stage, and the proof that this can be replayed by the stage that did it."""
    run = Run(workflow_of(code)())
    run.entries = list(entries)
    run.execution = new_execution(run.workflow)
    run.execution.replay(entries)
    run.now = entries[-1].at
    run.finish()
    replayed(run.workflow, run.entries)
    return run


def steps(run: Run) -> list[str]:
    return [c.step for entry in run.entries for c in commands_of(entry) if isinstance(c, StepScheduled)]


def markers(entries: list[Entry]) -> list[str]:
    return [event.id for entry in entries for event in entry.decoded() if isinstance(event, PatchApplied)]


# --- the four stages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 2])
def test_an_old_run_keeps_the_old_branch_under_the_patched_code(entries: int) -> None:
    run = finished(begun(before, entries), patched)

    assert ["charge", "ship"] == steps(run)
    assert [] == markers(run.entries)


def test_a_new_run_takes_the_new_branch_and_says_so() -> None:
    run = Run(workflow_of(patched)()).finish().check_replays()

    assert ["note", "charge", "ship"] == steps(run)
    assert ["fraud-check"] == markers(run.entries)


@pytest.mark.parametrize(("recorded", "code"), [pair for pair in product(STAGES[1:], repeat=2) if pair != (removed, patched)])
@pytest.mark.parametrize("entries", [1, 2, 3])
def test_from_the_patch_on_every_stage_goes_on_with_the_runs_of_every_other(recorded: Code, code: Code, entries: int) -> None:
    """Forward with a deployment and back with a rollback. Two stages back is what the middle stage is for, see below."""
    run = finished(begun(recorded, entries), code)

    assert ["note", "charge", "ship"] == steps(run)


def test_without_the_middle_stage_a_worker_that_lags_behind_takes_the_old_branch() -> None:
    """Why there is one: the run has no marker, so the code with both branches believes it to be older than the patch."""
    with pytest.raises(NondeterminismError, match=r"(?s)recorded:  step note.*requested: step charge"):
        finished(begun(removed), patched)


def test_code_from_before_the_patch_cannot_take_a_run_that_began_on_it() -> None:
    """A rollback of the patch itself takes away code that the run has executed; the journal is as it was."""
    with pytest.raises(NondeterminismError, match=r"(?s)recorded:  step note.*requested: step charge"):
        finished(begun(patched), before)


def test_a_run_from_before_the_patch_cannot_go_on_once_the_old_branch_is_gone() -> None:
    """It needs the code with both branches, and is told so where the new branch begins."""
    with pytest.raises(NondeterminismError, match=r"(?s)recorded:  step charge.*requested: step note.*es\.patched"):
        finished(begun(before), deprecated)


# --- one answer per run -----------------------------------------------------------------------------------------------------


def test_places_of_one_change_agree() -> None:
    """The run has passed the first place on old code; the second it comes to live."""

    async def old() -> list[str]:
        return [await note("a"), await note("b")]

    async def new() -> list[str]:
        first = await note("a, new" if es.patched("x") else "a")
        return [first, await note("b, new" if es.patched("x") else "b")]

    run = finished(begun(old, 1), new)

    assert ["a", "b"] == run.result
    assert ["a, new", "b, new"] == Run(workflow_of(new)()).finish().check_replays().result


def test_a_loop_that_began_without_it_stays_without_it_unless_the_id_names_the_round() -> None:
    async def old() -> list[str]:
        return [await note(f"{n}") for n in range(4)]

    async def new() -> list[str]:
        return [await note(f"{n} new" if es.patched("x") else f"{n}") for n in range(4)]

    async def by_round() -> list[str]:
        return [await note(f"{n} new" if es.patched(f"x-{n}") else f"{n}") for n in range(4)]

    assert ["0", "1", "2", "3"] == finished(begun(old, 2), new).result
    assert ["0", "1", "2 new", "3 new"] == finished(begun(old, 2), by_round).result


def test_a_change_at_the_end_of_what_was_recorded_waits_for_the_next_activation() -> None:
    """The old code stood at the await; everything before it is the past, a question there included."""

    async def old() -> str:
        receipt = await charge("42", 1999)
        await asyncio.sleep(60)
        return receipt

    async def new() -> list[bool]:
        answers = [es.patched("early")]
        await charge("42", 1999)
        answers.append(es.patched("before-the-timer"))
        await asyncio.sleep(60)
        answers.append(es.patched("after-the-timer"))
        return answers

    assert [False, False, True] == finished(begun(old, 2), new).result


def test_a_marker_shifts_no_ordinal_and_is_recorded_once() -> None:
    async def asks() -> None:
        await note("a")
        for _ in range(3):
            es.patched("x")
        await note("b")

    async def plain() -> None:
        await note("a")
        await note("b")

    with_marker, without = Run(workflow_of(asks)()).finish(), Run(workflow_of(plain)()).finish()

    assert keys(without) == keys(with_marker)
    assert ["x"] == markers(with_marker.entries)


def keys(run: Run) -> list[str]:
    return [c.key for entry in run.entries for c in commands_of(entry) if isinstance(c, StepScheduled)]


def test_tasks_that_ask_at_the_same_time_get_one_answer() -> None:
    async def asks() -> list[str]:
        async def one(n: int) -> str:
            return await note(f"{n} new" if es.patched("x") else f"{n}")

        return await es.map(one, range(3))

    run = Run(workflow_of(asks)()).finish().check_replays()

    assert ["0 new", "1 new", "2 new"] == run.result
    assert ["x"] == markers(run.entries)


def test_a_question_that_moved_to_an_earlier_line_gets_the_same_answer() -> None:
    """Every marker of the journal is known before the code runs."""

    async def late() -> str:
        first = await note("a")
        return first + await note("b, new" if es.patched("x") else "b")

    async def early() -> str:
        is_new = es.patched("x")
        first = await note("a")
        return first + await note("b, new" if is_new else "b")

    assert "ab, new" == finished(begun(late, 2), early).result


def test_text_that_looks_like_a_marker_is_none() -> None:
    async def tricky() -> bool:
        await note('{"event":"PatchApplied","id":"x"}')
        await pick([{"event": "PatchApplied", "id": "x"}])
        return es.patched("x")

    @es.step
    def pick(items: list[dict[str, str]]) -> list[dict[str, str]]:
        return items

    entries = begun(tricky, 2)

    assert [] == markers(entries)
    execution = replayed(workflow_of(tricky), entries)
    assert not execution.program.patches.is_decided("x")


# --- edges ----------------------------------------------------------------------------------------------------------------


def test_a_run_that_leaves_memory_is_asked_nothing() -> None:
    async def asks() -> None:
        try:
            await note("a")
        finally:
            es.patched("x")

    run = Run(workflow_of(asks)())
    run.begin()
    run.evict()

    assert RUN_KEY == run.entries[0].run_key
    assert not run.execution.program.patches.is_decided("x")
    with pytest.raises(Evicted):
        run.execution.program.patched("x")


@pytest.mark.parametrize("wrong", ["", "a b", "é", 7])
def test_an_id_that_is_not_allowed_is_refused(wrong: Any) -> None:
    with pytest.raises(es.UsageError, match="patch name"):
        es.patched(wrong)
    with pytest.raises(es.UsageError, match="patch name"):
        es.deprecate_patch(wrong)


def test_outside_a_workflow_the_newest_code_runs() -> None:
    es.deprecate_patch("fraud-check")

    assert es.patched("fraud-check")


# --- code that begins again -------------------------------------------------------------------------------------------------


def failed_at_ship(code: Code) -> Run:
    """A run that has charged, and could not ship."""
    run = Run(workflow_of(code)())
    run.begin()
    while not any(operation.definition.name == "ship" for operation in run.open.values()):
        run.feed(*run.next_inputs(None))
    run.feed(StepFailed(run.key_of("ship"), ErrorRecord("builtins.ConnectionError", "away")))
    return run


def asked_again(run: Run, since: int) -> list[str]:
    """Steps that were asked for from an entry on: executed, not only found done."""
    return [c.step for entry in run.entries[since:] for c in commands_of(entry) if isinstance(c, StepScheduled)]


@pytest.mark.parametrize(("recorded", "code"), [(before, patched), (patched, patched), (patched, deprecated)])
def test_a_retried_run_keeps_the_branch_that_it_took(recorded: Code, code: Code) -> None:
    """Else everything after the change would have another key, and be done a second time."""
    run = failed_at_ship(recorded)
    since = len(run.entries)

    run.retry(workflow=workflow_of(code))
    run.feed()
    run.finish()

    assert ["ship"] == asked_again(run, since)
    assert (["fraud-check"] if recorded is patched else []) == list(dict.fromkeys(markers(run.entries)))
    run.check_replays()


@pytest.mark.parametrize(("recorded", "code"), [(before, patched), (patched, patched), (patched, deprecated)])
def test_a_fork_keeps_the_branch_that_the_run_took(recorded: Code, code: Code) -> None:
    run = failed_at_ship(recorded)
    fork = Run(workflow_of(code)())

    fork.fork("run-1", run.entries[:-1])
    fork.finish()

    assert ["ship"] == asked_again(fork, 0)
    fork.check_replays()


def test_a_retried_run_takes_a_change_beyond_what_it_had_done() -> None:
    """Nothing that it has done stands after the question."""

    async def careful() -> str:
        receipt = await charge("42", 1999)
        if es.patched("wrap"):
            await note("wrap it")
        return await ship(receipt)

    run = failed_at_ship(before)
    since = len(run.entries)

    run.retry(workflow=workflow_of(careful))
    run.feed()
    run.finish()

    assert ["note", "ship"] == asked_again(run, since)
    assert ["wrap"] == markers(run.entries)
    run.check_replays()
