"""
The event loop that workflow code runs under: asyncio's own primitives, made deterministic.

It has no clock, no threads and no I/O. ``call_soon`` appends to a queue; ``call_later`` becomes a durable timer that somebody
else fires; ``time()`` is the instant of the activation. Everything a workflow should not do there raises and says what to use
instead. asyncio's coordination primitives (gather, wait, TaskGroup, timeout, Lock, Queue, …) need nothing more than this.

Three things differ from an ordinary loop, each for determinism:

* Futures and tasks hash by their run and the order in which they were made, so sets of them iterate alike in every process.
  (By the order alone, the tasks of all runs would collide in asyncio's own sets of tasks: quadratic with many runs in memory.)
* A task remembers its *path* (``0``, ``0.1``, ``0.1.1``) and counts what it asks for: the names of its commands.
* A cancel that meets an await of a step, task or ``gather`` whose result is already there stays *owed*: the code gets the
  result, and the cancel at its next await. Delivering it at once would throw the result away (a charge that happened, say). It
  is as if the cancel had come a moment later, so every program that is right under asyncio is right here; and it is never lost.
  Who awaits a task awaits what that task awaits: the debt stays with the task that was asked to stop, since the one below may
  end without another await. Other futures carry no result that could be lost, and asyncio's own (a TaskGroup's, a Lock's) count
  on being cancelled at once. Until Python 3.13 a TaskGroup whose members fail forgets a cancel that came meanwhile; here it is
  owed as well, as it is there.

How a drain nests in the host: the host's loop and task step aside (``_leave_task``), this loop is the running one until its
queue is empty, then they return. The C implementation of Task insists on exactly this order.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events, tasks
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from hashlib import blake2b
from types import CoroutineType, FrameType
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias, TypeVar, TypeVarTuple, cast

from everstep.errors import Evicted, UsageError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# Before 3.12 the public one is written in Python, and asks for what is known here: which loop.
_task_of: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    tasks.current_task if sys.version_info >= (3, 12) else vars(tasks)["_current_tasks"].get
)
_Host: TypeAlias = tuple[asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None, Any]

CLOSE_ATTEMPTS = 16
"""How often an evicted coroutine that awaits again in its ``finally`` is unwound once more before it is left behind."""
REFUSALS_MAX = 1000
"""How often code that may start nothing any more is told so; then its awaits suspend for good. It must be swallowing Evicted in
an endless loop, which would otherwise never give the thread back."""
MAIN_PATH = "0"
"""Path of the main task; that of a run that was continued as new is the number of times, so that no key comes twice."""
CALLBACK_PATH = "~"
"""Path of code that runs in a callback of the loop rather than in a task."""


class LoopHost(Protocol):
    """Who keeps the loop's timers, and hears of errors that nobody looked at."""

    def start_timer(self, delay_seconds: float, handle: asyncio.TimerHandle) -> None: ...
    def cancel_timer(self, handle: asyncio.TimerHandle) -> None: ...
    def report(self, context: dict[str, Any]) -> None: ...


class ReplayFuture(asyncio.Future[T]):
    """A future that hashes alike on every replay."""

    _loop: DeterministicLoop  # pyright: ignore[reportIncompatibleMethodOverride]  # C's attribute is read-only
    __slots__ = ("_hash",)

    carries_result = False

    def __init__(self, *, loop: DeterministicLoop) -> None:
        super().__init__(loop=loop)
        self._hash = loop.next_hash()

    def __hash__(self) -> int:
        return self._hash


class HeldFuture(ReplayFuture[T]):
    """Whoever awaits it is not cancelled meanwhile: the cancel stays owed, as if the result were there already.

    For what must not be cut off in the middle: the undoing of a saga.
    """

    def cancel(self, msg: Any = None) -> bool:
        """Called by a task that was told to stop before it came here: the cancel becomes a debt like any other."""
        task = self._loop.running_task()
        if task is None:
            return False
        self._loop.owe_cancel(Debt(task, task.cancelling(), msg))
        return True


