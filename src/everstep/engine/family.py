"""
Children: what a run's entry creates, and what it tells them. Pure but for the salt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from everstep.client import new_run
from everstep.core.program import Program
from everstep.definitions import Workflow
from everstep.events import CancelRequested, ChildCancelled, ChildStarted, CommandEvent, RunCreated, StopRequested, encode_event
from everstep.ids import child_run_id
from everstep.payloads import PLAIN, Payloads
from everstep.records import Message, Micros, RunKey
from everstep.stores.base import NewRun, Post


def children_of(
    program: Program, commands: Sequence[CommandEvent], run_key: RunKey, now: Micros, payloads: Payloads = PLAIN
) -> list[tuple[Workflow[..., Any], NewRun]]:
    """The runs that these commands start, each with its workflow."""
    return [
        (program.children[command.key], _child(program, command, run_key, now, payloads))
        for command in commands
        if isinstance(command, ChildStarted)
    ]


def cancels_of(program: Program, commands: Sequence[CommandEvent], run_key: RunKey) -> tuple[Post, ...]:
    """What is told to the children that these commands give up, or tell to stop."""
    keys = (_child_stopped_by(program, command) for command in commands)
    return tuple(_cancel(program.run_id, key, run_key) for key in keys if key)


def _child_stopped_by(program: Program, command: CommandEvent) -> str:
    match command:
        case ChildCancelled(key=key):
            return key
        case StopRequested(key=key) if key in program.operations:
            return key if isinstance(program.operations[key].event, ChildStarted) else ""
        case _:
            return ""


def _child(program: Program, command: ChildStarted, run_key: RunKey, now: Micros, payloads: Payloads) -> NewRun:
    workflow = program.children[command.key]
    created = RunCreated(
        run_id=command.run_id,
        workflow=workflow.name,
        code_version=workflow.code_version,
        args=command.args,
        salt=os.urandom(16).hex(),
        python=program.python,
        parent_run_id=program.run_id,
        deadline_at=None if workflow.timeout is None else now + round(workflow.timeout * 1e6),
        tags=workflow.tags,
        maybe=command.maybe,
        is_pipeline=workflow.is_pipeline,
        relaxed=workflow.relaxed,
    )
    return replace(new_run(created, workflow, payloads), parent_key=run_key, parent_command=command.key)


def _cancel(run_id: str, key: str, run_key: RunKey) -> Post:
    request = CancelRequested(reason=f"its parent {run_id} no longer waits for it")
    return Post(run_id=child_run_id(run_id, key), message=Message(event=encode_event(request), dedupe=f"cancel by {run_key}"))
