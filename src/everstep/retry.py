"""
When a failed attempt is tried again, and after how long. Pure: the random number comes in as an argument.

Exponential backoff with jitter: attempt *n* waits ``delay * factor ** (n - 1)`` seconds, at most ``max_delay``, then up to
``jitter`` of it more or less, so that many failures of one cause do not return in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from everstep.errors import PayloadTooLarge, RetryAfter, Unencodable, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A retry policy.

    Attributes:
        attempts: How many times the body may fail before the step fails, counting the first; ``None`` is for ever. Executions
            lost to a killed worker do not count: they did not fail.
        delay: Seconds before the second attempt.
        factor: What the delay is multiplied by after each attempt.
        max_delay: No delay is longer than this many seconds.
        jitter: Fraction by which a delay is randomly longer or shorter; 0 turns it off.
        on: Only these exceptions are retried.
        give_up_on: These never are, even when ``on`` matches.
    """

    attempts: int | None = 3
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] = (Exception,)
    give_up_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        is_possible = (
            (self.attempts is None or (type(self.attempts) is int and self.attempts >= 1))
            and all(type(number) in (int, float) for number in (self.delay, self.factor, self.max_delay, self.jitter))
            and 0 <= self.delay < float("inf")
            and 1 <= self.factor < float("inf")
            and 0 <= self.max_delay < float("inf")
            and 0 <= self.jitter <= 1
            and all(map(_is_exceptions, (self.on, self.give_up_on)))
        )
        if not is_possible:
            raise UsageError(
                f"{self!r} is not a possible policy: attempts is a whole number of at least 1 or None, delays are finite "
                "numbers of seconds and at least 0, factor is at least 1, jitter is between 0 and 1, on and give_up_on are "
                "tuples of exception types."
            )


def _is_exceptions(kinds: object) -> bool:
    # A bare type or a list would fail only at the first error, inside isinstance().
    return isinstance(kinds, tuple) and all(map(_is_exception, cast(tuple[object, ...], kinds)))


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


NO_RETRY = Retry(attempts=1)
UNCHANGING = (UsageError, Unencodable, PayloadTooLarge)
"""Mistakes in the program: trying again is to make them again, and ``attempts=None`` would do so for ever."""


def as_retry(retry: Retry | int | None) -> Retry:
    """What ``retry=`` means: a policy, a number of attempts, or (``None``) a single attempt."""
    match retry:
        case None:
            return NO_RETRY
        case Retry():
            return retry
        case bool():
            raise UsageError("retry=True says too little: give a number of attempts or an es.Retry(...).")
        case _:
            return Retry(attempts=retry)


def next_delay(policy: Retry, error: BaseException, failures: int, random: float) -> float | None:
    """Seconds until the next attempt, or ``None`` when the step has failed for good.

    Args:
        policy: The step's policy.
        error: What the attempt raised.
        failures: How many attempts have raised, this one included.
        random: Uniform in [0, 1): the source of the jitter.
    """
    if policy.attempts is not None and failures >= policy.attempts:
        return None
    if isinstance(error, UNCHANGING):
        return None
    if isinstance(error, RetryAfter):
        return error.delay_seconds
    if not isinstance(error, policy.on) or isinstance(error, policy.give_up_on):
        return None
    # The exponent is capped so that a step that failed 5,000 times does not overflow a float.
    delay = min(policy.delay * policy.factor ** min(failures - 1, 64), policy.max_delay)
    return delay * (1 + policy.jitter * (2 * random - 1))
