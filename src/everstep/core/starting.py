"""
Starting a run: what is recorded of it, and whether a second start with the same id means the same thing. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from everstep.definitions import Call, Workflow
from everstep.errors import CorruptJournal, RunConflict, UsageError
from everstep.events import RunCreated, decode_events
from everstep.journal import Reader
from everstep.records import Micros
from everstep.secret import masked

_SHOWN_CHARS = 200


def describe_start(
    call: Call[Any], run_id: str, salt: bytes, now: Micros, tags: Mapping[str, str], timeout: float | None, parent: str = ""
) -> RunCreated:
    """The first event of a run. Uses the call up.

    Args:
        call: A call of a workflow.
        run_id: Checked already.
        salt: 16 random bytes that key the digests of this run's arguments.
        now: The store's clock.
        tags: Added to the workflow's own.
        timeout: Seconds that the run may take in all; None for the workflow's own limit.
        parent: Id of the run that starts it.

    Raises:
        UsageError: It is a call of a step.
        Unencodable: An argument cannot be stored.
        CallAlreadyUsed: The call was used before.
    """
    workflow = call.definition
    if not isinstance(workflow, Workflow):
        call.close()
        raise UsageError(f"{call!r} is a call of a step. Only a workflow can be started: write one that awaits this step.")
    args = call.encoded()
    call.take()
    limit = timeout or workflow.timeout
    return RunCreated(
        run_id=run_id,
        workflow=workflow.name,
        code_version=workflow.code_version,
        args=msgspec.Raw(args),
        salt=salt.hex(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        parent_run_id=parent,
        deadline_at=None if limit is None else now + round(limit * 1e6),
        tags={**workflow.tags, **tags},
        is_pipeline=workflow.is_pipeline,
        relaxed=workflow.relaxed,
    )


def first_event(created: bytes, reader: Reader | None = None) -> RunCreated:
    """The RunCreated event in the bytes of a run's first entry. Without a reader, its payloads are left as they are stored.

    Raises:
        CorruptJournal: It cannot be read.
    """
    try:
        event = (decode_events(created) if reader is None else reader.decode(created, 1))[0]
    except (msgspec.MsgspecError, IndexError):
        event = None
    if not isinstance(event, RunCreated):
        raise CorruptJournal(
            "the first entry of a run cannot be read. Nothing was started or changed. Find out which: everstep verify",
            run_id="",
            version=1,
        )
    return event


def refuse_conflict(recorded: RunCreated, requested: RunCreated) -> None:
    """Return if both are the same start.

    Raises:
        RunConflict: Another workflow or other arguments; lists the fields that differ.
    """
    differences = start_differences(recorded, requested)
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise RunConflict(
            f"run {requested.run_id} exists already and was started differently:\n{listed}\n"
            "Nothing was started and that run is untouched. Use another id, or start it with the same arguments to join it.",
            run_id=requested.run_id,
            differences=differences,
        )


def start_differences(recorded: RunCreated, requested: RunCreated) -> tuple[str, ...]:
    """One line for each field in which two starts differ. Versions of the code do not count, tags neither."""
    if recorded.workflow != requested.workflow:
        return (f"workflow: {recorded.workflow} recorded, {requested.workflow} requested",)
    # Secrets do not count: whoever renews a token goes on with the run that was started with the old one.
    old, new = masked(bytes(recorded.args)), masked(bytes(requested.args))
    if old == new:
        return ()
    before: dict[str, Any] = msgspec.json.decode(old)
    after: dict[str, Any] = msgspec.json.decode(new)
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        f"{name}: {_show(before, name)} recorded, {_show(after, name)} requested"
        for name in names
        if _typed(before.get(name, ...)) != _typed(after.get(name, ...))
    )


def _typed(value: Any) -> Any:
    """The value so that what is equal only to Python differs: ``True``, ``1`` and ``1.0``."""
    match value:
        case dict():
            return {name: _typed(part) for name, part in cast(dict[str, Any], value).items()}
        case list():
            return [_typed(part) for part in cast(Sequence[Any], value)]
        case _:
            return type(value), value


def _show(arguments: Mapping[str, Any], name: str) -> str:
    if name not in arguments:
        return "its default"
    text = ascii(arguments[name])
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
