"""
The store of a simulation: the reference store, looked at after every operation.

The auditor keeps a story of each run, and asks every invariant about every change. It takes its own note of leases and of what
was proved dead, so that a takeover is judged by what happened and not by what the store remembers of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from everstep.events import ChildRefused, ChildStarted, Event, decode_event
from everstep.journal import Entry
from everstep.records import NO_PROFILE, BodyKind, Message, Micros, Pulse, RunKey, RunRecord, Status, WorkerKey, WorkerProfile
from everstep.stores.base import (
    ANY_BODY,
    Append,
    ClaimRequest,
    Claims,
    Created,
    Exists,
    Fenced,
    Keep,
    Landed,
    NewRun,
    Outcome,
    RolledBack,
    Settlement,
    Slot,
    TransactionBody,
    Woken,
    Write,
)
from everstep.stores.memory import MemoryStore
from everstep.stores.pruning import Pruned, PruneRequest
from everstep.testing.simulation import invariants
from everstep.testing.simulation.kernel import STARTED_AT, Kernel
from everstep.testing.simulation.story import Change, Story
from everstep.testing.simulation.tables import Tables


class Lease:
    """What the auditor knows of a worker."""

    def __init__(self, at: Micros, seconds: float) -> None:
        self.renewed_at = at
        self.seconds = seconds
        self.is_proved_dead = self.was_killed = False

    def holds(self, now: Micros) -> bool:
        """Nobody may take its runs."""
        return not (self.is_proved_dead or self.was_killed) and now - self.renewed_at <= self.seconds * 1e6


class Database(MemoryStore):
    """See the module.

    Attributes:
        stories: What the journals say, by run.
        shift: How far the store's clock was set, microseconds.
        operation_count: How many operations were looked at.
        pruned: Runs that were forgotten.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(self._wall, lambda: kernel.now / 1e6)
        self.kernel = kernel
        self.shift: Micros = 0
        self.stories: dict[RunKey, Story] = {}
        self.operation_count = 0
        self.pruned: set[RunKey] = set()
        self.tampered: set[RunKey] = set()
        self.tables = Tables(kernel)
        self._tables = self.tables
        self._known: dict[RunKey, RunRecord] = {}
        self._leases: dict[WorkerKey, Lease] = {}
        self._writer: dict[RunKey, WorkerKey] = {}

    def _wall(self) -> Micros:
        return STARTED_AT + self.kernel.now + self.shift

    # --- operations ---------------------------------------------------------------------------------------------------------

    async def enlist(self, name: str, lease_seconds: float, profile: WorkerProfile = NO_PROFILE) -> WorkerKey:
        worker_key = await super().enlist(name, lease_seconds, profile)
        self._leases[worker_key] = Lease(self.kernel.now, lease_seconds)
        return worker_key

    async def heartbeat(self, worker_key: WorkerKey) -> Pulse:
        pulse = await super().heartbeat(worker_key)
        is_alive = pulse is not Pulse.GONE
        lease = self._leases[worker_key]
        if is_alive and lease.is_proved_dead:
            self.kernel.blame(f"I2: worker {worker_key} renewed its lease after it was proved dead")
        if is_alive:
            lease.renewed_at = self.kernel.now
        else:
            self.kernel.seen["renewals refused"] += 1
        self._audit("heartbeat")
        return pulse

    async def retire(self, worker_key: WorkerKey) -> None:
        await super().retire(worker_key)
        if worker_key in self._leases:
            self._leases[worker_key].is_proved_dead = True
        self._audit("retire")

    def kill(self, worker_key: WorkerKey) -> None:
        if worker_key in self._workers:
            super().kill(worker_key)
        self._leases[worker_key].was_killed = True

    async def create(self, runs: Sequence[NewRun]) -> list[Created | Exists]:
        answers = await super().create(runs)
        self.kernel.seen["starts that joined"] += sum(isinstance(each, Exists) for each in answers)
        self._audit("create")
        return answers

    async def commit(self, batch: Sequence[Write]) -> list[Outcome]:
        versions = {key: run.record.version for key, run in self._runs.items()}
        outcomes = await super().commit(batch)
        for write, outcome in zip(batch, outcomes, strict=True):
            self._note_write(write, outcome, versions)
        self._audit("commit")
        return outcomes

    async def transact(self, slot: Slot, body: TransactionBody, kind: BodyKind = ANY_BODY) -> Outcome | RolledBack:
        made: list[Append] = []

        async def noted(tx: Any) -> Append | None:
            append = await body(tx)
            made.extend([append] if append is not None else [])
            return append

        def landed(write: Append) -> None:
            self._writer[slot.run_key] = slot.worker_key
            self._land(write)
            self._audit("transact")

        outcome = await self.tables.transact(noted, lambda: self._look(slot), self._answer, landed)
        match outcome:
            case RolledBack():
                self.kernel.seen["transactions rolled back by their body"] += 1
            case Landed() if not made:
                self.kernel.seen["transactions found landed"] += 1
            case Fenced() if made:
                self.kernel.seen["transactions rolled back by the fence"] += 1
            case _:
                pass
        self.kernel.note(f"store transact {slot.run_key} v{slot.version} e{slot.epoch}: {type(outcome).__name__}")
        return outcome

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        before = await super().get(run_id)
        run = await super().post(run_id, message)
        if run is not None and before is not None and run.inbox_seq == before.inbox_seq:
            self.kernel.seen["messages refused at rest" if run.status.is_at_rest else "duplicates joined"] += 1
        self.kernel.note(f"store post to {run_id} {message.dedupe}: {run and run.inbox_seq} {run and run.status}")
        self._audit("post")
        return run

    async def settle(self, settlement: Settlement) -> RunRecord | None:
        run = await super().settle(settlement)
        self.kernel.note(f"store settle {settlement.run_key} v{settlement.version} {settlement.status}: {run is not None}")
        self.kernel.seen["settlements"] += run is not None
        self.kernel.seen["settlements that came too late"] += run is None
        self._audit("settle")
        return run

    async def claim(self, request: ClaimRequest) -> Claims:
        owners = {key: run.record.worker_key for key, run in self._runs.items()}
        claims = await super().claim(request)
        for claimed in claims.runs:
            self._judge_claim(request, claimed.run, owners[claimed.run.run_key])
        self.kernel.seen["claimed alone"] += sum(claimed.alone for claimed in claims.runs)
        self.kernel.seen["given up as poison"] += len(claims.died)
        # Whoever lost a run to this claim has been proved dead with it.
        for owner in set(owners.values()):
            if owner is not None and owner != request.worker_key and not self._is_alive(owner):
                self._leases[owner].is_proved_dead = True
        if claims.runs or claims.died:
            taken = ", ".join(f"{each.run.run_id} e{each.run.epoch}" for each in claims.runs)
            self.kernel.note(f"store claim by {request.worker_key}: {taken} died {list(claims.died)}")
        self._audit("claim")
        return claims

    async def wake(self, run_id: str, message: Message, request: ClaimRequest) -> Woken:
        before = self._find(run_id)
        owner = None if before is None else before.record.worker_key
        woken = await super().wake(run_id, message, request)
        if woken.claimed is not None:
            self.kernel.seen["runs woken by their sender"] += 1
            self._judge_claim(request, woken.claimed.run, owner)
        self.kernel.note(
            f"store wake {run_id} {message.dedupe}: {woken.run and woken.run.inbox_seq} {woken.claimed is not None}"
        )
        self._audit("wake")
        return woken

    async def prune(self, request: PruneRequest) -> Pruned:
        before = dict(self._runs)
        pruned = await super().prune(request)
        gone = set(before) - set(self._runs)
        for key in gone:
            if not before[key].record.status.is_at_rest:
                self.kernel.blame(f"I15: run {before[key].record.run_id} was pruned while it was {before[key].record.status}")
            del self._known[key]
        self.pruned |= gone
        self.kernel.seen["runs pruned"] += len(gone)
        self._audit("prune")
        return pruned

    # --- what is asked ------------------------------------------------------------------------------------------------------

    def _judge_claim(self, request: ClaimRequest, run: RunRecord, owner: WorkerKey | None) -> None:
        kernel = self.kernel
        if owner is not None:
            kernel.seen["takeovers"] += 1
            lease = self._leases[owner]
            if owner != request.worker_key and lease.holds(kernel.now):
                kernel.blame(f"I2: run {run.run_id} was taken from worker {owner}, whose lease holds")
        codes = request.versions.get((run.workflow, run.pinned)) if run.pinned else request.workflows.get(run.workflow)
        if codes is None:
            kernel.blame(
                f"I22: worker {request.worker_key} was given run {run.run_id} of {run.workflow} {run.pinned}, unknown to it"
            )
        elif {*codes.split()} <= {*run.refused_by.split()}:
            kernel.blame(f"I22: run {run.run_id} was given to code that has refused it")

    def _note_write(self, write: Write, outcome: Outcome, versions: dict[RunKey, int]) -> None:
        kernel, name = self.kernel, type(outcome).__name__
        kernel.seen[name] += 1
        if isinstance(write, Keep):
            if isinstance(outcome, Landed):
                self._writer[write.run_key] = write.worker_key
            kernel.note(f"store keep {write.run_key} e{write.epoch} rows {len(write.attempts)} release {write.release}: {name}")
            return
        key, version = write.entry.run_key, write.entry.version
        kernel.note(f"store append {key} v{version} e{write.entry.epoch} {write.status} {write.entry.hash.hex()[:12]}: {name}")
        if isinstance(outcome, Landed):
            self._writer[key] = write.worker_key
            if version <= versions.get(key, 0):
                kernel.seen["ambiguous commits that had landed"] += 1
                stored = self._runs[key].entries[version - 1].hash if key in self._runs else b""
                if stored != write.entry.hash:
                    kernel.blame(f"I1: entry {version} of run {key} is said to have landed, and another one is there")
        elif key in versions and isinstance(outcome, Fenced):
            kernel.seen["fenced writes"] += 1

    def _audit(self, verb: str) -> None:
        """Ask about everything that changed."""
        self.operation_count += 1
        born: list[tuple[RunKey, ChildStarted]] = []
        for key, run in self._runs.items():
            known = self._known.get(key)
            if known is not run.record:
                self._known[key] = run.record
                events = self._ask(verb, known, run.record, run.entries, run.inbox, frozenset(run.attempts))
                born += [(key, event) for event in events if isinstance(event, ChildStarted)]
        for parent_key, started in born:
            self._ask_for_child(parent_key, started)
        self._writer.clear()

    def _ask(
        self,
        verb: str,
        before: RunRecord | None,
        after: RunRecord,
        entries: Sequence[Entry],
        inbox: Sequence[Message],
        rows: frozenset[str],
    ) -> list[Event]:
        if after.run_key in self.tampered:
            return []
        added = entries[before.version if before else 0 :]
        events: list[list[Event]] = [each.decoded() for each in added]
        by = self._writer.get(after.run_key) if verb in ("commit", "transact") else None
        change = Change(verb, before, after, added, events, by, inbox, rows, self.now())
        story = self.stories.setdefault(after.run_key, Story(after.run_id))
        for name, question in invariants.BEFORE:
            self._blame(name, after.run_id, question(change, story))
        for each in events:
            story.tell(each)
            for event in each:
                self.kernel.seen[type(event).__name__] += 1
        for name, question in invariants.AFTER:
            self._blame(name, after.run_id, question(change, story))
        if after.parent_key is not None and before is None:
            parent = self.stories.get(after.parent_key)
            if parent is None or (after.parent_command, after.run_id) not in parent.children:
                self.kernel.blame(f"I13: run {after.run_id} is a child, and its parent's journal does not say so")
        return change.all_events

    def _ask_for_child(self, parent_key: RunKey, started: ChildStarted) -> None:
        """I13: the child of a command is there, or its parent is told why not."""
        child = self._find(started.run_id)
        if child is not None and (child.record.parent_key, child.record.parent_command) == (parent_key, started.key):
            return
        told = [decode_event(each.event) for each in self._runs[parent_key].inbox]
        if not any(isinstance(event, ChildRefused) and event.key == started.key for event in told):
            self.kernel.blame(f"I13: run {parent_key} started {started.run_id}, which is not there, and was not told")

    def _blame(self, name: str, run_id: str, problems: Any) -> None:
        for problem in problems:
            self.kernel.blame(f"{name}: run {run_id}: {problem}")

    def run_of(self, run_id: str) -> RunRecord | None:
        """A run as it is now, without a verb."""
        run = self._find(run_id)
        return None if run is None else run.record

    def all_runs(self) -> list[RunRecord]:
        """All of them, in the order in which they were made."""
        return [run.record for run in self._runs.values()]

    def journal_of(self, run_key: RunKey) -> list[Entry]:
        """A journal, without a verb."""
        return list(self._runs[run_key].entries)

    def inbox_of(self, run_key: RunKey) -> list[Message]:
        """An inbox, without a verb."""
        return list(self._runs[run_key].inbox)

    def damage(self, run_id: str, place: float) -> bool:
        """Flip a bit of the newest entry of a run that nobody drives and that is not over. Whether there was one."""
        run = self._find(run_id)
        if run is None or run.record.worker_key is not None or run.record.status is not Status.WAITING or not run.entries:
            return False
        entry = run.entries[-1]
        index = int(place * len(entry.events))
        flipped = entry.events[:index] + bytes([entry.events[index] ^ 1]) + entry.events[index + 1 :]
        run.entries[-1] = replace(entry, events=flipped)
        self.tampered.add(run.record.run_key)
        self.kernel.seen["journals damaged"] += 1
        return True
