"""The store of a ``db`` verb: opened as it is, whatever version it has, and closed at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from everstep.cli.session import refuse_missing_file
from everstep.stores.upkeep import Upkeep, open_upkeep


@asynccontextmanager
async def looked_after(url: str, *, create: bool = False) -> AsyncGenerator[Upkeep]:
    """A store to look after.

    Args:
        url: The store.
        create: It may be made here; otherwise a file must be there.

    Raises:
        Refusal: There is no such file.
        StoreError: It cannot be reached.
    """
    if not create:
        refuse_missing_file(url)
    upkeep = open_upkeep(url)
    try:
        await upkeep.open(create=create)
        yield upkeep
    finally:
        await upkeep.close()
