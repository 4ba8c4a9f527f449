"""Deployment 4: the workers of deployment 2 are gone as well. What is left is how one would have written it from the start."""

from __future__ import annotations

import everstep as es
from examples.rollout.steps import charge, check_fraud, picked_up


@es.workflow
async def checkout(book: str, order_id: str) -> str:
    await check_fraud(book, order_id)
    await charge(book, order_id)
    return f"{order_id}: picked up by {await picked_up.wait()}"
