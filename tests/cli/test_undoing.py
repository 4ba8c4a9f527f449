"""What the command line tells of a run that undoes its steps, and of one that could not."""

from __future__ import annotations

from everstep.cli.picture import Picture, as_json, lines
from everstep.cli.sentence import Circumstances, doing
from everstep.cli.story import tell
from everstep.core.snapshots import fold
from everstep.records import Status
from tests.core.driver import Run
from tests.core.records import record_of
from tests.core.sagas import bookings, failed
from tests.core.test_sagas_stuck import give_up, stubborn


def picture(run: Run, status: Status) -> Picture:
    story = tell([(entry.at, event) for entry in run.entries for event in entry.decoded()])
    facts = Circumstances(run_id="run-1", workflow="bookings", status=status, now=run.now, owner="worker-1")
    return Picture(snapshot=fold(run.entries, record_of(run.entries, status)), story=story, facts=facts)


def half_undone() -> Run:
    run = Run(bookings(3, 3))
    run.begin()
    for _ in range(4):
        run.feed(*run.next_inputs())
    return run


def test_the_sentence_says_how_far_the_undoing_is() -> None:
    told = picture(half_undone(), Status.COMPENSATING)

    assert "Undoing its steps: 1 of 2 undone. Step unbook is running on worker-1" in doing(told.story, told.facts)


def test_the_picture_shows_what_is_undone_and_what_is_left() -> None:
    shown = lines(picture(half_undone(), Status.COMPENSATING))

    assert "↶ compensating" in shown[0]
    assert [False, True] == [line.rstrip().endswith("undone") for line in shown if line.startswith(" ✓ book")]
    assert 2 == len([line for line in shown if "↶ unbook  " in line])
    assert [" left to undo:", "   ↶ unbook (undoes book)"] == shown[shown.index(" left to undo:") :][:2]


def test_programs_get_the_same() -> None:
    told = as_json(picture(half_undone(), Status.COMPENSATING))

    assert [{"undo": "unbook", "step": "book", "key": "0:2"}] == told["undone"]
    assert [{"undo": "unbook", "step": "book", "key": "0:1"}] == told["undo_left"]
    assert [None, None, None, "0:2", "0:1"] == [each["undoes"] for each in told["operations"]]
    assert [False, True, False, False, False] == [each["is_undone"] for each in told["operations"]]


def test_a_run_that_could_not_undo_says_what_is_left_and_what_to_do() -> None:
    run = give_up(stubborn(), at="b")
    shown = "\n".join(lines(picture(run, Status.DEAD)))

    assert "Given up: a saga could not undo book: unbook failed for good." in shown
    assert " left to undo:\n   ↶ unbook (undoes book)\n   ↶ unbook (undoes book)\n" in shown
    assert "handle.skip_step('unbook')" in shown
    assert "caused by:" in shown
    assert "step unbook of run run-1 failed after 1 attempt" in shown


def test_an_undoing_that_failed_is_not_taken_for_one_that_worked() -> None:
    run = half_undone()
    run.feed(failed(run.key_of("unbook")))

    assert ["0:2"] == [each.key for each in picture(run, Status.DEAD).story.operations if each.is_undone]