class _EvictedFuture(ReplayFuture[Any]):
    """What a loop that is being evicted hands out: awaiting it unwinds the coroutine."""

    def __await__(self) -> Generator[Any, None, Any]:
        self._loop.refuse()
        yield self

    __iter__ = __await__


class ReplayTask(asyncio.Task[T]):
    """A task that hashes alike on every replay, knows its path, and never loses a result to a cancel (see the module)."""

    _loop: DeterministicLoop  # pyright: ignore[reportIncompatibleMethodOverride]  # C's attribute is read-only
    carries_result = True

    def __init__(
        self, coro: Coroutine[Any, Any, T], *, loop: DeterministicLoop, path: str, name: str | None, context: Context | None
    ) -> None:
        self._hash = loop.next_hash()
        self.path = path
        self.command_count = 0
        self.task_count = 0
        self.context = copy_context() if context is None else context
        super().__init__(coro, loop=loop, name=name or f"task {path}", context=self.context)

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_answered(self) -> bool:
        """The result that it awaits is there already, and it has not gone on yet."""
        return _is_answered(self._fut_waiter)  # type: ignore[attr-defined]  # a member of C tasks that typeshed does not list

    @property
    def is_being_cancelled(self) -> bool:
        """A cancel is on its way to the code, and has not arrived."""
        waiter: Any = self._fut_waiter  # type: ignore[attr-defined]  # the same
        return self._must_cancel or (waiter is not None and waiter.cancelled())  # type: ignore[attr-defined]  # the same

    def cancel(self, msg: Any = None) -> bool:
        """Request cancellation; see the module for what happens when the awaited result is already there."""
        by = sys._getframe(1).f_code  # pyright: ignore[reportPrivateUsage]
        if self.done() or not self.is_answered:
            accepted = super().cancel(msg)
            if _GROUPS_FORGET and accepted and by is not _GROUP_TASK_DONE:
                self._loop.watch_cancel(Debt(self, self.cancelling(), msg))
            return accepted
        if by is not _TIMEOUT and by is not _GROUP_TASK_DONE:
            # It comes a moment later, so nothing is counted yet: a timeout that is entered meanwhile must not find it there.
            self._loop.owe_cancel(Debt(self, 0, msg))
            return True
        # Who takes a request back has to find it counted. The C code asks the waiter first: answering "I took care of it"
        # counts the request but leaves the await alone.
        waiter: Any = self._fut_waiter  # type: ignore[attr-defined]  # the same
        waiter.cancel = _take_care
        try:
            accepted = super().cancel(msg)
        finally:
            del waiter.cancel
        self._loop.owe_cancel(Debt(self, self.cancelling(), msg))
        return accepted

    def pay_cancel(self, debt: Debt) -> None:
        """Deliver an owed cancel now; its request may have been counted already."""
        if debt.level:
            self.uncancel()
        super().cancel(debt.msg)


class Debt(NamedTuple):
    """A cancel that is owed. ``level``: the count of requests with it; below that, somebody has taken the request back. 0: it
    is not counted yet, and nobody takes it back.

    ``group``: of one that was delivered, and is owed once more if this group, which the task waits for, forgets it.
    """

    task: ReplayTask[Any]
    level: int
    msg: Any
    group: asyncio.TaskGroup | None = None

    @property
    def is_settled(self) -> bool:
        """There is nothing left to deliver: the task has ended, or (a timeout that lost the race) took its request back."""
        return self.task.done() or self.task.cancelling() < self.level

    @property
    def was_forgotten(self) -> bool:
        """The group failed, and its errors took the place of the cancel."""
        return self.group is not None and self.group._errors is None  # type: ignore[attr-defined]


_GROUPS_FORGET = sys.version_info < (3, 13)
"""Until Python 3.13 a TaskGroup that fails forgets that its task was cancelled from outside meanwhile. We do as 3.13 does."""
_GROUP_EXIT = asyncio.TaskGroup.__aexit__.__code__
_TIMEOUT = vars(asyncio.Timeout)["_on_timeout"].__code__
_GROUP_TASK_DONE = vars(asyncio.TaskGroup)["_on_task_done"].__code__


