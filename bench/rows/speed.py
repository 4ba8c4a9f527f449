"""
How fast work gets done: one run, many runs, and the shortest run there is.
"""

from __future__ import annotations

from dataclasses import replace

from bench.contest import FLOOR, OURS, Bench, ask
from bench.measurement import Measurement, at_least, at_most, paired_difference, percentile

OVER_FLOOR_US = 40.0
CONCURRENT_PER_S = 25_000.0
OVER_COMMITS_MS = 0.2
STEPS_PER_RUN = 10


def floors(bench: Bench) -> list[Measurement]:
    count, rows = bench.pick(2_000, 500), 100
    rounds = bench.pick(7, 3)
    single = bench.race(rounds, {FLOOR: ask("single", per=count, count=count, size=bench.entry_bytes)})
    grouped = bench.race(
        rounds,
        {FLOOR: ask("grouped", per=count // 10 * rows, count=count // 10, rows=rows, size=bench.entry_bytes)},
    )
    return [
        Measurement(
            name="floor: single-row commits",
            unit="/s",
            floor=single.rate(FLOOR),
            note=single.note or f"rows of {bench.entry_bytes} bytes",
        ),
        Measurement(name=f"floor: rows in commits of {rows}", unit="/s", floor=grouped.rate(FLOOR), note=grouped.note),
    ]


def steps(bench: Bench) -> list[Measurement]:
    """One run, one step after the other: each is one commit, so the floor is that of single rows."""
    count, dbos_count = bench.pick(2_000, 500), bench.pick(200, 100)
    results = bench.race(
        bench.pick(9, 4),
        {
            FLOOR: ask("single", per=count, count=count, size=bench.entry_bytes),
            OURS: ask("steps", per=count, count=count),
            "dura": ask("steps", per=count, count=count),
            "dbos": ask("steps", per=dbos_count, count=dbos_count),
        },
    )
    over = None
    if FLOOR in results.seconds and OURS not in results.errors:
        over = 1e6 * paired_difference(results.seconds[OURS], results.seconds[FLOOR])
    rate = Measurement(
        name="one run, sequential steps",
        value=results.rate(OURS),
        unit="steps/s",
        floor=results.rate(FLOOR),
        peers=results.peers(rates=True),
        bar="ahead of dura",
        note=results.note,
        error=results.error,
    )
    ahead = rate.ahead_of("dura")
    return [
        replace(rate, met=at_least(ahead, 1.0)),
        Measurement(
            name="  time per step over the floor",
            value=over,
            unit="µs",
            better="less",
            bar=f"≤ {OVER_FLOOR_US:.0f} µs",
            met=at_most(over, OVER_FLOOR_US),
            error=results.error,
        ),
    ]


def commits(bench: Bench) -> list[Measurement]:
    """Whether the disk is asked no more often than the design says; counted, so no noise can hide it."""
    with bench.ours(bench.place(), BENCH_COUNT="1") as ours:
        ours.ask("commits", steps=1)  # the first run of a worker may find more to write down
        short, long = (ours.ask("commits", steps=steps) for steps in (1, 101))
    per_step = (long - short) / 100
    return [
        Measurement(
            name="commits per sequential step",
            value=per_step,
            unit="commits",
            better="less",
            bar="1",
            met=at_most(per_step, 1.0),
        ),
        Measurement(
            name="  start → result of one step",
            value=short,
            unit="commits",
            better="less",
            bar="2",
            met=at_most(short, 2.0),
        ),
    ]


def runs(bench: Bench) -> list[Measurement]:
    """Runs at the same time share commits. Peers get a hundred: DBOS falls as they grow, dura has as many as threads."""
    return [_hundred(bench), _thousand(bench)]


def _hundred(bench: Bench) -> Measurement:
    shape = {"count": 100, "steps": STEPS_PER_RUN}
    question = ask("runs", per=100 * STEPS_PER_RUN, **shape)
    results = bench.race(bench.pick(4, 1), dict.fromkeys((OURS, "dura", "dbos"), question))
    return Measurement(
        name="100 runs × 10 steps",
        value=results.rate(OURS),
        unit="steps/s",
        peers=results.peers(rates=True),
        note=results.note,
        error=results.error,
    )


def _thousand(bench: Bench) -> Measurement:
    total = 1_000 * STEPS_PER_RUN
    results = bench.race(
        bench.pick(7, 3),
        {
            FLOOR: ask("grouped", per=total, count=total // 100, rows=100, size=bench.entry_bytes),
            OURS: ask("runs", per=total, count=1_000, steps=STEPS_PER_RUN),
        },
    )
    rate = results.rate(OURS)
    return Measurement(
        name="1,000 runs × 10 steps",
        value=rate,
        unit="steps/s",
        floor=results.rate(FLOOR),
        bar=f"≥ {CONCURRENT_PER_S:,.0f}/s",
        met=at_least(rate, CONCURRENT_PER_S),
        note=results.note,
        error=results.error,
    )


def latency(bench: Bench) -> list[Measurement]:
    """Start to result of a run of one step: two commits. The floor shown is two commits."""
    count, dbos_count = bench.pick(200, 100), bench.pick(40, 15)
    results = bench.race(
        bench.pick(7, 3),
        {
            FLOOR: ask("single", per=count, count=count, size=bench.entry_bytes),
            OURS: ask("latency", count=count),
            "dura": ask("latency", count=count),
            "dbos": ask("latency", count=dbos_count),
        },
    )
    ours, commit = results.seconds.get(OURS), results.median(FLOOR)
    half = 1e3 * percentile(ours, 0.5) if ours else None
    floor = 2e3 * commit if commit else None
    return [
        Measurement(
            name="start → result, one step, p50",
            value=half,
            unit="ms",
            better="less",
            floor=floor,
            peers=results.peers(scale=1e3),
            bar=f"2 commits + ≤ {OVER_COMMITS_MS} ms",
            met=at_most(half, floor + OVER_COMMITS_MS) if floor else None,
            note=results.note,
            error=results.error,
        ),
        Measurement(
            name="  p99",
            value=1e3 * percentile(ours, 0.99) if ours else None,
            unit="ms",
            better="less",
            floor=floor,
            peers={peer: 1e3 * percentile(results.seconds[peer], 0.99) for peer in results.peers()},
            error=results.error,
        ),
    ]
