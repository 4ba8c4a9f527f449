"""
Another SQL database, and steps whose effect is there exactly once.

    orders = es.database("postgresql://…")

    @orders.transaction
    async def reserve(tx: psycopg.AsyncConnection, order_id: str) -> None: ...

The body runs in a transaction that everstep begins and commits, together with a row in ``everstep_witness`` (see ``witness``).
Which driver it is follows from the type of the connection parameter, or from ``driver=``. Each execution connects anew; an
SQLAlchemy engine that is given instead of a URL brings its pool.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import cached_property, partial
from threading import Lock
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    overload,
)
from urllib.parse import unquote, urlsplit

from everstep.ambient import StepScope, step_scope
from everstep.databases.sessions import AsyncSession, Session, drive, drive_async, make_table, make_table_async
from everstep.databases.witness import Key, exactly_once
from everstep.errors import UsageError
from everstep.retry import Retry
from everstep.transactions import ConnectedStep, TransactionDecorator, connection_type

P = ParamSpec("P")
R = TypeVar("R")
Driver: TypeAlias = Literal["sqlite3", "psycopg", "sqlalchemy"]


class DatabaseTransaction(ConnectedStep[P, R]):
    """A step whose body runs in a transaction of another database. Made by ``Database.transaction``."""

    def __init__(
        self,
        function: Callable[..., Any],
        database: Database,
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(function, name=name, retry=retry, timeout=timeout)
        self.database = database
        database.check_body(self.name, self.is_async)

    @cached_property
    def body(self) -> Callable[..., Any]:
        """What an attempt executes: the function, between the look for a witness and the commit."""
        return self._run_async if self.is_async else self._run

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        scope, driver = _scope(), self._driver
        session = self.database.connect(driver)
        try:
            body = partial(self._encoded, scope, args, kwargs)
            encoded = drive(exactly_once(_key(scope)), session, body, lambda: scope.is_wanted)
        finally:
            session.close()
        return self.result.decode(scope.open_witness(encoded.encode()))

    async def _run_async(self, *args: Any, **kwargs: Any) -> Any:
        scope = _scope()
        session = await self.database.connect_async(self._driver)
        try:
            body = partial(self._encoded_async, scope, args, kwargs)
            encoded = await drive_async(exactly_once(_key(scope)), session, body, lambda: scope.is_wanted)
        finally:
            await session.close()
        return self.result.decode(scope.open_witness(encoded.encode()))

    def _encoded(self, scope: StepScope, args: tuple[Any, ...], kwargs: dict[str, Any], connection: Any) -> str:
        # Before the commit: what cannot be stored takes the effect with it.
        return scope.seal_witness(self.result.encode(self.function(connection, *args, **kwargs))).decode()

    async def _encoded_async(self, scope: StepScope, args: tuple[Any, ...], kwargs: dict[str, Any], connection: Any) -> str:
        return scope.seal_witness(self.result.encode(await self.function(connection, *args, **kwargs))).decode()

    @cached_property
    def _driver(self) -> Driver:
        return self.database.driver_of(self.function)


class Database:
    """An SQL database other than the store. Made by ``es.database``; nothing is opened before a step needs it."""

    def __init__(self, source: Any, driver: Driver | None) -> None:
        if driver is not None and driver not in get_args(Driver):
            raise UsageError(f"driver={driver!r} is not known. Nothing was opened. Give 'sqlite3', 'psycopg' or 'sqlalchemy'.")
        self._url = source if isinstance(source, str) else ""
        self._engine: Any = None if isinstance(source, str) else source
        self._scheme = urlsplit(self._url).scheme if self._url else "sqlalchemy"
        self._chosen: Driver | None = driver
        self._has_table = False
        self._making = Lock()
        if self._url and self._scheme not in ("sqlite", "postgresql", "postgres"):
            raise UsageError(
                f"es.database: a URL of the scheme {self._scheme!r} is not known. Nothing was opened. Give sqlite:///file.db, "
                "postgresql://…, or an SQLAlchemy engine."
            )
        if not self._url and not hasattr(source, "connect"):
            raise UsageError(f"es.database({source!r}): give a URL or an SQLAlchemy engine. Nothing was opened.")

    @overload
    def transaction(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> DatabaseTransaction[P, R]: ...
    @overload
    def transaction(self, function: Callable[Concatenate[Any, P], R], /) -> DatabaseTransaction[P, R]: ...
    @overload
    def transaction(
        self, /, *, name: str | None = None, retry: Retry | int | None = None, timeout: float | None = None
    ) -> TransactionDecorator: ...
    def transaction(self, function: Any = None, /, **options: Any) -> Any:
        """Define a step whose SQL in this database takes effect exactly once.

        Args:
            function: The body. Its first parameter is the connection, which callers do not pass: a ``sqlite3.Connection``,
                ``psycopg.Connection``, ``psycopg.AsyncConnection`` (in an async body) or ``sqlalchemy.Connection``. It must
                not end the transaction.
            name: What the journal calls it; default the function's name.
            retry: A policy, or a number of attempts; default a single one. Each attempt is a transaction of its own.
            timeout: Seconds that one attempt may take.

        Raises:
            UsageError: The options make no sense, or the function has no parameter for the connection.
        """

        def define(function: Callable[..., Any]) -> DatabaseTransaction[..., Any]:
            return DatabaseTransaction(function, self, **options)

        return define if function is None else define(function)

    # --- what its steps ask -----------------------------------------------------------------------------------------------

    def check_body(self, name: str, is_async: bool) -> None:
        """Return if this kind of database takes such a body.

        Raises:
            UsageError: It does not.
        """
        if is_async and (self._scheme == "sqlite" or self._engine is not None or self._chosen in ("sqlite3", "sqlalchemy")):
            raise UsageError(
                f"transaction {name} is an async function, and the driver of its database blocks. Write it as a plain "
                "function: it then runs in a thread."
            )

    def driver_of(self, function: Callable[..., Any]) -> Driver:
        """Which driver makes the connection for this body."""
        if self._engine is not None:
            return "sqlalchemy"
        package, _ = connection_type(function)
        if self._chosen is None and package in get_args(Driver):
            return cast(Driver, package)
        if self._chosen is not None:
            return self._chosen
        return "sqlite3" if self._scheme == "sqlite" else "psycopg"

    def connect(self, driver: Driver) -> Session:
        """A session of its own; the table of witnesses is there."""
        session = self._session(driver)
        try:
            with self._making:
                if not self._has_table:
                    make_table(session)
                    self._has_table = True
        except BaseException:
            session.close()
            raise
        return session

    async def connect_async(self, driver: Driver) -> AsyncSession:
        """The same, on the event loop."""
        if driver != "psycopg":
            raise UsageError(
                f"{driver} has no connection for an async body. The body was not run. Write it as a plain function."
            )
        from everstep.databases.psycopg import AsyncPsycopgSession

        session = await AsyncPsycopgSession.open(self._url)
        try:
            if not self._has_table:
                await make_table_async(session)
                self._has_table = True
        except BaseException:
            await session.close()
            raise
        return session

    def _session(self, driver: Driver) -> Session:
        match driver:
            case "sqlite3":
                from everstep.databases.sqlite import Sqlite3Session

                return Sqlite3Session(self._path())
            case "psycopg":
                from everstep.databases.psycopg import PsycopgSession

                return PsycopgSession(self._url)
            case "sqlalchemy":
                from everstep.databases.alchemy import AlchemySession, make_engine

                with self._making:
                    self._engine = self._engine or make_engine(self._url)
                return AlchemySession(self._engine)

    def _path(self) -> str:
        if self._scheme != "sqlite":
            raise UsageError(f"sqlite3 cannot open a database of the scheme {self._scheme!r}. The body was not run.")
        return unquote(urlsplit(self._url).path)[1:]

    def __repr__(self) -> str:
        return f"<database {self._scheme}>"  # never the URL: it may hold a password


def database(source: Any, *, driver: Driver | None = None) -> Database:
    """Name another SQL database, for steps whose effect there is to happen exactly once: see ``Database.transaction``.

    A table ``everstep_witness`` is made in it at the first use, with one row per step that had its effect.

    Args:
        source: ``sqlite:///file.db``, ``postgresql://…``, or an SQLAlchemy engine, whose pool is then used.
        driver: ``sqlite3``, ``psycopg`` or ``sqlalchemy``; default what the connection parameter of the body says.

    Raises:
        UsageError: It names no database that everstep knows.
    """
    return Database(source, driver)


def _scope() -> StepScope:
    scope = step_scope.get()
    assert scope is not None, "only an attempt executes a body"
    return scope


def _key(scope: StepScope) -> Key:
    return Key(run=scope.run_token, step=scope.key, run_id=scope.run_id, name=scope.step)
