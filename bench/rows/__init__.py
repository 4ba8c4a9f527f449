"""
The rows by name, in the order of the table. A row takes the bench and returns its measurements; it may raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from bench.contest import Bench
from bench.measurement import Measurement
from bench.rows import disk, idle, postgres, recovery, speed, startup, talking

Row: TypeAlias = Callable[[Bench], list[Measurement]]

ROWS: Mapping[str, Row] = {
    "floors": speed.floors,
    "steps": speed.steps,
    "commits": speed.commits,
    "runs": speed.runs,
    "latency": speed.latency,
    "recovery": recovery.recovery,
    "replay": recovery.replay,
    "sleepers": idle.sleepers,
    "idle": idle.idle,
    "wake": idle.wake,
    "signals": talking.signals,
    "requests": talking.requests,
    "sagas": talking.sagas,
    "slowdisk": disk.slow_disk,
    "blobs": disk.blobs,
    "processes": disk.two_processes,
    "bytes": disk.bytes_per_step,
    "startup": startup.startup,
    "postgres": postgres.postgres,
}
