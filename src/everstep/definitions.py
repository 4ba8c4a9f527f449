"""
What a user defines: steps and workflows, and the calls that they return.

A ``Call`` is a value: typed, not started, awaitable. Who awaits it decides what it means: inside a workflow it becomes a
recorded step or child run; given to an engine it becomes a run; awaited anywhere else it simply calls the function, so that
business code stays testable. A definition is checked where it is written: what cannot work later is refused here.

The registry is a value (``Registry``): there is no process-wide one, and decorating registers nothing.
"""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from asyncio import (
    Future,
    _get_running_loop,  # pyright: ignore[reportPrivateUsage]  # the one that answers None instead of raising
)
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, Generic, Literal, NoReturn, ParamSpec, Protocol, TypeAlias, TypeGuard, TypeVar, cast, overload

from everstep import errors
from everstep.ambient import step_scope
from everstep.codec import ArgumentsCodec, ValueCodec, codec_for
from everstep.errors import CallAlreadyUsed, UsageError
from everstep.ids import check_name, check_version
from everstep.queues import Queue
from everstep.records import Relaxed, RunRecord
from everstep.retry import Retry, as_retry

Durability: TypeAlias = Literal["durable", "relaxed"] | Relaxed
RELAXED_SECONDS_MAX = 60.0
RELAXED_STEPS_MAX = 10_000

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


# --- calls ----------------------------------------------------------------------------------------------------------------


class Call(Coroutine[Any, Any, R_co]):
    """One call of a step or workflow, described but not started. Await it, or start it, once."""

    __slots__ = ("_hash", "_iterator", "_used", "args", "definition", "kwargs", "source")

    def __init__(self, definition: Definition, args: tuple[Any, ...], kwargs: Mapping[str, Any], source: str) -> None:
        self.definition = definition
        self.args = args
        self.kwargs = kwargs
        self.source = source
        self._used = False
        self._iterator: Generator[Any, Any, R_co] | None = None

    def encoded(self) -> bytes:
        """The arguments as one JSON object, by parameter name.

        Raises:
            TypeError: They do not fit the signature.
            Unencodable: One of them cannot be stored; says which, and where in it.
        """
        return self.definition.arguments.encode(self.args, self.kwargs)

    def take(self) -> Definition:
        """Use the call up.

        Raises:
            CallAlreadyUsed: It was used before.
        """
        if self._used:
            raise CallAlreadyUsed(
                f"{self!r} was already awaited or started. It was not run a second time. Call {self.definition.name}(…) again "
                "for a second one."
            )
        self._used = True
        return self.definition

    def __await__(self) -> Generator[Any, Any, R_co]:
        scope = getattr(_get_running_loop(), "scope", None)
        if scope is not None:
            self.take()
            future: Future[R_co] = scope.issue(self)
            return future.__await__()
        return self._plainly().__await__()

    async def _plainly(self) -> R_co:
        """No workflow around: just call the function."""
        self.take()
        inside = step_scope.get()
        if inside is not None:
            raise UsageError(
                f"{self!r} was awaited inside the step {inside.step} of run {inside.run_id}. It was not run: a step is one "
                "recorded unit, and what it calls would not be recorded. Call it from the workflow, or call the plain "
                f"function: {self.definition.name}.function(…)."
            )
        result: Any = self.definition.call_plainly(self.args, self.kwargs)
        value: R_co = await result if inspect.isawaitable(result) else result
        return value

    # The coroutine protocol, so that create_task, gather and TaskGroup take a call as they take a coroutine.

    def send(self, value: Any, /) -> Any:
        """Part of the coroutine protocol."""
        if self._iterator is None:
            self._iterator = self.__await__()
        return self._iterator.send(value)

    def throw(self, *error: Any) -> Any:
        """Part of the coroutine protocol: also how a task that is cancelled before its first step ends a call."""
        if self._iterator is None:
            self._used = True
            self._iterator = _unstarted()
        return self._iterator.throw(*error)

    def close(self) -> None:
        """Part of the coroutine protocol: the call will not be awaited, and needs no warning."""
        self._used = True
        if self._iterator is not None:
            self._iterator.close()

    # What no type checker notices: using the call where its result was meant.

    def _forgotten(self, used_as: str) -> NoReturn:
        raise UsageError(f"{self!r} was {used_as}, but it is a call that has not run. Did you forget await?")

    def __bool__(self) -> bool:
        self._forgotten("tested for truth")

    def __eq__(self, other: object) -> bool:
        # Identity is what dicts and sets of asyncio need; any other comparison is a mistake.
        return True if self is other else self._forgotten("compared")

    def __hash__(self) -> int:
        # In a workflow by the order of first use, so that a set of calls iterates alike in every process.
        try:
            return self._hash
        except AttributeError:
            next_hash: Callable[[], int] | None = getattr(_get_running_loop(), "next_hash", None)
            self._hash: int = object.__hash__(self) if next_hash is None else next_hash()
            return self._hash

    def __iter__(self) -> Iterator[Any]:
        self._forgotten("iterated over")

    def __repr__(self) -> str:
        shown = [_shown(value) for value in self.args] + [f"{name}={_shown(value)}" for name, value in self.kwargs.items()]
        text = f"{self.definition.name}({', '.join(shown)})"
        return text if len(text) <= 120 else text[:119] + "…"

    def __del__(self) -> None:
        # _used is missing when __init__ itself was interrupted. A run that leaves memory may well drop calls: they come again.
        if not getattr(self, "_used", True) and not getattr(_get_running_loop(), "is_closing", False):
            warnings.warn(f"call {self!r} was never awaited or started", RuntimeWarning, stacklevel=2, source=self)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # the user's code; a message about the call must not fail for what is in it
        return f"<{type(value).__name__}>"


