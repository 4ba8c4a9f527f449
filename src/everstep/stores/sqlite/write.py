"""
Writing: runs begin, entries land, messages arrive. Every function works inside a transaction that the caller commits.

The fence is one guarded statement: the entry is inserted ``SELECT``ing from its run's row exactly if that stands where the
writer believes. One row inserted, and everything else about the entry follows; none, and nothing of it happens. Only then do
we look closer, to say why.

Updates of ``runs`` are graded by the indexes they touch: an entry in the middle of a run touches none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from everstep.events import Event
from everstep.journal import GENESIS, Entry, entry_hash, seal_bytes
from everstep.records import AttemptRecord, Message, Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import (
    Append,
    Created,
    Exists,
    Keep,
    Landed,
    NewRun,
    Outcome,
    Post,
    Refused,
    Reply,
    Settlement,
    Write,
)
from everstep.stores.sqlite import faults, queues, read, rows
from everstep.stores.sqlite.ask import Row, Value, only
from everstep.stores.sqlite.transaction import Tx

_NEXT_RUN_KEY: Final = "UPDATE meta SET value = value + 1 WHERE key = 'run_key' RETURNING value"

_INSERT_NEXT: Final = """
INSERT INTO journal(run_key, version, prev, epoch, at, drained, events, hash)
SELECT ?1, ?2, head, ?3, ?4, ?5, ?6, ?7 FROM runs
WHERE run_key = ?1 AND version = ?2 - 1 AND epoch = ?3 AND worker_key = ?8
"""
_INSERT_NEXT_IF_CONSUMED: Final = _INSERT_NEXT + " AND inbox_seq <= max(inbox_done, ?9)"
_INSERT_FIRST: Final = """
INSERT INTO journal(run_key, version, prev, epoch, at, drained, events, hash) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7)
"""
_INSERT_FIRST_OF_OWNED: Final = """
INSERT INTO journal(run_key, version, prev, epoch, at, drained, events, hash) SELECT ?1, ?2, 0, ?3, ?4, ?5, ?6, ?7
WHERE ?2 = 1 AND EXISTS (SELECT 1 FROM workers WHERE worker_key = ?8 AND gone = '')
  AND NOT EXISTS (SELECT 1 FROM runs WHERE run_id = ?9) AND NOT EXISTS (SELECT 1 FROM runs WHERE run_key = ?1)
"""
_FORKED: Final = "SELECT coalesce(anchors.version, 0) FROM runs LEFT JOIN anchors USING (run_key) WHERE runs.run_key = ?"
_INSERT_RUN: Final = """
INSERT INTO runs(run_key, run_id, workflow, code_version, status, version, hash, epoch, worker_key, wake_at, created_at,
                 updated_at, step, cursor, max_recoveries, inbox_seq, inbox_done, parent_key, parent_command, forked_from,
                 on_parent_close, family, pinned, queue, queue_key, priority, line, dedupe, head, first)
VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        last_insert_rowid(), last_insert_rowid())
"""

_ADVANCE: Final = """
UPDATE runs SET head = last_insert_rowid(), version = ?2, hash = ?3, updated_at = ?4, status = ?5, step = ?6, cursor = ?7,
                deaths = 0
WHERE run_key = ?1
"""
_ADVANCE_AND_CONSUME: Final = _ADVANCE.replace("deaths = 0", "deaths = 0, inbox_done = max(inbox_done, ?8)")
_BEGIN_SEGMENT: Final = "UPDATE runs SET base = ?2 WHERE run_key = ?1"
_GIVE_BACK: Final = """
UPDATE runs SET status = ?2, worker_key = NULL, wake_at = ?3, refused_by = ?4,
                outcome_entry = CASE WHEN ?5 THEN head ELSE outcome_entry END
WHERE run_key = ?1
"""
_REFUSED_BY: Final = "SELECT refused_by, queue FROM runs WHERE run_key = ?"
_TWIN: Final = "SELECT run_id FROM runs WHERE queue = ? AND dedupe = ?"

_STANDING: Final = "SELECT version, epoch, worker_key, inbox_seq, inbox_done FROM runs WHERE run_key = ?"
_IS_MY_WORKER_ALIVE: Final = "SELECT 1 FROM workers WHERE worker_key = ? AND gone = ''"

_INSERT_UNASKED: Final = """
INSERT INTO journal(run_key, version, prev, epoch, at, drained, events, hash)
SELECT ?1, ?2, head, ?3, ?4, ?5, ?6, ?7 FROM runs WHERE run_key = ?1
"""
_SETTLE: Final = """
UPDATE runs SET head = last_insert_rowid(), version = ?2, hash = ?3, epoch = ?4, updated_at = ?5, status = ?6, wake_at = ?7,
                deaths = 0, refused_by = '', outcome_entry = CASE WHEN ?8 THEN last_insert_rowid() END
