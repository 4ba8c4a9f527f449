"""
Kill the ledger five times, let it finish, and look into its books.

    python -m examples.ledger.demo
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import apsw

from everstep.stores.sqlite.ask import asking
from examples.ledger.ledger import ACCOUNTS, CENTS, TRANSFERS

REPOSITORY = Path(__file__).parents[2]
KILL_AFTER_LINES = (1, 2, 3, 1, 4)
"""How many transfers each life tells of before it is killed, in the middle of the next ones."""


def live(db: Path, lines: int | None) -> list[str]:
    """Run the program, and kill it after so many lines; None lets it finish. What it told."""
    command = [sys.executable, "-m", "examples.ledger.ledger", str(db)]
    told: list[str] = []
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.strip())
            if len(told) == lines:
                process.kill()
                break
        process.stdout.close()
    return told


def verdict(db: Path) -> list[str]:
    """What the books say."""
    with closing(apsw.Connection(str(db), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        ask = asking(connection)
        lines = Counter(ask("SELECT transfer, account, cents FROM books").fetchall())
        balances: dict[str, int] = dict(ask("SELECT name, cents FROM accounts").fetchall())
        [(half,)] = ask("SELECT count(*) FROM (SELECT 1 FROM books GROUP BY transfer HAVING sum(cents) <> 0)")
    twice = sum(count - 1 for count in lines.values())
    return [
        f"{len(lines)} lines in the books for {TRANSFERS} transfers; {twice} of them twice, {half} transfers half done",
        f"{len(ACCOUNTS) * CENTS} cents before, {sum(balances.values())} after",
    ]


def main() -> int:
    """Kill, finish, look; whether all is well."""
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "bank.db"
        for number, lines in enumerate(KILL_AFTER_LINES, 1):
            print(f"life {number}: killed after: {live(db, lines)[-1]}")
        print(f"life {len(KILL_AFTER_LINES) + 1}: finished with: {live(db, None)[-1]}")
        told = verdict(db)
    print("\n".join(told))
    return 0 if told == verdict_expected() else 1


def verdict_expected() -> list[str]:
    """What must be there."""
    return [
        f"{2 * TRANSFERS} lines in the books for {TRANSFERS} transfers; 0 of them twice, 0 transfers half done",
        f"{len(ACCOUNTS) * CENTS} cents before, {len(ACCOUNTS) * CENTS} after",
    ]


if __name__ == "__main__":
    sys.exit(main())
