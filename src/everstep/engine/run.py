"""
``es.run``: the one-liner. A store beside the script, a worker in this process, until the result is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from everstep.definitions import Call, Workflow, workflows_near
from everstep.engine.engine import Engine
from everstep.errors import UsageError
from everstep.stores.base import Store

R = TypeVar("R")

URL_VARIABLE = "EVERSTEP_URL"


def run(call: Call[R], *, id: str | None = None, store: str | Store | None = None, timeout: float | None = None) -> R:  # noqa: A002
    """Run a workflow to its end and return its result. Kill it at any point, run it again: it goes on where it stopped.

    With an ``id`` it joins: a run that was interrupted is resumed, one that has finished gives its result at once.

    Args:
        call: A call of a workflow.
        id: The run's id; None for a fresh one, which cannot be resumed by running the program again.
        store: URL or store; default ``EVERSTEP_URL``, else ``.everstep/state.db`` beside the script.
        timeout: Seconds to wait for the result; the run is not stopped by it.

    Raises:
        RunFailed, RunCancelled, RunDead, RunPaused, RunTimeout: As for ``Handle.result``.
        RunConflict: The id belongs to another start.
        UsageError: Called inside a running event loop: use ``async with es.Engine(…)`` there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_run(call, id, store or default_url(), timeout))
    call.close()
    raise UsageError("es.run was called inside a running event loop. Nothing was started. Use 'async with es.Engine(…)' there.")


async def _run(call: Call[R], run_id: str | None, store: str | Store, timeout: float | None) -> R:
    definition = call.definition
    known: list[Workflow[..., Any]] = workflows_near(definition) if isinstance(definition, Workflow) else []
    async with Engine(store, known) as engine:
        handle = await engine.start(call, id=run_id)
        return await handle.result(timeout)


def default_url() -> str:
    """``EVERSTEP_URL``, or the file beside the script that is being run (in the current directory if there is none)."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        return url
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(script).resolve().parent if script else Path.cwd()
    return f"sqlite:///{folder / '.everstep' / 'state.db'}"