WHERE run_key = ?1
"""

_PUT_ATTEMPT: Final = """
INSERT OR REPLACE INTO attempts(run_key, key, attempt, failures, due_at, recoveries, details, error, failures_max)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_PUT_BLOB: Final = "INSERT INTO blobs(run_key, hash, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_DROP_ATTEMPT: Final = "DELETE FROM attempts WHERE run_key = ? AND key = ?"
_DROP_ATTEMPTS: Final = "DELETE FROM attempts WHERE run_key = ?"

_INSERT_MESSAGE: Final = """
INSERT INTO inbox(run_key, seq, at, dedupe, event) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT(run_key, dedupe) WHERE dedupe <> '' DO NOTHING
"""
_COUNT_MESSAGE: Final = "UPDATE runs SET inbox_seq = ?2 WHERE run_key = ?1"
_COUNT_MESSAGE_AND_WAKE: Final = "UPDATE runs SET inbox_seq = ?2, wake_at = ?3 WHERE run_key = ?1"
_CONSUME: Final = "UPDATE runs SET inbox_done = max(inbox_done, ?2) WHERE run_key = ?1"
_REPLY: Final = "UPDATE inbox SET reply = ?3 WHERE run_key = ?1 AND dedupe = ?2 AND dedupe <> '' AND reply IS NULL"
_ADDRESSEE: Final = "SELECT run_key, status, worker_key, wake_at, inbox_seq FROM runs WHERE run_id = ?"
_ADDRESSEE_BY_KEY: Final = "SELECT run_key, status, worker_key, wake_at, inbox_seq FROM runs WHERE run_key = ?"
_PARENT: Final = "SELECT parent_key, parent_command, run_id, version FROM runs WHERE run_key = ? AND parent_key IS NOT NULL"
_PARENT_OF_ADDRESSEE: Final = "SELECT parent_key, parent_command FROM runs WHERE run_key = ?"
_CHILDREN: Final = f"SELECT {rows.RUN} FROM runs WHERE parent_key = ? AND parent_key IS NOT NULL ORDER BY run_key"  # noqa: S608

_SHORT: Final = 1 << 20
"""Entries below this size need no second look before they are inserted; and what is no UTF-8 fails when it is bound."""
_LANDED: Final = Landed()


# --- runs begin -------------------------------------------------------------------------------------------------------------


def create(tx: Tx, runs: Sequence[NewRun]) -> list[Created | Exists]:
    """Create queued runs."""
    return [_create_queued(tx, new) for new in runs]


def _create_queued(tx: Tx, new: NewRun) -> Created | Exists:
    existing = read.run(tx.ask, new.run_id) or _twin(tx, new)
    if existing is not None:
        return Exists(existing)
    if new.forked_from is not None:
        rules.check_fork(new, next((version for (version,) in tx.execute(_FORKED, (new.forked_from,))), None))
    if new.queue:
        queues.know(tx, new.queue)
    (key,) = only(tx.execute(_NEXT_RUN_KEY))
    now = tx.now()
    first = Entry(key, 1, 0, now, False, new.created, entry_hash(GENESIS, key, 1, 0, now, False, new.created))
    wake_at = now if new.wake_at is None else new.wake_at
    tx.execute(_INSERT_FIRST, entry_values(first))
    _insert_run(tx, new, first, Status.QUEUED, wake_at=wake_at)
    created = read.run(tx.ask, new.run_id)
    assert created is not None
    return Created(created)


def _twin(tx: Tx, new: NewRun) -> RunRecord | None:
    """The run that is already there for a dedupe key."""
    row = tx.execute(_TWIN, (new.queue, new.queue_key)).fetchone() if new.dedupes else None
    return None if row is None else read.run(tx.ask, row[0])


