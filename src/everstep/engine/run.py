"""
``es.run``: the one-liner. A store beside the script, a worker in this process, until the result is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from everstep.definitions import Call, Workflow, require_call, workflows_near
from everstep.engine.engine import Engine
from everstep.errors import IllegalState, UsageError
from everstep.ids import new_run_id
from everstep.payloads import Payloads
from everstep.records import Status
from everstep.stores.base import Store

R = TypeVar("R")
OnFailed: TypeAlias = Literal["retry", "raise"]

URL_VARIABLE = "EVERSTEP_URL"


def run(
    call: Call[R],
    *,
    id: str | None = None,  # noqa: A002  # the API's word
    store: str | Store | None = None,
    timeout: float | None = None,
    on_failed: OnFailed = "retry",
    payloads: Payloads | None = None,
) -> R:
    """Run a workflow to its end and return its result. Kill it at any point, run it again: it goes on where it stopped.

    It drives this run and its children, and nothing else that the store may hold.

    With an ``id`` it joins: a run that was interrupted is resumed, one that has finished gives its result at once, and one that
    had failed is retried from its last good point: correct the code, run the program again, and it goes on.

    Args:
        call: A call of a workflow.
        id: The run's id; None for a fresh one, which cannot be resumed by running the program again.
        store: URL or store; default ``EVERSTEP_URL``, else ``.everstep/state.db`` beside the script.
        timeout: Seconds to wait for the result; the run is not stopped by it.
        on_failed: What to do with a run that had failed (or was given up) before: ``retry`` it, or ``raise`` that failure.
        payloads: How payloads are stored; None for nothing special.

    Raises:
        RunFailed, RunCancelled, RunDead, RunPaused, RunTimeout: As for ``Handle.result``.
        RunConflict: The id belongs to another start.
        UsageError: Called inside a running event loop: use ``async with es.Engine(…)`` there.
    """
    require_call(call, "es.run")
    try:
        if _is_inside_a_loop():
            raise UsageError(
                "es.run was called inside a running event loop. Nothing was started. Use 'async with es.Engine(…)' there."
            )
        run_id = new_run_id() if id is None else id
        if on_failed not in get_args(OnFailed):
            raise UsageError(f"on_failed={on_failed!r} is not known. Nothing was started. Give 'retry' or 'raise'.")
        return asyncio.run(_run(call, run_id, store or default_url(), timeout, on_failed, payloads))
    except KeyboardInterrupt as interrupt:
        if id is not None:
            interrupt.add_note(f"run {id} is kept as far as it got: run the program again, and it goes on from there.")
        raise
    finally:
        call.close()  # If it came to nothing, its author must not be told to await it.


async def _run(
    call: Call[R], run_id: str, store: str | Store, timeout: float | None, on_failed: OnFailed, payloads: Payloads | None
) -> R:
    definition = call.definition
    known: list[Workflow[..., Any]] = workflows_near(definition) if isinstance(definition, Workflow) else []
    async with Engine(store, known, only=run_id, payloads=payloads) as engine:
        handle = await engine.start(call, id=run_id)
        if on_failed == "retry" and await handle.status() in (Status.FAILED, Status.DEAD):
            with suppress(IllegalState):  # What cannot be retried raises as it ended.
                await handle.retry("the program was run again")
        return await handle.result(timeout)


def _is_inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def default_url() -> str:
    """``EVERSTEP_URL``, or the file beside the script that is being run (in the current directory if there is none)."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        return url
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(script).resolve().parent if script else Path.cwd()
    return f"sqlite:///{folder / '.everstep' / 'state.db'}"
