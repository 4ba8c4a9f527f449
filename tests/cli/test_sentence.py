"""What is it doing? One sentence for each thing that a run can be at, from events alone."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
import pytest

from everstep.cli.proof import Evidence, failures, repeated
from everstep.cli.sentence import Circumstances, doing
from everstep.cli.story import How, Story, tell
from everstep.cli.words import clock
from everstep.core.progress import OpenStep
from everstep.core.snapshots import instant
from everstep.events import (
    NO_PAYLOAD,
    CancelRequested,
    ChildFailed,
    ChildStarted,
    DeadlinePassed,
    Event,
    RunCancelled,
    RunClaimed,
    RunCreated,
    RunDied,
    RunFailed,
    RunPaused,
    RunResumed,
    RunSucceeded,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from everstep.records import ErrorRecord, Micros, Status

SECOND: Micros = 1_000_000
T0: Micros = 1_900_000_000 * SECOND
ARGS = msgspec.Raw(b"{}")
CREATED = RunCreated(run_id="r", workflow="checkout", code_version="v", args=ARGS, salt="", python="3.11")
CLAIMED = RunClaimed("worker-1")
ERROR = ErrorRecord("builtins.ValueError", "no funds\nand more")


def scheduled(key: str, name: str) -> StepScheduled:
    return StepScheduled(key, name, ARGS, "d", "app.py:7")


def child(key: str) -> ChildStarted:
    return ChildStarted(key, f"r/{key}", "shipping", ARGS, "d")


def timer(key: str, seconds: int) -> TimerStarted:
    return TimerStarted(key, seconds * SECOND, T0 + seconds * SECOND)


def story(*events: Event, apart: Micros = 0) -> Story:
    """The events in this order, ``apart`` microseconds from one another."""
    return tell([(T0 + number * apart, event) for number, event in enumerate(events)])


def said(
    status: Status,
    *events: Event,
    after: float = 0,
    wake_at: Micros | None = None,
    owner: str = "",
    workers: int | None = 1,
    open_steps: Sequence[OpenStep] = (),
    pinned: str = "",
) -> str:
    facts = Circumstances(
        run_id="r",
        workflow="checkout",
        status=status,
        now=T0 + round(after * SECOND),
        wake_at=wake_at,
        owner=owner,
        workers=workers,
        pinned=pinned,
        open_steps={step.key: step for step in open_steps},
    )
    return doing(story(CREATED, *events), facts)


def test_a_queued_run_says_what_it_waits_for() -> None:
    """The first question of whoever forgot to start a worker."""
    assert "Not begun: waiting for a worker that knows checkout and has room." == said(Status.QUEUED)
    assert "everstep worker" in said(Status.QUEUED, workers=0)


def test_a_pinned_run_says_which_version_it_waits_for() -> None:
    """Why nothing drives it: workers there may be, with other versions."""
    expected = "Due at once: waiting for a worker that knows version 2 of checkout and has room."
    assert expected == said(Status.WAITING, CLAIMED, wake_at=0, pinned="2")
    assert "knows version 2 of checkout: everstep worker" in said(Status.QUEUED, workers=0, pinned="2")
    assert said(Status.QUEUED, wake_at=T0 + 60 * SECOND).startswith("Not begun: it starts in 1m 00s, at ")


def test_a_running_step_is_named_with_its_worker() -> None:
    """And how long ago it was asked for: that is how one notices that it hangs."""
    sentence = said(Status.RUNNING, CLAIMED, scheduled("0:1", "charge"), after=3.2, owner="worker-1")

    assert "Step charge is running on worker-1, asked for 3.20s ago." == sentence


def test_many_running_steps_are_counted() -> None:
    """A fan-out of a thousand must stay one sentence."""
    steps = [scheduled(f"0:{number}", "load") for number in range(1000)]

    assert "Steps load (×1000), report are running, asked for 0 ms ago." == said(
        Status.RUNNING, CLAIMED, *steps, scheduled("0:1001", "report")
    )


def test_more_names_than_fit_are_counted_as_well() -> None:
    """Five at most."""
    steps = [scheduled(f"0:{number}", f"s{number}") for number in range(9)]

    assert "Steps s0, s1, s2, s3 and 5 more are running" in said(Status.RUNNING, CLAIMED, *steps)


def test_a_parked_step_is_between_attempts() -> None:
    """Nothing else parks a run that has a step open."""
    sentence = said(Status.WAITING, CLAIMED, scheduled("0:1", "charge"), wake_at=T0 + 12 * SECOND)

    assert "Step charge is between attempts: the next one in 12s." == sentence


def failed_before(key: str, name: str, due_at: datetime | None, attempt: int = 4) -> OpenStep:
    error = ErrorRecord("httpx.HTTPError", "503.\nService unavailable")
    return OpenStep(key, name, instant(T0), attempt=attempt, failures=3, failures_max=5, due_at=due_at, error=error)


def test_a_step_between_attempts_says_which_is_next_when_and_why() -> None:
    """The row says so, whether the run is parked or not."""
    due_at = T0 + 12 * SECOND
    row = failed_before("0:1", "charge", instant(due_at))
    sentence = said(Status.RUNNING, CLAIMED, scheduled("0:1", "charge"), owner="worker-1", open_steps=[row])

    assert f"Attempt 4 of 5 of charge at {clock(due_at, T0)}: httpx.HTTPError: 503." == sentence


def test_a_step_that_runs_again_says_why() -> None:
    """An attempt that was lost with its worker is no failure: there may be more attempts than failures are allowed."""
    fourth, sixth = failed_before("0:1", "charge", None), failed_before("0:1", "charge", None, attempt=6)
    sentences = [
        said(Status.RUNNING, CLAIMED, scheduled("0:1", "charge"), owner="w", after=2, open_steps=[row])
        for row in (fourth, sixth)
    ]

    assert [
        "Step charge is running on w, asked for 2.00s ago, attempt 4 of 5 after httpx.HTTPError: 503.",
        "Step charge is running on w, asked for 2.00s ago, attempt 6 after httpx.HTTPError: 503.",
    ] == sentences


def test_a_timer_says_what_is_left_of_it() -> None:
    """And until when, in the reader's time."""
    sentence = said(Status.WAITING, CLAIMED, timer("0:1", 13_860), wake_at=T0 + 13_860 * SECOND)

    assert sentence.startswith("Waiting for a timer: 3h 51m left, until ")