def _insert_run(
    tx: Tx,
    new: NewRun,
    first: Entry,
    status: Status,
    worker_key: WorkerKey | None = None,
    wake_at: Micros | None = None,
    step: str = "",
    cursor: int = 0,
    consumed: int = 0,
) -> None:
    messages = rules.first_messages(new, tx.now()) if new.messages else ()
    tx.execute(
        _INSERT_RUN,
        (
            first.run_key,
            new.run_id,
            new.workflow,
            new.code_version,
            status,
            first.hash,
            first.epoch,
            worker_key,
            wake_at,
            first.at,
            first.at,
            step,
            cursor,
            new.max_recoveries,
            len(messages),
            consumed,
            new.parent_key,
            new.parent_command,
            new.forked_from,
            new.on_parent_close,
            new.family,
            new.pinned,
            new.queue,
            new.queue_key,
            new.priority,
            1 if new.queue else 0,
            (new.queue_key or None) if new.queue and new.dedupes else None,
        ),
    )
    for each in messages:
        tx.execute(_INSERT_MESSAGE, (first.run_key, each.seq, each.at, each.dedupe, each.event.decode()))


def entry_values(entry: Entry) -> tuple[Value, ...]:
    """What is bound to ?1 to ?7 where an entry is inserted."""
    return (entry.run_key, entry.version, entry.epoch, entry.at, entry.drained, entry.events.decode(), entry.hash)


# --- progress ---------------------------------------------------------------------------------------------------------------


def land_all(tx: Tx, batch: Sequence[Write]) -> list[Outcome]:
    """Let a batch land, in order."""
    now = tx.now()
    return [_land_keep(tx, write, now) if isinstance(write, Keep) else _land(tx, write, now) for write in batch]


def _land(tx: Tx, write: Append, now: Micros) -> Outcome:
    has_effects = write.create is not None or write.children or write.posts or write.replies or write.begins_segment
    is_plain = not has_effects and len(write.entry.events) < _SHORT
    if (write.not_before is not None and write.not_before > now) or (not is_plain and rules.objection(write)):
        return _answer(tx, write, now)
    frees = rules.frees(write)
    if write.create is not None:
        if write.create.messages and rules.why_not(write, rules.unborn(write), now) is not None:
            return _answer(tx, write, now)
        landed = _insert_first(tx, write, write.create)
    else:
        landed = _insert_next(tx, write, must_be_consumed=frees and rules.must_be_consumed(write, now))
    if not landed:
        return _answer(tx, write, now)
    if write.entry.blobs:
        _keep_blobs(tx, write.entry)
    if write.attempts or write.settled:
        _keep_attempts(tx, write.entry.run_key, write.attempts, write.settled)
    if not frees and is_plain:
        return _LANDED
    if write.begins_segment:
        tx.execute(_BEGIN_SEGMENT, (write.entry.run_key, write.entry.version))
    if frees:
        _give_back(tx, write, write.entry.run_key, now)
    if write.children or write.posts:
        _send(tx, write)
    if write.replies:
        _reply(tx, write.entry.run_key, write.replies)
    if write.status.is_at_rest:
        tx.execute(_DROP_ATTEMPTS, (write.entry.run_key,))
        ending = rules.ending_of(write.entry.events)
        if ending is not None:
            tell_parent(tx, write.entry.run_key, ending)
    return _LANDED


def land_each(tx: Tx, batch: Sequence[Write]) -> list[Outcome]:
    """Let a batch land of which SQLite refuses some write: each in a savepoint, so that only that one is refused."""
    return [_land_alone(tx, write) for write in batch]


def _land_alone(tx: Tx, write: Write) -> Outcome:
    tx.execute("SAVEPOINT write")
    try:
        (outcome,) = land_all(tx, (write,))
    except faults.OF_ONE_WRITE as error:
        if faults.concerns_whole_store(error):
            raise
        tx.execute("ROLLBACK TO write")
        outcome = Refused(rules.objection(write) or f"SQLite cannot take it: {type(error).__name__}: {error}")
    tx.execute("RELEASE write")
    return outcome


def _insert_next(tx: Tx, write: Append, *, must_be_consumed: bool) -> bool:
    entry = write.entry
    values = (*entry_values(entry), write.worker_key)
    if must_be_consumed:
        tx.execute(_INSERT_NEXT_IF_CONSUMED, (*values, rules.known(write)))
    else:
        tx.execute(_INSERT_NEXT, values)
    if tx.changes() != 1:
        return False
    after = (entry.run_key, entry.version, entry.hash, entry.at, write.status, write.step, write.cursor)
    if write.consumed:
        tx.execute(_ADVANCE_AND_CONSUME, (*after, write.consumed))
    else:
        tx.execute(_ADVANCE, after)
    return True


