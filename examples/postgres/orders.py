"""What the workers of ``compose.yaml`` drive."""

import everstep as es


@es.step(retry=3)
async def charge(order_id: str, cents: int) -> str:
    return f"receipt for {cents} cents"


@es.workflow
async def checkout(order_id: str, cents: int) -> str:
    receipt = await charge(order_id, cents)
    await es.sleep(0.1)
    return f"{order_id}: {receipt}"
