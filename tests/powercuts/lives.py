"""
What is done to the SQLite store while its disk is watched: the random verbs of the differential run, beside the memory store.

If the disk fails, the verb is called again, as its caller would do, until the disk works; the store must then do so by itself.
Each time the file tells whether the verb has happened; and whether it has or not, the answers stay those of the memory store.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from everstep.errors import IllegalState, StoreUnavailable
from everstep.stores.base import NewRun, Store
from everstep.stores.memory import MemoryStore
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.scene import Clocks
from tests.powercuts.disk import Disk
from tests.powercuts.places import FILE, NOTHING, lay_down, state_of
from tests.stores.test_differential import Driver

READS = {"list", "workers", "pull", "get", "mail", "load", "attempts"}
PAGES_PER_CHECKPOINT = 40
"""Of the store it is 1,000: here the log is to be folded into the file every few verbs."""
PATIENCE = 200
"""Calls of one verb after which we no longer believe that the store recovers."""


class Faults(Protocol):
    """Who makes the disk fail."""

    def begin(self) -> None:
        """From now on it may."""

    def asked_again(self, times: int) -> None:
        """A verb that failed is going to be called again."""


class NoFaults:
    """A disk that works."""

    def begin(self) -> None:
        """See Faults."""

    def asked_again(self, times: int) -> None:
        """See Faults."""
        raise AssertionError("a verb failed on a disk that works")


class Life(Driver):
    """A store that lives on a watched disk.

    Attributes:
        states: The store after each verb; first before it was opened.
        places: Length of the disk's log when each state was acknowledged.
        failed: How often a verb failed and had not happened, or had.
    """

    def __init__(self, disk: Disk, faults: Faults, seed: int) -> None:
        self.disk = disk
        self.faults = faults
        clocks = Clocks()
        self.sqlite = SQLiteStore(disk.directory / FILE, now=clocks.now, monotonic=clocks.monotonic)
        self.memory = MemoryStore(now=clocks.now, monotonic=clocks.monotonic)
        super().__init__([self.memory, self.sqlite], clocks, seed)
        self.states = [NOTHING]
        self.places = [0]
        self.failed: Counter[str] = Counter()
        self._told: tuple[str, object] = ("", None)

    async def spend(self, steps: int) -> None:
        """Be opened, do random things, be closed, opened and closed again."""
        await self.memory.open()
        await self._open()
        self.faults.begin()
        for _ in range(steps):
            await self.step()
        await self._close()
        await self._open()
        await self.step()
        await self._close()

    async def all(self, verb: str, *arguments: Any) -> Any:
        """See Driver."""
        expected = await getattr(self.memory, verb)(*arguments)
        answer = await self._insist(verb, *arguments, instead=expected)
        assert expected == answer, verb
        return expected

    async def answer_to(self, store: Store, new: NewRun) -> tuple[str, object]:
        """See Driver."""
        if store is self.memory:
            self._told = await super().answer_to(store, new)
            return self._told
        try:
            answers = await self._insist("create", [new])
        except IllegalState as error:
            return "IllegalState", str(error)
        return self._told if answers is None else (type(answers[0]).__name__, answers[0].run)

    def allowed(self, place: int) -> set[str]:
        """The states in which the store may be found when the power goes at this place of the log."""
        last = sum(each <= place for each in self.places) - 1
        return set(self.states[last : last + 2])

    async def _insist(self, verb: str, *arguments: Any, instead: Any = None) -> Any:
        before, times = self.states[-1], 0
        while True:
            try:
                answer = await getattr(self.sqlite, verb)(*arguments)
                break
            except StoreUnavailable:
                times += 1
                assert times < PATIENCE, f"{verb} never recovered"
                self.faults.asked_again(times)
                happened = verb not in READS and self._now() != before
                self.failed["happened" if happened else "not happened"] += 1
                if happened:
                    answer = instead
                    if verb == "enlist":
                        self.memory.kill(instead)  # nobody has the new worker's lock
                    break
        if verb not in READS:
            self._acknowledge()
        return answer

    async def _open(self) -> None:
        await self._insist("open")
        self.sqlite._state().writer.tx.execute(f"PRAGMA wal_autocheckpoint = {PAGES_PER_CHECKPOINT}")

    async def _close(self) -> None:
        """Its workers retire one by one, each in a transaction."""
        for worker_key in sorted(self.sqlite._state().workers):
            await self.all("retire", worker_key)
        await self._insist("close")

    def _acknowledge(self) -> None:
        self.states.append(self._now())
        self.places.append(len(self.disk.ops))

    def _now(self) -> str:
        """What others see now. A closed store is looked at in a copy: whoever is alone with a file creates and deletes others.

        (An open one is not: a transaction whose sync failed stands in the log, and who recovers that from a copy would see it.)
        """
        if self.sqlite._open is not None:
            return state_of(self.disk.directory / FILE)
        files = [each for each in self.disk.directory.iterdir() if each.name in {FILE, f"{FILE}-wal"}]
        copy = self.disk.directory.with_name("copy")
        return state_of(lay_down({each.name: each.read_bytes() for each in files}, copy))
