"""Whether all that is kept of a run agrees with itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from everstep.blobs import MARK, hashes_in
from everstep.cli.damage import Damage, find_damage
from everstep.journal import Reader
from everstep.records import RunRecord, Status
from everstep.stores import rules
from everstep.stores.moving import record_of, whole_entries
from everstep.stores.upkeep import Bundle


def audit(bundle: Bundle, reader: Reader | None = None) -> Iterator[Damage]:
    """Everything about a run that cannot be. Of its journal, the first place.

    Args:
        bundle: The run.
        reader: What opens its payloads; without one they are taken as they are stored.
    """
    if not bundle.entries:
        yield Damage(str(bundle.run["run_id"]), 1, "no entries", "at least 1", "0")
        return
    run = record_of(bundle)
    damage = find_damage(run, whole_entries(bundle), reader)
    if damage is not None:
        yield damage
    else:
        yield from _row(bundle, run)
    yield from _blobs(bundle, run)
    yield from _inbox(bundle, run)
    if run.status.is_at_rest and bundle.sides["attempts"]:
        yield Damage(run.run_id, run.version, "attempts of a run at rest", "0", str(len(bundle.sides["attempts"])))


def _row(bundle: Bundle, run: RunRecord) -> Iterator[Damage]:
    newest = bundle.entries[-1]
    if newest.at != run.updated_at:
        yield Damage(run.run_id, run.version, "instant of the newest entry", str(newest.at), str(run.updated_at))
    if newest.epoch > run.epoch:
        yield Damage(run.run_id, run.version, "epoch of the run", f"at least {newest.epoch}", str(run.epoch))
    if not 1 <= run.base <= run.version:
        yield Damage(run.run_id, run.version, "where its newest segment begins", f"1 to {run.version}", str(run.base))
    if run.status.is_at_rest and run.worker_key is not None:
        yield Damage(run.run_id, run.version, "owner of a run at rest", "none", str(run.worker_key))
    if run.status is Status.SUCCEEDED and rules.ending_of(newest.events) is None:
        yield Damage(run.run_id, run.version, "the event that ended it", "one in the newest entry", "none")


def _blobs(bundle: Bundle, run: RunRecord) -> Iterator[Damage]:
    wanted = {digest for each in bundle.entries if MARK in each.events for digest in hashes_in(each.events)}
    stray = [line[0] for line in bundle.sides["blobs"] if bytes(line[0]) not in wanted]
    if stray:
        yield Damage(run.run_id, run.version, "large payloads that no entry refers to", "0", str(len(stray)))


def _inbox(bundle: Bundle, run: RunRecord) -> Iterator[Damage]:
    numbers = [line[0] for line in bundle.sides["inbox"]]
    if numbers != list(range(1, run.inbox_seq + 1)):
        found = f"{len(numbers)}, up to {max(numbers, default=0)}"
        yield Damage(run.run_id, run.version, "messages, numbered from 1", str(run.inbox_seq), found)
    if run.inbox_done > run.inbox_seq:
        yield Damage(run.run_id, run.version, "messages consumed", f"at most {run.inbox_seq}", str(run.inbox_done))
