"""
Claim runs for a worker, as long as it has room for them: what is due, and what a message from this process wakes.

An idle worker costs no statement but its heartbeat: this sleeps until a run is due, until somebody in this process knows better
(``nudge``), or until the store says that others changed something.

A claim may take effect although its answer never comes. Such runs are *stranded*: this worker owns them and nobody drives them.
After every claim that failed they are looked for, and given back; and after a failover, which may take back what we know. They
are looked for again later: a request that was given up may still be on its way, and what it takes would be stuck for good with
a worker that renews its lease and knows nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from everstep.core.reuse import Ledger
from everstep.definitions import Registry
from everstep.engine.committer import Committer
from everstep.engine.driver import Driver
from everstep.engine.leases import LeaseKeeper
from everstep.engine.steps import Tools
from everstep.engine.turns import Turn
from everstep.engine.watchers import Watchers
from everstep.errors import CorruptJournal, PayloadKeyMissing, StoreUnavailable
from everstep.forks import shared_history
from everstep.payloads import Payloads
from everstep.records import AT_ONCE, Message, Micros, RunKey, RunRecord, Status, WorkerKey
from everstep.stores.base import Claimed, ClaimRequest, Keep, RunFilter, Store

logger = logging.getLogger("everstep")

CLAIM_MAX = 100
"""Runs per claim: enough to recover thousands per second, few enough that replaying them does not hold the loop for long."""
BACKOFF_SECONDS = 0.5
CLOCK_MICROS = 50_000
"""How soon to ask again for a run that is due by this process's idea of the store's clock, and not by the store's."""
OWNED = (Status.RUNNING, Status.COMPENSATING)
LIST_MAX = 1000
STRANDED_SECONDS = (10.0, 100.0, 1000.0)
"""When to look for stranded runs again after a claim that failed. Nobody keeps a request for more than a quarter of an hour."""

Shared = Ledger | CorruptJournal | PayloadKeyMissing | None
"""What the run that a fork shares its history with had finished, or why nobody can say."""


class ClaimerHost(Protocol):
    """The worker, as its claimer sees it."""

    worker_key: WorkerKey
    name: str
    tools: Tools
    committer: Committer
    payloads: Payloads
    turn: Turn
    watchers: Watchers

    @property
    def active(self) -> Mapping[RunKey, Driver]:
        """The runs it drives."""
        ...

    @property
    def is_starting_over(self) -> bool:
        """It has lost its token, and has no new one yet."""
        ...

    def is_driven(self, run_id: str) -> bool:
        """A run of this id is driven here."""
        ...

    def has_dropped(self, run: RunRecord) -> bool:
        """The run was driven here under the token that still holds, and its memory was dropped in doubt."""
        ...

    def drive(self, claimed: Claimed, shared: Shared) -> None:
        """Go on with a run that was claimed. If it is a suspect, its driver becomes ``suspect`` before anything of it runs."""
        ...

    async def start_over(self) -> None:
        """Give up the token, and everything that is owned under it."""
        ...


