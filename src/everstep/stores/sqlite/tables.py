"""
The tables of users beside a store in memory: an SQLite database in memory, so that transactional steps can be tested there.

The database commits first, and then the entry lands, with nothing in between that could suspend or fail: whether it lands was
decided before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw

from everstep.errors import StoreUnavailable
from everstep.stores.base import Append, Landed, Outcome, RolledBack, TransactionBody
from everstep.stores.sqlite.transaction import Tx
from everstep.stores.sqlite.user_tx import run_guarded


class UserTables:
    """See the module. Belongs to the event loop on which it is first used."""

    def __init__(self) -> None:
        self._connection = apsw.Connection(":memory:")
        self._tx = Tx(self._connection, lambda: 0)
        self._tx.execute("PRAGMA foreign_keys = on")
        self._turn = asyncio.Lock()

    async def transact(
        self,
        body: TransactionBody,
        look: Callable[[], Outcome | None],
        answer: Callable[[Append], Outcome | None],
        land: Callable[[Append], None],
    ) -> Outcome | RolledBack:
        """Run a body, and let its entry land with what it did.

        Args:
            body: See TransactingStore.
            look: Why the body may not run; None if it may.
            answer: Why the entry does not land; None if it does.
            land: Lets it land.
        """
        async with self._turn:
            decided = look()
            if decided is not None:
                return decided
            self._tx.begin()
            try:
                append, failure = await run_guarded(self._connection, body)
                if failure is not None:
                    raise StoreUnavailable(f"the tables beside the store memory:// failed: {failure}. Nothing was written.")
                if append is None:
                    return RolledBack()
                decided = answer(append)
                if decided is not None:
                    return decided
                self._tx.execute("COMMIT")
            finally:
                self._tx.roll_back()
            land(append)
            return Landed()
