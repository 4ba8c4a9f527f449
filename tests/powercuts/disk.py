"""
A disk that loses power, for SQLite: every write, truncation, sync and deletion is written down on its way to the real file, and
from the log every state is made in which the medium may be when the power goes.

The model is the harshest that SQLite claims to survive (https://sqlite.org/atomiccommit.html, https://sqlite.org/psow.html):

- What a sync covered is there. Of what came later each sector is there or not, whatever its neighbours do, in any order.
- A sector that is being written may be torn: its beginning new, its end old. Bytes beside the written range are not harmed.
- Where a later sector of a growing file is there and an earlier one is not, the hole holds zeros or garbage.
- A truncation may not have happened; nor may a deletion, before the directory is synced; nor may the file itself be there
  before its first sync. SQLite syncs the directory with the first sync of a journal or a log (``UNIXFILE_DIRSYNC``), or if a
  deletion says so.
- A sync that failed may have lost for good what it was to cover: the system forgets such pages, and a later sync that succeeds
  says nothing of them (https://lwn.net/Articles/752063/).
- A write that failed may have been made in part.

``wal-index`` files (-shm) live in shared memory: nobody trusts one after a crash, so there is none in an image.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import apsw
from msgspec import Struct

SECTOR = 512
"""Smaller than today's disks have, so that a page of SQLite may be torn too."""

Kind: TypeAlias = Literal["create", "write", "truncate", "sync", "failed sync", "delete", "delete and sync", "read"]
Judge: TypeAlias = Callable[["Op"], Exception | None]
_REAL = "unix"
_SYNCED_WITH_DIRECTORY = ("-journal", "-wal")
_WATCHED = "everstep-power-cuts"


class Op(Struct, frozen=True):
    """One thing that SQLite asked of the disk.

    Attributes:
        kind: What.
        file: Base name of the file.
        offset: Where a write begins; the new length of a truncation.
        data: What is written.
    """

    kind: Kind
    file: str
    offset: int = 0
    data: bytes = b""


