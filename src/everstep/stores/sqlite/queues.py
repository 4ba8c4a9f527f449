"""
Queues: their settings, what they have left for a worker, and who passes a place on.

Where a run stands in its queue are two columns of its row, so no crash can leave a place taken by nobody:

    line 1 ──claim──▶ line 0, admitted 1 ──at rest──▶ line 0, admitted 0 ──reopened──▶ line 1
      ▲ │
      │ └── came across by a claim that had no room for its key ──▶ line 2
      └──────── somebody of its key has left his place ─────────────────┘

``line 2`` stands in no index that claims read: a million runs of one key cost a claim what ten do. What puts a run there holds
a place of its key, or is admitted by the same claim; and whoever leaves such a place lets the next one back (``leave``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from everstep.limits import Limits, QueueChange, QueueRecord, changed
from everstep.records import Micros, RunKey, WorkerKey
from everstep.stores import queueing
from everstep.stores.rules import Candidate
from everstep.stores.sqlite.ask import Ask, Row, only
from everstep.stores.sqlite.transaction import Tx

_QUEUE: Final = "name, declared, changed, changed_by, changed_why, is_paused, paused_by, paused_why"
_QUEUES: Final = f"SELECT {_QUEUE} FROM queues ORDER BY name"  # noqa: S608  # names of columns
_ONE_QUEUE: Final = f"SELECT {_QUEUE} FROM queues WHERE name = ?"  # noqa: S608
_PUT_QUEUE: Final = f"INSERT OR REPLACE INTO queues({_QUEUE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_KNOW: Final = "INSERT INTO queues(name) VALUES (?) ON CONFLICT DO NOTHING"

_ADMITTED: Final = "SELECT count(*) FROM (SELECT 1 FROM runs WHERE queue = ? AND admitted = 1 LIMIT ?)"
_HELD: Final = "SELECT count(*) FROM runs WHERE queue = ? AND queue_key = ? AND admitted = 1"
_DRIVEN: Final = "SELECT count(*) FROM runs WHERE worker_key = ? AND worker_key IS NOT NULL AND queue = ?"
_RECENT: Final = "SELECT at FROM admissions WHERE queue = ? AND at > ? ORDER BY at"
_IN_LINE: Final = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM runs WHERE queue = ?1 AND line = 1 LIMIT ?2))
     + (SELECT count(*) FROM (SELECT 1 FROM runs WHERE queue = ?1 AND line = 2 LIMIT ?2))
"""

_ADMIT: Final = "UPDATE runs SET line = 0, admitted = 1 WHERE run_key = ?"
_NOTE: Final = "INSERT INTO admissions(queue, at, run_key) VALUES (?, ?, ?)"
_FORGET: Final = "DELETE FROM admissions WHERE queue = ? AND at <= ?"
_PUT_ASIDE: Final = "UPDATE runs SET line = 2 WHERE run_key = ?"
_LET_ALL_BACK: Final = "UPDATE runs SET line = 1 WHERE queue = ? AND line = 2"
_LET_NEXT_BACK: Final = """
UPDATE runs SET line = 1 WHERE run_key = (
    SELECT run_key FROM runs WHERE queue = ?1 AND queue_key = ?2 AND line = 2 ORDER BY priority, wake_at, run_key LIMIT 1)
"""
_STAND: Final = "SELECT queue, queue_key, line, admitted FROM runs WHERE run_key = ?"
_LEAVE: Final = "UPDATE runs SET line = 0, admitted = 0, dedupe = NULL WHERE run_key = ?"
_LINE_UP: Final = "UPDATE runs SET line = 1 WHERE run_key = ? AND admitted = 0"


# --- settings ---------------------------------------------------------------------------------------------------------------


def configure(tx: Tx, change: QueueChange) -> QueueRecord:
    """Change a queue, and return it as it then is."""
    row = tx.execute(_ONE_QUEUE, (change.name,)).fetchone()
    before = QueueRecord(name=change.name) if row is None else _queue_of(row)
    after = changed(before, change)
    limits = (_text(after.declared), _text(after.changed))
    why = (after.changed_by, after.changed_why, after.is_paused, after.paused_by, after.paused_why)
    tx.execute(_PUT_QUEUE, (after.name, *limits, *why))
    if after.limits.per_key != before.limits.per_key:
        tx.execute(_LET_ALL_BACK, (after.name,))
    return after


