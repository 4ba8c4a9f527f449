"""
The transactions of users: their SQL and one entry, in one commit.

    connection ─▶ BEGIN ─▶ is the slot ours? ─▶ body ─▶ entry, if the slot still is ─▶ COMMIT
                                                  └─ anything else ─▶ ROLLBACK

They run on connections of their own (``lent``), of whatever driver the body asks for, and what we write goes the same way.
Nothing of the run is locked while the body works: messages arrive, and others may take the run over. Then the entry does not
land, by the same fence as any entry (the owner and epoch of the run's row, the entry before, and the unique place in the
journal), and the body's SQL is rolled back with it.

Three things in the first statement keep the others from a body's mischief:

- A *turn*: an advisory lock, so that of one run at most one body is at work, whoever lost or took it. It is also how we wait,
  in doubt, until the server has done with an earlier try.
- *Limits*, counted by the server and of use when the process is frozen: a transaction in which nothing happens for half a lease
  is ended, so its locks on the user's rows are gone before anybody takes the run over. And whoever waits for such a lock gives
  up in time, and is begun again, instead of failing for want of time.
- A *guard*: a row whose deferred trigger lets only us commit. A body's COMMIT therefore commits nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from everstep.errors import StoreError, StoreUnavailable, UsageError
from everstep.records import BodyKind, Micros, WorkerKey
from everstep.stores import rules
from everstep.stores.base import Append, Fenced, Landed, Outcome, Refused, RolledBack, Slot, TransactionBody
from everstep.stores.postgres import careful, faults, link
from everstep.stores.postgres.address import Address
from everstep.stores.postgres.clock import ServerClock
from everstep.stores.postgres.lent import Lender, Lent, Loan
from everstep.stores.postgres.pool import Again, LockHeld, Pool, Tx

IDLE_FRACTION: Final = 1 / 2
"""Of the lease. A body gets a third, so who is idle for longer is frozen; and leases run out later."""
LOCK_FRACTION: Final = 1 / 4
"""Of the lease: less than the third that a body gets, so that it is begun again rather than out of time."""
TURNS: Final = 0x45565355
"""The first half of the advisory locks that are turns; the second is made of the run's key. (``workers.SEATS`` is another.)"""

# What this transaction has changed in our tables. What the session did before may be counted in, so the number is compared.
_CHANGED: Final = """
(SELECT sum(pg_stat_get_xact_tuples_inserted(own) + pg_stat_get_xact_tuples_updated(own) + pg_stat_get_xact_tuples_deleted(own))
 FROM unnest(ARRAY['everstep.meta', 'everstep.workers', 'everstep.runs', 'everstep.journal', 'everstep.blobs',
                   'everstep.inbox', 'everstep.attempts', 'everstep.anchors', 'everstep.queues', 'everstep.admissions',
                   'everstep.passed']::regclass[]) AS own)::int8
"""
# One after the other: the limits hold for the wait for one's turn, too.
_BEGIN: Final = f"""
WITH limits AS MATERIALIZED (
    SELECT set_config('lock_timeout', $2, true) AS lock, set_config('idle_in_transaction_session_timeout', $3, true) AS idle
),
turn AS MATERIALIZED (
    SELECT pg_advisory_xact_lock({TURNS}, ($1::int8 % 2147483647)::int4) FROM limits WHERE lock <> '' AND idle <> ''
),
guard AS (INSERT INTO everstep.guards(run_key) SELECT $1::int8 FROM turn RETURNING ctid)
SELECT guard.ctid::text, pg_current_xact_id()::text, pg_backend_pid(), {_CHANGED} FROM guard
"""  # noqa: S608  # a number, and the names of tables
# By itself: a statement sees the database as it was before it waited.
_STANDING: Final = """
SELECT head.version, runs.epoch, runs.worker_key, runs.inbox_seq, runs.inbox_done FROM everstep.runs
CROSS JOIN LATERAL (SELECT version FROM everstep.journal WHERE journal.run_key = runs.run_key
                    ORDER BY version DESC LIMIT 1) AS head
WHERE runs.run_key = $1
"""
_LAND: Final = f"""
WITH landed AS (
    INSERT INTO everstep.journal(run_key, version, epoch, at, cursor, drained, status, step, hash, events)
    SELECT $1::int8, $2::int8, $3::int8, $4::int8, $5::int8, $6::bool, $7::text, $8::text, $9::bytea, $10::text
    WHERE pg_current_xact_id()::text = $13::text AND {_CHANGED} = $14::int8
      AND (SELECT epoch = $3::int8 AND worker_key = $11::int8 AND inbox_done >= $12::int8
           FROM everstep.runs WHERE run_key = $1::int8)
      AND (SELECT true FROM everstep.journal WHERE run_key = $1::int8 AND version = $2::int8 - 1 AND epoch = $3::int8)
    ON CONFLICT DO NOTHING RETURNING run_key
),
settled AS (
    DELETE FROM everstep.attempts USING landed WHERE attempts.run_key = landed.run_key AND attempts.key = ANY($15::text[])
),
kept AS (
    INSERT INTO everstep.blobs(run_key, hash, data)
    SELECT landed.run_key, it.hash, it.data FROM landed, unnest($16::bytea[], $17::bytea[]) AS it(hash, data)
    ON CONFLICT DO NOTHING
),
unguarded AS (DELETE FROM everstep.guards WHERE ctid = $18::text::tid AND EXISTS (SELECT FROM landed))
SELECT set_config('everstep_tx.landed', pg_current_xact_id()::text, true) FROM landed
"""  # noqa: S608
_UNGUARD: Final = """
WITH unguarded AS (DELETE FROM everstep.guards WHERE ctid = $1::text::tid)
SELECT set_config('everstep_tx.landed', pg_current_xact_id()::text, true)
"""
_LOOK: Final = f"SELECT pg_current_xact_id()::text, {_CHANGED}"
_WAIT: Final = f"SELECT pg_advisory_xact_lock({TURNS}, ($1::int8 % 2147483647)::int4)"
_END: Final = f"""
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE pid = $2 AND locktype = 'advisory' AND classid = {TURNS} AND objid = ($1::int8 % 2147483647) AND objsubid = 2 AND granted
"""  # noqa: S608
_STORED: Final = "SELECT hash FROM everstep.journal WHERE run_key = $1 AND version = $2"
_TELL: Final = "SELECT pg_notify($1, $2)"
_ABORTED: Final = "25P02"


