"""
Moving everything from one store to another, whatever kind each is of: ``everstep db copy``.

    hold the source ─▶ runs, page by page ─▶ the rest ─▶ compare both, verify every chain ─▶ source: moved ─▶ target: open
         │ a worker is alive: refused                        │ anything differs: the source is let go, as it was
         └─ from here on nobody writes there

What keeps two stores from driving the same run: the target opens to engines in the very last step, and before that the source
says that its runs are elsewhere. A copy that is killed goes on (``resume``) with the page that it was at, for each page and the
note of it are one transaction; or is given up, which the source allows only until its runs have moved.

Rows go as they are, the bytes of journals exactly. Workers do not go, but for the names of the dead that still own runs: so
whoever claims those at the target records whose work it takes over, and counts the attempt that was under way. Keys of runs are
part of what entries are sealed with and stay; the target never gives one of them out again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from everstep.blobs import MARK, Blob, hashes_in
from everstep.errors import CorruptJournal, SchemaMismatch, StoreError
from everstep.journal import Entry, verify_chain
from everstep.records import RunKey, RunRecord
from everstep.stores.migrations import SchemaState
from everstep.stores.upkeep import Bundle, Upkeep, Value

# Every column of every table is named in one of these, or in a test that says why it does not go. Columns have the same name
# in both stores. What the newest entry of a run says stands in its row in SQLite, and in that entry in PostgreSQL.
RUN: Final[tuple[str, ...]] = (
    "run_key",
    "run_id",
    "workflow",
    "code_version",
    "epoch",
    "worker_key",
    "wake_at",
    "created_at",
    "deaths",
    "max_recoveries",
    "inbox_seq",
    "inbox_done",
    "parent_key",
    "parent_command",
    "refused_by",
    "base",
    "on_parent_close",
    "family",
    "pinned",
    "forked_from",
    "queue",
    "queue_key",
    "priority",
    "line",
    "admitted",
    "dedupe",
)
HEAD: Final[tuple[str, ...]] = ("status", "version", "hash", "updated_at", "step", "cursor")
ENTRY: Final[tuple[str, ...]] = ("version", "epoch", "at", "drained", "events", "hash")
SIDES: Final[Mapping[str, tuple[str, ...]]] = {
    "blobs": ("hash", "data"),
    "inbox": ("seq", "at", "dedupe", "event", "reply"),
    "attempts": (
        "key",
        "attempt",
        "failures",
        "due_at",
        "recoveries",
        "details",
        "error",
        "failures_max",
    ),
    "anchors": ("version", "hash"),
}
COMMON: Final[Mapping[str, tuple[str, ...]]] = {
    "queues": (
        "name",
        "declared",
        "changed",
        "changed_by",
        "changed_why",
        "is_paused",
        "paused_by",
        "paused_why",
    ),
    "admissions": ("queue", "at", "run_key"),
}
# Who was put aside in its queue is back in line in the copy: each store has its own way to know whom to let back.
IN_LINE: Final = "CASE WHEN runs.line > 0 THEN 1 ELSE 0 END"

RUNS_PER_PAGE: Final = 200
ENTRIES_PER_PAGE: Final = 2000


class Copied(Struct, frozen=True):
    """What was moved, and that both sides have the same.

    Attributes:
        runs: How many.
        entries: Of all journals.
        messages: In all inboxes.
        digest: SHA-256 over all that is kept of all runs, in the order of their keys: the same on both sides.
        move: What names this copy.
        damaged: Runs whose journals do not verify, and went as they were.
    """

    runs: int
    entries: int
    messages: int
    digest: str
    move: str
    damaged: Sequence[str] = ()


class NotMoved(StoreError):
    """The copy was refused, or came to nothing. The source is as it was, unless the message says otherwise."""


Tell = Callable[[str, int], None]
"""Hears what is being done, and of how many runs so far."""


def _tell_nobody(what: str, number: int) -> None:
    del what, number


async def copy(
    source: Upkeep,
    target: Upkeep,
    *,
    move: str,
    keep: bool = False,
    resume: bool = False,
    with_damaged: bool = False,
    tell: Tell = _tell_nobody,
) -> Copied:
    """Move everything. Both are open.

    Args:
        source: From where.
        target: Where to: nothing is there, or an empty store, or (``resume``) what an interrupted copy left.
        move: A new name for this copy.
        keep: Leave the source usable. Its runs are then in both, and must not be driven in both.
        resume: Go on with a copy that was interrupted.
        with_damaged: Also move runs whose journals do not verify, as they are.
        tell: Hears of progress.

    Raises:
        NotMoved: A worker is alive, a store is not fit for this, or a journal does not verify.
        StoreError: A store failed. Repeat with ``resume``.
    """
    await _check_versions(source, target)
    state, theirs = await source.state(), await target.state()
    move = await _hold(source, target, state, theirs, move, resume=resume)
    copied = None
    try:
        await _fill(source, target, move, tell)
        copied = await _compare(source, target, move, tell)
        if copied.damaged and not with_damaged:
            raise _damaged(source, copied.damaged)
    except NotMoved:
        with suppress(StoreError):
            await source.let_go(moved=False)
        raise
    await source.let_go(moved=not keep)
    await target.end_filling()
    return copied


async def give_up(source: Upkeep) -> None:
    """Make a source usable again whose copy was interrupted. What the target has of it will not be opened.

    Raises:
        NotMoved: No copy is under way; or its runs are at the target already.
    """
    state = await source.state()
    if not state.is_moving:
        if state.moved_to:
            raise NotMoved(
                f"the runs of the store {source.url} are in {state.moved_to}, and may be driven there. Nothing was changed. "
                "Copy them back if you want them here: into a new store."
            )
        raise NotMoved(f"no copy of the store {source.url} is under way. Nothing was changed. It can be used as it is.")
    await source.let_go(moved=False)


async def _check_versions(source: Upkeep, target: Upkeep) -> None:
    state = await source.state()
    if not state.version:
        raise NotMoved(f"there is no store at {source.url}. Nothing was copied. Check the first URL.")
    if not (await target.state()).version:
        await target.migrate(finish=True)
    for each in (source, target):
        found = (await each.state()).version
        if found != len(each.known):
            raise SchemaMismatch(
                f"the store {each.url} has schema version {found}, and this everstep copies version {len(each.known)}. Nothing "
                "was copied. Bring it up to date first: everstep db migrate --store URL"
            )


async def _hold(source: Upkeep, target: Upkeep, state: SchemaState, theirs: SchemaState, move: str, *, resume: bool) -> str:
    """Let nobody write to the source any more; the name of the copy."""
    if state.is_filling or theirs.moved_to:
        which = source.url if state.is_filling else target.url
        raise NotMoved(f"the store {which} is itself half of another copy. Nothing was copied. Bring that to its end first.")
    if theirs.is_filling and not resume:
        raise NotMoved(
            f"the store {target.url} has what an interrupted copy left. Nothing was copied. Go on with --resume, or drop it "
            "and begin again."
        )
    if state.moved_to and state.moved_to != target.url:
        raise NotMoved(f"the runs of {source.url} went to {state.moved_to}. Nothing was copied. Open that store instead.")
    if state.moved_to and not state.is_moving and not theirs.is_filling:
        raise NotMoved(
            f"the copy of {source.url} is complete: its runs are in {state.moved_to}. Nothing was copied. Open that store."
        )
    if state.moved_to and not resume:
        raise NotMoved(
            f"the runs of {source.url} are being moved to {state.moved_to}. Nothing was copied. If that was interrupted, go on "
            "with --resume, or make the source usable again with --give-up."
        )
    if state.moved_to:
        return await source.move_id() or move
    alive = await source.hold(target.url, move)
    if alive:
        raise NotMoved(
            f"{len(alive)} workers of the store {source.url} are alive: {', '.join(alive[:5])}. Nothing was copied. Stop them "
            "(SIGTERM lets them finish their steps; of a killed one the lease has to run out), and repeat."
        )
    return move


async def _fill(source: Upkeep, target: Upkeep, move: str, tell: Tell) -> None:
    after = await target.begin_filling(move, source.url)
    if after is None:
        raise NotMoved(f"the store {target.url} has runs of its own. Nothing was copied. Give an empty one, or a new one.")
    forks: list[tuple[RunKey, RunKey]] = []
    count = 0
    async for bundles in _pages(source, 0):
        forks += [(each.run_key, each.run["forked_from"]) for each in bundles if each.run["forked_from"] is not None]
        wanted = [each for each in bundles if each.run_key > after]
        if wanted:
            await target.put(wanted)
        count += len(bundles)
        tell("copied", count)
    await target.settle(forks, await source.owners(), await source.common(), await source.counters())


async def _pages(store: Upkeep, after: RunKey) -> AsyncIterator[Sequence[Bundle]]:
    while bundles := await store.page(after, RUNS_PER_PAGE, ENTRIES_PER_PAGE):
        yield bundles
        after = bundles[-1].run_key


# --- comparing ----------------------------------------------------------------------------------------------------------------


async def _compare(source: Upkeep, target: Upkeep, move: str, tell: Tell) -> Copied:
    """Read both, run by run."""
    digest = hashlib.sha256()
    runs = entries = messages = 0
    damaged: list[str] = []
    theirs = _each(target)
    async for ours in _each(source):
        other = await anext(theirs, None)
        sealed = canonical(ours)
        if other is None or canonical(other) != sealed:
            raise NotMoved(
                f"run {ours.run['run_id']} is not the same in {target.url} as in {source.url}. The source is as it was, and "
                "the target will not be opened. Drop the target and copy again."
            )
        damaged += [str(ours.run["run_id"])] if _is_damaged(ours) or _is_damaged(other) else []
        digest.update(sealed)
        runs, entries, messages = runs + 1, entries + len(ours.entries), messages + len(ours.sides["inbox"])
        if not runs % 100:
            tell("verified", runs)
    if await anext(theirs, None) is not None:
        raise NotMoved(f"the store {target.url} has runs that {source.url} has not. The source is as it was. Copy again.")
    return Copied(runs, entries, messages, digest.hexdigest(), move, damaged)


async def _each(store: Upkeep) -> AsyncIterator[Bundle]:
    async for bundles in _pages(store, 0):
        for each in bundles:
            yield each


def canonical(bundle: Bundle) -> bytes:
    """All that is kept of a run, as bytes that are the same whatever store they come from. Pure."""
    run = [_plain(bundle.run[name]) for name in (*RUN, *HEAD)]
    entries = [[each.version, each.epoch, each.at, int(each.drained), each.events, each.hash] for each in bundle.entries]
    sides = [[name, [[_plain(value) for value in line] for line in bundle.sides[name]]] for name in SIDES]
    return msgspec.json.encode([run, entries, sides])


def record_of(bundle: Bundle) -> RunRecord:
    """Its row as a record. Pure."""
    known: dict[str, Any] = {name: value for name, value in bundle.run.items() if name in RunRecord.__struct_fields__}
    return msgspec.convert(known, RunRecord, strict=False)


def whole_entries(bundle: Bundle) -> list[Entry]:
    """Its journal with the large payloads that belong to it, and the anchor of what was pruned. Pure."""
    blobs = {line[0]: Blob(bytes(line[0]), bytes(line[1])) for line in bundle.sides["blobs"]}
    return [
        replace(each, blobs=tuple(blobs[digest] for digest in hashes_in(each.events) if digest in blobs))
        if MARK in each.events
        else each
        for each in _anchored(bundle)
    ]


def _anchored(bundle: Bundle) -> Sequence[Entry]:
    entries = list(bundle.entries)
    for version, digest in bundle.sides["anchors"]:
        if len(entries) > 1 and entries[1].version == version + 1 > 2:
            entries[1] = replace(entries[1], anchor=bytes(digest))
    return entries


def _is_damaged(bundle: Bundle) -> bool:
    run = bundle.run
    try:
        verify_chain(_anchored(bundle), run_key=bundle.run_key, run_id=run["run_id"], head=run["hash"])
    except CorruptJournal:
        return True
    return False


def _damaged(source: Upkeep, run_ids: Sequence[str]) -> NotMoved:
    return NotMoved(
        f"{len(run_ids)} runs of the store {source.url} have journals that do not verify: {', '.join(run_ids[:5])}. The "
        "source is as it was, and the target will not be opened. See what is wrong with everstep db check; --with-damaged "
        "takes them along as they are."
    )


def _plain(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value
