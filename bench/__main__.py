"""
The command line of the benchmark: choose rows, run them one after the other, print one table.

A row that fails says so in the table and the others go on; only if all fail is the exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench.calls import report
from bench.contender import ContenderFailed
from bench.contest import PEERS, Bench
from bench.machine import facts
from bench.measurement import Measurement
from bench.rows import ROWS, Row
from bench.table import document, table


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.calls:
        print(report())
        return 0
    with tempfile.TemporaryDirectory(prefix="everstep-bench-", dir=options.dir, ignore_cleanup_errors=True) as directory:
        machine = facts(Path(directory))
        bench = Bench(Path(directory), options.quick)
        measurements = [m for name in options.names or ROWS for m in _measured(bench, name, ROWS[name])]
    print("\n".join(f"{name + ':':13}{value}" for name, value in machine.items()), end="\n\n")
    print(table(measurements, PEERS))
    if machine["file system"] == "tmpfs":
        print("\nThis is memory, not a disk: commits cost nothing here. Choose one with --dir.")
    if options.json:
        options.json.write_text(document(machine, measurements))
    return 1 if all(m.error for m in measurements) else 0


def _measured(bench: Bench, name: str, row: Row) -> list[Measurement]:
    started = time.monotonic()
    print(f"{name} …", file=sys.stderr, flush=True)
    try:
        return row(bench)
    except ContenderFailed as error:
        return [Measurement(name=name, error=str(error))]
    except Exception as error:  # noqa: BLE001  # whatever one row dies of, the others go on
        traceback.print_exc()
        return [Measurement(name=name, error=f"{type(error).__name__}: {error}")]
    finally:
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="everstep beside its floors and its peers.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"rows to run: {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="small sizes: a first look in 90 seconds")
    parser.add_argument("--calls", action="store_true", help="instead: how many Python calls one step makes, by layer")
    parser.add_argument("--dir", type=Path, help="a directory on the disk to measure (default: the temporary one)")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))} (there are {', '.join(ROWS)})")
    return options


if __name__ == "__main__":
    sys.exit(main())
