"""
Execute one step: attempt after attempt, until it has an outcome or nobody wants it any more.

A body gets decoded copies of its arguments, so it cannot change what the workflow holds. An async body runs in a task of its
own, a plain one in a thread of the pool. A thread cannot be stopped: on a timeout it lives on, is counted, and the next
attempt may overlap with it (its idempotency key is the same).
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from everstep.ambient import StepScope, step_scope
from everstep.core.attempts import Plan
from everstep.core.waits import Operation
from everstep.definitions import Step
from everstep.engine.alarms import Alarm
from everstep.engine.threads import ThreadPool
from everstep.errors import PayloadTooLarge, StepTimeout, Unencodable
from everstep.events import StepCompleted, StepFailed, StepOutcomeUnknown, StepScheduled, StopRequested
from everstep.records import AttemptRecord, ErrorRecord, Micros
from everstep.retry import next_delay

if TYPE_CHECKING:
    from everstep.engine.transact import Transactor  # it executes a kind of step

CANCEL_SECONDS = 5.0
"""What a body gets to unwind once it was told to stop; one that goes on regardless is left behind, as a thread is."""


_UNSET = datetime.min.replace(tzinfo=UTC)


def _in_short(error: ErrorRecord) -> ErrorRecord:
    """Without tracebacks: the row is written again with every heartbeat, and the last failure is recorded in full."""
    return ErrorRecord(error.type, error.message)


class StepHost(Protocol):
    """Whom a step reports to: the driver of its run."""

    @property
    def run_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def run_token(self) -> str: ...
    @property
    def recoveries(self) -> int: ...
    def finished(self, event: StepCompleted | StepFailed | StepOutcomeUnknown) -> None:
        """The step has its outcome."""
        ...

    def described(self, error: BaseException) -> ErrorRecord:
        """What is recorded of a failure."""
        ...

    def storable(self, data: bytes) -> bytes:
        """The same bytes, if they can be stored; raises Unencodable if not."""
        ...

    def seal_witness(self, key: str, data: bytes) -> bytes:
        """The result of a step, as it is stored in the user's database."""
        ...

    def open_witness(self, key: str, data: bytes) -> bytes:
        """The opposite."""
        ...

    def logged(self, value: Any) -> Any:
        """What of a value may go into logs."""
        ...

    def interrupted(self) -> None:
        """The program is ending around the step."""
        ...

    def waits(self, record: AttemptRecord) -> None:
        """The step will be tried again: write the row before the wait."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What executing needs from outside.

    Attributes:
        now: The store's clock.
        threads: The pool for plain functions.
        random: Source of jitter.
        base_context: Context that every body starts from: that of the program that opened the engine.
        loop: The host's event loop.
        is_ending: Whether asyncio is cancelling everything, because the program ends without having closed its engine.
        transactor: What transactional steps share.
    """

    now: Callable[[], Micros]
    threads: ThreadPool
    random: Random
    base_context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    is_ending: Callable[[], bool]
    transactor: Transactor


