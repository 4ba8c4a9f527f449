"""
The transactions of users: their SQL and one entry, in one commit.

    wait for one's turn ─▶ BEGIN IMMEDIATE ─▶ is the slot ours? ─▶ body ─▶ entry ─▶ COMMIT
                                                                     └─ anything else ─▶ ROLLBACK

They run on a connection of their own, one at a time. While one lasts, whoever writes in this process waits for it rather than
for the lock of the file, and at most one of ours waits among them: a heartbeat comes after one body, not after all of them.
Other processes can only look whether the lock is free, so after a body that took long we leave it free for a moment.

A body gets a ``GuardedTx``, never the connection. What it must not do is denied by SQLite itself while a statement is prepared
(an authorizer), so no text is parsed here; and after each statement we look whether the transaction is still there, because a
conflict clause (OR ROLLBACK) or a trigger can end it. Once the transaction is over, what a body that was left behind in its
thread still tries is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Final, cast

import apsw

from everstep.errors import UsageError
from everstep.records import BodyKind
from everstep.stores import rules
from everstep.stores.base import Append, Landed, Outcome, Refused, RolledBack, Slot, TransactionBody
from everstep.stores.sqlite import faults, read, schema, write
from everstep.stores.sqlite.ask import Row
from everstep.stores.sqlite.transaction import Tx, Writer
from everstep.transactions import Bindings

LONG_SECONDS: Final = 0.005
"""A body that takes longer than this held up others: its next like waits."""
BREATH_SECONDS: Final = 0.04
"""How long. Whoever waits for the lock looks again after 30 ms at the latest (``transaction.py``)."""
_INTERRUPT_SECONDS: Final = 0.002

_PRAGMAS: Final = frozenset(
    {
        "data_version",  # full-text search looks at it
        "defer_foreign_keys",
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
"""Those that tell something, or end with the transaction."""
_ENDS_OR_LEAVES: Final = {
    apsw.SQLITE_TRANSACTION: "begin or end a transaction: everstep does, so that its record commits with it",
    apsw.SQLITE_ATTACH: "attach another database: a commit over two files is not atomic here",
    apsw.SQLITE_DETACH: "detach a database",
    apsw.SQLITE_CREATE_TEMP_TABLE: "create a temporary table: it would outlive the transaction",
    apsw.SQLITE_CREATE_TEMP_INDEX: "create a temporary index: it would outlive the transaction",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "create a temporary trigger: it would outlive the transaction",
    apsw.SQLITE_CREATE_TEMP_VIEW: "create a temporary view: it would outlive the transaction",
}
_NAMES_FIRST: Final = frozenset(
    {
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_DELETE,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_VTABLE,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_VTABLE,
    }
)
"""Actions whose first argument is the table that is changed; of the following it is the second."""
_NAMES_SECOND: Final = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
    }
)


def refuse_others(kind: BodyKind, url: str) -> None:
    """Return if a body takes what it gets here.

    Raises:
        UsageError: It asks for a connection of another database.
    """
    if kind.package in ("asyncpg", "psycopg", "sqlalchemy"):
        raise UsageError(
            f"a body asks for a connection of the type {kind}, and the store {url} has none. It was not run. On SQLite its "
            "first parameter is an es.SQLiteTx; bodies for PostgreSQL need a store there."
        )


def denial(action: int, first: str | None, second: str | None) -> str:
    """Why a body may not do this, as the end of a sentence; empty if it may. Pure."""
    if action in _ENDS_OR_LEAVES:
        return _ENDS_OR_LEAVES[action]
    if action == apsw.SQLITE_PRAGMA and (first or "").lower() not in _PRAGMAS:
        return f"use PRAGMA {first}"
    table = first if action in _NAMES_FIRST else second if action in _NAMES_SECOND else None
    return f"change {table}, which is everstep's own" if schema.is_own(table) else ""


class Rows:
    """What a statement came to, read to its end (see ``everstep.transactions.SQLiteRows``)."""

    __slots__ = ("_rows", "lastrowid", "rowcount")

    def __init__(self, rows: list[Row], rowcount: int, lastrowid: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def __iter__(self) -> Iterator[Row]:
        return self._rows

    def fetchone(self) -> Row | None:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchall(self) -> list[Row]:
        """The rows that are left."""
        return list(self._rows)


class GuardedTx:
    """The connection as a body has it (see ``everstep.transactions.SQLiteTx``). Any thread may use it, one at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        self._is_over = False
        self._denied = ""
        self._failure: apsw.Error | None = None
        connection.authorizer = self._authorize

    def execute(self, statement: str, bindings: Bindings = (), /) -> Rows:
        """See SQLiteTx."""
        with self._lock:
            return self._run(statement, bindings)

    def executemany(self, statement: str, rows: Iterable[Bindings], /) -> Rows:
        """See SQLiteTx. The lock is not held between two rows: making them may take its time."""
        done = Rows([], 0, 0)
        count = 0
        for bindings in rows:
            done = self.execute(statement, bindings)
            count += max(0, done.rowcount)
        return Rows([], count, done.lastrowid)

    def end(self) -> apsw.Error | None:
        """Take no more statements, and stop the one that is running. The failure of the disk that the body met, if it did."""
        self._is_over = True
        # More than once: a statement that was just about to begin does not hear the first one.
        while not self._lock.acquire(timeout=_INTERRUPT_SECONDS):
            self._connection.interrupt()
        self._connection.authorizer = None
        self._lock.release()
        return self._failure

    def _run(self, statement: str, bindings: Bindings) -> Rows:
        self._check()
        self._denied = ""
        connection, changed_before = self._connection, self._connection.total_changes()
        cursor, is_reading = connection.cursor(), True

        def note(cursor: apsw.Cursor, _: str, __: object) -> bool:
            nonlocal is_reading
            is_reading = cursor.is_readonly
            return True

        cursor.exec_trace = note
        try:
            rows = cast(list[Row], cast(Any, cursor).execute(statement, bindings).fetchall())
        except apsw.AuthError as error:
            raise UsageError(
                f"the body of a transaction may not {self._denied}. The statement was not run: {statement.strip()[:80]!r}. "
                "Do it outside the transaction, with a connection of your own."
            ) from error
        except apsw.Error as error:
            if not self._is_over and faults.is_of_the_disk(error):
                self._failure = error
            raise
        # Of a statement that defines something SQLite does not set this; it then still tells of the one before.
        changed = connection.changes() if connection.total_changes() != changed_before else 0
        return Rows(rows, -1 if is_reading else changed, connection.last_insert_rowid())

    def _check(self) -> None:
        if self._is_over:
            raise UsageError(
                "this transaction is over, so the statement was not run. A connection that was passed to a body is of no use "
                "after it, or once it has taken too long."
            )
        if not self._connection.in_transaction:
            raise rolled_back_by_statement()

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        why = denial(action, first, second)
        if why:
            self._denied = why
        return apsw.SQLITE_DENY if why else apsw.SQLITE_OK


