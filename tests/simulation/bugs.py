"""
Planted bugs: what somebody might get wrong, as patches that hold while a simulation runs. Each must be found.

    python -m tests.simulation.bugs            plays 300 seeds of each, and tells how many find it, and which is the first

A bug is name → patch → expected killer: the letters with which the complaint begins, of which one must come. Where a bug can
only show in some acts, only these are played.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from everstep.client.connection import Connection as ClientConnection
from everstep.core.attempts import FIRST, Plan
from everstep.engine import claims, committer, holding, intake, transact, underway
from everstep.engine.drafts import Drafts
from everstep.events import CancelRequested
from everstep.journal import seal_bytes
from everstep.records import Pulse
from everstep.stores import rules
from everstep.stores.base import Append, Behind, Fenced, Keep, Landed
from everstep.stores.memory import MemoryStore
from everstep.testing.simulation.runner import acts_named, play
from everstep.testing.simulation.tables import Tables

Patch = Callable[[], AbstractContextManager[object]]
Memory: Any = MemoryStore
Writer: Any = committer.Committer
Under: Any = underway.Underway


@dataclass(frozen=True)
class Bug:
    """One of them.

    Attributes:
        name: What is wrong.
        patch: Makes it so.
        killers: How the complaint begins.
        acts: Those in which it can show.
        is_rare: Some hundred seeds do not find it; ``make proof`` looks on.
    """

    name: str
    patch: Patch
    killers: tuple[str, ...]
    acts: tuple[str, ...] = ()
    is_rare: bool = False


def always(answer: object) -> Callable[..., Any]:
    """A function that does not look at what it is asked."""

    def given(*_: Any, **__: Any) -> Any:
        return answer

    return given


def no_fence() -> AbstractContextManager[object]:
    """Whoever has the next version may write it, whatever his epoch."""

    def why_not(write: Any, run: Any, now: int) -> Any:
        if run is None or (isinstance(write, Append) and write.entry.version != run.version + 1):
            return Fenced()
        return None

    return patch.object(rules, "why_not", why_not)


def effect_apart() -> AbstractContextManager[object]:
    """The users' SQL is committed before it is known that the entry lands."""
    original = Tables.transact

    async def transact_apart(self: Tables, body: Any, look: Any, answer: Any, land: Any) -> Any:
        def answered(append: Append) -> Any:
            self.ask("COMMIT")
            self.ask("BEGIN")
            return answer(append)

        return await original(self, body, look, answered, land)

    return patch.object(Tables, "transact", transact_apart)


@contextmanager
def reread_and_retry() -> Generator[None, None, None]:
    """The classic: fenced, a worker looks for the newest version and writes its entry after that."""
    original = Writer._commit

    async def commit(self: Any, writes: Any) -> Any:
        outcomes = await original(self, writes)
        for place, (write, outcome) in enumerate(zip(writes, outcomes, strict=True)):
            if isinstance(write, Append) and write.create is None and isinstance(outcome, Fenced):
                entries = await self._store.load(write.entry.run_key)
                if not entries:
                    continue
                last, mine = entries[-1], write.entry
                data = (max(last.at, mine.at), mine.drained, mine.events)
                again = seal_bytes(last.hash, mine.run_key, last.version + 1, last.epoch, *data)
                outcomes[place], *_ = await self._store.commit([replace(write, entry=again)])
        return outcomes

    def why_not(write: Any, run: Any, now: int) -> Any:
        if run is None or (isinstance(write, Append) and write.entry.version != run.version + 1):
            return Fenced()
        return original_why_not(write, replace(run, worker_key=write.worker_key), now)

    original_why_not = rules.why_not
    with patch.object(Writer, "_commit", commit), patch.object(rules, "why_not", why_not):
        yield


def worker_clock_timers() -> AbstractContextManager[object]:
    """Whether a timer is due is for the worker's clock to say."""
    original = rules.why_not

    def why_not(write: Any, run: Any, now: int) -> Any:
        return original(replace(write, not_before=None) if isinstance(write, Append) else write, run, now)

    return patch.object(rules, "why_not", why_not)


def no_dedupe() -> AbstractContextManager[object]:
    """A message that is sent again is another one."""
    original = Memory._deliver

    def deliver(self: Any, run: Any, message: Any) -> None:
        original(self, run, replace(message, dedupe=""))

    return patch.object(Memory, "_deliver", deliver)


