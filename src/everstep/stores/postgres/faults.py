"""
What the errors of the driver and the server mean to an operator. None of them leaves the store: each becomes one of ours, in
three parts, and none has a password or a user's value in it.

The server tells by a code of five characters what went wrong; its first two are the class. Four questions are asked of it:
was it only bad luck (try again: nothing has happened); is the connection of no use any more; would every statement fail now;
or is one write to blame, which then must not take the others of its batch with it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from everstep.errors import SchemaMismatch, StoreError, StoreFull, StoreUnavailable
from everstep.stores.postgres import link
from everstep.stores.postgres.address import Address


class Exhausted(Exception):
    """A transaction found at every try that somebody had been faster.

    Attributes:
        tries: How many.
    """

    def __init__(self, tries: int) -> None:
        super().__init__(tries)
        self.tries = tries


OF_DRIVER: Final = (link.Error, link.InterfaceError, link.InternalError, OSError, asyncio.TimeoutError)
"""Everything that a connection may raise."""
OF_ONE_WRITE: Final = (link.Error, OverflowError, TypeError, ValueError)
"""What one write may raise if it holds a value that PostgreSQL does not take."""

_TRANSIENT: Final = frozenset({"40001", "40P01"})
_UNIQUE: Final = frozenset({"23505"})
"""Somebody else inserted the same row in between; who looks again will see it."""
_ONE_WRITE: Final = ("22", "23", "54")
"""Bad values, violated constraints, and limits such as the size of an index row."""
_CONNECTION: Final = ("08", "57P", "25P03", "25P04")
"""The last two: the server hung up on a transaction that did nothing, or took too long."""
_GAVE_WAY: Final = frozenset({"40001", "40P01", "55P03"})


def is_transient(error: BaseException) -> bool:
    """The transaction lost against another one and left nothing behind; trying again is right."""
    return link.sqlstate(error) in _TRANSIENT | _UNIQUE


def gave_way(error: BaseException) -> bool:
    """A transaction lost against another one, or waited too long for it, and may be begun again."""
    return link.sqlstate(error) in _GAVE_WAY


def is_lock(error: BaseException) -> bool:
    """Somebody else holds a lock."""
    return link.sqlstate(error) == "55P03"


def is_of_connection(error: BaseException) -> bool:
    """The connection is of no use any more, and possibly none is."""
    code = link.sqlstate(error)
    return not code or code.startswith(_CONNECTION)


def blames_one_write(error: BaseException | None) -> bool:
    """The statement failed for a value in it, so it would succeed without it."""
    if error is not None and link.sqlstate(error):
        return link.sqlstate(error).startswith(_ONE_WRITE)
    return isinstance(error, OverflowError | TypeError | ValueError) and not isinstance(error, link.InterfaceError)


def translated(error: BaseException, address: Address) -> StoreError:
    """The error of ours that tells the same."""
    where, said, code = f"the store {address.shown}", link.said(error), link.sqlstate(error)
    known = "Acknowledged work is safe; whether the last write has happened, repeating it tells."
    waits = "Engines try again by themselves."
    if isinstance(error, Exhausted):
        return StoreUnavailable(
            f"{where} is so busy with one run that a write lost {error.tries} times in a row. Nothing was written. {waits} "
            "Look for two programs that drive the same run."
        )
    match code:
        case "28P01" | "28000":
            return StoreUnavailable(
                f"{where} refuses this user: {said}. Nothing was read or written. Check user and password in the URL (or "
                "PGUSER, PGPASSWORD, ~/.pgpass) and pg_hba.conf."
            )
        case "3D000":
            return StoreUnavailable(
                f"{where} has no such database: {said}. Nothing was created. Create it: createdb, or CREATE DATABASE."
            )
        case "42501":
            return StoreUnavailable(
                f"{where} does not permit this: {said}. Nothing was written. Let the owner of the database open the store "
                "once, which creates the tables, and grant the roles: everstep.stores.postgres.roles prints the statements."
            )
        case "3F000" | "42P01" | "42703" | "42883":
            return SchemaMismatch(
                f"{where} lacks something that this everstep made there: {said}. Nothing was written. Somebody dropped or "
                "changed it, or the URL names another database or schema than before; restore it from a backup."
            )
        case "EV001":
            return StoreUnavailable(
                f"{where} is of no use any more: {said}. Nothing was written. Restart this program with the URL of that store."
            )
        case "53100" | "53200":
            return StoreFull(f"{where} has no space or memory left: {said}. {known} Free some; runs then go on.")
        case "53300":
            return StoreUnavailable(
                f"{where} has no connection left for us: {said}. Nothing was written. {waits} Lower pool= in the URL, raise "
                "max_connections, or put a pooler in between."
            )
        case "25006":
            return StoreUnavailable(
                f"{where} may only be read: it is a standby, or set to read only. Nothing was written. {waits} Point the URL "
                "at the primary (several hosts and target_session_attrs=read-write find it)."
            )
        case "55P03":
            return StoreUnavailable(
                f"{where} holds a lock for too long: {said}. Nothing was written. {waits} Look in pg_stat_activity for a "
                "transaction that somebody left open."
            )
        case _ if is_of_connection(error):
            return StoreUnavailable(f"{where} cannot be reached: {said}. {known} {waits} Check that the server runs.")
        case _:
            return StoreUnavailable(f"{where} failed: {type(error).__name__}: {said}. {known}")
