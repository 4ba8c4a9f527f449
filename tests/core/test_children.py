"""Children in the background: they outlive an await, are waited for or not, and are talked to; all of it replays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Raw

import everstep as es
from everstep.errors import NondeterminismError
from everstep.events import (
    CancelRequested,
    ChildAccepted,
    ChildCancelled,
    ChildFailed,
    ChildRefused,
    ChildSignalled,
    ChildStarted,
    ChildSucceeded,
    CommandEvent,
    DeadlinePassed,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StepScheduled,
)
from everstep.records import ErrorRecord
from tests.core.driver import Run, commands_of, drive, replayed
from tests.core.steps import child, note

CANCELLED = ErrorRecord("everstep.errors.RunCancelled", "stop")
word = es.signal("word", str)


def asked(run: Run, *kinds: type[CommandEvent]) -> list[CommandEvent]:
    """Commands of these kinds, in order."""
    return [c for entry in run.entries for c in commands_of(entry) if isinstance(c, kinds)]


# --- in the background ------------------------------------------------------------------------------------------------------


def test_a_started_child_is_not_waited_for() -> None:
    @es.workflow
    async def parent() -> str:
        es.start(child("42"))
        return await note("went on")

    run = Run(parent())
    commands = run.begin()
    run.feed(run.done("note"))

    assert [ChildStarted, StepScheduled] == [type(each) for each in commands]
    assert "went on" == run.check_replays().result


def test_a_handle_can_be_awaited_any_number_of_times() -> None:
    """Before and after the child has ended, by several tasks, and with everything that takes an awaitable."""

    @es.workflow
    async def parent() -> list[str]:
        handle = es.start(child("42"))
        first = await es.gather(handle, handle, asyncio.wait_for(handle, 60))
        return [*first, await handle, *await asyncio.gather(handle, handle)]

    run = drive(parent())

    assert ["shipped 42"] * 6 == run.result
    assert 1 == len(asked(run, ChildStarted))
    assert [] == asked(run, ChildCancelled)


def test_a_failed_child_raises_at_every_await_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """One that nobody awaits has recorded its failure itself: nothing is logged, nothing fails."""

    @es.workflow
    async def parent() -> list[str]:
        watched, ignored = es.start(child("1")), es.start(child("2"))
        log: list[str] = []
        for _ in range(2):
            try:
                await watched
            except es.RunFailed as error:
                log.append(error.run_id)
        del ignored
        return log

    run = Run(parent(), answers={"child": ValueError("no")})
    run.begin()
    first, second = run.open
    run.feed(run.answer(second))
    run.feed(run.answer(first))

    assert ["run-1/0:1"] * 2 == run.check_replays().result
    assert "" == caplog.text


def test_what_becomes_of_a_child_is_recorded_and_another_option_strands_nothing() -> None:
    async def before() -> None:
        es.start(child("42"), on_parent_close="abandon", cancellation="wait", tags={"a": "b"}, timeout=5)

    async def after() -> None:
        es.start(child("42"))

    run = Run(es.workflow(name="parent")(before)()).finish()
    [started] = asked(run, ChildStarted)

    assert isinstance(started, ChildStarted)
    assert ("abandon", "wait") == (started.on_parent_close, started.cancellation)
    execution = replayed(es.workflow(name="parent")(after), run.entries)
    assert "abandon" == execution.program.family["0:1"].on_parent_close


# --- the cancel of an await -------------------------------------------------------------------------------------------------


@es.workflow
async def impatient(cancellation: Any) -> list[str]:
    handle = es.start(child("42"), cancellation=cancellation)
    log: list[str] = []
    try:
        async with asyncio.timeout(60):
            log.append(await handle)
    except TimeoutError:
        log.append("late")
    try:
        log.append(await handle)
    except es.RunCancelled:
        log.append("cancelled")
    return log


def test_by_default_the_child_is_asked_to_stop_and_the_await_ends_at_once() -> None:
    run = Run(impatient("request"))
    run.begin()
    [key] = run.open
    commands = run.feed(run.fired())
    assert [ChildCancelled(key)] == [each for each in commands if isinstance(each, ChildCancelled)]
    run.feed(ChildFailed(key, "cancelled", CANCELLED), seconds=5)

    assert ["late", "cancelled"] == run.check_replays().result


def test_the_await_can_go_on_until_the_child_has_ended() -> None:
    run = Run(impatient("wait"))
    run.begin()
    [key] = run.open
    assert [ChildCancelled(key)] == run.feed(run.fired())
    run.feed(CancelRequested("a second cancel asks nobody again"), seconds=1)
    assert run.ending is None
    run.feed(ChildFailed(key, "cancelled", CANCELLED), seconds=5)

    assert 1 == len(asked(run, ChildCancelled))
    assert isinstance(run.check_replays().ending, RunCancelled)


def test_what_a_child_came_to_that_ended_in_spite_of_the_cancel_is_there_for_the_next_await() -> None:
    run = Run(impatient("wait"))
    run.begin()
    [key] = run.open
    run.feed(run.fired())
    run.feed(run.answer(key))

    assert ["late", "shipped 42"] == run.check_replays().result


def test_the_child_can_be_left_alone() -> None:
    run = Run(impatient("abandon"))
    run.begin()
    [key] = run.open
    run.feed(run.fired())
    run.feed(run.answer(key))

    assert [] == asked(run, ChildCancelled)
    assert ["late", "shipped 42"] == run.check_replays().result


def test_a_cancel_that_comes_with_the_result_throws_it_away_in_no_mode() -> None:
    for mode in ("request", "wait", "abandon"):
        run = Run(impatient(mode))
        run.begin()
        [key] = run.open
        run.feed(run.answer(key), run.fired())

        assert ["shipped 42", "shipped 42"] == run.check_replays().result


@pytest.mark.parametrize("mode", ["request", "wait", "abandon"])
def test_a_cancel_of_the_run_reaches_code_that_awaits_a_child(mode: str) -> None:
    run = Run(impatient(mode))
    run.begin()
    [key] = run.open
    run.feed(CancelRequested("enough"))
    if mode == "wait":
        assert run.ending is None
        run.feed(ChildFailed(key, "cancelled", CANCELLED))

    assert RunCancelled("enough") == run.check_replays().ending


# --- when the code is finished first ------------------------------------------------------------------------------------------


@es.workflow
async def brood(how: str) -> str:
    es.start(child("1"), on_parent_close="wait")
    es.start(child("2"), on_parent_close="wait")
    es.start(child("3"))
    if how == "raises":
        raise ValueError("no")
    if how == "waits":
        await asyncio.sleep(3600)
    return "done"


@pytest.mark.parametrize(("how", "ending"), [("returns", RunSucceeded), ("raises", RunFailed)])
def test_a_run_ends_only_when_the_children_that_it_waits_for_have_ended(how: str, ending: type) -> None:
    """The third is not waited for."""
    run = Run(brood(how))
    run.begin()
    first, second, _ = run.open
    run.feed(run.answer(second))
    assert run.ending is None
    run.feed(ChildFailed(first, "failed", ErrorRecord("ValueError", "no")))

    assert isinstance(run.check_replays().ending, ending)
    assert [] == asked(run, ChildCancelled)


def test_a_cancel_while_only_children_are_waited_for_asks_them_to_stop_and_ends_the_run_as_cancelled() -> None:
    run = Run(brood("returns"))
    run.begin()
    first, second, _ = run.open
    commands = run.feed(CancelRequested("enough"))
    assert [ChildCancelled(first), ChildCancelled(second)] == commands
    run.feed(ChildFailed(first, "cancelled", CANCELLED))
    assert run.ending is None
    run.feed(run.answer(second))

    assert RunCancelled("enough") == run.check_replays().ending


def test_so_does_the_time_limit_of_the_run() -> None:
    run = Run(brood("returns"))
    run.begin()
    first, second, _ = run.open
    run.feed(DeadlinePassed())
    run.feed(run.answer(first), run.answer(second))

    ending = run.check_replays().ending
    assert isinstance(ending, RunFailed)
    assert "everstep.errors.RunTimeout" == ending.error.type


def test_a_cancel_that_the_code_got_asks_the_children_that_are_waited_for_to_stop_too() -> None:
    run = Run(brood("waits"))
    run.begin()
    first, second, _ = run.open
    commands = run.feed(CancelRequested("enough"))
    assert [ChildCancelled(first), ChildCancelled(second)] == [c for c in commands if isinstance(c, ChildCancelled)]
    run.feed(run.answer(first), run.answer(second))

    assert RunCancelled("enough") == run.check_replays().ending


def test_a_cancel_that_comes_with_the_last_result_comes_too_late_if_nobody_is_waited_for() -> None:
    @es.workflow
    async def quick() -> str:
        es.start(child("1"))
        return await note("done")

    run = Run(quick())
    run.begin()
    run.feed(run.done("note"), CancelRequested("enough"))

    assert "done" == run.check_replays().result


def test_tasks_go_on_while_children_are_waited_for() -> None:
    """The code of a background task is code of the run, which has not ended."""

    @es.workflow
    async def parent() -> str:
        handle = es.start(child("1"), on_parent_close="wait")
        task = asyncio.create_task(afterwards(handle))
        task.set_name("afterwards")
        return "done"

    async def afterwards(handle: es.ChildHandle[str]) -> None:
        await asyncio.sleep(5)
        es.start(child("2"), on_parent_close="wait")
        await handle

    run = Run(parent())
    run.begin()
    run.feed(run.fired())
    first, second = run.open
    run.feed(run.answer(first))
    assert run.ending is None
    run.feed(run.answer(second))

    assert "done" == run.check_replays().result


# --- talking to it ------------------------------------------------------------------------------------------------------------


def test_a_child_is_asked_to_stop_once_and_told_every_message() -> None:
    @es.workflow
    async def parent() -> str:
        handle = es.start(child("42"))
        handle.send(word, "one")
        handle.send(word, "two", key="2")
        handle.cancel("not needed")
        handle.cancel("really")
        return await handle

    run = Run(parent())
    run.begin()
    run.feed(run.done("child"))

    signals = asked(run, ChildSignalled)
    assert [("0:1", "run-1/0:1", "word", b'"one"', ""), ("0:1", "run-1/0:1", "word", b'"two"', "2")] == [
        (s.child, s.run_id, s.name, bytes(s.value), s.id) for s in signals if isinstance(s, ChildSignalled)
    ]
    assert [ChildCancelled("0:1", "not needed")] == asked(run, ChildCancelled)
    run.check_replays()


def test_one_that_has_ended_is_not_asked_to_stop() -> None:
    @es.workflow
    async def parent() -> str:
        handle = es.start(child("42"))
        result = await handle
        handle.cancel()
        return result

    assert [] == asked(drive(parent()), ChildCancelled)


def test_another_message_is_a_difference() -> None:
    def saying(text: str) -> Any:
        async def parent() -> None:
            es.start(child("42")).send(word, text)

        return es.workflow(name="parent")(parent)

    run = Run(saying("yes")()).finish()

    with pytest.raises(NondeterminismError, match="requested: signal word to child run-1/0:1"):
        replayed(saying("no"), run.entries)


# --- an id of the caller's --------------------------------------------------------------------------------------------------


@es.workflow
async def naming() -> list[str]:
    handle = es.start(child("42"), id="the-child")
    log = [handle.run_id]
    try:
        await handle.started()
        log.append("started")
        await handle.started()
    except es.RunConflict as error:
        log.append(f"refused {error.run_id}")
    try:
        log.append(await handle)
    except es.RunConflict as error:
        log.append(f"refused {error.run_id}")
    return log


def test_code_can_wait_until_the_store_has_taken_the_id() -> None:
    run = Run(naming())
    run.begin()
    [key] = run.open
    run.feed(ChildAccepted(key))
    run.feed(run.answer(key))

    assert ["the-child", "started", "shipped 42"] == run.check_replays().result


def test_a_refusal_is_told_to_whoever_waits_for_the_start_or_the_result() -> None:
    run = Run(naming())
    run.begin()
    [key] = run.open
    run.feed(ChildRefused(key, "the id is taken"))

    assert ["the-child", "refused the-child", "refused the-child"] == run.check_replays().result


def test_an_outcome_says_that_it_was_started() -> None:
    run = Run(naming())
    run.begin()
    [key] = run.open
    run.feed(run.answer(key))

    assert ["the-child", "started", "shipped 42"] == run.check_replays().result


def test_a_refusal_that_nobody_waits_for_fails_nothing() -> None:
    @es.workflow
    async def parent() -> str:
        es.start(child("42"), id="the-child", on_parent_close="wait")
        return "done"

    run = Run(parent())
    run.begin()
    [key] = run.open
    assert run.ending is None
    run.feed(ChildRefused(key, "the id is taken"))

    assert "done" == run.check_replays().result


def test_without_an_id_it_is_started_at_once() -> None:
    @es.workflow
    async def parent() -> str:
        handle = es.start(child("42"))
        await handle.started()
        return handle.run_id

    assert "run-1/0:1" == drive(parent()).result


def test_another_id_is_a_difference() -> None:
    def named(run_id: str | None) -> Any:
        async def parent() -> None:
            es.start(child("42"), id=run_id)

        return es.workflow(name="parent")(parent)

    run = Run(named("a")()).finish()

    for other in ("b", None):
        with pytest.raises(NondeterminismError, match=r'recorded:  child child\("order_id":"42"\) as a'):
            replayed(named(other), run.entries)


# --- misuse -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_parent_close": "stop"}, "on_parent_close='stop' is not known.*'cancel', 'abandon', 'wait'"),
        ({"cancellation": "never"}, "cancellation='never' is not known"),
        ({"timeout": 0}, "timeout=0"),
        ({"id": "a/b"}, "run id 'a/b' is not allowed"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_and_nothing_is_started(options: Any, said: str) -> None:
    @es.workflow
    async def parent() -> str:
        with pytest.raises(es.UsageError, match=said):
            es.start(child("42"), **options)
        return await note("went on")

    run = drive(parent())

    assert [] == asked(run, ChildStarted)
    assert "0:1" == asked(run, StepScheduled)[0].key  # type: ignore[union-attr]


def test_only_the_call_of_a_workflow_can_be_started_once_and_only_in_a_workflow() -> None:
    @es.workflow
    async def parent() -> None:
        wrong: Any = note("a")
        with pytest.raises(es.UsageError, match="a call of a step"):
            es.start(wrong)
        wrong = child
        with pytest.raises(es.UsageError, match="takes the call of a workflow"):
            es.start(wrong)
        call = child("42")
        es.start(call)
        with pytest.raises(es.CallAlreadyUsed):
            es.start(call)
        wrong = child(42)  # type: ignore[arg-type]
        with pytest.raises(es.Unencodable):
            es.start(wrong)

    assert 1 == len(asked(drive(parent()), ChildStarted))
    with pytest.raises(es.UsageError, match="outside a workflow"):
        es.start(child("42"))


def test_a_child_started_while_the_run_leaves_memory_is_not() -> None:
    tried: list[str] = []

    @es.workflow
    async def parent() -> None:
        try:
            await note("a")
        finally:
            tried.append("before")
            es.start(child("42"))
            tried.append("after")

    run = Run(parent())
    run.begin()
    run.evict()

    assert ["before"] == tried


def test_an_outcome_that_no_longer_fits_pauses_whether_or_not_anybody_awaits_it() -> None:
    @es.workflow
    async def parent() -> None:
        es.start(child("42"), on_parent_close="wait")

    run = Run(parent())
    run.begin()
    [key] = run.open
    with pytest.raises(NondeterminismError, match="no longer fits its declared type"):
        run.feed(ChildSucceeded(key, Raw(b"7")))
