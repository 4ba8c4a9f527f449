"""
What it takes to go on: after a SIGKILL, and by replaying what was recorded.
"""

from __future__ import annotations

from pathlib import Path

from bench.contender import Contender, ContenderFailed
from bench.contest import MODULES, OURS, Bench
from bench.measurement import Measurement, at_least, at_most

RECOVERED_PER_S = 3_000.0
REPLAY_US = 30.0
# Step 10,000 costs what step 10 costs; a ratio above this would be growth, not the noise of a shared machine.
LINEAR = 1.3


def recovery(bench: Bench) -> list[Measurement]:
    """Runs of three steps are held in the second, their process is killed, and another finishes them."""
    sizes = {OURS: bench.pick(10_000, 2_000), "dura": bench.pick(2_000, 500), "dbos": bench.pick(1_000, 200)}
    rates: dict[str, float] = {}
    errors: dict[str, str] = {}
    for name, count in sizes.items():
        bench.say(f"{name}: kill and resume {count:,} runs")
        try:
            rates[name] = count / _resumed(MODULES[name], bench.place(), count)
        except ContenderFailed as error:
            errors[name] = str(error)
    rate = rates.pop(OURS, None)
    return [
        Measurement(
            name=f"recovery of {sizes[OURS]:,} interrupted runs",
            value=rate,
            unit="runs/s",
            peers=rates,
            bar=f"≥ {RECOVERED_PER_S:,.0f}/s",
            met=at_least(rate, RECOVERED_PER_S),
            note="; ".join(f"without {name}: {error}" for name, error in errors.items() if name != OURS),
            error=errors.get(OURS, ""),
        ),
    ]


def _resumed(module: str, place: Path, count: int) -> float:
    with Contender(module, place, {"BENCH_GATE": "closed", "BENCH_CONCURRENCY": str(count)}) as doomed:
        doomed.ask("interrupt", count=count)
        doomed.kill()
    with Contender(module, place) as heir:
        seconds: float = heir.ask("resume", count=count)
    return seconds


def replay(bench: Bench) -> list[Measurement]:
    short, long = 1_000, bench.pick(10_000, 5_000)
    with bench.ours(bench.place()) as ours:
        microseconds = {}
        for steps in (short, long):
            bench.say(f"replay {steps:,} steps")
            microseconds[steps] = 1e6 * ours.ask("replay", steps=steps, times=bench.pick(5, 2)) / steps
    growth = microseconds[long] / microseconds[short]
    return [
        Measurement(
            name=f"replay, per step of {long:,}",
            value=microseconds[long],
            unit="µs",
            better="less",
            bar=f"≤ {REPLAY_US:.0f} µs",
            met=at_most(microseconds[long], REPLAY_US),
        ),
        Measurement(
            name=f"  against one of {short:,}",
            value=growth,
            unit="×",
            better="less",
            bar=f"linear (≤ {LINEAR})",
            met=at_most(growth, LINEAR),
        ),
    ]
