"""
The model of the disk is checked against what SQLite's documentation says, before anything of ours is believed on its word.

https://sqlite.org/pragma.html#pragma_synchronous: "WAL mode with synchronous=NORMAL … might roll back following a power loss or
system crash. Transactions are durable … with synchronous=FULL." In DELETE mode "EXTRA … provides additional durability if the
commit is followed closely by a power loss", so FULL may lose one there.
"""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from everstep.stores.sqlite.ask import asking
from tests.powercuts.disk import Medium, Op, images, watched
from tests.powercuts.places import FILE, is_intact, lay_down

COMMITS = 30


def losses(directory: Path, image_place: Path, journal_mode: str, synchronous: str) -> int:
    """Commit rows under these settings, cut the power everywhere, and count the images that lack an acknowledged row."""
    live = directory / "live"
    live.mkdir()
    acknowledged: list[int] = []
    with watched(live) as disk, closing(apsw.Connection(str(live / FILE))) as connection:
        ask = asking(connection)
        ask(f"PRAGMA journal_mode = {journal_mode}").fetchall()
        ask(f"PRAGMA synchronous = {synchronous}")
        ask("PRAGMA wal_autocheckpoint = 10")
        ask("CREATE TABLE rows(number INTEGER PRIMARY KEY, text)")
        begun = len(disk.ops)
        for number in range(COMMITS):
            ask("INSERT INTO rows VALUES(?, ?)", (number, "x" * 1500))
            acknowledged.append(len(disk.ops))
        ops = list(disk.ops)

    lost = 0
    for place, image in images(ops, random.Random(1), each=2):
        if place >= begun:
            path = lay_down(image, image_place)
            found = numbers(path)
            assert found == list(range(len(found)))
            assert is_intact(path)
            lost += len(found) < sum(place >= each for each in acknowledged)
    return lost


def numbers(path: Path) -> list[int]:
    """What is in the table; nothing if the table itself was lost."""
    with closing(apsw.Connection(str(path), vfs="unix")) as connection:
        ask = asking(connection)
        if not ask("SELECT 1 FROM sqlite_schema").fetchall():
            return []
        return [int(number) for (number,) in ask("SELECT number FROM rows ORDER BY number")]


@pytest.mark.parametrize(
    ("journal_mode", "synchronous", "may_lose"),
    [("wal", "full", False), ("wal", "normal", True), ("delete", "full", True), ("delete", "extra", False)],
)
def test_the_disk_loses_what_the_documentation_says_may_be_lost_and_no_more(
    tmp_path: Path, images_directory: Path, journal_mode: str, synchronous: str, may_lose: bool
) -> None:
    """Under WAL and FULL nothing; under settings that promise less something, or the model would be too kind."""
    assert may_lose == (losses(tmp_path, images_directory, journal_mode, synchronous) > 0)


def test_of_a_write_that_was_not_synced_any_sectors_may_be_there() -> None:
    """Whole, not at all, and everything between; the synced part always."""
    medium = Medium()
    for op in (Op("create", "f"), Op("write", "f", 0, b"a" * 1024), Op("sync", "f"), Op("write", "f", 512, b"b" * 1024)):
        medium.apply(op)
    chance = random.Random(1)

    seen = {medium.with_some(chance)["f"] for _ in range(500)}

    assert b"a" * 1024 == medium.without_all()["f"]
    assert b"a" * 512 + b"b" * 1024 == medium.with_all()["f"]
    assert {b"a" * 1024, b"a" * 512 + b"b" * 512, b"a" * 512 + b"b" * 1024} <= seen
    assert any(each.startswith(b"a" * 1024) and each.endswith(b"b" * 512) for each in seen), "a later sector before an earlier"
    assert any(each[512:1024].strip(b"a") != each[512:1024].strip(b"b") for each in seen), "a torn sector"
    assert all(each.startswith(b"a" * 512) for each in seen)


def test_a_deletion_is_certain_only_with_its_directory() -> None:
    """SQLite deletes the log of WAL mode without syncing the directory, so it may come back."""
    medium = Medium()
    for op in (Op("create", "f"), Op("write", "f", 0, b"a"), Op("sync", "f"), Op("delete", "f")):
        medium.apply(op)

    assert {"f": b"a"} == medium.without_all()
    assert {} == medium.with_all()
    medium.apply(Op("delete and sync", "f"))
    assert {} == medium.without_all()


def test_what_a_failed_sync_was_to_cover_stays_in_doubt_after_a_sync_that_succeeds() -> None:
    """What is written after it is sure, wherever that stands; and what is written over it too."""
    medium = Medium()
    for op in (
        Op("create", "f"),
        Op("sync", "f"),
        Op("write", "f", 0, b"a" * 1024),
        Op("failed sync", "f"),
        Op("write", "f", 512, b"b" * 512),
        Op("sync", "f"),
    ):
        medium.apply(op)
    chance = random.Random(1)

    seen = {medium.with_some(chance)["f"] for _ in range(100)}

    assert bytes(512) + b"b" * 512 == medium.without_all()["f"]
    assert b"a" * 512 + b"b" * 512 == medium.with_all()["f"]
    assert {medium.without_all()["f"], medium.with_all()["f"]} <= seen
    assert all(each.endswith(b"b" * 512) for each in seen)
