"""
Pay somebody, with a bank's token, in a store that is not to tell who earns what.
"""

from __future__ import annotations

from pathlib import Path

import everstep as es


@es.step
def write_payslip(book: str, name: str, cents: int) -> str:
    """Safe to repeat: a payslip is written once per key. (This file is the employee's; what is encrypted is the store.)"""
    line = f"{es.current().idempotency_key}  {name}: {cents / 100:.2f}"
    path = Path(book)
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in known:
        path.write_text("\n".join([*known, line, ""]), encoding="utf-8")
    return f"payslip of {name}"


@es.step
def transfer(name: str, cents: int, token: es.Secret[str]) -> str:
    """A bank would be called here. A Secret shows itself to nobody but who asks it to."""
    if not token.reveal().startswith("tok-"):
        raise PermissionError(f"the bank refused {token} for {name}")
    return f"paid {name}"


@es.workflow
async def payslips(book: str, salaries: dict[str, int]) -> list[str]:
    """No Secret among these; whether they are encrypted is for the engine to say."""
    return [await write_payslip(book, name, cents) for name, cents in salaries.items()]


@es.workflow
async def payday(book: str, name: str, cents: int, token: es.Secret[str]) -> str:
    """Only to be started on an engine with keys: a Secret is stored encrypted, or not at all."""
    slip = await write_payslip(book, name, cents)
    return f"{await transfer(name, cents, token)}, {slip}"