def _insert_first(tx: Tx, write: Append, new: NewRun) -> bool:
    tx.execute(_INSERT_FIRST_OF_OWNED, (*entry_values(write.entry), write.worker_key, new.run_id))
    if tx.changes() != 1:
        return False
    _insert_run(tx, new, write.entry, write.status, write.worker_key, None, write.step, write.cursor, write.consumed)
    return True


def _answer(tx: Tx, write: Append, now: Micros) -> Outcome:
    """Why an entry did not land."""
    if write.create is not None:
        return _answer_first(tx, write, write.create, now)
    if _has(tx, write.entry, write.entry.run_key):
        return Landed()
    outcome = rules.why_not(write, standing(tx, write.entry.run_key), now)
    assert outcome is not None, "the guard of the statement and the rules disagree"
    return outcome


def _answer_first(tx: Tx, write: Append, new: NewRun, now: Micros) -> Outcome:
    existing = read.run(tx.ask, new.run_id)
    if existing is not None:
        return Landed() if _has(tx, write.entry, existing.run_key) else Exists(existing)
    is_free = standing(tx, write.entry.run_key) is None and tx.execute(_IS_MY_WORKER_ALIVE, (write.worker_key,)).fetchone()
    outcome = rules.why_not(write, rules.unborn(write) if is_free else None, now)
    assert outcome is not None, "the guard of the statement and the rules disagree"
    return outcome


def _has(tx: Tx, entry: Entry, run_key: RunKey) -> bool:
    return any(each.version == entry.version and each.hash == entry.hash for each in read.journal(tx.ask, run_key))


def standing(tx: Tx, run_key: RunKey) -> rules.Standing | None:
    """How a run stands now; None if there is none."""
    # Read to the end: a statement that is only half read would lock tables against the body of a transaction.
    rows = tx.execute(_STANDING, (run_key,)).fetchall()
    return rules.Standing(*rows[0]) if rows else None


def _land_keep(tx: Tx, write: Keep, now: Micros) -> Outcome:
    outcome = rules.why_not(write, standing(tx, write.run_key), now)
    if outcome is not None:
        return outcome
    _keep_attempts(tx, write.run_key, write.attempts, ())
    if write.consumed:
        tx.execute(_CONSUME, (write.run_key, write.consumed))
    if write.replies:
        _reply(tx, write.run_key, write.replies)
    if write.release:
        _give_back(tx, write, write.run_key, now)
    return Landed()


def _keep_blobs(tx: Tx, entry: Entry) -> None:
    for blob in entry.blobs:
        tx.execute(_PUT_BLOB, (entry.run_key, blob.hash, blob.data))


def _give_back(tx: Tx, write: Write, run_key: RunKey, now: Micros) -> None:
    refused_by, queue = only(tx.execute(_REFUSED_BY, (run_key,)))
    after = (rules.wake_after(write, now), rules.refused_after(refused_by, write), write.status.is_at_rest)
    tx.execute(_GIVE_BACK, (run_key, write.status, *after))
    if queue and write.status.is_at_rest:
        queues.leave(tx, run_key)


def _keep_attempts(tx: Tx, run_key: RunKey, attempts: Sequence[AttemptRecord], settled: Sequence[str]) -> None:
    for key in settled:
        tx.execute(_DROP_ATTEMPT, (run_key, key))
    for each in attempts:
        numbers = (each.attempt, each.failures, each.due_at, each.recoveries)
        tx.execute(_PUT_ATTEMPT, (run_key, each.key, *numbers, each.details, each.error, each.failures_max))


# --- an operator decides ----------------------------------------------------------------------------------------------------


