"""Images of a store: laid down as files, looked at, and compared with what had been acknowledged."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import apsw

from everstep.stores.sqlite.ask import asking

FILE = "state.db"
NOTHING = "no store"
"""The state of a file that is empty, or not there."""


def lay_down(image: Mapping[str, bytes], directory: Path) -> Path:
    """Make the files of an image, and no others."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in image.items():
        (directory / name).write_bytes(content)
    return directory / FILE


def state_of(path: Path) -> str:
    """All that the store's tables hold, in one word. Reading a file with a log recovers it first, as any start does."""
    if not path.exists():
        return NOTHING
    with closing(apsw.Connection(str(path), vfs="unix")) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # whoever looks changes nothing
        ask = asking(connection)
        tables = [name for (name,) in ask("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        if not tables:
            return NOTHING
        said = hashlib.blake2b(digest_size=16)
        for table in tables:
            rows = sorted(map(repr, ask(f'SELECT * FROM "{table}"')))
            said.update(f"{table}: {rows}\n".encode())
        return said.hexdigest()


def is_intact(path: Path) -> bool:
    """What SQLite says of the file."""
    with closing(apsw.Connection(str(path), vfs="unix")) as connection:
        return asking(connection)("PRAGMA integrity_check").fetchall() == [("ok",)]