class UserTransactions:
    """Runs the transactions of users on one store.

    Args:
        pool: For questions in doubt.
        lender: Whose connections bodies get.
        address: For errors.
        now: The store's clock.
        lease_of: The lease of a worker, in seconds.
        news: The channel and our name on it.
    """

    def __init__(
        self,
        pool: Pool,
        lender: Lender,
        address: Address,
        now: ServerClock,
        lease_of: Callable[[WorkerKey], float],
        news: tuple[str, str],
    ) -> None:
        self._pool = pool
        self._lender = lender
        self._address = address
        self._now = now
        self._lease_of = lease_of
        self._news = news

    async def run(self, slot: Slot, body: TransactionBody, kind: BodyKind) -> Outcome | RolledBack:
        """See ``TransactingStore.transact``."""
        if slot.doubtful and await self._stored(slot) == slot.doubtful:
            return Landed()
        async with self._lender.lend(kind) as loan:
            begun = await self._begin(loan.lent, slot, kind)
            try:
                outcome = rules.before_transaction(slot, begun.standing, b"") or await self._attempt(loan, begun, body)
                if isinstance(outcome, Landed):
                    await self._commit(loan)
                elif not loan.has_ended:
                    await self._roll_back(loan)
            except asyncio.CancelledError:
                await self._end(slot, begun)
                raise
            return outcome

    async def _end(self, slot: Slot, begun: _Begun) -> None:
        """Have the server end what was cancelled. A request to cancel a statement that is just about to begin is not heard."""
        with suppress(StoreError):  # Then it is gone, or will find out by itself.
            await self._pool.ask(lambda tx: tx.fetch(_END, slot.run_key, begun.process))

    async def _stored(self, slot: Slot) -> bytes:
        """The hash of what stands in the slot, once the server has done with whoever was about to write there."""

        async def look(tx: Tx) -> bytes:
            await tx.fetch(_WAIT, slot.run_key)
            found = await tx.fetch(_STORED, slot.run_key, slot.version)
            return bytes(found[0][0]) if found else b""

        try:
            return await self._pool.transact(look, is_patient=False)
        except LockHeld as error:
            raise StoreUnavailable(
                f"the store {self._address.shown} is not done yet with a transaction whose answer was lost. Nothing new was "
                "begun. Engines look again by themselves."
            ) from error

    async def _begin(self, lent: Lent, slot: Slot, kind: BodyKind) -> _Begun:
        try:
            await lent.begin(kind.isolation)
            return await _begun(Tx(lent.link, self._pool.names), slot, self._lease_of(slot.worker_key))
        except lent.errors as error:
            if faults.gave_way(error):
                raise
            raise faults.translated(error, self._address) from error

    async def _attempt(self, loan: Loan, begun: _Begun, body: TransactionBody) -> Outcome | RolledBack:
        append = await self._make(loan, body)
        return RolledBack() if append is None else await self._land(loan, begun, append)

    async def _make(self, loan: Loan, body: TransactionBody) -> Append | None:
        try:
            append = await body(loan.lent.tx)
            if append is not None:
                await loan.lent.settle()
        except Exception as error:
            await self._roll_back(loan, error)
            raise
        return append

    async def _land(self, loan: Loan, begun: _Begun, append: Append) -> Outcome:
        expected: tuple[type[Exception], ...] = (*loan.lent.errors, *faults.OF_ONE_WRITE)
        try:
            return await begun.land(append, self._now.given, self._news)
        except (UsageError, Again) as error:
            await self._roll_back(loan, error)
            raise
        except expected as error:
            await self._roll_back(loan, error)
            if faults.blames_one_write(error):
                return Refused(f"PostgreSQL does not take it: {link.said(error)}")
            if faults.gave_way(error):
                raise
            if link.sqlstate(error) == _ABORTED:
                raise _went_on() from error
            raise faults.translated(error, self._address) from error

    async def _commit(self, loan: Loan) -> None:
        lent = loan.lent
        try:
            await lent.commit()
        except lent.errors as error:
            if lent.is_closed or faults.is_of_connection(error):
                raise faults.translated(error, self._address) from error
            loan.has_ended = True
            raise  # It is about the body's SQL: a deferred constraint, or a conflict that shows only now.
        loan.has_ended = True

    async def _roll_back(self, loan: Loan, because: Exception | None = None) -> None:
        """Roll back.

        Raises:
            StoreUnavailable: The connection was lost meanwhile: whatever the body met, it was not to blame.
        """
        lent = loan.lent
        if not lent.is_closed:
            with suppress(*lent.errors):
                await lent.roll_back()
                loan.has_ended = True
        if lent.is_closed:
            lost = ConnectionError("the connection was lost in the middle of a transaction")
            raise faults.translated(lost, self._address) from because