def _group_awaited_by(task: ReplayTask[Any]) -> asyncio.TaskGroup | None:
    """The group at whose end a task waits for the group's members, if that is what it does."""
    coro: Any = task.get_coro()
    while coro is not None:
        frame: FrameType | None = getattr(coro, "cr_frame", None)
        if frame is not None and frame.f_code is _GROUP_EXIT:
            group: asyncio.TaskGroup = frame.f_locals["self"]
            return group
        coro = getattr(coro, "cr_await", None)
    return None


def _who_goes_on(handle: Any) -> ReplayTask[Any] | None:
    """The task whose step a handle is, if it is one: asyncio's own debug output finds it in this way."""
    task: Any = getattr(handle._callback, "__self__", None)
    return task if isinstance(task, ReplayTask) else None  # pyright: ignore[reportUnknownVariableType]  # of whatever result


_GATHER: type = vars(tasks)["_GatheringFuture"]  # what gather() returns; typeshed does not list it


def _is_answered(waiter: Any) -> bool:
    """Whether whoever awaits this gets a result that a cancel must not forestall: as a rule in the current drain, be it through
    tasks and ``gather``."""
    if isinstance(waiter, HeldFuture):
        return True
    is_gather = isinstance(waiter, _GATHER)
    if not (is_gather or getattr(waiter, "carries_result", False)):
        return False
    if waiter.done():
        return not waiter.cancelled() and waiter._exception is None
    if is_gather:
        return all(map(_is_answered, waiter._children))
    return isinstance(waiter, ReplayTask) and waiter.is_answered


def _part(task: Any) -> None:
    """Let a task that will never go on, and what it waits for, forget each other: they would stay until they are collected."""
    waiter = task._fut_waiter
    callbacks: list[tuple[Any, Any]] = getattr(waiter, "_callbacks", None) or []
    for callback, _ in callbacks[:]:
        waiter.remove_done_callback(callback)


def _take_care(msg: Any = None) -> bool:
    return True


