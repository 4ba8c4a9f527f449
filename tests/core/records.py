"""Runs as their store would see them."""

from __future__ import annotations

from collections.abc import Sequence

from everstep.journal import Entry
from everstep.records import RunRecord, Status
from tests.core.driver import RUN_KEY, START


def record_of(entries: Sequence[Entry], status: Status = Status.RUNNING, *, version: int | None = None) -> RunRecord:
    """The row of a run with this journal."""
    return RunRecord(
        run_key=RUN_KEY,
        run_id="run-1",
        workflow="checkout",
        code_version="7",
        status=status,
        version=len(entries) if version is None else version,
        hash=entries[-1].hash,
        epoch=1,
        worker_key=None,
        wake_at=None,
        created_at=START,
        updated_at=entries[-1].at,
        step="",
        cursor=0,
        deaths=0,
        max_recoveries=20,
        inbox_seq=0,
        inbox_done=0,
        parent_key=None,
        parent_command="",
        refused_by="",
    )
