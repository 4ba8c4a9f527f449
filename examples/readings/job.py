"""
Readings of a thermometer: many quick steps, and doing a few of them again does no harm. So they need not be on disk one by one.

Three ways to write the same loop; what comes of it is the same, and so is what a crash may leave undone: nothing.
"""

from __future__ import annotations

from pathlib import Path

import everstep as es


@es.step
async def calibrate(raw: int) -> int:
    """From what the sensor says to hundredths of a degree. Quick, and it changes nothing outside."""
    return raw * 100 // 16 - 27315


@es.step
def keep(book: str, page: int, readings: list[int]) -> None:
    """Safe to repeat: the page is written anew, as it was."""
    (Path(book) / f"page-{page}.txt").write_text("".join(f"{each}\n" for each in readings), encoding="utf-8")


@es.workflow
async def one_by_one(book: str, pages: list[list[int]]) -> int:
    """Durable, as everything is unless one says otherwise: what a step came to is on disk before the next one begins."""
    for number, page in enumerate(pages, 1):
        await keep(book, number, [await calibrate(raw) for raw in page])
    return sum(map(len, pages))


@es.workflow
async def page_by_page(book: str, pages: list[list[int]]) -> int:
    """A page is a milestone: it commits as a whole, at its end. Killed in the middle of one, it begins that page again."""
    for number, page in enumerate(pages, 1):
        async with es.milestone(f"page-{number}"):
            await keep(book, number, [await calibrate(raw) for raw in page])
    return sum(map(len, pages))


@es.workflow(durability=es.Relaxed(seconds=1, steps=100))
async def relaxed(book: str, pages: list[list[int]]) -> int:
    """The whole run is written behind: a crash takes it back by a second or a hundred steps at most; its history says so."""
    for number, page in enumerate(pages, 1):
        await keep(book, number, [await calibrate(raw) for raw in page])
    return sum(map(len, pages))
