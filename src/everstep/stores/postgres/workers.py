"""
Workers: their rows, their leases, and the proof that one of them is dead.

A worker is dead if it says so (retired), if its seat is empty, or if its lease has run out by the server's clock. A seat is an
advisory lock on a connection of its own: the server lets go of it as soon as the process is gone. It can be empty for other
reasons: the server was started anew (then the row names another start, and the seat proves nothing until it is taken again), or
the network failed for a moment (so it must have been empty for a while, see ``Watch``). Both proofs hold only if no heartbeat
came between looking and marking.

Rows of the dead are kept for a day: whoever creates a run at the very moment of its death is then still found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from everstep.records import Micros, Pulse, WorkerKey, WorkerProfile
from everstep.stores import profiles, rules
from everstep.stores.postgres.clock import LEASE_NOW, NOW
from everstep.stores.postgres.pool import Tx

SEATS: Final = 0x45565354
"""The first half of the advisory locks that are seats; the second is the worker's key."""

_ENLIST: Final = f"""
INSERT INTO everstep.workers(worker_key, name, heartbeat, lease_seconds, enlisted_at, profile, schema_version)
VALUES (nextval('everstep.worker_keys'), $2, {LEASE_NOW}, $3, $4, $5, $6) RETURNING worker_key
"""  # noqa: S608
_MIN_VERSION: Final = "SELECT value FROM everstep.meta WHERE key = 'min_version'"
_HEARTBEAT: Final = f"""
UPDATE everstep.workers SET heartbeat = {LEASE_NOW} WHERE worker_key = $2 AND gone = '' RETURNING draining
"""  # noqa: S608
_DRAIN: Final = "UPDATE everstep.workers SET draining = true WHERE worker_key = $1 AND gone = '' RETURNING worker_key"
_RETIRE: Final = f"""
UPDATE everstep.workers SET gone = 'retired', gone_at = {LEASE_NOW} WHERE worker_key = $2 AND gone = ''
"""  # noqa: S608
_TIME: Final = f"SELECT {NOW}"
# Of the WAL that is written now: each promotion begins another. (What pg_control_checkpoint says is a checkpoint late.)
_TIMELINE: Final = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
_FORGET: Final = f"""
DELETE FROM everstep.workers WHERE gone <> '' AND gone_at < {LEASE_NOW} - 86400
AND NOT EXISTS (SELECT FROM everstep.runs WHERE runs.worker_key = workers.worker_key)
"""  # noqa: S608
_NAME_IF_WILLING: Final = """
SELECT name FROM everstep.workers WHERE worker_key = $1 AND gone = '' AND NOT draining FOR SHARE
"""
# A CASE, because a lock must not be tried for where the seat means nothing.
_SEEN: Final = f"""
SELECT worker_key, name, heartbeat, lease_seconds, gone, draining, {LEASE_NOW} AS lease_now,
       CASE WHEN gone = '' AND seat = pg_postmaster_start_time()
            THEN pg_try_advisory_xact_lock($2, worker_key::int4) ELSE false END AS is_empty
FROM everstep.workers
WHERE gone = '' OR EXISTS (SELECT FROM everstep.runs WHERE runs.worker_key = workers.worker_key) ORDER BY worker_key
"""  # noqa: S608
_BURY: Final = f"""
UPDATE everstep.workers SET gone = dead.why, gone_at = {LEASE_NOW}, was_alone = (
    SELECT count(*) = 1 FROM (SELECT 1 FROM everstep.runs WHERE runs.worker_key = workers.worker_key LIMIT 2) AS owned)
FROM unnest($2::int8[], $3::float8[], $4::text[]) AS dead(worker_key, heartbeat, why)
WHERE workers.worker_key = dead.worker_key AND workers.gone = '' AND workers.heartbeat = dead.heartbeat
"""  # noqa: S608
_SIT: Final = "SELECT pg_advisory_lock($1, $2)"
_STAND_UP: Final = "SELECT pg_advisory_unlock($1, $2)"
_SAY_SEATED: Final = """
UPDATE everstep.workers SET seat = pg_postmaster_start_time() WHERE worker_key = $1 AND gone = ''
"""


