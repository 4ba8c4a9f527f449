"""
What it takes to talk to a run that has left memory, and what to undo one.
"""

from __future__ import annotations

from bench.contest import Bench
from bench.measurement import Measurement, at_most, percentile

COMMITS_PER_SIGNAL = 2.0
UNDOING = 2.0
SAGA_STEPS = 10


def signals(bench: Bench) -> list[Measurement]:
    with bench.ours(bench.place(), module="bench.our_signals", BENCH_COUNT="1") as ours:
        commits = ours.ask("wake_by_signals", times=10)
        durations = ours.ask("signal", count=bench.pick(200, 50))
    return [woken_by_signal("", commits), signalled("", durations)]


def requests(bench: Bench) -> list[Measurement]:
    with bench.ours(bench.place(), module="bench.our_signals", BENCH_COUNT="1") as ours:
        answers = ours.ask("ask", count=bench.pick(100, 30))
    return [answered("", answers)]


def sagas(bench: Bench) -> list[Measurement]:
    with bench.ours(bench.place(), module="bench.our_signals") as ours:
        ours.ask("undo", steps=SAGA_STEPS, count=5)
        share = ours.ask("undo", steps=SAGA_STEPS, count=bench.pick(200, 50))
    return [undone("", share)]


def woken_by_signal(store: str, commits: float) -> Measurement:
    """``store`` stands before the name of every row."""
    return Measurement(
        name=f"{store}a parked run woken by a signal",
        value=commits,
        unit="commits",
        better="less",
        bar=f"≤ {COMMITS_PER_SIGNAL:.0f}",
        met=at_most(commits, COMMITS_PER_SIGNAL),
    )


def signalled(store: str, durations: list[float]) -> Measurement:
    return Measurement(
        name=f"{store}  signal → result of the run, p50",
        value=1e3 * percentile(durations, 0.5),
        unit="ms",
        better="less",
        note=f"p99 {1e3 * percentile(durations, 0.99):.1f} ms",
    )


def answered(store: str, answers: dict[str, list[float]]) -> Measurement:
    durations = answers["seconds"]
    return Measurement(
        name=f"{store}a request to a parked run → its answer, p50",
        value=1e3 * percentile(durations, 0.5),
        unit="ms",
        better="less",
        note=f"p99 {1e3 * percentile(durations, 0.99):.1f} ms; {answers['commits']:.1f} commits each; replays those before",
    )


def undone(store: str, share: float) -> Measurement:
    return Measurement(
        name=f"{store}{SAGA_STEPS} steps undone, against doing them",
        value=share,
        unit="×",
        better="less",
        bar=f"≤ {UNDOING:.0f}",
        met=at_most(share, UNDOING),
    )
