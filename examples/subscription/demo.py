"""
python -m examples.subscription.demo: three years of a subscription in less than a second, on a clock that jumps over idle time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from everstep.testing import Env
from examples.subscription.job import MONTH, Account, payment, stop, subscription


async def main(folder: Path) -> None:
    """Pay for two years out of three, then stop."""
    book = folder / "invoices.txt"
    async with Env() as env:
        handle = await env.start(subscription(str(book), Account("ann")), id="ann")
        for month in range(36):
            if month % 3 != 2:
                await handle.send(payment, 999, key=f"month {month}")
            await asyncio.sleep(MONTH)
        await handle.send(stop, "moved away")
        ended = await handle.result()
        journal = await handle.journal()
    print(f"{ended.customer}: {ended.month - 1} months, {ended.owed} cents owed")
    print(f"{len(book.read_text(encoding='utf-8').splitlines())} invoices, none twice")
    print(f"{len(journal)} entries in the journal; a worker that takes over reads the newest month of them")


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
