"""
The memory store, the SQLite store and the PostgreSQL store, driven by the same random verbs under the same clocks, give the
same answers and are in the same state after every one of them.

The driver is biased, not uniform: it mostly does what an engine does, and now and then what a zombie, a late duplicate or a
confused caller does. It goes on until every kind of write has had every outcome that it can have; that list is asserted, so a
driver that no longer reaches some corner fails.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from everstep.blobs import BLOB_BYTES_MIN
from everstep.errors import IllegalState
from everstep.events import (
    Event,
    RunDied,
    RunFailed,
    RunPaused,
    RunSucceeded,
    StepCompleted,
    TimerFired,
    decode_event,
    encode_event,
    encode_events,
)
from everstep.journal import GENESIS, seal, verify_chain
from everstep.limits import Limits, QueueChange
from everstep.records import AttemptRecord, ErrorRecord, Message, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import Append, ClaimRequest, Claims, Keep, NewRun, Post, Reply, RunFilter, Store, Write
from everstep.stores.memory import MemoryStore
from everstep.stores.pruning import Kept, PruneRequest, TrimRequest
from everstep.stores.sqlite import SQLiteStore
from everstep.testing.scene import Clocks
from tests import evidence

STEPS_MIN, STEPS_MAX = 500, 8000
RUNS_MAX = 150
WORKFLOWS: tuple[str, ...] = ("checkout", "refund")
CODES = ("code-1", "code-2")
VERSIONS = ("v1", "v2")
POLICIES = ("cancel", "abandon", "wait", "")
QUEUES = ("mail", "sms", "fax")
LIMITS = (
    Limits(concurrency=2),
    Limits(concurrency=3, per_key=1),
    Limits(per_key=2, per_worker=2),
    Limits(rate=(2, 30.0), per_worker=2),
    Limits(),
)
SEEN_AT_LEAST = {
    *(f"append:{outcome}" for outcome in ("Landed", "Fenced", "TooEarly", "Refused")),
    *(f"create:{outcome}" for outcome in ("Landed", "Fenced", "Exists", "Refused", "Behind")),
    *(f"keep:{outcome}" for outcome in ("Landed", "Fenced", "Behind", "Refused")),
    *(f"end:{outcome}" for outcome in ("Landed", "Fenced", "Behind")),
    *(f"park:{outcome}" for outcome in ("Landed", "Fenced", "Behind")),
    *("pause:Landed", "repeat:Landed", "repeat:Fenced"),
    *("queue:Created", "queue:Exists"),
    *("post:accepted", "post:duplicate", "post:resting", "post:nobody"),
    *("wake:claimed", "wake:posted"),
    *("claim:pinned", "claim:family", "claim:admitted", "claim:queue again", "claim:queue orphan", "claim:full queue"),
    *("queue:twin", "queues:paused", "queues:changed", "queues:opens later"),
    *("claim:nothing", "claim:due", "claim:orphan", "claim:alone", "claim:died", "claim:suspects wait"),
    *("prune:some", "prune:nothing", "prune:PARENT", "prune:CHILD"),
    *("heartbeat:alive", "heartbeat:draining", "heartbeat:", "drain:True", "drain:False"),
    *("trim:some", "trim:nothing", "trim:FORK", "fork:Created", "fork:Exists", "fork:IllegalState"),
    *("message:ChildRefused", "message:ChildAccepted", "claim:left children", "outcome:child", "outcome:again"),
}


class Driver:
    """Does the same to all stores, and compares."""

    def __init__(self, stores: Sequence[Store], clocks: Clocks, seed: int) -> None:
        self.stores = stores
        self.clocks = clocks
        self.random = random.Random(seed)
        self.seen: set[str] = set()
        self.run_ids: list[str] = []
        self.workers: list[WorkerKey] = []
        self.handed_out = 0
        self.old_writes: list[Append] = []
        self.old_runs: list[RunRecord] = []
        self.latest: list[RunRecord] = []

    async def all(self, verb: str, *arguments: Any) -> Any:
        """The answer that all give."""
        expected, *answers = [self.comparable(await getattr(store, verb)(*arguments)) for store in self.stores]
        for store, answer in zip(self.stores[1:], answers, strict=True):
            assert expected == answer, f"{verb} of {store.url}"
        return expected

    def comparable(self, answer: Any) -> Any:
        """When to look again may differ in two ways, neither of which makes anybody look too late.

        Which of several runs that are due now is the next one; and whether a run that this claim let in from a line still
        counts as one for which the line opens (PostgreSQL knows better, the others look once more).
        """
        if not isinstance(answer, Claims) or answer.next_due_at is None:
            return answer
        if any(each.run.queue for each in answer.runs):
            return replace(answer, next_due_at=None)
        return replace(answer, next_due_at=max(answer.next_due_at, self.clocks.now()))

    async def step(self) -> None:
        """One random act, and a comparison of everything that can be seen."""
        # Everything is compared after every act, so there should not be too many runs: then more are pruned than come.
        some = self.queue if len(self.latest) < RUNS_MAX else self.prune
        often = (some, *(self.claim,) * 2, *(self.write,) * 3, self.post, self.wake, self.live, self.die_alone)
        acts = (*often, *often, *often, self.prune, self.trim, self.fork, self.configure)
        await self.random.choice(acts)()
        self.clocks.advance(self.random.choice((0, 0.001, 0.001, 1)))
        await self.compare()

    async def compare(self) -> None:
        """All that the stores show is equal."""
        runs = await self.all("list", RunFilter(limit=1000))
        self.latest = runs
        await self.all("workers")
        for worker_key in self.workers[-6:]:
            for _, messages in await self.all("pull", worker_key):
                for each in messages:
                    self.note("message", decode_event(each.event).__class__.__name__)
                    self.note("outcome", each.dedupe.partition(":")[0])
        for run in self.random.sample(runs, min(3, len(runs))):
            await self.all("get", run.run_id)
            await self.all("mail", run.run_key, self.random.choice((0, 0, 2)), self.random.choice(("", "", "a", "gone")))
            entries = await self.all("load", run.run_key)
            await self.all("attempts", run.run_key)
            verify_chain(entries, run_key=run.run_key, run_id=run.run_id, head=run.hash)
        for queue in await self.all("queues"):
            if queue.opens_at is not None:
                self.note("queues", "opens later")
        await self.all("list", RunFilter(queue="mail", queue_key="a", limit=1000))
        await self.all("list", RunFilter(queue=self.random.choice(QUEUES), is_admitted=True, limit=3))
        trouble = RunFilter(statuses=(Status.DEAD, Status.PAUSED), before=runs[0].run_key if runs else None, limit=5)
        await self.all("list", trouble)

    # --- acts ---------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Workers come, renew, leave and die."""
        act = self.random.choice(("enlist", "heartbeat", "retire", "kill", "kill", "kill", "freeze", "drain"))
        if act == "enlist" or not self.workers:
            self.workers.append(await self.all("enlist", f"host:{len(self.workers)}", 15.0))
            return
        worker_key = self.random.choice(self.workers[-6:])
        if act == "heartbeat":
            self.note("heartbeat", await self.all("heartbeat", worker_key))
        elif act == "retire":
            await self.all("retire", worker_key)
        elif act == "drain":
            self.note("drain", await self.all("drain", worker_key))
            self.note("heartbeat", await self.all("heartbeat", worker_key))
        elif act == "freeze":
            self.clocks.advance(16)
            for other in self.workers[-3:]:
                await self.all("heartbeat", other)
        elif any(each.worker_key == worker_key and each.alive for each in await self.stores[0].workers()):
            await self.kill(worker_key)

    async def die_alone(self) -> None:
        """A worker is given one run and dies of it, perhaps; the run may have had a child before."""
        worker_key = await self.all("enlist", f"host:{len(self.workers)}", 15.0)
        self.workers.append(worker_key)
        known = dict.fromkeys(WORKFLOWS, "code-1")
        claims = await self.all("claim", ClaimRequest(worker_key=worker_key, workflows=known, run_max=1, alone=True))
        for claimed in claims.runs:
            if self.random.random() < 0.5:
                write = self.an_append("append", claimed.run, [claimed.run])
                child_id = f"{claimed.run.run_id}/{write.cursor}"
                child = replace(self.new_run(child_id, parent_command=f"0:{write.cursor}"), on_parent_close="cancel")
                await self.all("commit", [replace(write, children=(child,))])
        await self.kill(worker_key)

    async def kill(self, worker_key: WorkerKey) -> None:
        for store in self.stores:
            if isinstance(store, MemoryStore | SQLiteStore):
                store.kill(worker_key)
            else:
                await store.kill(worker_key)  # type: ignore[attr-defined]

    async def queue(self) -> None:
        """Runs are started elsewhere."""
        wake_at = self.random.choice((None, None, self.clocks.now() + 2_000_000))
        messages = self.some_messages()
        runs = [self.new_run(self.some_id(), wake_at=wake_at, messages=messages) for _ in range(self.random.randint(1, 2))]
        for new, answer in zip(runs, await self.all("create", runs), strict=True):
            self.note("queue", type(answer).__name__)
            if answer.run.run_id != new.run_id:
                self.note("queue", "twin")

    async def configure(self) -> None:
        """Somebody changes what a queue allows."""
        declared, changed = (self.random.choice((None, *LIMITS)) for _ in range(2))
        paused = self.random.choice((None, True, *[False] * 8))
        name = self.random.choice(QUEUES)
        queue = await self.all(
            "configure", QueueChange(name=name, declared=declared, changed=changed, paused=paused, actor="ann", why="so")
        )
        for what, found in (("paused", queue.is_paused), ("changed", queue.changed is not None)):
            if found:
                self.note("queues", what)

    async def prune(self) -> None:
        """Some of the runs at rest are forgotten."""
        statuses = tuple(status for status in Status if status.is_at_rest and self.random.random() < 0.8)
        before = self.clocks.now() - self.random.choice((0, 0, 100_000_000))
        request = PruneRequest(ended_before=before, statuses=statuses, limit=self.random.randint(1, 5))
        foreseen = await self.all("prune", replace(request, dry_run=True))
        pruned = await self.all("prune", request)
        assert foreseen.kept.keys() >= pruned.kept.keys()
        self.note("prune", "some" if pruned.run_count else "nothing")
        for reason in pruned.kept:
            self.note("prune", reason.name)

    async def trim(self) -> None:
        """Of a run whose code has begun again, perhaps, closed segments are forgotten."""
        long = [run for run in self.latest if run.base > 1] or self.latest
        run = self.random.choice(long) if long else None
        if run is not None:
            before = self.random.choice((run.base, run.base, run.base - 1, run.base + 1, 2))
            request = TrimRequest(run_key=run.run_key, before=before)
            foreseen = await self.all("trim", replace(request, dry_run=True))
            gone = await self.all("trim", request)
            assert foreseen == gone
            self.note("trim", gone.name if isinstance(gone, Kept) else "some" if gone else "nothing")

    async def fork(self) -> None:
        """A run that shares the history of another one, which may have been pruned."""
        run = self.random.choice(self.old_runs) if self.old_runs else None
        if run is not None:
            at = self.random.choice((1, 2, self.random.randint(1, run.version)))
            new = self.new_run(self.some_id(), forked_from=run.run_key, forked_at=at)
            answers = [await self.answer_to(store, new) for store in self.stores]
            assert answers[:1] * len(answers) == answers
            self.note("fork", answers[0][0])

    async def answer_to(self, store: Store, new: NewRun) -> tuple[str, object]:
        try:
            [answer] = await store.create([new])
        except IllegalState as error:
            return "IllegalState", str(error)
        return type(answer).__name__, answer.run

    async def post(self) -> None:
        """A message from outside."""
        run_id = self.random.choice([*self.run_ids, "nobody"])
        before = await self.stores[0].get(run_id)
        after = await self.all("post", run_id, self.message(self.random.choice(("", "a", "b"))))
        if before is None or after is None:
            self.note("post", "nobody")
        elif before.status.is_at_rest:
            self.note("post", "resting")
        else:
            self.note("post", "accepted" if after.inbox_seq > before.inbox_seq else "duplicate")

    async def wake(self) -> None:
        """A message from a worker that has room for the run."""
        if self.workers:
            known = dict.fromkeys(WORKFLOWS, self.random.choice(CODES))
            request = ClaimRequest(worker_key=self.random.choice(self.workers[-4:]), workflows=known, run_max=1)
            parked = [run.run_id for run in self.latest if run.status is Status.WAITING and not (run.pinned or run.queue)]
            run_id = self.random.choice(self.random.choice((self.run_ids, parked)) or ["nobody"])
            text = self.message(self.random.choice(("", "a", "b")))
            woken = await self.all("wake", run_id, text, request)
            self.note("wake", "claimed" if woken.claimed is not None else "posted")

    async def claim(self) -> None:
        """Some worker asks."""
        if not self.workers:
            return
        known = {name: self.random.choice((*CODES, "code-1")) for name in WORKFLOWS[: self.random.choice((1, 2, 2))]}
        alone = self.random.random() < 0.3
        idle = [run.run_id for run in self.latest if run.worker_key is None and run.wake_at is not None]
        worker_key, run_max = self.random.choice(self.workers[-4:]), self.random.choice((0, 1, 1, 2, 4))
        request = ClaimRequest(
            worker_key=worker_key,
            workflows={name: " ".join(sorted({code, self.random.choice((code, *CODES))})) for name, code in known.items()},
            run_max=run_max,
            alone=alone,
            versions={(name, self.random.choice(VERSIONS)): code for name, code in known.items() if self.random.random() < 0.7},
            family=self.random.choice(idle) if idle and self.random.random() < 0.1 else "",
            queues=self.random.choice((*[None] * 8, ("mail", "fax"), ("sms", "gone"))),
            turn=self.random.randint(0, 5),
        )
        waited = {run.run_id for run in self.latest if run.is_in_line}
        claims = await self.all("claim", request)
        for claimed in claims.runs:
            self.note("claim", "orphan" if b"RunResumed" in claimed.entries[-1].events else "due")
            if claimed.run.queue:
                what = "queue orphan" if b"RunResumed" in claimed.entries[-1].events else "queue again"
                self.note("claim", "admitted" if claimed.run.run_id in waited else what)
            if claimed.run.pinned:
                self.note("claim", "pinned")
            if request.family:
                self.note("claim", "family")
            if claimed.alone:
                self.note("claim", "alone")
        if waited and not claims.runs and claims.next_due_at is None:
            self.note("claim", "full queue")
        dead = {run.run_key for run in self.latest if run.run_id in claims.died}
        left = [child for child in self.latest if child.parent_key in dead and rules.is_closed_with_parent(child)]
        for what, found in (
            ("left children", left),
            ("nothing", not claims.runs),
            ("died", claims.died),
            ("suspects wait", claims.suspects_wait),
        ):
            if found:
                self.note("claim", what)

    async def write(self) -> None:
        """A batch of writes: of owners, of zombies, repeated, confused."""
        runs = await self.stores[0].list(RunFilter(limit=1000))
        ids = {run.run_key: run.run_id for run in runs}
        batch: list[tuple[str, Write]] = []
        written: set[str] = set()
        for _ in range(self.random.randint(1, 3)):
            made = self.a_write(runs)
            if made is not None and written.isdisjoint(about := whom(made[1], ids)):  # one write per run: the contract
                batch.append(made)
                written |= about
        outcomes = await self.all("commit", [write for _, write in batch])
        for (kind, write), outcome in zip(batch, outcomes, strict=True):
            self.note(kind, type(outcome).__name__)
            if isinstance(write, Append):
                self.old_writes = [*self.old_writes[-30:], write]
        self.old_runs = [*self.old_runs[-30:], *self.random.sample(runs, min(2, len(runs)))]

    # --- what is written ----------------------------------------------------------------------------------------------

    def a_write(self, runs: Sequence[RunRecord]) -> tuple[str, Write] | None:
        """A write of some kind."""
        kind = self.random.choice(("append", "append", "append", "create", "keep", "end", "park", "pause", "repeat"))
        if kind == "create":
            return self.a_first()
        if kind == "repeat":
            return (kind, self.random.choice(self.old_writes)) if self.old_writes else None
        owned = [run for run in runs if run.worker_key is not None]
        pool = owned if owned and self.random.random() < 0.9 else self.old_runs
        if not pool:
            return None
        run = self.random.choice(pool)
        run = replace(run, worker_key=run.worker_key or self.random.choice([*self.workers, 1]))
        return kind, self.a_keep(run) if kind == "keep" else self.an_append(kind, run, owned)

    def an_append(self, kind: str, run: RunRecord, current: Sequence[RunRecord]) -> Append:
        consumed = run.inbox_seq if self.random.random() < 0.6 else 0
        wake_at = self.random.choice((None, self.clocks.now(), self.clocks.now() + 1_500_000))
        key = f"0:{run.cursor}"
        fields: dict[str, Any] = {"status": self.random.choice((Status.RUNNING, Status.COMPENSATING))}
        event: Event = TimerFired(key)
        if kind == "end":
            event, status = self.random.choice(
                (
                    (RunSucceeded(Raw(b"1")), Status.SUCCEEDED),
                    (RunFailed(ErrorRecord("E", "x")), Status.FAILED),
                    (RunDied("worn"), Status.DEAD),
                )
            )
            fields = {"status": status}
        elif kind == "park":
            fields = {"status": self.random.choice((Status.WAITING, Status.QUEUED)), "release": True, "wake_at": wake_at}
        elif kind == "pause":
            code = self.random.choice(("", *CODES))
            event, fields = RunPaused("no", code), {"status": Status.PAUSED, "refused_by": code}
        elif self.random.random() < 0.1:
            fields["not_before"] = self.clocks.now() + self.random.choice((-1, 500_000))
        elif self.random.random() < 0.1:
            event = StepCompleted(key, Raw(b'"' + self.random.choice((b"a", b"b")) * BLOB_BYTES_MIN + b'"'))
        if kind == "end" and self.random.random() < 0.5:
            fields["seen"] = run.inbox_seq
        fields["begins_segment"] = self.random.random() < 0.2
        fields |= self.some_effects(run, key)
        # A writer that believes in a stale version and skips ahead could hit the right number with the wrong predecessor. No
        # store notices (P2 trusts an owner's hash); readers do.
        version = run.version + (self.random.choice((1, 1, 1, 1, 1, 1, 0, 9)) if kind == "append" and run in current else 1)
        entry = seal(run.hash, run.run_key, version, run.epoch, max(run.updated_at, self.clocks.now()), True, [event])
        return Append(entry=entry, worker_key=run.worker_key or 1, cursor=run.cursor + 1, consumed=consumed, step="s", **fields)

    def some_effects(self, run: RunRecord, key: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.random.random() < 0.2:
            fields["attempts"] = (AttemptRecord(run_key=run.run_key, key=key, attempt=1, details=b"1"),)
        if self.random.random() < 0.2:
            fields["settled"] = (f"0:{run.cursor - 1}", "gone")
        if self.random.random() < 0.2:
            child_id = self.random.choice((f"{run.run_id}/{key}", self.random.choice(self.run_ids)))
            child = self.new_run(child_id, parent_command=key)
            fields["children"] = (replace(child, created=b"\xff") if self.random.random() < 0.1 else child,)
            self.run_ids.append(child_id)
        grown_up = [child for child in self.latest if child.parent_key == run.run_key and child.status.is_at_rest]
        if grown_up and self.random.random() < 0.5:
            # The command is issued again, as after a retry.
            again = self.random.choice(grown_up)
            fields["children"] = (self.new_run(again.run_id, parent_command=again.parent_command),)
        if self.random.random() < 0.2:
            address: Any = self.random.choice(({}, {"parent_key": run.run_key, "parent_command": key}))
            to = self.random.choice((self.some_id(), f"{run.run_id}/{key}"))
            fields["posts"] = (Post(run_id=to, message=self.message(""), **address),)
        if self.random.random() < 0.2:
            fields["replies"] = self.some_replies()
        return fields

    def some_replies(self) -> tuple[Reply, ...]:
        text = b"\xff" if self.random.random() < 0.15 else f'"{self.random.random()}"'.encode()
        return tuple(Reply(self.random.choice(("a", "b", "", "gone")), text) for _ in range(2))

    def a_first(self) -> tuple[str, Write] | None:
        if not self.workers:
            return None
        self.handed_out += 1
        worker_key = self.random.choice(self.workers[-4:])
        key = ((worker_key + self.random.choice((0, 0, 0, 1))) << 32) + self.handed_out
        new = self.new_run(self.some_id(), messages=self.some_messages())
        if new.queue and self.random.random() < 0.95:
            new = replace(new, queue="", queue_key="", priority=0, dedupes=False)
        entry = seal(GENESIS, key, self.random.choice((1, 1, 1, 2)), 1, self.clocks.now(), True, [TimerFired("0:0")])
        consumed = self.random.randint(0, len(new.messages))
        write = Append(entry=entry, worker_key=worker_key, status=Status.RUNNING, create=new, consumed=consumed)
        if self.random.random() < 0.3:
            write = replace(write, status=Status.WAITING, release=True)
        return "create", write

    def some_messages(self) -> tuple[Message, ...]:
        keys = [self.random.choice(("", "a", "b")) for _ in range(self.random.choice((0, 0, 1, 3)))]
        return tuple(self.message(key) for key in keys)

    def a_keep(self, run: RunRecord) -> Keep:
        limit, key = self.random.choice((3, None)), f"0:{run.cursor}"
        row = AttemptRecord(run_key=run.run_key, key=key, attempt=2, failures=1, due_at=5, error=b"{}", failures_max=limit)
        release = self.random.random() < 0.5
        return Keep(
            run_key=run.run_key,
            worker_key=run.worker_key or 1,
            epoch=run.epoch,
            attempts=(row,) if self.random.random() < 0.5 else (),
            replies=self.some_replies() if self.random.random() < 0.5 else (),
            consumed=self.random.choice((0, 0, run.inbox_seq)),
            release=release,
            status=self.random.choice((Status.WAITING, Status.QUEUED)),
            wake_at=self.random.choice((None, self.clocks.now())),
        )

    def new_run(self, run_id: str, **fields: Any) -> NewRun:
        created = encode_events([TimerFired("start")])
        queue = self.random.choice(("", "", "", "", *QUEUES))
        recoveries = self.random.choice((0, 0, 1, 20))
        workflow = self.random.choice(WORKFLOWS)
        return NewRun(
            run_id=run_id,
            workflow=workflow,
            code_version="1",
            created=created,
            max_recoveries=recoveries,
            pinned=self.random.choice((*VERSIONS, "", "", "")),
            family=self.random.choice(("", self.run_ids[0] if self.run_ids else "")),
            on_parent_close=self.random.choice(POLICIES),
            announced=self.random.random() < 0.5,
            queue=queue,
            queue_key=self.random.choice(("", "a", "a", "b")) if queue else "",
            priority=self.random.choice((0, 0, 0, -1, 7)) if queue else 0,
            dedupes=bool(queue) and self.random.random() < 0.2,
            **fields,
        )

    def message(self, dedupe: str) -> Message:
        return Message(event=encode_event(TimerFired("0:1")), dedupe=dedupe)

    def some_id(self) -> str:
        if self.run_ids and self.random.random() < 0.25:
            return self.random.choice(self.run_ids)
        self.run_ids.append(f"order-{len(self.run_ids)}")
        return self.run_ids[-1]

    def note(self, verb: str, outcome: object) -> None:
        self.seen.add(f"{verb}:{outcome}")


@pytest.mark.parametrize("seed", range(evidence.amount(2, 40)))
async def test_memory_and_sqlite_answer_alike_and_stay_alike(tmp_path: Path, clocks: Clocks, seed: int) -> None:
    """Whatever is done to them, in any order; and the driver reaches every corner."""
    await drive((SQLiteStore(tmp_path / "state.db", now=clocks.now, monotonic=clocks.monotonic),), clocks, seed)


@pytest.mark.parametrize("seed", range(evidence.amount(1, 20)))
async def test_postgres_answers_like_them(tmp_path: Path, postgres_url: str, clocks: Clocks, seed: int) -> None:
    """All three: an error in two of them alike is one in the reference."""
    from everstep.stores.postgres import PostgresStore

    postgres = PostgresStore(postgres_url, now=clocks.now, monotonic=clocks.monotonic, empty_seconds=0)
    sqlite = SQLiteStore(tmp_path / "state.db", now=clocks.now, monotonic=clocks.monotonic)
    await drive((sqlite, postgres), clocks, seed)


def whom(write: Write, ids: Mapping[int, str]) -> set[str]:
    """The run that a write is for, by every name it has."""
    key = write.run_key if isinstance(write, Keep) else write.entry.run_key
    names = {str(key), ids.get(key, str(key))}
    return names | {write.create.run_id} if isinstance(write, Append) and write.create is not None else names


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


async def drive(others: Sequence[Store], clocks: Clocks, seed: int) -> None:
    stores = (MemoryStore(now=clocks.now, monotonic=clocks.monotonic), *others)
    for store in stores:
        await store.open()
    driver = Driver(stores, clocks, seed)
    acts = 0
    try:
        while acts < STEPS_MIN or (acts < STEPS_MAX and not driver.seen >= SEEN_AT_LEAST):
            await driver.step()
            acts += 1
    finally:
        for store in stores:
            await store.close()

    assert set() == SEEN_AT_LEAST - driver.seen
    evidence.note(f"random acts on {len(stores)} stores at once, all answers and states compared", acts)