class _Begun(Struct, frozen=True):
    """A transaction in which a body may work.

    Attributes:
        tx: It.
        standing: How the run stands.
        guard: Place of the guard's row.
        number: The server's number of the transaction.
        process: That of its process.
        changed: What the session has changed of ours so far.
    """

    tx: Tx
    standing: rules.Standing | None
    guard: str
    number: str
    process: int
    changed: int

    async def land(self, append: Append, given: Micros | None, news: tuple[str, str]) -> Outcome:
        """Write the entry, and let the transaction commit, if the slot is still the owner's.

        Raises:
            UsageError: The body has done what it must not.
        """
        reason = rules.objection(append)
        if reason:
            return Refused(reason)
        if _is_plain(append) and await self.tx.fetch(_LAND, *_values(append), self.number, self.changed, *self._beside(append)):
            return Landed()
        number, changed = await self.tx.one(_LOOK)
        if number != self.number:
            raise _ended_by_body()
        if changed != self.changed:
            raise _changed_ours()
        if await self.tx.fetch(_STORED, append.entry.run_key, append.entry.version):
            return Fenced()  # Even if it is this very entry: it has landed, but not with what this body did.
        (outcome,) = await careful.land(self.tx, [append], given)
        if isinstance(outcome, Landed):
            await self.tx.fetch(_UNGUARD, self.guard)
            if rules.is_news(append):
                await self.tx.fetch(_TELL, *news)
        return outcome

    def _beside(self, append: Append) -> tuple[object, ...]:
        blobs = append.entry.blobs
        return [*append.settled], [blob.hash for blob in blobs], [blob.data for blob in blobs], self.guard


async def _begun(tx: Tx, slot: Slot, lease_seconds: float) -> _Begun:
    lock, idle = (str(max(1, round(lease_seconds * fraction * 1000))) for fraction in (LOCK_FRACTION, IDLE_FRACTION))
    guard, number, process, changed = await tx.one(_BEGIN, slot.run_key, lock, idle)
    found = await tx.fetch(_STANDING, slot.run_key)
    return _Begun(tx, rules.Standing(*found[0]) if found else None, guard, number, process, changed)


def _is_plain(append: Append) -> bool:
    """It consists of its entry and what belongs to that alone."""
    others = append.create or append.children or append.posts or append.replies or append.attempts or append.not_before
    return not (others or append.begins_segment or rules.frees(append))


def _values(append: Append) -> tuple[object, ...]:
    entry = append.entry
    return (
        *(entry.run_key, entry.version, entry.epoch, entry.at, append.cursor, entry.drained, append.status.value, append.step),
        *(entry.hash, entry.events.decode(), append.worker_key, append.consumed),
    )


def _ended_by_body() -> UsageError:
    return UsageError(
        "the body of a transaction ended it by itself (COMMIT or ROLLBACK). Nothing of it was kept, and its result is not "
        "recorded. Take that out of the body: everstep commits, together with the result; to undo a part, use a savepoint."
    )


def _changed_ours() -> UsageError:
    return UsageError(
        "the body of a transaction changed tables that are everstep's own. Nothing of it was kept. Reading them is fine; what "
        "is to change there has verbs: start, send, cancel, from the workflow or from outside."
    )


def _went_on() -> UsageError:
    return UsageError(
        "a statement of the body of a transaction failed, and the body went on. PostgreSQL had given the whole transaction up, "
        "so nothing of it was kept. Let the error pass, or put the statement into a savepoint (a nested transaction)."
    )
