"""
Sessions: how one driver of a database does what ``witness.exactly_once`` says. One session is one execution of one step.

Each has a connection of its own and a transaction that only the session ends. A body's COMMIT is refused where the driver lets
us (sqlite3, psycopg), and noticed before ours in any case.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol, TypeAlias

from everstep.databases.witness import EXISTS, INSERT, TABLE, Act, Ask, Do, Duplicate
from everstep.errors import UsageError

Acts: TypeAlias = Generator[Act, Any, str]


class Session(Protocol):
    """A connection in the hands of a driver that blocks. Every method may raise what the driver raises."""

    @property
    def connection(self) -> Any:
        """What the body gets."""
        ...

    @property
    def is_open(self) -> bool:
        """The transaction that was begun is still there."""
        ...

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def ask(self, statement: str, bindings: dict[str, str]) -> Any:
        """Run a statement: its first row, or None. Raises Duplicate if an INSERT finds its key taken."""
        ...

    def run(self, body: Callable[[Any], str]) -> str:
        """Give the connection to the body."""
        ...

    def commit(self) -> None:
        """Commit."""
        ...

    def roll_back(self) -> None:
        """Roll back whatever was begun. Safe to repeat."""
        ...

    def close(self) -> None:
        """Let go of the connection. What was not committed is gone."""
        ...


class AsyncSession(Protocol):
    """The same in the hands of a driver that waits on the event loop."""

    @property
    def connection(self) -> Any: ...
    @property
    def is_open(self) -> bool: ...
    async def begin(self) -> None: ...
    async def ask(self, statement: str, bindings: dict[str, str]) -> Any: ...
    async def commit(self) -> None: ...
    async def roll_back(self) -> None: ...
    async def close(self) -> None: ...


def check(session: Session | AsyncSession, is_wanted: Callable[[], bool]) -> None:
    """Return if the transaction may be committed.

    Raises:
        UsageError: The body ended it by itself.
        Unwanted: Nobody waits for its result any more.
    """
    if not session.is_open:
        raise UsageError(
            "the body ended its transaction by itself. What it committed stays, and its result is not recorded. Take COMMIT "
            "and ROLLBACK out of it: everstep commits, with the witness of the effect."
        )
    if not is_wanted():
        raise Unwanted("nobody waits for this attempt any more, so its transaction was rolled back")


class Unwanted(Exception):
    """The attempt was given up while its body ran in a thread."""


def drive(acts: Acts, session: Session, body: Callable[[Any], str], is_wanted: Callable[[], bool]) -> str:
    """Do one act after the other."""
    answer: Any = None
    while True:
        try:
            act = acts.throw(answer) if isinstance(answer, Duplicate) else acts.send(answer)
        except StopIteration as done:
            return str(done.value)
        answer = None
        match act:
            case Do.BEGIN:
                session.begin()
            case Do.RUN_BODY:
                answer = session.run(body)
            case Do.CHECK:
                check(session, is_wanted)
            case Do.COMMIT:
                session.commit()
            case Do.ROLL_BACK:
                session.roll_back()
            case Ask(statement, bindings):
                try:
                    answer = session.ask(statement, bindings)
                except Duplicate as duplicate:
                    answer = duplicate


async def drive_async(
    acts: Acts, session: AsyncSession, body: Callable[[Any], Awaitable[str]], is_wanted: Callable[[], bool]
) -> str:
    """The same, on the event loop."""
    answer: Any = None
    while True:
        try:
            act = acts.throw(answer) if isinstance(answer, Duplicate) else acts.send(answer)
        except StopIteration as done:
            return str(done.value)
        answer = None
        match act:
            case Do.BEGIN:
                await session.begin()
            case Do.RUN_BODY:
                answer = await body(session.connection)
            case Do.CHECK:
                check(session, is_wanted)
            case Do.COMMIT:
                await session.commit()
            case Do.ROLL_BACK:
                await session.roll_back()
            case Ask(statement, bindings):
                try:
                    answer = await session.ask(statement, bindings)
                except Duplicate as duplicate:
                    answer = duplicate


def make_table(session: Session) -> None:
    """Create the table of witnesses if it is missing, in a transaction of its own. Safe to repeat, and from many at once."""
    try:
        session.begin()
        session.ask(EXISTS, {})
    except UsageError:
        raise
    except Exception:  # noqa: BLE001  # each driver has its own word for a table that is missing
        session.roll_back()
        _create(session)
    session.roll_back()


def _create(session: Session) -> None:
    try:
        session.begin()
        session.ask(TABLE, {})
        session.commit()
    except Exception:  # noqa: BLE001  # if the table is not there, it is raised below
        # Two that create it at once may get in each other's way, IF NOT EXISTS or not.
        session.roll_back()
        session.begin()
        session.ask(EXISTS, {})


async def make_table_async(session: AsyncSession) -> None:
    """The same, on the event loop."""
    try:
        await session.begin()
        await session.ask(EXISTS, {})
    except Exception:  # noqa: BLE001
        await session.roll_back()
        await _create_async(session)
    await session.roll_back()


async def _create_async(session: AsyncSession) -> None:
    try:
        await session.begin()
        await session.ask(TABLE, {})
        await session.commit()
    except Exception:  # noqa: BLE001
        await session.roll_back()
        await session.begin()
        await session.ask(EXISTS, {})


def is_insert(statement: str) -> bool:
    """Whether a violated key means ``Duplicate``."""
    return statement is INSERT
