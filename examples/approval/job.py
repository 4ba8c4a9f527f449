"""
An expense claim: it waits for a decision for days, answers questions meanwhile, and pays or refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import everstep as es

DAY = 86_400.0


@dataclass(frozen=True)
class Decision:
    approved: bool
    by: str


@dataclass(frozen=True)
class Change:
    cents: int


approval = es.signal("approval", Decision)
change = es.request("change", Change, str)
stage = es.state("stage", str)


@es.step
def remind(mailbox: str, who: str, cents: int) -> None:
    """A mail that is written once per key."""
    _deliver(mailbox, f"{es.current().idempotency_key}: {who}, please decide on {cents} cents")


@es.step
def pay(mailbox: str, who: str, cents: int) -> str:
    _deliver(mailbox, f"{es.current().idempotency_key}: paid {cents} cents to {who}")
    return f"paid {cents} cents to {who}"


@es.workflow
async def expense(mailbox: str, who: str, cents: int, boss: str, patience: float | None = DAY) -> str:
    """One claim. Its sum may be lowered while nobody has decided."""
    claimed = cents

    def only_lower(wanted: Change) -> None:
        if wanted.cents > claimed:
            raise ValueError(f"{wanted.cents} is more than was claimed: {claimed}")

    async def lower(wanted: Change) -> str:
        nonlocal claimed
        before, claimed = claimed, wanted.cents
        return f"lowered from {before} to {claimed}"

    change.handle(lower, validate=only_lower)
    stage.set("waiting")
    decision = await approval.wait(timeout=patience, default=None)
    if decision is None:
        stage.set("reminded")
        await remind(mailbox, boss, claimed)
        decision = await approval.wait(timeout=patience, default=Decision(approved=False, by="nobody in time"))
    es.note("decided", decision)
    stage.set("decided")
    return await pay(mailbox, who, claimed) if decision.approved else f"refused by {decision.by}"


def _deliver(mailbox: str, line: str) -> None:
    path = Path(mailbox)
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in known:
        path.write_text("\n".join([*known, line, ""]), encoding="utf-8")