def consumption_deletes() -> AbstractContextManager[object]:
    """What was consumed is forgotten, and a late duplicate of it not known any more."""
    original = Memory._deliver

    def deliver(self: Any, run: Any, message: Any) -> None:
        for place, each in enumerate(run.inbox[: run.record.inbox_done]):
            run.inbox[place] = replace(each, dedupe="")
        original(self, run, message)

    return patch.object(Memory, "_deliver", deliver)


def parks_blindly() -> AbstractContextManager[object]:
    """A run is parked or ended without a look at its inbox."""
    return patch.object(rules, "must_be_consumed", always(False))


def dead_token_renews() -> AbstractContextManager[object]:
    """A worker that was proved dead is alive again with its next heartbeat."""
    original = MemoryStore.heartbeat

    async def heartbeat(self: Any, worker_key: int) -> Pulse:
        worker = self._workers.get(worker_key)
        if worker is not None:
            worker.gone = ""
        pulse = await original(self, worker_key)
        return Pulse.ALIVE if pulse is Pulse.GONE else pulse

    return patch.object(Memory, "heartbeat", heartbeat)


def cancel_is_lost() -> AbstractContextManager[object]:
    """A cancel is dropped if something else arrives with it."""
    original = intake.Intake.add

    def add(self: Any, event: Any, seq: int = 0) -> None:
        if isinstance(event, CancelRequested) and (self or seq % 2):
            self.taken = max(self.taken, seq)
            return
        original(self, event, seq)

    return patch.object(intake.Intake, "add", add)


def side_rows_without_fence() -> AbstractContextManager[object]:
    """Rows of attempts are written whether their write lands or not."""
    original = MemoryStore.commit

    async def commit(self: Any, batch: Any) -> Any:
        outcomes = await original(self, batch)
        for write, outcome in zip(batch, outcomes, strict=True):
            key = write.run_key if isinstance(write, Keep) else write.entry.run_key
            if isinstance(outcome, Fenced | Behind) and key in self._runs:
                for row in write.attempts:
                    self._runs[key].attempts[row.key] = row
                self._runs[key].record = replace(self._runs[key].record)
        return outcomes

    return patch.object(Memory, "commit", commit)


def posts_without_fence() -> AbstractContextManager[object]:
    """A fenced entry does not land, but its children do."""
    original = MemoryStore.commit

    async def commit(self: Any, batch: Any) -> Any:
        outcomes = await original(self, batch)
        for write, outcome in zip(batch, outcomes, strict=True):
            if isinstance(write, Append) and isinstance(outcome, Fenced):
                for child in write.children:
                    self._create_queued(rules.as_child(child, write.entry.run_key))
        return outcomes

    return patch.object(Memory, "commit", commit)


@contextmanager
def claim_without_epoch() -> Generator[None, None, None]:
    """A claim changes the owner, and leaves the epoch as it is."""
    original = Memory._append_events

    def append(self: Any, run: Any, events: bytes, status: Any, deaths: int, worker_key: Any) -> None:
        epoch, previous = run.record.epoch, run.record.hash
        original(self, run, events, status, deaths, worker_key)
        if worker_key is not None and epoch:
            last = run.entries[-1]
            again = seal_bytes(previous, last.run_key, last.version, epoch, last.at, last.drained, last.events, keep_whole=True)
            run.entries[-1] = again
            run.record = replace(run.record, epoch=epoch, hash=again.hash)

    with patch.object(Memory, "_append_events", append):
        yield


def takes_from_the_living() -> AbstractContextManager[object]:
    """A lease is taken to be over a third early."""
    original = rules.is_expired

    def is_expired(heartbeat: float, lease_seconds: float, monotonic: float) -> bool:
        return original(heartbeat, lease_seconds * 0.3, monotonic)

    return patch.object(rules, "is_expired", is_expired)


def timers_are_forgotten() -> AbstractContextManager[object]:
    """After a takeover timers are not armed again."""
    original = Under._arm

    def arm(self: Any, timer: Any) -> None:
        if self._execution.epoch < 2:
            original(self, timer)

    return patch.object(Under, "_arm", arm)


