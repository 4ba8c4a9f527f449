"""Points in the code of a real process at which a test has it killed or stopped."""

from __future__ import annotations

import os
import signal


class Failpoint:
    """Counts how often a place is passed, and kills or stops the process at the n-th time.

    Args:
        text: ``signal:where:n``, such as ``KILL:in-body:1``.
    """

    def __init__(self, text: str = "KILL:nowhere:0") -> None:
        name, self.where, count = text.split(":")
        self.signal = signal.Signals[f"SIG{name}"]
        self.left = int(count)

    def passes(self, where: str) -> None:
        """A place is passed."""
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.signal)
