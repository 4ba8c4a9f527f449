"""
Keep the lease on what this worker drives.

This module never decides whether a run may be written: the store does, by epoch. The clock here serves only to stop early.
Trust in a lease ends before the store would give it away, counting from when the renewal was *sent*, so a slow answer cannot
lengthen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from everstep.errors import StoreUnavailable
from everstep.records import Pulse, WorkerKey
from everstep.stores.base import Store

RENEWALS_PER_LEASE = 3
"""A third leaves two renewals before expiry, so one may be lost. At a half the second would land exactly at expiry."""
TRUSTED_FRACTION = 0.8
"""Stop before the lease ends: what is running needs a moment to be cancelled."""

ASKED_FRACTION = 0.1
"""How long to wait for an answer once trust has ended: half of what is left of the lease."""


class LeaseKeeper:
    """Renews one worker's lease, and says when it may no longer be trusted."""

    def __init__(
        self,
        store: Store,
        lease_seconds: float,
        *,
        before_renewal: Callable[[], None],
        on_lost: Callable[[], Awaitable[None]],
        on_drain: Callable[[], None],
        on_moved: Callable[[], None],
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._before_renewal = before_renewal
        self._on_lost = on_lost
        self._on_drain = on_drain
        self._on_moved = on_moved
        self._sent_at = float("-inf")

    @property
    def is_trusted(self) -> bool:
        """Whether the lease certainly still holds."""
        return self._trusted_seconds > 0

    @property
    def _trusted_seconds(self) -> float:
        return self._sent_at + self._lease_seconds * TRUSTED_FRACTION - asyncio.get_running_loop().time()

    def begin(self, sent_at: float) -> None:
        """A new token was enlisted; the request for it was sent at this instant of the loop's clock."""
        self._sent_at = sent_at

    async def keep(self, worker_key: Callable[[], WorkerKey]) -> None:
        """Renew for ever."""
        while True:
            # After renewals that failed the next look is when trust ends: a third of a lease later would be too late.
            await asyncio.sleep(max(0.0, min(self._lease_seconds / RENEWALS_PER_LEASE, self._trusted_seconds)))
            self._before_renewal()
            if not await self._renew(worker_key()):
                await self._on_lost()

    async def _renew(self, worker_key: WorkerKey) -> bool:
        """False once the lease is lost, or can no longer be trusted to be ours."""
        sent_at = asyncio.get_running_loop().time()
        try:
            # An answer that does not come is as bad as a refusal: what is running must stop before the lease ends. A process
            # that was frozen asks nevertheless, briefly: perhaps nobody has noticed.
            async with asyncio.timeout(max(self._trusted_seconds, self._lease_seconds * ASKED_FRACTION)):
                pulse = await self._store.heartbeat(worker_key)
        except (StoreUnavailable, TimeoutError):
            return self.is_trusted
        self._sent_at = sent_at if pulse else float("-inf")
        if pulse is Pulse.DRAINING:
            self._on_drain()
        if pulse is Pulse.MOVED:
            self._on_moved()
        return pulse is not Pulse.GONE
