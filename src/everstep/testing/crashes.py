"""
Kill a workflow everywhere, and see that it made no difference.

    uninterrupted ──▶ result and effects, and the list of durable points
    for each point:  ──▶ killed before it ─┐
                     ──▶ killed after it  ─┴─▶ resumed by a fresh engine ──▶ the same result, the same effects?

With ``depth=2`` the recovery is killed as well, at each of *its* points, and so on. There are two ways to kill: ``simulated``
in this process, which is quick and exact (``crash_simulated``), and ``process``, which is a SIGKILL (``crash_process``).
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar, get_args

from everstep.client import Handle, closing_if_refused
from everstep.definitions import Call, Workflow
from everstep.errors import UsageError
from everstep.testing import crash_process, crash_simulated
from everstep.testing.crash_life import RUN_ID, Drive, Execution, Subject, check_journals, completed_in, difference
from everstep.testing.crash_points import Plan, describe_plan, parse_plan, plan_text, sampled, targets_of
from everstep.testing.env import is_loop_running, on_a_loop_of_its_own

R = TypeVar("R")
T = TypeVar("T")
KillKind = Literal["simulated", "process"]
Make = Callable[[Path], Subject]

COMPOUND_SAMPLES = 100
"""How many plans of each further depth are tried, unless told: there are some thousands for a run of ten steps."""
PROCESSES_MAX = 4


@dataclass(frozen=True)
class CrashReport:
    """What was tried.

    Attributes:
        points: Durable points of the uninterrupted run.
        kills: How often it was killed and resumed: before and after each point, as far as that is not the same; each kill of
            a compound crash counts.
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
        folder: The folder of this execution: what was given to the function that made the call.
    """

    point: str
    run_id: str
    result: Any
    error: str
    completed: Mapping[str, int]
    folder: Path


def crash_everywhere(
    call: Call[R] | Callable[[Path], Call[R]],
    *,
    workflows: Iterable[Workflow[..., Any]] = (),
    effects: Callable[[Path], object] | None = None,
    at_least_once: bool = False,
    check: Callable[[Effects], object] | None = None,
    prepare: Callable[[], object] | None = None,
    drive: Callable[[Handle[R]], Awaitable[object]] | None = None,
    kill: KillKind = "simulated",
    depth: int = 1,
    samples: int | None = None,
    seed: int = 0,
    only: str = "",
) -> CrashReport:
    """Run a workflow once uninterrupted, and once for every durable point: killed there, and resumed.

    Works in plain and in asynchronous tests: it has an event loop of its own. It prints nothing.

    Args:
        call: A call of a workflow; it is used up, and each execution gets its own copy of the arguments. Or a function that
            makes one: it is given an empty folder of that execution, to keep apart what each leaves outside, and is called
            once for each. Only then several processes run at once.
        workflows: What else the engine knows. List the children here, as for an engine in production: one that is new does not
            know the children that a waiting run had begun before.
        effects: What the execution left outside, as something that can be compared: it must be as it is uninterrupted. Given
            the folder of that execution. With ``kill="process"`` the store is ``state.db`` beside it: there are the rows of
            transactions (which a simulated kill cannot have: its store is in memory).
        at_least_once: ``effects`` gives things that can be counted (or a Counter): each may be there once more for each kill,
            because a step that was cut short is executed again. None may be missing, and no other may be there.
        check: Called after each execution; raises (an ``assert`` will do) if something is not as it should be.
        prepare: Called before each execution: sets what lies outside back to how it was.
        drive: What the world outside does meanwhile (send signals, wait, cancel), given a handle. It begins when the run
            exists, is never killed, and has to end.
        kill: ``simulated`` in this process, on virtual time; or ``process``: SIGKILL to a process that has the workflow
            imported, on a file of SQLite. Two processes for each point, half a second or so. On virtual time too, unless
            there is a ``drive``: that one lives here, and time is then the machine's.
        depth: How many kills in a row: 2 kills the recovery too, at each of its own points.
        samples: At most so many kills of each depth, drawn with ``seed``. None for all of the first depth, and 100 of each
            further one.
        seed: For ``samples``.
        only: Just one of them, as a failure names it: ``before 5``, or ``before 5, after 2``.

    Raises:
        AssertionError: An execution ended otherwise or with other effects, a step completed twice, a journal does not verify,
            or ``check``, ``drive`` or ``effects`` raised. The message names the point, and how to try only this one again.
        UsageError: It is no call of a workflow, an option makes no sense, or a new process cannot find the workflow.
    """
    given = _as_call(call)
    with closing_if_refused(given) if given is not None else nullcontext():
        _check_options(kill, depth, samples)
        plan = parse_plan(only) if only else ()
        make = _maker(call, tuple(workflows), drive)
    options = _Options(effects, at_least_once, check, prepare, kill, depth, samples, seed, plan)
    experiment = _Experiment(make, options, count_at_once=_cores() if given is None and kill == "process" else 1)
    if not is_loop_running():
        return experiment.run()
    # A loop that runs in this thread would be in the way; blocking it is what a plain function does anyway.
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="crash_everywhere") as thread:
        return thread.submit(context.run, experiment.run).result()


def _check_options(kill: str, depth: int, samples: int | None) -> None:
    if kill not in get_args(KillKind):
        raise UsageError(f"kill={kill!r} is not known. Nothing was run. Give 'simulated' or 'process'.")
    if depth < 1 or (samples is not None and samples < 1):
        raise UsageError(f"depth={depth}, samples={samples}: both are at least 1. Nothing was run.")


def _cores() -> int:
    return min(os.cpu_count() or 1, PROCESSES_MAX)


def _as_call(value: Any) -> Call[Any] | None:
    return value if isinstance(value, Call) else None  # pyright: ignore[reportUnknownVariableType]  # of whatever result


def _maker(call: Any, workflows: tuple[Workflow[..., Any], ...], drive: Drive | None) -> Make:
    taken = None if _as_call(call) is None and callable(call) else _taken(call)

    def make(folder: Path) -> Subject:
        workflow, encoded = taken or _taken(call(folder))
        return Subject(workflow, encoded, (workflow, *workflows), drive, folder)

    return make


def _taken(value: object) -> tuple[Workflow[..., Any], bytes]:
    call = _as_call(value)
    definition = None if call is None else call.take()
    if call is None or not isinstance(definition, Workflow):
        raise UsageError(f"crash_everywhere({value!r}): not a call of a workflow. Nothing was run. Call a workflow in it.")
    return definition, call.encoded()


@dataclass(frozen=True)
class _Options:
    effects: Callable[[Path], object] | None
    at_least_once: bool
    check: Callable[[Effects], object] | None
    prepare: Callable[[], object] | None
    kill: KillKind
    depth: int
    samples: int | None
    seed: int
    only: Plan


@dataclass(frozen=True)
class _Seen:
    """One execution, and what it left outside."""

    name: str
    execution: Execution
    outside: object


class _Experiment:
    """The executions of one workflow, and what is asked of them."""

    def __init__(self, make: Make, options: _Options, *, count_at_once: int) -> None:
        self._make = make
        self._options = options
        self._count_at_once = count_at_once
        self._execute = crash_process.execute if options.kill == "process" else crash_simulated.execute

    def run(self) -> CrashReport:
        """All of them."""
        expected = self._see(())
        points = expected.execution.points[0]
        if self._options.only:
            seen = self._see(self._options.only, expected)
            return CrashReport(len(points), seen.execution.kills)
        plans: list[Plan] = [(target,) for target in targets_of(points)]
        kill_count = 0
        for depth in range(1, self._options.depth + 1):
            chosen = sampled(plans, self._samples_of(depth), self._options.seed)
            further: list[Plan] = []
            for plan, seen in zip(chosen, self._see_all(chosen, expected), strict=True):
                kill_count += seen.execution.kills
                if seen.execution.kills == len(plan):
                    further += [(*plan, target) for target in targets_of(seen.execution.points[-1])]
            plans = further
        return CrashReport(len(points), kill_count)

    def _samples_of(self, depth: int) -> int | None:
        return COMPOUND_SAMPLES if depth > 1 and self._options.samples is None else self._options.samples

    def _see_all(self, plans: Sequence[Plan], expected: _Seen) -> Iterator[_Seen]:
        if self._count_at_once == 1:
            yield from (self._see(plan, expected) for plan in plans)
            return
        context = contextvars.copy_context()

        def see(plan: Plan) -> _Seen:
            return context.copy().run(self._see, plan, expected)

        with ThreadPoolExecutor(self._count_at_once, thread_name_prefix="crash_everywhere") as threads:
            yield from threads.map(see, plans)

    def _see(self, plan: Plan, expected: _Seen | None = None) -> _Seen:
        """Execute once, and raise if it is not as it should be."""
        options = self._options
        with TemporaryDirectory(prefix="everstep-crash-", ignore_cleanup_errors=True) as place:
            folder = Path(place) / "outside"
            folder.mkdir()
            if options.prepare is not None:
                options.prepare()
            subject = self._make(folder)
            with _told(subject, plan):
                execution = on_a_loop_of_its_own(self._execute(subject, plan))
                check_journals(execution)
                outside = None if options.effects is None else options.effects(folder)
                execution = replace(execution, outcome=execution.outcome.without(folder))
                seen = _Seen(subject.workflow.name, execution, outside)
                if expected is not None:
                    self._compare(expected, seen)
                if options.check is not None:
                    options.check(_effects(subject, execution, plan))
        return seen

    def _compare(self, expected: _Seen, seen: _Seen) -> None:
        before, after = expected.execution.outcome, seen.execution.outcome
        if before != after:
            raise AssertionError(
                f"it did not end as it does uninterrupted.\n  uninterrupted: {before}\n  resumed:       {after}\n"
                "What it did before the kill is replayed from its journal. So look for what is not in there: state outside the "
                "workflow, or a clock or randomness that is not everstep's."
            )
        told = difference(expected.outside, seen.outside, seen.execution.kills, at_least_once=self._options.at_least_once)
        if told:
            raise AssertionError(
                f"it did not leave the effects that it leaves uninterrupted.\n{told}\n"
                "A step that was cut short is executed again, under the same idempotency key: let the receiver refuse a key "
                "that it has seen. If once more does no harm, say so: at_least_once=True."
            )


@contextmanager
def _told(subject: Subject, plan: Plan) -> Generator[None]:
    """Say of every failure where it happened, and how to see it again."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        again = f"\nTo try only this one again: crash_everywhere(…, only={plan_text(plan)!r})" if plan else ""
        raise AssertionError(
            f"{subject.workflow.name}, {describe_plan(plan)}: {str(error) or type(error).__name__}{again}"
        ) from error


def _effects(subject: Subject, execution: Execution, plan: Plan) -> Effects:
    value = execution.outcome.value
    return Effects(
        point=describe_plan(plan) if plan else "",
        run_id=RUN_ID,
        result=subject.workflow.result.decode(value) if isinstance(value, bytes) else None,
        error=value if isinstance(value, str) else "",
        completed=completed_in(execution.journals),
        folder=subject.folder,
    )
