"""The ledger example, killed and resumed."""

import subprocess
import sys

from examples.ledger.demo import KILL_AFTER_LINES, REPOSITORY, verdict_expected


def test_the_ledger_is_killed_five_times_and_its_books_are_right() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.ledger.demo"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )

    lines = done.stdout.splitlines()
    assert (0, "") == (done.returncode, done.stderr)
    assert verdict_expected() == lines[-2:]
    assert len(KILL_AFTER_LINES) == sum("killed after: transfer" in line for line in lines)
    assert "life 6: finished with: transfer 39: dee has 1000, ann has 1000" in lines
