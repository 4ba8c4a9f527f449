"""How rows become records."""

from __future__ import annotations

from typing import Final

from everstep.journal import Entry
from everstep.records import AttemptRecord, Message, RunRecord, Status
from everstep.stores.sqlite.ask import Row

RUN: Final = (
    "run_key, run_id, workflow, code_version, status, version, hash, epoch, worker_key, wake_at, created_at, updated_at, step, "
    "cursor, deaths, max_recoveries, inbox_seq, inbox_done, parent_key, parent_command, refused_by, base, "
    "on_parent_close, family, pinned, queue, queue_key, priority, admitted"
)
CREATED_AND_OUTCOME: Final = (
    "(SELECT events FROM journal WHERE id = runs.first), (SELECT events FROM journal WHERE id = runs.outcome_entry)"
)
ENTRY: Final = "run_key, version, epoch, at, drained, events, hash"
ATTEMPT: Final = "run_key, key, attempt, failures, due_at, recoveries, details, error, failures_max"

_STATUSES: Final = {status.value: status for status in Status}


def full_run_of(row: Row) -> RunRecord:
    """A row of the columns RUN and CREATED_AND_OUTCOME."""
    *run, created, outcome = row
    return run_of(tuple(run), created.encode(), None if outcome is None else outcome.encode())


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
        is_admitted=bool(row[28]),
        created=created,
        outcome=outcome,
    )


def entry_of(row: Row) -> Entry:
    """A row of the columns ENTRY."""
    run_key, version, epoch, at, drained, events, digest = row
    return Entry(run_key, version, epoch, at, bool(drained), events.encode(), digest)


def message_of(row: Row) -> Message:
    """A row of seq, at, dedupe, event, reply."""
    seq, at, dedupe, event, reply = row
    return Message(seq=seq, at=at, dedupe=dedupe, event=event.encode(), reply=None if reply is None else reply.encode())


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
