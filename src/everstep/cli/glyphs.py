"""
The sign and the colour of each status. Values only.

A status is a sign *and* a word, never colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from everstep.records import Status

OF_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "○",
    Status.RUNNING: "▶",
    Status.WAITING: "◷",
    Status.PAUSED: "‖",
    Status.COMPENSATING: "↶",
    Status.SUCCEEDED: "✓",
    Status.CANCELLED: "⊘",
    Status.FAILED: "✕",
    Status.DEAD: "◆",
}
COLOUR_OF_STATUS: Mapping[Status, str] = {
    Status.QUEUED: "bright_black",
    Status.RUNNING: "blue",
    Status.WAITING: "yellow",
    Status.PAUSED: "blue",
    Status.COMPENSATING: "magenta",
    Status.SUCCEEDED: "green",
    Status.CANCELLED: "bright_black",
    Status.FAILED: "red",
    Status.DEAD: "bright_magenta",
}


def status_text(status: Status) -> str:
    """A status as people see it: ``✓ succeeded``."""
    return f"{OF_STATUS[status]} {status}"