def parents_are_not_told() -> AbstractContextManager[object]:
    """A child's outcome is told only if nobody took the child over."""
    original = Memory._tell_parent

    def tell(self: Any, run: Any, entry: Any) -> None:
        if entry.epoch < 2:
            original(self, run, entry)

    return patch.object(Memory, "_tell_parent", tell)


def every_attempt_is_the_first() -> AbstractContextManager[object]:
    """An attempt that was lost with its worker is not counted, and an at-most-once step begun again."""

    def plan(row: Any, *, scheduled_after: int, recoveries: int, now: int) -> Plan:
        return FIRST

    return patch.object(underway, "plan_attempt", plan)


def ids_are_not_unique() -> AbstractContextManager[object]:
    """A second start with an id makes a second run."""
    original = Memory._find

    def find(self: Any, run_id: str) -> Any:
        import inspect

        caller = inspect.currentframe()
        name = caller.f_back.f_code.co_name if caller is not None and caller.f_back is not None else ""
        return None if name in ("_create_queued", "_answer_first") else original(self, run_id)

    return patch.object(Memory, "_find", find)


def versions_are_ignored() -> AbstractContextManager[object]:
    """Runs are handed to code of any version, and to code that has refused them."""
    original = rules.may_drive

    def may_drive(request: Any, run_id: str, workflow: str, refused_by: str, pinned: str = "", *rest: Any) -> bool:
        known = dict(request.workflows) | {name: codes for (name, _), codes in request.versions.items()}
        return original(replace(request, workflows=known), run_id, workflow, "", "", *rest)

    return patch.object(rules, "may_drive", may_drive)


def bounds_are_ignored() -> AbstractContextManager[object]:
    """A relaxed run holds back as much as it likes."""
    return patch.multiple(holding.Holding, is_full=False, watch=always(None))


def chains_are_not_verified() -> AbstractContextManager[object]:
    """A damaged journal is replayed as if nothing were."""
    import everstep.core.execution as core

    return patch.object(core, "verify_chain", always(None))


def nobody_is_given_up() -> AbstractContextManager[object]:
    """A run that kills its workers is claimed for ever."""
    import everstep.stores.rules as judged

    return patch.object(judged, "judge_recovery", always("claim"))


def posts_look_again() -> AbstractContextManager[object]:
    """Found by this simulation: a message to a run that was not there yet was said to be accepted."""
    original = ClientConnection.post

    async def post(self: Any, run_id: str, event: Any, dedupe: str = "", *, tx: Any = None) -> Any:
        from everstep.errors import RunNotFound

        try:
            return await original(self, run_id, event, dedupe, tx=tx)
        except RunNotFound:
            return await self.get(run_id)

    return patch.object(ClientConnection, "post", post)


def stranded_once() -> AbstractContextManager[object]:
    """Found by this simulation: after a claim whose answer did not come, stranded runs were looked for once only."""
    return patch.object(claims, "STRANDED_SECONDS", ())


def rows_are_overtaken() -> AbstractContextManager[object]:
    """Found by this simulation: a transaction did not wait for rows of attempts that were on their way."""

    async def passed(self: Any, run_key: int) -> None:
        return None

    return patch.object(Writer, "passed", passed)


@contextmanager
def milestones_forget() -> Generator[None, None, None]:
    """Found by this simulation: a milestone that was handed back kept outcomes of steps that no entry had asked for."""
    from everstep.engine.driver import Driver

    original = Drafts.of_end

    def of_end(self: Any, verdict: Any, rows: Any) -> Any:
        self.obeyed = []
        return original(self, verdict, rows)

    def hand_back(self: Any) -> None:
        if self._leaving.is_over:
            return
        if self._slot.is_taken:
            self.abandon()
        elif self._execution.is_holding:
            self._leaving.start_over()
        else:
            original_hand_back(self)

    original_hand_back = Driver.hand_back
    with patch.object(Drafts, "of_end", of_end), patch.object(Driver, "hand_back", hand_back):
        yield


def doubtful_commits_run_again() -> AbstractContextManager[object]:
    """After a transaction of which nobody knows, the next try does not look whether it has landed."""
    original = transact.Transactor.transact

    async def again(self: Any, slot: Any, *rest: Any) -> Any:
        return await original(self, replace(slot, doubtful=b""), *rest)

    return patch.object(transact.Transactor, "transact", again)


