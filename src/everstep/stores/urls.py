"""
Which store a URL names.

    memory://                       lives as long as this process
    sqlite:///orders.db             a file, relative to the working directory
    sqlite:////var/lib/orders.db    a file, absolute (four slashes)
    postgresql://app@db/orders      a PostgreSQL database; see ``everstep.stores.postgres.address`` for its parameters
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from everstep.errors import InvalidStoreURL
from everstep.stores.base import Store
from everstep.stores.memory import MemoryStore

_FORMS = "Use memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://user@host/database."


def open_store(url: str) -> Store:
    """Return the store that the URL names, not yet opened.

    Raises:
        InvalidStoreURL: It names none. The message never repeats a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidStoreURL(f"the store URL cannot be read: {error}. Nothing was opened. {_FORMS}") from None
    match parts.scheme:
        case "memory":
            return MemoryStore()
        case "sqlite":
            from everstep.stores.sqlite import SQLiteStore

            return SQLiteStore(_sqlite_path(url))
        case "postgresql" | "postgres":
            from everstep.stores.postgres import PostgresStore

            return PostgresStore(url)
        case _:
            raise InvalidStoreURL(f"{_shown(url)} names no store that everstep knows. Nothing was opened. {_FORMS}")


def _sqlite_path(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or parts.query or parts.fragment or not path or "\0" in path or path.endswith("/"):
        raise InvalidStoreURL(f"{_shown(url)} names no file. Nothing was opened. {_FORMS}")
    return path


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"the store URL {ascii(parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl())[:120]}"
