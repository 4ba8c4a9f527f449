"""
Transactional steps: a body whose SQL and whose record are one commit.

    @es.transaction
    def debit(tx: es.SQLiteTx, account: str, cents: int) -> int: ...

    left = await debit("ann", 100)          # the connection is passed by the engine

The body may run more than once; its effect is there exactly once, in the database that holds the journal. The caller does not
pass the connection, so it is no argument: it is neither stored nor compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from inspect import Parameter
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    overload,
)

from everstep.codec import ArgumentsCodec
from everstep.codec.hints import function_hints, unwrap
from everstep.definitions import Step
from everstep.errors import UsageError
from everstep.records import BodyKind, Isolation
from everstep.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")

SQLiteValue: TypeAlias = int | float | str | bytes | None
Bindings: TypeAlias = Sequence[SQLiteValue] | Mapping[str, SQLiteValue]


class SQLiteRows(Protocol):
    """What a statement came to. (``sqlite3.Cursor`` is one too.)"""

    @property
    def rowcount(self) -> int:
        """Rows that an INSERT, UPDATE or DELETE changed, without those changed by triggers; -1 after a SELECT."""
        ...

    @property
    def lastrowid(self) -> int | None:
        """The id of the row inserted last in this database connection."""
        ...

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any:
        """The next row, a tuple, or None."""
        ...

    def fetchall(self) -> Sequence[Any]:
        """The rows that are left."""
        ...


class SQLiteTx(Protocol):
    """The connection that a body gets on a SQLite store: statements inside the transaction, and no way to end it.

    In a test of the body alone, ``sqlite3.connect(":memory:")`` serves as one: ``debit.function(connection, "ann", 100)``.
    """

    def execute(self, statement: str, bindings: Bindings = (), /) -> SQLiteRows:
        """Run a statement and read its rows.

        Raises:
            UsageError: The statement is not the body's to give: it would end the transaction, reach into another database, or
                change everstep's own tables. Or the transaction is over.
            apsw.Error: SQLite refuses it; ``apsw.ConstraintError``, for instance.
        """
        ...

    def executemany(self, statement: str, rows: Iterable[Bindings], /) -> SQLiteRows:
        """Run a statement once for each row of bindings; raises as ``execute`` does."""
        ...


class ConnectedStep(Step[P, R], Generic[P, R]):
    """A step whose body gets a connection that its caller does not pass."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(function, name=name, retry=retry, timeout=timeout)
        require_connection_parameter(self.function)

    @cached_property
    def arguments(self) -> ArgumentsCodec:
        """Arguments to bytes and back, without the connection."""
        return ArgumentsCodec(self.function, skip_first=True)

    def call_plainly(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        """Outside a workflow nobody passes a connection."""
        raise UsageError(
            f"{self.name} is a transaction, and was called outside a workflow: there is no connection to pass to it. It was "
            f"not run. Call it from a workflow, or pass a connection of your own: {self.name}.function(connection, …)."
        )

    @property
    def must_be_known_first(self) -> bool:
        """Its entry follows the one that asks for it."""
        return True

    def __repr__(self) -> str:
        return f"<transaction {self.name}>"


class Transaction(ConnectedStep[P, R]):
    """A step whose body runs in the transaction that records its result. Made by ``@es.transaction``."""

    def __init__(self, function: Callable[..., Any], *, isolation: Isolation = "read committed", **options: Any) -> None:
        super().__init__(function, **options)
        if isolation not in get_args(Isolation):
            raise UsageError(
                f"transaction {self.name}: isolation={isolation!r} is not known. It was not defined. Give one of "
                f"{', '.join(get_args(Isolation))}."
            )
        self._isolation: Isolation = isolation

    @cached_property
    def kind(self) -> BodyKind:
        """What it asks of the store."""
        package, name = connection_type(self.function)
        return BodyKind(package, name, self.is_async, self._isolation)


class TransactionDecorator(Protocol):
    """What ``@es.transaction(…)`` with options returns."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> ConnectedStep[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> ConnectedStep[P, R]: ...


@overload
def transaction(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Transaction[P, R]: ...
@overload
def transaction(function: Callable[Concatenate[Any, P], R], /) -> Transaction[P, R]: ...
@overload
def transaction(
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    timeout: float | None = None,
    isolation: Isolation = "read committed",
) -> TransactionDecorator: ...
def transaction(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Define a step whose SQL commits together with the record of its result, in the database of the store.

    The body should be short: SQL, and no waiting for others. On SQLite nothing else is written to the store while it runs; on
    PostgreSQL its run writes nothing else. After a third of the worker's lease (5 s by default) it is rolled back and fails.

    The body may be run more than once, with only the last time counting: after a crash, or when the database ends it for the
    sake of another transaction (a deadlock, a serialization failure).

    Args:
        function: The body, sync or async. Its first parameter is the connection, which callers do not pass; its type says which
            one: ``es.SQLiteTx`` on SQLite; on PostgreSQL ``asyncpg.Connection``, ``psycopg.AsyncConnection``, SQLAlchemy's
            ``AsyncConnection`` or ``AsyncSession`` in an async body, ``psycopg.Connection``, SQLAlchemy's ``Connection`` or
            ``Session`` in a plain function, which runs in a thread.
        name: What the journal calls it; default the function's name.
        retry: A policy, or a number of attempts; default a single one. Each attempt is a transaction of its own.
        timeout: Seconds that one attempt may take, if less than a third of the lease.
        isolation: On PostgreSQL, what the transaction sees of others. On SQLite every transaction is serializable.

    Raises:
        UsageError: The options make no sense, or the function has no parameter for the connection.
    """

    def define(function: Callable[..., Any]) -> Transaction[..., Any]:
        return Transaction(function, **options)

    return define if function is None else define(function)


def require_connection_parameter(function: Callable[..., Any]) -> None:
    """Return if the function takes a connection first.

    Raises:
        UsageError: It does not.
    """
    first = next(iter(inspect.signature(function).parameters.values()), None)
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if first is None or first.kind not in by_position or first.default is not Parameter.empty:
        raise UsageError(
            f"{function.__qualname__} has no parameter for the connection. Give it one, first and without a default: "
            f"def {function.__name__}(tx: es.SQLiteTx, …)."
        )


_SAYS_NOTHING: Final = frozenset({"", "builtins", "typing"})


def connection_type(function: Callable[..., Any]) -> tuple[str, str]:
    """The package and the name of the type of the connection parameter; empty if it says nothing (``Any``, for instance)."""
    name = next(iter(inspect.signature(function).parameters))
    hint = unwrap(function_hints(function).get(name))
    kind = get_origin(hint) or hint
    package = str(getattr(kind, "__module__", "")).partition(".")[0]
    return ("", "") if hint is None or package in _SAYS_NOTHING else (package, str(getattr(kind, "__name__", "")))
