"""
Beginning again: ``continue_as_new`` cuts the journal into segments, a retry finds done what was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec import Raw

import everstep as es
from everstep.core.execution import CUTS_PER_ENTRY
from everstep.events import (
    CancelRequested,
    Input,
    ResultReused,
    RunCancelled,
    RunContinued,
    RunFailed,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
    TimerStarted,
)
from everstep.journal import Entry
from everstep.records import ErrorRecord
from tests.core.driver import Run, Waiting, commands_of, drive, new_execution, replayed

word = es.signal("word", str)


@es.step
def work(n: int) -> int:
    return n * 10


@es.step(name="fragile")
def fragile(n: int) -> int:
    raise ValueError("not yet")


@es.step(at_most_once=True)
def pay(n: int) -> int:
    raise ValueError("declined")


@es.workflow
async def countdown(n: int, log: list[float]) -> list[float]:
    log.append(es.random())
    await work(n)
    if n:
        es.continue_as_new(countdown(n - 1, log))
    return log


@es.workflow
async def hearing(rounds: int, heard: list[str]) -> list[str]:
    heard.append(await word.wait())
    if rounds:
        es.continue_as_new(hearing(rounds - 1, heard))
    return heard


@es.workflow
async def spin(n: int) -> int:
    if n:
        es.continue_as_new(spin(n - 1))
    return await work(n)


@es.workflow
async def deaf(rounds: int) -> str:
    await work(rounds)
    if rounds:
        es.continue_as_new(deaf(rounds - 1))
    await asyncio.sleep(60)
    return "heard nothing"


def signal(value: str) -> SignalReceived:
    return SignalReceived("word", Raw(f'"{value}"'.encode()))


# --- continue_as_new ----------------------------------------------------------------------------------------------------------


def test_a_run_begins_again_with_other_arguments_and_no_name_comes_twice() -> None:
    """Keys name the segment, so neither idempotency keys nor ids of children repeat."""
    run = drive(countdown(3, []))

    keys = [c.key for e in run.entries for c in commands_of(e) if isinstance(c, StepScheduled)]
    assert ["0:1", "1:1", "2:1", "3:1"] == keys
    assert 4 == len(set(run.result)), "each segment has random numbers of its own"


def test_a_result_the_cut_and_what_comes_after_it_are_one_entry() -> None:
    """So a run that goes on for ever costs one commit a step, as any other."""
    run = drive(countdown(2, []))

    kinds = [[type(event).__name__ for event in entry.decoded()] for entry in run.entries]
    assert ["StepCompleted", "RunContinued", "StepScheduled"] == kinds[1]
    assert 4 == len(run.entries)


def test_the_newest_segment_replays_without_what_came_before_it() -> None:
    run = Run(countdown(3, []))
    run.begin()
    for _ in range(3):
        run.feed(run.done("work"))
        base = run.entries[-1]
        alone = new_execution(run.workflow)
        alone.replay([base], base.hash, previous=run.entries[-2].hash)

        assert Waiting.of(run.execution) == Waiting.of(alone)
        outcome = run.done("work")
        run.execution = alone
        run.feed(outcome)
        assert run.entries[-1].version == run.execution.version
        run.execution = replayed(run.workflow, run.entries[:-1])
        del run.entries[-1], run.waiting[-1]
    run.check_replays()


def test_an_entry_in_the_middle_of_a_segment_is_no_place_to_begin() -> None:
    """A chain that verifies from a hash that somebody chose proves nothing about what is missing."""
    run = drive(countdown(2, []))
    execution = new_execution(run.workflow)

    with pytest.raises(es.CorruptJournal, match="no segment begins"):
        execution.replay(run.entries[3:], previous=run.entries[2].hash)


def test_signals_that_were_not_taken_are_there_again_in_order() -> None:
    run = Run(hearing(2, []))
    run.begin(signal("a"), signal("b"), signal("c"))

    assert ["a", "b", "c"] == run.finish().check_replays().result


def test_a_cancel_that_the_code_did_not_get_is_carried_over() -> None:
    """It ended in the very activation that brought the cancel."""
    run = Run(deaf(1))
    run.begin()
    run.feed(run.done("work"), CancelRequested("enough"))
    run.check_replays()

    assert isinstance(run.ending, RunCancelled)


def test_code_that_only_ever_continues_gives_the_thread_back() -> None:
    run = Run(spin(9))
    run.begin()
    while not run.open:
        assert CUTS_PER_ENTRY == sum(isinstance(event, RunContinued) for event in run.entries[-1].decoded())
        assert run.execution.must_activate
        run.feed()

    assert 0 == run.finish().check_replays().result


@es.workflow
async def stray() -> None:
    es.continue_as_new(countdown(1, []))


def test_another_workflow_is_refused() -> None:
    run = drive(stray())

    assert isinstance(run.ending, RunFailed)
    assert "in a run of stray" in run.ending.error.message
    with pytest.raises(es.UsageError, match="outside a workflow"):
        es.continue_as_new(stray())


@es.workflow
async def cautious(n: int) -> int:
    try:
        es.continue_as_new(cautious(n))
    except Exception:  # noqa: BLE001  # the point of the test
        return -1


def test_an_except_exception_does_not_hold_it_up() -> None:
    run = Run(cautious(1))
    run.begin()

    assert run.ending is None
    assert any(isinstance(event, RunContinued) for event in run.entries[0].decoded())
    run.evict()


# --- retry --------------------------------------------------------------------------------------------------------------------


@es.workflow(name="billing")
async def billing() -> int:
    first, second = await asyncio.gather(work(1), work(2))
    third = await fragile(3)
    return first + second + third


@es.workflow(name="billing")
async def corrected_billing() -> int:
    first, second = await asyncio.gather(work(1), work(2))
    return first + second + await work(7)


def failed_billing() -> Run:
    return Run(billing()).finish()


def test_what_was_finished_is_not_asked_for_again() -> None:
    run = failed_billing()
    assert isinstance(run.ending, RunFailed)

    run.retry()
    run.feed()

    asked = commands_of(run.entries[-1])
    assert ["ResultReused", "ResultReused", "StepScheduled"] == [type(command).__name__ for command in asked]
    assert ["fragile"] == [operation.definition.name for operation in run.open.values()]
    run.feed(StepCompleted(run.key_of("fragile"), Raw(b"5")))
    assert 35 == run.check_replays().result


def test_a_failed_step_keeps_its_key_and_so_its_idempotency_key() -> None:
    run = failed_billing()
    before = next(e.key for entry in run.entries for e in entry.decoded() if isinstance(e, StepFailed))

    run.retry()
    run.feed()

    assert before == run.key_of("fragile")
    run.evict()


def test_corrected_code_gets_the_results_that_it_still_asks_for() -> None:
    run = failed_billing()

    run.retry(workflow=corrected_billing)
    run.feed()

    assert ["work"] == [operation.definition.name for operation in run.open.values()]
    assert 100 == run.finish().check_replays().result


def test_a_second_retry_knows_what_both_generations_finished() -> None:
    run = failed_billing()
    run.retry()
    run.finish()
    assert isinstance(run.ending, RunFailed)

    run.retry(workflow=corrected_billing)
    run.feed()

    assert 2 == sum(isinstance(command, ResultReused) for command in commands_of(run.entries[-1]))
    assert 100 == run.finish().check_replays().result


@es.workflow
async def chain(n: int) -> int:
    total = 0
    for each in range(n):
        total += await work(each)
    return total + await fragile(n)


def test_a_thousand_finished_steps_cost_one_entry() -> None:
    run = Run(chain(1000)).finish()
    before = len(run.entries)

    run.retry()
    run.feed()

    assert before + 3 == len(run.entries)
    assert 1000 == sum(isinstance(command, ResultReused) for command in commands_of(run.entries[-1]))
    run.evict()


@es.workflow
async def paying() -> int:
    return await pay(1)


def declined(key: str) -> StepFailed:
    return StepFailed(key, ErrorRecord("builtins.ValueError", "declined"))


@pytest.mark.parametrize("outcome", [declined, StepOutcomeUnknown])
def test_an_at_most_once_step_is_not_executed_by_a_retry(outcome: Callable[[str], Input]) -> None:
    run = Run(paying())
    run.begin()
    run.feed(outcome(run.key_of("pay")))

    run.retry()
    run.feed()

    assert not run.open
    assert isinstance(run.ending, RunFailed)
    run.check_replays()


def test_a_person_can_say_what_a_failed_step_came_to() -> None:
    run = failed_billing()
    key = next(e.key for entry in run.entries for e in entry.decoded() if isinstance(e, StepFailed))

    run.retry(StepOverridden(key, Raw(b"8"), reason="seen on the receipt", actor="ann"))
    run.feed()

    assert 38 == run.check_replays().result


@es.workflow
async def skippable() -> str:
    return f"{await work(1)} {await fragile(2)}"


def test_a_step_can_be_skipped_whatever_its_type() -> None:
    run = Run(skippable())
    run.begin()
    run.feed(run.done("work"))

    run.feed(StepOverridden(run.key_of("fragile"), Raw(b"null"), skipped=True))

    assert "10 None" == run.check_replays().result


@es.workflow
async def patient() -> str:
    await asyncio.sleep(3600)
    heard = await word.wait()
    if heard == "wrong":
        await fragile(1)
    await asyncio.sleep(60)
    return heard


def test_timers_keep_their_due_time_and_signals_are_there_again() -> None:
    run = Run(patient())
    run.begin()
    [before] = [command for command in commands_of(run.entries[0]) if isinstance(command, TimerStarted)]
    run.feed(run.fired())
    run.feed(signal("wrong"))
    run.feed(run.done("fragile"))
    assert isinstance(run.ending, RunFailed)

    run.retry()
    run.feed(seconds=10)

    [again] = [command for command in commands_of(run.entries[-1]) if isinstance(command, TimerStarted)]
    assert before.due_at == again.due_at
    run.feed(run.fired())
    assert "fragile" == run.open[next(iter(run.open))].definition.name
    run.feed(StepCompleted(run.key_of("fragile"), Raw(b"1")))
    assert "wrong" == run.finish().check_replays().result


@es.workflow
async def failing_later(n: int) -> int:
    await work(n)
    if n:
        es.continue_as_new(failing_later(n - 1))
    return await fragile(n)


def test_a_retry_begins_with_the_newest_segment() -> None:
    run = Run(failing_later(2)).finish()

    run.retry()
    run.feed()

    assert {"2:2"} == set(run.open)
    run.feed(StepCompleted("2:2", Raw(b"1")))
    assert 1 == run.check_replays().result


def test_a_retried_run_replays_from_its_base() -> None:
    run = Run(failing_later(2)).finish()
    run.retry()
    run.feed()
    base = base_of(run.entries)
    alone = new_execution(run.workflow)

    alone.replay(run.entries[base - 1 :], run.entries[-1].hash, previous=run.entries[base - 2].hash)

    assert Waiting.of(run.execution) == Waiting.of(alone)
    run.evict()


def base_of(entries: list[Entry]) -> int:
    return max(e.version for e in entries if any(isinstance(event, RunContinued) for event in e.decoded()))
