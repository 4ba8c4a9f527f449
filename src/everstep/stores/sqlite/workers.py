"""
Workers: their rows, their leases, and the proof that one of them is dead.

A worker is dead if it says so (retired), if the machine was booted since, if its lock can be had, or if its lease has run out.
Only the last can be wrong (the process may be frozen), so it holds only if no heartbeat came between looking and marking.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from everstep.records import Micros, Pulse, WorkerKey, WorkerProfile
from everstep.stores import profiles, rules
from everstep.stores.sqlite.ask import Ask, only
from everstep.stores.sqlite.clock import boot_id
from everstep.stores.sqlite.oslock import WorkerLocks
from everstep.stores.sqlite.transaction import Tx

_ENLIST: Final = """
INSERT INTO workers(name, boot_id, heartbeat, lease_seconds, enlisted_at, profile, schema_version) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_MIN_VERSION: Final = "SELECT value FROM meta WHERE key = 'min_version'"
_HEARTBEAT: Final = "UPDATE workers SET heartbeat = ? WHERE worker_key = ? AND gone = '' RETURNING draining"
_DRAIN: Final = "UPDATE workers SET draining = 1 WHERE worker_key = ? AND gone = ''"
_RETIRE: Final = "UPDATE workers SET gone = ? WHERE worker_key = ? AND gone = ''"
_OTHERS: Final = "SELECT worker_key, boot_id, heartbeat, lease_seconds, gone FROM workers WHERE worker_key <> ?"
_NAME_IF_WILLING: Final = "SELECT name FROM workers WHERE worker_key = ? AND gone = '' AND NOT draining"
_BURY: Final = """
UPDATE workers SET gone = ?2, was_alone = (
    SELECT count(*) = 1 FROM (SELECT 1 FROM runs WHERE runs.worker_key = workers.worker_key LIMIT 2))
WHERE worker_key = ?1 AND gone = '' AND (heartbeat = ?3 OR ?2 <> 'lease expired')
"""
_FORGET: Final = """
DELETE FROM workers WHERE gone <> '' AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.worker_key = workers.worker_key)
RETURNING worker_key
"""


class Worker(Struct, frozen=True):
    """What is known about another worker."""

    worker_key: WorkerKey
    boot_id: str
    heartbeat: float
    lease_seconds: float
    gone: str


def min_version(tx: Tx) -> int:
    """The oldest version of code that may drive runs here."""
    return int(only(tx.execute(_MIN_VERSION))[0])


def enlist(
    tx: Tx, name: str, lease_seconds: float, profile: WorkerProfile, *, now: tuple[float, Micros], schema_version: int
) -> WorkerKey:
    """Add a worker; ``now`` is monotonic and by the store's clock. The caller takes its lock before it commits."""
    monotonic, enlisted_at = now
    said = (enlisted_at, profiles.encode(profile), schema_version)
    tx.execute(_ENLIST, (name, boot_id(), monotonic, lease_seconds, *said))
    return tx.last_id()


def heartbeat(tx: Tx, worker_key: WorkerKey, monotonic: float) -> Pulse:
    """Renew, unless the worker is gone."""
    return profiles.pulse(tx.execute(_HEARTBEAT, (monotonic, worker_key)).fetchall())


def drain(tx: Tx, worker_key: WorkerKey) -> bool:
    """Ask a worker to leave, unless it is gone."""
    tx.execute(_DRAIN, (worker_key,))
    return tx.changes() == 1


def retire(tx: Tx, worker_key: WorkerKey) -> list[WorkerKey]:
    """Mark the worker as gone. Returns whose rows are removed: the caller removes their lock files after the commit."""
    tx.execute(_RETIRE, (rules.RETIRED, worker_key))
    return forget(tx)


def forget(tx: Tx) -> list[WorkerKey]:
    """Remove the rows of those who are gone and own nothing."""
    return [worker_key for (worker_key,) in tx.execute(_FORGET).fetchall()]


def name_if_willing(ask: Ask, worker_key: WorkerKey) -> str | None:
    """The name of a worker; None if it may not claim."""
    row = ask(_NAME_IF_WILLING, (worker_key,)).fetchone()
    return None if row is None else str(row[0])


def others(ask: Ask, worker_key: WorkerKey) -> list[Worker]:
    """All other workers."""
    return [Worker(*row) for row in ask(_OTHERS, (worker_key,))]


def proof_of_death(worker: Worker, locks: WorkerLocks, monotonic: float) -> rules.Why:
    """Why this worker, whose row says that it is alive, is dead; empty if there is no proof."""
    if worker.boot_id != boot_id():
        return rules.REBOOTED
    if locks.is_free(worker.worker_key):
        return rules.KILLED
    return rules.LEASE_EXPIRED if rules.is_expired(worker.heartbeat, worker.lease_seconds, monotonic) else ""


def bury(tx: Tx, worker: Worker, why: rules.Why) -> None:
    """Mark a worker dead that was proved so."""
    tx.execute(_BURY, (worker.worker_key, why, worker.heartbeat))
