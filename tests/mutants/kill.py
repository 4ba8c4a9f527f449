"""
Plant each mutant in a copy of the source, run the tests that must notice, and say which one did.

    python -m tests.mutants.kill [NAME …]      only mutants whose name contains one of these words
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 120
"""A mutant may make a test hang; that it hung is not taken for a kill."""


class Verdict(Struct, frozen=True):
    """What became of a mutant.

    Attributes:
        mutant: Which.
        killer: The test that failed; empty if none did.
        trouble: Why no verdict was reached; empty if there is one.
    """

    mutant: Mutant
    killer: str = ""
    trouble: str = ""


def planted(mutant: Mutant, source: str) -> str:
    """The source with the mistake in it.

    Raises:
        AssertionError: The guard does not stand there, or more than once.
    """
    count = source.count(mutant.text)
    assert count == 1, (
        f"mutant {mutant.name!r}: its text stands {count} times in {mutant.file}. Nothing was planted. If the guard was "
        "rewritten, write the mutant anew in tests/mutants/catalogue.py."
    )
    return source.replace(mutant.text, mutant.instead)


def try_to_kill(mutant: Mutant) -> Verdict:
    """Plant one mutant and run its killers until one fails."""
    with tempfile.TemporaryDirectory(prefix="everstep-mutant-") as directory:
        copy = Path(directory) / "everstep"
        shutil.copytree(ROOT / "src/everstep", copy)
        file = copy / mutant.file
        file.write_text(planted(mutant, file.read_text()))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([directory, str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--tb=no",
            *mutant.killers,
        ]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(mutant, trouble=f"no end within {SECONDS_MAX} s")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Verdict(mutant, killer=failed[1])
    return Verdict(mutant) if done.returncode == 0 else Verdict(mutant, trouble=(done.stdout + done.stderr)[-2000:])


def main(words: Sequence[str]) -> int:
    """Print a line per mutant; 1 if one survived."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for verdict in pool.map(try_to_kill, chosen):
            survivors += not verdict.killer
            end = f"killed by {verdict.killer}" if verdict.killer else verdict.trouble or "SURVIVED"
            print(f"{verdict.mutant.name} ({verdict.mutant.promise})\n    {end}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
