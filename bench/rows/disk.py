"""
The disk: a slow one, large results, two processes on one file, and how much of it a step takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import slowdisk
from bench.contender import Contender, ContenderFailed
from bench.contest import FLOOR, MODULES, OURS, PEERS, Bench, Question, ask
from bench.measurement import Measurement, at_least, at_most

RATE_KEPT = 0.5
BLOCKED_MS = 20.0
# Ten thousand steps that did not share commits would take 100 s: that would be an answer too, and need not be waited for.
SLOW_DISK_TIMEOUT_S = 30.0
BLOB_SHARE = 0.5
BLOB_BYTES = 100_000
TWO_PROCESSES_SHARE = 0.7


def slow_disk(bench: Bench) -> list[Measurement]:
    """The same thousand runs on the disk as it is and on one with a slow fsync, in turns."""
    environment = slowdisk.environment(bench.place())
    shape = {"count": 1_000, "steps": 10}
    fast: list[dict[str, float]] = []
    slow: list[dict[str, float]] = []
    with bench.ours(bench.place()) as usual, bench.ours(bench.place(), **environment) as slowed:
        slowed.ask("steps", count=20)  # by then it has noticed that commits are slow
        for turn in range(bench.pick(4, 2)):
            bench.say(f"round {turn + 1}: as it is, and with fsync of {slowdisk.FSYNC_MS} ms")
            fast.append(usual.ask("gap", timeout=SLOW_DISK_TIMEOUT_S, **shape))
            slow.append(slowed.ask("gap", timeout=SLOW_DISK_TIMEOUT_S, **shape))
    usually, slowly = (median(answer["seconds"] for answer in answers) for answers in (fast, slow))
    usual_gap, blocked = (1e3 * max(answer["worst"] for answer in answers) for answers in (fast, slow))
    return [
        Measurement(
            name=f"fsync of {slowdisk.FSYNC_MS} ms: rate of 1,000 runs × 10",
            value=10_000 / slowly,
            unit="steps/s",
            floor=10_000 / usually,
            bar=f"≥ {RATE_KEPT:.1f} of its rate",
            met=at_least(usually / slowly, RATE_KEPT),
            note="the floor of these two rows is everstep itself on the disk as it is",
        ),
        Measurement(
            name="  the host's loop stood still, worst",
            value=blocked,
            unit="ms",
            better="less",
            floor=usual_gap,
            bar=f"≤ {BLOCKED_MS:.0f} ms",
            met=at_most(blocked, BLOCKED_MS),
        ),
    ]


def blobs(bench: Bench) -> list[Measurement]:
    count = bench.pick(300, 100)
    shape = {"count": count, "size": BLOB_BYTES}
    question = ask("blobs", per=count, **shape)
    results = bench.race(bench.pick(7, 3), {FLOOR: question, OURS: question})
    rates = results.rate(OURS), results.rate(FLOOR)
    measurement = Measurement(
        name="steps with results of 100 KB",
        value=rates[0],
        unit="steps/s",
        floor=rates[1],
        bar=f"≥ {BLOB_SHARE:.1f} of the floor",
        note=results.note,
        error=results.error,
    )
    return [replace(measurement, met=at_least(measurement.of_floor, BLOB_SHARE))]


def two_processes(bench: Bench) -> list[Measurement]:
    """A thousand runs started by one process, against five hundred started by each of two on one file."""
    shared, alone = bench.place(), bench.place()
    one, two = [], []
    with bench.ours(alone) as single, bench.ours(shared) as left, bench.ours(shared) as right:
        for turn in range(bench.pick(5, 2)):
            bench.say(f"round {turn + 1}: one process, then two")
            one.append(single.ask("runs", count=1_000, steps=10))
            for each in (left, right):
                each.tell("runs", count=500, steps=10)
            two.append(max(left.answer(), right.answer()))
    share = median(one) / median(two)
    return [
        Measurement(
            name="two processes on one file, in sum",
            value=10_000 / median(two),
            unit="steps/s",
            floor=10_000 / median(one),
            bar=f"≥ {TWO_PROCESSES_SHARE} of one, no error",
            met=at_least(share, TWO_PROCESSES_SHARE),
            note="the floor of this row is everstep in one process",
        ),
    ]


def bytes_per_step(bench: Bench) -> list[Measurement]:
    """How much the files of a store have grown once all is checkpointed and closed."""
    kept: dict[str, float] = {}
    written: dict[str, float] = {}
    errors: dict[str, str] = {}
    for name, steps in {FLOOR: 2_000, OURS: 2_000, "dura": 2_000, "dbos": 200}.items():
        question = ask("single", count=steps, size=bench.entry_bytes) if name == FLOOR else ask("steps", count=steps)
        try:
            grown, put = _footprint(name, bench.place(), question)
            kept[name], written[name] = grown / steps, put / steps
        except ContenderFailed as error:
            errors[name] = str(error)
    return [_weight("bytes kept per step", kept, errors), _weight("  bytes written to disk per step", written, errors)]


def _weight(name: str, sizes: Mapping[str, float], errors: Mapping[str, str]) -> Measurement:
    return Measurement(
        name=name,
        value=sizes.get(OURS),
        unit="bytes",
        better="less",
        floor=sizes.get(FLOOR),
        peers={peer: sizes[peer] for peer in PEERS if peer in sizes},
        note="; ".join(f"without {name}: {error}" for name, error in errors.items() if name != OURS),
        error=errors.get(OURS, ""),
    )


def _footprint(name: str, place: Path, question: Question) -> tuple[int, int]:
    """Bytes by which the files grew, and bytes written on the way; a new store's first pages are left out of both."""
    with Contender(MODULES[name], place) as contender:
        contender.ask(question.verb, **{**question.arguments, "count": 100})
    before = _stored(place)
    with Contender(MODULES[name], place) as contender:
        contender.ask(question.verb, **{**question.arguments, "count": 1})
        written = contender.written_bytes()
        contender.ask(question.verb, **question.arguments)
        written = contender.written_bytes() - written
    return _stored(place) - before, written


def _stored(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file() and file.suffix != ".log")
