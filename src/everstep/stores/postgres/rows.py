"""Rows and the values they hold: what the columns are called in which order, and back."""

from __future__ import annotations

from typing import Final

from everstep.journal import Entry
from everstep.records import AttemptRecord, Message, RunKey, RunRecord, Status
from everstep.stores.postgres.link import Row

# ``head`` is the newest entry. While a run is owned its status is that of its newest entry, and progress clears its deaths.
RUN: Final = """
runs.run_key, runs.run_id, runs.workflow, runs.code_version,
CASE WHEN runs.worker_key IS NULL THEN runs.status ELSE head.status END, head.version, head.hash, runs.epoch, runs.worker_key,
runs.wake_at, runs.created_at, head.at, head.step, head.cursor,
CASE WHEN head.version > runs.claimed_version THEN 0 ELSE runs.deaths END, runs.max_recoveries, runs.inbox_seq,
runs.inbox_done, runs.parent_key, runs.parent_command, runs.refused_by, runs.base,
runs.on_parent_close, runs.family, runs.pinned, runs.queue, runs.queue_key, runs.priority, runs.admitted
"""
# Written so that it can only be answered by going to the newest entry of one run at a time.
HEAD: Final = """
CROSS JOIN LATERAL (SELECT version, hash, at, status, step, cursor FROM everstep.journal
                    WHERE journal.run_key = runs.run_key ORDER BY version DESC LIMIT 1) AS head
"""
CREATED_AND_OUTCOME: Final = """
(SELECT events FROM everstep.journal WHERE journal.run_key = runs.run_key AND version = 1),
(SELECT events FROM everstep.journal WHERE journal.run_key = runs.run_key AND journal.version = head.version
 AND runs.status IN ('succeeded', 'cancelled', 'failed', 'dead'))
"""
ENTRY: Final = "run_key, version, epoch, at, drained, events, hash"
ATTEMPT: Final = "run_key, key, attempt, failures, due_at, recoveries, details, error, failures_max"
ATTEMPT_COUNT: Final = 9
PUT_ATTEMPT: Final = """
ON CONFLICT (run_key, key) DO UPDATE SET attempt = excluded.attempt, failures = excluded.failures, due_at = excluded.due_at,
    recoveries = excluded.recoveries, details = excluded.details, error = excluded.error, failures_max = excluded.failures_max
"""

_STATUSES: Final = {status.value: status for status in Status}


def full_run_of(row: Row) -> RunRecord:
    """A row of the columns RUN and CREATED_AND_OUTCOME."""
    *run, created, outcome = row
    return run_of(run, created.encode() if created else b"", None if outcome is None else outcome.encode())


def run_of(row: Row, created: bytes = b"", outcome: bytes | None = None) -> RunRecord:
    """A row of the columns RUN."""
    return RunRecord(
        run_key=row[0],
        run_id=row[1],
        workflow=row[2],
        code_version=row[3],
        status=_STATUSES[row[4]],
        version=row[5],
        hash=row[6],
        epoch=row[7],
        worker_key=row[8],
        wake_at=row[9],
        created_at=row[10],
        updated_at=row[11],
        step=row[12],
        cursor=row[13],
        deaths=row[14],
        max_recoveries=row[15],
        inbox_seq=row[16],
        inbox_done=row[17],
        parent_key=row[18],
        parent_command=row[19],
        refused_by=row[20],
        base=row[21],
        on_parent_close=row[22],
        family=row[23],
        pinned=row[24],
        queue=row[25],
        queue_key=row[26],
        priority=row[27],
        is_admitted=row[28],
        created=created,
        outcome=outcome,
    )


def entry_of(row: Row) -> Entry:
    """A row of the columns ENTRY."""
    run_key, version, epoch, at, drained, events, digest = row
    return Entry(run_key, version, epoch, at, drained, events.encode(), digest)


def message_of(row: Row) -> Message:
    """A row that begins with seq, at, dedupe, event, reply."""
    reply = None if row[4] is None else row[4].encode()
    return Message(seq=row[0], at=row[1], dedupe=row[2], event=row[3].encode(), reply=reply)


def attempt_of(row: Row) -> AttemptRecord:
    """A row of the columns ATTEMPT."""
    return AttemptRecord(
        run_key=row[0],
        key=row[1],
        attempt=row[2],
        failures=row[3],
        due_at=row[4],
        recoveries=row[5],
        details=row[6],
        error=row[7],
        failures_max=row[8],
    )


def attempt_values(run_key: RunKey, row: AttemptRecord) -> tuple[object, ...]:
    """The columns ATTEMPT of a row."""
    numbers = (row.attempt, row.failures, row.due_at, row.recoveries)
    return (run_key, row.key, *numbers, row.details, row.error, row.failures_max)
