"""Deployment 3: no order is left from before the check, so its branch is gone. Workers of deployment 2 may still be about."""

from __future__ import annotations

import everstep as es
from examples.rollout.steps import charge, check_fraud, picked_up


@es.workflow
async def checkout(book: str, order_id: str) -> str:
    es.deprecate_patch("fraud-check")
    await check_fraud(book, order_id)
    await charge(book, order_id)
    return f"{order_id}: picked up by {await picked_up.wait()}"
