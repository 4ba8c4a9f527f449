"""Sagas on the level of journals: what is undone, and in which order (I14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import everstep as es
from everstep.events import (
    ChildFailed,
    CompensationBegan,
    CompensationEnded,
    RunDied,
    RunFailed,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
    StopRequested,
)
from everstep.records import ErrorRecord, UndoRecord
from tests.core.driver import Run, drive
from tests.core.sagas import book, book_by_child, bookings, events, fail, failed, pay, unbook, unbook_by_child, undone

# --- what is undone, and when --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, 6))
def test_when_step_k_fails_the_ones_before_it_are_undone_in_reverse(k: int) -> None:
    """F1."""
    run = drive(bookings(5, k))

    assert [f"ticket {number}" for number in range(k - 1, 0, -1)] == undone(run)
    assert isinstance(run.ending, RunFailed)
    assert "step fail of run run-1 failed" in run.ending.error.message
    assert bool(k - 1) == len(events(run, CompensationBegan)) == len(events(run, CompensationEnded))


def test_a_saga_that_works_out_leaves_no_trace() -> None:
    run = drive(bookings(3, 0))

    assert ["ticket 1", "ticket 2", "ticket 3"] == run.result
    assert [] == undone(run)
    assert 3 == len(events(run, StepScheduled))
    assert [] == events(run, CompensationBegan, CompensationEnded, StopRequested)


def test_undoing_ten_steps_costs_no_more_than_twice_what_doing_them_did() -> None:
    """The bar. Entries are commits: result of one and intent of the next share one."""
    run = drive(bookings(11, 11))
    began = next(n for n, entry in enumerate(run.entries) if any(isinstance(e, StepFailed) for e in entry.decoded()))

    assert 11 == began  # created + ten results; this one holds the failure, and the first compensation
    assert 10 == len(run.entries) - began - 1
    forward = sum(len(entry.events) for entry in run.entries[:began])
    assert sum(len(entry.events) for entry in run.entries[began:]) <= 2 * forward


def test_the_journal_says_what_is_undone_why_and_of_what() -> None:
    run = drive(bookings(3, 3))

    [began] = events(run, CompensationBegan)
    assert (UndoRecord("unbook", "book", "0:2"), UndoRecord("unbook", "book", "0:1")) == began.plan
    assert ["0:2", "0:1"] == [each.undoes for each in events(run, StepScheduled) if each.undoes is not None]
    assert [began.key] == [each.key for each in events(run, CompensationEnded)]


@es.workflow
async def tricky() -> None:
    async with es.saga() as saga:
        saga.undo(unbook("by hand"))
        await saga.do(book("by call"), undo=unbook("call"))
        await saga.do(book_by_child("child"), undo=unbook_by_child)
        for name in ("loop 1", "loop 2"):
            await saga.do(book(name), undo=lambda ticket: unbook(f"{ticket} {name}"))  # noqa: B023  # on purpose
        await fail("now")


def test_every_form_of_an_undo_is_kept_in_the_order_of_asking() -> None:
    """A function is called when the result is there, so what a lambda refers to still has its value in a loop."""
    run = drive(tricky())

    assert ["ticket loop 2 loop 2", "ticket loop 1 loop 1", "ticket child", "call", "by hand"] == undone(run)


@es.workflow
async def one(kind: str) -> str:
    try:
        async with es.saga() as saga:
            await saga.do(book("first"), undo=unbook)
            match kind:
                case "call":
                    return await saga.do(pay("x"), undo=unbook("x"))
                case "function":
                    return await saga.do(pay("x"), undo=unbook)
                case "child":
                    return await saga.do(book_by_child("x"), undo=unbook("x"))
                case _:
                    saga.undo(unbook("x"))
                    return await pay("x")
    except es.EverstepError as error:
        return type(error).__name__


def after_first(kind: str) -> Run:
    run = Run(one(kind))
    run.begin()
    run.feed(run.done("book"))
    return run


@pytest.mark.parametrize(
    ("outcome", "maybe", "caught"),
    [
        (failed("0:2"), None, "StepFailed"),
        (failed("0:2", maybe=True), True, "StepFailed"),
        (failed("0:2", maybe=True, timed_out=True), True, "StepTimeout"),
        (StepOutcomeUnknown("0:2"), True, "StepOutcomeUnknown"),
    ],
)
def test_what_failed_did_nothing_and_what_is_not_known_is_undone_as_maybe(
    outcome: Any, maybe: bool | None, caught: str
) -> None:
    """F2. A timeout, a lost worker, a result that cannot be stored: the effect may be there."""
    run = after_first("call")
    run.feed(outcome)
    run.finish().check_replays()

    assert caught == run.result
    assert (["ticket first"] if maybe is None else ["x", "ticket first"]) == undone(run)
    assert ([False] if maybe is None else [True, False]) == [
        each.maybe for each in events(run, StepScheduled) if each.undoes is not None
    ]


def test_an_undo_that_needs_a_result_nobody_knows_is_left_to_a_person() -> None:
    """Ended as failed, nobody would look after a payment that may have been made."""
    run = after_first("function")
    run.feed(StepOutcomeUnknown(run.key_of("pay")))
    run.check_replays()

    assert isinstance(run.ending, RunDied)
    assert (UndoRecord("", "pay", "0:2", maybe=True), UndoRecord("unbook", "book", "0:1")) == run.ending.undo_left
    assert "a saga could not undo pay: how is not known." == run.ending.reason.partition("\n")[0]
    assert "Left to undo, in this order: nothing that is known (undoes perhaps pay), unbook (undoes book)." in run.ending.reason
    assert run.ending.error is not None
    assert "step pay may have had its effect, and its undo needs its result" in run.ending.error.message
    assert [] == undone(run)


def test_a_refusal_after_a_lost_attempt_counts_where_the_undo_needs_a_result() -> None:
    """The attempt that refused has the idempotency key of the one that was lost: it knows. Else every crash there kills."""
    run = after_first("function")
    run.feed(failed(run.key_of("pay"), maybe=True))
    run.finish().check_replays()

    assert ["ticket first"] == undone(run)


def test_an_undo_by_hand_covers_a_step_that_fails() -> None:
    run = after_first("hand")
    run.feed(failed(run.key_of("pay")))
    run.finish().check_replays()

    assert ["x", "ticket first"] == undone(run)


@pytest.mark.parametrize(("status", "is_undone"), [("failed", False), ("cancelled", False), ("dead", True)])
def test_a_child_that_died_is_undone_and_one_that_ended_otherwise_has_seen_to_itself(status: str, is_undone: bool) -> None:
    run = after_first("child")
    run.feed(ChildFailed(run.key_of("book_by_child"), status, ErrorRecord("builtins.ValueError", "no")))
    run.finish().check_replays()

    assert (["x"] if is_undone else []) + ["ticket first"] == undone(run)


# --- misuse --------------------------------------------------------------------------------------------------------


def refusal(body: Callable[[], Any]) -> str:
    @es.workflow
    async def misused() -> str:
        try:
            await body()
        except es.UsageError as error:
            return str(error)
        return "not refused"

    run = drive(misused())
    assert [] == events(run, StepScheduled)
    text: str = run.result
    return text


async def _before_it() -> None:
    await es.saga().do(book("a"), undo=unbook)


async def _after_it() -> None:
    async with es.saga() as saga:
        pass
    await saga.do(book("a"), undo=unbook("a"))


async def _registered_after_it() -> None:
    async with es.saga() as saga:
        pass
    saga.undo(unbook("a"))


async def _twice() -> None:
    saga = es.saga()
    async with saga:
        pass
    async with saga:
        pass


async def _no_call() -> None:
    async with es.saga() as saga:
        await saga.do(book, undo=unbook("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def _no_undo() -> None:
    async with es.saga() as saga:
        await saga.do(book("a"), undo=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def _no_call_by_hand() -> None:
    async with es.saga() as saga:
        saga.undo(unbook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (_before_it, "was given to a saga that is not open"),
        (_after_it, "was given to a saga that is not open"),
        (_registered_after_it, "was given to a saga that is not open"),
        (_twice, "entered before"),
        (_no_call, "Call it: saga.do"),
        (_no_undo, "an undo is the call of a step, or a function"),
        (_no_call_by_hand, "takes the call of a step or a workflow"),
    ],
)
def test_misuse_is_refused_before_anything_is_executed(body: Callable[[], Any], text: str) -> None:
    """No call that is left over warns: warnings are errors here."""
    assert text in refusal(body)


def test_a_call_that_was_used_is_refused_as_an_undo() -> None:
    @es.workflow
    async def twice() -> None:
        undo = unbook("a")
        async with es.saga() as saga:
            await saga.do(book("a"), undo=undo)
            await saga.do(book("b"), undo=undo)

    run = drive(twice())

    assert isinstance(run.ending, RunFailed)
    assert "everstep.errors.CallAlreadyUsed" == run.ending.error.type
    assert ["a"] == undone(run)


# --- outside a run -------------------------------------------------------------------------------------------------


async def test_outside_a_run_a_saga_simply_calls() -> None:
    log: list[str] = []

    @es.step
    def do(name: str) -> str:
        log.append(f"do {name}")
        return name

    @es.step
    async def undo(name: str) -> None:
        log.append(f"undo {name}")

    with pytest.raises(ValueError, match="no"):  # noqa: PT012  # the scope is what is tested
        async with es.saga() as saga:
            assert "a" == await saga.do(do("a"), undo=undo)
            assert "b" == await saga.do(do("b"), undo=undo("B"))
            await saga.do(fail("no"), undo=undo("fail"))

    assert ["do a", "do b", "undo B", "undo a"] == log


async def test_outside_a_run_a_compensation_that_fails_raises() -> None:
    with pytest.raises(ValueError, match="undo"):  # noqa: PT012  # the scope is what is tested
        async with es.saga() as saga:
            await saga.do(book("a"), undo=fail("undo"))
            raise KeyError
