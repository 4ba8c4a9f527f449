"""A compensation that fails for good, and what a saga looks like from outside (F4)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

import everstep as es
from everstep.core.snapshots import fold
from everstep.events import (
    NO_PAYLOAD,
    RunDied,
    RunFailed,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepOverridden,
    StepScheduled,
)
from everstep.records import Status, UndoRecord
from tests.core.driver import Run, drive
from tests.core.records import record_of
from tests.core.sagas import book, bookings, events, fail, failed, pay, tidy, unbook, undone

# --- a compensation that fails for good ----------------------------------------------------------------------------


@es.workflow
async def stubborn() -> str:
    try:
        async with es.saga() as saga:
            for name in ("a", "b", "c"):
                await saga.do(book(name), undo=unbook)
            await fail("now")
    except BaseException:  # noqa: BLE001  # the strongest there is
        await tidy("handled")
        return "success"
    finally:
        await tidy("finally")
    return "done"


def give_up(workflow: Any, at: str) -> Run:
    """Run until the compensation that is given this argument fails for good."""
    run = Run(workflow)
    run.begin()
    while run.ending is None:
        [key] = list(run.open)[:1]
        is_it = run.open[key].event.undoes is not None and at in bytes(run.open[key].event.args).decode()
        run.feed(failed(key) if is_it else run.answer(key))
    return run.check_replays()


def test_a_compensation_that_fails_for_good_ends_the_run_dead_with_what_is_left() -> None:
    """F4: not failed, and no ``except`` makes a success of it; what comes further down is not undone out of order."""
    run = give_up(stubborn(), at="b")

    assert isinstance(run.ending, RunDied)
    assert ["ticket c", "ticket b"] == undone(run)
    assert (UndoRecord("unbook", "book", "0:2"), UndoRecord("unbook", "book", "0:1")) == run.ending.undo_left
    assert run.ending.reason.startswith("a saga could not undo book: unbook failed for good.\n")
    assert run.ending.error is not None
    assert run.ending.error.message.startswith("step unbook of run run-1 failed after 1 attempt")
    assert "Left to undo, in this order: unbook (undoes book), unbook (undoes book)." in run.ending.reason
    assert [] == [each for each in events(run, StepScheduled) if each.step == "tidy"]


def test_a_compensation_that_worked_before_one_that_did_not_is_an_ordinary_result() -> None:
    """Whoever goes on with the run finds it, and does not undo twice."""
    run = give_up(stubborn(), at="b")
    scheduled = {each.key: each for each in events(run, StepScheduled) if each.undoes is not None}

    completed = [each.key for each in events(run, StepCompleted) if each.key in scheduled]

    assert ["0:3"] == [scheduled[key].undoes for key in completed]


@es.workflow
async def deeply_stubborn() -> None:
    async with es.saga() as outer:
        await outer.do(book("outer"), undo=unbook)
        async with es.saga() as inner:
            await inner.do(book("inner"), undo=unbook)
            await fail("now")


def test_what_is_left_counts_the_sagas_around_too() -> None:
    run = give_up(deeply_stubborn(), at="inner")

    assert isinstance(run.ending, RunDied)
    assert ["ticket inner"] == undone(run)
    assert ["0:2", "0:1"] == [record.key for record in run.ending.undo_left]


@pytest.mark.parametrize("outcome", ["unknown", "unencodable", "not a call"])
def test_every_way_in_which_an_undo_cannot_be_had_ends_the_same(outcome: str) -> None:
    match outcome:
        case "unknown":
            run = Run(once_undone())
            run.begin()
            run.feed(run.done("book"))
            run.feed(run.done("fail"))
            run.feed(StepOutcomeUnknown(run.key_of("pay")))
            run.check_replays()
        case "unencodable":
            run = drive(badly_undone("unencodable"))
        case _:
            run = drive(badly_undone("not a call"))

    assert isinstance(run.ending, RunDied)
    assert ["book"] == [record.step for record in run.ending.undo_left]


@es.workflow
async def once_undone() -> None:
    async with es.saga() as saga:
        await saga.do(book("a"), undo=pay("back"))
        await fail("now")


@es.workflow
async def badly_undone(how: str) -> None:
    def undo(ticket: str) -> Any:
        return unbook(object()) if how == "unencodable" else tidy.function(ticket)  # type: ignore[arg-type]

    async with es.saga() as saga:
        await saga.do(book("a"), undo=undo)
        await fail("now")


def test_an_undo_that_cannot_be_stored_is_refused_before_its_step_is_executed() -> None:
    @es.workflow
    async def mistaken() -> None:
        async with es.saga() as saga:
            await saga.do(book("a"), undo=unbook(object()))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    run = drive(mistaken())

    assert isinstance(run.ending, RunFailed)
    assert "everstep.errors.Unencodable" == run.ending.error.type
    assert [] == events(run, StepScheduled)


def test_an_undo_is_fixed_when_it_is_registered() -> None:
    @es.step
    def release(items: list[str]) -> None:
        pass

    @es.workflow
    async def growing() -> None:
        items = ["first"]
        async with es.saga() as saga:
            saga.undo(release(items))
            await saga.do(book("a"), undo=lambda _: release(items))
            items[0] = "second"
            await fail("now")

    run = drive(growing())

    assert ["first", "first"] == undone(run)


def test_a_function_that_makes_no_undo_is_told_where_the_step_was_done() -> None:
    """The step has happened: were the mistake found only when undoing, it would be found too late."""

    @es.workflow
    async def mistaken() -> str:
        async with es.saga() as saga:
            try:
                await saga.do(book("a"), undo=lambda ticket: 1 / 0)  # type: ignore[arg-type,return-value]
            except ZeroDivisionError:
                return "told"
        return "not told"

    assert "told" == drive(mistaken()).result


# --- going on -----------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stuck_goes_on_undoing_where_it_stopped() -> None:
    run = give_up(stubborn(), at="b")
    run.retry(goes_on=True)
    run.finish().check_replays()

    assert "success" == run.result, "undone in the end: now its error is handled like any other"
    assert [f"ticket {name}" for name in ("c", "b", "b", "a")] == undone(run)


def test_what_a_person_undid_by_hand_is_not_undone_again() -> None:
    run = give_up(stubborn(), at="b")
    [stuck] = [event.key for event in run.entries[-1].decoded() if isinstance(event, StepFailed)]
    run.retry(StepOverridden(stuck, NO_PAYLOAD, skipped=True), goes_on=True)
    run.finish().check_replays()

    assert "success" == run.result
    assert ["ticket c", "ticket b", "ticket a"] == undone(run)


@es.workflow
async def unsure() -> None:
    async with es.saga() as saga:
        await saga.do(book("a"), undo=unbook)
        await saga.do(pay("x"), undo=unbook)


@pytest.mark.parametrize(
    ("decision", "then"),
    [
        (StepOverridden("0:2", Raw(b'"found it"')), ["found it", "ticket a"]),
        (StepOverridden("0:2", NO_PAYLOAD, skipped=True), ["ticket a"]),
    ],
)
def test_a_person_who_finds_out_what_a_step_came_to_lets_it_be_undone(decision: StepOverridden, then: list[str]) -> None:
    run = Run(unsure())
    run.begin()
    run.feed(run.done("book"))
    run.feed(StepOutcomeUnknown("0:2"))
    assert isinstance(run.ending, RunDied)
    run.retry(decision, goes_on=True)
    run.finish().check_replays()

    assert isinstance(run.ending, RunFailed)
    assert then == undone(run)


def test_a_cause_that_was_not_removed_ends_it_dead_again() -> None:
    run = Run(unsure())
    run.begin()
    run.feed(run.done("book"))
    run.feed(StepOutcomeUnknown("0:2"))
    run.retry(goes_on=True)
    run.feed()
    run.check_replays()

    assert isinstance(run.ending, RunDied)
    assert 2 == len(run.ending.undo_left)


def test_code_is_not_continued_as_new_inside_a_saga() -> None:
    """What it had to undo would be lost."""

    @es.workflow
    async def again() -> str:
        async with es.saga():
            try:
                es.continue_as_new(again())
            except es.UsageError as error:
                return str(error)

    assert "a saga is open" in drive(again()).result


# --- what it looks like --------------------------------------------------------------------------------------------


def snapshots(run: Run) -> list[es.Snapshot]:
    record = record_of(run.entries, version=0)
    return [fold(run.entries, record, version) for version in range(1, len(run.entries) + 1)]


def test_a_snapshot_tells_what_is_undone_and_what_is_left() -> None:
    run = Run(bookings(3, 3))
    run.begin()
    for _ in range(3):
        run.feed(*run.next_inputs())
    run.claim_after_death()
    run.finish()

    told = [(each.status, len(each.undone), len(each.undo_left), each.current_step.name) for each in snapshots(run)]

    undoing = Status.COMPENSATING
    assert [(Status.RUNNING, 0, 0, "book")] * 2 == told[:2]
    assert (Status.RUNNING, 0, 0, "fail") == told[2]
    assert [(undoing, 0, 2, "unbook"), (undoing, 0, 2, "unbook"), (undoing, 1, 1, "unbook"), (Status.FAILED, 2, 0, "")] == told[
        3:
    ]


def test_a_snapshot_of_a_dead_run_tells_what_a_person_has_to_see_to() -> None:
    run = give_up(stubborn(), at="b")

    last = snapshots(run)[-1]

    assert Status.DEAD is last.status
    assert [UndoRecord("unbook", "book", "0:3")] == list(last.undone)
    assert [UndoRecord("unbook", "book", "0:2"), UndoRecord("unbook", "book", "0:1")] == list(last.undo_left)
