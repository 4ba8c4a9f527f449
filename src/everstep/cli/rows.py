"""Runs as rows: for a table, for TSV, for JSON. Pure."""

from __future__ import annotations

from typing import Any

from everstep.cli.glyphs import status_text
from everstep.cli.words import clock, duration, iso
from everstep.records import Micros, RunRecord, Status

HEADS = ("RUN", "WORKFLOW", "STATUS", "STEP", "STARTED", "TOOK", "TRY")
RIGHT = frozenset({"TOOK", "TRY"})


def table_row(run: RunRecord, now: Micros) -> tuple[str, ...]:
    """The cells under HEADS, for people."""
    return (
        run.run_id,
        run.workflow,
        status_text(run.status),
        _where(run, now),
        clock(run.created_at, now),
        duration(took(run, now)),
        str(run.deaths + 1),
    )


def tsv_row(run: RunRecord, now: Micros) -> tuple[str, ...]:
    """The same cells for programs: no signs, instants in UTC, lengths in seconds."""
    return (
        run.run_id,
        run.workflow,
        run.status,
        run.step,
        iso(run.created_at),
        f"{took(run, now) / 1e6:.6f}",
        str(run.deaths + 1),
    )


def run_json(run: RunRecord) -> dict[str, Any]:
    """A run as an object: what ``--json`` prints everywhere."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "code_version": run.code_version,
        "status": run.status.value,
        "step": run.step,
        "cursor": run.cursor,
        "version": run.version,
        "hash": run.hash.hex(),
        "epoch": run.epoch,
        "deaths": run.deaths,
        "created_at": iso(run.created_at),
        "updated_at": iso(run.updated_at),
        "wake_at": None if run.wake_at is None or _is_never(run.wake_at) else iso(run.wake_at),
        "is_owned": run.worker_key is not None,
        "queue": run.queue or None,
        "queue_key": run.queue_key or None,
        "priority": run.priority if run.queue else None,
        "is_in_line": run.is_in_line,
    }


def took(run: RunRecord, now: Micros) -> Micros:
    """How long a run took, or takes so far."""
    return max(0, (run.updated_at if run.status.is_at_rest else now) - run.created_at)


def _where(run: RunRecord, now: Micros) -> str:
    if (
        run.status in (Status.WAITING, Status.QUEUED)
        and run.wake_at is not None
        and now < run.wake_at
        and not _is_never(run.wake_at)
    ):
        left = f"{duration(run.wake_at - now)} left"
        return f"{run.step} ({left})" if run.step else left
    return "" if run.status is Status.SUCCEEDED and not run.step else run.step


def _is_never(wake_at: Micros) -> bool:
    """Beyond any calendar: only a message wakes the run."""
    return wake_at > 1 << 57