def settle(tx: Tx, settlement: Settlement) -> RunRecord | None:
    """Write an entry to a run that nobody owns; None if it is not as the writer believes."""
    run = read.run_by_key(tx.ask, settlement.run_key)
    if run is None or run.worker_key is not None or run.version != settlement.version:
        return None
    at, is_at_rest = max(run.updated_at, tx.now()), settlement.status.is_at_rest
    entry = seal_bytes(run.hash, run.run_key, run.version + 1, run.epoch + 1, at, False, settlement.events, keep_whole=True)
    insert_unasked(tx, entry)
    after = (entry.run_key, entry.version, entry.hash, entry.epoch, at, settlement.status, settlement.wake_at)
    tx.execute(_SETTLE, (*after, is_at_rest))
    if run.queue and is_at_rest:
        queues.leave(tx, run.run_key)
    elif run.queue:
        queues.stand_aside(tx, run.run_key, is_due=settlement.wake_at is not None)
    if is_at_rest:
        tx.execute(_DROP_ATTEMPTS, (run.run_key,))
        ending = rules.ending_of(entry.events)
        if ending is not None:
            tell_parent(tx, run.run_key, ending)
        close_family(tx, run)
    return read.run(tx.ask, run.run_id)


def insert_unasked(tx: Tx, entry: Entry) -> None:
    """Insert an entry of somebody who does not own the run, which has been read in this transaction."""
    tx.execute(_INSERT_UNASKED, entry_values(entry))


# --- messages ---------------------------------------------------------------------------------------------------------------


def post(tx: Tx, run_id: str, message: Message) -> RunRecord | None:
    """Put a message into a run's inbox, and return the run as it is then."""
    _deliver(tx, tx.execute(_ADDRESSEE, (run_id,)).fetchone(), message)
    return read.run(tx.ask, run_id)


def tell_parent(tx: Tx, run_key: RunKey, ending: Event) -> None:
    """Post the outcome of a run that came to rest with this event to its parent, if it has one."""
    row = tx.execute(_PARENT, (run_key,)).fetchone()
    if row is None:
        return
    parent_key, *about = row
    message = rules.outcome_message(ending, *about)
    if message is not None:
        _deliver(tx, tx.execute(_ADDRESSEE_BY_KEY, (parent_key,)).fetchone(), message)


def _reply(tx: Tx, run_key: RunKey, replies: Sequence[Reply]) -> None:
    for each in replies:
        tx.execute(_REPLY, (run_key, each.dedupe, each.event.decode()))


def close_family(tx: Tx, run: RunRecord) -> None:
    """Ask the children of a run that was given up to stop, those that are to be cancelled with it."""
    children = list(map(rows.run_of, tx.execute(_CHILDREN, (run.run_key,))))
    message = rules.cancel_message(run.run_key, f"its parent {run.run_id} was given up")
    for child in children:
        if rules.is_closed_with_parent(child):
            _deliver(tx, tx.execute(_ADDRESSEE_BY_KEY, (child.run_key,)).fetchone(), message)


def _send(tx: Tx, write: Append) -> None:
    answers = [_start_child(tx, rules.as_child(child, write.entry.run_key), write.entry.version) for child in write.children]
    for post in write.posts:
        addressee = tx.execute(_ADDRESSEE, (post.run_id,)).fetchone()
        if addressee is not None and _is_for(tx, post, addressee[0]):
            _deliver(tx, addressee, post.message)
    for message in (message for each in answers for message in each):
        _deliver(tx, tx.execute(_ADDRESSEE_BY_KEY, (write.entry.run_key,)).fetchone(), message)


def _start_child(tx: Tx, child: NewRun, version: int) -> Sequence[Message]:
    return rules.answers(child, _create_queued(tx, child), version)


def _is_for(tx: Tx, post: Post, run_key: RunKey) -> bool:
    return post.parent_key is None or rules.is_for(post, *only(tx.execute(_PARENT_OF_ADDRESSEE, (run_key,))))


def _deliver(tx: Tx, addressee: Row | None, message: Message) -> None:
    if addressee is None:
        return
    run_key, status_value, worker_key, wake_at, inbox_seq = addressee
    status = Status(status_value)
    if status.is_at_rest:
        return
    now, seq = tx.now(), inbox_seq + 1
    tx.execute(_INSERT_MESSAGE, (run_key, seq, now, message.dedupe, message.event.decode()))
    if tx.changes() != 1:
        return
    wakes_at = rules.wake_by_message(status, worker_key, wake_at, now)
    if wakes_at == wake_at:
        tx.execute(_COUNT_MESSAGE, (run_key, seq))
    else:
        tx.execute(_COUNT_MESSAGE_AND_WAKE, (run_key, seq, wakes_at))
