"""
What waiting costs: sleeping runs, a worker with nothing to do, and the moment at which it is needed.
"""

from __future__ import annotations

from bench.contest import Bench
from bench.measurement import Measurement, at_most, percentile

SLEEPERS_MB = 50.0
IDLE_STATEMENTS_PER_S = 1.0
WAKE_MS = 50.0


def sleepers(bench: Bench) -> list[Measurement]:
    """The memory of a worker over a store full of sleepers, against one over an empty store; the same for what it does."""
    count, seconds = bench.pick(100_000, 20_000), bench.pick(5, 2)
    asleep = bench.place()
    bench.say(f"{count:,} runs fall asleep")
    with bench.ours(asleep) as starter:
        took = starter.ask("fall_asleep", count=count)
    bench.say("a worker watches over them")
    with bench.ours(bench.place(), BENCH_COUNT="1") as alone, bench.ours(asleep, BENCH_COUNT="1") as watching:
        without, with_them = alone.ask("idle", seconds=seconds), watching.ask("idle", seconds=seconds)
    megabytes = (with_them["rss"] - without["rss"]) / 1e6
    extra = max(0.0, with_them["statements"] - without["statements"])
    return [
        Measurement(
            name=f"{count:,} sleeping runs, memory",
            value=megabytes,
            unit="MB",
            better="less",
            bar=f"≤ {SLEEPERS_MB:.0f} MB",
            met=at_most(megabytes, SLEEPERS_MB),
            note=f"they fell asleep at {count / took:,.0f} runs/s",
        ),
        Measurement(
            name="  statements because of them",
            value=extra,
            unit="/s",
            better="less",
            bar="no wake-ups",
            met=at_most(extra, 0.5),
            note=f"{with_them['switches']:.0f} context switches/s and {with_them['cpu_ms']:.1f} ms CPU/s"
            f" (without them {without['switches']:.0f} and {without['cpu_ms']:.1f})",
        ),
    ]


def idle(bench: Bench) -> list[Measurement]:
    seconds = bench.pick(10, 4)
    with bench.ours(bench.place(), BENCH_COUNT="1") as ours:
        ours.ask("steps", count=10)
        ours.ask("idle", seconds=0.5)
        figures = ours.ask("idle", seconds=seconds)
    statements = figures["statements"]
    return [
        Measurement(
            name="idle worker",
            value=statements,
            unit="statements/s",
            better="less",
            bar=f"≤ {IDLE_STATEMENTS_PER_S:.0f}/s",
            met=at_most(statements, IDLE_STATEMENTS_PER_S),
            note=f"{figures['switches']:.0f} context switches/s, {figures['cpu_ms']:.1f} ms CPU/s",
        ),
    ]


def wake(bench: Bench) -> list[Measurement]:
    place = bench.place()
    with bench.ours(place) as worker, bench.ours(place, module="bench.our_client") as client:
        worker.ask("idle", seconds=0.1)
        delays = [1e3 * delay for delay in client.ask("wake", count=bench.pick(60, 15))]
    half = percentile(delays, 0.5)
    return [
        Measurement(
            name="a client's start wakes a worker, p50",
            value=half,
            unit="ms",
            better="less",
            bar=f"≤ {WAKE_MS:.0f} ms",
            met=at_most(half, WAKE_MS),
            note=f"p99 {percentile(delays, 0.99):.1f} ms",
        ),
    ]