def know(tx: Tx, name: str) -> None:
    """There is a queue of this name."""
    tx.execute(_KNOW, (name,))


def settings(ask: Ask) -> list[QueueRecord]:
    """All queues, uncounted."""
    return list(map(_queue_of, ask(_QUEUES)))


def standings(ask: Ask, now: Micros) -> list[QueueRecord]:
    """All queues, and how they stand."""
    return [
        queueing.counted(
            queue,
            only(ask(_IN_LINE, (queue.name, queueing.COUNT_MAX)))[0],
            only(ask(_ADMITTED, (queue.name, queueing.COUNT_MAX)))[0],
            _recent(ask, queue, now),
        )
        for queue in settings(ask)
    ]


def _queue_of(row: Row) -> QueueRecord:
    name, declared, changed_to, changed_by, changed_why, is_paused, paused_by, paused_why = row
    return QueueRecord(
        name=name,
        declared=_limits(declared),
        changed=_limits(changed_to),
        changed_by=changed_by,
        changed_why=changed_why,
        is_paused=bool(is_paused),
        paused_by=paused_by,
        paused_why=paused_why,
    )


def _limits(text: str | None) -> Limits | None:
    return None if text is None else msgspec.json.decode(text, type=Limits)


def _text(limits: Limits | None) -> str | None:
    return None if limits is None else msgspec.json.encode(limits).decode()


# --- claiming ---------------------------------------------------------------------------------------------------------------


def room(ask: Ask, queue: QueueRecord, worker_key: WorkerKey, now: Micros) -> queueing.Room:
    """What a queue has left for a worker. What it does not limit is not counted."""
    limits = queue.limits
    admitted = driven = 0
    if limits.concurrency is not None:
        (admitted,) = only(ask(_ADMITTED, (queue.name, limits.concurrency)))
    if limits.per_worker is not None:
        (driven,) = only(ask(_DRIVEN, (worker_key, queue.name)))
    return queueing.room_of(queue, admitted, driven, _recent(ask, queue, now))


def _recent(ask: Ask, queue: QueueRecord, now: Micros) -> list[Micros]:
    limits = queue.limits
    return [] if limits.rate is None else [at for (at,) in ask(_RECENT, (queue.name, now - limits.window))]


def held(ask: Ask, queue: str, key: str) -> int:
    """How many runs of a key are in progress."""
    return int(only(ask(_HELD, (queue, key)))[0])


def admit(tx: Tx, run: Candidate, limits: Limits, now: Micros) -> None:
    """A run in line is in progress from now on."""
    tx.execute(_ADMIT, (run.run_key,))
    if limits.rate is not None:
        tx.execute(_FORGET, (run.queue, now - limits.window))
        tx.execute(_NOTE, (run.queue, now, run.run_key))


def put_aside(tx: Tx, blocked: Iterable[Candidate]) -> None:
    """Nobody comes across these until one of their key leaves his place."""
    for each in blocked:
        tx.execute(_PUT_ASIDE, (each.run_key,))


# --- leaving ----------------------------------------------------------------------------------------------------------------


def leave(tx: Tx, run_key: RunKey) -> None:
    """A run of a queue is at rest."""
    queue, key, line, admitted = only(tx.execute(_STAND, (run_key,)))
    tx.execute(_LEAVE, (run_key,))
    if key and (admitted or line == 1):
        tx.execute(_LET_NEXT_BACK, (queue, key))


def stand_aside(tx: Tx, run_key: RunKey, *, is_due: bool) -> None:
    """Somebody decided about a run of a queue that nobody owns: it is paused, or goes on, or is reopened."""
    queue, key, line, _ = only(tx.execute(_STAND, (run_key,)))
    tx.execute(_LINE_UP, (run_key,))
    if key and line == 1 and not is_due:
        tx.execute(_LET_NEXT_BACK, (queue, key))
