"""
The driver, and typed access to it: the one place that knows asyncpg, which ships no types and is not installed everywhere.

A session of ours wants nested loops over indexes and nothing else: every statement touches few rows of tables that may be
empty now and have millions of rows in an hour, and a plan that was made for the empty table is kept. So the planner is told,
once per connection (or, behind a pooler, with every BEGIN).
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

from everstep.errors import InvalidStoreURL
from everstep.stores.postgres.address import Address

try:
    import asyncpg
except ImportError:
    raise InvalidStoreURL(
        "postgresql:// needs the driver asyncpg, which is not installed. Nothing was opened. pip install 'everstep[postgres]'"
    ) from None

CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 30.0
"""Nothing that we ask takes long. A server that does not answer for half a minute is as good as gone."""
MOMENT_MILLISECONDS: Final = 100
"""How long to wait for a lock: enough for whoever is just committing; a user's transaction may take for ever."""
SETTINGS: Final = {
    "application_name": "everstep",
    "lock_timeout": str(MOMENT_MILLISECONDS),
    "default_transaction_isolation": "read committed",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}

Row: TypeAlias = Sequence[Any]
"""The types of a row's values are what the schema says; a type checker cannot know."""

Error: type[Exception] = cast(type[Exception], asyncpg.PostgresError)
"""What the server answers."""
InterfaceError: type[Exception] = cast(type[Exception], asyncpg.InterfaceError)
"""What the driver says, before or instead of asking the server."""
InternalError: type[Exception] = cast(type[Exception], asyncpg.InternalClientError)
"""The driver lost the thread: for instance when the server's goodbye arrives together with our next question."""


class Statements(Protocol):
    """What statements can be run on: a connection of whatever driver."""

    async def fetch(self, statement: str, /, *values: Any, timeout: float | None = None) -> list[Row]:
        """Run a statement and return its rows."""
        ...

    async def execute(self, statement: str, /, *, timeout: float | None = None) -> Any:
        """Run statements without values, in one message."""
        ...

    async def executemany(self, statement: str, lines: Sequence[Sequence[object]], /, *, timeout: float | None = None) -> None:
        """Run a statement once for each line of values, in one transaction."""
        ...


class Link(Statements, Protocol):
    """One connection of ours."""

    async def add_listener(self, channel: str, callback: Callable[[Any, int, str, str], None], /) -> None:
        """LISTEN."""
        ...

    def add_termination_listener(self, callback: Callable[[Any], None], /) -> None:
        """Call this when the connection is gone."""
        ...

    def get_server_pid(self) -> int:
        """What the other end said that its process number is."""
        ...

    def is_closed(self) -> bool:
        """It is of no use any more."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:
        """Say goodbye."""
        ...

    def terminate(self) -> None:
        """Hang up."""
        ...


async def connect(address: Address, *, is_pooled: bool) -> Link:
    """Connect.

    Args:
        address: Where.
        is_pooled: There may be a pooler in between, to which a session's settings and prepared statements mean nothing.
    """
    link = await asyncpg.connect(
        address.dsn,
        timeout=CONNECT_SECONDS,
        command_timeout=ANSWER_SECONDS,
        statement_cache_size=0 if is_pooled else 100,
        max_cached_statement_lifetime=0,
        server_settings={"application_name": "everstep"} if is_pooled else SETTINGS,
    )
    return cast(Link, link)


def sqlstate(error: BaseException) -> str:
    """The server's code for an error of whatever driver; empty if it is none of the server's."""
    # SQLAlchemy keeps the driver's own error there.
    return str(getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def said(error: BaseException) -> str:
    """What the server or the system says, in one line and without the values of a statement."""
    if isinstance(error, asyncio.TimeoutError | TimeoutError):
        return "it did not answer in time"
    error = getattr(error, "orig", None) or error
    of_psycopg = getattr(getattr(error, "diag", None), "message_primary", None)
    text = of_psycopg or (str(error.args[0]) if error.args and isinstance(error, Error) else str(error))
    return " ".join(text.split()) or type(error).__name__
