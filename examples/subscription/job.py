"""
A subscription that goes on until somebody ends it: a month is a segment, so its journal is never replayed from the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import everstep as es

MONTH = 30 * 86400


@dataclass(frozen=True)
class Account:
    customer: str
    month: int = 1
    owed: int = 0


payment = es.signal("payment", int)
stop = es.signal("stop", str)
account = es.state("account", Account)


@es.step
def send_invoice(book: str, account: Account, cents: int) -> None:
    """Safe to repeat: a line is written once per key."""
    line = f"{es.current().idempotency_key} {account.customer} month {account.month}: {cents}"
    path = Path(book)
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in known:
        path.write_text("\n".join([*known, line, ""]), encoding="utf-8")


@es.workflow
async def subscription(
    book: str, now: Account, cents: int = 999, months: int = 10_000, month_seconds: float = MONTH
) -> Account:
    """One month: an invoice, what was paid meanwhile, and the next month."""
    account.set(now)
    await send_invoice(book, now, cents)
    paid = await payment.wait(timeout=month_seconds, default=0)
    now = Account(now.customer, now.month + 1, now.owed + cents - paid)
    why = await stop.wait(timeout=0, default=None)
    if why is None and now.month <= months:
        if paid:
            await es.sleep(month_seconds)
        es.continue_as_new(subscription(book, now, cents, months, month_seconds))
    es.note("stopped", why)
    return now