class Disk:
    """The log of one directory, and whoever decides that an operation fails.

    Attributes:
        ops: What reached the real file, in order.
        judge: Asked before each operation; its exception is the operation's outcome.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ops: list[Op] = []
        self.judge: Judge = lambda _: None

    def note(self, op: Op, instead: Callable[[], None] = lambda: None) -> None:
        """Let an operation happen; or do something ``instead``, and raise."""
        error = self.judge(op)
        if error is not None:
            instead()
            raise error
        if op.kind != "read":
            self.ops.append(op)

    def holds(self, path: str) -> bool:
        """Whether a file is one of those whose changes count."""
        return Path(path).parent == self.directory


@contextmanager
def watched(directory: Path) -> Generator[Disk]:
    """Every connection that is opened in this block to a file in ``directory`` goes through a ``Disk``."""
    disk = Disk(directory)
    vfs = _VFS(disk)
    before = sys.unraisablehook

    def ignore(error: sys.UnraisableHookArgs) -> None:
        """What SQLite ignores (that a checkpoint failed: it tries again later), apsw prints."""
        if not isinstance(error.exc_value, apsw.Error):
            before(error)

    sys.unraisablehook = ignore
    try:
        yield disk
    finally:
        sys.unraisablehook = before
        vfs.unregister()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str | apsw.URIFilename | None, flags: list[int]) -> None:
        name = path.filename() if isinstance(path, apsw.URIFilename) else path or ""
        self._disk, self._name = disk, os.path.basename(name)  # noqa: PTH119 - it may be empty
        self._counts = bool(name) and disk.holds(name)
        if self._counts and flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(name):  # noqa: PTH110
            disk.note(Op("create", self._name))
        super().__init__(_REAL, path, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if self._counts:
            self._disk.note(Op("read", self._name, offset))
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self._counts:
            self._disk.note(Op("write", self._name, offset, bytes(data)), lambda: self._write_half(bytes(data), offset))
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType] - of a type that Python 3.11 lacks

    def _write_half(self, data: bytes, offset: int) -> None:
        half = data[: len(data) // 2]
        self._disk.ops.append(Op("write", self._name, offset, half))
        super().xWrite(half, offset)  # pyright: ignore[reportUnknownMemberType]

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        if self._counts:
            self._disk.note(Op("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._counts:
            self._disk.note(Op("sync", self._name), lambda: self._disk.ops.append(Op("failed sync", self._name)))
        # The real file needs none: nothing here cuts the real power.


class _VFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(_WATCHED, _REAL, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if self._disk.holds(filename):
            self._disk.note(Op("delete and sync" if syncdir else "delete", os.path.basename(filename)))  # noqa: PTH119
        super().xDelete(filename, syncdir)


# --- what is left when the power goes ----------------------------------------------------------------------------------------


class _OnDisk:
    """One file: what is surely there, and what came since."""

    def __init__(self) -> None:
        self.is_linked = False
        self.is_gone = False
        self.sure = bytearray()
        self.since: list[_Since] = []

    def sync(self) -> None:
        for each in self.since:
            each.is_sure = not each.is_forgotten
        while self.since and self.since[0].is_sure:
            _write_all(self.sure, [self.since.pop(0).op])

    def fail_to_sync(self) -> None:
        for each in self.since:
            each.is_forgotten = not each.is_sure


class _Since(Struct):
    """An operation that a sync may make sure, unless one has failed to: then it is forgotten, and stays in doubt."""

    op: Op
    is_sure: bool = False
    is_forgotten: bool = False


class Medium:
    """What is on the medium at one place of the log."""

    def __init__(self) -> None:
        self._files: dict[str, _OnDisk] = {}

    def apply(self, op: Op) -> None:
        """Go on by one operation."""
        if op.kind == "create":
            self._files[op.file] = _OnDisk()  # a file system keeps the order of names: what was deleted before is gone now
        elif op.kind == "delete and sync":
            self._files.pop(op.file, None)
        elif op.file in self._files:
            file = self._files[op.file]
            if op.kind == "sync":
                if not file.is_linked and op.file.endswith(_SYNCED_WITH_DIRECTORY):
                    self._sync_directory()
                file.is_linked = True
                file.sync()
            elif op.kind == "failed sync":
                file.fail_to_sync()
            elif op.kind == "delete":
                file.is_gone = True
            else:
                file.since.append(_Since(op))

    def _sync_directory(self) -> None:
        for name, file in list(self._files.items()):
            file.is_linked = True
            if file.is_gone:
                del self._files[name]

    @property
    def is_settled(self) -> bool:
        """Nothing is in doubt."""
        return not any(file.since or file.is_gone or not file.is_linked for file in self._files.values())

    def without_all(self) -> dict[str, bytes]:
        """The image in which nothing in doubt has happened."""
        return {name: _content(file, lambda each: each.is_sure) for name, file in self._files.items() if file.is_linked}

    def with_all(self) -> dict[str, bytes]:
        """The image in which everything has happened: that of a process that was killed."""
        return {name: _content(file, lambda _: True) for name, file in self._files.items() if not file.is_gone}

    def with_some(self, chance: random.Random) -> dict[str, bytes]:
        """One of all the other images."""
        kept = chance.choice((0.1, 0.5, 0.9))
        image: dict[str, bytes] = {}
        for name, file in self._files.items():
            if (file.is_gone and chance.random() < 0.5) or (not file.is_linked and chance.random() < 0.5):
                continue
            content = bytearray(file.sure)
            for each in file.since:
                if each.is_sure:
                    _write_all(content, [each.op])
                elif each.op.kind == "truncate":
                    if chance.random() < kept:
                        _truncate(content, each.op.offset)
                else:
                    for start, part in _sectors(each.op):
                        if chance.random() < kept:
                            torn = part[: chance.randrange(len(part) + 1)] if chance.random() < 0.1 else part
                            _write(content, start, torn, chance)
            image[name] = bytes(content)
        return image


def images(disk: Iterable[Op], chance: random.Random, each: int) -> Generator[tuple[int, dict[str, bytes]]]:
    """For every place of the log: its number, and images of the medium there. ``each`` of them are made by chance."""
    medium = Medium()
    for place, op in enumerate(disk, 1):
        medium.apply(op)
        yield place, medium.without_all()
        if not medium.is_settled:
            yield place, medium.with_all()
            for _ in range(each):
                yield place, medium.with_some(chance)


def _content(file: _OnDisk, happened: Callable[[_Since], bool]) -> bytes:
    content = bytearray(file.sure)
    _write_all(content, [each.op for each in file.since if happened(each)])
    return bytes(content)


def _write_all(content: bytearray, ops: Iterable[Op]) -> None:
    for op in ops:
        if op.kind == "truncate":
            _truncate(content, op.offset)
        else:
            _write(content, op.offset, op.data)


def _write(content: bytearray, offset: int, data: bytes, chance: random.Random | None = None) -> None:
    hole = offset - len(content)
    if hole > 0:
        content += chance.randbytes(hole) if chance is not None and chance.random() < 0.5 else bytes(hole)
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, length: int) -> None:
    del content[length:]
    content += bytes(length - len(content))


def _sectors(op: Op) -> Generator[tuple[int, bytes]]:
    """The parts of a write that are there or not, each by itself."""
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        border = min(end, (start // SECTOR + 1) * SECTOR)
        yield start, op.data[start - op.offset : border - op.offset]
        start = border
