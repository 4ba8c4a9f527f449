"""
Begin again: ``es.continue_as_new`` keeps the journal of a run that goes on for ever short.

The run keeps its id, its journal and its time limit. Its code starts over with other arguments, and from then on replaying it
needs nothing of what came before.
"""

from __future__ import annotations

from typing import Any, NoReturn

from everstep.ambient import workflow_scope
from everstep.definitions import Call, require_call
from everstep.errors import ContinuedAsNew, UsageError


def continue_as_new(call: Call[Any]) -> NoReturn:
    """End this code and let the run begin again with other arguments. Only in workflow code; never returns.

    It works by an exception (a ``BaseException``: an ``except Exception`` does not stop it) that has to leave the workflow
    function. Signals that have arrived and were not taken are there again. Steps that are still running are given up, children
    as their close policy says. Published states stay visible from outside; ``es.state(…).get()`` begins empty.

    Args:
        call: A call of the workflow that is running, with the arguments to begin with; it is used up.

    Raises:
        UsageError: Outside a workflow, a call of another one, or a saga is open. The run goes on as it was.
        Unencodable: An argument cannot be stored. The run goes on as it was.
    """
    require_call(call, "es.continue_as_new")
    scope = workflow_scope()
    if scope is None or scope.workflow_name != call.definition.name:
        call.close()
        running = "outside a workflow" if scope is None else f"in a run of {scope.workflow_name}"
        raise UsageError(
            f"es.continue_as_new({call!r}) was called {running}. Nothing was changed. Give it a call of the workflow that is "
            "running; to go on with another one, await it as a child."
        )
    if scope.undoing.has_open:
        call.close()
        raise UsageError(
            f"es.continue_as_new({call!r}) was called while a saga is open, whose undos would be lost. Nothing was changed. "
            "Leave the saga first."
        )
    args = call.encoded()
    call.take()
    raise ContinuedAsNew(args)