class Seen(Struct, frozen=True):
    """What is known about a worker.

    Attributes:
        worker_key: Its token.
        name: Its name.
        heartbeat: Its last one, on the clock of leases.
        lease_seconds: How long it is trusted after that.
        gone: Why it is not alive; empty while it is.
        is_draining: It takes nothing new.
        lease_now: The clock of leases, now.
        is_empty: Its seat is empty.
    """

    worker_key: WorkerKey
    name: str
    heartbeat: float
    lease_seconds: float
    gone: str
    is_draining: bool
    lease_now: float
    is_empty: bool

    @property
    def is_expired(self) -> bool:
        """Its lease has run out."""
        return rules.is_expired(self.heartbeat, self.lease_seconds, self.lease_now)


async def enlist(
    tx: Tx,
    name: str,
    lease_seconds: float,
    profile: WorkerProfile,
    *,
    lease_now: float | None,
    enlisted_at: Micros,
    schema_version: int,
) -> WorkerKey:
    """Add a worker."""
    said = (enlisted_at, profiles.encode(profile), schema_version)
    (worker_key,) = await tx.one(_ENLIST, lease_now, name, lease_seconds, *said)
    return int(worker_key)


async def min_version(tx: Tx) -> int:
    """The oldest version of code that may drive runs here."""
    (value,) = await tx.one(_MIN_VERSION)
    return int(value)


async def sit(tx: Tx, worker_key: WorkerKey) -> None:
    """Take the worker's seat, for as long as this connection lasts, and say so."""
    await tx.fetch(_SIT, SEATS, worker_key)
    await tx.fetch(_SAY_SEATED, worker_key)


async def stand_up(tx: Tx, worker_key: WorkerKey) -> None:
    """Leave the seat."""
    await tx.fetch(_STAND_UP, SEATS, worker_key)


async def heartbeat(tx: Tx, worker_key: WorkerKey, lease_now: float | None) -> Pulse:
    """Renew, unless the worker is gone."""
    return profiles.pulse(await tx.fetch(_HEARTBEAT, lease_now, worker_key))


async def drain(tx: Tx, worker_key: WorkerKey) -> bool:
    """Ask a worker to leave, unless it is gone."""
    return bool(await tx.fetch(_DRAIN, worker_key))


async def retire(tx: Tx, worker_key: WorkerKey, lease_now: float | None) -> None:
    """Mark the worker as gone."""
    await tx.fetch(_RETIRE, lease_now, worker_key)
    await tx.fetch(_FORGET, lease_now)


async def name_if_willing(tx: Tx, worker_key: WorkerKey) -> str | None:
    """The name of a worker, which stays alive until the transaction ends; None if it may not claim."""
    found = await tx.fetch(_NAME_IF_WILLING, worker_key)
    return str(found[0][0]) if found else None


async def see(tx: Tx, lease_now: float | None) -> list[Seen]:
    """All workers that are alive or still own runs. Not to be asked on the connection that holds seats itself."""
    return [Seen(*row) for row in await tx.fetch(_SEEN, lease_now, SEATS)]


async def bury(tx: Tx, died: Sequence[tuple[Seen, rules.Why]], lease_now: float | None) -> None:
    """Mark workers dead that were proved so."""
    keys, heartbeats = [each.worker_key for each, _ in died], [each.heartbeat for each, _ in died]
    await tx.fetch(_BURY, lease_now, keys, heartbeats, [why for _, why in died])


async def timeline(tx: Tx) -> str:
    """Which history of the server this is: another one after a standby was promoted."""
    (name,) = await tx.one(_TIMELINE)
    return str(name)


async def time_of(tx: Tx, given: Micros | None) -> Micros:
    """The store's clock."""
    (now,) = await tx.one(_TIME, given)
    return int(now)
