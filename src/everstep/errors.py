"""
Every error that everstep raises, and who must act on it.

A message has three parts: what happened, with its ids; what therefore did *not* happen; what to do next. Its first line
stands alone. Nothing here is raised to steer everstep itself, except the two engine signals at the bottom, which derive from
``BaseException`` so that a user's ``except Exception`` cannot swallow them.

    EverstepError
    ├── UsageError                 the caller: the call itself is wrong; nothing was stored
    │   ├── InvalidStoreURL
    │   ├── CallAlreadyUsed
    │   └── EngineClosed
    ├── Unencodable                the workflow's author: a value that cannot be stored
    ├── PayloadTooLarge
    ├── RunError                   the caller: how a run ended, or why it cannot be had
    │   ├── RunNotFound
    │   ├── RunConflict
    │   ├── RunFailed, RunCancelled, RunDead, RunPaused
    │   ├── RunEnded, IllegalState
    │   ├── RequestError
    │   │   ├── RequestRefused, RequestFailed
    │   │   └── RequestTimeout     (also a TimeoutError)
    │   └── RunTimeout             (also a TimeoutError)
    ├── StepError                  the workflow's author: raised at the await of a step or child
    │   ├── StepFailed
    │   ├── StepTimeout            (also a TimeoutError)
    │   └── StepOutcomeUnknown
    ├── RemoteError                the cause of a failure, when its own type cannot be rebuilt
    ├── NondeterminismError        the workflow's author: code and journal no longer match
    ├── PayloadKeyMissing          the operator: stored values are encrypted with a key that is not given here
    └── StoreError                 the operator
        ├── StoreUnavailable
        │   └── StoreFull
        ├── SchemaMismatch
        └── CorruptJournal

    BaseException
    ├── Evicted                    the run left memory; a ``finally`` must not start new work
    ├── LeaseLost                  another worker owns the run now
    └── ContinuedAsNew             the code has asked to begin again with other arguments
"""

from __future__ import annotations

from datetime import timedelta


class EverstepError(Exception):
    """Root of all errors of everstep that ordinary code may catch."""


# --- the caller ---------------------------------------------------------------------------------------------------------


class UsageError(EverstepError):
    """A call that breaks a rule of the API. Nothing was stored; correct the call."""


class InvalidStoreURL(UsageError):
    """A store URL that names no known store, or names it wrongly."""


class CallAlreadyUsed(UsageError):
    """A ``Call`` was awaited or started twice. Call the step or workflow again to get a new one."""


class EngineClosed(UsageError):
    """The engine was closed (or not yet opened) when it was asked to do something."""


class RunError(EverstepError):
    """Something about one run.

    Attributes:
        run_id: The run concerned.
    """

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunNotFound(RunError):
    """No run has this id in this store."""


class RunConflict(RunError):
    """The id is taken by a run of another workflow or with other arguments. That run is untouched.

    Attributes:
        differences: One line per field that differs: ``cents: 1999 recorded, 2499 requested``.
    """

    def __init__(self, message: str, *, run_id: str, differences: tuple[str, ...] = ()) -> None:
        super().__init__(message, run_id=run_id)
        self.differences = differences


class RunFailed(RunError):
    """The workflow raised. ``__cause__`` is what it raised: its own type where the program has it, else a RemoteError."""


class RunCancelled(RunError):
    """The run was cancelled before it produced a result."""


class RunDead(RunError):
    """The engine gave the run up; a person has to look at it."""


class RunPaused(RunError):
    """The run is paused and will not go on by itself: the message says why and what resumes it."""


class RunEnded(RunError):
    """The run has come to rest, so it takes no message any more. Nothing was sent."""


class IllegalState(RunError):
    """The run is not in a state in which this can be done to it. Nothing was changed."""


class RequestError(RunError):
    """About one request to a run.

    Attributes:
        request: Its name.
        key: What names it: asking again with this key gives the same answer.
    """

    def __init__(self, message: str, *, run_id: str, request: str, key: str) -> None:
        super().__init__(message, run_id=run_id)
        self.request = request
        self.key = key


class RequestRefused(RequestError):
    """The run does not answer the request; asking again with the same key is refused again.

    Attributes:
        reason: What its validator (or its code) said.
    """

    def __init__(self, message: str, *, run_id: str, request: str, key: str, reason: str) -> None:
        super().__init__(message, run_id=run_id, request=request, key=key)
        self.reason = reason


class RequestFailed(RequestError):
    """What was to answer the request raised; the run goes on. ``__cause__`` is that error, as far as it can be rebuilt."""