class StepRun:
    """One step of one run, from being asked for to its outcome.

    Attributes:
        key: Its command.
        waits_until: When its next attempt is due, while it waits for that.
        is_dirty: Heartbeat details have not been written yet.
    """

    __slots__ = (
        "_alarm",
        "_args",
        "_beat_at",
        "_began_at",
        "_definition",
        "_details",
        "_execution_count",
        "_expired",
        "_expiry",
        "_first_attempt",
        "_host",
        "_inherited",
        "_is_entered",
        "_is_stopped",
        "_maybe",
        "_plan",
        "_run_key",
        "_stopping",
        "_task",
        "_tools",
        "_watcher",
        "is_dirty",
        "key",
        "waits_until",
    )

    def __init__(self, host: StepHost, tools: Tools, run_key: int, operation: Operation, plan: Plan) -> None:
        assert isinstance(operation.event, StepScheduled)
        assert isinstance(operation.definition, Step)
        self.key = operation.event.key
        self.waits_until: Micros | None = None
        self.is_dirty = False
        self._host = host
        self._tools = tools
        self._run_key = run_key
        self._definition = operation.definition
        self._args = operation.args
        self._maybe = operation.event.maybe
        self._stopping = operation.stopping
        self._plan = plan
        self._details: bytes | None = plan.details
        self._execution_count = 0
        self._first_attempt = plan.attempt
        self._task: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._beat_at = 0.0
        self._began_at = _UNSET
        self._inherited: bytes | None = None
        self._expired = ""
        self._is_stopped = False
        self._is_entered = False

    @property
    def _timeout(self) -> float | None:
        """Seconds that an attempt may take."""
        return self._definition.timeout

    @property
    def body(self) -> asyncio.Task[None] | None:
        """The task that executes an attempt now."""
        return self._task if self.waits_until is None else None

    def start(self) -> None:
        """Begin, now or when it is due."""
        if self._stopping is not None and not self._may_have_had_effect:
            self._end_unexecuted()
        elif self._plan.may_have_begun and (self._definition.at_most_once or self._is_cut_off):
            self._host.finished(StepOutcomeUnknown(self.key))
        elif self._plan.due_at is not None:
            self.waits_until = self._plan.due_at
            self._alarm = Alarm(self._tools.now, self._plan.due_at, self._launch)
        else:
            self._launch()

    def stop(self) -> None:
        """Nobody wants the outcome any more: cancel the body, report nothing. Safe to repeat."""
        self._is_stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()
        self._disarm()

    def wind_up(self, request: StopRequested) -> None:
        """Come to an end: begin no further attempt, and report the outcome. See ``StopRequested``."""
        self._stopping = request
        if self.waits_until is None and self._is_entered:
            # A thread cannot be stopped, and a transaction is short: they are waited for.
            if request.cut_off and self._definition.is_async and not self._is_all_or_nothing and self._task is not None:
                self._task.cancel()
        elif self._must_end:
            self.stop()
            self._end_unexecuted()

    def record(self, *, to_resume: bool = False) -> AttemptRecord:
        """The row that says how far it is. ``to_resume``: it is being stopped here and may start elsewhere at once."""
        plan = self._plan
        attempt, due_at = plan.attempt, plan.due_at
        if to_resume and due_at is None:
            attempt, due_at = attempt + 1, 0
        return AttemptRecord(
            run_key=self._run_key,
            key=self.key,
            attempt=attempt,
            failures=plan.failures,
            due_at=due_at,
            recoveries=self._host.recoveries,
            details=self._details,
            error=plan.error,
            failures_max=self._definition.retry.attempts,
        )

    # --- what the body sees (StepScope) ---------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """Its run."""
        return self._host.run_id

    @property
    def step(self) -> str:
        """Its name."""
        return self._definition.name

    @property
    def attempt(self) -> int:
        """The first attempt that is executed here; each later one has a scope of its own."""
        return self._first_attempt

    @property
    def epoch(self) -> int:
        """The run's fencing token."""
        return self._host.epoch

    @property
    def run_token(self) -> str:
        """What no other run ever has."""
        return self._host.run_token

    def seal_witness(self, data: bytes) -> bytes:
        """Its result, as it is stored in the user's database."""
        return self._host.seal_witness(self.key, data)

    def open_witness(self, data: bytes) -> bytes:
        """The opposite."""
        return self._host.open_witness(self.key, data)

    def logged(self, value: Any) -> Any:
        """What of a value may go into logs."""
        return self._host.logged(value)

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for the outcome of the first attempt."""
        return self.wants(self._first_attempt)

    def wants(self, attempt: int) -> bool:
        """Somebody waits for the outcome of this attempt."""
        return attempt == self._plan.attempt and not (self._is_stopped or self._expired)

    @property
    def deadline(self) -> datetime | None:
        """When the attempt times out."""
        timeout = self._timeout
        return None if timeout is None else self._began_at + timedelta(seconds=timeout)

    @property
    def idempotency_key(self) -> str:
        """Of the step, not of the attempt."""
        return f"{self._host.run_id}/{self._definition.name}/{self.key}"

    @property
    def maybe(self) -> bool:
        """It undoes a step that may not have had its effect."""
        return self._maybe

    @property
    def last_details(self) -> bytes | None:
        """What the last heartbeat of an earlier attempt left."""
        return self._inherited

    def beat(self, details: bytes | None) -> None:
        """A heartbeat, possibly from another thread."""
        self.take_beat(self._first_attempt, details)

    def take_beat(self, attempt: int, details: bytes | None) -> None:
        """A heartbeat of one attempt. One that was given up may still beat, and is not taken for the one that runs."""
        if attempt != self._plan.attempt:
            return
        self._beat_at = self._tools.loop.time()
        if details is not None:
            self._details = self._host.storable(details)
            self.is_dirty = True

    # --- one attempt ----------------------------------------------------------------------------------------------------------

    _is_all_or_nothing = False
    """It has its effect if and only if that is recorded: a transaction."""

    @property
    def _may_have_had_effect(self) -> bool:
        """An attempt was lost, and may have done what it should."""
        return self._plan.may_have_begun and not self._is_all_or_nothing

    @property
    def _must_end(self) -> bool:
        """It was told to stop, and what its attempts came to is known, or nobody needs to know it."""
        return self._stopping is not None and (self._stopping.cut_off or not self._may_have_had_effect)

    @property
    def _is_cut_off(self) -> bool:
        return self._stopping is not None and self._stopping.cut_off

    def _end_unexecuted(self) -> None:
        error = ErrorRecord("asyncio.exceptions.CancelledError", "it was told to stop before its next attempt")
        self._host.finished(StepFailed(self.key, error, max(1, self._plan.attempt - 1), maybe=self._may_have_had_effect))

    def _launch(self) -> None:
        self.waits_until = None
        self._is_entered = False
        if self._plan.due_at is not None:
            self._plan = replace(self._plan, due_at=None, details=self._details)
        # A context of its own: what one body sets must not reach the next, which may be started from inside it.
        self._task = asyncio.Task(self._attempt(), loop=self._tools.loop, context=self._tools.base_context.copy())

    async def _attempt(self) -> None:
        definition = self._definition
        self._is_entered = True
        self._expired = ""
        self._inherited = self._details
        self._execution_count += 1
        execution, value, error = self._execution_count, None, None
        scope: StepScope = self
        if execution > 1:
            scope = cast(StepScope, _LaterAttempt(self, self._plan.attempt))
        step_scope.set(scope)
        try:
            args, kwargs = definition.arguments.decode(self._args)
            value, error = await self._execute(args, kwargs)
        except CancelledError as cancelled:
            if not (self._is_stopped or self._expired) and self._tools.is_ending():
                # The program is ending without closing its engine (a second Ctrl-C does that), so asyncio cancels everything.
                # That is no outcome of the step: it is executed again when somebody goes on with the run.
                self._host.interrupted()
                return
            error = StepTimeout(self._expired, step=definition.name) if self._expired else cancelled
        except (KeyboardInterrupt, GeneratorExit):
            raise  # The program is being stopped.
        except BaseException as raised:  # noqa: BLE001  # whatever a body raises is its outcome
            error = raised
        if execution != self._execution_count:
            return  # It was left behind, and the step goes on without it.
        self._task = None  # It refers to this step: together they would stay until the garbage collector finds them.
        self._disarm()
        if self._is_stopped:
            return
        if error is None:
            self._returned(value)
        elif self._is_cut_off and isinstance(error, CancelledError):
            self._host.finished(StepOutcomeUnknown(self.key))
        else:
            self._failed(error)

    async def _execute(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, BaseException | None]:
        """Run the body: its result, or what it raised."""
        definition = self._definition
        if definition.is_async:
            if definition.is_limited:
                self._arm()
            return await definition.body(*args, **kwargs), None
        body = partial(definition.body, *args, **kwargs)
        return await self._tools.threads.run(body, definition.name, self._arm)

    def _returned(self, value: Any) -> None:
        try:
            result = self._host.storable(self._definition.result.encode(value))
        except (Unencodable, PayloadTooLarge) as error:
            # The effect has happened; trying again would only repeat it. What cannot be stored is the step's outcome.
            self._fail_for_good(error, maybe=True)
        else:
            self._host.finished(StepCompleted(self.key, Raw(result), self._plan.attempt))

    def _failed(self, error: BaseException) -> None:
        failures = self._plan.failures + 1
        delay = next_delay(self._definition.retry, error, failures, self._tools.random.random())
        if delay is None or self._must_end:
            self._fail_for_good(error)
            return
        due_at = self._tools.now() + round(delay * 1e6)
        self._plan = Plan(
            attempt=self._plan.attempt + 1,
            failures=failures,
            due_at=due_at,
            details=self._details,
            error=msgspec.json.encode(_in_short(self._host.described(error))),
        )
        self.waits_until = due_at
        self._alarm = Alarm(self._tools.now, due_at, self._launch)
        self._host.waits(self.record())

    def _fail_for_good(self, error: BaseException, *, maybe: bool = False) -> None:
        timed_out = isinstance(error, StepTimeout)
        maybe = (maybe or timed_out or self._plan.may_have_begun) and not self._is_all_or_nothing
        self._host.finished(StepFailed(self.key, self._host.described(error), self._plan.attempt, timed_out, maybe))

    # --- limits ---------------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        definition, loop = self._definition, self._tools.loop
        timeout = self._timeout
        if timeout is None and definition.heartbeat_timeout is None:
            return
        self._began_at, self._beat_at = datetime.now(UTC), self._tools.loop.time()
        if timeout is not None:
            self._expiry = loop.call_later(timeout, self._expire, f"step {definition.name} took longer than {timeout:g} s")
        if definition.heartbeat_timeout is not None:
            self._watch(definition.heartbeat_timeout)

    def _watch(self, seconds: float) -> None:
        """Look for heartbeats. They only leave a time behind, because they may come from a thread."""
        left = self._beat_at + seconds - self._tools.loop.time()
        if left <= 0:
            self._expire(f"step {self._definition.name} gave no heartbeat for {seconds:g} s")
        else:
            self._watcher = self._tools.loop.call_later(left, self._watch, seconds)

    def _expire(self, why: str) -> None:
        self._disarm()
        self._expired = why
        if self._task is not None:
            self._task.cancel()
            self._expiry = self._tools.loop.call_later(CANCEL_SECONDS, self._leave_behind, self._task)

    def _leave_behind(self, task: asyncio.Task[None]) -> None:
        self._tools.threads.leave_behind(task, self._definition.name)
        self._execution_count += 1
        self._disarm()
        self._failed(StepTimeout(self._expired, step=self._definition.name))

    def _disarm(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


class _LaterAttempt:
    """What the body of a further attempt sees: the step with another number (see ``everstep.ambient.StepScope``)."""

    __slots__ = ("_step", "attempt")

    def __init__(self, step: StepRun, attempt: int) -> None:
        self._step = step
        self.attempt = attempt

    def beat(self, details: bytes | None) -> None:
        """A heartbeat of this attempt."""
        self._step.take_beat(self.attempt, details)

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for its outcome."""
        return self._step.wants(self.attempt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)