class DeterministicLoop(asyncio.AbstractEventLoop):
    """See the module. One per run in memory.

    Attributes:
        scope: What ``everstep.ambient`` finds: set by the program that owns the loop.
        is_closing: The run is being evicted; nothing new may start.
        refusal: What code is told that may start nothing any more.
    """

    def __init__(self, host: LoopHost, seed: bytes, path: str = MAIN_PATH) -> None:
        self.scope: Any = None
        self.is_closing = False
        self.refusal = "the run is leaving memory"
        self._host = host
        self._path = path
        self._callback_path = CALLBACK_PATH if path == MAIN_PATH else path + CALLBACK_PATH
        self._ready: deque[asyncio.Handle] = deque()
        # Shifted, so that small sets still iterate in the order of making.
        self._last_hash = int.from_bytes(blake2b(seed, digest_size=5).digest()) << 16
        self._refusal_count = 0
        self._seconds = 0.0
        self._tasks: dict[str, ReplayTask[Any]] = {}
        self._callback_commands = 0
        self._callback_tasks = 0
        self._owed: list[Debt] = []
        self._delivered: dict[ReplayTask[Any], Debt] = {}
        self._conditions: list[tuple[Callable[[], bool], ReplayFuture[None]]] = []
        self._given: dict[int, ReplayTask[Any]] = {}

    # --- driving it -------------------------------------------------------------------------------------------------------

    def drain(self, seconds: float) -> None:
        """Run everything that is ready, until nothing is. ``seconds`` is what ``time()`` says meanwhile."""
        self._seconds = seconds
        ready = self._ready
        host = self._enter()
        try:
            while ready:
                handle = ready.popleft()
                who = _who_goes_on(handle) if self._delivered else None
                if not handle._cancelled:
                    handle._run()
                if who is not None:
                    self._look_after(who)
                if self._owed:
                    self._pay_owed()
                if self._conditions and not ready:
                    self._check_conditions()
        finally:
            self._leave(host)

    def wait_until(self, predicate: Callable[[], bool]) -> ReplayFuture[None]:
        """A future that is resolved once the predicate holds, looked at whenever nothing else is ready."""
        future: ReplayFuture[None] = self.create_future()
        self._conditions.append((predicate, future))
        return future

    def _check_conditions(self) -> None:
        left: list[tuple[Callable[[], bool], ReplayFuture[None]]] = []
        for predicate, future in self._conditions:
            if future.done():
                continue
            try:
                holds = predicate()
            except Exception as error:  # noqa: BLE001  # it belongs to the code that waits
                future.set_exception(error)
                continue
            if holds:
                future.set_result(None)
            else:
                left.append((predicate, future))
        self._conditions = left

    def look(self, bystander: Any, work: Callable[[], object]) -> None:
        """Run something that must not touch this loop: for it, ``bystander`` is the running loop."""
        host = self._enter()
        events._set_running_loop(bystander)
        try:
            work()
        finally:
            self._leave(host)

    def traces(self) -> tuple[object, ...]:
        """What changes as soon as anything is asked of this loop."""
        return self._last_hash, self._callback_commands, self._callback_tasks, len(self._ready), len(self._owed)

    def make_ready(self, handle: asyncio.Handle) -> None:
        """Queue a handle (a timer that fired)."""
        self._ready.append(handle)

    def evict(self) -> None:
        """Close every coroutine, the last made first, so that a group finds its members gone. Nothing of it is recorded."""
        self.is_closing = True
        self._ready.clear()
        host = self._enter()
        try:
            for task in reversed(list(self._tasks.values())):
                self._unwind(task)
        finally:
            self._leave(host)
        self._tasks.clear()
        self._ready.clear()
        self._owed.clear()
        self._delivered.clear()
        self._conditions.clear()

    def let_go(self, heir: LoopHost) -> None:
        """Forget the host, who knows this loop: else only the garbage collector could free them. ``heir`` takes its place."""
        self.scope = None
        self._host = heir

    def refuse(self) -> None:
        """Unwind code that wants to start something although nothing may start any more.

        Raises:
            Evicted: A ``BaseException``, so that an ``except Exception`` in a loop does not swallow it for ever.
        """
        self._refusal_count += 1
        if self._refusal_count <= REFUSALS_MAX:
            raise Evicted(self.refusal)

    # Plain methods rather than a context manager: they run twice per activation, and a generator would cost more than both.

    def _enter(self) -> _Host:
        """Make this the running loop, and return what stepped aside for it."""
        loop = events._get_running_loop()
        task = None if loop is None else _task_of(loop)
        if loop is not None and task is not None:
            tasks._leave_task(loop, task)
        events._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._finalize_generator)
        return loop, task, hooks

    def _leave(self, host: _Host) -> None:
        loop, task, hooks = host
        sys.set_asyncgen_hooks(*hooks)
        events._set_running_loop(loop)
        if loop is not None and task is not None:
            tasks._enter_task(loop, task)

    def _finalize_generator(self, generator: Any) -> None:
        # Called when the last reference goes, which CPython does at once: as deterministic as the code that dropped it.
        if not self.is_closing:
            self.call_soon(self._close_generator, generator)

    def _close_generator(self, generator: Any) -> None:
        self.create_task(generator.aclose())

    def _unwind(self, task: ReplayTask[Any]) -> None:
        """End one coroutine: its ``finally`` blocks run, and whatever they ask for is refused.

        Evicted is thrown, not GeneratorExit: ``close()`` skips the ``finally`` of an async generator that the coroutine is in.
        """
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to end here
        coro: Any = task.get_coro()
        tasks._enter_task(self, task)
        try:
            for _ in range(CLOSE_ATTEMPTS):
                task.context.run(coro.throw, Evicted(self.refusal))
        except BaseException:  # noqa: BLE001  # it has ended; whatever a finally raised while memory is freed concerns nobody
            return
        finally:
            tasks._leave_task(self, task)
            _part(task)
        _leave_behind(coro)

    # --- names ------------------------------------------------------------------------------------------------------------

    def next_hash(self) -> int:
        """The hash of the next future or task: the same on every replay."""
        self._last_hash += 1
        return self._last_hash

    def next_key(self) -> str:
        """The key of the command that is being issued: path of the current task and ordinal in it."""
        task = self.running_task()
        if task is None:
            self._callback_commands += 1
            return f"{self._callback_path}:{self._callback_commands}"
        task.command_count += 1
        return f"{task.path}:{task.command_count}"

    def _next_path(self) -> str:
        task = self.running_task()
        if task is None:
            self._callback_tasks += 1
            return f"{self._callback_path}.{self._callback_tasks}"
        task.task_count += 1
        return f"{task.path}.{task.task_count}"

    def reserve_path(self) -> str:
        """A path that no task will have, so that tasks may be numbered below it."""
        return self._next_path()

    def running_task(self) -> ReplayTask[Any] | None:
        """The task whose code is running; None in a callback.

        Raises:
            UsageError: It was made in a way that gives it no place in the journal.
        """
        task = _task_of(self)
        if task is None or isinstance(task, ReplayTask):
            return task
        raise UsageError(
            f"{task!r} was made with asyncio.Task(…), so it has no place in the journal. Nothing was started. Use "
            "asyncio.create_task(…) or a TaskGroup."
        )

    # --- owed cancels -----------------------------------------------------------------------------------------------------

    def owe_cancel(self, debt: Debt) -> None:
        """Remember to cancel the task at its next await."""
        self._owed.append(debt)

    def _pay_owed(self) -> None:
        owed, self._owed = self._owed, []
        for debt in owed:
            if debt.is_settled:
                continue
            if debt.task.is_answered or debt.task.is_being_cancelled:
                self._owed.append(debt)  # Two cancels that arrive as one error would be taken for one.
            else:
                debt.task.pay_cancel(debt)

    def watch_cancel(self, debt: Debt) -> None:
        """Look after a cancel that is being delivered: a group may forget it."""
        self._delivered.setdefault(debt.task, debt)

    def _look_after(self, task: ReplayTask[Any]) -> None:
        """The task has just gone on."""
        debt = self._delivered.get(task)
        if debt is None:
            return
        group = _group_awaited_by(debt.task)
        if debt.is_settled:
            del self._delivered[debt.task]
        elif group is None and debt.was_forgotten:
            del self._delivered[debt.task]
            self.owe_cancel(debt)
        else:
            self._delivered[debt.task] = debt._replace(group=group)

    # --- the loop's interface ---------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self._seconds + delay, callback, args, self, context)
        self._host.start_timer(delay, handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self._seconds, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._host.cancel_timer(handle)

    def time(self) -> float:
        """Seconds since the run was created, at the instant of this activation."""
        return self._seconds

    def create_future(self) -> ReplayFuture[Any]:
        return ReplayFuture(loop=self) if not self.is_closing else _EvictedFuture(loop=self)

    def create_task(  # type: ignore[override]  # typeshed's signature changes with every minor version
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **more: Any
    ) -> ReplayTask[T]:
        if self.is_closing:
            coro.close()
            raise Evicted(self.refusal)
        if any(more.values()):
            coro.close()
            raise UsageError(f"create_task({', '.join(more)}=…): eager tasks are not deterministic under replay. Leave it out.")
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        if (frame.f_code is _ENSURE_FUTURE or frame.f_code is _ENSURE_FUTURE_3_11) and (
            taker := _as_completed_above(frame)
        ) is not None:
            return self._start_in_given_order(coro, taker)
        return self._start(coro, self._next_path(), name, context)

    def _start_in_given_order(self, coro: Coroutine[Any, Any, T], taker: FrameType) -> ReplayTask[T]:
        """For as_completed, which takes coroutines out of a *set*: by address, that is in another order in each process."""
        if id(coro) not in self._given:
            given = taker.f_locals.get("aws", taker.f_locals.get("fs"))
            if not isinstance(given, (list, tuple)):
                if not isinstance(coro, CoroutineType):
                    return self._start(coro, self._next_path(), None, None)  # A call: sets of them iterate alike everywhere.
                coro.close()
                raise UsageError(
                    "as_completed() was given coroutines in something other than a list or a tuple, so their order is not "
                    "known. Nothing was started. Give it a list, or tasks."
                )
            coros = [each for each in cast(list[Any], given) if asyncio.iscoroutine(each)]
            for one in {id(each): each for each in coros}.values():
                self._given[id(one)] = self._start(one, self._next_path(), None, None)
        return self._given.pop(id(coro))

    def create_main_task(self, coro: Coroutine[Any, Any, T]) -> ReplayTask[T]:
        """The task of the workflow function itself, in an empty context: nothing of the host's leaks in."""
        return self._start(coro, self._path, None, Context())

    def start_at(self, path: str, coro: Coroutine[Any, Any, T], context: Context) -> ReplayTask[T]:
        """A task that no code of the workflow's makes, under a path that its maker reserved."""
        return self._start(coro, path, None, context)

    def _start(self, coro: Coroutine[Any, Any, T], path: str, name: str | None, context: Context | None) -> ReplayTask[T]:
        task = ReplayTask(coro, loop=self, path=path, name=name, context=context)
        # The loop keeps tasks alive: asyncio itself refers to them weakly only.
        self._tasks[path] = task
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task.path, None)  # type: ignore[attr-defined]  # every task here is a ReplayTask

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.is_closing

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_closing:
            self._host.report(context)


