"""
Pipelines: one segment per step, the payload recorded once and mostly as what the step changed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

import everstep as es
from everstep.core.snapshots import fold
from everstep.events import RunContinued, RunFailed, StepCompleted, StepOverridden, StepScheduled
from everstep.records import RunRecord, Status
from tests.core.driver import RUN_KEY, Run, Waiting, drive, new_execution


class Batch(msgspec.Struct, frozen=True):
    rows: list[str]
    log: list[str] = []


@es.step
def validate(batch: Batch) -> Batch:
    if not batch.rows:
        raise ValueError("no rows")
    return msgspec.structs.replace(batch, log=[*batch.log, "valid"])


@es.step
def transform(batch: Batch) -> Batch:
    return Batch([row.upper() for row in batch.rows], [*batch.log, "transformed"])


@es.step
def load(batch: Batch) -> Batch:
    return Batch(batch.rows, [*batch.log, "loaded"])


etl = es.pipeline("etl", Batch, [validate, transform, load])


@es.step
def tick(table: dict[str, str]) -> dict[str, str]:
    return {**table, f"key {len(table['count']) % 100:03}": "changed", "count": table["count"] + "."}


ticking = es.pipeline("ticking", dict[str, str], [tick] * 60)


@es.step
def note(lines: list[str]) -> list[str]:
    return [*lines, f"{len(lines):06}" + "x" * 1000]


growing = es.pipeline("growing", list[str], [note] * 400)


def bytes_of(entries: Any) -> list[int]:
    return [len(entry.events) for entry in entries]


def snapshot_of(run: Run, version: int | None = None) -> es.Snapshot:
    last = run.entries[-1]
    record = RunRecord(
        run_key=RUN_KEY,
        run_id="run-1",
        workflow="etl",
        code_version="",
        status=Status.RUNNING,
        version=last.version,
        hash=last.hash,
        epoch=1,
        worker_key=None,
        wake_at=None,
        created_at=0,
        updated_at=0,
        step="",
        cursor=0,
        deaths=0,
        max_recoveries=20,
        inbox_seq=0,
        inbox_done=0,
        parent_key=None,
        parent_command="",
        refused_by="",
    )
    return fold(run.entries, record, version)


def test_each_step_gets_what_the_one_before_returned() -> None:
    run = drive(etl(Batch(["a", "b"])))

    assert Batch(["A", "B"], ["valid", "transformed", "loaded"]) == run.result
    steps = [event.step for entry in run.entries for event in entry.decoded() if isinstance(event, StepScheduled)]
    assert ["validate", "transform", "load"] == steps


def test_a_step_costs_one_entry_that_holds_its_result_once() -> None:
    run = drive(etl(Batch(["a" * 600, "b"])))

    second = run.entries[1].decoded()
    assert [StepCompleted, RunContinued, StepScheduled] == [type(event) for event in second]
    assert 4 == len(run.entries)
    assert 1 >= run.entries[1].events.count(b"a" * 600)


def test_a_pipeline_resumes_at_its_cursor_without_running_what_came_before() -> None:
    run = Run(etl(Batch(["a" * 600])))
    run.begin()
    run.feed(run.done("validate"))
    run.feed(run.done("transform"))
    alone = new_execution(etl)

    alone.replay(run.entries)

    assert {"2:1"} == set(alone.program.operations)
    assert Waiting.of(run.execution) == Waiting.of(alone)
    assert run.execution.program.start == alone.program.start
    run.finish().check_replays()


def test_the_payload_is_read_from_the_newest_entry_that_holds_it_whole() -> None:
    """What the store hands out after a claim: entries from the base on."""
    run = Run(ticking({"count": "", **{f"key {n:03}": "v" * 90 for n in range(100)}}))
    run.begin()
    base = 1
    for _ in range(59):
        activation = run.execution.activate([run.done("tick")], run.now)
        run.entries.append(activation.entry)
        run.waiting.append(Waiting.of(run.execution))
        base = activation.entry.version if activation.is_base else base
    alone = new_execution(ticking)
    previous = run.entries[base - 2].hash if base > 1 else bytes(32)

    alone.replay(run.entries[base - 1 :], previous=previous)

    assert run.execution.program.start == alone.program.start
    run.finish().check_replays()


def test_a_payload_of_which_little_changes_costs_little() -> None:
    """The bar: one of 100 keys of a 10 KB payload changes at every step, and a step costs at most 1 KB."""
    run = Run(ticking({"count": "", **{f"key {n:03}": "v" * 90 for n in range(100)}})).finish()

    sizes = bytes_of(run.entries)[1:-1]

    assert 10_000 < len(run.entries[0].events)
    assert sum(sizes) / len(sizes) <= 1_000
    run.evict()


def test_a_payload_that_grows_costs_what_it_grows_by() -> None:
    """The bar: a list that grows by 1 KB per step costs at most 3 KB per step at step 400."""
    run = Run(growing([])).finish()

    assert sum(bytes_of(run.entries)[1:-1]) / 400 <= 3_000
    assert 400 == len(run.result)
    run.evict()


def test_what_a_pipeline_is_started_with_is_checked_before_the_first_step() -> None:
    wrong: Any = {"rows": "no list"}

    call = etl(wrong)
    with pytest.raises(es.Unencodable):
        Run(call)
    call.close()


def test_a_failed_pipeline_is_retried_at_its_cursor_or_goes_on_with_what_a_person_says() -> None:
    run = Run(etl(Batch([])))
    run.begin()
    run.feed(run.done("validate"))
    assert isinstance(run.ending, RunFailed)

    run.retry(StepOverridden("0:1", Raw(b'{"rows":["by hand"],"log":[]}')))
    run.feed()

    assert Batch(["BY HAND"], ["transformed", "loaded"]) == run.finish().check_replays().result


def test_the_snapshot_of_a_pipeline_is_its_payload_at_any_version() -> None:
    run = Run(etl(Batch(["a"])))
    run.begin()
    run.feed(run.done("validate"))

    assert {"rows": ["a"], "log": []} == snapshot_of(run, 1).payload
    now = snapshot_of(run)
    assert {"rows": ["a"], "log": ["valid"]} == now.payload
    assert ("transform", 2) == (now.current_step.name, now.current_step.cursor)
    run.evict()


def test_a_step_that_does_not_fit_is_refused_where_the_pipeline_is_defined() -> None:
    @es.step
    def two(batch: Batch, more: int) -> Batch:
        return batch

    @es.step
    def other(batch: Batch) -> str:
        return ""

    wrong: Any
    for wrong, hint in ((two, "takes"), (other, "returns str"), (len, "is no step")):
        with pytest.raises(es.UsageError, match=hint):
            es.pipeline("wrong", Batch, [validate, wrong])
    with pytest.raises(es.UsageError, match="no steps"):
        es.pipeline("empty", Batch, [])


def test_the_order_of_the_steps_is_part_of_the_code() -> None:
    assert etl.fingerprint == es.pipeline("etl", Batch, [validate, transform, load]).fingerprint
    assert etl.fingerprint != es.pipeline("etl", Batch, [transform, validate, load]).fingerprint
