"""Requests, without an engine: what a program does with those that it is given, in whatever order they come."""

from __future__ import annotations

from msgspec import Raw

import everstep as es
from everstep.events import RequestAnswered, RequestReceived, RequestRefused
from tests.core.driver import Run

number = es.request("number", int, int)


@es.workflow
async def doubler() -> None:
    async def double(n: int) -> int:
        return 2 * n

    def check(n: int) -> None:
        if n > 9:
            raise ValueError("too large")

    number.handle(double, validate=check)
    await es.sleep(60)
    number.handle(triple, validate=check)
    await es.sleep(60)


async def triple(n: int) -> int:
    return 3 * n


def asked(n: int, *, judged: bool = False) -> RequestReceived:
    return RequestReceived("number", Raw(f"{n}".encode()), f"k{n}", judged)


def answers(run: Run) -> dict[str, int | str]:
    """What every request came to."""
    told: dict[str, int | str] = {}
    for entry in run.entries:
        for event in entry.decoded():
            if isinstance(event, RequestAnswered):
                told[event.id] = int(bytes(event.result))
            elif isinstance(event, RequestRefused):
                told[event.id] = event.reason
    return told


def test_what_was_judged_before_is_not_judged_again_when_its_handler_is_set() -> None:
    """It was accepted once, and that stays: a segment that begins anew is given it without its past."""
    run = Run(doubler())
    run.begin(asked(1), asked(11), asked(12, judged=True))

    assert {"k1": 2, "k11": "too large", "k12": 24} == answers(run)
    run.finish().check_replays()


def test_a_second_handler_takes_the_place_of_the_first() -> None:
    run = Run(doubler())
    run.begin()
    run.feed(asked(1, judged=True))
    run.feed(run.fired())
    run.feed(asked(2, judged=True))

    assert {"k1": 2, "k2": 6} == answers(run)
    run.finish().check_replays()


def test_a_program_judges_what_wants_to_become_its_input() -> None:
    """Without having begun it has no opinion."""
    run = Run(doubler())
    desk = run.execution.program.requests
    assert asked(11) == desk.judge(asked(11))
    run.begin()

    desk = run.execution.program.requests
    assert asked(1, judged=True) == desk.judge(asked(1))
    assert RequestRefused("", "number", "k11", "too large") == desk.judge(asked(11))
    assert not desk.was_disturbed
    assert [] == desk.unanswered()
    run.finish().check_replays()
