"""
Where the database is. Most of a URL is for the driver, which knows hosts, TLS, service files and ``PG…`` variables; a few
parameters are ours, and are taken out before it sees the rest:

    postgresql://app:secret@db.example.com/orders?sslmode=verify-full&schema=everstep&pool=4

    schema      the schema that holds the tables, default everstep
    pool        how many connections at most, default 4; one more listens for news
    pooler      yes: there is a pooler in transaction mode between us and the server; no: there is none; default: find out

The password goes from here to the driver and nowhere else: ``shown`` and ``repr`` do not have it.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from everstep.errors import InvalidStoreURL

FORM: Final = "postgresql://user:password@host:port/database?schema=everstep"
SCHEMA_DEFAULT: Final = "everstep"
POOL_DEFAULT: Final = 4
POOL_MAX: Final = 100

Pooler: TypeAlias = Literal["yes", "no", "auto"]
_OURS: Final = frozenset({"schema", "pool", "pooler"})
_SHOWN: Final = frozenset({"host", "port", "dbname", "database", "user", "service"})
"""Parameters of the driver that may be shown. Not a list of secrets to hide: the next one would be missing there."""
# Lower case only, so that it means the same with and without quotes; at most what PostgreSQL keeps of a name.
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Address:
    """See the module.

    Attributes:
        dsn: For the driver. Holds the password.
        schema: The schema that holds the tables.
        pool: How many connections at most.
        pooler: Whether there is a pooler in transaction mode in between.
        shown: What people may see of it.

    Raises:
        InvalidStoreURL: It cannot be read. The message has no password in it.
    """

    __slots__ = ("dsn", "pool", "pooler", "schema", "shown")

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            for host in parts.netloc.rpartition("@")[2].split(","):  # Several servers, each with a port: one may be a standby.
                _ = urlsplit(f"//{host}").port
        except ValueError:
            # The error's own text may repeat a part of the URL, and a password with a slash in it is such a part.
            raise InvalidStoreURL(
                f"the store URL cannot be read. Nothing was opened. Use {FORM}, and write what is special in a password as %xx."
            ) from None
        if parts.fragment or parts.netloc.count("@") > 1:
            raise InvalidStoreURL(
                f"the store URL has a # or two @ in it. Nothing was opened. In a password write %23 and %40. Use {FORM}."
            )
        given = parse_qsl(parts.query, keep_blank_values=True)
        ours = {name: value for name, value in given if name in _OURS}
        theirs = [(name, value) for name, value in given if name not in _OURS]
        self.schema = _schema(ours.get("schema", SCHEMA_DEFAULT))
        self.pool = _pool(ours.get("pool", str(POOL_DEFAULT)))
        self.pooler = _pooler(ours.get("pooler", "auto"))
        self.dsn = parts._replace(scheme="postgresql", query=urlencode(theirs, quote_via=quote)).geturl()
        shown = [(name, value) for name, value in theirs if name in _SHOWN]
        shown += [("schema", self.schema)] if self.schema != SCHEMA_DEFAULT else []
        query = f"?{urlencode(shown)}" if shown else ""
        self.shown = ascii(f"postgresql://{_without_password(parts.netloc)}{parts.path}{query}")[1:-1]

    def __repr__(self) -> str:
        return f"<{self.shown}>"


def _without_password(netloc: str) -> str:
    user_and_password, at, hosts = netloc.rpartition("@")
    return f"{unquote(user_and_password.partition(':')[0])}{at}{hosts}"


def _schema(name: str) -> str:
    if not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise InvalidStoreURL(
            f"schema={ascii(name)[:80]} in the store URL is no name for a schema. Nothing was opened. Use lower case letters, "
            "digits and underscores, at most 63, and not pg_ in front."
        )
    return name


def _pool(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= POOL_MAX):
        raise InvalidStoreURL(
            f"pool={ascii(text)[:80]} in the store URL is no number from 1 to {POOL_MAX}. Nothing was opened."
        )
    return int(text)


def _pooler(text: str) -> Pooler:
    match text:
        case "yes" | "no" | "auto":
            return text
        case _:
            raise InvalidStoreURL(f"pooler={ascii(text)[:80]} in the store URL is none of yes, no, auto. Nothing was opened.")