def _unstarted() -> Generator[Any, Any, Any]:
    yield


# --- definitions ----------------------------------------------------------------------------------------------------------


_sources: dict[tuple[str, int], str] = {}
"""Names of the lines that call steps: as many as there are such lines, looked up at every call."""


class _Base:
    """What steps and workflows have in common."""

    def __init__(self, function: Callable[..., Any], name: str | None, what: str) -> None:
        self.function = _plain_function(function, what)
        self.name = check_name(_default_name(self.function) if name is None else name, what)
        self.is_async = inspect.iscoroutinefunction(self.function)
        self.__doc__ = self.function.__doc__
        self.__name__ = self.function.__name__
        self.__qualname__ = self.function.__qualname__
        self.__module__ = self.function.__module__
        self.__wrapped__ = self.function

    @cached_property
    def arguments(self) -> ArgumentsCodec:
        """Arguments to bytes and back; made at first use, because annotations may name things defined further down."""
        return ArgumentsCodec(self.function)

    @cached_property
    def result(self) -> ValueCodec[Any]:
        """The result to bytes and back."""
        return codec_for(_return_type(self.function), root="result")

    def call_plainly(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What awaiting a call means outside a workflow: the function is called."""
        return self.function(*args, **kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
        # Two frames up is the user's line. Kept as text: a frame would keep everything that it refers to alive.
        frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
        place = frame.f_code.co_filename, frame.f_lineno
        source = _sources.get(place)
        if source is None:
            source = _sources[place] = f"{place[0].rpartition('/')[2]}:{place[1]}"
        return Call(cast("Definition", self), args, kwargs, source)


class Step(_Base, Generic[P, R]):
    """A function with side effects whose outcome is recorded once. Made by ``@es.step``."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: float | None = None,
        heartbeat_timeout: float | None = None,
        at_most_once: bool = False,
    ) -> None:
        super().__init__(function, name, "step")
        self.retry = as_retry(retry)
        self.timeout = _check_seconds(timeout, "timeout")
        self.heartbeat_timeout = _check_seconds(heartbeat_timeout, "heartbeat_timeout")
        self.is_limited = timeout is not None or heartbeat_timeout is not None
        self.at_most_once = at_most_once
        if at_most_once and self.retry.attempts != 1:
            raise UsageError(
                f"step {self.name}: at_most_once=True and retry={retry!r} contradict one another. Leave one of them out: an "
                "at-most-once step is never executed again, whatever became of it."
            )

    @cached_property
    def body(self) -> Callable[..., Any]:
        """What an attempt executes."""
        return self.function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        return self._call(args, kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    @property
    def must_be_known_first(self) -> bool:
        """That it was asked for has to be durable before it is begun, whatever the run's durability is."""
        return self.at_most_once

    @cached_property
    def fingerprint(self) -> str:
        """What tells one code of the step from another, without line numbers."""
        return _digest_code(self.function.__code__)

    @property
    def types(self) -> tuple[dict[str, Any], Any]:
        """The declared types of the parameters, by name, and of the result."""
        hints = _hints(self.function)
        returned = hints.pop("return", Any)
        return {name: hints.get(name, Any) for name in inspect.signature(self.function).parameters}, returned


class Workflow(_Base, Generic[P, R]):
    """The order in which steps happen. Made by ``@es.workflow``."""

    is_pipeline = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        version: str | None = None,
        timeout: float | None = None,
        max_recoveries: int = 20,
        durability: Durability = "durable",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(function, name, "workflow")
        if not self.is_async:
            raise UsageError(
                f"workflow {self.name} is a plain function. Write it as 'async def': its code is replayed by a deterministic "
                "event loop. (Its steps may be plain functions.)"
            )
        if type(max_recoveries) is not int or max_recoveries < 0:
            raise UsageError(f"workflow {self.name}: max_recoveries={max_recoveries!r}: give a whole number, at least 0.")
        self.version = None if version is None else check_version(version, self.name)
        self.timeout = _check_seconds(timeout, "timeout")
        self.max_recoveries = max_recoveries
        self.relaxed = _relaxed(durability, self.name)
        self.tags = dict(tags or {})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        return self._call(args, kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    @cached_property
    def fingerprint(self) -> str:
        """What tells one code from another: the bytecode of everything in the workflow's module, without line numbers."""
        module = self.function.__module__
        functions = {name: _code_of(value) for name, value in self.function.__globals__.items()}
        here = [_digest_code(code) for name, code in sorted(functions.items()) if code and _module_of(self, name) == module]
        return sha256("".join([_digest_code(self.function.__code__), *here]).encode()).hexdigest()[:12]

    @property
    def code_version(self) -> str:
        """The version given, or the fingerprint."""
        return self.version or self.fingerprint


Definition: TypeAlias = Step[..., Any] | Workflow[..., Any]


def require_call(call: object, who: str) -> None:
    """Return if it is a call.

    Raises:
        UsageError: It is a definition whose parentheses were forgotten, or something else.
    """
    if isinstance(call, Call):
        return
    if isinstance(call, _Base):
        hint = f"Call it: {call.name}(…)."
    else:
        hint = "Give it the call of a function that is decorated with @es.workflow."
    if inspect.iscoroutine(call):
        call.close()
    raise UsageError(f"{who} takes the call of a workflow, not {call!r}. Nothing was started. {hint}")


class Registry:
    """The workflows that an engine knows, by name and version.

    A run that was started on a version is driven by that version and no other. Any code of its name may try to drive a run that
    was not; if there are several, the one that it began on comes first, then the one listed last.

    Raises:
        UsageError: Two different workflows have the same name and version, or something else than a workflow was given.
    """

    def __init__(self, workflows: Iterable[Workflow[..., Any]] = ()) -> None:
        self._by_name: dict[str, list[Workflow[..., Any]]] = {}
        for workflow in workflows:
            self.add(workflow)

    def add(self, workflow: Workflow[..., Any]) -> None:
        """Make a workflow known. Safe to repeat."""
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
            raise UsageError(f"{workflow!r} is no workflow. Decorate the function with @es.workflow.")
        known = self.find(workflow.name, workflow.version)
        if known is None:
            self._by_name.setdefault(workflow.name, []).append(workflow)
        elif known is not workflow:
            raise UsageError(
                f"two workflows are named {workflow.name!r} ({known.__module__} and {workflow.__module__}). Give one of them "
                "another name: @es.workflow(name=…), or another version: @es.workflow(version=…)."
            )

    def get(self, name: str) -> Workflow[..., Any] | None:
        """The workflow of that name, or None; of several versions the one listed last."""
        return self._by_name.get(name, [None])[-1]

    def find(self, name: str, version: str | None) -> Workflow[..., Any] | None:
        """The workflow of that name in exactly that version, or None."""
        return next((each for each in self._by_name.get(name, ()) if each.version == version), None)

    def code_for(self, run: RunRecord, keys: str = "") -> Workflow[..., Any] | None:
        """The code that drives a run, or None if none may."""
        if run.pinned:
            return self.find(run.workflow, run.pinned)
        refused = run.refused_by.split()
        willing = [each for each in self._by_name.get(run.workflow, ()) if each.fingerprint + keys not in refused]
        began_on = [each for each in willing if run.code_version in (each.version, each.fingerprint)]
        return next(reversed(began_on or willing), None)

    def fingerprints(self, keys: str = "") -> dict[str, str]:
        """The fingerprints of all code of each workflow, by name: sorted, separated by blanks.

        Args:
            keys: Added to each: a worker with other keys may read what this one cannot.
        """
        return {name: " ".join(sorted({each.fingerprint + keys for each in codes})) for name, codes in self._by_name.items()}

    def versions(self, keys: str = "") -> dict[tuple[str, str], str]:
        """The fingerprint of each workflow that has a version, by name and version; ``keys`` as above."""
        return {(each.name, each.version): each.fingerprint + keys for each in self if each.version}

    def __iter__(self) -> Iterator[Workflow[..., Any]]:
        return (each for codes in self._by_name.values() for each in codes)


def declared_errors(definition: Definition) -> Mapping[str, type[BaseException]]:
    """Exception types that a stored error of this definition may be rebuilt as, by qualified name.

    Those of everstep, those that its retry policy names, and those that stand by name in its own module: they are in the
    program already, so nothing is ever imported for the sake of stored data.
    """
    named = [value for value in definition.function.__globals__.values() if _is_error(value)]
    ours = [value for value in vars(errors).values() if _is_error(value)]
    policy = (*definition.retry.on, *definition.retry.give_up_on) if isinstance(definition, Step) else ()
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (*ours, *named, *policy)}


def _is_error(value: object) -> TypeGuard[type[BaseException]]:
    return isinstance(value, type) and issubclass(value, BaseException)


def with_children(workflows: Iterable[Workflow[..., Any]]) -> list[Workflow[..., Any]]:
    """These workflows, and those that their code names: the children that it may await.

    Found in the names that the code and the plain functions it calls look up in their modules. A child that is chosen in
    another way (out of a dictionary, say) has to be listed.
    """
    found: dict[int, Workflow[..., Any]] = {}
    seen: set[int] = set()
    left: list[object] = list(workflows)
    while left:
        value = left.pop(0)
        function = value.function if isinstance(value, Workflow) else value
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        if isinstance(value, Workflow):
            found[id(function)] = value
        left += [each for each in _named_by(function) if isinstance(each, Workflow | types.FunctionType)]
    return list(found.values())


def queues_of(workflows: Iterable[Workflow[..., Any]]) -> list[Queue]:
    """The queues that the code of these workflows names, and that of the plain functions it calls."""
    found: dict[str, Queue] = {}
    seen: set[int] = set()
    left: list[object] = [each.function for each in workflows]
    while left:
        function = left.pop(0)
        if not isinstance(function, types.FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        named = _named_by(function)
        found |= {each.name: each for each in named if isinstance(each, Queue)}
        left += [each for each in named if isinstance(each, types.FunctionType)]
    return list(found.values())


def _named_by(function: types.FunctionType) -> list[object]:
    """What the names in a function's code stand for in its module, and in modules that it names."""
    names = set(_names_in(function.__code__))
    values = [function.__globals__[name] for name in sorted(names & function.__globals__.keys())]
    values += [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
    modules = [value for value in values if isinstance(value, types.ModuleType)]
    return values + [vars(module)[name] for module in modules for name in sorted(names & vars(module).keys())]


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names_in(const)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # looking is how one finds out
    except ValueError:
        return True
    return False


def workflows_near(workflow: Workflow[..., Any]) -> list[Workflow[..., Any]]:
    """The workflow and all others in its module: what a script that runs one of them is able to drive."""
    others: list[Workflow[..., Any]] = [
        value for value in workflow.function.__globals__.values() if isinstance(value, Workflow)
    ]
    return [workflow, *(other for other in others if other is not workflow)]


# --- decorators -----------------------------------------------------------------------------------------------------------


class StepDecorator(Protocol):
    """What ``@es.step(…)`` with options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...


class WorkflowDecorator(Protocol):
    """What ``@es.workflow(…)`` with options returns."""

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...


@overload
def step(function: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    timeout: float | None = None,
    heartbeat_timeout: float | None = None,
    at_most_once: bool = False,
) -> StepDecorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Define a step: a sync or async function whose outcome is recorded once.

    Args:
        function: The body. A plain function runs in a thread. A static method is fine; a method is refused, because ``self``
            cannot be stored.
        name: What the journal calls it; default the function's name. Renaming the function without setting this strands runs.
        retry: A policy, or a number of attempts; default a single one.
        timeout: Seconds that one attempt may take. A plain function cannot be stopped: its thread lives on.
        heartbeat_timeout: Seconds that may pass between two ``es.heartbeat()`` calls.
        at_most_once: Never execute it a second time; after a crash in between, the workflow gets ``StepOutcomeUnknown``. A
            frozen worker's effect may still land later; the epoch in ``es.current()`` is a fencing token for receivers that
            compare.

    Raises:
        UsageError: The options contradict one another, or the function cannot be a step.
    """

    def define(function: Callable[..., Any]) -> Step[..., Any]:
        return Step(function, **options)

    return define if function is None else define(function)


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    version: str | None = None,
    timeout: float | None = None,
    max_recoveries: int = 20,
    durability: Durability = "durable",
    tags: Mapping[str, str] | None = None,
) -> WorkflowDecorator: ...
def workflow(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Define a workflow: an async function that is replayed, so it must do nothing but decide; its steps do the work.

    Args:
        function: The code.
        name: What the journal calls it; default the function's name.
        version: A name for this version of the code. A run that starts on it is only ever driven by workers that have this
            version; an engine may list several versions of one name. Without it any code of the name may go on with the run,
            and the replay check decides.
        timeout: Seconds that a run may take in all, waiting included. It is then cancelled and ends as failed.
        max_recoveries: More workers than this may not die while driving a run without progress; it is then given up as dead.
        durability: ``durable``: what a step came to is on disk before the next one begins. ``relaxed`` (or ``es.Relaxed(…)``):
            the journal is written behind; a killed process loses the newest steps within a bound, and they are done again.
        tags: Put on every run.

    Raises:
        UsageError: The function cannot be a workflow.
    """

    def define(function: Callable[..., Any]) -> Workflow[..., Any]:
        return Workflow(function, **options)

    return define if function is None else define(function)


def _relaxed(durability: object, name: str) -> Relaxed | None:
    match durability:
        case "durable":
            return None
        case "relaxed":
            return Relaxed()
        case Relaxed(seconds=seconds, steps=steps) if 0 < seconds <= RELAXED_SECONDS_MAX and 1 <= steps <= RELAXED_STEPS_MAX:
            return durability
        case _:
            raise UsageError(
                f"workflow {name}: durability={durability!r}: give 'durable', 'relaxed', or es.Relaxed(seconds=…, steps=…) "
                f"with at most {RELAXED_SECONDS_MAX:g} s and {RELAXED_STEPS_MAX:,} steps."
            )


# --- checks ---------------------------------------------------------------------------------------------------------------


def _plain_function(function: Any, what: str) -> types.FunctionType:
    """Unwrap a static method; refuse what cannot be stored or replayed."""
    if isinstance(function, staticmethod):
        function = cast("staticmethod[..., Any]", function).__func__
    if not isinstance(function, types.FunctionType):
        raise UsageError(f"a {what} must be a function defined with def or async def, not {function!r}.")
    parameters = list(inspect.signature(function).parameters)
    in_class = "." in function.__qualname__.rpartition("<locals>.")[2]
    if in_class and parameters and parameters[0] in ("self", "cls"):
        raise UsageError(
            f"{function.__qualname__} is a method: its {parameters[0]!r} cannot be stored. Make it a function or a static "
            "method that takes what it needs as arguments."
        )
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise UsageError(f"{function.__qualname__} is a generator. A {what} returns one result: return a list, or split it.")
    return function


def _default_name(function: types.FunctionType) -> str:
    return function.__qualname__.rpartition("<locals>.")[2]


def _check_seconds(value: float | None, what: str) -> float | None:
    if value is not None and not (type(value) in (int, float) and 0 < value < float("inf")):
        raise UsageError(f"{what}={value!r}: give a positive number of seconds, or None for no limit.")
    return value


def _return_type(function: Callable[..., Any]) -> Any:
    hints = _hints(function)
    return hints.get("return", Any)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    from typing import get_type_hints

    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"{function.__qualname__}: the annotation {error.name!r} is not defined where the function is. Import it at module "
            "level, not only for type checking: everstep needs it at run time to read values back."
        ) from error


def _code_of(value: object) -> types.CodeType | None:
    if isinstance(value, _Base):
        value = value.function
    return value.__code__ if isinstance(value, types.FunctionType) else None


def _module_of(workflow: Workflow[..., Any], name: str) -> str | None:
    return getattr(workflow.function.__globals__[name], "__module__", None)


def _digest_code(code: types.CodeType) -> str:
    """A digest of what the code does: neither lines, nor file, nor the hash seed change it."""
    consts = [_digest_code(const) if isinstance(const, types.CodeType) else _stable_repr(const) for const in code.co_consts]
    parts = (code.co_name, code.co_code.hex(), repr(code.co_names), repr(code.co_varnames), "|".join(consts))
    return sha256("\x00".join(parts).encode()).hexdigest()


def _stable_repr(value: object) -> str:
    if isinstance(value, frozenset):
        return f"frozenset{sorted(map(_stable_repr, cast('frozenset[object]', value)))}"
    return repr(value)
