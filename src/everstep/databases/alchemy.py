"""The session of SQLAlchemy 2 (Core), blocking. Imported only when it is used: SQLAlchemy is an extra."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# Not installed everywhere.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy
from sqlalchemy.exc import IntegrityError

from everstep.databases.sessions import is_insert
from everstep.databases.witness import Duplicate


class AlchemySession:
    """See ``Session``. Its connection comes from the engine's pool."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.connection = engine.connect()
        self._transaction: sqlalchemy.RootTransaction | None = None

    @property
    def is_open(self) -> bool:
        """See Session."""
        return self._transaction is not None and self._transaction.is_active

    def begin(self) -> None:
        """See Session."""
        self._transaction = self.connection.begin()

    def ask(self, statement: str, bindings: dict[str, str]) -> Any:
        """See Session."""
        try:
            result = self.connection.execute(sqlalchemy.text(statement), bindings)
        except IntegrityError as error:
            if is_insert(statement):
                raise Duplicate(str(error)) from error
            raise
        return result.fetchone() if result.returns_rows else None

    def run(self, body: Callable[[Any], str]) -> str:
        """See Session."""
        return body(self.connection)

    def commit(self) -> None:
        """See Session."""
        assert self._transaction is not None
        self._transaction.commit()

    def roll_back(self) -> None:
        """See Session."""
        self._transaction = None
        self.connection.rollback()

    def close(self) -> None:
        """See Session. Gives the connection back to the pool, which rolls back what is open."""
        self.connection.close()


def make_engine(url: str) -> sqlalchemy.Engine:
    """An engine for a URL as everstep writes it; ``postgresql://`` means psycopg 3. Without a pool: nobody would close it."""
    return sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sqlalchemy.NullPool)