def test_of_many_timers_the_first_counts() -> None:
    """It is the one that wakes the run."""
    sentence = said(Status.WAITING, CLAIMED, timer("0:1", 60), timer("0:2", 30), wake_at=T0 + 30 * SECOND)

    assert sentence.startswith("Waiting for a timer (the first of 2): 30s left")


def test_a_timer_that_fired_or_was_cancelled_is_not_waited_for() -> None:
    """Only what is open is told."""
    events: list[Event] = [
        CLAIMED,
        timer("0:1", 1),
        TimerFired("0:1"),
        timer("0:2", 9),
        TimerCancelled("0:2"),
        scheduled("0:3", "ship"),
    ]

    assert said(Status.RUNNING, *events).startswith("Step ship is running")


def test_a_child_is_named_with_the_way_to_look_at_it() -> None:
    """It is where the answer lies."""
    assert "Waiting for its child r/0:1 (shipping). To see it: everstep show r/0:1" == said(
        Status.WAITING, CLAIMED, child("0:1")
    )
    assert "Waiting for 2 children: r/0:1, r/0:2, or a timer: 30s left" in said(
        Status.WAITING, CLAIMED, child("0:1"), child("0:2"), timer("0:3", 30)
    )


def test_a_run_that_is_due_and_not_taken_says_so() -> None:
    """Its worker is gone, or does not know the workflow."""
    sentence = said(Status.WAITING, CLAIMED, timer("0:1", 30), after=35, wake_at=T0 + 30 * SECOND, workers=0)

    assert sentence.startswith("Due for 5.00s: no worker is alive on this store.")


def test_a_run_that_was_asked_to_stop_says_who_and_why() -> None:
    """It may clean up for long."""
    sentence = said(Status.RUNNING, CLAIMED, CancelRequested("too late", "ann"), scheduled("0:1", "refund"))

    assert sentence.startswith("Was asked to stop by ann (too late) and cleans up. Step refund is running")
    assert said(Status.RUNNING, CLAIMED, DeadlinePassed()).startswith("Outlived its time limit and cleans up.")


def test_a_failure_names_the_step_its_line_its_attempts_and_its_reason() -> None:
    """That the step failed is known; what it raised is the news."""
    wrapped = ErrorRecord("everstep.errors.StepFailed", "step charge of run r failed after 3 attempts")
    events: list[Event] = [CLAIMED, scheduled("0:1", "charge"), StepFailed("0:1", ERROR, 3), RunFailed(wrapped)]

    assert "Failed at charge (app.py:7) after 3 attempts: ValueError: no funds. Fix the cause" in said(Status.FAILED, *events)


def test_a_failure_of_the_workflow_itself_blames_no_step() -> None:
    """A step that failed earlier and was handled is not the cause."""
    events: list[Event] = [
        CLAIMED,
        scheduled("0:1", "charge"),
        StepFailed("0:1", ErrorRecord("X", "handled")),
        RunFailed(ERROR),
    ]

    assert said(Status.FAILED, *events).startswith("Failed: ValueError: no funds. Fix")