_ENSURE_FUTURE = tasks.ensure_future.__code__
_ENSURE_FUTURE_3_11 = getattr(tasks, "_ensure_future", tasks.ensure_future).__code__
_AS_COMPLETED: Any = getattr(tasks, "_AsCompletedIterator", None)  # since Python 3.13
_TAKER = tasks.as_completed.__code__ if _AS_COMPLETED is None else _AS_COMPLETED.__init__.__code__


def _as_completed_above(frame: FrameType) -> FrameType | None:
    """The frame of as_completed if that is who called ensure_future: one to three frames up, depending on Python's version."""
    above = frame.f_back
    for _ in range(3):
        if above is None or above.f_code is _TAKER:
            return above
        above = above.f_back
    return None


def _leave_behind(coro: Any) -> None:
    """Keep a coroutine that cannot be ended from ever running again.

    Were it freed, Python would throw GeneratorExit into it once more, by then outside a workflow, where awaiting a step
    *executes* it. A reference that nothing gives back, not even the end of the process, is the lesser evil.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))


# --- what a workflow may not do -------------------------------------------------------------------------------------------

_IN_A_STEP = "do it in a step: its result is recorded, and replay does not repeat it"
_REFUSED = {
    "run_in_executor": f"threads are not deterministic; {_IN_A_STEP} (a step may be a plain function: it runs in a thread)",
    "call_soon_threadsafe": "only the engine may reach into a workflow; send it a message",
    "set_debug": "the loop of a workflow has no debug mode",
    "set_task_factory": "task factories are not deterministic under replay",
    "set_exception_handler": "errors of a workflow are recorded by the engine; catch them where they occur",
    "run_forever": "the loop is already driven by the engine",
    "run_until_complete": "the loop is already driven by the engine; use await",
    "stop": "the engine stops the loop; return from the workflow",
    "close": "the engine closes the loop; return from the workflow",
    "shutdown_asyncgens": "the engine closes what is left open",
    "shutdown_default_executor": "there are no threads here",
    "set_default_executor": "there are no threads here",
}


def new_loop(host: LoopHost, seed: bytes, path: str = MAIN_PATH) -> DeterministicLoop:
    """A loop. Its refused methods are made below, where no type checker sees that they exist."""
    return DeterministicLoop(host, seed, path)  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def _refuse(name: str, instead: str) -> Callable[..., NoReturn]:
    def refused(self: DeterministicLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise UsageError(f"workflow code called loop.{name}(): {instead}. Nothing was done.")

    refused.__name__ = name
    return refused


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(DeterministicLoop):
        setattr(DeterministicLoop, _name, _refuse(_name, _REFUSED.get(_name, f"it reaches outside the workflow; {_IN_A_STEP}")))
