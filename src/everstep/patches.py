"""
Changing the code of runs that are under way: ``es.patched`` and ``es.deprecate_patch``.

    if es.patched("fraud-check"):        # 1  both branches: old runs keep the old one, new runs take the new one
        await check_fraud(order_id)
        receipt = await charge(order_id)
    else:
        receipt = await charge(order_id)

    es.deprecate_patch("fraud-check")    # 2  no run needs the old branch any more, but workers with (1) may still be about
    await check_fraud(order_id)
    receipt = await charge(order_id)

    await check_fraud(order_id)          # 3  those workers are gone too
    receipt = await charge(order_id)

No stage strands a run of the stage before or after it.
"""

from __future__ import annotations

from everstep.ambient import workflow_scope
from everstep.ids import check_name


def patched(id: str) -> bool:  # noqa: A002  # the API's word
    """Whether this run takes a change of the code: True for runs that come here first on this code, False for older ones.

    A run that is retried, and a fork, keep the branch that was taken; a change beyond what had been finished they take.

    The first call decides for the whole run, whatever happens later: two places of one change always agree. For an answer of
    its own in each round of a loop, put the round into the id.

    Args:
        id: Names the change, in this workflow, for ever: letters, digits and ``_ . : -``.

    Returns:
        In a workflow, what the journal says; it records the answer. Outside a workflow True: tests call the newest code.

    Raises:
        UsageError: The id is not allowed.
    """
    check_name(id, "patch")
    scope = workflow_scope()
    return True if scope is None else scope.patched(id)


def deprecate_patch(id: str) -> None:  # noqa: A002  # the API's word
    """Say that the old branch of ``es.patched(id)`` is gone: new runs are marked as before, nothing is asked any more.

    It matters while workers with both branches may still take runs over: without the mark they would take the old branch. Once
    they are gone, remove the call.

    Raises:
        UsageError: The id is not allowed.
    """
    check_name(id, "patch")
    scope = workflow_scope()
    if scope is not None:
        scope.deprecate_patch(id)
