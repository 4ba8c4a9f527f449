"""Deployment 1: nobody thinks of a change yet."""

from __future__ import annotations

import everstep as es
from examples.rollout.steps import charge, picked_up


@es.workflow
async def checkout(book: str, order_id: str) -> str:
    await charge(book, order_id)
    return f"{order_id}: picked up by {await picked_up.wait()}"
