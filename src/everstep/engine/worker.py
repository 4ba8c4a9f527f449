"""
A worker: it claims runs, drives them, and gives them back.

    claimer ──▶ drivers ──▶ committer ──▶ store
      ▲                                     │
      └── something changed, or is due ◀────┘
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from everstep.core.execution import Execution
from everstep.definitions import Registry, Workflow
from everstep.engine.claims import BACKOFF_SECONDS, Claimer, Shared
from everstep.engine.committer import Committer
from everstep.engine.driver import Driver
from everstep.engine.facts import Facts
from everstep.engine.leases import LeaseKeeper
from everstep.engine.profile import own_name, profile_of
from everstep.engine.steps import Tools
from everstep.engine.threads import ThreadPool
from everstep.engine.transact import Transactor
from everstep.engine.turns import Turn
from everstep.engine.watchers import Watchers
from everstep.errors import CorruptJournal, PayloadKeyMissing, SchemaMismatch, StoreUnavailable
from everstep.events import RunClaimed, RunCreated
from everstep.payloads import PLAIN, Payloads
from everstep.records import Message, Micros, RunKey, RunRecord, WorkerKey
from everstep.stores import rules
from everstep.stores.base import (
    RUN_KEYS_PER_WORKER,
    Claimed,
    Fenced,
    NewRun,
    Outcome,
    Store,
)

logger = logging.getLogger("everstep")

IDLE_SECONDS_MAX = 60.0
"""Look once a minute whatever is known: a safety net, not a mechanism."""
CLEAN_UP_SECONDS = 2.0
"""What a cancelled body gets for its ``finally`` when the engine closes; nothing that it still does is recorded."""


class Worker:
    """See the module. One per engine.

    Attributes:
        worker_key: The token it holds now; a new one after it was declared dead.
        active: The runs it drives, by key.
        tools: What steps need.
        committer: What writes.
        turn: To be waited for before a run is begun.
        watchers: Who waits for news of which run.
        payloads: How payloads are stored.
        is_starting_over: It has lost its token, and has no new one yet.
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
        queues: tuple[str, ...] | None = None,
        payloads: Payloads = PLAIN,
        on_drain: Callable[[], None] | None = None,
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
        self.watchers = Watchers()
        self.worker_key = 0
        self.name = own_name()
        self._registry = registry
        self._lease_seconds = lease_seconds
        self._run_max = run_max
        self._queues = queues
        self._lease = LeaseKeeper(
            store,
            lease_seconds,
            before_renewal=self._keep_details,
            on_lost=self.start_over,
            on_drain=on_drain or self.drain,
            on_moved=self._moved,
        )
        self._claimer = Claimer(
            self,
            store,
            registry,
            self._lease,
            run_max=run_max,
            lease_seconds=lease_seconds,
            idle_seconds_max=idle_seconds_max,
            family=family,
            queues=queues,
        )
        self._by_id: dict[str, Driver] = {}
        self._run_count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.is_starting_over = False
        # Runs (and epochs) whose memory was dropped while they were still ours, for all we know: bodies of theirs have begun.
        self._dropped: set[tuple[RunKey, int]] = set()
        self._is_stopped = False
        self._starting: set[asyncio.Future[Outcome]] = set()

    # --- life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enlist, and begin to claim."""
        sent_at = self._loop.time()
        self.worker_key = await self._enlist()
        self._lease.begin(sent_at)
        self._tasks = [
            self._loop.create_task(self._claimer.claim_for_ever(), name="everstep claims"),
            self._loop.create_task(self._lease.keep(lambda: self.worker_key), name="everstep lease"),
        ]

    def _moved(self) -> None:
        self._claimer.moved()

    async def _enlist(self) -> WorkerKey:
        return await self.store.enlist(self.name, self._lease_seconds, profile_of(self._registry, self._run_max, self._queues))

    def drain(self) -> None:
        """Begin nothing new, neither runs nor steps. Each run is handed back as soon as no body of it is being executed."""
        self._claimer.drain()
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
        self._is_stopped = True
        for started in self._starting:
            if not started.done():
                started.set_result(Fenced())
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
        self._claimer.drain()
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
        if any(driver.is_busy for driver in self.active.values()):
            with suppress(StoreUnavailable, TimeoutError):  # So that people see what it is waiting for.
                async with asyncio.timeout(grace_seconds):
                    await self.store.drain(self.worker_key)
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
        return self._claimer.can_begin

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
        started = driver.started
        if self._is_stopped and not started.done():
            return Fenced()
        self._starting.add(started)
        try:
            return await started  # A caller that gives up cancels it: nobody else waits, and the driver minds that.
        finally:
            self._starting.discard(started)

    def driver_of(self, run_id: str) -> Driver | None:
        """The driver of a run that is driven here."""
        return self._by_id.get(run_id)

    def is_driven(self, run_id: str) -> bool:
        """A run of this id is driven here."""
        return run_id in self._by_id

    async def post(self, run_id: str, message: Message) -> RunRecord | None:
        """Put a message into a run's inbox, and see to it that it is soon read."""
        run, is_driven = await self._claimer.post(run_id, message)
        if run is not None and not is_driven:
            self.nudge()
        return run

    def nudge(self, due_at: Micros | None = None) -> None:
        """Something changed that concerns runs: look now, or at that instant."""
        self._claimer.nudge(due_at)

    async def wait_for(self, run_id: str, timeout: float) -> None:
        """Wait until a run is driven here, or something changed in the store, or the time is over."""
        await self.watchers.wait(run_id, timeout)

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
        self.watchers.tell(driver.run_id)
        self._claimer.left(driver, wake_at)

    def progressed(self, driver: Driver) -> None:
        """A suspect that makes progress is none."""
        if driver is self._claimer.suspect:
            self._claimer.clear_suspect()

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
        self.watchers.tell(driver.run_id)

    # --- what the claimer asks (ClaimerHost) ------------------------------------------------------------------------------

    def has_dropped(self, run: RunRecord) -> bool:
        """The run was driven here under the token that still holds, and its memory was dropped in doubt."""
        return (run.run_key, run.epoch) in self._dropped

    def drive(self, claimed: Claimed, shared: Shared) -> None:
        """Go on with a run that was claimed."""
        run = claimed.run
        stale = self.active.get(run.run_key)
        if stale is not None:
            stale.abandon()
        driver = self._new_driver(run)
        if claimed.alone:
            self._claimer.suspect = driver
        self._adopt(driver)
        if isinstance(shared, CorruptJournal | PayloadKeyMissing):
            driver.quarantine(shared)
        else:
            driver.resume(claimed, shared)

    def _new_driver(self, run: RunRecord) -> Driver:
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
            self.watchers.tell(driver.run_id)

    # --- the lease --------------------------------------------------------------------------------------------------------

    def _keep_details(self) -> None:
        for driver in list(self.active.values()):
            driver.keep(driver.dirty_rows())

    async def start_over(self) -> None:
        """The token is dead, or can no longer be trusted: stop everything, and enlist anew when the store is there."""
        self.is_starting_over = True
        if self.active:
            logger.warning("worker %s lost its lease; its %d runs go on elsewhere", self.name, len(self.active))
        for driver in list(self.active.values()):
            driver.abandon()
        old, sent_at, new = self.worker_key, 0.0, 0
        while not new:
            # Until there is a new token the old one must not be renewed: it owns runs that nobody drives any more.
            try:
                sent_at = self._loop.time()
                new = await self._enlist()
                self.committer.note_back("enlist")
            except (StoreUnavailable, SchemaMismatch) as error:  # Too old for it now: somebody has to restart us.
                self.committer.note_away("enlist", error)
                await asyncio.sleep(BACKOFF_SECONDS * (0.5 + self.tools.random.random()))
        self.worker_key, self._run_count = new, 0
        self._lease.begin(sent_at)
        with suppress(StoreUnavailable):
            await self.store.retire(old)
        self._dropped.clear()
        self.is_starting_over = False
        self.nudge()