@pytest.mark.parametrize(
    ("status", "event", "expected"),
    [
        (Status.PAUSED, RunPaused("other code.\nrecorded: …"), "Paused: other code."),
        (Status.PAUSED, RunPaused("lunch", actor="bob"), "Paused by bob: lunch. To let it go on: everstep resume r"),
        (Status.DEAD, RunDied("3 workers died. Retry it."), "Given up: 3 workers died. Retry it."),
        (Status.CANCELLED, RunCancelled("too late"), "Cancelled: too late. Nothing more will happen."),
        (Status.CANCELLED, RunCancelled(), "Cancelled. Nothing more will happen."),
        (Status.SUCCEEDED, RunSucceeded(NO_PAYLOAD), "Succeeded in 0 ms with 0 steps."),
    ],
)
def test_a_run_that_will_not_go_on_says_why(status: Status, event: Event, expected: str) -> None:
    """In its first line."""
    assert expected == said(status, CLAIMED, event)


def test_a_takeover_forgets_why_the_run_had_stopped() -> None:
    """A paused run that other code went on with is not paused."""
    told = story(CREATED, CLAIMED, RunPaused("other code"), RunResumed("worker-2", "worker-1"))

    assert told.error is None
    assert ["worker-1"] == [takeover.previous for takeover in told.recoveries()]


def test_a_late_outcome_does_not_reopen_what_was_cancelled() -> None:
    """The code no longer waits for it."""
    told = story(CREATED, CLAIMED, scheduled("0:1", "a"), StepCancelled("0:1"), StepCompleted("0:1", NO_PAYLOAD), apart=SECOND)

    [operation] = told.operations
    assert (How.CANCELLED, T0 + 3 * SECOND) == (operation.how, operation.ended_at)


def test_what_became_of_each_operation_is_known() -> None:
    """One of each."""
    told = story(
        scheduled("0:1", "a"),
        StepOutcomeUnknown("0:1"),
        child("0:2"),
        ChildFailed("0:2", "dead", ERROR),
        scheduled("0:3", "b"),
        StepCompleted("0:3", NO_PAYLOAD, 2),
        scheduled("0:4", "c"),
    )

    assert [How.UNKNOWN, How.FAILED, How.DONE, How.OPEN] == [operation.how for operation in told.operations]
    assert [1, 1, 2, 1] == [operation.attempt for operation in told.operations]


# --- the proof of the demo -------------------------------------------------------------------------------------------------

STEPS = ("reserve", "charge", "ship")


def journal(*, resumed: bool = True, twice: bool = False) -> Story:
    """Of a checkout that was killed after charge."""
    before: list[Event] = [CREATED, CLAIMED]
    for number, name in enumerate(STEPS[:2]):
        before += [scheduled(f"0:{number}", name), StepCompleted(f"0:{number}", NO_PAYLOAD)]
    after: list[Event] = [RunResumed("worker-2", "worker-1")] if resumed else []
    after += [scheduled("0:9", "charge"), StepCompleted("0:9", NO_PAYLOAD)] if twice else []
    return story(
        *before, *after, scheduled("0:5", "ship"), StepCompleted("0:5", NO_PAYLOAD), RunSucceeded(NO_PAYLOAD), apart=SECOND
    )


def evidence(told: Story, effects: Sequence[str] = ("reserve o", "charge o", "ship o"), **changed: object) -> Evidence:
    good = Evidence(
        status=Status.SUCCEEDED,
        story=told,
        effects=effects,
        killed_pid=1,
        killed_is_gone=True,
        resumed_pid=2,
        exit_code=0,
        committed_before=("reserve", "charge"),
    )
    return msgspec.structs.replace(good, **changed)


def wrong(found: Evidence) -> list[str]:
    return failures(found, steps=STEPS, order="o", killed_after="charge")


def test_a_good_run_proves_the_claim() -> None:
    """Otherwise the tests below prove nothing."""
    assert [] == wrong(evidence(journal()))
    assert 0 == repeated(evidence(journal()))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (evidence(journal(), ("reserve o", "charge o", "charge o", "ship o")), "side effects"),
        (evidence(journal(), ("reserve o", "charge o")), "side effects"),
        (evidence(journal(twice=True)), "steps in the journal"),
        (evidence(journal(resumed=False)), "workers"),
        (evidence(journal(), killed_is_gone=False), "not killed"),
        (evidence(journal(), exit_code=1), "exit code 1"),
        (evidence(journal(), status=Status.FAILED), "ended failed"),
        (evidence(journal(), committed_before=("reserve", "charge", "ship")), "before the kill"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_contradicts_the_claim_is_found(found: Evidence, said: str) -> None:
    """A demo that cannot fail proves nothing."""
    assert any(said in line for line in wrong(found))
