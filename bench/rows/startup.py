"""
What a program pays before its first line of work, over an interpreter that does nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench.contest import Bench, rotated
from bench.measurement import Measurement, at_most, paired_difference

IMPORT_MS = 90.0
HELP_MS = 150.0
BARE = "python"


def startup(bench: Bench) -> list[Measurement]:
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import everstep"],
        "help": [str(Path(sys.executable).with_name("everstep")), "--help"],
        "dura": [sys.executable, "-c", "import dura"],
        "dbos": [sys.executable, "-c", "import dbos"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for command in commands.values():
        with suppress(OSError, subprocess.CalledProcessError):
            _timed(command)  # Once before it counts, so that everybody's modules are compiled.
    for turn in range(bench.pick(11, 4)):
        for name in rotated([name for name in commands if name not in failed], turn):
            try:
                times[name].append(1e3 * _timed(commands[name]))
            except (OSError, subprocess.CalledProcessError) as error:
                failed[name] = _reason(error)
    over = {name: paired_difference(times[name], times[BARE]) for name in commands if name not in failed}
    floor = median(times[BARE])
    return [
        _measurement("import everstep, over bare python", "import", IMPORT_MS, over, failed, floor),
        _measurement("everstep --help, over bare python", "help", HELP_MS, over, failed, floor),
    ]


def _measurement(
    name: str,
    what: str,
    bar_ms: float,
    over: dict[str, float],
    failed: dict[str, str],
    bare_ms: float,
) -> Measurement:
    value = over.get(what)
    return Measurement(
        name=name,
        value=value,
        unit="ms",
        better="less",
        peers={peer: over[peer] for peer in ("dura", "dbos") if peer in over and what == "import"},
        bar=f"≤ {bar_ms:.0f} ms",
        met=at_most(value, bar_ms),
        note=f"bare python takes {bare_ms:.0f} ms",
        error=failed.get(what, ""),
    )


def _timed(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment())
    return time.perf_counter() - started


def _environment() -> dict[str, str]:
    """Ours, but with compiled modules kept: a program that is started a second time does not compile everything anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr.decode(errors="replace").strip().splitlines()[-1:] or error)
    return str(error)
