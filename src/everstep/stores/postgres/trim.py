"""
Forgetting the closed segments of a run. Its row is locked meanwhile: no fork of it can begin, and nobody writes blobs. Entries
without blobs land all the same, for they only look at the row.
"""

from __future__ import annotations

from typing import Final

from everstep.blobs import MARK, hashes_in
from everstep.records import RunKey
from everstep.stores.postgres.pool import Tx
from everstep.stores.pruning import Kept, TrimRequest

_LOCK: Final = "SELECT base FROM everstep.runs WHERE run_key = $1 FOR UPDATE"
_BASE: Final = "SELECT base FROM everstep.runs WHERE run_key = $1"
_LOOK: Final = """
SELECT (SELECT count(*) FROM everstep.journal WHERE run_key = $1 AND version BETWEEN 2 AND $2 - 1),
       (SELECT hash FROM everstep.journal WHERE run_key = $1 AND version = $2 - 1 AND version > 1),
       EXISTS (SELECT FROM everstep.runs WHERE forked_from = $1)
"""
_DROP: Final = "DELETE FROM everstep.journal WHERE run_key = $1 AND version BETWEEN 2 AND $2 - 1"
_ANCHOR: Final = """
INSERT INTO everstep.anchors(run_key, version, hash) VALUES ($1, $2, $3)
ON CONFLICT (run_key) DO UPDATE SET version = excluded.version, hash = excluded.hash
"""
_HAS_BLOBS: Final = "SELECT FROM everstep.blobs WHERE run_key = $1 LIMIT 1"
_MARKED: Final = "SELECT events FROM everstep.journal WHERE run_key = $1 AND strpos(events, $2) > 0"
_DROP_BLOBS: Final = "DELETE FROM everstep.blobs WHERE run_key = $1 AND NOT hash = ANY($2::bytea[])"


async def foresee(tx: Tx, request: TrimRequest) -> int | Kept:
    """What would become of it."""
    found = await tx.fetch(_BASE, request.run_key)
    verdict, _ = await _judge(tx, request, found[0][0] if found else 0)
    return verdict


async def trim(tx: Tx, request: TrimRequest) -> int | Kept:
    """Forget the entries, if they may go."""
    found = await tx.fetch(_LOCK, request.run_key)
    verdict, anchor = await _judge(tx, request, found[0][0] if found else 0)
    if isinstance(verdict, int) and verdict:
        await tx.fetch(_DROP, request.run_key, request.before)
        await tx.fetch(_ANCHOR, request.run_key, request.before - 1, anchor)
        await _drop_blobs(tx, request.run_key)
    return verdict


async def _judge(tx: Tx, request: TrimRequest, base: int) -> tuple[int | Kept, bytes]:
    count, anchor, has_fork = await tx.one(_LOOK, request.run_key, request.before)
    if request.before > base or anchor is None:
        return 0, b""
    return (Kept.FORK, b"") if has_fork else (count, anchor)


async def _drop_blobs(tx: Tx, run_key: RunKey) -> None:
    if not await tx.fetch(_HAS_BLOBS, run_key):
        return
    marked = await tx.fetch(_MARKED, run_key, MARK.decode())
    left = {digest for (events,) in marked for digest in hashes_in(events.encode())}
    await tx.fetch(_DROP_BLOBS, run_key, sorted(left))
