"""
The program that ``everstep demo`` kills, as text: what ``--show-code`` prints is what is run, to the letter.

It prints what the world sees of it, one line per side effect, so that the demo can count them. The second in its middle is
where the demo kills it. A string, because its one-line steps are laid out to fit on a screen, and formatters know better.
"""

from __future__ import annotations

PROGRAM = """\
import everstep as es

@es.step
def reserve(order: str) -> None: print("reserve", order)
@es.step
def charge(order: str) -> None: print("charge", order)
@es.step
def ship(order: str) -> None: print("ship", order)
@es.step
def notify(order: str) -> None: print("notify", order)

@es.workflow
async def checkout(order: str) -> None:
    await reserve(order)
    await charge(order)
    await es.sleep(1)
    await ship(order)
    await notify(order)

es.run(checkout("order-7"), id="order-7")
"""
STEPS = ("reserve", "charge", "ship", "notify")
RUN_ID = "order-7"
KILLED_AFTER = "charge"
FILE_NAME = "checkout.py"


def code_lines() -> int:
    """How many lines of it are code."""
    return sum(bool(line.strip()) for line in PROGRAM.splitlines())
