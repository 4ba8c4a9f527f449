"""
A worker: it claims runs, drives them, and gives them back.

    claim ──▶ drivers ──▶ committer ──▶ store
      ▲                                   │
      └── something changed, or is due ◀──┘

An idle worker costs no statement but its heartbeat: it sleeps until a run is due, until somebody in this process knows better
(``nudge``), or until the store says that others changed something.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
from contextlib import suppress
from random import Random
from typing import Any

from everstep.core.execution import Execution
from everstep.core.reuse import Ledger
from everstep.definitions import Registry, Workflow
from everstep.engine.committer import Committer
from everstep.engine.driver import Driver
from everstep.engine.facts import Facts
from everstep.engine.leases import LeaseKeeper
from everstep.engine.parking import AT_ONCE
from everstep.engine.steps import ThreadPool, Tools
from everstep.engine.transact import Transactor
from everstep.engine.turns import Turn
from everstep.errors import CorruptJournal, PayloadKeyMissing, StoreUnavailable
from everstep.events import RunClaimed, RunCreated
from everstep.forks import shared_history
from everstep.payloads import PLAIN, Payloads
from everstep.records import Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores import rules
from everstep.stores.base import (
    RUN_KEYS_PER_WORKER,
    Claimed,
    ClaimRequest,
    Fenced,
    Keep,
    NewRun,
    Outcome,
    RunFilter,
    Store,
)

logger = logging.getLogger("everstep")

CLAIM_MAX = 100
"""Runs per claim: enough to recover thousands per second, few enough that replaying them does not hold the loop for long."""
IDLE_SECONDS_MAX = 60.0
"""Look once a minute whatever is known: a safety net, not a mechanism."""
BACKOFF_SECONDS = 0.5
CLEAN_UP_SECONDS = 2.0
"""What a cancelled body gets for its ``finally`` when the engine closes; nothing that it still does is recorded."""
CLOCK_MICROS = 50_000
"""How soon to ask again for a run that is due by this process's idea of the store's clock, and not by the store's."""
OWNED = (Status.RUNNING, Status.COMPENSATING)
LIST_MAX = 1000


