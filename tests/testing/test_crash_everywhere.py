"""
crash_everywhere: good workflows pass it, and planted bugs do not.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import everstep as es
from everstep.errors import UsageError
from everstep.testing import Effects, crash_everywhere

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
