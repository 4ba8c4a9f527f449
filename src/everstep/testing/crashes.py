"""
Kill a workflow everywhere, and see that it made no difference.

    uninterrupted ──▶ result, and the list of durable points
    for each point:  ──▶ killed before it ─┐
                     ──▶ killed after it  ─┴─▶ resumed by a fresh engine ──▶ the same result? each step completed once?

A durable point is a write to the store: a commit, the creation of a run, a message, a claim. Between two of them a crash makes
no other difference than at one of them, as far as the store can tell; what a step had done *outside* by then is for ``check``.

The kill is in this process: the connection to the store dies at that instruction, tasks are cancelled and nothing is handed
back. Unlike a real one it lets a body's ``finally`` run, a thread go on to its end, and globals live on. So state that a
workflow keeps in a global is found out by its being there twice.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from everstep.client import Ending
from everstep.definitions import Call, Workflow
from everstep.errors import UsageError
from everstep.events import (
    Event,
    RunCancelled,
    RunDied,
    RunFailed,
    RunPaused,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    StepOutcomeUnknown,
    StepScheduled,
    decode_events,
)
from everstep.journal import Entry, verify_chain
from everstep.stores.base import Append, Claims, RunFilter, Write
from everstep.stores.memory import MemoryStore
from everstep.testing.connection import Connection
from everstep.testing.env import EnvEngine, is_loop_running, on_a_loop_of_its_own
from everstep.testing.virtual import VirtualTime, virtual_time

T = TypeVar("T")

RUN_ID = "crash-everywhere"
RUNS_MAX = 1000
BEFORE, AFTER = "before", "after"
ATTEMPTS = re.compile(r"after \d+ attempts?")
OUTCOMES = (StepCompleted, StepFailed, StepOutcomeUnknown)


@dataclass(frozen=True)
class CrashReport:
    """What was tried.

    Attributes:
        points: Durable points of the uninterrupted run.
        kills: How often the run was killed and resumed: before and after each point, as far as that is not the same.
    """

    points: int
    kills: int


@dataclass(frozen=True)
class Effects:
    """What one execution came to, for a ``check``.

    Attributes:
        point: Where it was killed; empty for the uninterrupted one.
        run_id: The run; the same each time.
        result: What the workflow returned, or None.
        error: What it raised instead, as ``type: message``, or empty.
        completed: How often each step completed, by name, in all runs.
    """

    point: str
    run_id: str
    result: Any
    error: str
    completed: Mapping[str, int]


@dataclass(frozen=True)
class _Target:
    """Where to kill: which durable point, by its number from 1, and on which side of it."""

    number: int
    side: str
    what: str
    count: int

    def __str__(self) -> str:
        return f"killed {self.side} durable point {self.number} of {self.count} ({self.what})"


@dataclass(frozen=True)
class _Outcome:
    """How an execution ended: what must be the same each time."""

    status: str
    value: bytes | str


@dataclass(frozen=True)
class _Life:
    """One execution from its start to its end, with a kill in it or without."""

    outcome: _Outcome
    journals: Mapping[str, Sequence[Entry]]
    heads: Mapping[str, bytes]
    points: Sequence[str]
    was_killed: bool


def crash_everywhere(
    call: Call[Any],
    *,
    workflows: Iterable[Workflow[..., Any]] = (),
    check: Callable[[Effects], object] | None = None,
    prepare: Callable[[], object] | None = None,
) -> CrashReport:
    """Run a workflow once uninterrupted, and once for every durable point: killed there, and resumed.

    Works in plain and in asynchronous tests: it has an event loop of its own, on virtual time.

    Args:
        call: A call of a workflow; it is used up. Each execution gets its own copy of the arguments.
        workflows: What else the engine knows. List the children here, as for an engine in production: one that is new does not
            know the children that a waiting run had begun before.
        check: Called after each execution; raises (an ``assert`` will do) if the effects outside are not as they should be.
        prepare: Called before each execution: sets what ``check`` looks at back to how it was.

    Raises:
        AssertionError: An execution ended otherwise, a step completed twice, a journal does not verify, or ``check`` raised;
            the message names the point.
        UsageError: It is no call of a workflow.
    """
    workflow, encoded = _taken(call)
    subject = _Subject(workflow, encoded, (workflow, *workflows))
    experiment = _Experiment(subject, check, prepare)
    if not is_loop_running():
        return experiment.run()
    # A loop that runs in this thread would be in the way; blocking it is what a plain function does anyway.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="crash_everywhere") as thread:
        return thread.submit(context.run, experiment.run).result()


def _taken(call: Call[Any]) -> tuple[Workflow[..., Any], bytes]:
    if not isinstance(call.definition, Workflow):
        call.close()
        raise UsageError(f"crash_everywhere({call!r}): not a call of a workflow. Nothing was run. Call a workflow in it.")
    call.take()
    return call.definition, call.encoded()


@dataclass(frozen=True)
class _Subject:
    """What is run: a workflow, its encoded arguments, and what its engine knows."""

    workflow: Workflow[..., Any]
    encoded: bytes
    known: tuple[Workflow[..., Any], ...]

    def call(self) -> Call[Any]:
        """The call, with arguments of its own."""
        args, kwargs = self.workflow.arguments.decode(self.encoded)
        return self.workflow(*args, **kwargs)


class _Experiment:
    """The executions of one workflow, and what is asked of them."""

    def __init__(
        self, subject: _Subject, check: Callable[[Effects], object] | None, prepare: Callable[[], object] | None
    ) -> None:
        self._subject = subject
        self._workflow = subject.workflow
        self._check = check
        self._prepare = prepare

    def run(self) -> CrashReport:
        """All of them."""
        expected = self._live(None)
        targets = targets_of(expected.points)
        kill_count = 0
        for target in targets:
            life = self._live(target)
            kill_count += life.was_killed
            if life.outcome != expected.outcome:
                raise AssertionError(self._differs(target, expected.outcome, life.outcome))
        return CrashReport(len(expected.points), kill_count)

    def _live(self, target: _Target | None) -> _Life:
        where = "uninterrupted" if target is None else str(target)
        if self._prepare is not None:
            self._prepare()
        try:
            life = on_a_loop_of_its_own(_live(self._subject, target))
            _check_journals(life)
            if self._check is not None:
                self._check(self._effects(life, target))
        except (Exception, asyncio.CancelledError) as error:
            raise AssertionError(f"{self._workflow.name}, {where}: {str(error) or type(error).__name__}") from error
        return life

    def _effects(self, life: _Life, target: _Target | None) -> Effects:
        value = life.outcome.value
        result = self._workflow.result.decode(value) if isinstance(value, bytes) else None
        return Effects(
            point="" if target is None else str(target),
            run_id=RUN_ID,
            result=result,
            error=value if isinstance(value, str) else "",
            completed=_completed(life.journals),
        )

    def _differs(self, target: _Target, expected: _Outcome, found: _Outcome) -> str:
        return (
            f"{self._workflow.name}, {target}: it did not end as it does uninterrupted.\n"
            f"  uninterrupted: {_shown(expected)}\n"
            f"  resumed:       {_shown(found)}\n"
            "What it did before the kill is replayed from its journal. So look for what is not in there: state outside the "
            "workflow, or a clock or randomness that is not everstep's."
        )


def targets_of(points: Sequence[str]) -> list[_Target]:
    """Both sides of every durable point. Pure."""
    count = len(points)
    # A claim that was never made is no event: before it is the same as after the point that it follows.
    sides = [(number, what, side) for number, what in enumerate(points, 1) for side in (BEFORE, AFTER)]
    return [_Target(number, side, what, count) for number, what, side in sides if (what, side) != ("claim", BEFORE)]


def _shown(outcome: _Outcome) -> str:
    value = outcome.value
    return f"{outcome.status} {value.decode() if isinstance(value, bytes) else value}"


# --- one execution --------------------------------------------------------------------------------------------------------


class _Deadly(Connection):
    """A connection that counts durable points, and whose process dies at one of them."""

    def __init__(self, inner: MemoryStore, target: _Target | None, wrote: Callable[[], None]) -> None:
        super().__init__(inner)
        self.points: list[str] = []
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.die: Callable[[], None] = lambda: None
        self._target = None if target is None else (target.number, target.side)
        self._wrote = wrote

    async def ask(self, verb: str, arguments: tuple[Any, ...], act: Callable[[], Awaitable[T]]) -> T:
        if self.is_dead or verb not in {"commit", "create", "post", "claim"}:
            return await super().ask(verb, arguments, act)
        if verb != "claim":
            await self._pass(len(self.points) + 1, BEFORE)
        answer = await act()
        if not isinstance(answer, Claims) or answer.runs or answer.died:
            self._wrote()
            self.points.append(verb if verb != "commit" else describe_batch(arguments[0]))
            await self._pass(len(self.points), AFTER)
        return answer

    async def _pass(self, number: int, side: str) -> None:
        if self._target == (number, side):
            self.is_dead = True
            self.die()
            asyncio.get_running_loop().call_soon(self.die)  # A run that was just being begun is among its runs only now.
            self.died.set_result(None)
            await asyncio.Event().wait()  # The process is no more: nobody hears of the answer.


def describe_batch(batch: Sequence[Write]) -> str:
    """What a commit writes, for a message. Pure."""
    words = [_describe(write) for write in batch]
    return "commit of " + "; ".join(words)


def _describe(write: Write) -> str:
    if not isinstance(write, Append):
        return "attempts"
    return ", ".join(_named(event) for event in decode_events(write.entry.events))


def _named(event: Event) -> str:
    name = f" {event.step}" if isinstance(event, StepScheduled) else ""
    return f"{type(event).__name__}{name}"


async def _live(subject: _Subject, target: _Target | None) -> _Life:
    with virtual_time() as virtual:
        store = MemoryStore(virtual.clock.now, virtual.clock.monotonic)
        await store.open()
        connection = _Deadly(store, target, virtual.mark)
        outcome = await _first_engine(connection, subject)
        if outcome is None:
            await _bury(connection, store, virtual)
            outcome = await _drive(EnvEngine(_Deadly(store, None, virtual.mark), subject.known), subject)
        runs = await store.list(RunFilter(limit=RUNS_MAX))
        journals = {run.run_id: await store.load(run.run_key) for run in runs}
        return _Life(outcome, journals, {run.run_id: run.hash for run in runs}, connection.points, connection.died.done())


async def _first_engine(connection: _Deadly, subject: _Subject) -> _Outcome | None:
    """Drive the run until it ends, or the engine dies: then None."""
    engine = EnvEngine(connection, subject.known)
    connection.die = engine.die
    attempt = asyncio.ensure_future(_drive(engine, subject))
    first: list[asyncio.Future[Any]] = [attempt, connection.died]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if not connection.died.done():
        return attempt.result()
    attempt.cancel()
    await asyncio.wait([attempt])
    return None


async def _drive(engine: EnvEngine, subject: _Subject) -> _Outcome:
    await engine.open()
    try:
        await engine.start(subject.call(), id=RUN_ID)
        return _outcome_of(await engine.wait_until_rest(RUN_ID, None))
    finally:
        if not (isinstance(engine.store, Connection) and engine.store.is_dead):
            await engine.close()


async def _bury(connection: Connection, store: MemoryStore, virtual: VirtualTime) -> None:
    """Let what was cancelled unwind and threads end, then let others notice."""
    await virtual.settle()
    for worker_key in connection.worker_keys:
        store.kill(worker_key)


# --- what is asked of it --------------------------------------------------------------------------------------------------


def _outcome_of(run: Ending) -> _Outcome:
    last = decode_events(run.outcome)[-1] if run.outcome else None
    match last:
        case RunSucceeded(result=result):
            return _Outcome("succeeded", bytes(result))
        case RunFailed(error=error):
            # An attempt that a kill cut short counts as one, and the message of a failed step says how many there were.
            return _Outcome("failed", f"{error.type}: {ATTEMPTS.sub('after some attempts', error.message)}")
        case RunCancelled(reason=reason) | RunDied(reason=reason) | RunPaused(reason=reason):
            return _Outcome(str(run.status), reason)
        case _:
            return _Outcome(str(run.status), "")


def _check_journals(life: _Life) -> None:
    for run_id, entries in life.journals.items():
        if entries:
            verify_chain(entries, run_key=entries[0].run_key, run_id=run_id, head=life.heads[run_id])
        events = [event for entry in entries for event in entry.decoded()]
        counts = Counter(event.key for event in events if isinstance(event, OUTCOMES))
        names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
        twice = [f"{names.get(key, '?')} ({key})" for key, count in counts.items() if count > 1 or key not in names]
        if twice:
            raise AssertionError(f"run {run_id}: these steps have more than one outcome in the journal: {', '.join(twice)}")


def _completed(journals: Mapping[str, Sequence[Entry]]) -> Mapping[str, int]:
    completed: Counter[str] = Counter()
    for entries in journals.values():
        events = [event for entry in entries for event in entry.decoded()]
        names = {event.key: event.step for event in events if isinstance(event, StepScheduled)}
        completed.update(names.get(event.key, "?") for event in events if isinstance(event, StepCompleted))
    return completed