def rolled_back_by_statement() -> UsageError:
    """The transaction ended by a statement of the body that SQLite answered by rolling all of it back."""
    return UsageError(
        "a statement of this transaction rolled it back (a conflict clause OR ROLLBACK, a trigger with RAISE(ROLLBACK), or an "
        "error that SQLite answers so). Nothing of it was kept, and nothing more is run in it. Let that statement's error pass."
    )


class UserTransactions:
    """Runs the transactions of users on one store.

    Args:
        writer: Whose turns they take.
        path: The store. Their connection is opened at the first one.
        now: The store's clock.
        connect: Opens another connection to the store.
    """

    def __init__(self, writer: Writer, path: Path, now: Callable[[], int], connect: Callable[[], apsw.Connection]) -> None:
        self._writer = writer
        self._path = path
        self._now = now
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._turn = asyncio.Lock()
        self._free_from = 0.0

    async def run(self, slot: Slot, body: TransactionBody) -> Outcome | RolledBack:
        """See ``TransactingStore.transact``."""
        async with self._turn:
            if self._free_from > time.monotonic():
                await asyncio.sleep(self._free_from - time.monotonic())
            connection = self._connected()
            tx = Tx(connection, self._now)
            begun: list[float] = []

            async def work() -> Outcome | RolledBack:
                begun.append(time.monotonic())
                with faults.translating(self._path):
                    answer = _look(tx, slot)
                if answer is not None:
                    return answer
                append, failure = await run_guarded(connection, body)
                with faults.translating(self._path):
                    if failure is not None:
                        raise failure
                    return RolledBack() if append is None else _land(tx, append)

            try:
                return await self._writer.run_open(tx, work, lambda answer: isinstance(answer, Landed))
            finally:
                if begun and time.monotonic() - begun[0] > LONG_SECONDS:
                    self._free_from = time.monotonic() + BREATH_SECONDS

    def _connected(self) -> apsw.Connection:
        if self._connection is None:
            with faults.translating(self._path):
                self._connection = self._connect()
        return self._connection

    async def close(self) -> None:
        """Wait for what is under way, and close the connection."""
        async with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _look(tx: Tx, slot: Slot) -> Outcome | None:
    stored = b""
    if slot.doubtful:
        entries = read.journal(tx.ask, slot.run_key, slot.version)
        stored = next((entry.hash for entry in reversed(entries) if entry.version == slot.version), b"")
    return rules.before_transaction(slot, write.standing(tx, slot.run_key), stored)


def _land(tx: Tx, append: Append) -> Outcome:
    try:
        (outcome,) = write.land_all(tx, (append,))
    except faults.OF_ONE_WRITE as error:
        if faults.concerns_whole_store(error):
            raise
        return Refused(rules.objection(append) or f"SQLite cannot take it: {type(error).__name__}: {error}")
    return outcome


async def run_guarded(connection: apsw.Connection, body: TransactionBody) -> tuple[Append | None, apsw.Error | None]:
    """Run a body in the transaction that the caller has begun and will end.

    Returns:
        What it returned, and the error of the disk that its statements met, if they did, whatever it made of that.

    Raises:
        UsageError: The transaction is no more: a statement of the body rolled it back.
        Exception: What the body raised.
    """
    guarded = GuardedTx(connection)
    try:
        append = await body(guarded)
    finally:
        failure = guarded.end()
    if failure is None and append is not None and not connection.in_transaction:
        raise rolled_back_by_statement()
    return append, failure
