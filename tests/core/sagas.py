"""Steps, workflows and questions that the tests of sagas share."""

from __future__ import annotations

from typing import Any

import everstep as es
from everstep.codec import describe_error
from everstep.events import (
    ChildStarted,
    StepFailed,
    StepScheduled,
)
from tests.core.driver import Run


@es.step
def book(name: str) -> str:
    return f"ticket {name}"


@es.step(at_most_once=True)
def pay(name: str) -> str:
    return f"receipt {name}"


@es.step
def unbook(ticket: str) -> None:
    pass


@es.step
def fail(why: str) -> None:
    raise ValueError(why)


@es.step
def tidy(what: str) -> str:
    return what


@es.workflow
async def book_by_child(name: str) -> str:
    return await book(name)


@es.workflow
async def unbook_by_child(ticket: str) -> None:
    await unbook(ticket)


@es.workflow
async def bookings(count: int, fail_at: int) -> list[str]:
    made: list[str] = []
    async with es.saga() as saga:
        for number in range(1, count + 1):
            if number == fail_at:
                await fail(f"at {number}")
            made.append(await saga.do(book(f"{number}"), undo=unbook))
    return made


def undone(run: Run) -> list[str]:
    """What the compensations of a run were given, in the order in which they were asked for."""
    scheduled = [each for entry in run.entries for each in entry.decoded() if isinstance(each, StepScheduled | ChildStarted)]
    return [bytes(each.args).decode().split('"')[3] for each in scheduled if each.undoes is not None]


def events(run: Run, *kinds: type[Any]) -> list[Any]:
    return [event for entry in run.entries for event in entry.decoded() if isinstance(event, kinds)]


def failed(key: str, *, maybe: bool = False, timed_out: bool = False) -> StepFailed:
    return StepFailed(key, describe_error(ValueError("no"), traceback=False), timed_out=timed_out, maybe=maybe)
