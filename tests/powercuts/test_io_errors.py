"""
Every read, write, truncation and sync that SQLite asks for fails, once or for a while, or there is no space left.

The verb that meets it raises one of our errors. Called again when the disk works, it gives the answer that it would have given.
No restart is needed, and nothing acknowledged is lost, not even if the power goes afterwards.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from msgspec import Struct

from tests import evidence
from tests.powercuts.disk import Kind, Op, watched
from tests.powercuts.lives import Life
from tests.powercuts.test_power_cuts import check_images

CODES: dict[Kind, int] = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "delete and sync": apsw.SQLITE_IOERR_DELETE,
    "create": apsw.SQLITE_IOERR,
}


def io_error(op: Op) -> apsw.Error:
    """What the operating system says of a bad disk."""
    error = apsw.IOError(f"{op.kind} of {op.file}")
    setattr(error, "extendedresult", CODES[op.kind])  # noqa: B010 - apsw reads it, and its types do not tell
    return error


def full(_: Op) -> apsw.Error:
    """What it says when there is no space."""
    return apsw.FullError("no space left on device")


class Fault(Struct, frozen=True):
    """One way in which disks fail.

    Attributes:
        kinds: The operations that it concerns.
        says: What SQLite gets to hear.
        in_tests: In a test run each n-th operation is tried.
    """

    kinds: frozenset[Kind]
    says: Callable[[Op], apsw.Error]
    in_tests: int


FAULTS = {
    "reads": Fault(frozenset({"read"}), io_error, in_tests=13),
    "changes": Fault(frozenset(CODES.keys() - {"read"}), io_error, in_tests=7),
    "full": Fault(frozenset({"write"}), full, in_tests=7),
}


class FailsAt:
    """The disk fails at one operation, and goes on failing until somebody has tried again often enough.

    Args:
        fault: How.
        at: Number of the operation, of those that it concerns, since the store was opened.
        tries: How many calls of a verb fail before the disk works again; 0: just that operation fails, the next ones do not.
    """

    def __init__(self, fault: Fault, at: int, tries: int) -> None:
        self._fault = fault
        self._at = at
        self._tries = tries
        self._asked: int | None = None
        self._is_healed = False
        self.met = 0

    def begin(self) -> None:
        """See Faults."""
        self._asked = 0

    def asked_again(self, times: int) -> None:
        """See Faults."""
        self._is_healed = times >= self._tries

    def judge(self, op: Op) -> Exception | None:
        """See Disk."""
        if self._asked is None or self._is_healed or op.kind not in self._fault.kinds:
            return None
        self._asked += 1
        if self._asked < self._at or (self._asked > self._at and not self._tries):
            return None
        self.met += 1
        return self._fault.says(op)


_CHANCES: dict[Kind, float] = {"read": 0.002, "write": 0.02, "sync": 0.1}
"""SQLite reads more often than it writes, and writes more often than it syncs."""


class FailsNowAndThen:
    """The disk fails by chance, and for as long as chance wants."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._is_at_work = False
        self._bad_for = 0
        self.met: Counter[str] = Counter()

    def begin(self) -> None:
        """See Faults."""
        self._is_at_work = True

    def asked_again(self, times: int) -> None:
        """See Faults."""
        self._bad_for -= 1

    def judge(self, op: Op) -> Exception | None:
        """See Disk."""
        if not self._is_at_work:
            return None
        if self._bad_for <= 0:
            if self._chance.random() > _CHANCES.get(op.kind, 0.05):
                return None
            self._bad_for = self._chance.choice((0, 0, 1, 3))
        self.met[op.kind] += 1
        return full(op) if op.kind == "write" and self._chance.random() < 0.5 else io_error(op)


@pytest.mark.parametrize("tries", [0, 3])
@pytest.mark.parametrize("how", FAULTS)
async def test_wherever_the_disk_fails_the_verb_can_be_called_again(tmp_path: Path, how: str, tries: int) -> None:
    """Operation by operation: in ``make proof`` each, in every test run each n-th."""
    fault = FAULTS[how]
    stride = evidence.amount(fault.in_tests, 1)
    at = 1
    while True:
        directory = tmp_path / str(at)
        directory.mkdir()
        faults = FailsAt(fault, at, tries)
        with watched(directory) as disk:
            disk.judge = faults.judge
            life = Life(disk, faults, seed=3)
            await life.spend(steps=12)
        if not faults.met:
            break
        at += stride
        evidence.note("I/O errors under SQLite, operation by operation")

    assert at > 3 * stride, "the sweep met hardly anything"


@pytest.mark.parametrize("seed", range(evidence.amount(2, 16)))
async def test_nothing_acknowledged_is_lost_when_the_power_goes_on_a_disk_that_fails_now_and_then(
    tmp_path: Path, images_directory: Path, seed: int
) -> None:
    """A sync that failed may have lost what it was to cover, and a later one does not tell."""
    directory = tmp_path / "live"
    directory.mkdir()
    faults = FailsNowAndThen(random.Random(seed))
    with watched(directory) as disk:
        disk.judge = faults.judge
        life = Life(disk, faults, seed)
        await life.spend(steps=50)

    assert {"sync", "write"} <= faults.met.keys()
    assert life.failed["not happened"]
    evidence.note("I/O errors under SQLite, by chance", faults.met.total())
    await check_images(life, images_directory, seed)
