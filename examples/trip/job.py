"""
Book a flight, a hotel and a car, or nothing at all.

    python -m examples.trip.job FOLDER          kill it anywhere, run it again: it ends the same

There is no car, so the hotel and the flight are given back, in this order, and the run says why. Between the bookings it takes
its time, so that there is something to kill: the pause is durable, like everything else.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import everstep as es
from examples.trip import providers
from examples.trip.providers import SoldOut  # by name here, so that it is raised as what it was

PAUSE_SECONDS = 0.3


@es.step
def book(folder: str, provider: str, trip: str) -> str:
    number = providers.book(folder, provider, trip, es.current().idempotency_key)
    print(f"booked {number}", flush=True)
    return number


@es.step(retry=5)
def cancel(folder: str, provider: str, number: str) -> None:
    providers.cancel(folder, provider, number, es.current().idempotency_key)
    print(f"gave back {number}", flush=True)


@es.workflow
async def plan_trip(folder: str, trip: str) -> str:
    try:
        async with es.saga() as saga:
            numbers: list[str] = []
            for provider in providers.PROVIDERS:
                number = await saga.do(book(folder, provider, trip), undo=partial(cancel, folder, provider))
                numbers.append(number)
                await asyncio.sleep(PAUSE_SECONDS)
    except es.StepFailed as error:
        if not isinstance(error.__cause__, SoldOut):
            raise
        return f"{trip}: nothing is booked, because {error.__cause__}"
    return f"{trip}: {', '.join(numbers)}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(es.run(plan_trip(str(folder), "Lisbon"), id="trip-lisbon", store=f"sqlite:///{folder / 'journal.db'}"))
