"""When a failed attempt is tried again: bounded, in order, never before its time, whatever the policy and the failure."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.errors import RetryAfter, UsageError
from everstep.retry import NO_RETRY, Retry, as_retry, next_delay

numbers = st.floats(0, 1e6)
policies = st.builds(
    Retry,
    attempts=st.none() | st.integers(1, 50),
    delay=numbers,
    factor=st.floats(1, 10),
    max_delay=numbers,
    jitter=st.floats(0, 1),
)
rolls = st.floats(0, 1, exclude_max=True)
counts = st.integers(1, 10_000)


@given(policies, counts, rolls)
def test_a_delay_is_finite_and_within_its_bounds(policy: Retry, failures: int, random: float) -> None:
    delay = next_delay(policy, ValueError(), failures, random)

    if delay is not None:
        assert 0 <= delay <= policy.max_delay * (1 + policy.jitter)
        assert delay <= policy.delay * policy.factor ** min(failures - 1, 64) * (1 + policy.jitter) * (1 + 1e-9)


@given(policies, counts, rolls)
def test_attempts_are_counted(policy: Retry, failures: int, random: float) -> None:
    delay = next_delay(policy, ValueError(), failures, random)

    assert (delay is None) == (policy.attempts is not None and failures >= policy.attempts)


@given(policies, counts, rolls)
def test_without_jitter_delays_never_shrink(policy: Retry, failures: int, random: float) -> None:
    steady = Retry(attempts=None, delay=policy.delay, factor=policy.factor, max_delay=policy.max_delay, jitter=0)
    first, second = (next_delay(steady, ValueError(), count, random) for count in (failures, failures + 1))

    assert first is not None
    assert second is not None
    assert first <= second


@given(policies, counts, st.floats(0, 1e9), rolls)
def test_retry_after_replaces_the_delay_but_grants_no_attempt(
    policy: Retry, failures: int, seconds: float, random: float
) -> None:
    delay = next_delay(policy, RetryAfter(seconds), failures, random)

    assert (None if policy.attempts is not None and failures >= policy.attempts else seconds) == delay


@given(policies, rolls)
def test_the_same_roll_gives_the_same_delay(policy: Retry, random: float) -> None:
    assert next_delay(policy, ValueError(), 1, random) == next_delay(policy, ValueError(), 1, random)


def test_the_default_policy_waits_1_then_2_seconds_then_gives_up() -> None:
    delays = [next_delay(Retry(), ValueError(), failures, 0.5) for failures in (1, 2, 3)]

    assert [1.0, 2.0, None] == delays


def test_jitter_spreads_to_both_sides() -> None:
    policy = Retry(delay=10, jitter=0.1)

    assert 9.0 == next_delay(policy, ValueError(), 1, 0.0)
    assert 10.0 == next_delay(policy, ValueError(), 1, 0.5)
    assert math.isclose(11.0, next_delay(policy, ValueError(), 1, 1 - 1e-12) or 0)


def test_only_the_named_exceptions_are_retried() -> None:
    policy = Retry(on=(OSError,), give_up_on=(FileNotFoundError,))

    assert next_delay(policy, ConnectionError(), 1, 0.5) is not None
    assert next_delay(policy, FileNotFoundError(), 1, 0.5) is None
    assert next_delay(policy, ValueError(), 1, 0.5) is None


def test_retry_after_says_its_reason_and_takes_a_timedelta() -> None:
    assert 90.0 == RetryAfter(timedelta(minutes=1.5)).delay_seconds
    assert "busy" == str(RetryAfter(1, "busy"))
    assert "asked to be retried after 1 s" == str(RetryAfter(1))


@pytest.mark.parametrize("delay", [-1, math.inf, math.nan, timedelta(seconds=-1)])
def test_retry_after_refuses_what_is_no_delay(delay: Any) -> None:
    with pytest.raises(UsageError, match="finite number of seconds"):
        RetryAfter(delay)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": "3"},
        {"attempts": True},
        {"delay": -1},
        {"delay": math.inf},
        {"delay": math.nan},
        {"delay": "1"},
        {"delay": timedelta(seconds=1)},
        {"factor": 0.5},
        {"factor": math.nan},
        {"max_delay": -1},
        {"max_delay": math.inf},
        {"jitter": 1.1},
        {"jitter": math.nan},
        {"on": ValueError},
        {"on": [ValueError]},
        {"on": ("ValueError",)},
        {"give_up_on": (3,)},
    ],
)
def test_impossible_policies_are_refused(wrong: dict[str, Any]) -> None:
    """Where they are written, not at the first failure."""
    with pytest.raises(UsageError, match="is not a possible policy"):
        Retry(**wrong)


def test_what_retry_means() -> None:
    policy = Retry(attempts=7)

    assert NO_RETRY == as_retry(None)
    assert Retry(attempts=5) == as_retry(5)
    assert policy is as_retry(policy)
    with pytest.raises(UsageError, match="says too little"):
        as_retry(True)