def landing_is_no_news() -> AbstractContextManager[object]:
    """An entry that is there already is not recognised: its writer believes that somebody else has the run."""
    original = Memory._answer

    def answer(self: Any, write: Any) -> Any:
        found = original(self, write)
        return Fenced() if isinstance(found, Landed) else found

    return patch.object(Memory, "_answer", answer)


def joins_without_a_look() -> AbstractContextManager[object]:
    """A start with other arguments joins whatever has the id."""
    from everstep.client import starting

    return patch.object(starting, "refuse_conflict", always(None))


BUGS: Sequence[Bug] = (
    Bug("no fence", no_fence, ("I",)),
    Bug("effect and entry in two transactions", effect_apart, ("act Ledgers: I4",), ("Ledgers",)),
    Bug("re-read the version and write again", reread_and_retry, ("I",)),
    Bug("timers by the worker's clock", worker_clock_timers, ("I9",), ("Letters", "Trees")),
    Bug("messages without dedupe", no_dedupe, ("I8", "act"), ("Letters",)),
    Bug("consumption forgets", consumption_deletes, ("I8", "act"), ("Letters",)),
    Bug("parking ignores the inbox", parks_blindly, ("I11", "I8"), ("Letters", "Requests")),
    Bug("a dead token renews", dead_token_renews, ("I2", "I11")),
    Bug("a cancel is lost", cancel_is_lost, ("I11", "act Cancelling"), ("Cancelling",)),
    Bug("rows of attempts outlive the fence", side_rows_without_fence, ("I",), ("Ledgers", "Trees")),
    Bug("children outlive the fence", posts_without_fence, ("I13",), ("Trees", "Families"), is_rare=True),
    Bug("a claim without an epoch", claim_without_epoch, ("I2",)),
    Bug("a lease is taken early", takes_from_the_living, ("I2",)),
    Bug("timers are forgotten by whoever takes over", timers_are_forgotten, ("I11",), ("Letters", "Trees")),
    Bug("a parent is not told", parents_are_not_told, ("I11",), ("Trees", "Families")),
    Bug("lost attempts are not counted", every_attempt_is_the_first, ("I", "act"), ("Trees",)),
    Bug("ids are not unique", ids_are_not_unique, ("I", "act"), ("Ids",)),
    Bug("versions are ignored", versions_are_ignored, ("I22",), ("Versions",)),
    Bug("bounds are ignored", bounds_are_ignored, ("act Stretches: I10",), ("Stretches",)),
    Bug("chains are not verified", chains_are_not_verified, ("act Damage: I21", "I21"), ("Damage",)),
    Bug("nobody is given up", nobody_is_given_up, ("I11", "I20", "act Poison"), ("Poison",)),
    Bug("a message is not posted and said to be", posts_look_again, ("I", "act"), ("Cancelling",), is_rare=True),
    Bug("stranded runs are looked for once", stranded_once, ("I11",), is_rare=True),
    Bug("rows of attempts are overtaken", rows_are_overtaken, ("I2",), ("Ledgers",), is_rare=True),
    Bug("a milestone forgets what it asked for", milestones_forget, ("I",), ("Trees",)),
    Bug("a doubtful commit is repeated", doubtful_commits_run_again, ("act Ledgers: I4", "I"), ("Ledgers",)),
    Bug("a landed entry is not recognised", landing_is_no_news, ("I",)),
    Bug("a start joins whatever it finds", joins_without_a_look, ("act Ids",), ("Ids",)),
)
"""Not all of them are equally rare; how many seeds find each is in the documentation of the proof."""


def hunt(bug: Bug, seeds: Sequence[int], *, first_only: bool = True) -> list[int]:
    """Seeds that find the bug; the first one suffices unless told."""
    found: list[int] = []
    given = [acts_named([name]) for name in bug.acts]
    with ExitStack() as stack:
        stack.enter_context(bug.patch())
        for seed in seeds:
            simulation = play(seed, given[seed % len(given)]) if given else play(seed)
            if simulation.problems and simulation.problems[0].startswith(bug.killers):
                found.append(seed)
                if first_only:
                    break
    return found


def main() -> None:
    """See the module."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for bug in BUGS:
        found = hunt(bug, range(count), first_only=False)
        print(f"{len(found):5} of {count}, first {found[0] if found else '-':>4}  {bug.name}", flush=True)


if __name__ == "__main__":
    main()
