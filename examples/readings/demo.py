"""
python -m examples.readings.demo: the same readings kept in three ways, and what each of them costs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from everstep.testing import Env
from examples.readings.job import one_by_one, page_by_page, relaxed

AGAIN = {"one_by_one": "the step that was cut off", "page_by_page": "the page that was cut off"}
PAGES = [[4800 + 7 * reading + page for reading in range(20)] for page in range(3)]


async def main(folder: Path) -> None:
    """63 steps each: how many commits did they take?"""
    async with Env() as env:
        for workflow in (one_by_one, page_by_page, relaxed):
            book = folder / workflow.name
            book.mkdir()
            handle = await env.start(workflow(str(book), PAGES), id=workflow.name)
            count, entries = await handle.result(), await handle.history()
            bound = (await handle.snapshot()).relaxed
            again = f"at most {bound.steps} steps, or {bound.seconds:g} s" if bound else AGAIN[workflow.name]
            print(f"{workflow.name:12}  {count} readings, {len(entries):2} commits; done again after a crash: {again}")
    first = (folder / "relaxed" / "page-1.txt").read_text(encoding="utf-8").splitlines()[0]
    print(f"the first of them: {int(first) / 100:.2f} degrees")


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