class RequestTimeout(RequestError, TimeoutError):
    """The answer did not come in time. The request stays; ask again with ``key`` for its one answer."""


class RunTimeout(RunError, TimeoutError):
    """The result did not come in time (``result(timeout=…)``), or the run outlived its own time limit."""


# --- the workflow's author ----------------------------------------------------------------------------------------------


class Unencodable(EverstepError):
    """A value that cannot be stored and read back exactly as it was.

    Attributes:
        path: Where in the value, as one would write it in Python: ``result.items[3]['price']``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLarge(EverstepError):
    """A value over its size limit. Nothing of it was stored.

    Attributes:
        size: Encoded size in bytes.
        limit: The limit in bytes.
    """

    def __init__(self, message: str, *, size: int, limit: int) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class StepError(EverstepError):
    """A step (or child run) did not return.

    Attributes:
        step: Its name.
        attempt: The last attempt, counted from 1.
        maybe: The step may have had its effect all the same: it timed out, an attempt was lost with its worker, or its result
            could not be stored. False: as far as its body can tell, it did nothing.
    """

    def __init__(self, message: str, *, step: str = "", attempt: int = 1, maybe: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.attempt = attempt
        self.maybe = maybe


class StepFailed(StepError):
    """The step raised and has no retries left. ``__cause__`` is what its body raised."""


class StepTimeout(StepError, TimeoutError):
    """An attempt took longer than the step's ``timeout`` (or gave no heartbeat for ``heartbeat_timeout``)."""


class StepOutcomeUnknown(StepError):
    """An ``at_most_once`` step was begun by a process that died. Its effect may have happened; it is not repeated."""


class RemoteError(EverstepError):
    """An exception from another process whose type this program does not have, as data.

    Attributes:
        type_name: Qualified name of the original type.
        message: Its ``str()``.
        traceback: Its formatted traceback, possibly empty.
    """

    def __init__(self, type_name: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


class NondeterminismError(EverstepError):
    """Workflow code asked for something else than its journal recorded. Nothing was executed, the journal is unchanged.

    Attributes:
        run_id: The run concerned.
        version: The entry at which they part; 0 if it is not about one.
        recorded: What stands there, in one line.
        requested: What the code asked for instead, in one line.
    """

    def __init__(self, message: str, *, run_id: str = "", version: int = 0, recorded: str = "", requested: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.version = version
        self.recorded = recorded
        self.requested = requested


# --- the operator -------------------------------------------------------------------------------------------------------


class PayloadKeyMissing(EverstepError):
    """A stored value is encrypted with a key that was not given, or another key was given under its id.

    Attributes:
        key_id: The id of the key that is needed.
    """

    def __init__(self, message: str, *, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class StoreError(EverstepError):
    """Something about the store as a whole."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written now. Engines back off and go on by themselves when it returns."""


class StoreFull(StoreUnavailable):
    """The store has no space left. Acknowledged work is safe; runs go on when space returns."""


class SchemaMismatch(StoreError):
    """The store was written by another version of everstep, or is no store of everstep at all. It was not touched."""


class CorruptJournal(StoreError):
    """An entry does not match its hash, or the chain has a hole. The run is quarantined; it is never replayed over.

    Attributes:
        run_id: The run concerned.
        version: The first entry that does not verify.
    """

    def __init__(self, message: str, *, run_id: str, version: int) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.version = version


# --- engine signals -----------------------------------------------------------------------------------------------------


class Evicted(BaseException):
    """The run is leaving memory; it will continue elsewhere. Not an error: let it pass."""


class LeaseLost(BaseException):
    """This worker no longer owns the run: whatever its steps still do, nothing of it will be recorded. Let it pass.

    Kept for the API: today a body that lost its run is told by an ordinary cancellation of its task.
    """


class ContinuedAsNew(BaseException):
    """How ``es.continue_as_new`` ends the code that calls it: let it pass.

    Attributes:
        args_json: The arguments that the code begins again with.
    """

    def __init__(self, args_json: bytes) -> None:
        super().__init__("the run begins again with other arguments")
        self.args_json = args_json


class RetryAfter(EverstepError):
    """Raised by a step's body: fail this attempt and try again after ``delay``, whatever the retry policy's own delay.

    Attributes:
        delay_seconds: Seconds to wait; at least 0.
    """

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= seconds < float("inf"):
            raise UsageError(f"RetryAfter({delay!r}): the delay must be a finite number of seconds, at least 0.")
        super().__init__(reason or f"asked to be retried after {seconds:g} s")
        self.delay_seconds = seconds