class Claimer:
    """See the module. One per worker.

    Attributes:
        suspect: The driver of a run that may be what kills workers; nothing else is claimed until it makes progress.
    """

    def __init__(
        self,
        host: ClaimerHost,
        store: Store,
        registry: Registry,
        lease: LeaseKeeper,
        *,
        run_max: int,
        lease_seconds: float,
        idle_seconds_max: float,
        family: str,
        queues: tuple[str, ...] | None = None,
    ) -> None:
        self.suspect: Driver | None = None
        self._host = host
        self._store = store
        self._registry = registry
        self._lease = lease
        self._run_max = run_max
        self._lease_seconds = lease_seconds
        self._idle_seconds_max = idle_seconds_max
        self._family = family
        self._queues = queues
        self._turn = 0
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._due_at: Micros | None = None
        self._must_look = True
        self._is_draining = False
        self._suspects_wait = False
        self._makes_room_until = 0.0
        self._may_have_stranded = False
        self._later_looks: list[float] = []
        self._is_claiming_alone = False
        self._waking_count = 0
        self._has_moved = False
        self._unsure: set[RunKey] = set()

    @property
    def can_begin(self) -> bool:
        """Whether there is room for another run now."""
        return not self._is_draining and self._lease.is_trusted and self._capacity() > 0

    def nudge(self, due_at: Micros | None = None) -> None:
        """Something changed that concerns runs: look now, or at that instant."""
        if due_at is None:
            self._must_look = True
            self._wake.set()
        elif self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._wake.set()

    def drain(self) -> None:
        """Claim nothing more."""
        self._is_draining = True
        self.nudge()

    def moved(self) -> None:
        """The store was failed over, and may not have all that we were told it has.

        Then a run that we are done with is still ours there, and one that we drive will find its next entry fenced.
        """
        logger.warning("the store %s was failed over; looking for runs whose newest entries are gone", self._store.url)
        self._unsure = set(self._host.active)
        self._doubt()

    def _doubt(self) -> None:
        self._has_moved = self._may_have_stranded = True
        self.nudge()

    def left(self, driver: Driver, wake_at: Micros | None) -> None:
        """A driver is done with its run, which may make room for another."""
        if driver.facts.run_key in self._unsure:
            self._unsure.discard(driver.facts.run_key)
            self._doubt()
        was_suspect = driver is self.suspect
        if was_suspect:
            self.suspect = None
        if driver.facts.queue:
            self.nudge()  # There is room in its queue, and the store does not tell us what we did ourselves.
        elif wake_at is not None:
            self.nudge(wake_at)
        elif was_suspect or driver.has_parent or self._suspects_wait or self._was_full:
            self.nudge()

    def clear_suspect(self) -> None:
        """The suspect made progress, so it is none."""
        self.suspect = None
        self.nudge()

    # --- a message --------------------------------------------------------------------------------------------------------

    async def post(self, run_id: str, message: Message) -> tuple[RunRecord | None, bool]:
        """Put a message into a run's inbox; and if the run is parked and there is room for it, go on with it here.

        Message and claim are one commit then, so that a wake-up costs two: this one and the entry. The claim is one like any
        other, with its entry and its epoch: what the worker dies of is counted, and whoever had the run before is fenced.

        Returns:
            The run, as ``Store.post`` does; and whether it is driven here.

        Raises:
            StoreUnavailable: As ``Store.post`` does.
        """
        if not self._may_wake(run_id):
            return await self._store.post(run_id, message), False
        self._waking_count += 1
        try:
            return await self._wake_and_drive(run_id, message)
        finally:
            self._waking_count -= 1
            # Messages that came before its driver was there were pulled for nobody. If the run is parked again there are none.
            if self._may_have_stranded or self._was_full or self._host.is_driven(run_id):
                self.nudge()

    async def _wake_and_drive(self, run_id: str, message: Message) -> tuple[RunRecord | None, bool]:
        worker_key = self._host.worker_key
        try:
            woken = await self._store.wake(run_id, message, self._request(1))
        except BaseException:
            self._expect_stranded()
            raise
        if woken.claimed is not None:
            await self._drive_woken(woken.claimed, worker_key)
        return woken.run, woken.claimed is not None

    async def _drive_woken(self, claimed: Claimed, worker_key: WorkerKey) -> None:
        """The message is stored: whatever fails now is no fault of its sender's."""
        try:
            await self._drive([claimed], worker_key)
        except BaseException as error:
            self._expect_stranded()
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, StoreUnavailable):
                logger.exception("run %s was claimed and could not be begun; it is given back", claimed.run.run_id)

    def _may_wake(self, run_id: str) -> bool:
        """Whether a run that is parked, as far as is known here, may be claimed with the message to it.

        Not while stranded runs are looked for: one that was just claimed would be taken for one of them. Not beside a claim
        that may bring a suspect: that is to be alone.
        """
        is_quiet = not (self._may_have_stranded or self._is_claiming_alone or self._host.is_starting_over)
        return is_quiet and self.can_begin and not self._host.is_driven(run_id)

    # --- claims -----------------------------------------------------------------------------------------------------------

    async def claim_for_ever(self) -> None:
        """Until told to drain."""
        while not self._is_draining:
            if self._host.is_starting_over:
                await self._back_off()  # Without a token nothing can be claimed, and nothing given back in the old one's name.
                continue
            try:
                await self._give_back_stranded()
                found = await self._claim()
                self._host.committer.note_back("claim")
                await self._pull()
                if not found:
                    await self._sleep()
                else:
                    await asyncio.sleep(0)
            except StoreUnavailable as error:
                self._expect_stranded()
                self._host.committer.note_away("claim", error)
                await self._back_off()
            except Exception:
                self._expect_stranded()
                logger.exception("worker %s could not claim runs; it will try again", self._host.name)
                await self._back_off()

    # --- a claim ----------------------------------------------------------------------------------------------------------

    def _capacity(self) -> int:
        if self._host.tools.threads.is_exhausted or self.suspect is not None:
            return 0
        if self._suspects_wait and self._count and self._loop.time() < self._makes_room_until:
            # A suspect needs a worker of its own: finish what there is first. But not for ever: what there is may take days,
            # and another worker may have taken the suspect meanwhile.
            return 0
        return self._run_max - self._count

    @property
    def _count(self) -> int:
        """Runs that are driven here, or about to be."""
        return len(self._host.active) + self._waking_count

    @property
    def _was_full(self) -> bool:
        """There was no room before one run less was driven here."""
        return self._count + 1 >= self._run_max

    async def _claim(self) -> bool:
        """Take what is due; whether there may be more."""
        room = min(self._capacity(), CLAIM_MAX)
        self._must_look = False
        self._due_at = None
        if room <= 0 or not self._lease.is_trusted:
            return False
        request = self._request(room)
        self._is_claiming_alone = request.alone
        try:
            return await self._take(request)
        finally:
            self._is_claiming_alone = False

    async def _take(self, request: ClaimRequest) -> bool:
        host, worker_key = self._host, request.worker_key
        claims = await self._store.claim(request)
        self._suspects_wait = claims.suspects_wait
        self._makes_room_until = self._loop.time() + self._lease_seconds
        # What was not due by the store's own clock, but is by ours: ours is ahead. Asking again at once would be spinning.
        earliest = 0 if claims.runs else self._store.now() + CLOCK_MICROS
        for due_at in (claims.next_due_at, claims.next_expiry_at):
            if due_at is not None:
                self.nudge(max(due_at, earliest))
        for run_id in claims.died:
            logger.error("run %s is dead: its workers kept dying. See: everstep show %s", run_id, run_id)
            host.watchers.tell(run_id)
        await self._drive(claims.runs, worker_key)
        return len(claims.runs) >= request.run_max

    def _request(self, room: int) -> ClaimRequest:
        self._turn += 1  # Each time another queue comes first.
        fingerprint = self._host.payloads.fingerprint
        return ClaimRequest(
            worker_key=self._host.worker_key,
            workflows=self._registry.fingerprints(fingerprint),
            versions=self._registry.versions(fingerprint),
            run_max=room,
            alone=not self._count,
            family=self._family,
            queues=self._queues,
            turn=self._turn,
        )

    async def _drive(self, runs: Sequence[Claimed], worker_key: WorkerKey) -> None:
        """Go on with what was claimed under this token.

        Not if the lease is lost meanwhile, for then it belongs to somebody else; nor if the worker is about to leave, for that
        gives it back.
        """
        for claimed in runs:
            await self._host.turn.wait()
            shared = await self._shared_by(claimed)
            if self._is_draining or self._host.worker_key != worker_key:
                return
            self._host.drive(claimed, shared)

    async def _shared_by(self, claimed: Claimed) -> Shared:
        """What the run that this one forks had finished."""
        try:
            return await shared_history(self._store, claimed.run, self._host.payloads.keeper)
        except (CorruptJournal, PayloadKeyMissing) as error:
            return error

    # --- what a claim left behind -----------------------------------------------------------------------------------------

    async def _give_back_stranded(self) -> None:
        if self._later_looks and self._loop.time() >= self._later_looks[0]:
            self._may_have_stranded = True
            self._later_looks.pop(0)
        if not self._may_have_stranded or self._waking_count:
            return
        token = self._host.worker_key
        stranded = await self._stranded(token)
        if token != self._host.worker_key or self._host.is_starting_over:
            return
        if any(map(self._host.has_dropped, stranded)) or (stranded and self._has_moved):
            # They have been driven under this token: given back as they stand, a step that had begun would look as if it had
            # not. Whoever finds them with a token that is gone counts the attempt.
            self._has_moved = False
            await self._host.start_over()
            return
        for run in stranded:
            if run.run_key not in self._host.active:
                self._host.committer.submit(given_back(run, token), lambda _: self.nudge())
        self._may_have_stranded = self._has_moved = False

    def _expect_stranded(self) -> None:
        """A claim failed: it may have had its effect, or may yet have it."""
        self._may_have_stranded = True
        self._later_looks = [self._loop.time() + seconds for seconds in STRANDED_SECONDS]

    async def _stranded(self, token: WorkerKey) -> list[RunRecord]:
        """The runs of this token that nobody drives."""
        before: RunKey | None = None
        stranded: list[RunRecord] = []
        while page := await self._store.list(RunFilter(statuses=OWNED, before=before, limit=LIST_MAX)):
            stranded += [run for run in page if run.worker_key == token and run.run_key not in self._host.active]
            before = page[-1].run_key
        return stranded

    # --- waiting ----------------------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Messages for runs that are driven here."""
        active = self._host.active
        if active:
            pulled: list[tuple[RunKey, list[Message]]] = await self._store.pull(self._host.worker_key)
            for run_key, messages in pulled:
                driver = active.get(run_key)
                if driver is not None:
                    driver.receive(messages)

    async def _sleep(self) -> None:
        """Until a run is due, this process knows of something, or others changed the store."""
        until = min([self._loop.time() + self._idle_seconds_max, *self._later_looks[:1]])
        while not self._must_look and (seconds := min(until - self._loop.time(), self._seconds_until_due())) > 0:
            self._wake.clear()
            changed = asyncio.ensure_future(self._store.wait_for_work(self._host.worker_key, seconds))
            woken = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait([changed, woken], return_when=asyncio.FIRST_COMPLETED)
                if changed.done() and changed.result():
                    self._host.watchers.tell_all()
                    return
            finally:
                changed.cancel()
                woken.cancel()

    def _seconds_until_due(self) -> float:
        return float("inf") if self._due_at is None else (self._due_at - self._store.now()) / 1e6

    async def _back_off(self) -> None:
        await asyncio.sleep(BACKOFF_SECONDS * (0.5 + self._host.tools.random.random()))


def given_back(run: RunRecord, worker_key: WorkerKey) -> Keep:
    """A run as it stands, for anybody at once. Pure."""
    return Keep(
        run_key=run.run_key,
        worker_key=worker_key,
        epoch=run.epoch,
        release=True,
        status=Status.COMPENSATING if run.status is Status.COMPENSATING else Status.QUEUED,
        wake_at=AT_ONCE,
    )
