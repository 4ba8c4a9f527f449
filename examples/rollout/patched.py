"""Deployment 2: orders are to be checked for fraud. Those that are past that line keep the old branch, others take the new."""

from __future__ import annotations

import everstep as es
from examples.rollout.steps import charge, check_fraud, picked_up


@es.workflow
async def checkout(book: str, order_id: str) -> str:
    if es.patched("fraud-check"):
        await check_fraud(book, order_id)
    await charge(book, order_id)
    return f"{order_id}: picked up by {await picked_up.wait()}"
