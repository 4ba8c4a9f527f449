"""Calls are values: typed, not started, used once; and every way of forgetting ``await`` is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

import everstep as es
from everstep.ambient import step_scope
from everstep.errors import CallAlreadyUsed, UsageError
from everstep.events import RunFailed
from tests.core.driver import Run, drive
from tests.core.steps import add, charge, child, decline, note, pick, ship


async def test_awaited_outside_it_simply_calls_the_function() -> None:
    assert "receipt 42 1999" == await charge("42", 1999)
    assert "a" == await pick(["a", "b"])
    assert "shipped 42" == await child("42")


async def test_outside_an_error_is_the_functions_own() -> None:
    with pytest.raises(ValueError, match="no"):
        await decline("no")


def test_the_function_itself_stays_callable() -> None:
    assert 3 == add.function(1, 2)


async def test_gather_create_task_wait_for_and_a_task_group_take_calls() -> None:
    async with asyncio.TaskGroup() as group:
        member = group.create_task(note("c"))

    assert ["a", "b"] == list(await asyncio.gather(note("a"), note("b")))
    assert "c" == member.result()
    assert "d" == await asyncio.create_task(note("d"))
    assert "e" == await asyncio.wait_for(note("e"), 5)
    assert "f" == await asyncio.shield(note("f"))
    assert ["g"] == [await each for each in asyncio.as_completed([note("g")])]


async def test_a_second_await_is_refused() -> None:
    call = note("a")
    await call

    with pytest.raises(CallAlreadyUsed, match=r"note\('a'\) was already awaited or started\. It was not run a second time"):
        await call


def test_a_second_await_in_a_workflow_is_refused() -> None:
    @es.workflow
    async def twice() -> str:
        call = note("a")
        await call
        return await call

    run = Run(twice()).finish().check_replays()

    assert isinstance(run.ending, RunFailed)
    assert "everstep.errors.CallAlreadyUsed" == run.ending.error.type


def test_one_that_was_started_is_used() -> None:
    call = child("42")
    Run(call)

    with pytest.raises(CallAlreadyUsed):
        Run(call)


def drop(call: es.Call[str]) -> None:
    """Let the last reference go."""


def test_one_that_is_dropped_warns_once() -> None:
    with pytest.warns(RuntimeWarning, match=r"call note\('a'\) was never awaited or started") as warned:
        drop(note("a"))

    assert 1 == len(warned)


def test_one_that_is_closed_does_not_warn() -> None:
    note("a").close()
    gc.collect()


async def test_one_whose_task_was_cancelled_before_it_began_does_not_warn() -> None:
    task = asyncio.create_task(note("a"))
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    gc.collect()


MISTAKES: list[tuple[Callable[[Any], object], str]] = [
    (bool, "tested for truth"),
    (lambda call: not call, "tested for truth"),
    (lambda call: call == "a", "compared"),
    (lambda call: call != "a", "compared"),
    (lambda call: call in ("a", "b"), "compared"),
    (list, "iterated over"),
    (lambda call: [*call], "iterated over"),
]


@pytest.mark.parametrize(("mistake", "used_as"), MISTAKES)
def test_using_the_call_for_its_result_asks_for_await(mistake: Callable[[Any], object], used_as: str) -> None:
    call = note("a")

    with pytest.raises(UsageError) as caught:
        mistake(call)
    call.close()

    assert f"note('a') was {used_as}, but it is a call that has not run. Did you forget await?" == str(caught.value)


def test_calls_may_be_kept_in_sets_and_dicts() -> None:
    first, second = note("a"), note("a")

    assert 2 == len({first, second, first})
    assert first in {first: 1}
    first.close()
    second.close()


def test_a_call_shows_itself_shortened() -> None:
    call = charge("42", cents=1999)
    long = note("x" * 1000)

    assert "charge('42', cents=1999)" == repr(call)
    assert 120 == len(repr(long))
    call.close()
    long.close()


def test_an_argument_whose_repr_raises_can_be_passed() -> None:
    """A message about the call must not fail for what is in it."""

    class Shy:
        def __repr__(self) -> str:
            raise ValueError("no")

    @es.step
    def take(value: Any) -> None: ...

    call = take(Shy())

    assert "take(<Shy>)" == repr(call)
    call.close()


async def test_a_step_awaited_in_a_steps_body_is_refused() -> None:
    """It would not be recorded."""

    @dataclass
    class Attempt:
        run_id: str = "run-1"
        step: str = "outer"
        key: str = "0:1"
        run_token: str = "token"
        is_wanted: bool = True
        attempt: int = 1
        maybe: bool = False
        epoch: int = 1
        deadline: datetime | None = None
        idempotency_key: str = "run-1/outer/0:1"
        last_details: bytes | None = None

        def beat(self, details: bytes | None) -> None: ...
        def seal_witness(self, data: bytes) -> bytes:
            return data

        def open_witness(self, data: bytes) -> bytes:
            return data

        def logged(self, value: Any) -> Any:
            return value

    token = step_scope.set(Attempt())
    try:
        with pytest.raises(UsageError, match=r"note\('a'\) was awaited inside the step outer of run run-1.*note\.function"):
            await note("a")
    finally:
        step_scope.reset(token)


def test_wrong_arguments_are_told_at_the_await_and_nothing_is_asked_for() -> None:
    @es.workflow
    async def wrong(how: str) -> None:
        match how:
            case "missing":
                await charge("42")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            case "surplus":
                await ship("42", "43")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            case "unknown":
                await ship(order="42")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            case _:
                await charge("42", "1999")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    for how, kind, words in (
        ("missing", "TypeError", "missing 1 required positional argument: 'cents'"),
        ("surplus", "TypeError", "takes 1 positional argument but 2 were given"),
        ("unknown", "TypeError", "unexpected keyword argument 'order'"),
        ("type", "everstep.errors.Unencodable", "cents: expected int, got str"),
    ):
        run = Run(wrong(how)).finish().check_replays()

        assert isinstance(run.ending, RunFailed)
        assert kind == run.ending.error.type
        assert words in run.ending.error.message
        assert 1 == len(run.entries)


def test_a_result_that_cannot_be_stored_fails_the_run_with_its_path() -> None:
    @es.workflow
    async def wrong() -> list[int]:
        return [1, "2"]  # type: ignore[list-item]  # pyright: ignore[reportReturnType]

    run = drive(wrong())

    assert isinstance(run.ending, RunFailed)
    assert "result[1]: expected int, got str" in run.ending.error.message


def test_a_call_made_in_one_place_may_be_awaited_in_another() -> None:
    @es.workflow
    async def passes() -> str:
        call = note("a")
        await asyncio.sleep(1)

        async def elsewhere() -> str:
            return await call

        return await asyncio.create_task(elsewhere())

    assert "a" == drive(passes()).result
