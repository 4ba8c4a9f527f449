"""
What operators do with a store as a whole: see how it stands, bring its schema up to date, check it, move it.

Nothing here drives runs, and none of it is in the store contract: it works on stores that an engine refuses (of another
version, moved, half copied), and it knows tables rather than verbs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from everstep.errors import UsageError
from everstep.journal import Entry
from everstep.records import Micros, RunKey, WorkerRecord
from everstep.stores.migrations import Migration, SchemaState, Stage

Value: TypeAlias = Any
"""Of a column: int, float, str, bytes, bool or None."""
Line: TypeAlias = Sequence[Value]


class TableSize(Struct, frozen=True):
    """How large a table is, with its indexes.

    Attributes:
        name: Its name.
        rows: How many; on PostgreSQL as the server reckons.
        bytes: On disk.
    """

    name: str
    rows: int
    bytes: int


class Census(Struct, frozen=True, kw_only=True):
    """A store at one moment.

    Attributes:
        now: When, by the store's clock.
        incarnation: What tells this store from one that was made anew, or from a copy.
        tables: Those of everstep.
        bytes: All of the file, or of the schema.
        runs: How many, by status.
        oldest_due_at: Since when the run is due that has waited longest for a worker; None if none is due.
        workers: All that are alive or still own runs.
    """

    now: Micros
    incarnation: str
    tables: Sequence[TableSize]
    bytes: int
    runs: Mapping[str, int]
    oldest_due_at: Micros | None
    workers: Sequence[WorkerRecord]


class Bundle(Struct, frozen=True):
    """All that is kept of one run.

    Attributes:
        run: Its row, with what its newest entry says: ``stores.moving.RUN`` and ``HEAD``, by column.
        entries: Its journal as it is stored, large payloads apart.
        sides: Rows of other tables, by table: columns as in ``stores.moving.SIDES``.
    """

    run: Mapping[str, Value]
    entries: Sequence[Entry]
    sides: Mapping[str, Sequence[Line]]

    @property
    def run_key(self) -> RunKey:
        """Its key."""
        return int(self.run["run_key"])


class Stray(Struct, frozen=True):
    """Rows that no run accounts for.

    Attributes:
        run_key: What they say that they belong to; 0 for the store as a whole.
        what: In a few words.
        expected: What should be.
        found: What is.
    """

    run_key: RunKey
    what: str
    expected: str = ""
    found: str = ""


class Counters(Struct, frozen=True):
    """The last keys that were given out. None of them may ever be given out again."""

    run_key: int
    worker_key: int


class Upkeep(Protocol):
    """One store. Every verb may raise StoreError."""

    url: str
    backend: str
    known: Sequence[Migration]

    async def open(self, *, create: bool = False) -> None:
        """Connect. ``create``: the file may be missing, and is made."""
        ...

    async def close(self) -> None:
        """Let go of everything. Safe to repeat."""
        ...

    async def state(self) -> SchemaState:
        """Where the schema stands. Changes nothing."""
        ...

    async def migrate(self, *, finish: bool = False, force: bool = False) -> list[Stage]:
        """Bring the schema up to date, or make it. Returns the stages that were taken."""
        ...

    async def census(self) -> Census:
        """Count what there is. Reads everything there is to count, so it takes its time on a large store."""
        ...

    async def page(self, after: RunKey, run_max: int, entry_max: int) -> list[Bundle]:
        """Runs with a greater key, in order, each as it is at one moment: as many as have so many entries, or one."""
        ...

    async def strays(self) -> list[Stray]:
        """What belongs to no run, and counters that are behind."""
        ...

    async def common(self) -> Mapping[str, Sequence[Line]]:
        """The tables that are not by run: columns as in ``stores.moving.COMMON``."""
        ...

    async def counters(self) -> Counters:
        """The last keys that were given out."""
        ...

    # --- as the source of a copy

    async def hold(self, target: str, move: str) -> list[str]:
        """Let nobody write any more, in one transaction, unless workers are alive: their names. Then nothing was changed."""
        ...

    async def owners(self) -> list[Line]:
        """Workers that own runs and are dead: worker_key, name, why, was_alone."""
        ...

    async def let_go(self, *, moved: bool) -> None:
        """The copy is over. ``moved``: from now on the runs are elsewhere for good; otherwise this store is as before."""
        ...

    async def move_id(self) -> str:
        """What names the copy that is under way; empty for none."""
        ...

    # --- as the target of a copy

    async def begin_filling(self, move: str, source: str) -> RunKey | None:
        """Begin to receive, or go on: the key of the last run that is here. None if there are runs that came otherwise."""
        ...

    async def put(self, bundles: Sequence[Bundle]) -> None:
        """Receive runs, in one transaction."""
        ...

    async def settle(
        self,
        forks: Sequence[tuple[RunKey, RunKey]],
        owners: Sequence[Line],
        common: Mapping[str, Sequence[Line]],
        counters: Counters,
    ) -> None:
        """Receive the rest, in one transaction. Safe to repeat.

        Args:
            forks: Runs and the runs whose history they share.
            owners: See ``owners``.
            common: See ``common``.
            counters: Those of the source: ours go on from there.
        """
        ...

    async def end_filling(self) -> None:
        """Everything is here: engines may open this store."""
        ...


def open_upkeep(url: str) -> Upkeep:
    """The store that a URL names, not yet opened.

    Raises:
        UsageError: There is nothing to look after.
        InvalidStoreURL: The URL names no store.
    """
    from everstep.stores.urls import open_store

    store = open_store(url)
    if urlsplit(url).scheme == "memory":
        raise UsageError("a store in memory ends with its process: there is nothing to look after. Name another with --store.")
    upkeep = getattr(store, "upkeep", None)
    assert upkeep is not None
    made: Upkeep = upkeep()
    return made
