"""What the conformance suite acts with: clocks that it turns by hand, and short ways to say what it does to a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from everstep.events import Event, RunCreated, RunSucceeded, StepCompleted, encode_event, encode_events
from everstep.journal import GENESIS, seal, verify_chain
from everstep.records import ErrorRecord, Message, RunKey, RunRecord, Status, WorkerKey
from everstep.stores.base import (
    RUN_KEYS_PER_WORKER,
    Append,
    Claimed,
    ClaimRequest,
    Claims,
    Created,
    Keep,
    Landed,
    NewRun,
    Outcome,
    RunFilter,
    Settlement,
    Store,
    Write,
)
from everstep.stores.pruning import Kept, Pruned, PruneRequest, TrimRequest

WORKFLOW = "checkout"
CODE = "code-1"
LEASE_SECONDS = 15.0
SUCCESS = RunSucceeded(Raw(b'"paid"'))
ERROR = ErrorRecord("builtins.ValueError", "no")


class Clocks:
    """A wall clock and a monotonic clock that only move when told."""

    def __init__(self) -> None:
        self._now = 1_700_000_000_000_000
        self._monotonic = 1_000.0

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += round(seconds * 1e6)
        self._monotonic += seconds


class Scene:
    """A store, its clocks, and the verbs of the suite."""

    def __init__(self, store: Store, clocks: Clocks) -> None:
        self.store = store
        self.clocks = clocks
        self.pruner: Store | None = None
        self._handed_out = 0

    # --- workers and claims -------------------------------------------------------------------------------------------

    async def worker(self, name: str = "host:1", lease_seconds: float = LEASE_SECONDS) -> WorkerKey:
        """Enlist a worker."""
        return await self.store.enlist(name, lease_seconds)

    async def claim(
        self, worker_key: WorkerKey, run_max: int = 10, *, workflows: Mapping[str, str] | None = None, **more: Any
    ) -> Claims:
        """Claim what there is, with the code that the suite's runs were written for. ``more`` goes into the request."""
        known = {WORKFLOW: CODE} if workflows is None else workflows
        return await self.store.claim(ClaimRequest(worker_key=worker_key, workflows=known, run_max=run_max, **more))

    async def claim_one(self, worker_key: WorkerKey, **more: Any) -> Claimed:
        """Claim the only run there is to claim."""
        (claimed,) = (await self.claim(worker_key, **more)).runs
        return claimed

    async def owned(
        self, worker_key: WorkerKey, run_id: str = "order-1", *, versions: Mapping[tuple[str, str], str] = {}, **fields: Any
    ) -> RunRecord:
        """A new run that the worker has claimed."""
        await self.create(run_id, **fields)
        return (await self.claim_one(worker_key, versions=versions)).run

    # --- runs ---------------------------------------------------------------------------------------------------------

    async def create(self, run_id: str = "order-1", **fields: Any) -> RunRecord:
        """Create a queued run that is new."""
        (answer,) = await self.store.create([new_run(run_id, **fields)])
        assert isinstance(answer, Created)
        return answer.run

    async def family(self, worker_key: WorkerKey, **fields: Any) -> RunRecord:
        """A parent that the worker owns, with a queued child."""
        parent = await self.owned(worker_key)
        return await self.landed(self.append(parent, children=(new_run("child", parent_command="0:1", **fields),)))

    async def run(self, run_id: str = "order-1") -> RunRecord:
        """A run that exists."""
        run = await self.store.get(run_id)
        assert run is not None
        return run

    def run_key(self, worker_key: WorkerKey) -> RunKey:
        """A run key that the worker hands out."""
        self._handed_out += 1
        return worker_key * RUN_KEYS_PER_WORKER + self._handed_out

    def first(self, worker_key: WorkerKey, run_id: str = "order-1", **fields: Any) -> Append:
        """The write that creates a run which the worker owns from its first entry."""
        events = fields.pop("events", [created_event(run_id)])
        entry = seal(GENESIS, self.run_key(worker_key), 1, 1, self.store.now(), True, events)
        status = fields.pop("status", Status.RUNNING)
        create = new_run(run_id, messages=fields.pop("messages", ()), queue=fields.pop("queue", ""))
        return Append(entry=entry, worker_key=worker_key, status=status, create=create, **fields)

    def append(self, run: RunRecord, *events: Event, **fields: Any) -> Append:
        """The next entry of a run, by its owner unless told otherwise."""
        version, epoch = fields.pop("version", run.version + 1), fields.pop("epoch", run.epoch)
        at = max(run.updated_at, self.store.now())
        entry = seal(run.hash, run.run_key, version, epoch, at, True, events or [step_completed()])
        worker_key, status = fields.pop("worker_key", run.worker_key or 0), fields.pop("status", Status.RUNNING)
        return Append(entry=entry, worker_key=worker_key, status=status, **fields)

    async def settle(self, run: RunRecord, *events: Event, status: Status, wake_at: int | None = None) -> RunRecord | None:
        """Write what an operator decided about a run that was seen like this."""
        return await self.store.settle(
            Settlement(run_key=run.run_key, version=run.version, events=encode_events(events), status=status, wake_at=wake_at)
        )

    def keep(self, run: RunRecord, **fields: Any) -> Keep:
        """A write of the owner without an entry."""
        worker_key = fields.pop("worker_key", run.worker_key or 0)
        return Keep(run_key=run.run_key, worker_key=worker_key, epoch=fields.pop("epoch", run.epoch), **fields)

    async def commit(self, *writes: Write) -> list[Outcome]:
        """Commit one batch."""
        return await self.store.commit(writes)

    async def landed(self, write: Append) -> RunRecord:
        """Commit one write that must land; the run after it."""
        outcomes = await self.store.commit([write])
        assert [Landed()] == outcomes
        (run,) = [run for run in await self.store.list(RunFilter(limit=1000)) if run.run_key == write.entry.run_key]
        return run

    async def rest(self, run: RunRecord, ending: Event, status: Status) -> RunRecord:
        """End a run."""
        return await self.landed(self.append(run, ending, status=status, consumed=run.inbox_seq))

    async def prune(self, request: PruneRequest) -> Pruned:
        """Forget runs, with the rights of somebody who may."""
        return await (self.pruner or self.store).prune(request)

    async def trim(self, run: RunRecord, before: int, **fields: Any) -> int | Kept:
        """Forget entries of closed segments, with the same rights."""
        return await (self.pruner or self.store).trim(TrimRequest(run_key=run.run_key, before=before, **fields))

    async def parent_and_child(self, worker_key: WorkerKey) -> tuple[RunRecord, RunRecord]:
        """A parent and its child, both at work."""
        parent = await self.owned(worker_key, "parent")
        parent = await self.landed(self.append(parent, children=(new_run("child", parent_command="0:1"),)))
        return parent, (await self.claim_one(worker_key)).run

    def old(self, **fields: Any) -> PruneRequest:
        """Ask for all runs at rest whose newest entry is not of this instant."""
        at_rest = tuple(status for status in Status if status.is_at_rest)
        asked: dict[str, Any] = {"ended_before": self.store.now(), "statuses": at_rest, **fields}
        return PruneRequest(**asked)

    # --- what is checked after every test -------------------------------------------------------------------------------

    async def verify(self) -> None:
        """P2: every journal is whole and ends where its run says."""
        for run in await self.store.list(RunFilter(limit=1000)):
            entries = await self.store.load(run.run_key)
            verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
            assert run.version == entries[-1].version
            assert run.epoch == max(entry.epoch for entry in entries)


def created_event(run_id: str) -> RunCreated:
    """The first event of a run."""
    return RunCreated(run_id=run_id, workflow=WORKFLOW, code_version=CODE, args=Raw(b"[]"), salt="00", python="3.11")


def new_run(run_id: str = "order-1", workflow: str = WORKFLOW, **fields: Any) -> NewRun:
    """A run to create."""
    created = encode_events([created_event(run_id)])
    return NewRun(run_id=run_id, workflow=workflow, code_version=CODE, created=created, **fields)


def step_completed(key: str = "0:1") -> StepCompleted:
    """Some progress."""
    return StepCompleted(key, Raw(b"1"))


def message(event: Event, dedupe: str = "") -> Message:
    """Something to post."""
    return Message(event=encode_event(event), dedupe=dedupe)


def ids(runs: Sequence[RunRecord]) -> list[str]:
    """Their run ids."""
    return [run.run_id for run in runs]