class Worker:
    """See the module. One per engine.

    Attributes:
        worker_key: The token it holds now; a new one after it was declared dead.
        active: The runs it drives, by key.
        tools: What steps need.
        committer: What writes.
        turn: To be waited for before a run is begun.
        payloads: How payloads are stored.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        run_max: int,
        thread_max: int,
        lease_seconds: float,
        random: Random,
        idle_seconds_max: float = IDLE_SECONDS_MAX,
        family: str = "",
        payloads: Payloads = PLAIN,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = store
        self.payloads = payloads
        self.active: dict[RunKey, Driver] = {}
        self.committer = Committer(store, random)
        self.tools = Tools(
            store.now,
            ThreadPool(thread_max),
            random,
            contextvars.copy_context(),
            self._loop,
            self._is_ending,
            Transactor(store, self.committer, lease_seconds, random),
        )
        self.turn = Turn()
        self.worker_key = 0
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._registry = registry
        self._run_max = run_max
        self._family = family
        self._lease_seconds = lease_seconds
        self._idle_seconds_max = idle_seconds_max
        self._lease = LeaseKeeper(store, lease_seconds, before_renewal=self._keep_details, on_lost=self._start_over)
        self._by_id: dict[str, Driver] = {}
        self._run_count = 0
        self._due_at: Micros | None = None
        self._wake = asyncio.Event()
        self._watchers: dict[str, list[asyncio.Future[None]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_draining = False
        self._suspects_wait = False
        self._makes_room_until = 0.0
        self._suspect: Driver | None = None
        self._must_look = True
        self._may_have_stranded = False
        self._is_starting_over = False
        # Runs (and epochs) whose memory was dropped while they were still ours, for all we know: bodies of theirs have begun.
        self._dropped: set[tuple[RunKey, int]] = set()
        self._stopped: asyncio.Future[None] = self._loop.create_future()

    # --- life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enlist, and begin to claim."""
        sent_at = self._loop.time()
        self.worker_key = await self.store.enlist(self.name, self._lease_seconds)
        self._lease.begin(sent_at)
        self._tasks = [
            self._loop.create_task(self._claim_for_ever(), name="everstep claims"),
            self._loop.create_task(self._lease.keep(lambda: self.worker_key), name="everstep lease"),
        ]

    def drain(self) -> None:
        """Begin nothing new, neither runs nor steps. Each run is handed back as soon as no body of it is being executed."""
        self._is_draining = True
        self._must_look = True
        self._wake.set()
        for driver in list(self.active.values()):
            driver.drain()

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing new, give running steps a moment, then hand every run back and retire."""
        self.drain()
        await self._wait_for_steps(grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        bodies = [body for driver in self.active.values() for body in driver.bodies()]
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds + 1):
                await self.committer.settle()
                for driver in list(self.active.values()):
                    driver.hand_back()
                await self.committer.settle()
        for driver in list(self.active.values()):
            driver.abandon()
        if bodies:
            await asyncio.wait(bodies, timeout=CLEAN_UP_SECONDS)
        self.committer.close()
        self._stopped.set_result(None)
        if self.tools.threads.lost_count:
            logger.warning(
                "a plain function still runs in a thread, and Python waits for it to end. Killing the process is safe"
            )
        self.tools.threads.close()
        with suppress(StoreUnavailable):
            await self.store.retire(self.worker_key)

    def die(self) -> None:
        """Do what the sudden end of the process does: nothing of it runs or writes any more, and the store is told nothing.

        For tests. Whoever calls it must also keep the worker's connection from writing. Safe to repeat.
        """
        self._is_draining = True
        for task in self._tasks:
            task.cancel()
        self.committer.close()
        for driver in list(self.active.values()):
            driver.abandon()
        self.tools.threads.close()

    def _is_ending(self) -> bool:
        """Whether asyncio is cancelling every task of the program, this worker's own among them."""
        return any(task.done() or task.cancelling() for task in self._tasks)

    async def _wait_for_steps(self, grace_seconds: float) -> None:
        until = self._loop.time() + grace_seconds
        while (left := until - self._loop.time()) > 0:
            busy = [driver.ended for driver in self.active.values() if driver.is_busy]
            if not busy:
                return
            await asyncio.wait(busy, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    # --- what the engine asks ---------------------------------------------------------------------------------------------

    @property
    def can_start_here(self) -> bool:
        """Whether a new run may be driven here at once, rather than be queued."""
        return not self._is_draining and self._lease.is_trusted and self._capacity() > 0

    def begin(self, created: RunCreated, workflow: Workflow[..., Any], new: NewRun) -> Driver:
        """Drive a run that does not exist yet; its first entry creates it.

        Raises:
            EverstepError: The code cannot be begun with these arguments. Nothing was stored.
        """
        self._run_count += 1
        run_key = self.worker_key * RUN_KEYS_PER_WORKER + self._run_count
        execution = Execution(workflow, run_key, created.run_id, self.payloads)
        execution.epoch = 1
        driver = Driver(
            self,
            execution,
            Facts(run_key, created.run_id, execution.epoch, deadline_at=created.deadline_at, create=new, created=new.created),
        )
        driver.begin([created, RunClaimed(self.name)], rules.first_messages(new, self.store.now()))
        self._adopt(driver)
        return driver

    async def outcome_of_start(self, driver: Driver) -> Outcome:
        """How a run's first entry fared. ``Fenced`` too if this worker stops before anybody knows."""
        # wait, not await: a caller that gives up must not cancel what the driver is going to resolve.
        futures: list[asyncio.Future[Any]] = [driver.started, self._stopped]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        return driver.started.result() if driver.started.done() else Fenced()

    def driver_of(self, run_id: str) -> Driver | None:
        """The driver of a run that is driven here."""
        return self._by_id.get(run_id)

    def nudge(self, due_at: Micros | None = None) -> None:
        """Something changed that concerns runs: look now, or at that instant."""
        if due_at is None:
            self._must_look = True
            self._wake.set()
        elif self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._wake.set()

    async def wait_for(self, run_id: str, timeout: float) -> None:
        """Wait until a run is driven here, or something changed in the store, or the time is over."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._watchers.setdefault(run_id, []).append(future)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._forget_watcher(run_id, future)

    @property
    def is_lone(self) -> bool:
        """At most one run is driven here."""
        return len(self.active) <= 1

    # --- what drivers report (DriverHost) ---------------------------------------------------------------------------------

    def left(self, driver: Driver, wake_at: Micros | None) -> None:
        """A driver is done with its run."""
        if self.active.get(driver.facts.run_key) is driver:
            del self.active[driver.facts.run_key]
        if self._by_id.get(driver.run_id) is driver:
            del self._by_id[driver.run_id]
        if driver.is_in_doubt:
            self._dropped.add((driver.facts.run_key, driver.epoch))
        self._tell_watchers(driver.run_id)
        was_suspect, self._suspect = driver is self._suspect, None if driver is self._suspect else self._suspect
        if wake_at is not None:
            self.nudge(wake_at)
        elif was_suspect or driver.has_parent or len(self.active) + 1 >= self._run_max or self._suspects_wait:
            self.nudge()

    def progressed(self, driver: Driver) -> None:
        """A suspect that makes progress is none."""
        if driver is self._suspect:
            self._suspect = None
            self.nudge()

    def learn(self, workflow: Workflow[..., Any]) -> None:
        """A child of this workflow exists or will: its code is at hand, so it can be driven here.

        Raises:
            UsageError: Another workflow has this name: the child would be driven with the wrong code.
        """
        known = self._registry.find(workflow.name, workflow.version)
        if known is None or known.fingerprint != workflow.fingerprint:
            self._registry.add(workflow)
            self.nudge()  # Runs of it may be waiting already, for somebody who knows it.

    def look(self) -> None:
        """Other runs have become due: children, for instance."""
        self.nudge()

    def replied(self, driver: Driver) -> None:
        """Whoever asked may look."""
        self._tell_watchers(driver.run_id)

    # --- claiming ---------------------------------------------------------------------------------------------------------

    async def _claim_for_ever(self) -> None:
        while not self._is_draining:
            if self._is_starting_over:
                await self._back_off()  # Without a token nothing can be claimed, and nothing given back in the old one's name.
                continue
            try:
                await self._give_back_stranded()
                found = await self._claim()
                self.committer.note_back("claim")
                await self._pull()
                if not found:
                    await self._sleep()
                else:
                    await asyncio.sleep(0)
            except StoreUnavailable as error:
                self._may_have_stranded = True
                self.committer.note_away("claim", error)
                await self._back_off()
            except Exception:
                self._may_have_stranded = True
                logger.exception("worker %s could not claim runs; it will try again", self.name)
                await self._back_off()

    async def _give_back_stranded(self) -> None:
        """Give back the runs that a claim took and whose answer never came: they are ours, and nobody drives them."""
        if not self._may_have_stranded:
            return
        token = self.worker_key
        before: RunKey | None = None
        stranded: list[RunRecord] = []
        while page := await self.store.list(RunFilter(statuses=OWNED, before=before, limit=LIST_MAX)):
            stranded += [run for run in page if run.worker_key == token and run.run_key not in self.active]
            before = page[-1].run_key
        if not self._holds(token):
            return
        if any((run.run_key, run.epoch) in self._dropped for run in stranded):
            # They have been driven under this token: given back as they stand, a step that had begun would look as if it had
            # not. Whoever finds them with a token that is gone counts the attempt.
            await self._start_over()
            return
        for run in stranded:
            if run.run_key not in self.active:
                keep = Keep(
                    run_key=run.run_key,
                    worker_key=self.worker_key,
                    epoch=run.epoch,
                    release=True,
                    status=Status.COMPENSATING if run.status is Status.COMPENSATING else Status.QUEUED,
                    wake_at=AT_ONCE,
                )
                self.committer.submit(keep, lambda _: self.nudge())
        self._may_have_stranded = False

    def _holds(self, token: WorkerKey) -> bool:
        """This is still the worker's token, and is not just being replaced."""
        return token == self.worker_key and not self._is_starting_over

    async def _back_off(self) -> None:
        await asyncio.sleep(BACKOFF_SECONDS * (0.5 + self.tools.random.random()))

    def _capacity(self) -> int:
        if self.tools.threads.is_exhausted or self._suspect is not None:
            return 0
        if self._suspects_wait and self.active and self._loop.time() < self._makes_room_until:
            # A suspect needs a worker of its own: finish what there is first. But not for ever: what there is may take days,
            # and another worker may have taken the suspect meanwhile.
            return 0
        return self._run_max - len(self.active)

    async def _claim(self) -> bool:
        """Take what is due; whether there may be more."""
        room = min(self._capacity(), CLAIM_MAX)
        self._must_look = False
        self._due_at = None
        if room <= 0 or not self._lease.is_trusted:
            return False
        worker_key = self.worker_key
        claims = await self.store.claim(
            ClaimRequest(
                worker_key=worker_key,
                workflows=self._registry.fingerprints(self.payloads.fingerprint),
                versions=self._registry.versions(self.payloads.fingerprint),
                run_max=room,
                alone=not self.active,
                family=self._family,
            )
        )
        self._suspects_wait = claims.suspects_wait
        self._makes_room_until = self._loop.time() + self._lease_seconds
        # What was not due by the store's own clock, but is by ours: ours is ahead. Asking again at once would be spinning.
        earliest = 0 if claims.runs else self.store.now() + CLOCK_MICROS
        for due_at in (claims.next_due_at, claims.next_expiry_at):
            if due_at is not None:
                self.nudge(max(due_at, earliest))
        for run_id in claims.died:
            logger.error("run %s is dead: its workers kept dying. See: everstep show %s", run_id, run_id)
            self._tell_watchers(run_id)
        for claimed in claims.runs:
            await self.turn.wait()
            if self.worker_key != worker_key:
                break  # The lease was lost meanwhile: they belong to somebody else.
            shared = await self._shared_by(claimed)
            if self.worker_key != worker_key:
                break
            self._drive(claimed, shared)
        return len(claims.runs) >= room

    async def _shared_by(self, claimed: Claimed) -> Ledger | CorruptJournal | PayloadKeyMissing | None:
        """What the run that this one forks had finished."""
        try:
            return await shared_history(self.store, claimed.run, self.payloads.keeper)
        except (CorruptJournal, PayloadKeyMissing) as error:
            return error

    def _drive(self, claimed: Claimed, shared: Ledger | CorruptJournal | PayloadKeyMissing | None) -> None:
        stale = self.active.get(claimed.run.run_key)
        if stale is not None:
            stale.abandon()
        driver = self._new_driver(claimed)
        if driver is not None:
            self._suspect = driver if claimed.alone else self._suspect
            self._adopt(driver)
            if isinstance(shared, CorruptJournal | PayloadKeyMissing):
                driver.quarantine(shared)
            else:
                driver.resume(claimed, shared)

    def _new_driver(self, claimed: Claimed) -> Driver | None:
        run = claimed.run
        workflow = self._registry.code_for(run, self.payloads.fingerprint)
        assert workflow is not None, "only runs of known workflows are claimed"
        execution = Execution(workflow, run.run_key, run.run_id, self.payloads)
        execution.epoch = run.epoch
        return Driver(self, execution, Facts.of(run))

    def _adopt(self, driver: Driver) -> None:
        if not driver.is_over:
            self.active[driver.facts.run_key] = driver
            # A run that is only about to be created may turn out to exist, and to be driven here already.
            if driver.is_born or driver.run_id not in self._by_id:
                self._by_id[driver.run_id] = driver
            self._tell_watchers(driver.run_id)

    async def _pull(self) -> None:
        """Messages for runs that are driven here."""
        if self.active:
            for run_key, messages in await self.store.pull(self.worker_key):
                driver = self.active.get(run_key)
                if driver is not None:
                    driver.receive(messages)

    async def _sleep(self) -> None:
        """Until a run is due, this process knows of something, or others changed the store."""
        until = self._loop.time() + self._idle_seconds_max
        while not self._must_look and (seconds := min(until - self._loop.time(), self._seconds_until_due())) > 0:
            self._wake.clear()
            changed = asyncio.ensure_future(self.store.wait_for_work(self.worker_key, seconds))
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait([changed, woken], return_when=asyncio.FIRST_COMPLETED)
                if changed.done() and changed.result():
                    self._tell_all_watchers()
                    return
            finally:
                changed.cancel()
                woken.cancel()

    def _seconds_until_due(self) -> float:
        return float("inf") if self._due_at is None else (self._due_at - self.store.now()) / 1e6

    # --- the lease --------------------------------------------------------------------------------------------------------

    def _keep_details(self) -> None:
        for driver in list(self.active.values()):
            driver.keep(driver.dirty_rows())

    async def _start_over(self) -> None:
        """The token is dead, or can no longer be trusted: stop everything, and enlist anew when the store is there."""
        self._is_starting_over = True
        if self.active:
            logger.warning("worker %s lost its lease; its %d runs go on elsewhere", self.name, len(self.active))
        for driver in list(self.active.values()):
            driver.abandon()
        old, sent_at, new = self.worker_key, 0.0, 0
        while not new:
            # Until there is a new token the old one must not be renewed: it owns runs that nobody drives any more.
            try:
                sent_at = self._loop.time()
                new = await self.store.enlist(self.name, self._lease_seconds)
                self.committer.note_back("enlist")
            except StoreUnavailable as error:
                self.committer.note_away("enlist", error)
                await self._back_off()
        self.worker_key, self._run_count = new, 0
        self._lease.begin(sent_at)
        with suppress(StoreUnavailable):
            await self.store.retire(old)
        self._dropped.clear()
        self._is_starting_over = False
        self.nudge()

    # --- watchers ---------------------------------------------------------------------------------------------------------

    def _tell_watchers(self, run_id: str) -> None:
        for future in self._watchers.pop(run_id, ()):
            if not future.done():
                future.set_result(None)

    def _forget_watcher(self, run_id: str, future: asyncio.Future[None]) -> None:
        waiting = self._watchers.get(run_id, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._watchers.pop(run_id, None)

    def _tell_all_watchers(self) -> None:
        for run_id in list(self._watchers):
            self._tell_watchers(run_id)
