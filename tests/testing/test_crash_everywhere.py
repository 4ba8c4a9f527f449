"""
crash_everywhere: good workflows pass it, and planted bugs do not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

import everstep as es
from everstep.errors import UsageError
from everstep.events import RunClaimed, RunResumed, StepCompleted, encode_event
from everstep.testing import Effects, crash_everywhere, crash_simulated
from everstep.testing.crash_life import RUN_ID, Execution, difference
from everstep.testing.crash_points import parse_plan, plan_text
from tests.testing import program

charged: Counter[str] = Counter()
seen: list[int] = []


@es.step
async def charge(cents: int) -> int:
    """Idempotent: the receiver knows the key."""
    charged[es.current().idempotency_key] = cents
    return cents


@es.step
def charge_again(cents: int) -> int:
    """Not idempotent, and in a thread."""
    charged["all"] += cents
    return cents


@es.step
async def refuse() -> None:
    raise ValueError("no money")


@es.workflow
async def child(cents: int) -> int:
    await asyncio.sleep(60)
    return await charge(cents)


@es.workflow
async def order(cents: int) -> int:
    first = await charge(cents)
    await asyncio.sleep(86_400)
    second, third = await asyncio.gather(charge(2), child(3))
    return first + second + third


@es.workflow
async def steady() -> int:
    return sum([await charge(cents) for cents in range(3)])


@es.workflow
async def refused() -> int:
    first = await charge(1)
    await refuse()
    return first


@es.workflow
async def careless(cents: int) -> int:
    return await charge_again(cents)


@es.workflow
async def forgetful() -> int:
    """Its memory is a global: replaying adds to it once more."""
    seen.append(await charge(1))
    await charge(2)
    return len(seen)


def check_charges(effects: Effects) -> None:
    assert {"charge": 3} == dict(effects.completed)
    assert [1, 2, 3] == sorted(charged.values())
    assert 6 == effects.result


def test_an_order_survives_every_crash() -> None:
    """Steps, a timer, branches and a child; the effects are the same each time."""
    report = crash_everywhere(order(1), workflows=[child], check=check_charges, prepare=charged.clear)

    assert report.points >= 8
    assert report.points < report.kills <= 2 * report.points


async def test_it_works_inside_a_loop() -> None:
    assert crash_everywhere(order(1), workflows=[child]).kills


def test_the_same_error_is_as_good_as_the_same_result() -> None:
    errors: set[str] = set()

    assert crash_everywhere(refused(), check=lambda effects: errors.add(effects.error)).kills
    assert 1 == len(errors)
    assert "no money" in errors.pop()


def test_a_step_that_is_not_idempotent_is_found_by_a_check() -> None:
    def check(_: Effects) -> None:
        assert {"all": 5} == charged, "charged once"

    with pytest.raises(AssertionError, match=r"careless, killed before durable point 2 of 2 .*StepCompleted") as failure:
        crash_everywhere(careless(5), check=check, prepare=charged.clear)

    assert isinstance(failure.value.__cause__, AssertionError)


def test_state_in_a_global_is_found() -> None:
    with pytest.raises(AssertionError, match=r"(?s)forgetful, killed .* durable point .*uninterrupted: .* 1\n.*resumed: .* 2"):
        crash_everywhere(forgetful(), prepare=seen.clear)


def test_a_child_that_is_awaited_by_name_need_not_be_listed() -> None:
    """As in production: an engine that starts anew knows what a parked run may have begun."""
    assert crash_everywhere(order(1)).kills > 0


def test_only_calls_of_workflows_are_taken() -> None:
    with pytest.raises(UsageError, match="Call a workflow"):
        crash_everywhere(charge(1))


# Effects that are compared.


def keys(_: Path) -> dict[str, int]:
    return dict(charged)


def test_effects_are_those_of_the_uninterrupted_run() -> None:
    assert crash_everywhere(order(1), workflows=[child], effects=keys, prepare=charged.clear).kills

    with pytest.raises(AssertionError, match=r"(?s)careless.*effects that it leaves.*\{'all': 5\}\n  resumed: .*\{'all': 10\}"):
        crash_everywhere(careless(5), effects=keys, prepare=charged.clear)


def test_each_execution_has_a_folder_of_its_own() -> None:
    folders: list[Path] = []

    def make(folder: Path) -> es.Call[str]:
        assert [] == list(folder.iterdir())
        folders.append(folder)
        return program.order(str(folder))

    report = crash_everywhere(make, workflows=[program.part], effects=program.left, at_least_once=True)

    assert len(set(folders)) == len(folders) == report.kills + 1
    assert [] == [folder for folder in folders if folder.exists()]


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [
        (["a", "a", "b"], ["b", "a", "a"], ""),
        (["a", "b"], ["a", "b", "a", "a"], ""),
        (["a", "b"], ["a", "b", "a", "a", "a"], "'a': 1 times uninterrupted, 4 times resumed"),
        (["a", "b"], ["b"], "'a': 1 times uninterrupted, 0 times resumed"),
        (["a"], ["a", "c"], "'c': 0 times uninterrupted, 1 times resumed"),
        (Counter(a=2), Counter(a=4), ""),
        (Counter(a=2), Counter(a=1), "'a': 2 times"),
    ],
)
def test_at_least_once_is_once_more_for_each_kill(expected: object, found: object, told: str) -> None:
    """Nothing missing, nothing new, and no more often than kills explain: here there were two."""
    assert told in difference(expected, found, 2, at_least_once=True)
    assert bool(told) is bool(difference(expected, found, 2, at_least_once=True))


def test_without_it_effects_are_equal_or_not() -> None:
    assert "" == difference(["a"], ["a"], 2, at_least_once=False)
    assert "resumed:       ['a', 'a']" in difference(["a"], ["a", "a"], 2, at_least_once=False)


# The world outside.


async def say_three_things(handle: es.Handle[list[str]]) -> None:
    for number in range(3):
        await asyncio.sleep(1800)
        await handle.send(program.approval, f"yes {number}")
    assert ["yes 0", "yes 1", "yes 2"] == await handle


def test_a_conversation_is_killed_everywhere() -> None:
    """Also before and after each message. Nothing said is lost, and nothing is heard twice."""
    heard: list[object] = []

    report = crash_everywhere(
        lambda folder: program.conversation(str(folder)),
        drive=say_three_things,
        effects=program.left_once,
        check=lambda effects: heard.append(effects.result),
    )

    assert report.points >= 10
    assert [["yes 0", "yes 1", "yes 2"]] * (report.kills + 1) == heard


async def ask_twice(handle: es.Handle[str]) -> None:
    """The second time with the key of the first: there is one answer."""
    answers = [await handle.ask(program.quote, cents, key=key) for cents, key in ((5, "a"), (7, "b"), (9, "a"))]
    assert ["5 cents", "7 cents", "5 cents"] == answers
    await handle.send(program.close, "enough")


def test_requests_are_answered_once_wherever_the_run_is_killed() -> None:
    report = crash_everywhere(
        lambda folder: program.office(str(folder)), drive=ask_twice, effects=program.left_once, depth=2, samples=20
    )

    assert report.points >= 8
    assert report.kills >= 40


def test_a_cancel_from_outside_ends_it_each_time() -> None:
    async def cancel(handle: es.Handle[str]) -> None:
        await asyncio.sleep(60)
        await handle.cancel("enough")

    errors: set[str] = set()
    report = crash_everywhere(program.never(""), drive=cancel, check=lambda effects: errors.add(effects.error))

    assert report.kills >= 4
    assert {"enough"} == errors


def test_what_goes_wrong_outside_is_told() -> None:
    async def fail(handle: es.Handle[str]) -> None:
        raise ValueError("nobody there")

    with pytest.raises(AssertionError, match="never, uninterrupted: nobody there"):
        crash_everywhere(program.never(""), drive=fail)


def test_somebody_outside_who_never_ends_is_told() -> None:
    async def wait(handle: es.Handle[int]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="careless, uninterrupted: nothing happens any more"):
        crash_everywhere(careless(1), drive=wait)


# Crashes of recoveries.


def test_the_recovery_is_killed_too() -> None:
    once = crash_everywhere(order(1), workflows=[child], check=check_charges, prepare=charged.clear)
    twice = crash_everywhere(order(1), workflows=[child], check=check_charges, prepare=charged.clear, depth=2, samples=15)

    assert 15 + 2 * 15 == twice.kills > once.kills


def test_a_sample_follows_from_the_seed() -> None:
    def points(seed: int) -> list[str]:
        seen: list[str] = []
        crash_everywhere(
            order(1), workflows=[child], check=lambda effects: seen.append(effects.point), depth=3, samples=5, seed=seed
        )
        return seen

    assert points(1) == points(1) != points(2)
    assert 1 + 3 * 5 == len(points(1))
    assert 2 == points(1)[-1].count(", then ")


def test_five_crashes_in_a_row_cost_one_claim_each_and_nothing_else() -> None:
    """A7: what the journal says that the code asked for and got is the same; only claims are added, and attempts counted."""
    journals: dict[int, set[tuple[str, ...]]] = {}
    execute = crash_simulated.execute

    async def watched(subject: Any, plan: Any) -> Execution:
        execution = await execute(subject, plan)
        events = [event for entry in execution.journals[RUN_ID] for event in entry.decoded()]
        assert execution.kills >= sum(isinstance(event, RunResumed) for event in events)
        assert execution.kills >= sum(event.attempt - 1 for event in events if isinstance(event, StepCompleted))
        others = [event for event in events if not isinstance(event, RunResumed | RunClaimed)]
        plain = [changed(event, attempt=1) if isinstance(event, StepCompleted) else event for event in others]
        journals.setdefault(execution.kills, set()).add(tuple(encode_event(event).decode() for event in plain))
        return execution

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash_simulated, "execute", watched)
        crash_everywhere(lambda folder: steady(), depth=5, samples=30, seed=3)

    assert {0, 1, 2, 3, 4, 5} == set(journals)
    assert 1 == len(set[tuple[str, ...]]().union(*journals.values()))


# Trying one again.


@pytest.mark.parametrize("text", ["before 5", "before 5, after 2", "after 1,before 3"])
def test_a_plan_is_read_as_it_is_written(text: str) -> None:
    plan = parse_plan(text)

    assert plan == parse_plan(plan_text(plan))
    assert len(plan) == text.count(",") + 1


@pytest.mark.parametrize("text", ["", "5", "before", "before 0", "before -1", "between 3", "before 5;after 2", "before 5,"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Copy it from a failure"):
        parse_plan(text)


def test_only_one_kill_is_tried() -> None:
    seen: list[str] = []
    report = crash_everywhere(careless(1), check=lambda effects: seen.append(effects.point), only="before 2, after 1")

    assert 2 == report.kills
    assert ["", "killed before durable point 2, then after durable point 1"] == seen


@pytest.mark.parametrize("options", [{"kill": "gently"}, {"depth": 0}, {"samples": 0}, {"only": "there"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Nothing was run"):
        crash_everywhere(careless(1), **options)


def test_a_function_that_makes_no_call_is_refused() -> None:
    with pytest.raises(UsageError, match="Call a workflow"):
        crash_everywhere(lambda folder: charge(1))
