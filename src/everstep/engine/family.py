"""
Children: what a run's entry creates, and what it tells them. Pure but for the salt.

Every message goes to a child of this very command and nobody else: an id that the caller gave may turn out, in the same
transaction, to belong to another run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from everstep.client import new_run
from everstep.core.program import Program
from everstep.definitions import Workflow
from everstep.events import (
    CancelRequested,
    ChildCancelled,
    ChildSignalled,
    ChildStarted,
    CommandEvent,
    RunCreated,
    SignalReceived,
    StopRequested,
)
from everstep.ids import is_derived
from everstep.payloads import PLAIN, Payloads
from everstep.records import ChildOptions, Message, Micros, RunKey
from everstep.stores.base import NewRun, Post
from everstep.stores.rules import cancel_message

FAMILIAR = frozenset({ChildStarted, ChildCancelled, ChildSignalled, StopRequested})


def children_of(
    program: Program,
    commands: Sequence[CommandEvent],
    run_key: RunKey,
    now: Micros,
    family: str = "",
    payloads: Payloads = PLAIN,
) -> list[tuple[Workflow[..., Any], NewRun]]:
    """The runs that these commands start, each with its workflow. ``family``: of the run itself, if it is not the top of it."""
    return [
        (program.children[command.key], _child(program, command, run_key, now, family or program.run_id, payloads))
        for command in commands
        if isinstance(command, ChildStarted)
    ]


def posts_of(
    program: Program, commands: Sequence[CommandEvent], run_key: RunKey, payloads: Payloads = PLAIN, *, is_over: bool
) -> tuple[Post, ...]:
    """What is told to the children by these commands, and by the end of the code if it ends with them.

    Code that continues as new has ended too: the code that follows knows nothing of these children.
    """
    return tuple(_posts(program, commands, run_key, payloads, is_over=is_over))


def _posts(
    program: Program, commands: Sequence[CommandEvent], run_key: RunKey, payloads: Payloads, *, is_over: bool
) -> Iterator[Post]:
    for command in commands:
        match command:
            case ChildCancelled(key=key, reason=reason):
                why = reason or f"its parent {program.run_id} no longer waits for it"
                yield _asked_to_stop(program.family[key], why, run_key, payloads)
            case StopRequested(key=key) if key in program.family:
                why = f"its parent {program.run_id} undoes what it did"
                yield _asked_to_stop(program.family[key], why, run_key, payloads)
            case ChildSignalled(child=key, run_id=run_id, name=name, value=value, id=message_id):
                event = SignalReceived(name, value, message_id)
                dedupe = f"signal:{name}:{message_id}" if message_id else ""
                message = Message(event=payloads.keeper(run_id).encode_message(event), dedupe=dedupe)
                yield Post(run_id=run_id, message=message, parent_key=run_key, parent_command=key)
            case _:
                pass
    if is_over:
        why = f"the code of its parent {program.run_id} has ended"
        for child in program.family.values():
            if child.on_parent_close == "cancel":
                yield _asked_to_stop(child, why, run_key, payloads)


def _asked_to_stop(child: ChildStarted, why: str, run_key: RunKey, payloads: Payloads) -> Post:
    sealed = payloads.keeper(child.run_id).encode_message(CancelRequested(why))
    message = replace(cancel_message(run_key, ""), event=sealed)
    return Post(run_id=child.run_id, message=message, parent_key=run_key, parent_command=child.key)


def _child(program: Program, command: ChildStarted, run_key: RunKey, now: Micros, family: str, payloads: Payloads) -> NewRun:
    workflow = program.children[command.key]
    options = program.child_options.get(command.key, ChildOptions())
    limit = options.timeout or workflow.timeout
    created = RunCreated(
        run_id=command.run_id,
        workflow=workflow.name,
        code_version=workflow.code_version,
        args=command.args,
        salt=os.urandom(16).hex(),
        python=program.python,
        parent_run_id=program.run_id,
        deadline_at=None if limit is None else now + round(limit * 1e6),
        tags={**workflow.tags, **options.tags},
        maybe=command.maybe,
        is_pipeline=workflow.is_pipeline,
        relaxed=workflow.relaxed,
    )
    wake_at = now + round(options.delay * 1e6) if options.delay else None
    return replace(
        new_run(created, workflow, payloads, wake_at=wake_at, place=options.place),
        parent_key=run_key,
        parent_command=command.key,
        family=family,
        on_parent_close=command.on_parent_close,
        announced=not is_derived(command.run_id),
    )
