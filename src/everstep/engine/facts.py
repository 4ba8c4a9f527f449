"""
What a driver knows of its run besides the journal, and what is left of it when the driver is done. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

from msgspec import Struct

from everstep.core.starting import first_event
from everstep.journal import Reader
from everstep.records import Micros, RunKey, RunRecord, Status
from everstep.stores.base import NewRun


@dataclass(slots=True)
class Facts:
    """What a driver knows of its run besides the journal.

    Attributes:
        run_key: The run.
        run_id: Its id.
        epoch: The fencing token under which it was claimed: not what a replay that was broken off has seen last.
        version: Of the newest entry that is known to have landed.
        hash: Of that entry.
        status: As of that entry: running, or compensating.
        at: Of that entry.
        step: Name of the step that was asked for last, as of that entry.
        cursor: How many were.
        consumed: The inbox was consumed up to here when the run was claimed.
        deadline_at: The run's own time limit.
        has_parent: Another run started it.
        family: Id of the run at the top of its family; empty if that is this one.
        queue: Name of its queue; empty for none.
        create: What makes the run exist, until its first entry has landed.
        created: Bytes of its first event list.
    """

    run_key: RunKey
    run_id: str
    epoch: int
    version: int = 0
    hash: bytes = bytes(32)
    at: Micros = 0
    step: str = ""
    cursor: int = 0
    consumed: int = 0
    deadline_at: Micros | None = None
    has_parent: bool = False
    family: str = ""
    queue: str = ""
    create: NewRun | None = field(default=None, repr=False)
    status: Status = Status.RUNNING
    created: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, run: RunRecord) -> Facts:
        """The facts of a run that was claimed; its time limit is read from the journal once that has been verified."""
        return cls(
            run_key=run.run_key,
            run_id=run.run_id,
            epoch=run.epoch,
            version=run.version,
            hash=run.hash,
            at=run.updated_at,
            step=run.step,
            cursor=run.cursor,
            consumed=run.inbox_done,
            has_parent=run.parent_key is not None,
            family=run.family,
            queue=run.queue,
            status=run.status,
            created=run.created,
        )

    def token(self, reader: Reader) -> str:
        """What no other run ever has: its key is never given to another run of this store, its salt to none of any store.

        A store that was put back to an older state gives out keys again, and a fork has the salt of the run that it forked.
        """
        salt = bytes.fromhex(first_event(self.created, reader).salt)
        return blake2b(str(self.run_key).encode(), key=salt, digest_size=16, person=b"witness").hexdigest()


class Ended(Struct, frozen=True, gc=False):
    """How a run came to rest here: what is needed to answer whoever waits for it.

    Attributes:
        run_id: The run.
        status: At rest, or paused.
        step: The step it last asked for.
        outcome: Bytes of the event list that ended it.
    """

    run_id: str
    status: Status
    step: str
    outcome: bytes | None
