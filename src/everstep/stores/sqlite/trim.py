"""
Forgetting the closed segments of a run. Which rows these are is found on the reader's connection, for that takes a walk along
the whole chain, and old rows do not change; whether they may go is judged under the write lock.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from everstep.blobs import MARK, hashes_in
from everstep.records import RunKey
from everstep.stores.pruning import Kept, TrimRequest
from everstep.stores.sqlite import read
from everstep.stores.sqlite.ask import Ask
from everstep.stores.sqlite.transaction import Tx

_OLD: Final = f"""
{read.CHAIN}
SELECT id, version, hash FROM chain CROSS JOIN journal USING (id) WHERE version BETWEEN 2 AND ?2 - 1 ORDER BY version
"""  # noqa: S608  # names of columns
_BASE: Final = "SELECT base FROM runs WHERE run_key = ?"
_HAS_FORK: Final = "SELECT 1 FROM runs WHERE forked_from = ? LIMIT 1"
_DROP: Final = "DELETE FROM journal WHERE id IN (SELECT value FROM json_each(?2)) AND run_key = ?1"
_ANCHOR: Final = """
INSERT INTO anchors(run_key, version, hash) VALUES (?1, ?2, ?3)
ON CONFLICT(run_key) DO UPDATE SET version = excluded.version, hash = excluded.hash WHERE excluded.version > version
"""
_HAS_BLOBS: Final = "SELECT 1 FROM blobs WHERE run_key = ? LIMIT 1"
_MARKED: Final = f"{read.CHAIN} SELECT events FROM chain CROSS JOIN journal USING (id) WHERE instr(events, ?2)"  # noqa: S608
_DROP_BLOBS: Final = """
DELETE FROM blobs WHERE run_key = ?1 AND hex(hash) NOT IN (SELECT upper(value) FROM json_each(?2))
"""


class Old(Struct, frozen=True):
    """What may go: rows of the journal, and the hash of the last of them."""

    ids: list[int]
    anchor: bytes


def look(ask: Ask, request: TrimRequest) -> Old | None:
    """What would go; None for nothing."""
    rows = ask(_OLD, (request.run_key, request.before)).fetchall()
    if not rows or rows[-1][1] != request.before - 1:
        return None
    return Old([row[0] for row in rows], rows[-1][2])


def foresee(ask: Ask, request: TrimRequest, old: Old) -> int | Kept:
    """What would become of it."""
    row = ask(_BASE, (request.run_key,)).fetchone()
    if row is None or request.before > row[0]:
        return 0
    return Kept.FORK if ask(_HAS_FORK, (request.run_key,)).fetchone() else len(old.ids)


def trim(tx: Tx, request: TrimRequest, old: Old) -> int | Kept:
    """Forget it, if it may go."""
    verdict = foresee(tx.ask, request, old)
    if isinstance(verdict, Kept) or not verdict:
        return verdict
    tx.execute(_DROP, (request.run_key, msgspec.json.encode(old.ids).decode()))
    gone = tx.changes()
    if gone:  # Else somebody else was faster.
        tx.execute(_ANCHOR, (request.run_key, request.before - 1, old.anchor))
        _drop_blobs(tx, request.run_key)
    return gone


def _drop_blobs(tx: Tx, run_key: RunKey) -> None:
    if not tx.ask(_HAS_BLOBS, (run_key,)).fetchone():
        return
    marked = [*tx.ask(_MARKED, (run_key, MARK.decode())), (read.created(tx.ask, run_key).decode(),)]
    left = {digest.hex() for (events,) in marked for digest in hashes_in(events.encode())}
    tx.execute(_DROP_BLOBS, (run_key, msgspec.json.encode(sorted(left)).decode()))
