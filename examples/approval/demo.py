"""
python -m examples.approval.demo: days of waiting for a person, on a clock that jumps over them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import everstep as es
from everstep.testing import Env
from examples.approval.job import DAY, Change, Decision, approval, change, expense


async def main(folder: Path) -> None:
    """Two claims: one is lowered and approved after a reminder, one is forgotten."""
    mailbox = folder / "mail.txt"
    async with Env() as env:
        taxi = await env.start(expense(str(mailbox), "ann", 4200, "bob"), id="taxi")
        hotel = await env.start(expense(str(mailbox), "cleo", 9900, "bob"), id="hotel")
        try:
            await taxi.ask(change, Change(9999))
        except es.RequestRefused as refused:
            print(f"refused:  {refused.reason}")
        print(f"answered: {await taxi.ask(change, Change(4000), key='ann-1')}")
        print(f"again:    {await taxi.ask(change, Change(1), key='ann-1')}")
        await asyncio.sleep(DAY * 1.5)
        print(f"stage:    {(await taxi.snapshot()).payload['stage']}")
        await taxi.send(approval, Decision(approved=True, by="bob"), key="click")
        print(f"taxi:     {await taxi.result()}")
        print(f"hotel:    {await hotel.result()}")
    print(f"{len(mailbox.read_text(encoding='utf-8').splitlines())} mails")


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
